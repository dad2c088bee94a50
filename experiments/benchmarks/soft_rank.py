"""The soft rank, forward and backward, beside other ways to compute it."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import math
import os
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import soft_rank_methods as methods_lib
from experiments.benchmarks import timing as timing_lib

SIZES: tuple[tuple[int, int], ...] = (
    (1, 1000), (1, 10_000), (1, 100_000), (1, 1_000_000),
    (1, 10_000_000), (128, 1000), (512, 100))
FORWARD, BOTH = "forward", "forward_backward"
# Memory is measured from this size on: below, the compiler needs most of it.
_MANY_ITEMS = 1_000_000


def parse_size(text: str) -> tuple[int, int]:
  """Reads lists x items of each."""
  expected = "lists x items of each, as in 128x1000"
  batch, size = timing_lib.parse_counts(text, 2, expected)
  if batch * size > timing_lib.MAX_ITEMS:
    raise timing_lib.size_error(text, expected)
  return batch, size


def run(
    sizes: Sequence[tuple[int, int]] | None = None, *, repeats: int,
    seed: int, workdir: pathlib.Path | None = None,
    forms: timing_lib.Forms | None = None,
) -> dict[str, Any]:
  """Times every method that runs here, and compares it with float64."""
  del workdir
  forms = forms or timing_lib.forms()
  methods, left_out = methods_lib.find_methods(forms)
  clock = timing_lib.Clock(repeats, seed)
  ordered = sorted(sizes or SIZES, key=lambda size: size[0] * size[1])
  measurements = []
  for batch, size in ordered:
    began = time.perf_counter()
    result = time_methods(
        methods_lib.make_lists(batch, size, seed), methods, clock)
    measurements += [{"batch": batch, "n": size, **each} for each in result]
    print(f"{batch} x {size:,}: {len({each['method'] for each in result})} "
          f"methods, {time.perf_counter() - began:.1f} s", flush=True)
  batch, size = ordered[-1]
  memory = {}
  if batch * size >= _MANY_ITEMS:
    memory = {name: peak_memory(name, batch, size) for name in forms}
  return {"measurements": measurements, "left_out": left_out,
          "peak_memory_bytes": memory}


def time_methods(
    lists: methods_lib.Lists,
    methods: dict[str, Callable[[methods_lib.Lists], methods_lib.RankMethod]],
    clock: timing_lib.Clock,
) -> list[dict[str, Any]]:
  """Measurements of one size, a dict for each method and kind of work."""
  num_items = lists.scores.size
  calls, ready = {}, {}
  for name, prepare in methods.items():
    if not clock.is_worth_it((name, FORWARD), num_items):
      continue
    ready[name] = prepare(lists)
    calls[name, FORWARD] = ready[name].forward
    both = ready[name].both
    if both and clock.is_worth_it((name, BOTH), num_items):
      calls[name, BOTH] = both
  timings = clock.interleaved(calls, num_items)
  expected = methods_lib.reference(lists)
  result = []
  for (name, work), timing in timings.items():
    errors = {}
    if ready[name].both:
      ranked = calls[name, work]()
      errors = _errors(ranked if work == BOTH else (ranked,), expected)
    result.append({
        "method": name, "work": work, **timing.to_json(), **errors,
        "compile_seconds": ready[name].compile_seconds})
  return result


def _errors(
    ranked: Sequence[Any], expected: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
  """Errors of ranks, and of a gradient if there is one."""
  ranks, gradient = expected
  # Tensors of PyTorch may be elsewhere.
  arrays = [np.asarray(x.cpu() if hasattr(x, "cpu") else x) for x in ranked]
  result = {"rank_error": np.max(np.abs(arrays[0] - ranks))}
  if len(arrays) > 1:
    result["gradient_error"] = (
        np.linalg.norm(arrays[1] - gradient)
        / np.maximum(np.linalg.norm(gradient), 1e-30))
  return result


def peak_memory(name: str, batch: int, size: int) -> int:
  """Bytes a form needs beside its inputs; on a CPU, in a process of its own."""
  if jax.default_backend() != "cpu":
    lists = methods_lib.make_lists(batch, size, 0)
    executable, _ = timing_lib.compiled(methods_lib.with_gradient, *lists)
    analysis = executable.memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes
  code = ("from experiments.benchmarks import soft_rank as b; "
          f"print(b.resident_growth({name!r}, {batch}, {size}))")
  ran = subprocess.run(
      [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
      check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
  return int(ran.stdout)


def resident_growth(name: str, batch: int, size: int) -> int:
  """Bytes by which the peak of a process grows that has just started."""
  lists = methods_lib.make_lists(batch, size, 0)
  jax.block_until_ready([jnp.asarray(array) for array in lists])
  before = _peak_resident()
  both = methods_lib.jitted(
      methods_lib.soft_rank, methods_lib.with_gradient, lists,
      trace=timing_lib.forms()[name]).both
  assert both is not None
  both()
  return _peak_resident() - before


def _peak_resident() -> int:
  """The largest resident memory of this process so far, in bytes."""
  # On Linux child processes inherit the peak of resource.getrusage.
  with contextlib.suppress(OSError), open("/proc/self/status") as file:
    for line in file:
      if line.startswith("VmHWM:"):
        return 1024 * int(line.split()[1])
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def tables(content: dict[str, Any]) -> list[timing_lib.Table]:
  """What was measured as tables; the first is the summary."""
  measured = content["measurements"]
  # One list first.
  sizes = sorted({(m["batch"], m["n"]) for m in measured},
                 key=lambda size: (size[0] > 1, size))
  header = ["", *(f"{batch} x {size:,}" for batch, size in sizes)]
  whole = {m["method"] for m in measured if "rank_error" in m}
  named = [m if m["method"] in whole else
           m | {"method": f"{m['method']} (floor)"} for m in measured]

  def rows(work, cell, key="median_seconds"):
    # Floors do the same whatever the work.
    return timing_lib.rows(
        [m for m in named if m["work"] == work or m["method"] not in whole],
        sizes, lambda m: (m["batch"], m["n"]), cell, key)

  spread = np.median([np.diff(m["quartiles_seconds"])[0] / m["median_seconds"]
                      for m in measured])
  note = ("Milliseconds, median of the samples; in brackets the largest error "
          "of a rank. Quartiles are typically "
          f"{100 * spread:.0f} % of the median apart. "
          f"{verdict(measured)}").strip()
  titles = {BOTH: "Soft rank, forward and backward",
            FORWARD: "Soft rank, forward"}
  result = [timing_lib.Table(titles[BOTH], header, rows(BOTH, _time), note)]
  result += [
      timing_lib.Table(
          f"{title}, with quartiles", header,
          rows(work, lambda m: f"{_time(m)} {timing_lib.quartiles(m)}"))
      for work, title in titles.items()]
  for key, title in (
      ("gradient_error", "Error of the gradient, a share of its norm"),
      ("compile_seconds", "Seconds to compile, forward and both")):
    number_at = lambda m, key=key: timing_lib.number(m[key]) if m[key] else "-"
    result.append(timing_lib.Table(title, header, [
        row for row in rows(BOTH, number_at, key) if set(row[1:]) != {"-"}]))
  if content["peak_memory_bytes"]:
    batch, size = max(sizes, key=math.prod)
    result.append(timing_lib.Table(
        "Memory, forward and backward", ["", f"GB at {batch} x {size:,}"],
        [[method, timing_lib.number(count / 1e9)]
         for method, count in content["peak_memory_bytes"].items()]))
  return result


def _time(m: Mapping[str, Any]) -> str:
  """Milliseconds, and the error of the ranks where there is one."""
  text = timing_lib.milliseconds(m)
  if m.get("rank_error") is None:
    return text
  return f"{text} ({timing_lib.number(m['rank_error'])})"


def verdict(measurements: Sequence[dict[str, Any]]) -> str:
  """The time of this library as a share of that of torchsort, in words."""
  both = {(m["method"], m["batch"], m["n"]): m["median_seconds"]
          for m in measurements if m["work"] == BOTH}
  lines = []
  for form in timing_lib.forms_among(measurements):
    shares = [seconds / both[methods_lib.TORCHSORT, *size]
              for (method, *size), seconds in both.items()
              if method == form and (methods_lib.TORCHSORT, *size) in both]
    if shares:
      lines.append(
          f"{form} takes {min(shares):.2f} to {max(shares):.2f} of the time "
          f"of {methods_lib.TORCHSORT}.")
  return " ".join(lines)
