"""The soft rank, forward and backward, beside other ways to compute it."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import os
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import soft_rank_methods as methods_lib
from experiments.benchmarks import timing as benchmarking

SIZES: tuple[tuple[int, int], ...] = (
    (1, 1000), (1, 10_000), (1, 100_000), (1, 1_000_000),
    (1, 10_000_000), (128, 1000), (512, 100))
FORWARD, BOTH = "forward", "forward_backward"
# From here on memory is looked at: below, it is that of the compiler.
_MANY_ITEMS = 1_000_000


def run(
    sizes: Sequence[tuple[int, int]], repeats: int, seed: int
) -> dict[str, Any]:
  """Times every method that there is here, and compares it with float64.

  Returns:
    What goes into `benchmark.json`: `measurements`, `left_out` in words, and
    `peak_memory_bytes` by method at the largest size.
  """
  methods, left_out = methods_lib.find_methods()
  clock = benchmarking.Clock(repeats, seed)
  measurements = []
  for batch, size in sorted(sizes, key=lambda size: size[0] * size[1]):
    began = time.perf_counter()
    problem = methods_lib.make_problem(batch, size, seed)
    found = measure(problem, methods, clock)
    measurements += [{"batch": batch, "n": size, **each} for each in found]
    print(f"{batch} x {size:,}: {len({each['method'] for each in found})} "
          f"methods, {time.perf_counter() - began:.1f} s", flush=True)
  batch, size = max(sizes, key=lambda size: size[0] * size[1])
  memory = {}
  if batch * size >= _MANY_ITEMS:
    memory = {name: peak_memory(name, batch, size)
              for name in benchmarking.forms()}
  return {"measurements": measurements, "left_out": left_out,
          "peak_memory_bytes": memory}


def measure(
    problem: methods_lib.Problem,
    methods: dict[str, Callable[[methods_lib.Problem], methods_lib.Method]],
    clock: benchmarking.Clock,
) -> list[dict[str, Any]]:
  """Measurements of one size, a dict for each method and kind of work."""
  num_items = problem.scores.size
  calls, ready = {}, {}
  for name, prepare in methods.items():
    if not clock.is_worth_it((name, FORWARD), num_items):
      continue
    ready[name] = prepare(problem)
    calls[name, FORWARD] = ready[name].forward
    both = ready[name].both
    if both and clock.is_worth_it((name, BOTH), num_items):
      calls[name, BOTH] = both
  timings = clock.interleaved(calls, num_items)
  ranks, gradient = methods_lib.reference(problem)
  result = []
  for (name, work), timing in timings.items():
    errors: dict[str, Any] = {}
    if ready[name].both:
      found = calls[name, work]()
      if work == FORWARD:
        found = (found,)
      errors["rank_error"] = np.max(np.abs(_on_host(found[0]) - ranks))
      if work == BOTH:
        errors["gradient_error"] = (
            np.linalg.norm(_on_host(found[1]) - gradient)
            / np.maximum(np.linalg.norm(gradient), 1e-30))
    result.append({
        "method": name, "work": work, **timing.to_json(), **errors,
        "compile_seconds": ready[name].compile_seconds})
  return result


def _on_host(array: Any) -> np.ndarray:
  """Of JAX, NumPy or PyTorch, which has a word of its own for it."""
  return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def peak_memory(name: str, batch: int, size: int) -> int:
  """Bytes that a form needs beside its inputs, forward and backward.

  On a CPU in a process of its own, the compiler included; elsewhere as the
  compiler has laid it out.
  """
  if jax.default_backend() != "cpu":
    problem = methods_lib.make_problem(batch, size, 0)
    executable, _ = benchmarking.compiled(methods_lib.with_gradient, *problem)
    analysis = executable.memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes
  code = ("from experiments.benchmarks import soft_rank as b; "
          f"print(b.resident_growth({name!r}, {batch}, {size}))")
  ran = subprocess.run(
      [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
      check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
  return int(ran.stdout)


def resident_growth(name: str, batch: int, size: int) -> int:
  """By how many bytes this process's peak grows; at its beginning only."""
  problem = methods_lib.make_problem(batch, size, 0)
  jax.block_until_ready([jnp.asarray(array) for array in problem])
  before = _peak_resident()
  both = methods_lib.jitted(
      methods_lib.soft_rank, methods_lib.with_gradient, problem,
      trace=benchmarking.forms()[name]).both
  assert both is not None
  both()
  return _peak_resident() - before


