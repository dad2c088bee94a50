"""Roles are found by the names of columns, and what misleads is refused."""

import pyarrow as pa
import pytest

from harmonrank_jax.data import naming
from harmonrank_jax.data import schema as schema_lib

Objective = schema_lib.Objective


def refused(message):
  return pytest.raises(schema_lib.DataError, match=message)


def by_name(few_values=(), **kinds):
  return naming.schema_from_names(pa.schema(kinds), few_values)


def test_roles_by_name():
  schema = by_name(
      few_values=["tab"], click=pa.int8(), score_click=pa.float32(),
      buy=pa.bool_(), score_buy=pa.float64(), user_id=pa.int64(),
      item_id=pa.string(), request_id=pa.int32(), time_ms=pa.int64(),
      region=pa.string(), device=pa.dictionary(pa.int8(), pa.string()),
      city=pa.large_string(), is_new=pa.bool_(), tab=pa.int8(),
      age=pa.int32(), tenure=pa.float32())
  assert schema.names == ("click", "buy")
  assert schema.objectives[0] == Objective("click", "click", "score_click")
  assert schema.ids == {"user": "user_id", "item": "item_id",
                        "time": "time_ms", "request": "request_id"}
  assert schema.categorical == ("region", "device", "city", "is_new", "tab")
  assert schema.numeric == ("age", "tenure")


def test_ids_are_optional_and_no_profile_is_fine():
  schema = by_name(click=pa.int8(), score_click=pa.float32())
  assert schema.ids == {}
  assert schema.columns == ("click", "score_click")
  assert schema.categorical == schema.numeric == ()


@pytest.mark.parametrize(("kinds", "message"), [
    ({"a": pa.int8(), "b": pa.string()},
     "no objective found by name: expected columns <objective> and "
     "score_<objective>, got a, b; name the roles in a schema"),
    ({"clicks": pa.int8(), "score_click": pa.float32()},
     r"column 'score_click' has no column 'click' of labels \(did you mean "
     r"'clicks'\?\)"),
    ({"score_click": pa.float32(), "score_clicks": pa.float32()},
     "column 'score_click' has no column 'click' of labels"),
    ({"click": pa.int8(), "score_click": pa.float32(),
      "play_time_ms": pa.int64()},
     "column 'play_time_ms' is an outcome of its own row and no feature"),
    ({"time_ms": pa.int64(), "score_time_ms": pa.float32()},
     "column 'time_ms' has two roles, time and label of time_ms"),
])
def test_names_that_are_refused(kinds, message):
  with refused(message):
    by_name(**kinds)


def test_columns_that_are_no_profile_are_left_out_and_said():
  kinds = {"click": pa.int8(), "score_click": pa.float32(), "age": pa.int8(),
           "tags": pa.list_(pa.int8()), "price": pa.decimal128(9, 2),
           "day": pa.date32(), "seen": pa.timestamp("us"), "none": pa.null(),
           "__index_level_0__": pa.int64(), "Unnamed: 0": pa.int64(),
           "odd": pa.string()}
  irregular = {"odd": "2.parquet: no column 'odd', which 1.parquet has."}
  arrow_schema = pa.schema(kinds)
  schema = naming.schema_from_names(arrow_schema, irregular=irregular)
  assert schema.numeric == ("age",) and schema.categorical == ()
  lines = naming.left_out(schema, arrow_schema, irregular)
  assert lines[:3] == [
      "column '__index_level_0__' is left out: it numbers the rows.",
      "column 'Unnamed: 0' is left out: it numbers the rows.",
      "column 'odd' is left out: 2.parquet: no column 'odd', which 1.parquet "
      "has."]
  assert lines[3].startswith(
      "left out, for their types: tags (list<item: int8>), price "
      "(decimal128(9, 2)), day (date32[day]), seen (timestamp[us]), none "
      "(null);")
  # A column of such a type has the role that its name gives.
  schema = by_name(click=pa.int8(), score_click=pa.decimal128(9, 4),
                   user_id=pa.decimal128(20, 0), time_ms=pa.date32())
  assert schema.ids == {"user": "user_id", "time": "time_ms"}


@pytest.mark.parametrize("name, fails", [
    ("scor_like", True), ("socre_like", True), ("user_like", False),
    ("Score_Like", True), ("SCORE_LIKE", True), ("Score_Other", False),
    ("like_score", False), ("other", False), ("true_click", True),
    ("True_Click", True), ("Click", True)])
def test_a_score_with_a_slip_is_no_feature(name, fails):
  columns = pa.schema([(column, pa.float64()) for column in (
      "click", "score_click", "like", name)])
  if fails:
    with pytest.raises(schema_lib.DataError, match=f"{name}.*looks like"):
      naming.schema_from_names(columns)
  else:
    assert name in naming.schema_from_names(columns).numeric
