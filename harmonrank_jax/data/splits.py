"""Which rows of a log train, validate and test."""

from collections.abc import Callable
import itertools
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
# Share of the rows before the first of several blocks to test on.
_BEFORE_BLOCKS = 0.5


class Split(NamedTuple):
  """Which rows train, validate and test: a function of a row alone."""

  kind: str  # "time", "user" or "row", what decides.
  # From a table to TRAIN, VALIDATION or TEST for each row.
  part: Callable[[pa.Table], np.ndarray]
  num_rows: tuple[int, int, int]  # Of the parts, in the log that was split.

  def rows(self, *parts: int) -> Callable[[pa.Table], np.ndarray]:
    """From a table to the mask of the rows of these parts."""
    return lambda table: np.isin(self.part(table), parts)

  def describe(self) -> str:
    """One line."""
    train, validation, test = self.num_rows
    how = {"time": "by time", "user": "by users",
           "row": "by rows, there is neither a time nor a user"}[self.kind]
    tested = f", {test:,} to test" if test else ""
    return (f"{train:,} rows to train, {validation:,} to validate{tested} "
            f"({how})")


def split_log(
    log: parquet.ParquetLog, schema: schema_lib.Schema, *, hold_out: bool
) -> Split:
  """Splits a checked log by time, or by users, or by rows.

  By time, the last fifth of the time range is for testing and the last fifth
  of the rest for validation. Without a time, users are dealt out in these
  shares; without users, rows are.

  Args:
    log: a log that has passed `check_log`.
    schema: its roles.
    hold_out: whether to hold out rows for testing.

  Raises:
    DataError: if a part has no rows.
  """
  test_share = _TEST_SHARE if hold_out else 0.0
  bounds = np.asarray([(1 - test_share) * (1 - _VALIDATION_SHARE),
                       1 - test_share])
  place: Callable[[pa.Table], np.ndarray]
  if schema.time:
    kind, columns = "time", [schema.time]
    times = [features_lib.times(table, schema.time)
             for table in log.tables(columns)]
    first = min(part.min() for part in times)
    last = max(part.max() for part in times)
    # The last moment itself belongs to the last part.
    place = lambda table: (features_lib.times(table, schema.time) - first) / (
        last - first + 1)
  else:
    kind = "user" if schema.user else "row"
    columns = [schema.user] if schema.user else list(schema.columns)
    place = lambda table: _dealt(table, columns)

  def part(table: pa.Table) -> np.ndarray:
    return np.searchsorted(bounds, place(table), side="right")

  counts = np.zeros(3, np.int64)
  for table in log.tables(columns):
    counts += np.bincount(part(table), minlength=3)
  uses = ("train", "validate", "test") if hold_out else ("train", "validate")
  for use, count in zip(uses, counts, strict=False):
    if not count:
      raise schema_lib.DataError(
          f"{log.files[0]}: splitting {log.num_rows:,} rows by {kind} leaves "
          f"none to {use}; give more rows, or rows to test on in a log of "
          "their own.")
  return Split(kind, part, (int(counts[0]), int(counts[1]), int(counts[2])))


def temporal_blocks(
    log: parquet.ParquetLog, schema: schema_lib.Schema, num_blocks: int
) -> list[Split]:
  """Splits a checked log into blocks, each tested on what came before it.

  The later half of the rows is cut by time into blocks of as many rows; the
  last fifth of the rows before a block is for validation.

  Args:
    log: a log that has passed `check_log`.
    schema: its roles.
    num_blocks: at least 2; one block is `split_log`.

  Raises:
    DataError: if there is no time, or too few moments to cut at.
  """
  if schema.time is None:
    raise schema_lib.DataError("blocks are cut by time; the log has none.")
  times = np.sort(np.concatenate([
      features_lib.times(table, schema.time)
      for table in log.tables([schema.time])]))
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
    result.append(Split("time", part, (train, validation, test)))
  return result


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
    column = features_lib.plain(table[name])
    if pa.types.is_floating(column.type):
      bits = schema_lib.numbers_of(column).view(np.uint64)
    elif pa.types.is_boolean(column.type) or pa.types.is_timestamp(column.type):
      bits = pc.fill_null(pc.cast(column, pa.int64()), 0).to_numpy()
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
