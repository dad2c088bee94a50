"""Slates of chunks beside those of one call on all requests."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.data import chunks
from harmonrank_jax.diversity import greedy
from harmonrank_jax.diversity import pooling
from harmonrank_jax.serving import selector as selector_lib
from tests.data import candidate_files
from tests.serving import one_call

NUM_SELECTED, THETA = 5, 0.6
GREEDY = {"dpp": greedy.greedy_dpp, "mmr": greedy.greedy_mmr,
          "ssd": greedy.greedy_ssd}


@pytest.fixture(scope="module")
def frame():
  return candidate_files.make_frame()


@pytest.fixture(scope="module")
def chunk(frame, tmp_path_factory):
  path = tmp_path_factory.mktemp("selector") / "data.parquet"
  return candidate_files.read(candidate_files.write(frame, path))[0]


@pytest.mark.parametrize("method, changes", [
    pytest.param("dpp", {"ridge": 0.9, "fill": "relevance"}, id="dpp"),
    pytest.param("mmr", {}, id="mmr"), pytest.param("ssd", {}, id="ssd"),
    pytest.param("top_k", {}, id="top_k")])
def test_slates_of_chunks_are_those_of_one_call(chunk, frame, method, changes):
  quotas = np.asarray([2, 3, 1], np.int32)
  rules = selector_lib.Rules(
      num_selected=NUM_SELECTED, window=3, quotas=quotas, **changes)
  selector = selector_lib.Selector(method, rules)
  rows = []
  for places in (np.arange(5), np.arange(5, 10)):
    part = chunks.requests_of(chunk, places)
    # Padded to one size, for a single compilation.
    rows += one_call.rows_of(part, selector(
        part, np.log(part.scores), theta=THETA, least_size=64))

  def select(features, relevance, where, categories):
    same = {"num_selected": NUM_SELECTED, "where": where,
            "category_ids": categories, "quotas": jnp.asarray(quotas)}
    if method == "top_k":
      return greedy.greedy_top_k(relevance, **same)
    return GREEDY[method](
        features, relevance, theta=THETA, window=3, **same, **changes)

  one_call.assert_same(rows, one_call.slates(frame, select))


def test_a_pool_comes_before_the_slate(chunk, frame):
  rules = selector_lib.Rules(
      num_selected=NUM_SELECTED, pool_quotas=np.asarray([3, 2, 0], np.int32))
  picks = selector_lib.Selector("dpp", rules)(
      chunk, np.log(chunk.scores), theta=THETA, least_size=64)

  def select(features, relevance, where, categories):
    pool = pooling.flow_pool(
        features, relevance, categories, jnp.asarray([3, 2, 0]), theta=THETA,
        pool_size=5, where=where)
    kept = jnp.any(
        pool.indices[:, :, None] == jnp.arange(40).reshape(1, 1, 40), axis=1)
    return greedy.greedy_dpp(
        features, relevance, num_selected=NUM_SELECTED, theta=THETA,
        where=kept)

  one_call.assert_same(
      one_call.rows_of(chunk, picks), one_call.slates(frame, select))


@pytest.mark.parametrize("method, pool", [
    ("top_k", None), ("dpp", np.asarray([9, 9, 9], np.int32))])
def test_scores_keep_their_differences_however_large(chunk, method, pool):
  part = chunks.requests_of(chunk, np.array([0, 3]))
  near = np.random.default_rng(0).permutation(len(part.scores)) * 0.25
  select = selector_lib.Selector(method, selector_lib.Rules(
      num_selected=NUM_SELECTED, pool_quotas=pool))
  expected = select(part, near, theta=THETA, least_size=64)
  # Milliseconds of today, of which float32 holds every 131,072nd.
  far = select(part, 1.767e12 + near, theta=THETA, least_size=64)
  np.testing.assert_array_equal(far.rows, expected.rows)
  assert (far.gains[far.rows >= 0] > 1e12).all()


def test_a_size_is_compiled_once(chunk):
  selector = selector_lib.Selector(
      "mmr", selector_lib.Rules(num_selected=NUM_SELECTED))
  assert not selector.compiled
  for theta in (0.1, 0.9):
    for places in (np.arange(10), np.asarray([4]), np.asarray([2, 9])):
      part = chunks.requests_of(chunk, places)
      selector(part, np.log(part.scores), theta=theta)
  assert sorted(selector.compiled) == [16, 32, 64]
  selector(chunk, np.log(chunk.scores), theta=0.5, least_size=64)
  assert sorted(selector.compiled) == [16, 32, 64]


def test_requests_beyond_a_call_have_another(chunk):
  # 16,384 candidates are 4 requests of 4096.
  selector = selector_lib.Selector(
      "top_k", selector_lib.Rules(num_selected=2))
  few = selector(chunk, chunk.scores, theta=1.0)
  many = selector(chunk, chunk.scores, theta=1.0, least_size=4096)
  np.testing.assert_array_equal(few.rows, many.rows)
  np.testing.assert_array_equal(few.gains, many.gains)
  assert selector.compiled[-1] == 4096 and len(chunk.starts) == 4 + 4 + 2 + 1


def test_no_request_gives_no_slate(chunk):
  selector = selector_lib.Selector(
      "dpp", selector_lib.Rules(num_selected=NUM_SELECTED))
  part = chunks.requests_of(chunk, np.array([], int))
  picks = selector(part, part.scores, theta=THETA)
  assert picks.rows.shape == picks.gains.shape == (0, NUM_SELECTED)


def test_sizes_are_powers_of_two():
  sizes = np.array([1, 16, 17, 32, 33, 1000])
  assert selector_lib.padded_size(sizes).tolist() == [
      16, 16, 32, 32, 64, 1024]
  assert selector_lib.padded_size(np.array([1, 1000]), 256).tolist() == [
      256, 1024]


def test_rules_do_not_change():
  rules = selector_lib.Rules(num_selected=NUM_SELECTED)
  with pytest.raises(dataclasses.FrozenInstanceError):
    rules.num_selected = 1  # type: ignore[misc]


def test_an_unknown_method_is_refused():
  with pytest.raises(ValueError, match=r"method must be one of .*got 'dpq'"):
    selector_lib.Selector("dpq", selector_lib.Rules(num_selected=1))
