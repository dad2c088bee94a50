"""Splits: a function of a row alone, and every row in one part."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from experiments.runs import errors
from experiments.runs import logs
from harmonrank_jax.data import generator
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

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
  return parquet.ParquetLog(path)


def parts_of(log, schema, **kwargs):
  split = logs.split_log(log, schema, **kwargs)
  table = logs.read_rows(log, schema.columns)
  return split, table, split.part(table)


def test_by_time_each_part_is_later_than_the_one_before(log):
  split, table, part = parts_of(log, SCHEMA, hold_out=True)
  assert split.kind == "time"
  assert split.num_rows == tuple(np.bincount(part, minlength=3))
  times = table["time_ms"].to_numpy()
  # The last fifth of the range 5..9995, and the last fifth of the rest.
  np.testing.assert_array_equal(part, np.digitize(times, [6400, 8000]))


@pytest.mark.parametrize("drop, kind", [
    (("time",), "user"), (("time", "user"), "row")])
def test_without_a_time_users_or_rows_are_dealt_out(log, drop, kind):
  schema = dataclasses.replace(SCHEMA, **dict.fromkeys(drop))
  split, table, part = parts_of(log, schema, hold_out=True)
  assert split.kind == kind
  share = np.bincount(part, minlength=3) / len(part)
  np.testing.assert_allclose(share, [0.64, 0.16, 0.2], atol=0.06)
  if kind == "user":
    _, groups = np.unique(table["user_id"].to_numpy(), return_inverse=True)
    of_user = np.full(groups.max() + 1, -1)
    of_user[groups] = part
    np.testing.assert_array_equal(of_user[groups], part)
  # A row's part does not depend on the rows around it.
  np.testing.assert_array_equal(split.part(table.slice(100, 9)), part[100:109])


def test_nothing_is_held_out_where_there_are_rows_to_test_on(log):
  split, _, part = parts_of(log, SCHEMA, hold_out=False)
  assert split.num_rows[logs.TEST] == 0 and logs.TEST not in part


def test_a_part_without_rows_is_an_error(tmp_path):
  table = pa.table({"user_id": ["a"] * 5, "time_ms": [7] * 5,
                    "click": [1] * 5, "score_click": [0.5] * 5,
                    "group": ["x"] * 5})
  parquet.write_parquet(table, tmp_path / "log.parquet")
  log = parquet.ParquetLog(tmp_path)
  with pytest.raises(errors.UserError, match="leaves none to validate"):
    logs.split_log(log, SCHEMA, hold_out=True)


def test_the_embedded_log_is_written_once(tmp_path):
  config = generator.LogConfig(num_exposures=1000)
  path = logs.write_embedded_log(tmp_path, config)
  before = path.stat().st_mtime_ns
  assert logs.write_embedded_log(tmp_path, config) == path
  assert path.stat().st_mtime_ns == before
  log, schema = logs.open_log(path, logs.EMBEDDED_SCHEMA)
  parquet.check_log(log, schema)
  assert not any(column.startswith("true_") or column == "position"
                 for column in schema.columns)


def test_slices_are_quarters_of_numbers_and_values_of_text():
  numbers = pa.chunked_array([pa.array([1.0, 2, 3, 4, 5, 6, 7, 8, None])])
  names = logs.as_slices(numbers, True)
  assert names[-1] == "missing"
  assert [int((names == name).sum()) for name in dict.fromkeys(names[:-1])] == [
      2, 2, 2, 2]
  assert logs.as_slices(pa.chunked_array([[3.0, 3.0]]), True).tolist() == [
      "3", "3"]
  texts = pa.chunked_array([["a", None] + [f"v{i}" for i in range(12)] * 2])
  names = logs.as_slices(texts, False)
  assert names[0] == names[1] == "others" and names[2] == "v0"
