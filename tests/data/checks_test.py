"""Types and rows of a log are held against its schema."""

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import checks
from harmonrank_jax.data import schema as schema_lib

FULL = schema_lib.Schema(
    (schema_lib.Objective("click", "is_click", "p_click"),
     schema_lib.Objective("watch", "watch_ms", None, is_value=True)),
    user="uid", item="item_id", time="ts", request="page",
    categorical=("uid", "item_id", "region"), numeric=("age", "tenure"))

def refused(message):
  return pytest.raises(schema_lib.DataError, match=message)


KINDS = {
    "uid": pa.int64(), "item_id": pa.string(), "ts": pa.timestamp("us"),
    "page": pa.large_string(), "is_click": pa.bool_(),
    "watch_ms": pa.float32(), "p_click": pa.float16(),
    "region": pa.dictionary(pa.int32(), pa.string()), "age": pa.int16(),
    "tenure": pa.bool_()}


def test_accepted_types():
  for changes in (
      {}, {"uid": pa.dictionary(pa.int8(), pa.large_string())},
      {"ts": pa.uint32()}, {"ts": pa.timestamp("ns", "UTC")},
      {"is_click": pa.float64(), "p_click": pa.int8()},
      {"region": pa.bool_()}, {"region": pa.int8()},
      {"page": pa.dictionary(pa.int8(), pa.int64())},
      {"uid": pa.decimal128(20, 0), "item_id": pa.string_view()},
      {"ts": pa.date32(), "region": pa.date64(), "age": pa.timestamp("s")},
      {"p_click": pa.decimal128(9, 4)},
      {"watch_ms": pa.decimal128(9, 2), "age": pa.decimal256(60, 2)},
      {"unread": pa.list_(pa.int8())}):
    checks.check_types(FULL, pa.schema(KINDS | changes), "f")


@pytest.mark.parametrize(("column", "kind", "accepted"), [
    ("uid", pa.float64(), "integers or text"),
    ("item_id", pa.binary(), "integers or text"),
    ("page", pa.dictionary(pa.int8(), pa.float64()), "integers or text"),
    ("uid", pa.decimal128(20, 2), "integers or text"),
    ("ts", pa.float64(), "integers since 1970, dates or timestamps"),
    ("ts", pa.string(), "integers since 1970, dates or timestamps"),
    ("is_click", pa.string(), "booleans or numbers"),
    ("p_click", pa.bool_(), "numbers"),
    ("region", pa.float32(), "text, integers, booleans or dates"),
    ("region", pa.null(), "text, integers, booleans or dates"),
    ("age", pa.string(), "numbers or dates"),
    ("age", pa.time32("s"), "numbers or dates"),
    ("uid", pa.date32(), "integers or text"),
    ("is_click", pa.date32(), "booleans or numbers"),
    ("p_click", pa.timestamp("ms"), "numbers"),
])
def test_types_that_are_refused(column, kind, accepted):
  with refused(f"day.parquet: column '{column}' has type .*; accepted: "
               f"{accepted}\\.") as error:
    checks.check_types(
        FULL, pa.schema(KINDS | {column: kind}), "day.parquet")
  assert str(kind) in str(error.value)


def test_a_missing_column_is_named_with_the_nearest():
  kinds = {("p_clik" if name == "p_click" else name): kind
           for name, kind in KINDS.items()}
  with refused(r"f: no column 'p_click' \(did you mean 'p_clik'\?\); it has "
               "uid, item_id"):
    checks.check_types(FULL, pa.schema(kinds), "f")


def rows(**changes):
  columns = {
      "uid": [1, 1, 2], "item_id": ["a", "b", "c"], "ts": [1, 2, 3],
      "page": ["p", "p", "q"], "is_click": [0, 1, 0],
      "watch_ms": [0.0, 2.5, 1e9], "p_click": [0.1, None, -3.0],
      "region": ["n", None, "s"], "age": [1, None, 3],
      "tenure": [0.5, float("nan"), float("inf")]}
  return pa.table(columns | changes)


def test_good_rows_pass():
  for table in (rows(), rows().slice(0, 0), rows(is_click=[True, False, True]),
                rows(is_click=[0.0, 1.0, 0.0]),
                pa.concat_tables([rows(), rows()])):
    checks.check_rows(FULL, table, checks.Place("f"))


@pytest.mark.parametrize(("column", "values", "row", "message"), [
    ("uid", [1, None, None], 1, "every row needs its user, got a missing"),
    ("item_id", [None, "a", "b"], 0, "every row needs its item"),
    ("ts", [1, 2, None], 2, "every row needs its time"),
    ("page", ["p", None, "p"], 1, "every row needs its request"),
    ("is_click", [0, None, 1], 1, "every row needs a label, got a missing"),
    ("is_click", [True, True, None], 2, "every row needs a label"),
    ("is_click", [0, 1, 2], 2, r"labels must be 0 or 1 .*in a schema\), got 2"),
    ("is_click", [-1, 1, 2], 0, "labels must be 0 or 1 .* got -1"),
    ("is_click", [0, 1, 2**62], 2, "labels must be 0 or 1 .* got 46116860184"),
    ("is_click", [0.0, 0.5, 1.0], 1, "labels must be 0 or 1 .* got 0.5"),
    ("is_click", [0.0, 1.0, np.nan], 2, "labels must be 0 or 1 .* got nan"),
    ("watch_ms", [0.0, -1.0, 1.0], 1,
     "values must be finite and at least 0, got -1.0"),
    ("watch_ms", [0.0, 1.0, np.inf], 2, "values must be finite"),
    ("watch_ms", [np.nan, 1.0, 1.0], 0, "values must be finite"),
    ("watch_ms", [1.0, None, 1.0], 1, "every row needs a label"),
    ("p_click", [None, 0.1, np.nan], 2,
     r"scores must be finite \(leave missing ones null\), got nan"),
    ("p_click", [None, -np.inf, 0.1], 1, "scores must be finite .* got -inf"),
])
def test_bad_rows_are_named(column, values, row, message):
  with refused(f"file, row group 3: column '{column}', row {500 + row}: "
               f"{message}") as error:
    checks.check_rows(
        FULL, rows(**{column: values}),
        checks.Place("file, row group 3", 500))
  assert "\n" not in str(error.value)


def test_long_values_are_cut_in_messages():
  with pytest.raises(schema_lib.DataError) as caught:
    checks.fail_at(np.array([True]), pa.table({"f": [[0.0] * 99]}), "f",
                   checks.Place("f"), "too long")
  assert str(caught.value).endswith(f"got [{'0.0, ' * 11}0.0,....")
