"""Columns that tell a label are named, good features are not."""

import re

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import leaks
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

NUM_ROWS = 2000
RNG = np.random.default_rng(0)
TIME = 1_700_000_000_000 + np.sort(RNG.integers(0, 10**8, NUM_ROWS))
TASTE = RNG.normal(size=NUM_ROWS)
CLICK = RNG.random(NUM_ROWS) < 1 / (1 + np.exp(1 - TASTE))
BUY = RNG.random(NUM_ROWS) < 0.05
OBJECTIVES = (schema_lib.Objective("click", "click"),
              schema_lib.Objective("spent", "buy", is_value=True))


def where(mask, values):
  return pa.array(values, mask=~mask)


def found(column, *, categorical=False, time=None):
  kind = "categorical" if categorical else "numeric"
  schema = schema_lib.Schema(OBJECTIVES, **{kind: ("c",)})
  table = pa.table({"click": CLICK, "buy": 9.5 * BUY, "c": column})
  return leaks.describe(schema, table, time)


@pytest.mark.parametrize(("column", "said"), [
    # Dwell time, and its mirror image.
    (np.where(CLICK, RNG.integers(1, 9999, NUM_ROWS), 0),
     r"'c' tells 'click' by its values, alone it has an AUC of 1\.0000"),
    (-np.where(BUY, RNG.random(NUM_ROWS), 0),
     r"'c' tells 'spent' by its values, alone it has an AUC of 0\.0000"),
    (where(BUY, RNG.random(NUM_ROWS)),
     r"'c' tells 'spent' by where it is missing, .*AUC of 0\.0000"),
    (where(~CLICK, RNG.integers(0, 9, NUM_ROWS)),
     r"'c' tells 'click' by where it is missing, .*AUC of 1\.0000"),
    # A rule with a few exceptions.
    (np.where(RNG.random(NUM_ROWS) < 0.01, ~CLICK, CLICK) * 1.0,
     r"'c' tells 'click' by its values, alone it has an AUC of 0\.99"),
])
def test_numbers_that_tell_a_label(column, said):
  line, = found(column)
  assert re.search(said, line)
  assert line.endswith("is no feature; a schema leaves it out.")


@pytest.mark.parametrize("column", [
    np.where(CLICK, "thanks", RNG.choice(["home", "list"], NUM_ROWS)),
    pa.array(np.where(BUY, "x", "y")).dictionary_encode(),
    where(BUY, RNG.choice(["card", "cash"], NUM_ROWS)), BUY,
    # Neither in order nor few.
    2 * RNG.integers(0, 100, NUM_ROWS) + CLICK])
def test_categories_that_tell_a_label(column):
  line, = found(column, categorical=True)
  assert "'c' tells " in line


@pytest.mark.parametrize(("column", "categorical"), [
    (TASTE, False), (RNG.random(NUM_ROWS), False), (np.zeros(NUM_ROWS), False),
    (where(TASTE > 0, TASTE), False), (pa.nulls(NUM_ROWS), False),
    (np.where(TASTE > 0, np.inf, TASTE), False),
    (RNG.choice(["a", "b", "c"], NUM_ROWS), True),
    # A value of its own for each row says nothing of other rows.
    (np.arange(NUM_ROWS), True), (np.arange(NUM_ROWS).astype(str), True),
    (pa.nulls(NUM_ROWS, pa.string()), True)])
def test_features_are_not_named(column, categorical):
  if isinstance(column, pa.Array) and column.type == pa.null():
    column = column.cast(pa.float64())
  assert found(column, categorical=categorical, time=TIME) == []


def test_few_rows_are_chance():
  schema = schema_lib.Schema(OBJECTIVES[:1], numeric=("c",))
  rows = np.arange(12) % 2
  assert leaks.describe(
      schema, pa.table({"click": rows, "c": rows}), None) == []


@pytest.mark.parametrize(("column", "said"), [
    (TIME + 5, "milliseconds"), (TIME // 1000 + 5, "seconds"),
    (where(CLICK, TIME * 1000 + 1000), "microseconds"),
    # As pandas writes integers with gaps.
    (np.where(CLICK, TIME + 5, np.nan), "milliseconds")])
def test_times_after_that_of_the_row(column, said):
  line, = found(column, time=TIME)
  assert f"'c' holds {said} since 1970 after the row's own time in " in line
  count = NUM_ROWS if isinstance(column, np.ndarray) and not np.isnan(
      column).any() else CLICK.sum()
  assert f"in {count:,} of {count:,} rows: it may be known only" in line


@pytest.mark.parametrize("column", [
    TIME - 5, TIME, np.full(NUM_ROWS, TIME[0]), RNG.integers(0, 9, NUM_ROWS)])
def test_earlier_times_and_numbers_are_features(column):
  assert found(column, time=TIME) == []


def test_a_log_is_searched_as_it_is_checked(tmp_path, monkeypatch):
  monkeypatch.setattr(parquet, "_SAMPLE_ROWS", 500)
  clicked = where(CLICK, TIME // 1000 + 60)
  parquet.write_parquet(
      pa.table({"click": CLICK, "buy": BUY, "c": clicked, "t": TIME // 1000,
                "dwell": np.where(BUY, 5, 0)}),
      tmp_path / "log.parquet", row_group_size=333)
  log = parquet.ParquetLog(tmp_path / "log.parquet", group_rows=1)
  schema = schema_lib.Schema(OBJECTIVES, time="t", numeric=("c", "dwell"))
  checked = parquet.check_log(log, schema)
  _, late, tells = checked.notes
  count = CLICK[::4].sum()
  assert f"in {count:,} of {count:,} rows" in late
  assert "'dwell' tells 'spent'" in tells
  # Of rows to test on it has been said.
  assert len(parquet.check_log(log, schema, trained=checked).notes) == 1
