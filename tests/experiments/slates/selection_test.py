"""Slates of all requests: candidates, rules from flags, and the selection."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.runs import errors
from experiments.slates import config as config_lib
from experiments.slates import selection
from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.data import chunks as chunks_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.diversity import greedy
from harmonrank_jax.serving import selector as selector_lib
from tests.data import candidate_files
from tests.serving import one_call

FACTS = candidates_lib.Facts(
    10, 193, 40, {"phones": 100, "books": 60, "toys": 33})
COLUMNS = ["request_id", "slot", "item_id", "gain"]


def test_a_file_of_the_user_has_no_limits(inputs):
  assert inputs.limits == "" and inputs.facts.num_requests == 10
  assert inputs.rules.num_selected == 5 and inputs.rules.quotas is None


def test_columns_may_have_other_names(frame, inputs, tmp_path):
  columns = {f"my_{name}": values for name, values in frame.items()}
  config = config_lib.Config(
      data=candidate_files.write(columns, tmp_path / "data.parquet"),
      request_column="my_request_id", item_column="my_item_id",
      score_column="my_score", category_column="my_category",
      features_column="my_features")
  assert selection.read_inputs(config, tmp_path).facts == inputs.facts


def test_raw_relevance_takes_any_score(frame, config, tmp_path):
  path = candidate_files.write(
      {**frame, "score": np.log(frame["score"])}, tmp_path / "data.parquet")
  raw = dataclasses.replace(config, data=path, relevance="raw")
  inputs = selection.read_inputs(raw, tmp_path)
  chunk, = inputs.candidates.chunks(inputs.facts)
  assert chunk.scores.max() < 0


def test_relevance_is_the_logarithm_or_the_score():
  scores = np.array([0.5, 1.0])
  config = config_lib.Config()
  np.testing.assert_array_equal(
      selection.relevance(config, scores), [np.log(0.5), 0])
  raw = dataclasses.replace(config, relevance="raw")
  np.testing.assert_array_equal(selection.relevance(raw, scores), scores)


def test_without_data_a_request_is_a_user_of_the_embedded_log(tmp_path):
  inputs = selection.read_inputs(
      config_lib.Config(num_exposures=2000), tmp_path)
  assert inputs.facts.num_rows == 2000
  assert inputs.limits.startswith("A request is a user of the embedded log")
  assert {path.name for path in (tmp_path / "prepared").iterdir()} == {
      "candidates.parquet", "items.parquet"}


@pytest.mark.parametrize("texts, expected", [
    pytest.param(("3",), [3, 3, 3], id="a number"),
    pytest.param(("books=2",), [40, 2, 40], id="one category"),
    pytest.param(("3", "phones=5"), [5, 3, 3], id="both"),
    pytest.param(("99999999999",), [40, 40, 40], id="more than there are")])
def test_quotas_of_slates(texts, expected):
  rules = selection.make_rules(config_lib.Config(quota=texts), FACTS)
  assert rules.quotas.tolist() == expected and rules.quotas.dtype == np.int32
  assert rules.pool_quotas is None


def test_categories_that_are_not_named_are_not_in_the_pool():
  rules = selection.make_rules(
      config_lib.Config(pool_quota=("phones=3", "books=2")), FACTS)
  assert rules.pool_quotas.tolist() == [3, 2, 0] and rules.quotas is None


@pytest.mark.parametrize("changes, said", [
    pytest.param({"quota": ("many",)}, "--quota=many: expected a number, or "
                 "numbers by category as in phones=2, got 'many'", id="a word"),
    pytest.param({"quota": ("phones=-1",)}, "got '-1'", id="negative"),
    pytest.param({"quota": ("bookz=2",)},
                 "'bookz' (did you mean 'books'?)", id="unknown category"),
    pytest.param({"quota": ("0",)}, "--quota=0 leaves no candidate",
                 id="none"),
    pytest.param({"pool_quota": ("phones=0",)}, "leaves no candidate",
                 id="empty pool")])
def test_bad_quotas(changes, said):
  with pytest.raises(errors.UserError) as caught:
    selection.make_rules(config_lib.Config(**changes), FACTS)
  assert said in str(caught.value)


@pytest.mark.parametrize("changes, said", [
    pytest.param({"theta": 1.0}, "--theta=1 is relevance alone", id="dpp"),
    pytest.param({"theta": 1.0, "method": "mmr", "pool_quota": ("3",)},
                 "--theta=1", id="pool"),
    pytest.param({"items": "items.parquet"}, "--items needs --data",
                 id="items alone"),
    pytest.param({"format": "kuairand", "data": "log.csv"},
                 "--format=kuairand needs --data, the log, and --items",
                 id="no videos")])
def test_flags_that_contradict_each_other(changes, said):
  with pytest.raises(errors.UserError) as caught:
    selection.check_config(config_lib.Config(**changes))
  assert said in str(caught.value)


def test_relevance_alone_is_for_mmr_ssd_and_top_k():
  for method in ("mmr", "ssd", "top_k"):
    selection.check_config(config_lib.Config(theta=1.0, method=method))


def test_users_of_a_public_log_are_requests(tmp_path):
  rng = np.random.default_rng(0)
  log = {"user_id": rng.integers(0, 9, 200),
         "video_id": rng.integers(0, 90, 200),
         "is_click": rng.integers(0, 2, 200)}
  videos = {"video_id": np.arange(80), "author_id": np.arange(80) // 3,
            "tag": [None, "1", "2,1", "3"] * 20}
  inputs = selection.read_inputs(config_lib.Config(
      data=candidate_files.write(log, tmp_path / "log.parquet"),
      items=candidate_files.write(videos, tmp_path / "videos.parquet"),
      format="kuairand", num_candidates=30), tmp_path)
  assert inputs.facts.num_requests == 9 and inputs.facts.largest == 30
  assert len(inputs.facts.categories) == 4
  assert inputs.candidates.num_features == 64
  assert "a demonstration of slates" in inputs.limits


def written(path):
  table = pq.read_table(path)
  assert table.column_names == COLUMNS
  return list(zip(*(table[name].to_pylist() for name in COLUMNS),
                  strict=True))


def test_slates_of_the_file_are_those_of_one_call(selected, config, frame):
  def select(features, relevance, where, categories):
    del categories
    return greedy.greedy_dpp(
        features, relevance, num_selected=config.num_selected,
        theta=config.theta, where=where)

  one_call.assert_same(written(selected[0]), one_call.slates(frame, select))


def test_what_happened_is_counted(selected):
  _, result = selected
  assert result.compiled == [16, 32, 64] and result.seconds > 0
  # Requests of 3 candidates and of 1 leave 2 and 4 of 5 slots empty.
  assert result.num_slots == 10 * 5 - 2 - 4 and result.num_repeated == 0
  assert result.empty == {"request": 6} and result.num_lone == 0


def chunk_of(categories, features):
  size = len(categories)
  return chunks_lib.Chunk(
      request_ids=pa.array(["a"]), item_ids=pa.array(range(size)),
      starts=np.array([0, size]), scores=np.linspace(0.9, 0.1, size),
      categories=np.asarray(categories, np.int32), num_repeated=0,
      features=np.asarray(features, np.float32))


@pytest.mark.parametrize("method", selector_lib.METHODS)
@pytest.mark.parametrize("rules, num_picks, causes", [
    ({}, 5, {}), ({"fill": "none"}, 2, {"features": 3}),
    ({"num_selected": 9}, 8, {"request": 1}),
    ({"quotas": np.array([1, 2], np.int32)}, 3, {"quota": 2}),
    ({"quotas": np.array([1, 9], np.int32), "num_selected": 9}, 5,
     {"request": 1, "quota": 3}),
    ({"pool_quotas": np.array([2, 1], np.int32)}, 3, {"pool": 2})], ids=str)
def test_no_slot_is_empty_where_a_candidate_is_left(
    method, rules, num_picks, causes):
  chunk = chunk_of([0, 1] * 4, np.eye(2)[[0, 1] * 4])
  rules = selector_lib.Rules(**{"num_selected": 5, **rules})
  rows = selector_lib.Selector(method, rules)(
      chunk, chunk.scores, theta=0.5).rows
  if rules.fill == "none" and method != "dpp":
    num_picks, causes = 5, {}
  assert (rows >= 0).sum() == num_picks
  assert selection.count_empty(rules, chunk, rows) == causes


def test_candidates_without_features_are_shown():
  # The best is new: it has no features yet.
  chunk = chunk_of([0] * 4, [[0, 0], [1, 0], [0, 1], [1, 0]])
  for method in selector_lib.METHODS:
    picks = selector_lib.Selector(
        method, selector_lib.Rules(num_selected=2))(
            chunk, chunk.scores, theta=0.9)
    assert picks.rows[0, 0] == 0


def test_the_sample_holds_the_requests_drawn(config, inputs, tmp_path):
  result = selection.write_slates(
      config, inputs, np.asarray([1, 4, 9]), tmp_path / "slates.parquet")
  assert np.diff(result.sample.starts).tolist() == [
      candidate_files.SIZES[k] for k in (1, 4, 9)]


def test_quotas_are_kept(config, frame, tmp_path):
  config = dataclasses.replace(config, quota=("2", "toys=0"))
  inputs = selection.read_inputs(config, tmp_path)
  path = tmp_path / "slates.parquet"
  selection.write_slates(config, inputs, np.arange(1), path)
  category = {(r, i): candidate_files.CATEGORIES.index(c) for r, i, c in zip(
      frame["request_id"], frame["item_id"], frame["category"], strict=True)}
  counts = {name: np.zeros(3, int) for name in frame["request_id"]}
  for request, _, item, _ in written(path):
    counts[request][category[request, item]] += 1
  assert np.stack(list(counts.values())).max(axis=0).tolist() == [2, 2, 0]


@pytest.mark.parametrize("of_items, column", [
    (False, None), (True, None), (True, "name")],
    ids=["candidates", "items", "named"])
def test_titles_are_found_beside_the_items(tmp_path, frame, of_items, column):
  ids = sorted(set(frame["item_id"]))
  titles = {column or "title": [f"title {key}" for key in ids]}
  data, items = tmp_path / "data.parquet", None
  if of_items:
    items = candidate_files.write({"item_id": ids, **titles, "category":
                                   ["a"] * len(ids)}, tmp_path / "i.parquet")
    candidate_files.write({**frame, "title": [""] * len(frame["score"])}
                          if column is None else frame, data)
  else:
    candidate_files.write({**frame, "title": [
        f"title {key}" for key in frame["item_id"]]}, data)
  config = config_lib.Config(
      data=str(data), items=items, title_column=column)
  inputs = selection.read_inputs(config, tmp_path)
  assert selection.read_titles(config, inputs, pa.array(ids[:2])) == {
      key: f"title {key}" for key in ids[:2]}


def test_without_titles_there_are_none_but_a_wrong_name_is_said(
    tmp_path, config, inputs):
  assert selection.read_titles(config, inputs, pa.array([1])) == {}
  with pytest.raises(schema_lib.DataError, match=r"no column 'Scor'.*'score'"):
    selection.read_inputs(
        dataclasses.replace(config, title_column="Scor"), tmp_path)
