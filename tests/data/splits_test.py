"""Splits: a function of a row alone, and every row in one part."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import splits

SCHEMA = schema_lib.Schema(
    (schema_lib.Objective("click", "click", "score_click"),),
    user="user_id", time="time_ms", categorical=("group",))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
  rng = np.random.default_rng(0)
  table = pa.table({
      "user_id": [f"u{i}" for i in rng.integers(0, 300, 3000)],
      "time_ms": 10 * np.sort(rng.integers(0, 1000, 3000)) + 5,
      "click": rng.random(3000) < 0.5, "score_click": rng.random(3000),
      "group": pa.array(["a", None, "b"] * 1000)})
  path = tmp_path_factory.mktemp("log") / "log.parquet"
  parquet.write_parquet(table, path, row_group_size=700)
  return checked(path)


def checked(path, schema=SCHEMA):
  return parquet.check_log(parquet.ParquetLog(path), schema)


def parts_of(log, schema, **kwargs):
  split = splits.split_log(log, schema, **kwargs)
  table = splits.read_rows(log, schema.columns)
  return split, table, split.part(table)


def test_by_time_each_part_is_later_than_the_one_before(log):
  split, table, part = parts_of(log, SCHEMA, hold_out=True)
  assert split.how == "by time"
  assert split.num_rows == tuple(np.bincount(part, minlength=3))
  times = table["time_ms"].to_numpy()
  # The last fifth of the range 5..9995, and the last fifth of the rest.
  np.testing.assert_array_equal(part, np.digitize(times, [6400, 8000]))


@pytest.mark.parametrize("drop, how", [
    (("time",), "by users"),
    (("time", "user"), "by rows, there is neither a time nor a user")])
def test_without_a_time_users_or_rows_are_dealt_out(log, drop, how):
  schema = dataclasses.replace(SCHEMA, **dict.fromkeys(drop))
  split, table, part = parts_of(log, schema, hold_out=True)
  assert split.how == how
  share = np.bincount(part, minlength=3) / len(part)
  np.testing.assert_allclose(share, [0.64, 0.16, 0.2], atol=0.06)
  if how == "by users":
    _, groups = np.unique(table["user_id"].to_numpy(), return_inverse=True)
    of_user = np.full(groups.max() + 1, -1)
    of_user[groups] = part
    np.testing.assert_array_equal(of_user[groups], part)
  # A row's part does not depend on the rows around it.
  np.testing.assert_array_equal(split.part(table.slice(100, 9)), part[100:109])


def test_nothing_is_held_out_where_there_are_rows_to_test_on(log):
  split, _, part = parts_of(log, SCHEMA, hold_out=False)
  assert split.num_rows[splits.TEST] == 0 and splits.TEST not in part


def test_a_part_without_rows_is_an_error(tmp_path):
  table = pa.table({"user_id": ["a"] * 5, "time_ms": [7] * 5,
                    "click": [1] * 5, "score_click": [0.5] * 5,
                    "group": ["x"] * 5})
  parquet.write_parquet(table, tmp_path / "log.parquet")
  log = checked(tmp_path)
  with pytest.raises(
      schema_lib.DataError, match=r"by users, no moment .* none to"):
    splits.split_log(log, SCHEMA, hold_out=True)


def times_log(tmp_path, times):
  """A log of these times, and of many users."""
  num_rows = len(times)
  parquet.write_parquet(pa.table({
      "user_id": np.arange(num_rows) % 97, "time_ms": times,
      "click": np.arange(num_rows) % 2, "score_click": np.full(num_rows, 0.5),
      "group": ["x"] * num_rows}),
                        tmp_path / "log.parquet", row_group_size=300)
  return checked(tmp_path / "log.parquet")


DAY = 86_400_000
NOW = 1_700_000_000_000


@pytest.mark.parametrize("rows, value", [
    ([0], 0), ([0], -2**63), ([-1, -2], 4_000_000_000_000), ([0], 2**63 - 1)])
@pytest.mark.parametrize("hold_out", [True, False])
def test_a_few_wrong_times_move_few_rows(tmp_path, rows, value, hold_out):
  times = NOW + np.arange(1000) * 1000
  times[rows] = value
  log = times_log(tmp_path, times)
  split, table, part = parts_of(log, SCHEMA, hold_out=hold_out)
  assert split.how == "by time, in shares of the rows"
  shares = np.bincount(part, minlength=3) / 1000
  np.testing.assert_allclose(
      shares, [0.64, 0.16, 0.2] if hold_out else [0.8, 0.2, 0], atol=0.002)
  # The parts follow each other in time still.
  assert (np.diff(part[np.argsort(table["time_ms"].to_numpy())]) >= 0).all()
  note, = log.notes
  are = "is" if len(rows) == 1 else "are"
  assert f"{len(rows):,} of 1,000 times {are} far from the others (2023" in note
  first = min(row % 1000 for row in rows)
  assert f"the first is {value} ({tmp_path / 'log.parquet'}, row group " in note
  assert note.endswith(f"row {first}).")


@pytest.mark.parametrize("days, as_date", [
    (2, False), (2, True), (3, False), (3, True), (4, True)])
def test_a_log_of_whole_days_is_split_by_them(tmp_path, days, as_date):
  day = NOW // DAY + np.arange(900) % days
  times = pa.array(day.astype(np.int32), pa.date32()) if as_date else day * DAY
  log = times_log(tmp_path, times)
  split, _, part = parts_of(log, SCHEMA, hold_out=True)
  # The last day tests; the one before validates if one is left to train on.
  is_last = day == day.max()
  np.testing.assert_array_equal(part == splits.TEST, is_last)
  if days == 2:
    assert split.how.endswith("by users to validate")
    assert np.mean(part[~is_last] == splits.VALIDATION) == pytest.approx(
        0.2, abs=0.1)
  else:
    np.testing.assert_array_equal(
        part == splits.VALIDATION, day == day.max() - 1)
  split, _, part = parts_of(log, SCHEMA, hold_out=False)
  np.testing.assert_array_equal(part == splits.VALIDATION, is_last)
  assert split.num_rows == tuple(np.bincount(part, minlength=3))


@pytest.mark.parametrize("times", [
    [NOW] * 500, [NOW] * 499 + [NOW + DAY], [NOW] + [NOW + DAY] * 499])
@pytest.mark.parametrize("hold_out", [True, False])
def test_where_no_moment_divides_the_rows_users_do(tmp_path, times, hold_out):
  log = times_log(tmp_path, np.asarray(times))
  split, _, part = parts_of(log, SCHEMA, hold_out=hold_out)
  assert split.how == "by users, no moment divides the times"
  np.testing.assert_allclose(
      np.bincount(part, minlength=3) / 500,
      [0.64, 0.16, 0.2] if hold_out else [0.8, 0.2, 0], atol=0.1)
  without = dataclasses.replace(SCHEMA, time=None)
  np.testing.assert_array_equal(
      part, parts_of(log, without, hold_out=hold_out)[2])


def test_rows_of_one_day_are_dealt_out_without_users(tmp_path):
  parquet.write_parquet(pa.table({
      "user_id": pa.array([19_700] * 400, pa.date32()),
      "click": np.arange(400) % 2, "score_click": np.arange(400) / 400}),
                        tmp_path / "log.parquet")
  schema = dataclasses.replace(
      SCHEMA, user=None, time="user_id", categorical=())
  log = checked(tmp_path, schema)
  split, _, part = parts_of(log, schema, hold_out=True)
  assert split.how == "by rows, no moment divides the times"
  np.testing.assert_allclose(
      np.bincount(part) / 400, [0.64, 0.16, 0.2], atol=0.07)


def test_a_log_that_was_not_checked_has_no_times(tmp_path):
  times_log(tmp_path, NOW + np.arange(9))
  with pytest.raises(ValueError, match="as check_log returned it"):
    splits.split_log(parquet.ParquetLog(tmp_path), SCHEMA, hold_out=True)


def test_blocks_are_tested_on_what_came_before(tmp_path):
  # Neither sorted nor even, and with rows of the same moment.
  times = (np.random.default_rng(0).random(2000)**3 * 1000).astype(int)
  log = times_log(tmp_path, times)
  table = splits.read_rows(log, SCHEMA.columns)
  cuts = splits.temporal_blocks(log, SCHEMA, 4)
  parts = [split.part(table) for split in cuts]
  assert len(cuts) == 4
  for split, part in zip(cuts, parts, strict=True):
    assert split.num_rows == tuple(np.bincount(part, minlength=3)[:3])
    of = [times[part == k]
          for k in (splits.TRAIN, splits.VALIDATION, splits.TEST)]
    assert of[0].max() < of[1].min() and of[1].max() < of[2].min()
    assert len(of[1]) / (len(of[0]) + len(of[1])) == pytest.approx(
        0.2, abs=0.02)
  tested = np.sum([part == splits.TEST for part in parts], axis=0)
  # Every row of the later half once, the last moment too; the others never.
  np.testing.assert_array_equal(tested, times >= np.sort(times)[1000])
  for earlier, later in itertools.pairwise(parts):
    seen = later <= splits.VALIDATION
    np.testing.assert_array_equal(seen, earlier <= splits.TEST)
  sizes = [split.num_rows[splits.TEST] for split in cuts]
  np.testing.assert_allclose(sizes, 250, atol=30)


def test_parts_are_read_in_one_pass(log, monkeypatch):
  split = splits.split_log(log, SCHEMA, hold_out=True)
  reads, read = [], parquet.ParquetLog.read
  monkeypatch.setattr(parquet.ParquetLog, "read", lambda *args: (
      reads.append(args[1]), read(*args))[1])
  tables = splits.read_parts(log, SCHEMA.columns, split)
  assert reads == log.row_groups
  for number, table in enumerate(tables):
    assert table.equals(
        splits.read_rows(log, SCHEMA.columns, split.rows(number)))
  # A split by time needs none.
  reads.clear()
  assert splits.split_log(log, SCHEMA, hold_out=True).num_rows == tuple(
      table.num_rows for table in tables)
  assert not reads
  some = splits.read_parts(log, SCHEMA.columns, split, most=500)
  assert some[splits.TEST].equals(tables[splits.TEST])
  assert 400 < some[splits.TRAIN].num_rows <= 502
  assert some[splits.VALIDATION].equals(tables[splits.VALIDATION])
  times = some[splits.TRAIN]["time_ms"].to_numpy()
  assert times[-1] > 6000 and times[0] < 100


def test_blocks_need_times_that_differ(tmp_path):
  log = times_log(tmp_path, np.repeat([1, 2, 3], 20))
  with pytest.raises(schema_lib.DataError, match="too few different times"):
    splits.temporal_blocks(log, SCHEMA, 2)
  with pytest.raises(
      schema_lib.DataError, match="cut by time; the log has none"):
    splits.temporal_blocks(log, dataclasses.replace(SCHEMA, time=None), 2)
