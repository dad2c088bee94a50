"""Which rows of a log train, validate and test."""

from collections.abc import Callable
import itertools
import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import kinds
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

# Parts of a split.
TRAIN, VALIDATION, TEST = range(3)
# Shares of all rows for the test, and of the rest for validation: a smaller
# part would hold too few positives of a rare objective to choose by.
_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.2
# A part that is cut at a moment has at least and at most these shares of the
# rows that are cut, where few moments leave no choice.
_LEAST_SHARE, _MOST_SHARE = 0.05, 0.75
# Share of the rows before the first of several blocks to test on.
_BEFORE_BLOCKS = 0.5


class Split(NamedTuple):
  """Which rows train, validate and test: a function of a row alone."""

  how: str  # In words.
  # From a table to TRAIN, VALIDATION or TEST for each row.
  part: Callable[[pa.Table], np.ndarray]
  num_rows: tuple[int, int, int]  # Of the parts, in the log that was split.

  def rows(self, *parts: int) -> Callable[[pa.Table], np.ndarray]:
    """From a table to the mask of the rows of these parts."""
    return lambda table: np.isin(self.part(table), parts)

  def describe(self) -> str:
    """One line."""
    train, validation, test = self.num_rows
    tested = f", {test:,} to test" if test else ""
    return (f"{train:,} rows to train, {validation:,} to validate{tested} "
            f"({self.how})")


class _Edges(NamedTuple):
  """The first milliseconds of parts; None where no moment begins one."""

  validation: int | None
  test: int | None
  how: str

  def part(self, time_ms: np.ndarray) -> np.ndarray:
    """`[N]` parts of rows of these times."""
    result = np.full(len(time_ms), TRAIN)
    for part, first in ((VALIDATION, self.validation), (TEST, self.test)):
      if first is not None:
        result[time_ms >= first] = part
    return result


def split_log(
    log: parquet.ParquetLog, schema: schema_lib.Schema, *, hold_out: bool
) -> Split:
  """Splits a checked log by time, or by users, or by rows.

  By time, the last fifth of the time range is for testing and the last fifth
  of the rest for validation. Where one of these parts would have less than
  half or more than twice its share of the rows, as after one wrong time, the
  last fifths of the rows are instead, as nearly as moments allow: all rows of
  a moment are in one part. Without a time, or where all rows are of one,
  users are dealt out in these shares; without users, rows are.

  Args:
    log: what `check_log` returned.
    schema: its roles.
    hold_out: whether to hold out rows for testing.

  Raises:
    DataError: if a part has no rows.
  """
  edges = _Edges(None, None, "by time")
  if schema.time:
    edges = _edges(np.sort(_times_of(log)), hold_out=hold_out)
  dealt_by = [schema.user] if schema.user else list(schema.columns)
  test_share = _TEST_SHARE if hold_out and edges.test is None else 0.0

  def part(table: pa.Table) -> np.ndarray:
    time = features_lib.times(table, schema.time)
    if edges.validation is not None:
      return edges.part(time)
    place = _dealt(table, dealt_by)
    result = np.where(place >= (1 - test_share) * (1 - _VALIDATION_SHARE),
                      VALIDATION, TRAIN)
    result[place >= 1 - test_share] = TEST
    return np.where(edges.part(time) == TEST, TEST, result)

  how, counts = edges.how, np.zeros(3, np.int64)
  if edges.validation is not None:
    counts += np.bincount(edges.part(_times_of(log)), minlength=3)
  else:
    columns = [schema.time] if schema.time else []
    for table in log.tables(list(dict.fromkeys([*columns, *dealt_by]))):
      counts += np.bincount(part(table), minlength=3)
    dealt = "by users" if schema.user else "by rows"
    if edges.test is not None:
      how = f"{how}, {dealt} to validate"
    elif schema.time:
      how = f"{dealt}, no moment divides the times"
    else:
      how = dealt if schema.user else (
          "by rows, there is neither a time nor a user")
  uses = ("train", "validate", "test") if hold_out else ("train", "validate")
  for use, count in zip(uses, counts, strict=False):
    if not count:
      raise schema_lib.DataError(
          f"{log.files[0]}: splitting {log.num_rows:,} rows {how} leaves none "
          f"to {use}; give more rows, or rows to test on in a log of their "
          "own.")
  return Split(how, part, (int(counts[0]), int(counts[1]), int(counts[2])))


def _edges(times: np.ndarray, *, hold_out: bool) -> _Edges:
  """Where parts begin, of sorted times."""
  shares = [1 - _VALIDATION_SHARE]
  if hold_out:
    shares = [(1 - _TEST_SHARE) * (1 - _VALIDATION_SHARE), 1 - _TEST_SHARE]
  # Beyond 64 bits, which a range of times may be.
  first, last = int(times[0]), int(times[-1])
  edges = [first + math.ceil(share * (last - first + 1)) for share in shares]
  sizes = np.diff([0, *(np.searchsorted(times, edge) for edge in edges),
                   len(times)])
  wanted = np.diff([0, *shares, 1]) * len(times)
  if ((wanted / 2 <= sizes) & (sizes <= 2 * wanted)).all():
    return _Edges(edges[0], edges[1] if hold_out else None, "by time")
  test = _edge(times, _TEST_SHARE) if hold_out else None
  if hold_out and test is None:
    return _Edges(None, None, "")
  rest = times if test is None else times[:np.searchsorted(times, test)]
  return _Edges(_edge(rest, _VALIDATION_SHARE), test,
                "by time, in shares of the rows")


