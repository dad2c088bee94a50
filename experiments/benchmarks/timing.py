"""How a benchmark measures: suites, their sizes, clock, machine and tables."""

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import importlib
from importlib import metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any
from typing import NamedTuple
from typing import Protocol
from typing import TypeVar

import jax
import numpy as np

from experiments.runs import errors
from harmonrank_jax import native

# Items are counted in int32.
MAX_ITEMS = 2**31 - 1
_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "torch", "torchsort",
             "pyversity", "stable-baselines3", "gymnasium")
# Methods of this library: its only form, or one of two.
_FORMS = NATIVE, PURE, ONLY = (
    "harmonrank (native)", "harmonrank (pure)", "harmonrank")

Key = TypeVar("Key", bound=Hashable)
Forms = Mapping[str, Callable[[], contextlib.AbstractContextManager]]


class Timing(NamedTuple):
  """Seconds of one call."""

  samples: list[float]  # each the mean of some calls in a row
  calls: int  # of each sample
  cpu_samples: list[float]  # of all threads

  @property
  def median(self) -> float:
    return float(np.median(self.samples))

  @property
  def quartiles(self) -> list[float]:
    return np.quantile(self.samples, (0.25, 0.75)).tolist()

  def rates(self, count: int, of: str) -> dict[str, Any]:
    """How many of something are done in a second, if a call does `count`."""
    low, high = self.quartiles
    return {f"{of}_per_second": count / self.median,
            f"quartiles_{of}_per_second": [count / high, count / low]}

  def to_json(self) -> dict[str, Any]:
    return {"median_seconds": self.median, "quartiles_seconds": self.quartiles,
            "samples_seconds": self.samples, "calls_per_sample": self.calls}


class Table(NamedTuple):
  """Texts to show; the first column names the rows."""

  title: str
  header: list[str]
  rows: list[list[str]]
  note: str = ""


class Suite(Protocol):
  """A module that measures something at some sizes."""

  SIZES: tuple[Any, ...]  # measured by default

  def parse_size(self, text: str) -> Any:
    """A size from the text of a flag; raises UserError if it is none."""

  def run(
      self, sizes: Sequence[Any] | None, *, repeats: int, seed: int,
      workdir: pathlib.Path,
  ) -> dict[str, Any]:
    """Measures; what it returns goes into `benchmark.json`."""

  def tables(self, content: dict[str, Any]) -> list[Table]:
    """The content of `benchmark.json` as tables; the first is the summary."""


def parse_counts(text: str, num_counts: int, expected: str) -> tuple[int, ...]:
  """Reads positive integers that an `x` separates.

  >>> parse_counts("128x1000", 2, "lists x items")
  (128, 1000)
  """
  parts = text.split("x")
  if len(parts) == num_counts and all(part.isdecimal() for part in parts):
    counts = tuple(map(int, parts))
    if min(counts) >= 1 and max(counts) <= MAX_ITEMS:
      return counts
  raise size_error(text, expected)


def parse_batch_size(text: str) -> int:
  """Reads the rows, or the users, of one batch."""
  return parse_counts(text, 1, "a batch size, as in 4096")[0]


def size_error(text: str, expected: str) -> errors.UserError:
  """The error of a size that is not what is expected."""
  return errors.UserError(f"--sizes={text}: expected {expected}.")


class Clock:
  """Times calls in turn, and skips those that take too long.

  A pause comes before a sample: threads of the last method spin for a while.
  """

  def __init__(
      self, repeats: int, seed: int, *, limit_seconds: float = 10.0,
      sample_seconds: float = 0.01, pause_seconds: float = 0.02,
  ):
    self.limit_seconds = limit_seconds
    self._sample_seconds, self._pause_seconds = sample_seconds, pause_seconds
    self._repeats, self._rng = repeats, np.random.default_rng(seed)
    self._rates: dict[Hashable, float] = {}

  def is_worth_it(self, key: Hashable, num_items: int) -> bool:
    """Whether a call would end soon, if its time grows with the items."""
    return self._rates.get(key, 0.0) * num_items <= self.limit_seconds

  def interleaved(
      self, calls: Mapping[Key, Callable[[], Any]], num_items: int
  ) -> dict[Key, Timing]:
    """Times calls in turn, each round in a new order: a load affects all."""
    counts = {}
    for key, call in calls.items():
      call()  # Threads and caches are cold.
      seconds = seconds_of(call)
      self._rates[key] = seconds / num_items
      if seconds <= self.limit_seconds:
        counts[key] = max(
            1, math.ceil(self._sample_seconds / max(seconds, 1e-9)))
    keys = list(counts)
    timings = {key: Timing([], counts[key], []) for key in keys}
    for _ in range(self._repeats):
      for k in self._rng.permutation(len(keys)):
        time.sleep(self._pause_seconds)
        timing, began = timings[keys[k]], time.process_time()
        timing.samples.append(seconds_of(calls[keys[k]], timing.calls))
        timing.cpu_samples.append((time.process_time() - began) / timing.calls)
    return timings


