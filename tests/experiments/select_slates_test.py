"""Slates from files of candidates: what is read, selected, written, shown."""

import contextlib
import dataclasses
import io
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import select_slates
from experiments.runs import errors
from experiments.slates import comparison as slate_comparison
from experiments.slates import inputs as inputs_lib
from experiments.slates import selection
from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.data import items as item_columns
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.diversity import flow_pool
from harmonrank_jax.diversity import greedy
from harmonrank_jax.serving import selector as slates
from tests import browser

ROOT = pathlib.Path(__file__).parents[2]
CATEGORIES = ("phones", "books", "toys")
# Rows of the requests, in their order; slates have five slots.
SIZES = (20, 3, 40, 1, 17, 16, 30, 25, 8, 33)
NUM_SELECTED, NUM_FEATURES, THETA = 5, 6, 0.6


@pytest.fixture
def frame():
  """Columns of a good file; a test spoils them."""
  return make_frame()


def make_frame():
  rng = np.random.default_rng(0)
  rows = sum(SIZES)
  names = [f"r{k:02}" for k in rng.permutation(len(SIZES))]
  return {
      "request_id": np.repeat(names, SIZES).tolist(),
      "item_id": np.concatenate([
          rng.choice(60, size, replace=False) for size in SIZES]),
      "score": rng.uniform(0.01, 0.99, rows),
      "category": rng.choice(CATEGORIES, rows, p=(0.6, 0.3, 0.1)).tolist(),
      "features": rng.normal(size=(rows, NUM_FEATURES)).tolist()}


def write(frame, path, **options):
  options.setdefault("row_group_size", 50)
  pq.write_table(pa.table(frame), path, **options)
  return str(path)


