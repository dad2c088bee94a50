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
from experiments.benchmarks import timing as benchmarking
from experiments.runs import workdir as workdir_lib

# Requests, candidates of each, picks.
SIZES: tuple[tuple[int, int, int], ...] = (
    (1, 500, 10), (1, 1000, 50), (1, 10_000, 50), (1, 100_000, 50),
    (256, 500, 20))
# Categories, candidates of all, picks of all.
FLOW = (16, 7731, 256)
# Of a request that is answered alone: calls in a turn, and turns.
_CALLS, _TURNS = 100, 20

# Of an array that malloc learns from when it is freed: that arrays of this size
# come and go. It learns nothing from 32 MiB or more.
_LEARNED_BYTES = 31 * 2**20

Sizes = Sequence[tuple[int, int, int]]


def run(
    sizes: Sizes, flow: tuple[int, int, int] | None, repeats: int, seed: int
) -> dict[str, Any]:
  """Times every method that there is here, and compares it with float64.

  On a CPU all of them run on one core, in a process of its own: threads alone
  move the ratios by two, and pools of threads are made when libraries load.

  Args:
    sizes: requests, candidates and picks; the pool of several requests is
      shared as well.
    flow: categories, candidates and picks of a flow pool; None for none.
    repeats: samples of each time.
    seed: of candidates and of the order of samples.

  Returns:
    What goes into `benchmark.json`: `measurements`, `latencies`, `left_out` in
    words, and `cores`, how many were used of the CPU.
  """
  if (jax.default_backend() != "cpu" or benchmarking.num_cores() == 1
      or not hasattr(os, "sched_setaffinity")):
    return run_here(sizes, flow, repeats, seed)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "found.json"
    # The last core: the first ones serve the interrupts. Whoever interrupts
    # this process is told so by its parent.
    code = ("import os, signal; "
            "signal.signal(signal.SIGINT, signal.SIG_DFL); "
            "os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}); "
            "from experiments.benchmarks import slates as b; "
            f"b.write({str(path)!r}, {sizes!r}, {flow!r}, {repeats}, {seed})")
    subprocess.run(
        [sys.executable, "-c", code], check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu",
             "PYTHONPATH": os.pathsep.join(sys.path)})
    return json.loads(path.read_text())


def write(path: str, *args: Any) -> None:
  """Writes what `run_here` returns."""
  workdir_lib.write_json(pathlib.Path(path), run_here(*args))


def run_here(
    sizes: Sizes, flow: tuple[int, int, int] | None, repeats: int, seed: int
) -> dict[str, Any]:
  """`run`, in this process on the cores that it may use."""
  methods, left_out = methods_lib.find_methods()
  clock = benchmarking.Clock(repeats, seed)
  # As in a server that has run for a while: made and freed. At first malloc
  # hands every array back to the system, and NumPy's calls take up to four
  # times as long, for faulting them in again.
  np.empty(_LEARNED_BYTES, np.int8)
  tasks = _tasks(sizes, flow, seed)
  found = {}
  # The cheapest first: who took long is not asked for more.
  for task in sorted(tasks, key=lambda task: task.cost):
    began = time.perf_counter()
    found[task.name] = measure(task.make(), methods, clock)
    print(f"{task.name}: {len(found[task.name])} methods, "
          f"{time.perf_counter() - began:.1f} s", flush=True)
  alone = [size for size in sizes if size[0] == 1]
  return {
      "measurements": [{"task": task.name, **task.shape, **each}
                       for task in tasks for each in found[task.name]],
      "latencies": latencies(min(alone), seed, methods) if alone else [],
      "left_out": left_out, "cores": benchmarking.num_cores()}


class _Task(NamedTuple):
  """What is measured.

  Attributes:
    name: of its column.
    shape: what the name says, for programs.
    cost: products of features, about.
    make: makes the problem.
  """

  name: str
  shape: dict[str, Any]
  cost: int
  make: Callable[[], methods_lib.AnyProblem]


def _tasks(
    sizes: Sizes, flow: tuple[int, int, int] | None, seed: int
) -> list[_Task]:
  tasks = []
  for size in sizes:
    for pool in ("own", "shared") if size[0] > 1 else ("own",):
      shape = dict(zip(("requests", "candidates", "picks"), size, strict=True))
      tasks.append(_Task(
          _named(size) + (", shared pool" if pool == "shared" else ""),
          {**shape, "pool": pool}, math.prod(size),
          functools.partial(methods_lib.make_problem, *size, seed,
                            shared=pool == "shared")))
  if flow:
    categories, candidates, picks = flow
    tasks.append(_Task(
        f"flow pool, {_named(flow)}",
        {"categories": categories, "candidates": candidates, "picks": picks,
         "pool": "flow"}, candidates * picks // categories,
        functools.partial(methods_lib.make_flow_problem, *flow, seed)))
  return tasks


