"""Slates by a DPP, and the flow pool, beside other ways to select them."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmarks import slates_methods as methods_lib
from experiments.benchmarks import slates_problems as problems
from experiments.benchmarks import slates_tables
from experiments.benchmarks import suite
from experiments.benchmarks import timing as timing_lib
from experiments.runs import workdir as workdir_lib

# Requests, candidates of each, picks.
SIZES: tuple[tuple[int, int, int], ...] = (
    (1, 500, 10), (1, 1000, 50), (1, 10_000, 50), (1, 100_000, 50),
    (256, 500, 20))
# Categories, candidates of all, picks of all.
FLOW = (16, 7731, 256)
# Calls of one request that are timed one by one: turns, and calls in a turn.
_TURNS, _CALLS = 20, 100

# glibc's malloc raises its threshold for returning memory to the system when
# an array of this size is freed; it ignores arrays of 32 MiB or more.
_LEARNED_BYTES = 31 * 2**20

Sizes = Sequence[tuple[int, int, int]]

tables = slates_tables.tables


def parse_size(text: str) -> tuple[int, int, int]:
  """Reads requests x candidates of each x picks."""
  expected = ("requests x candidates of each x picks, of which at most "
              f"{problems.NUM_FEATURES}, as in 256x500x20")
  requests, candidates, picks = suite.parse_counts(text, 3, expected)
  # Beyond the dimensions of the features rounding would decide the picks.
  if (picks > min(candidates, problems.NUM_FEATURES)
      or requests * candidates * problems.NUM_FEATURES > suite.MAX_ITEMS):
    raise suite.size_error(text, expected)
  return requests, candidates, picks


def run(
    sizes: Sizes | None = None, *, repeats: int, seed: int,
    workdir: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Times every method that runs here, and compares it with float64.

  On a CPU all of them run on one core, in a process of its own: with threads
  the ratios change by a factor of two, and libraries create their pools of
  threads when they are loaded.
  """
  del workdir
  flow = None if sizes else FLOW
  sizes = sizes or SIZES
  if (jax.default_backend() != "cpu" or timing_lib.num_cores() == 1
      or not hasattr(os, "sched_setaffinity")):
    return run_here(sizes, flow, repeats=repeats, seed=seed)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "result.json"
    # The last core, because the first ones serve interrupts. SIGINT ends the
    # process silently: its parent reports the interruption.
    code = ("import os, signal; "
            "signal.signal(signal.SIGINT, signal.SIG_DFL); "
            "os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}); "
            "from experiments.benchmarks import slates as b; "
            f"b.write({str(path)!r}, {sizes!r}, {flow!r}, repeats={repeats}, "
            f"seed={seed})")
    subprocess.run(
        [sys.executable, "-c", code], check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu",
             "PYTHONPATH": os.pathsep.join(sys.path)})
    return json.loads(path.read_text())


def write(path: str, *args: Any, **kwargs: Any) -> None:
  """Writes what `run_here` returns."""
  workdir_lib.write_json(pathlib.Path(path), run_here(*args, **kwargs))


def run_here(
    sizes: Sizes, flow: tuple[int, int, int] | None = None, *, repeats: int,
    seed: int, forms: timing_lib.Forms | None = None, turns: int = _TURNS,
    calls: int = _CALLS,
) -> dict[str, Any]:
  """`run` in this process; pools of several requests are shared as well."""
  forms = forms or timing_lib.forms()
  methods, left_out = methods_lib.find_methods(forms)
  clock = timing_lib.Clock(repeats, seed)
  # Makes malloc behave as in a server that has run for a while. At first it
  # returns every array to the system, and NumPy's calls take up to four times
  # as long because of page faults.
  np.empty(_LEARNED_BYTES, np.int8)
  tasks = _tasks(sizes, flow, seed)
  results = {}
  # The cheapest first: slow methods are skipped at larger sizes.
  for task in sorted(tasks, key=lambda task: task.cost):
    began = time.perf_counter()
    results[task.name] = time_methods(task.make(), methods, clock)
    print(f"{task.name}: {len(results[task.name])} methods, "
          f"{time.perf_counter() - began:.1f} s", flush=True)
  alone = [size for size in sizes if size[0] == 1]
  return {
      "measurements": [{"task": task.name, **task.shape, **each}
                       for task in tasks for each in results[task.name]],
      "latencies": latencies(
          min(alone), methods, forms, seed=seed, turns=turns, calls=calls)
                   if alone else [],
      "left_out": left_out, "cores": timing_lib.num_cores()}


