"""Schemas are understood, written, read and enforced as documented."""

import json

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import schema as schema_lib

Objective, Schema = schema_lib.Objective, schema_lib.Schema

FULL = Schema(
    (Objective("click", "is_click", "p_click"),
     Objective("watch", "watch_ms", None, is_value=True)),
    user="uid", item="item_id", time="ts", request="page",
    categorical=("uid", "item_id", "region"), numeric=("age", "tenure"))


def refused(message):
  return pytest.raises(schema_lib.DataError, match=message)


def by_name(few_values=(), **kinds):
  return schema_lib.schema_from_names(pa.schema(kinds), few_values)


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
  schema = schema_lib.schema_from_names(arrow_schema, irregular=irregular)
  assert schema.numeric == ("age",) and schema.categorical == ()
  lines = schema_lib.left_out(schema, arrow_schema, irregular)
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


def test_columns_are_those_read_once():
  assert FULL.columns == ("uid", "item_id", "ts", "page", "is_click",
                          "watch_ms", "p_click", "region", "age", "tenure")


def test_description_names_every_role():
  assert FULL.describe().splitlines() == [
      "objective click: label is_click (0/1), score p_click",
      "objective watch: label watch_ms (values)",
      "user: uid", "item: item_id", "time: ts", "request: page",
      "categorical: uid, item_id, region", "numeric: age, tenure"]
  assert "categorical: none" in Schema((Objective("a", "a"),)).describe()


def test_some_objectives():
  assert FULL.with_objectives(["watch", "click"]).names == ("watch", "click")
  assert FULL.with_objectives(["watch", "watch"]).names == ("watch",)
  assert FULL.with_objectives(["click"]).numeric == FULL.numeric
  with refused(r"objective 'clik' is not in the data \(did you mean 'click'\?"
               r"\); it has click, watch\."):
    FULL.with_objectives(["clik"])
  with refused("no objective is left"):
    FULL.with_objectives([])


def test_json_round_trip(tmp_path):
  path = tmp_path / "schema.json"
  for schema in (FULL, Schema((Objective("a", "a"),))):
    path.write_text(json.dumps(schema.to_json()))
    assert schema_lib.read_schema(path) == schema


def test_json_defaults():
  schema = schema_lib.schema_from_json({"objectives": {
      "click": {}, "like": None, "buy": {"label": "order", "score": None},
      "watch": {"value": True}}})
  assert schema.objectives == (
      Objective("click", "click", "score_click"),
      Objective("like", "like", "score_like"),
      Objective("buy", "order", None),
      Objective("watch", "watch", "score_watch", is_value=True))


OK = {"objectives": {"click": {}}}


@pytest.mark.parametrize(("content", "message"), [
    ([], "must be a JSON object"),
    ({}, "'objectives' must be an object with at least one name"),
    ({"objectives": {}}, "'objectives' must be an object with at least one"),
    ({"objectives": ["click"]}, "'objectives' must be an object"),
    (OK | {"objectves": {}},
     r"unknown key 'objectves' \(did you mean 'objectives'\?\); known are "
     "user, item, time, request, objectives, categorical, numeric"),
    (OK | {"zzz": 1}, "unknown key 'zzz'; known are"),
    ({"objectives": {"click": "is_click"}},
     "objective 'click' must be an object"),
    ({"objectives": {"click": {"lable": "is_click"}}},
     r"objective 'click': unknown key 'lable' \(did you mean 'label'\?\)"),
    ({"objectives": {"click": {"label": 3}}},
     "objective 'click': 'label' has a wrong type"),
    ({"objectives": {"click": {"score": ["s"]}}},
     "objective 'click': 'score' has a wrong type"),
    ({"objectives": {"click": {"value": 1}}},
     "objective 'click': 'value' has a wrong type"),
    (OK | {"user": 3}, "'user' must be the name of a column"),
    (OK | {"time": ["a"]}, "'time' must be the name of a column"),
    (OK | {"numeric": "age"}, "'numeric' must be a list of columns"),
    (OK | {"categorical": [1]}, "'categorical' must be a list of columns"),
    (OK | {"numeric": ["age"], "categorical": ["age"]},
     "column 'age' has two roles, categorical and numeric"),
    (OK | {"categorical": ["a", "a"]}, "column 'a' has two roles"),
    (OK | {"user": "u", "item": "u"},
     "column 'u' has two roles, user and item"),
    (OK | {"numeric": ["click"]},
     "column 'click' has two roles, label of click and numeric"),
    (OK | {"categorical": ["score_click"]},
     "column 'score_click' has two roles, score of click and categorical"),
    ({"objectives": {"a": {"label": "x"}, "b": {"label": "x"}}},
     "column 'x' has two roles, label of a and label of b"),
    (OK | {"user": "u", "numeric": ["u"]},
     "column 'u' has two roles, user and numeric"),
    (OK | {"time": "t", "categorical": ["t"]},
     "column 't' has two roles, time and categorical"),
    (OK | {"request": "r", "categorical": ["r"]},
     "column 'r' has two roles, request and categorical"),
    *((OK | {kind: [column]},
       f"column '{column}' is an outcome of its own row and no feature")
      for column in schema_lib.OUTCOMES for kind in ("categorical", "numeric")),
])
def test_json_that_is_refused(content, message):
  with refused(message) as error:
    schema_lib.schema_from_json(content)
  assert "\n" not in str(error.value)


def test_an_outcome_may_be_a_value_objective():
  schema = schema_lib.schema_from_json({"objectives": {
      "watch": {"label": "play_time_ms", "value": True}}})
  assert schema.objectives[0].label == "play_time_ms"


def test_files_that_are_refused(tmp_path):
  path = tmp_path / "schema.json"
  with refused(r"schema .*schema\.json: no such file"):
    schema_lib.read_schema(path)
  with refused(r"schema .*: not readable as JSON"):
    schema_lib.read_schema(tmp_path)
  for content in (b"{", b"", b"\xff\xfe"):
    path.write_bytes(content)
    with refused(r"schema .*schema\.json: not readable as JSON \("):
      schema_lib.read_schema(path)
  path.write_text("{}")
  with refused(r"schema .*schema\.json: 'objectives' must be an object"):
    schema_lib.read_schema(path)


def test_numbers():
  numbers = schema_lib.numbers_of(
      pa.chunked_array([[1, None], [2**60 + 1]], pa.int64()))
  assert numbers.dtype == np.float64
  np.testing.assert_array_equal(numbers, [1, np.nan, 2.0**60])
  np.testing.assert_array_equal(
      schema_lib.numbers_of(pa.chunked_array([[True, None, False]])),
      [1, np.nan, 0])


def test_nearest_says_nothing_where_nothing_is_near():
  assert schema_lib.nearest("clck", ["click", "like"]) == (
      " (did you mean 'click'?)")
  assert schema_lib.nearest("zzz", ["click", "like"]) == ""
  assert schema_lib.nearest("click", []) == ""


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
      schema_lib.schema_from_names(columns)
  else:
    assert name in schema_lib.schema_from_names(columns).numeric