def _named(size: Sequence[int]) -> str:
  return " x ".join(f"{count:,}" for count in size)


def measure(
    problem: methods_lib.AnyProblem,
    methods: dict[str, methods_lib.Prepare],
    clock: benchmarking.Clock,
) -> list[dict[str, Any]]:
  """Measurements of one task, a dict for each method."""
  requests = methods_lib.requests_of(problem)
  cost = sum(len(request.items) * request.num_selected for request in requests)
  ready = {}
  for name, prepare in methods.items():
    if clock.is_worth_it(name, cost) and (method := prepare(problem)):
      ready[name] = method
  timings = clock.interleaved(
      {name: method.call for name, method in ready.items()}, cost)
  expected = [methods_lib.reference(request) for request in requests]
  result = []
  for name, timing in timings.items():
    more = {}
    if (picks := ready[name].picks):
      more = _agreement(picks(ready[name].call()), expected)
    if ready[name].compile_seconds:
      more["compile_seconds"] = ready[name].compile_seconds
    result.append({"method": name, **timing.to_json(), **more})
  return result


def _agreement(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> dict[str, float]:
  """Shares of slots that hold the same item, and of slates that are the same.
  """
  same = [x == y for x, y in zip(found, expected, strict=True)]
  return {"same_slots": float(np.mean(np.concatenate(same))),
          "same_slates": float(np.mean([np.all(slots) for slots in same]))}


def latencies(
    size: tuple[int, int, int], seed: int,
    methods: dict[str, methods_lib.Prepare],
) -> list[dict[str, Any]]:
  """How long one request waits, from arrays on the host to indices there."""
  problem = methods_lib.make_problem(*size, seed)
  ready = {name: methods_lib.harmonrank(problem, trace=trace, on_host=True)
           for name, trace in benchmarking.forms().items()}
  for name in methods_lib.PEERS:
    if name in methods and (method := methods[name](problem)):
      ready[name] = method
  names, rng = list(ready), np.random.default_rng(seed)
  seconds: dict[str, list[float]] = {name: [] for name in names}
  for turn in range(-1, _TURNS):
    for k in rng.permutation(len(names)):
      taken = [_seconds(ready[names[k]].call) for _ in range(_CALLS)]
      if turn >= 0:  # The first one warms up.
        seconds[names[k]] += taken
  result = []
  for name in names:
    half, most = np.quantile(seconds[name], (0.5, 0.99))
    result.append({
        "method": name, "size": list(size), "calls": len(seconds[name]),
        "p50_seconds": half, "p99_seconds": most,
        "longest_seconds": max(seconds[name])})
  return result


def _seconds(call: Callable[[], Any]) -> float:
  began = time.perf_counter()
  call()
  return time.perf_counter() - began


def tables(content: dict[str, Any]) -> list[benchmarking.Table]:
  """What was measured as tables, the one to look at first."""
  measured = content["measurements"]
  found = {(m["method"], m["task"]): m for m in measured}
  tasks = list(dict.fromkeys(m["task"] for m in measured))
  header = ["", *tasks]
  reading = {m["method"] for m in measured if "same_slots" not in m}
  methods = list(dict.fromkeys(m["method"] for m in measured))
  methods.sort(key=lambda method: (
      method in reading, not method.startswith("harmonrank")))

  def rows(cell, key="median_seconds"):
    """A row for each method of which there is that key."""
    result = []
    for method in methods:
      cells = [found.get((method, task), {}) for task in tasks]
      if any(key in m for m in cells):
        result.append([method, *(cell(m) if key in m else "-" for m in cells)])
    return result

  def short(m):
    time = benchmarking.number(1e3 * m["median_seconds"])
    return f"{time} ({_share(m['same_slots'])})" if "same_slots" in m else time

  def long(m):
    low, high = (benchmarking.number(1e3 * x) for x in m["quartiles_seconds"])
    return f"{short(m)} [{low}, {high}]"

  cores = "one core" if content["cores"] == 1 else f"{content['cores']} cores"
  on = f"{cores} of the CPU"
  if content["machine"]["backend"] != "cpu":
    on = f"{content['machine']['device']} and {on}"
  note = ("Requests x candidates of each x picks of each (flow pool: "
          "categories x candidates x picks of all), in milliseconds, median of "
          "the samples; in brackets the share of slots with the item that "
          f"float64 selects. {verdict(content)}")
  result = [
      benchmarking.Table(f"Slates, on {on}", header, rows(short), note),
      benchmarking.Table(
          "Slates, milliseconds with quartiles", header, rows(long)),
      benchmarking.Table(
          "How many times as fast; how many times as long as reading",
          header, _ratios(found, tasks)),
      benchmarking.Table(
          "Slates that are wholly those of float64", header,
          rows(lambda m: _share(m["same_slates"]), "same_slates")),
      benchmarking.Table(
          "Seconds to compile", header,
          rows(lambda m: benchmarking.number(m["compile_seconds"]),
               "compile_seconds"))]
  if content["latencies"]:
    size = _named(content["latencies"][0]["size"])
    result.insert(1, benchmarking.Table(
        f"One request after the other, {size}, milliseconds of a call",
        ["", "p50", "p99", "longest", "calls"],
        [[m["method"], *(benchmarking.number(1e3 * m[f"{key}_seconds"])
                         for key in ("p50", "p99", "longest")),
          f"{m['calls']:,}"] for m in content["latencies"]]))
  return result


def _share(value: float) -> str:
  """Percents; all of them is said of nothing less."""
  return f"{math.floor(1e4 * value) / 100:g} %"


def _ratios(
    found: dict[tuple[str, str], dict[str, Any]], tasks: Sequence[str]
) -> list[list[str]]:
  """Times of others as shares of ours, and ours as one of reading."""
  result = []
  for form in benchmarking.forms():
    for rival in (*methods_lib.PEERS, methods_lib.padded_name(form)):
      ratios = [_ratio(found, rival, form, task) for task in tasks]
      if any(ratios):
        result.append([f"{form}: {rival}", *map(_times, ratios)])
    result.append([f"{form}: reading", *(
        _times(_of_reading(found, form, task)) for task in tasks)])
  return result


def _ratio(found, slow: str, fast: str, task: str) -> float | None:
  if (slow, task) not in found or (fast, task) not in found:
    return None
  return (found[slow, task]["median_seconds"]
          / found[fast, task]["median_seconds"])


def _of_reading(found, method: str, task: str) -> float | None:
  shares = [_ratio(found, method, name, task) for name, at in found
            if at == task and "same_slots" not in found[name, at]]
  return max((share for share in shares if share), default=None)


def _times(ratio: float | None) -> str:
  return "-" if ratio is None else f"{benchmarking.number(ratio)}x"


def verdict(content: dict[str, Any]) -> str:
  """This library's speed beside its peers and mere reading, in words."""
  measured = content["measurements"]
  found = {(m["method"], m["task"]): m for m in measured}
  slates = dict.fromkeys(m["task"] for m in measured if m["pool"] != "flow")
  flows = dict.fromkeys(m["task"] for m in measured if m["pool"] == "flow")
  forms = benchmarking.forms()
  lines = []
  for form in forms:
    for rivals, tasks, what in (
        (methods_lib.PEERS, slates, "slates"),
        ((methods_lib.padded_name(form), methods_lib.PYVERSITY), flows,
         "the flow pool")):
      said = [_range([_ratio(found, rival, form, task) for task in tasks],
                     f"times as fast as {rival}") for rival in rivals]
      said.append(_range([_of_reading(found, form, task) for task in tasks],
                         "times as long as reading all for each pick"))
      if any(said):
        lines.append(f"{form}, {what}: {', '.join(filter(None, said))}.")
  lines += [f"{m['method']}, one request of {_named(m['size'])}: p99 "
            f"{benchmarking.number(1e3 * m['p99_seconds'])} ms."
            for m in content["latencies"] if m["method"] in forms]
  wrong = sorted({m["method"] for m in measured if m.get("same_slots", 1) < 1
                  and m["method"].startswith("harmonrank")})
  if wrong:
    lines.append(
        f"Not all picks of {', '.join(wrong)} are those of float64: a defect, "
        "or a tie.")
  return " ".join(lines)


def _range(ratios: Sequence[float | None], text: str) -> str:
  known = [ratio for ratio in ratios if ratio is not None]
  if not known:
    return ""
  low, high = benchmarking.number(min(known)), benchmarking.number(max(known))
  return f"{low} {text}" if low == high else f"{low} to {high} {text}"