def _edge(times: np.ndarray, share: float) -> int | None:
  """The moment of sorted times from which about this share of them are on."""
  begins = np.flatnonzero(np.diff(times)) + 1
  if not len(begins):
    return None
  begin = begins[np.argmin(np.abs(begins - (1 - share) * len(times)))]
  later = 1 - begin / len(times)
  return int(times[begin]) if _LEAST_SHARE <= later <= _MOST_SHARE else None


def _times_of(log: parquet.ParquetLog) -> np.ndarray:
  """`[num_rows]` int64 milliseconds."""
  if log.times is None:
    raise ValueError("a log is split by time as check_log returned it.")
  return log.times


def temporal_blocks(
    log: parquet.ParquetLog, schema: schema_lib.Schema, num_blocks: int
) -> list[Split]:
  """Splits a checked log into blocks, each tested on what came before it.

  The later half of the rows is cut by time into blocks of as many rows; the
  last fifth of the rows before a block is for validation.

  Args:
    log: what `check_log` returned.
    schema: its roles.
    num_blocks: at least 2; one block is `split_log`.

  Raises:
    DataError: if there is no time, or too few moments to cut at.
  """
  if schema.time is None:
    raise schema_lib.DataError("blocks are cut by time; the log has none.")
  times = np.sort(_times_of(log))
  shares = np.linspace(_BEFORE_BLOCKS, 1, num_blocks + 1)
  at = lambda share: times[min(int(share * len(times)), len(times) - 1)]
  result = []
  for first, last in itertools.pairwise(shares):
    bounds = np.asarray([at(first * (1 - _VALIDATION_SHARE)), at(first),
                         at(last) if last < 1 else times[-1] + 1])

    def part(table: pa.Table, bounds: np.ndarray = bounds) -> np.ndarray:
      # What comes after the block is part 3, which nobody asks for.
      return np.searchsorted(
          bounds, features_lib.times(table, schema.time), side="right")

    train, validation, test = np.diff(
        np.searchsorted(times, bounds), prepend=0).tolist()
    if not (train and validation and test):
      raise schema_lib.DataError(
          f"{log.files[0]}: too few different times for {num_blocks} blocks.")
    result.append(Split("by time", part, (train, validation, test)))
  return result


def read_parts(
    log: parquet.ParquetLog, columns: tuple[str, ...], split: Split, *,
    most: int | None = None,
) -> tuple[pa.Table, pa.Table, pa.Table]:
  """The rows of every part in the order of the log, in one pass.

  Of a part to train or validate on with more than `most` rows, there are as
  many of its rows, or fewer, from all over the log.
  """
  strides = [1 if most is None else -(-count // most)
             for count in split.num_rows]
  strides[TEST] = 1
  tables: tuple[list[pa.Table], ...] = ([], [], [])
  for table in log.tables(columns):
    part = split.part(table)
    for number, rows in enumerate(tables):
      keep = (part == number) & (
          np.arange(table.num_rows) % max(strides[number], 1) == 0)
      rows.append(table.filter(pa.array(keep)))
  train, validation, test = (
      pa.concat_tables(rows, promote_options="default") for rows in tables)
  return train, validation, test


def read_rows(
    log: parquet.ParquetLog, columns: tuple[str, ...],
    keep: Callable[[pa.Table], np.ndarray] | None = None,
) -> pa.Table:
  """The rows that are kept, all if None, in the order of the log."""
  tables = log.tables(columns)
  if keep is not None:
    tables = (table.filter(pa.array(keep(table))) for table in tables)
  return pa.concat_tables(tables, promote_options="default")


def _dealt(table: pa.Table, columns: list[str]) -> np.ndarray:
  """A number in [0, 1) for each row, the same for the same values."""
  mixed = np.zeros(table.num_rows, np.uint64)
  for name in columns:
    column = kinds.plain(table[name])
    if pa.types.is_floating(column.type):
      bits = kinds.numbers_of(column).view(np.uint64)
    elif pa.types.is_boolean(column.type):
      bits = pc.fill_null(pc.cast(column, pa.int64()), 0).to_numpy()
    elif kinds.is_moment(column.type):
      bits = features_lib.times(table, name)
    else:
      missing = "" if kinds.is_text(column.type) else 0
      filled = table.append_column(
          "filled", pc.fill_null(column, missing)).select(["filled"])
      bits = features_lib.id_numbers(filled, "filled")
    mixed = _mix(mixed ^ bits.astype(np.uint64))
  return mixed / 2.0**64


def _mix(values: np.ndarray) -> np.ndarray:
  """The finaliser of SplitMix64: every bit depends on every bit."""
  values = values + np.uint64(0x9E3779B97F4A7C15)
  values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return values ^ (values >> np.uint64(31))
