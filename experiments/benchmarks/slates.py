"""Slates by a DPP, and the flow pool, beside other ways to select them."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import math
import pathlib
import time
from typing import Any
from typing import NamedTuple

import numpy as np

from experiments.benchmarks import slates_methods as methods_lib
from experiments.benchmarks import slates_problems as problems
from experiments.benchmarks import timing as timing_lib

# Requests, candidates of each, picks.
SIZES: tuple[tuple[int, int, int], ...] = (
    (1, 500, 10), (1, 1000, 50), (1, 10_000, 50), (1, 100_000, 50),
    (256, 500, 20))
# Categories, candidates of all, picks of all.
FLOW = (16, 7731, 256)
# glibc's malloc raises its threshold for returning memory to the system when
# an array of this size is freed; it ignores arrays of 32 MiB or more.
_LEARNED_BYTES = 31 * 2**20

Sizes = Sequence[tuple[int, int, int]]
Seconds = dict[tuple[str, str], float]  # by method and task
_READING = "reading"


def parse_size(text: str) -> tuple[int, int, int]:
  """Reads requests x candidates of each x picks."""
  expected = ("requests x candidates of each x picks, of which at most "
              f"{problems.NUM_FEATURES}, as in 256x500x20")
  requests, candidates, picks = timing_lib.parse_counts(text, 3, expected)
  # Beyond the dimensions of the features rounding would decide the picks.
  if (picks > min(candidates, problems.NUM_FEATURES)
      or requests * candidates * problems.NUM_FEATURES > timing_lib.MAX_ITEMS):
    raise timing_lib.size_error(text, expected)
  return requests, candidates, picks


def run(
    sizes: Sizes | None = None, *, repeats: int, seed: int,
    workdir: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Times every method that runs here, and compares it with float64.

  On a CPU each has one core, in its own process: threads distort the ratios.
  """
  del workdir
  flow = None if sizes else FLOW
  sizes = sizes or SIZES
  return timing_lib.on_one_core(
      "experiments.benchmarks.slates", "run_here", sizes, flow,
      repeats=repeats, seed=seed)


def run_here(
    sizes: Sizes, flow: tuple[int, int, int] | None = None, *, repeats: int,
    seed: int, forms: timing_lib.Forms | None = None,
    turns: int = 20, calls: int = 100,  # of one request, timed one by one
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
          named(size) + ", shared pool" * (pool == "shared"),
          {**shape, "pool": pool}, math.prod(size),
          functools.partial(problems.make_problem, *size, seed,
                            shared=pool == "shared")))
  if flow:
    categories, candidates, picks = flow
    tasks.append(_Task(
        f"flow pool, {named(flow)}",
        {"categories": categories, "candidates": candidates, "picks": picks,
         "pool": "flow"}, candidates * picks // categories,
        functools.partial(problems.make_flow_problem, *flow, seed)))
  return tasks


