"""The unit of integer times, by the years that it makes of them."""

import numpy as np
import pyarrow as pa

from harmonrank_jax.data import kinds

# Units of integer times, and how many are in a second.
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6,
         "nanoseconds": 10**9}
# Seconds since 1970 of the years 2000 to 2099, which times of a log are in. A
# number is in them in one unit at most.
_FIRST, _LAST = 946_684_800, 4_102_444_800
# Share of the rows that must be in these years, in the unit of a column.
# Counters that begin at 0 have fewer, whatever they reach.
_MIN_SHARE = 0.9


def unit_of(times: np.ndarray) -> str | None:
  """The unit of `[N]` int64 times; None if none makes dates of nearly all.

  >>> unit_of(np.array([1_700_000_000, 1_700_000_060]))
  'seconds'
  >>> unit_of(np.array([0, 60])) is None
  True
  """
  for unit in UNITS:
    if len(times) and np.mean(are_dates(times, unit)) >= _MIN_SHARE:
      return unit
  return None


def are_dates(times: np.ndarray, unit: str) -> np.ndarray:
  """`[N]` bool, whether int64 times are in the years 2000 to 2099."""
  per_second = UNITS[unit]
  return (times >= _FIRST * per_second) & (times < _LAST * per_second)


def in_ms(times: np.ndarray, unit: str | None) -> np.ndarray:
  """`[N]` int64 milliseconds; times of no unit are taken for them."""
  per_second = UNITS[unit or "milliseconds"]
  if per_second > 1000:
    return times // (per_second // 1000)
  factor = 1000 // per_second
  limit = np.iinfo(np.int64).max // factor
  return np.clip(times, -limit, limit) * factor


def integers_of(column: pa.ChunkedArray) -> np.ndarray:
  """Times `[N]` int64: integers as they are, moments in milliseconds."""
  if kinds.is_moment(column.type):
    column = kinds.convert(column, pa.int64())
  return column.to_numpy().astype(np.int64)


def day_of(time_ms: int) -> str:
  """A date; what is beyond the dates there are is left a number."""
  try:
    return str(np.datetime64(int(time_ms), "ms").astype("datetime64[D]"))
  except (OverflowError, ValueError):
    return str(time_ms)


def are_far(time_ms: np.ndarray) -> np.ndarray:
  """`[N]` bool, milliseconds far from most others: wrong, if they are few.

  >>> are_far(1_700_000_000_000 * np.array([1, 1, 1, 0, 0])).tolist()
  [False, False, False, True, True]
  """
  # Medians: what is far does not widen the band, unless it is the most.
  distance = np.abs(time_ms - np.median(time_ms))
  return distance > max(20 * np.median(distance), 366 * 86_400_000)


def describe(
    column: str, kind: pa.DataType, times: np.ndarray, unit: str | None
) -> list[str]:
  """What is to be said of how `[N]` times of a column are read."""
  low, high = int(times.min()), int(times.max())
  if unit is None and kinds.is_moment(kind):
    return [f"column {column!r}: the dates {day_of(low)} to {day_of(high)} are "
            "not in 2000 to 2099; look whether they were made of integers of "
            "another unit."]
  if unit is None:
    return [f"column {column!r}: in no unit are the integers {low} to {high} "
            "dates of 2000 to 2099; they are taken for milliseconds."]
  if unit == "milliseconds":
    return []
  dates = in_ms(times[are_dates(times, unit)], unit)
  return [f"column {column!r}: integers are read as {unit} since 1970, "
          f"{day_of(dates.min())} to {day_of(dates.max())}."]
