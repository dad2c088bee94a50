"""Tables of items, and columns of categories and features."""

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import checks
from harmonrank_jax.data import items as items_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from tests.data import candidate_files

ITEMS = {"item_id": list(range(60)), "category": ["a"] * 60,
         "features": [[1.0, k] for k in range(60)]}
PLACE = checks.Place("items.parquet, row group 0", 100)


def read(tmp_path, frame, id_type=None, *, has_category=True,
         has_features=True):
  path = candidate_files.write(frame, tmp_path / "items.parquet")
  return items_lib.read_items(
      path, items_lib.CandidateColumns(), id_type, has_category=has_category,
      has_features=has_features)


def test_a_table_is_read_over_row_groups(tmp_path):
  items = read(tmp_path, ITEMS)
  assert items.ids.to_pylist() == ITEMS["item_id"]
  assert items.categories.to_pylist() == ITEMS["category"]
  assert items.features.dtype == np.float32
  np.testing.assert_array_equal(items.features, ITEMS["features"])


def test_only_what_is_asked_for_is_read_and_checked(tmp_path):
  bad = candidate_files.spoiled(ITEMS, "features", 3, [0.0, 0.0])
  items = read(tmp_path, bad, has_features=False)
  assert items.features is None and items.categories is not None
  items = read(tmp_path, {**ITEMS, "category": [None] * 60},
               has_category=False)
  assert items.categories is None and items.features.shape == (60, 2)


def test_ids_take_the_type_of_the_candidates(tmp_path):
  items = read(tmp_path, ITEMS, pa.int32())
  assert items.ids.type == pa.int32()
  with pytest.raises(
      schema_lib.DataError,
      match="'item_id' has type string, among the candidates it has int64"):
    read(tmp_path, {**ITEMS, "item_id": [f"i{k}" for k in range(60)]},
         pa.int64())


@pytest.mark.parametrize("frame, said", [
    pytest.param(
        candidate_files.spoiled(ITEMS, "item_id", 59, 3),
        "items.parquet: column 'item_id', row 59: 3 stands in row 3 too",
        id="an id comes twice"),
    pytest.param(
        candidate_files.spoiled(ITEMS, "item_id", 59, None),
        "column 'item_id', row 59: every row needs its item",
        id="an id is missing"),
    pytest.param(
        {"item_id": ITEMS["item_id"], "features": ITEMS["features"]},
        "items.parquet: no column 'category'; it has item_id, features",
        id="no category"),
    pytest.param(
        {"item_id": ITEMS["item_id"], "category": ITEMS["category"]},
        "no column 'features' and no embedding_*; it has item_id, category; "
        "name another features column.", id="no features")])
def test_bad_tables(tmp_path, frame, said):
  with pytest.raises(schema_lib.DataError) as caught:
    read(tmp_path, frame)
  assert said in str(caught.value)


@pytest.mark.parametrize("names, name, expected", [
    pytest.param(("features", "embedding_0"), None, ("features",),
                 id="features first"),
    pytest.param(("embedding_0", "x", "embedding_1"), None,
                 ("embedding_0", "embedding_1"), id="numbered"),
    pytest.param(("features", "x"), "x", ("x",), id="named"),
    pytest.param(("features",), "y", (), id="named but missing"),
    pytest.param(("x",), None, (), id="none")])
def test_columns_of_features(tmp_path, names, name, expected):
  path = candidate_files.write(
      {each: [1.0] for each in names}, tmp_path / "log.parquet")
  assert items_lib.feature_columns(
      parquet.ParquetLog(path), name) == expected


def test_features_must_be_numbers(tmp_path):
  path = candidate_files.write(
      {"features": [["a"]]}, tmp_path / "log.parquet")
  with pytest.raises(schema_lib.DataError, match="accepted: lists of numbers"):
    items_lib.feature_columns(parquet.ParquetLog(path), None)


def test_a_column_is_named_if_it_is_nearly_there(tmp_path):
  log = parquet.ParquetLog(candidate_files.write(
      {"categories": ["a"]}, tmp_path / "log.parquet"))
  error = items_lib.missing(log, "category", "category", or_items=True)
  assert str(error) == (
      f"{tmp_path}/log.parquet: no column 'category' (did you mean "
      "'categories'?); it has categories; name another category column, or a "
      "table of items that has it.")