def time_methods(
    problem: problems.AnyProblem, methods: dict[str, methods_lib.Prepare],
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
  return [{
      "method": name, "size": list(size), "calls": len(taken),
      "p50_seconds": np.quantile(taken, 0.5),
      "p99_seconds": np.quantile(taken, 0.99), "longest_seconds": max(taken)}
          for name, taken in seconds.items()]


def tables(content: dict[str, Any]) -> list[timing_lib.Table]:
  """What was measured as tables; the first is the summary."""
  measured = content["measurements"]
  tasks = list(dict.fromkeys(m["task"] for m in measured))
  header = ["", *tasks]
  floors = {m["method"] for m in measured if "same_slots" not in m}
  ordered = sorted(measured, key=lambda m: (
      m["method"] in floors, not m["method"].startswith("harmonrank")))
  rows = lambda cell, key="median_seconds": timing_lib.rows(
      ordered, tasks, lambda m: m["task"], cell, key)
  note = ("Requests x candidates of each x picks of each (flow pool: "
          "categories x candidates x picks of all), in milliseconds, median of "
          "the samples; in brackets the share of slots with the item that "
          f"float64 selects. {verdict(content)}")
  return [
      timing_lib.Table(
          f"Slates, on {_processors(content)}", header, rows(_time), note),
      *([_latency_table(content["latencies"])] if content["latencies"] else []),
      timing_lib.Table(
          "Slates, milliseconds with quartiles", header,
          rows(lambda m: f"{_time(m)} {timing_lib.quartiles(m)}")),
      timing_lib.Table(
          "How many times as fast; how many times as long as reading",
          header, _ratio_rows(measured, tasks)),
      timing_lib.Table(
          "Slates that are wholly those of float64", header,
          rows(lambda m: _share(m["same_slates"]), "same_slates")),
      timing_lib.Table(
          "Seconds to compile", header,
          rows(lambda m: timing_lib.number(m["compile_seconds"]),
               "compile_seconds"))]


def named(size: Sequence[int]) -> str:
  return " x ".join(f"{count:,}" for count in size)


def _processors(content: dict[str, Any]) -> str:
  cores = "one core" if content["cores"] == 1 else f"{content['cores']} cores"
  if content["machine"]["backend"] == "cpu":
    return f"{cores} of the CPU"
  return f"{content['machine']['device']} and {cores} of the CPU"


def _latency_table(measured: Sequence[dict[str, Any]]) -> timing_lib.Table:
  """The calls of one request."""
  return timing_lib.Table(
      f"One request after the other, {named(measured[0]['size'])}, "
      "milliseconds of a call", ["", "p50", "p99", "longest", "calls"],
      [[m["method"], *(timing_lib.number(1e3 * m[f"{key}_seconds"])
                       for key in ("p50", "p99", "longest")),
        f"{m['calls']:,}"] for m in measured])


def _time(m: Mapping[str, Any]) -> str:
  """Milliseconds, and the share of right picks where there are picks."""
  text = timing_lib.milliseconds(m)
  return f"{text} ({_share(m['same_slots'])})" if "same_slots" in m else text


def _share(value: float) -> str:
  """A share in percent, rounded down: only all is 100 %."""
  return f"{math.floor(1e4 * value) / 100:g} %"


def _ratio_rows(
    measured: Sequence[dict[str, Any]], tasks: Sequence[str]
) -> list[list[str]]:
  """Times of others as shares of ours, and ours as a share of reading."""
  seconds = _seconds(measured)
  result = []
  for form in timing_lib.forms_among(measured):
    for rival in (*methods_lib.PEERS, methods_lib.padded_name(form)):
      ratios = _ratios(seconds, rival, form, tasks)
      if any(ratios):
        result.append([f"{form}: {rival}", *map(_times, ratios)])
    result.append([f"{form}: reading", *map(
        _times, _ratios(seconds, form, _READING, tasks))])
  return result


def _seconds(measured: Sequence[dict[str, Any]]) -> Seconds:
  """The medians; `_READING` is the faster way to read."""
  result = {(m["method"], m["task"]): m["median_seconds"] for m in measured}
  for m in measured:
    if "same_slots" not in m:
      at = _READING, m["task"]
      result[at] = min(m["median_seconds"], result.get(at, math.inf))
  return result


def _ratios(
    seconds: Seconds, slow: str, fast: str, tasks: Iterable[str]
) -> list[float | None]:
  """At each task, where both were measured."""
  return [seconds[slow, task] / seconds[fast, task]
          if (slow, task) in seconds and (fast, task) in seconds else None
          for task in tasks]


def _times(ratio: float | None) -> str:
  return "-" if ratio is None else f"{timing_lib.number(ratio)}x"


def verdict(content: dict[str, Any]) -> str:
  """This library's speed beside its peers and mere reading, in words."""
  measured = content["measurements"]
  seconds = _seconds(measured)
  slates = dict.fromkeys(m["task"] for m in measured if m["pool"] != "flow")
  flows = dict.fromkeys(m["task"] for m in measured if m["pool"] == "flow")
  forms = timing_lib.forms_among(measured)
  lines = []
  for form in forms:
    for rivals, tasks, what in (
        (methods_lib.PEERS, slates, "slates"),
        ((methods_lib.padded_name(form), methods_lib.PYVERSITY), flows,
         "the flow pool")):
      said = [_range(_ratios(seconds, rival, form, tasks),
                     f"times as fast as {rival}") for rival in rivals]
      said.append(_range(_ratios(seconds, form, _READING, tasks),
                         "times as long as reading all for each pick"))
      if any(said):
        lines.append(f"{form}, {what}: {', '.join(filter(None, said))}.")
  lines += [f"{m['method']}, one request of {named(m['size'])}: p99 "
            f"{timing_lib.number(1e3 * m['p99_seconds'])} ms."
            for m in content["latencies"] if m["method"] in forms]
  wrong = sorted({m["method"] for m in measured if m.get("same_slots", 1) < 1
                  and m["method"].startswith("harmonrank")})
  if wrong:
    lines.append(
        f"Not all picks of {', '.join(wrong)} are those of float64: a defect, "
        "or a tie.")
  return " ".join(lines)


def _range(ratios: Sequence[float | None], text: str) -> str:
  """The least and the largest ratio, in words; empty if none is known."""
  known = [ratio for ratio in ratios if ratio is not None]
  if not known:
    return ""
  low, high = timing_lib.number(min(known)), timing_lib.number(max(known))
  return f"{low} {text}" if low == high else f"{low} to {high} {text}"