def config(data, **changes):
  return select_slates.Config(**{
      "data": data, "num_selected": NUM_SELECTED, "theta": THETA, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run on the good file: its workdir, summary and what it said."""
  folder = tmp_path_factory.mktemp("slates")
  data = write(make_frame(), folder / "candidates.parquet")
  with contextlib.redirect_stdout(io.StringIO()) as said:
    summary = select_slates.select(config(data), folder / "run")
  return folder / "run", summary, said.getvalue()


def opened(path, items=None, columns=None, **options):
  options.setdefault("positive_scores", True)
  return candidates_lib.Candidates(
      path, items, columns or item_columns.Columns(), **options)


def read(path, *args, **options):
  """Everything in a file as one chunk, and the facts."""
  candidates = opened(path, *args, **options)
  facts = candidates.check()
  return candidates_lib.joined_chunks(list(candidates.chunks(facts))), facts


def at_once(frame, select):
  """Slates of a frame by one call on all requests, padded to the largest.

  Args:
    frame: columns.
    select: from features, relevance, mask and categories to a `Slate`.
  """
  names = list(dict.fromkeys(frame["request_id"]))
  rows = [np.flatnonzero(np.asarray(frame["request_id"]) == name)
          for name in names]
  most = max(map(len, rows))
  place = np.stack([np.pad(r, (0, most - len(r))) for r in rows])
  where = np.arange(most) < np.asarray([[len(r)] for r in rows])
  vocabulary = sorted(
      set(frame["category"]),
      key=lambda name: (-frame["category"].count(name), name))
  categories = np.asarray([vocabulary.index(c) for c in frame["category"]])
  slate = jax.jit(select)(
      jnp.asarray(np.asarray(frame["features"], np.float32)[place]),
      jnp.asarray(np.log(frame["score"])[place], jnp.float32),
      jnp.asarray(where), jnp.asarray(categories[place]))
  found = []
  for name, row, indices, gains in zip(
      names, rows, np.asarray(slate.indices), np.asarray(slate.gains),
      strict=True):
    found += [(name, slot, int(frame["item_id"][row[index]]), float(gain))
              for slot, (index, gain) in enumerate(
                  zip(indices, gains, strict=True)) if index >= 0]
  return found


def assert_same_slates(table, expected):
  assert table.column_names == ["request_id", "slot", "item_id", "gain"]
  assert list(zip(*(table[name].to_pylist() for name in (
      "request_id", "slot", "item_id")), strict=True)) == [
          row[:3] for row in expected]
  np.testing.assert_allclose(
      table["gain"].to_numpy(), [row[3] for row in expected], atol=1e-4)


def by_dpp(features, relevance, where, categories):
  del categories
  return greedy.greedy_dpp(
      features, relevance, num_selected=NUM_SELECTED, theta=THETA, where=where)


# A whole run.


def test_a_workdir_holds_everything(finished):
  workdir, summary, _ = finished
  assert {p.name for p in workdir.iterdir()} == {
      "config.json", "slates.parquet", "slates.html", "report.html",
      "summary.json"}
  assert json.loads((workdir / "summary.json").read_text()) == summary
  assert summary["num_requests"] == len(SIZES)
  assert summary["num_candidates"] == sum(SIZES)
  assert summary["largest"] == 40 and summary["num_features"] == NUM_FEATURES
  assert summary["num_empty_slots"] == 2 + 4
  assert set(summary["methods"]) == set(slates.METHODS)
  for values in summary["methods"].values():
    assert 0 < values["score"]["mean"] < 1 and values["score"]["error"] > 0


def test_streamed_slates_are_those_of_one_call(finished):
  workdir, *_ = finished
  table = pq.read_table(workdir / "slates.parquet")
  assert_same_slates(table, at_once(make_frame(), by_dpp))
  assert table.schema.field("slot").type == pa.int32()


def test_a_compile_for_each_size(finished):
  _, summary, said = finished
  assert summary["compiled_sizes"] == [16, 32, 64]
  assert "3 compiled (requests padded to 16, 32, 64)" in said


def test_the_terminal_ends_with_a_table_and_where_to_look(finished):
  workdir, _, said = finished
  assert "10 requests, 193 candidates, 40 at most; 3 categories" in said
  assert "6 of 50 slots are empty" in said
  *_, dpp, mmr, ssd, top_k, paths = said.splitlines()
  for method, line in zip(
      slates.METHODS, (dpp, mmr, ssd, top_k), strict=True):
    assert line.startswith(f"{method} ") and line.count("±") == 7
  assert str(workdir / "slates.html") in paths


def test_the_report_is_one_file(finished):
  workdir, *_ = finished
  page = (workdir / "report.html").read_text()
  assert page.count("<svg") == 2 and page.count("<table") == 1
  assert "src=" not in page and "href=\"http" not in page
  for name in (*slates.METHODS, *CATEGORIES, "10 of 10 requests"):
    assert name in page


def page_data(workdir):
  text = (workdir / "slates.html").read_text()
  data, = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
  return json.loads(data)


def test_the_page_shows_the_slates_of_the_library(finished):
  workdir, *_ = finished
  text, data = (workdir / "slates.html").read_text(), page_data(workdir)
  # http://www.w3.org names what is drawn, nothing is fetched.
  assert "src=" not in text and text.count("http") == 1
  assert data["method"] == "dpp" and data["theta"] == THETA
  frame = make_frame()
  expected = at_once(frame, by_dpp)
  step = data["thetas"].index(THETA)
  assert len(data["requests"]) == 4
  for request in data["requests"]:
    found = request["slates"]["dpp"][step]
    items = [request["items"][place] for place in found["items"]]
    assert [(request["id"], int(item["id"])) for item in items] == [
        (row[0], row[2]) for row in expected if row[0] == request["id"]]
    rows = [next(k for k in range(len(frame["score"]))
                 if frame["request_id"][k] == request["id"]
                 and frame["item_id"][k] == int(item["id"])) for item in items]
    unit = np.asarray(frame["features"])[rows]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert [item["category"] for item in items] == [
        frame["category"][row] for row in rows]
    if len(items) > 1:
      assert found["distance"] == pytest.approx(
          1 - (unit @ unit.T)[np.triu_indices(len(unit), 1)].mean(), abs=1e-3)
    for k, nearest in enumerate(found["nearest"]):
      assert nearest is None if not k else nearest == pytest.approx(
          max(unit[k] @ unit[j] for j in range(k)), abs=1e-3)
    # Towards 1 every method is top-K.
    last = [request["slates"][method][-1]["items"]
            for method in slates.METHODS]
    assert last == last[-1:] * 4


def test_another_configuration_is_refused(finished):
  workdir, summary, _ = finished
  with pytest.raises(errors.UserError, match=r"--theta was 0\.6, now 0\.5"):
    select_slates.select(config(summary["config"]["data"], theta=0.5), workdir)


# Selection.


@pytest.mark.parametrize("method, changes", [
    ("dpp", {"ridge": 0.9, "fill": "relevance"}), ("mmr", {}), ("ssd", {}),
    ("top_k", {})])
def test_methods_by_chunks_are_those_of_one_call(tmp_path, frame, method,
                                                 changes):
  chunk, facts = read(write(frame, tmp_path / "data.parquet"))
  quota = np.asarray([2, 3, 1], np.int32)
  rules = slates.Rules(NUM_SELECTED, window=3, quotas=quota, **changes)
  selector = slates.Selector(method, rules)
  parts = [candidates_lib.requests_of(chunk, np.arange(k, k + 5))
           for k in (0, 5)]
  with slates.slate_file(tmp_path / "slates.parquet") as save:
    for part in parts:
      # Of one size, for a single compile.
      save(part, selector(part, np.log(part.scores), THETA, least_size=64))

  def select(features, relevance, where, categories):
    same = {"num_selected": NUM_SELECTED, "where": where,
            "category_ids": categories, "quotas": jnp.asarray(quota)}
    if method == "top_k":
      return greedy.greedy_top_k(relevance, **same)
    return getattr(greedy, f"greedy_{method}")(
        features, relevance, theta=THETA, window=3, **same, **changes)

  assert_same_slates(pq.read_table(tmp_path / "slates.parquet"),
                     at_once(frame, select))
  assert list(facts.categories) == list(CATEGORIES)


def test_a_size_is_compiled_once(tmp_path, frame):
  chunk, _ = read(write(frame, tmp_path / "data.parquet"))
  selector = slates.Selector("mmr", slates.Rules(NUM_SELECTED))
  for theta in (0.1, 0.9):
    for places in (np.arange(10), np.asarray([4]), np.asarray([2, 9])):
      part = candidates_lib.requests_of(chunk, places)
      selector(part, np.log(part.scores), theta)
  assert sorted(selector.compiled) == [16, 32, 64]
  selector(chunk, np.log(chunk.scores), 0.5, least_size=64)
  assert sorted(selector.compiled) == [16, 32, 64]


def test_sizes_are_powers_of_two():
  assert slates.padded_size([1, 16, 17, 32, 33, 1000]).tolist() == [
      16, 16, 32, 32, 64, 1024]
  assert slates.padded_size([1, 1000], 256).tolist() == [256, 1024]


def slates_by_category(workdir, frame):
  """Counts `[R, C]` of the slates that were written."""
  category = {(r, i): CATEGORIES.index(c) for r, i, c in zip(
      frame["request_id"], frame["item_id"], frame["category"], strict=True)}
  counts = {name: np.zeros(3, int) for name in frame["request_id"]}
  table = pq.read_table(workdir / "slates.parquet")
  for request, item in zip(table["request_id"].to_pylist(),
                           table["item_id"].to_pylist(), strict=True):
    counts[request][category[request, item]] += 1
  return np.stack(list(counts.values()))


def test_quotas_are_kept(tmp_path, frame):
  settings = config(
      write(frame, tmp_path / "data.parquet"), quota=("2", "toys=0"))
  inputs = inputs_lib.read_inputs(settings, tmp_path)
  selection.select(
      settings, inputs, np.arange(2), tmp_path / "slates.parquet")
  counts = slates_by_category(tmp_path, frame)
  assert counts.max(axis=0).tolist() == [2, 2, 0]


def test_a_pool_comes_before_the_slate(tmp_path, frame):
  path = write(frame, tmp_path / "data.parquet")
  chunk, facts = read(path)
  rules = inputs_lib.make_rules(
      config(path, pool_quota=("phones=3", "books=2")), facts)
  assert rules.pool_quotas.tolist() == [3, 2, 0]
  picks = slates.Selector("dpp", rules)(
      chunk, np.log(chunk.scores), THETA, least_size=64)
  with slates.slate_file(tmp_path / "slates.parquet") as save:
    save(chunk, picks)

  def select(features, relevance, where, categories):
    pool = flow_pool.flow_pool(
        features, relevance, categories, jnp.asarray([3, 2, 0]), theta=THETA,
        pool_size=5, where=where)
    kept = jnp.any(
        pool.indices[:, :, None] == jnp.arange(40).reshape(1, 1, 40), axis=1)
    return greedy.greedy_dpp(
        features, relevance, num_selected=NUM_SELECTED, theta=THETA,
        where=kept)

  assert_same_slates(pq.read_table(tmp_path / "slates.parquet"),
                     at_once(frame, select))


def test_methods_are_compared_on_a_sample():
  facts = candidates_lib.Facts(1000, 10**6, 5000, {"a": 1})
  places = slate_comparison.draw(facts, num_selected=10, seed=0)
  assert len(places) == 2**18 // 8192 and len(set(places)) == len(places)
  assert list(places) == sorted(places) and places.max() < 1000
  few = candidates_lib.Facts(3, 30, 10, {"a": 1})
  assert slate_comparison.draw(
      few, num_selected=10, seed=0).tolist() == [0, 1, 2]
  huge = candidates_lib.Facts(9, 10**8, 10**7, {"a": 1})
  assert len(slate_comparison.draw(huge, num_selected=10, seed=0)) == 1
  assert len(slate_comparison.draw(facts, num_selected=2**17, seed=0)) == 2


# Reading.


@pytest.mark.parametrize("read_rows, chunk_rows, row_group_size", [
    (7, 20, 50), (1, 1, 9), (1000, 60, 13), (19, 10**6, 1000)])
def test_requests_run_on_over_the_ends_of_what_is_read(
    tmp_path, frame, monkeypatch, read_rows, chunk_rows, row_group_size):
  path = write(frame, tmp_path / "data.parquet", row_group_size=row_group_size)
  whole, facts = read(path)
  monkeypatch.setattr(candidates_lib, "READ_ROWS", read_rows)
  monkeypatch.setattr(candidates_lib, "CHUNK_ROWS", chunk_rows)
  candidates = opened(path)
  assert candidates.check() == facts == candidates_lib.Facts(
      len(SIZES), sum(SIZES), 40, facts.categories)
  chunks = list(candidates.chunks(facts))
  # No more is held than a chunk, what was read last and an open request.
  most = chunk_rows + min(read_rows, row_group_size) + max(SIZES)
  assert all(len(chunk.scores) <= most for chunk in chunks)
  assert chunk_rows > 100 or len(chunks) > 2
  joined = candidates_lib.joined_chunks(chunks)
  for one, other in zip(joined, whole, strict=True):
    if isinstance(one, pa.Array):
      assert one.equals(other)
    else:
      np.testing.assert_array_equal(one, other)
  assert np.diff(whole.starts).tolist() == list(SIZES)


def test_a_folder_is_one_file(tmp_path, frame):
  whole, _ = read(write(frame, tmp_path / "data.parquet"))
  folder = tmp_path / "parts"
  folder.mkdir()
  table = pa.table(frame)
  write(table.slice(0, 30), folder / "a.parquet")
  write(table.slice(30), folder / "b.parquet")
  parts, facts = read(folder)
  assert parts.request_ids.equals(whole.request_ids)
  assert facts.num_requests == len(SIZES)


def test_of_an_item_that_comes_twice_the_best_score_is_kept(tmp_path):
  frame = {"request_id": [1, 1, 1, 1, 2, 2], "item_id": [7, 8, 7, 7, 7, 8],
           "score": [0.2, 0.3, 0.5, 0.5, 0.1, 0.9],
           "category": ["a", "b", "c", "d", "a", "b"],
           "features": [[1.0, k] for k in range(6)]}
  chunk, facts = read(write(frame, tmp_path / "data.parquet"))
  assert chunk.num_repeated == 2 and facts.num_rows == 6
  assert chunk.item_ids.to_pylist() == [8, 7, 7, 8]
  assert chunk.scores.tolist() == [0.3, 0.5, 0.1, 0.9]
  # Of equal scores the first: its other columns go along.
  assert chunk.features[:, 1].tolist() == [1, 2, 4, 5]
  assert chunk.starts.tolist() == [0, 2, 4]


def test_columns_may_come_in_other_forms_and_from_a_table(tmp_path, frame):
  whole, facts = read(write(frame, tmp_path / "data.parquet"))
  features = np.asarray(frame["features"], np.float32)
  same = {
      "columns": {**frame, **{f"embedding_{k}": features[:, k]
                              for k in range(NUM_FEATURES)}},
      "fixed": {**frame, "features": pa.FixedSizeListArray.from_arrays(
          pa.array(features.reshape(-1)), NUM_FEATURES)},
      "encoded": {
          **frame, "category": pa.array(frame["category"]).dictionary_encode(),
          "request_id": pa.array(frame["request_id"]).dictionary_encode()},
      "named": {f"my_{name}": values for name, values in frame.items()}}
  del same["columns"]["features"]
  for name, columns in same.items():
    names = item_columns.Columns()
    if name == "named":
      names = item_columns.Columns(*(f"my_{name}" for name in frame))
    found, facts = read(
        write(columns, tmp_path / f"{name}.parquet"), None, names)
    np.testing.assert_array_equal(found.features, whole.features)
    np.testing.assert_array_equal(found.categories, whole.categories)
    assert found.request_ids.equals(whole.request_ids)

  rng = np.random.default_rng(1)
  items = {"item_id": rng.permutation(60).astype(np.int32),
           "category": [f"c{k % 7}" for k in range(60)],
           "features": rng.normal(size=(60, 3)).tolist()}
  table = write(items, tmp_path / "items.parquet")
  bare = {name: frame[name] for name in ("request_id", "item_id", "score")}
  found, facts = read(write(bare, tmp_path / "bare.parquet"), table)
  place = np.argsort(items["item_id"])[found.item_ids.to_numpy()]
  np.testing.assert_array_equal(
      found.features, np.asarray(items["features"], np.float32)[place])
  vocabulary = list(facts.categories)
  assert [vocabulary[k] for k in found.categories] == [
      items["category"][k] for k in place]
  # What the candidates have themselves is not looked for in the table.
  found, facts = read(str(tmp_path / "data.parquet"), table)
  np.testing.assert_array_equal(found.features, whole.features)


# Bad input.


def refusal(tmp_path, frame, items=None, **changes):
  """The line with which a run is refused."""
  if frame is not None:
    changes["data"] = write(frame, tmp_path / "data.parquet")
  if items is not None:
    changes["items"] = write(items, tmp_path / "items.parquet")
  changes.setdefault("data", None)
  with pytest.raises((errors.UserError, schema_lib.DataError)) as caught:
    select_slates.select(config(**changes), tmp_path / "run")
  # Left as it was: with the flag mended, the same workdir will do.
  assert not list((tmp_path / "run").iterdir())
  assert "\n" not in str(caught.value)
  return str(caught.value)


def spoiled(frame, column, row, value):
  values = list(frame[column])
  values[row] = value
  return {**frame, column: values}


@pytest.mark.parametrize("column, row, value, said", [
    ("request_id", 3, None, "every row needs its request"),
    ("item_id", 51, None, "every row needs its item"),
    ("score", 149, None, "scores must be finite, got a missing value"),
    ("score", 0, float("nan"), "scores must be finite, got nan"),
    ("score", 12, float("inf"), "scores must be finite, got inf"),
    ("score", 60, 0.0, "needs scores above 0 (--relevance=raw takes any)"),
    ("category", 99, None, "every item needs its category"),
    ("features", 100, None, "every item needs its features"),
    ("features", 77, [], "every item needs its features"),
    ("features", 1, [1.0] * 5, "expected 6 features as in the rows before"),
    ("features", 2, [1.0, None, 0, 0, 0, 0], "features must be finite"),
    ("features", 64, [0.0] * 6, "features must not all be 0")])
def test_the_first_bad_row_is_named(tmp_path, frame, column, row, value, said):
  frame["item_id"] = frame["item_id"].tolist()
  message = refusal(tmp_path, spoiled(frame, column, row, value))
  assert said in message and f"column {column!r}, row {row}:" in message
  assert f"data.parquet, row group {row // 50}" in message


def test_raw_relevance_takes_any_score(tmp_path, frame):
  frame["score"] = np.log(frame["score"])
  path = write(frame, tmp_path / "data.parquet")
  assert read(path, positive_scores=False)[0].scores.max() < 0
  assert "--relevance=raw" in refusal(tmp_path, frame)


@pytest.mark.parametrize("parts", [1, 10**6])
def test_a_request_that_comes_again_is_named(
    tmp_path, frame, monkeypatch, parts):
  monkeypatch.setattr(candidates_lib, "_COMPARED_IDS", parts)
  names = frame["request_id"]
  again, first = names[0], names[120]
  names[-2:] = [first, first]
  message = refusal(tmp_path, frame)
  assert (f"row group 3: column 'request_id', row {sum(SIZES) - 2}: the rows "
          "of a request must stand together (sort by it), got "
          f"{first!r} again") in message
  assert f"row group 1, row {names.index(first)}" in message and again != first


@pytest.mark.parametrize("change, said", [
    (lambda f: f.pop("score"), "no column 'score'"),
    (lambda f: f.pop("category"),
     "no column 'category'; it has request_id, item_id, score, features; name "
     "another by --category_column, or a table that has it by --items"),
    (lambda f: f.pop("features"),
     "no column 'features' and no embedding_*; it has"),
    (lambda f: f.update(request_id=np.zeros(193)),
     "'request_id' has type double; accepted: integers or text"),
    (lambda f: f.update(score=f["category"]),
     "'score' has type string; accepted: numbers"),
    (lambda f: f.update(features=[["a"]] * 193),
     "accepted: lists of numbers in one column, or numbers in embedding_*")])
def test_columns_that_will_not_do(tmp_path, frame, change, said):
  change(frame)
  assert said in refusal(tmp_path, frame)


ITEMS = {"item_id": list(range(60)), "category": ["a"] * 60,
         "features": [[1.0, k] for k in range(60)]}


@pytest.mark.parametrize("items, said", [
    (spoiled(ITEMS, "item_id", 59, 60),
     "the table of --items does not have the item, got 59"),
    (spoiled(ITEMS, "item_id", 59, 3),
     "items.parquet: column 'item_id', row 59: 3 stands in row 3 too"),
    (spoiled(ITEMS, "features", 58, [0.0, 0.0]),
     "column 'features', row 58: features must not all be 0"),
    ({**ITEMS, "item_id": [f"i{k}" for k in range(60)]},
     "has type string, among the candidates it has int64"),
    ({"item_id": ITEMS["item_id"], "features": ITEMS["features"]},
     "items.parquet: no column 'category'")])
def test_bad_tables_of_items(tmp_path, frame, items, said):
  bare = {name: frame[name] for name in ("request_id", "item_id", "score")}
  assert said in refusal(tmp_path, bare, items)


@pytest.mark.parametrize("changes, said", [
    ({"theta": 1.0}, "--theta=1 is relevance alone"),
    ({"theta": 1.0, "method": "mmr", "pool_quota": ("3",)}, "--theta=1"),
    ({"quota": ("many",)}, "expected a number, or numbers by category as in "
     "phones=2, got 'many'"),
    ({"quota": ("phones=-1",)}, "got 'phones=-1'"),
    ({"quota": ("bookz=2",)}, "'bookz' (did you mean 'books'?)"),
    ({"quota": ("0",)}, "--quota=0 leaves no candidate"),
    ({"pool_quota": ("phones=0",)}, "leaves no candidate"),
    ({"features_column": "vectors"}, "no column 'vectors'"),
    ({"format": "kuairand"}, "--format=kuairand needs --data, the log, and")])
def test_flags_that_will_not_do(tmp_path, frame, changes, said):
  assert said in refusal(tmp_path, frame, **changes)


def test_bad_files(tmp_path):
  assert "--items needs --data" in refusal(tmp_path, None, items=ITEMS)
  assert "no such file" in refusal(tmp_path, None, data="/nowhere.parquet")
  (tmp_path / "text.parquet").write_text("dear diary")
  assert "not a Parquet file" in refusal(
      tmp_path, None, data=str(tmp_path / "text.parquet"))


# Slow: other data, other processes, a browser.


def run(*arguments):
  return subprocess.run(
      [sys.executable, "-m", "experiments.select_slates", *arguments],
      cwd=ROOT, text=True, capture_output=True, check=False)


@pytest.mark.slow
def test_a_second_run_replaces_the_results(finished):
  workdir, summary, _ = finished
  before = (workdir / "slates.parquet").read_bytes()
  again = select_slates.select(
      select_slates.Config(**summary["config"]), workdir)
  assert {**again, "seconds": 0} == {**summary, "seconds": 0}
  assert (workdir / "slates.parquet").read_bytes() == before


@pytest.mark.slow
def test_on_a_wrong_flag_the_binary_says_one_line(tmp_path):
  for argument, said in (("--method=dpq", "method"), ("--theta=nan", "theta"),
                         ("--theta=1.5", "theta"), ("--window=0", "window"),
                         ("--schema=x", "schema"),
                         ("--data=/nowhere", "no such file")):
    ended = run(f"--workdir={tmp_path / 'run'}", argument)
    assert ended.returncode == 2
    assert said in ended.stderr and ended.stderr.count("\n") == 1


def test_every_flag_is_one_of_the_binary(tmp_path):
  listed = run("--help").stdout
  for field in dataclasses.fields(select_slates.Config):
    assert f"\n  --{field.name}:" in listed, field.name
  # Whichever is wrong is said alone: the others are taken.
  ended = run("--theta=0.5", "--ridge=0.9", "--window=3", "--quota=3",
              "--fill=relevance", "--relevance=raw", "--data=/nowhere",
              f"--workdir={tmp_path / 'run'}")
  assert "no such file" in ended.stderr


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
  """A run without data."""
  workdir = tmp_path_factory.mktemp("embedded") / "run"
  ended = run(f"--workdir={workdir}", "--num_exposures=20000")
  assert ended.returncode == 0, ended.stderr
  return workdir, ended.stdout


@pytest.mark.slow
def test_without_data_there_are_users_and_their_week(embedded):
  workdir, out = embedded
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary["num_candidates"] == 20_000 and summary["num_repeated"] > 0
  assert summary["num_features"] == 32 and "slates.html" in out
  by_method = summary["methods"]
  # What each is for, far beyond the errors.
  assert by_method["top_k"]["score"]["mean"] > by_method["dpp"]["score"]["mean"]
  assert (by_method["dpp"]["log_det"]["mean"]
          > by_method["top_k"]["log_det"]["mean"] + 1)


@pytest.mark.slow
def test_users_of_a_public_log_are_requests(tmp_path):
  rng = np.random.default_rng(0)
  log = {"user_id": rng.integers(0, 9, 200),
         "video_id": rng.integers(0, 90, 200),
         "is_click": rng.integers(0, 2, 200)}
  videos = {"video_id": np.arange(80), "author_id": np.arange(80) // 3,
            "tag": [None, "1", "2,1", "3"] * 20}
  summary = select_slates.select(config(
      write(log, tmp_path / "log.parquet"), format="kuairand", method="mmr",
      items=write(videos, tmp_path / "videos.parquet"), num_candidates=30),
      tmp_path / "run")
  assert summary["num_requests"] == 9 and summary["largest"] == 30
  assert summary["num_categories"] == 4 and summary["num_features"] == 64
  for name in ("report.html", "slates.html"):
    assert "a demonstration of slates" in (tmp_path / "run" / name).read_text()


@pytest.mark.slow
def test_the_page_moves_in_a_browser(embedded):
  workdir, _ = embedded
  data = page_data(workdir)

  def expected(method, step):
    return [[request["items"][place]["id"]
             for place in request["slates"][method][step]["items"]]
            for request in data["requests"]]

  def cards():
    return page.evaluate(
        "[...document.querySelectorAll('ol')].map(list => "
        "[...list.children].map(card => card.dataset.item))")

  with browser.opened(workdir / "slates.html") as page:
    start = data["thetas"].index(0.7)
    assert cards() == expected("dpp", start)
    figures = page.text_content("#metrics")
    # By the keyboard, as by the mouse.
    page.focus("#theta")
    page.keyboard.press("ArrowLeft")
    assert cards() == expected("dpp", start - 1)
    page.keyboard.press("Home")
    assert cards() == expected("dpp", 0)
    assert cards() != expected("dpp", start)
    assert figures != page.text_content("#metrics")
    for method in ("mmr", "ssd", "top_k"):
      page.focus("input:checked")
      page.keyboard.press("ArrowRight")
      assert cards() == expected(method, 0)
      assert page.input_value("input:checked") == method
    # With top-K there is no knob to be moved.
    assert page.is_disabled("#theta")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(page.screenshot()) > 10_000
