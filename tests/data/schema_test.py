"""Schemas are understood, written, read and enforced as documented."""

import json

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


def test_nearest_says_nothing_where_nothing_is_near():
  assert schema_lib.nearest("clck", ["click", "like"]) == (
      " (did you mean 'click'?)")
  assert schema_lib.nearest("zzz", ["click", "like"]) == ""
  assert schema_lib.nearest("click", []) == ""
