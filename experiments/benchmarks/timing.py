"""How a benchmark measures: what runs, on what, and how it is timed."""

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Mapping
import contextlib
from importlib import metadata
import math
import os
import platform
import time
from typing import Any
from typing import NamedTuple
from typing import TypeVar

import jax
import numpy as np

from harmonrank_jax import native

_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "torch", "torchsort",
             "pyversity", "stable-baselines3", "gymnasium")
# A sample is as many calls as take this long: no shorter than a clock can see.
_SAMPLE_SECONDS = 0.01
# Threads that wait for work keep spinning for a while, in the way of others.
_PAUSE_SECONDS = 0.02
# What takes longer is not worth the wait.
LIMIT_SECONDS = 10.0

Key = TypeVar("Key", bound=Hashable)


class Timing(NamedTuple):
  """Seconds of one call.

  Attributes:
    samples: each the mean of some calls on end.
    calls: in each sample.
  """

  samples: list[float]
  calls: int

  @property
  def median(self) -> float:
    return float(np.median(self.samples))

  @property
  def quartiles(self) -> list[float]:
    return np.quantile(self.samples, (0.25, 0.75)).tolist()

  def to_json(self) -> dict[str, Any]:
    return {"median_seconds": self.median, "quartiles_seconds": self.quartiles,
            "samples_seconds": self.samples, "calls_per_sample": self.calls}


class Table(NamedTuple):
  """Texts to show; the first column names what a row is about."""

  title: str
  header: list[str]
  rows: list[list[str]]
  note: str = ""


class Clock:
  """Times calls in turn, and keeps away from those that take too long.

  Args:
    repeats: samples of each call.
    seed: of their order.
  """

  def __init__(self, repeats: int, seed: int):
    self._repeats, self._rng = repeats, np.random.default_rng(seed)
    self._rates: dict[Hashable, float] = {}

  def is_worth_it(self, key: Hashable, num_items: int) -> bool:
    """Whether a call would end soon, if its time grows with the items."""
    return self._rates.get(key, 0.0) * num_items <= LIMIT_SECONDS

  def interleaved(
      self, calls: Mapping[Key, Callable[[], Any]], num_items: int
  ) -> dict[Key, Timing]:
    """Times calls, one sample of each after the other.

    A load that comes and goes then meets all of them. The order is another one
    every round: nobody always follows the same neighbour.

    Args:
      calls: what is timed; each ends with its result ready.
      num_items: that a call works on.

    Returns:
      The timings; without those of calls that took too long.
    """
    counts = {}
    for key, call in calls.items():
      call()  # Threads and caches are cold.
      seconds = _seconds(call, 1)
      self._rates[key] = seconds / num_items
      if seconds <= LIMIT_SECONDS:
        counts[key] = max(1, math.ceil(_SAMPLE_SECONDS / max(seconds, 1e-9)))
    keys = list(counts)
    samples: dict[Key, list[float]] = {key: [] for key in keys}
    for _ in range(self._repeats):
      for k in self._rng.permutation(len(keys)):
        time.sleep(_PAUSE_SECONDS)
        samples[keys[k]].append(_seconds(calls[keys[k]], counts[keys[k]]))
    return {key: Timing(samples[key], counts[key]) for key in keys}


def _seconds(call: Callable[[], Any], count: int) -> float:
  began = time.perf_counter()
  for _ in range(count):
    call()
  return (time.perf_counter() - began) / count


def forms() -> dict[str, Callable[[], contextlib.AbstractContextManager]]:
  """Forms of this library that there are here, and in what to trace them."""
  if jax.default_backend() == "cpu" and native.available():
    return {"harmonrank (native)": contextlib.nullcontext,
            "harmonrank (pure)": native.disabled}
  return {"harmonrank": contextlib.nullcontext}


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
  """The function compiled for its arguments, and the seconds that took."""
  began = time.perf_counter()
  result = jax.jit(function).lower(*args).compile()
  return result, time.perf_counter() - began


def number(value: float) -> str:
  """Three digits of a time or of an error."""
  if value < 1e-3:
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"
  digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
  return f"{value:,.{digits}f}"


def num_cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def machine() -> dict[str, Any]:
  """What the figures depend on beside the code."""
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