class _Task(NamedTuple):
  """What is measured."""

  name: str  # title of its column
  shape: dict[str, Any]  # the sizes in the name, for programs
  cost: int  # about the number of products of features
  make: Callable[[], problems.AnyProblem]


def _tasks(
    sizes: Sizes, flow: tuple[int, int, int] | None, seed: int
) -> list[_Task]:
  tasks = []
  for size in sizes:
    for pool in ("own", "shared") if size[0] > 1 else ("own",):
      shape = dict(zip(("requests", "candidates", "picks"), size, strict=True))
      tasks.append(_Task(
          slates_tables.named(size)
          + (", shared pool" if pool == "shared" else ""),
          {**shape, "pool": pool}, math.prod(size),
          functools.partial(problems.make_problem, *size, seed,
                            shared=pool == "shared")))
  if flow:
    categories, candidates, picks = flow
    tasks.append(_Task(
        f"flow pool, {slates_tables.named(flow)}",
        {"categories": categories, "candidates": candidates, "picks": picks,
         "pool": "flow"}, candidates * picks // categories,
        functools.partial(problems.make_flow_problem, *flow, seed)))
  return tasks


def time_methods(
    problem: problems.AnyProblem,
    methods: dict[str, methods_lib.Prepare],
    clock: timing_lib.Clock,
) -> list[dict[str, Any]]:
  """Measurements of one task, a dict for each method."""
  requests = problems.requests_of(problem)
  cost = sum(len(request.items) * request.num_selected for request in requests)
  ready = {}
  for name, prepare in methods.items():
    if clock.is_worth_it(name, cost) and (method := prepare(problem)):
      ready[name] = method
  timings = clock.interleaved(
      {name: method.call for name, method in ready.items()}, cost)
  expected = [problems.reference(request) for request in requests]
  result = []
  for name, timing in timings.items():
    more = {}
    if picks := ready[name].picks:
      more = _agreement(picks(ready[name].call()), expected)
    if ready[name].compile_seconds:
      more["compile_seconds"] = ready[name].compile_seconds
    result.append({"method": name, **timing.to_json(), **more})
  return result


def _agreement(
    picks: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> dict[str, float]:
  """Shares of the slots with the expected item, and of such whole slates."""
  same = [x == y for x, y in zip(picks, expected, strict=True)]
  return {"same_slots": float(np.mean(np.concatenate(same))),
          "same_slates": float(np.mean([np.all(slots) for slots in same]))}


def latencies(
    size: tuple[int, int, int], methods: dict[str, methods_lib.Prepare],
    forms: timing_lib.Forms, *, seed: int, turns: int, calls: int,
) -> list[dict[str, Any]]:
  """The latency of one request, from arrays on the host to indices there."""
  problem = problems.make_problem(*size, seed)
  ready = {name: methods_lib.harmonrank(problem, trace=trace, on_host=True)
           for name, trace in forms.items()}
  for name in methods_lib.PEERS:
    if name in methods and (method := methods[name](problem)):
      ready[name] = method
  names, rng = list(ready), np.random.default_rng(seed)
  seconds: dict[str, list[float]] = {name: [] for name in names}
  for turn in range(-1, turns):
    for k in rng.permutation(len(names)):
      call = ready[names[k]].call
      taken = [timing_lib.seconds_of(call) for _ in range(calls)]
      if turn >= 0:  # The first turn warms up.
        seconds[names[k]] += taken
  result = []
  for name in names:
    half, most = np.quantile(seconds[name], (0.5, 0.99))
    result.append({
        "method": name, "size": list(size), "calls": len(seconds[name]),
        "p50_seconds": half, "p99_seconds": most,
        "longest_seconds": max(seconds[name])})
  return result
