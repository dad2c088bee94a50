"""Candidates read from files: chunks, forms of columns, bad rows."""

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.data import chunks as chunks_lib
from harmonrank_jax.data import items as items_lib
from harmonrank_jax.data import schema as schema_lib
from tests.data import candidate_files

SIZES = candidate_files.SIZES


@pytest.fixture
def frame():
  return candidate_files.make_frame()


@pytest.mark.parametrize("read_rows, chunk_rows, row_group_size", [
    pytest.param(7, 20, 50, id="small reads"),
    pytest.param(1, 1, 9, id="row by row"),
    pytest.param(30, 60, 13, id="small row groups"),
    pytest.param(19, 10**6, 1000, id="one chunk")])
def test_requests_run_on_over_the_ends_of_what_is_read(
    tmp_path, frame, read_rows, chunk_rows, row_group_size):
  path = candidate_files.write(
      frame, tmp_path / "data.parquet", row_group_size=row_group_size)
  whole, facts = candidate_files.read(path)
  candidates = candidate_files.opened(path, read_rows=read_rows)
  assert candidates.check() == facts == candidates_lib.Facts(
      len(SIZES), sum(SIZES), 40, facts.categories)
  chunks = list(candidates.chunks(facts, chunk_rows=chunk_rows))
  # Memory holds a chunk, the rows that were read last and an open request.
  most = chunk_rows + read_rows + max(SIZES)
  assert all(len(chunk.scores) <= most for chunk in chunks)
  assert chunk_rows > 100 or len(chunks) > 2
  candidate_files.assert_same(chunks_lib.joined_chunks(chunks), whole)
  assert np.diff(whole.starts).tolist() == list(SIZES)


def test_categories_are_counted(tmp_path, frame):
  _, facts = candidate_files.read(
      candidate_files.write(frame, tmp_path / "data.parquet"))
  assert facts.categories == {
      name: frame["category"].count(name)
      for name in candidate_files.CATEGORIES}
  assert list(facts.categories) == list(candidate_files.CATEGORIES)


def test_a_folder_is_one_file(tmp_path, frame):
  whole, _ = candidate_files.read(
      candidate_files.write(frame, tmp_path / "data.parquet"))
  folder = tmp_path / "parts"
  folder.mkdir()
  table = pa.table(frame)
  candidate_files.write(table.slice(0, 30), folder / "a.parquet")
  candidate_files.write(table.slice(30), folder / "b.parquet")
  parts, facts = candidate_files.read(folder)
  assert parts.request_ids.equals(whole.request_ids)
  assert facts.num_requests == len(SIZES)


def test_of_a_repeated_item_the_best_score_is_kept(tmp_path):
  frame = {"request_id": [1, 1, 1, 1, 2, 2], "item_id": [7, 8, 7, 7, 7, 8],
           "score": [0.2, 0.3, 0.5, 0.5, 0.1, 0.9],
           "category": ["a", "b", "c", "d", "a", "b"],
           "features": [[1.0, k] for k in range(6)]}
  chunk, facts = candidate_files.read(
      candidate_files.write(frame, tmp_path / "data.parquet"))
  assert chunk.num_repeated == 2 and facts.num_rows == 6
  assert chunk.item_ids.to_pylist() == [8, 7, 7, 8]
  assert chunk.scores.tolist() == [0.3, 0.5, 0.1, 0.9]
  # Of equal scores the first row is kept, with its other columns.
  assert chunk.features[:, 1].tolist() == [1, 2, 4, 5]
  assert chunk.starts.tolist() == [0, 2, 4]


def in_columns(frame):
  features = np.asarray(frame["features"], np.float32)
  columns = {f"embedding_{k}": features[:, k]
             for k in range(candidate_files.NUM_FEATURES)}
  return {**frame, **columns, "features": None}


def in_lists_of_fixed_size(frame):
  flat = np.asarray(frame["features"], np.float32).reshape(-1)
  return {**frame, "features": pa.FixedSizeListArray.from_arrays(
      pa.array(flat), candidate_files.NUM_FEATURES)}