def seconds_of(call: Callable[[], Any], count: int = 1) -> float:
  """Seconds of a call, the mean of a number of calls in a row."""
  began = time.perf_counter()
  for _ in range(count):
    call()
  return (time.perf_counter() - began) / count


def on_one_core(module: str, name: str, *args: Any, **kwargs: Any) -> Any:
  """What a function of a module returns, of literals, in JSON.

  On a CPU it has one core, in its own process: threads distort the ratios.
  """
  if (jax.default_backend() != "cpu" or num_cores() == 1
      or not hasattr(os, "sched_setaffinity")):
    return getattr(importlib.import_module(module), name)(*args, **kwargs)
  given = ", ".join([*map(repr, args), *(
      f"{key}={value!r}" for key, value in kwargs.items())])
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "result.json"
    # The last core, because the first ones serve interrupts. SIGINT ends the
    # process silently: its parent reports the interruption.
    code = ("import os, signal; "
            "signal.signal(signal.SIGINT, signal.SIG_DFL); "
            "os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}); "
            f"import {module} as measured; "
            "from experiments.runs import workdir; import pathlib; "
            f"workdir.write_json(pathlib.Path({str(path)!r}), "
            f"measured.{name}({given}))")
    subprocess.run(
        [sys.executable, "-c", code], check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu",
             "PYTHONPATH": os.pathsep.join(sys.path)})
    return json.loads(path.read_text())


def forms() -> Forms:
  """The forms that run here, the default first, and contexts to trace them."""
  if jax.default_backend() == "cpu" and native.available():
    return {NATIVE: contextlib.nullcontext, PURE: native.disabled}
  return {ONLY: contextlib.nullcontext}


def forms_among(measurements: Iterable[Mapping[str, Any]]) -> list[str]:
  """The forms of this library that were measured."""
  methods = {m["method"] for m in measurements}
  return [form for form in _FORMS if form in methods]


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
  """The function compiled for its arguments, and the seconds that took."""
  began = time.perf_counter()
  result = jax.jit(function).lower(*args).compile()
  return result, time.perf_counter() - began


def number(value: float) -> str:
  """A time or an error as text, to about three digits."""
  if value < 1e-3:
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"
  digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
  return f"{value:,.{digits}f}"


def milliseconds(measured: Mapping[str, Any]) -> str:
  """The median of a measurement as text."""
  return number(1e3 * measured["median_seconds"])


def quartiles(measured: Mapping[str, Any]) -> str:
  """Its quartiles in milliseconds, in brackets."""
  low, high = (number(1e3 * x) for x in measured["quartiles_seconds"])
  return f"[{low}, {high}]"


def rows(
    measurements: Iterable[Mapping[str, Any]], columns: Iterable[Hashable],
    column_of: Callable[[Mapping[str, Any]], Hashable],
    cell: Callable[[Mapping[str, Any]], str], key: str = "median_seconds",
) -> list[list[str]]:
  """A row for each method with the key in some column; a dash in the others."""
  by_method: dict[str, dict[Hashable, str]] = {}
  for m in measurements:
    if key in m:
      by_method.setdefault(m["method"], {})[column_of(m)] = cell(m)
  return [[method, *(cells.get(column, "-") for column in columns)]
          for method, cells in by_method.items()]


def num_cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def machine() -> dict[str, Any]:
  """The hardware and the versions that the figures depend on."""
  versions = {}
  for name in _PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      versions[name] = metadata.version(name)
  return {
      "processor": _processor(), "cores": num_cores(),
      "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
      "load_average": os.getloadavg()[0], "system": platform.platform(),
      "backend": jax.default_backend(),
      "device": jax.devices()[0].device_kind, "forms": native.backends(),
      "python": platform.python_version(), **versions}


def _processor() -> str:
  with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
    for line in file:
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()