@pytest.mark.parametrize("columns", [
    pytest.param({"f": [[1.0, 2.0], [3.0, 4.0]]}, id="lists"),
    pytest.param({"f": pa.FixedSizeListArray.from_arrays(
        pa.array([1.0, 2.0, 3.0, 4.0]), 2)}, id="fixed size"),
    pytest.param({"f": [1.0, 3.0], "g": [2, 4]}, id="numbers")])
def test_features_come_in_several_forms(columns):
  features = items_lib.read_features(
      pa.table(columns), tuple(columns), PLACE, 2, may_lack=False)
  assert features.dtype == np.float32
  np.testing.assert_array_equal(features, [[1, 2], [3, 4]])


@pytest.mark.parametrize("features, num_features, said", [
    pytest.param([[1.0], None], None, "every item of a log of slates needs "
                 "features that are not all 0: users respond to how similar "
                 "items are, got a missing value", id="missing"),
    pytest.param([[1.0], []], None, "every item of a log of slates needs",
                 id="empty"),
    pytest.param([[1.0], [1.0, 2.0]], None, "expected 1 features as in the "
                 "rows before, got [1.0, 2.0]", id="another length"),
    pytest.param([[1.0, 2.0], [1.0]], 2, "expected 2 features", id="too few"),
    pytest.param([[1.0], [float("inf")]], None, "features must be finite",
                 id="infinite"),
    pytest.param([[1.0], [0.0]], None, "every item of a log of slates needs",
                 id="zero")])
def test_bad_features_are_named(features, num_features, said):
  with pytest.raises(schema_lib.DataError) as caught:
    items_lib.read_features(
        pa.table({"f": features}), ("f",), PLACE, num_features,
        may_lack=False)
  assert f"{PLACE.file}: column 'f', row 101: {said}" in str(caught.value)


LISTS = [None, [], [0.0, 0.0], [None, None], [1.0, 2.0]]


@pytest.mark.parametrize("columns", [
    pytest.param({"f": LISTS}, id="lists"),
    pytest.param({"f": pa.array([each or None for each in LISTS],
                                pa.list_(pa.float64(), 2))}, id="fixed size"),
    pytest.param({"f": [None, None, 0, None, 1], "g": [None, None, 0, None, 2]},
                 id="numbers")])
def test_rows_may_lack_features(columns):
  features = items_lib.read_features(
      pa.table(columns), tuple(columns), PLACE, None, may_lack=True)
  np.testing.assert_array_equal(features, [[0, 0]] * 4 + [[1, 2]])


@pytest.mark.parametrize("features, expected", [
    pytest.param([None, [], [1.0, 2.0]], [[0, 0], [0, 0], [1, 2]], id="some"),
    pytest.param([None, [], [0.0]], [[0], [0], [0]], id="none")])
def test_items_may_lack_features(tmp_path, features, expected):
  path = candidate_files.write(
      {"item_id": [1, 2, 3], "features": features}, tmp_path / "i.parquet",
      row_group_size=1)
  items = items_lib.read_items(
      path, items_lib.CandidateColumns(), None, has_category=False,
      has_features=True)
  np.testing.assert_array_equal(items.features, expected)


def test_categories_become_texts():
  table = pa.table({"c": pa.array([3, 4]).dictionary_encode()})
  assert items_lib.read_categories(table, "c", PLACE).to_pylist() == ["3", "4"]
  with pytest.raises(schema_lib.DataError, match="row 101: every item needs"):
    items_lib.read_categories(pa.table({"c": ["a", None]}), "c", PLACE)


def test_titles_are_those_of_the_items_wanted(tmp_path):
  frame = {"id": [7, 8, 7, 9, 8, 5], "name": [None, "b", "a", "", "c", "d"]}
  log = parquet.ParquetLog(candidate_files.write(
      frame, tmp_path / "titles.parquet", row_group_size=2))
  titles = lambda ids, kind: items_lib.read_titles(
      log, "id", "name", pa.array(ids, kind))
  # The first that there is; ids of another width are the same ids.
  assert titles([7, 8, 9, 6], pa.int32()) == {7: "a", 8: "b", 9: ""}
  assert titles([], pa.int64()) == {}
  # As texts, too.
  assert titles(["7", "8", "x"], pa.string()) == {"7": "a", "8": "b"}
  with pytest.raises(schema_lib.DataError, match=r"no column 'nam'.*'name'"):
    items_lib.read_titles(log, "id", "nam", pa.array([7]))