def _peak_resident() -> int:
  """Bytes of this process's memory at most so far."""
  # Linux hands the peak of resource.getrusage down to child processes.
  with contextlib.suppress(OSError), open("/proc/self/status") as file:
    for line in file:
      if line.startswith("VmHWM:"):
        return 1024 * int(line.split()[1])
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def tables(content: dict[str, Any]) -> list[benchmarking.Table]:
  """What was measured as tables, the one to look at first."""
  measurements = content["measurements"]
  found = {(m["method"], m["work"], m["batch"], m["n"]): m
           for m in measurements}
  columns = list(dict.fromkeys((m["batch"], m["n"]) for m in measurements))
  columns.sort(key=lambda size: (size[0] > 1, size))
  methods = list(dict.fromkeys(m["method"] for m in measurements))
  header = ["", *(f"{batch} x {size:,}" for batch, size in columns)]
  whole = {m["method"] for m in measurements if "rank_error" in m}

  def rows(work, cell):
    """A row for each method; floors do the same whatever the work."""
    result = []
    for method in methods:
      kind = work if method in whole else FORWARD
      cells = [found.get((method, kind, *column)) for column in columns]
      result.append([method if method in whole else f"{method} (floor)",
                     *("-" if m is None else cell(m) for m in cells)])
    return result

  def short(m):
    time = benchmarking.number(1e3 * m["median_seconds"])
    if m.get("rank_error") is None:
      return time
    return f"{time} ({benchmarking.number(m['rank_error'])})"

  def long(m):
    low, high = (benchmarking.number(1e3 * x) for x in m["quartiles_seconds"])
    return f"{short(m)} [{low}, {high}]"

  spread = np.median([
      np.diff(m["quartiles_seconds"])[0] / m["median_seconds"]
      for m in measurements])
  note = ("Milliseconds, median of the samples; in brackets the largest error "
          "of a rank. Quartiles are typically "
          f"{100 * spread:.0f} % of the median apart. {verdict(found)}").strip()
  titles = {BOTH: "Soft rank, forward and backward",
            FORWARD: "Soft rank, forward"}
  result = [benchmarking.Table(titles[BOTH], header, rows(BOTH, short), note)]
  result += [
      benchmarking.Table(f"{title}, with quartiles", header, rows(work, long))
      for work, title in titles.items()]
  for key, title in (
      ("gradient_error", "Error of the gradient, a share of its norm"),
      ("compile_seconds", "Seconds to compile, forward and both")):
    shown = rows(BOTH, lambda m, key=key: (
        benchmarking.number(m[key]) if m.get(key) else "-"))
    result.append(benchmarking.Table(
        title, header, [row for row in shown if set(row[1:]) != {"-"}]))
  if content["peak_memory_bytes"]:
    size = max(columns, key=lambda size: size[0] * size[1])
    result.append(benchmarking.Table(
        "Memory, forward and backward", ["", f"GB at {size[0]} x {size[1]:,}"],
        [[method, benchmarking.number(count / 1e9)]
         for method, count in content["peak_memory_bytes"].items()]))
  return result


def verdict(found: dict[tuple[str, str, int, int], dict[str, Any]]) -> str:
  """This library's time as a share of that of torchsort."""
  rival = {key[1:]: m["median_seconds"] for key, m in found.items()
           if key[0] == methods_lib.TORCHSORT}
  lines = []
  for method in benchmarking.forms():
    shares = [m["median_seconds"] / rival[key[1:]] for key, m in found.items()
              if key[:2] == (method, BOTH) and key[1:] in rival]
    if shares:
      lines.append(
          f"{method} takes {min(shares):.2f} to {max(shares):.2f} of the time "
          f"of {methods_lib.TORCHSORT}.")
  return " ".join(lines)