def encoded(frame):
  return {**frame, **{name: pa.array(frame[name]).dictionary_encode()
                      for name in ("category", "request_id")}}


@pytest.mark.parametrize("change, columns", [
    pytest.param(in_columns, items_lib.CandidateColumns(),
                 id="numbered columns"),
    pytest.param(in_lists_of_fixed_size, items_lib.CandidateColumns(),
                 id="lists of fixed size"),
    pytest.param(encoded, items_lib.CandidateColumns(), id="dictionaries"),
    pytest.param(lambda frame: {f"my_{name}": frame[name] for name in frame},
                 items_lib.CandidateColumns(
                     "my_request_id", "my_item_id", "my_score", "my_category",
                     "my_features"),
                 id="other names")])
def test_columns_come_in_several_forms(tmp_path, frame, change, columns):
  whole, _ = candidate_files.read(
      candidate_files.write(frame, tmp_path / "data.parquet"))
  changed = {name: values for name, values in change(frame).items()
             if values is not None}
  chunk, _ = candidate_files.read(
      candidate_files.write(changed, tmp_path / "other.parquet"), None,
      columns)
  candidate_files.assert_same(chunk, whole)


def test_a_table_of_items_holds_what_candidates_lack(tmp_path, frame):
  rng = np.random.default_rng(1)
  items = {"item_id": rng.permutation(60).astype(np.int32),
           "category": [f"c{k % 7}" for k in range(60)],
           "features": rng.normal(size=(60, 3)).tolist()}
  table = candidate_files.write(items, tmp_path / "items.parquet")
  chunk, facts = candidate_files.read(candidate_files.write(
      candidate_files.without_items(frame), tmp_path / "bare.parquet"), table)
  place = np.argsort(items["item_id"])[chunk.item_ids.to_numpy()]
  np.testing.assert_array_equal(
      chunk.features, np.asarray(items["features"], np.float32)[place])
  vocabulary = list(facts.categories)
  assert [vocabulary[k] for k in chunk.categories] == [
      items["category"][k] for k in place]


def test_columns_of_candidates_come_before_those_of_the_table(tmp_path, frame):
  path = candidate_files.write(frame, tmp_path / "data.parquet")
  items = {"item_id": list(range(60)), "category": ["other"] * 60,
           "features": [[1.0]] * 60}
  table = candidate_files.write(items, tmp_path / "items.parquet")
  candidate_files.assert_same(candidate_files.read(path, table)[0],
                          candidate_files.read(path)[0])


# Bad input.


def refusal(tmp_path, frame, items=None, **options):
  """The line with which a file is refused."""
  path = candidate_files.write(frame, tmp_path / "data.parquet")
  if items is not None:
    items = candidate_files.write(items, tmp_path / "items.parquet")
  with pytest.raises(schema_lib.DataError) as caught:
    candidate_files.opened(path, items, **options).check()
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize("column, row, value, said", [
    pytest.param("request_id", 3, None, "every row needs its request",
                 id="no request"),
    pytest.param("item_id", 51, None, "every row needs its item",
                 id="no item"),
    pytest.param("score", 149, None, "scores must be finite, got a missing "
                 "value", id="no score"),
    pytest.param("score", 0, float("nan"), "scores must be finite, got nan",
                 id="NaN score"),
    pytest.param("score", 12, float("inf"), "scores must be finite, got inf",
                 id="infinite score"),
    pytest.param("score", 60, 0.0, "needs scores above 0 (raw relevance takes "
                 "any), got 0.0", id="score of 0"),
    pytest.param("category", 99, None, "every item needs its category",
                 id="no category"),
    pytest.param("features", 1, [1.0] * 5, "expected 6 features as in the "
                 "rows before", id="too few features"),
    pytest.param("features", 2, [1.0, None, 0, 0, 0, 0],
                 "features must be finite", id="a feature is missing")])
def test_the_first_bad_row_is_named(tmp_path, frame, column, row, value, said):
  message = refusal(
      tmp_path, candidate_files.spoiled(frame, column, row, value))
  assert said in message and f"column {column!r}, row {row}:" in message
  assert f"data.parquet, row group {row // 50}" in message


@pytest.mark.parametrize("lacking", [None, [], [0.0] * 6])
def test_candidates_may_lack_features(tmp_path, frame, lacking):
  features = list(frame["features"])
  # More than are read at a time, so that their length is seen later.
  features[:70] = [lacking] * 70
  path = candidate_files.write(
      {**frame, "features": features}, tmp_path / "data.parquet")
  chunk, _ = candidate_files.read(path, read_rows=50)
  assert chunk.features.shape[1] == 6
  assert (chunk.features == 0).all(axis=1).sum() == 70 - chunk.num_repeated


def test_scores_may_have_any_sign(tmp_path, frame):
  frame["score"] = np.log(frame["score"])
  path = candidate_files.write(frame, tmp_path / "data.parquet")
  chunk, _ = candidate_files.read(path, positive_scores=False)
  assert chunk.scores.max() < 0


@pytest.mark.parametrize("compared_ids", [
    pytest.param(1, id="in parts"), pytest.param(10**6, id="at once")])
def test_a_request_that_comes_again_is_named(tmp_path, frame, compared_ids):
  names = frame["request_id"]
  again, first = names[0], names[120]
  names[-2:] = [first, first]
  message = refusal(tmp_path, frame, compared_ids=compared_ids)
  assert (f"row group 3: column 'request_id', row {sum(SIZES) - 2}: the rows "
          "of a request must stand together (sort by it), got "
          f"{first!r} again") in message
  assert f"row group 1, row {names.index(first)}" in message and again != first


def without(name):
  return lambda frame: {n: values for n, values in frame.items() if n != name}


@pytest.mark.parametrize("change, said", [
    pytest.param(without("score"), "no column 'score'", id="no score"),
    pytest.param(without("category"),
                 "no column 'category'; it has request_id, item_id, score, "
                 "features; name another category column, or a table of items "
                 "that has it.", id="no category"),
    pytest.param(without("features"),
                 "no column 'features' and no embedding_*; it has",
                 id="no features"),
    pytest.param(lambda frame: {**frame, "request_id": np.zeros(193)},
                 "'request_id' has type double; accepted: integers or text",
                 id="requests are numbers"),
    pytest.param(lambda frame: {**frame, "score": frame["category"]},
                 "'score' has type string; accepted: numbers",
                 id="scores are texts"),
    pytest.param(lambda frame: {**frame, "features": [["a"]] * 193},
                 "accepted: lists of numbers in one column, or numbers in "
                 "embedding_*", id="features are texts")])
def test_bad_columns_are_named(tmp_path, frame, change, said):
  assert said in refusal(tmp_path, change(frame))


def test_an_item_must_be_in_the_table(tmp_path, frame):
  items = {"item_id": [*range(59), 60], "category": ["a"] * 60,
           "features": [[1.0, k] for k in range(60)]}
  bare = candidate_files.without_items(frame)
  message = refusal(tmp_path, bare, items)
  assert "the table of items does not have the item, got 59" in message
  assert f"'item_id', row {frame['item_id'].index(59)}:" in message


def test_integers_beyond_32_bits_stay_apart(tmp_path, frame):
  whole, _ = candidate_files.read(
      candidate_files.write(frame, tmp_path / "data.parquet"))
  # Ids that differ in their upper half only, and views that float32 merges.
  wide = frame | {
      "request_id": [int(name[1:]) << 32 for name in frame["request_id"]],
      "item_id": [item << 33 for item in frame["item_id"]],
      "score": 3_000_000_000 + np.argsort(np.argsort(frame["score"]))}
  chunk, _ = candidate_files.read(
      candidate_files.write(wide, tmp_path / "wide.parquet"))
  assert chunk.num_repeated == whole.num_repeated == 0
  np.testing.assert_array_equal(chunk.starts, whole.starts)
  np.testing.assert_array_equal(
      np.argsort(chunk.scores), np.argsort(whole.scores))
  assert chunk.item_ids.to_pylist() == [
      item << 33 for item in whole.item_ids.to_pylist()]
