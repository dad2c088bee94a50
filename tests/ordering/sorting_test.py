"""Hard ranks and the layout of lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax
from harmonrank_jax.ordering import sorting
from tests import oracles

SHAPE = (3, 40)
traces = []


@jax.jit
def rank(scores, where, ids):
  traces.append((scores.dtype, ids.dtype))
  return harmonrank_jax.hard_rank(scores, where=where, segment_ids=ids)


def rank_list(items, ids=None):
  """Ranks of one short list in a padded row."""
  scores, where = oracles.padded_rows([items], SHAPE)
  all_ids, _ = oracles.padded_rows(
      [np.zeros(len(items)) if ids is None else ids], SHAPE, fill=0)
  return rank(np.float32(scores), where, np.int32(all_ids))[0, :len(items)]


def test_ties_share_the_mean_rank():
  np.testing.assert_array_equal(
      rank_list([0.7, 0.2, 0.7, 0.1, 0.7]), [(3 + 4 + 5) / 3, 2, 4, 1, 4])


def test_the_document_example_ascends():
  # The source ranks [.7, .2, .8, .1, .9] descending, [3, 4, 2, 5, 1].
  np.testing.assert_array_equal(
      rank_list([0.7, 0.2, 0.8, 0.1, 0.9]), 6 - np.array([3, 4, 2, 5, 1]))


# Each takes another way through the sort; uint8 ids wrap if they are added to.
@pytest.mark.parametrize("dtype, ids_dtype", [
    (jnp.float32, np.int32), (jnp.bfloat16, np.uint8),
    (jnp.float64, np.int64)])
def test_masked_ragged_lists_agree_with_scipy(dtype, ids_dtype, x64):
  scores, where, ids = oracles.random_lists(SHAPE, 5)
  scores = jnp.asarray(scores.round(1), dtype)
  ids = ids % 256 if ids_dtype == np.uint8 else ids
  ranks = rank(scores, where, jnp.asarray(ids, ids_dtype))
  np.testing.assert_array_equal(ranks, oracles.per_list(
      oracles.mid_ranks, np.float64(scores), where, ids))
  assert ranks.dtype == (
      jnp.float64 if dtype == jnp.float64 else jnp.float32)


def test_extreme_ids_are_ids():
  np.testing.assert_array_equal(
      rank_list([1.0, 2.0, 3.0, 4.0, np.nan, 6.0],
                [2**31 - 1, -(2**31), 0, 2**31 - 1, -(2**31), 0]),
      [1, 1, 1, 2, np.nan, 2])


def test_lists_of_wide_ids_are_not_one():
  ids = np.array([1, 1, 2**32 + 1, 2**32 + 1])
  np.testing.assert_array_equal(
      harmonrank_jax.hard_rank(
          np.float32([0.1, 0.9, 0.8, 0.2]), segment_ids=ids), [1, 2, 2, 1])


@pytest.mark.parametrize("scores", [
    1_767_000_000_000 + np.array([3, 1, 2, 1]),
    np.uint64([2**64 - 1, 2**64 - 3, 2**64 - 2, 2**64 - 3]),
    0.1 + 1e-12 * np.array([3, 1, 2, 1])], ids=str)
def test_scores_of_the_host_are_ranked_in_all_their_bits(scores):
  np.testing.assert_array_equal(
      harmonrank_jax.hard_rank(scores), [4, 1.5, 3, 1.5])


def test_subnormal_scores_are_numbers():
  scores = np.float32([2e-40, -1e-40, 1e-40, 0.0, -0.0, 2e-40, 1e-45, 1e-38])
  expected = oracles.mid_ranks(np.float64(scores))
  np.testing.assert_array_equal(rank_list(scores), expected)
  np.testing.assert_array_equal(
      harmonrank_jax.soft_rank(scores, strength=0.0), expected)
  labels = np.array([1, 0, 1, 0, 1, 0, 1, 0], bool)
  assert harmonrank_jax.auc(scores, labels) == (
      expected[labels].sum() - 10) / 16


def test_padding_changes_nothing_whatever_it_holds():
  scores, where, ids = oracles.random_lists(SHAPE, 5)
  scores = np.float32(scores)
  expected = rank(scores, where, np.int32(ids))
  for garbage in (np.nan, np.inf, -np.inf, 0.0, scores[0, 0]):
    np.testing.assert_array_equal(
        rank(np.where(where, scores, np.float32(garbage)), where,
             np.int32(ids)), expected)


def test_infinities_end_the_scale_and_nan_takes_no_part():
  np.testing.assert_array_equal(
      rank_list([1.0, np.inf, np.nan, -np.inf, np.inf, -0.0, 0.0]),
      [4, 5.5, np.nan, 1, 5.5, 2.5, 2.5])


@pytest.mark.parametrize(
    "shape", [(0,), (3, 0), (0, 4), (1,), (2, 1)], ids=str)
def test_empty_and_single(shape):
  ranks = jax.jit(harmonrank_jax.hard_rank)(jnp.zeros(shape))
  np.testing.assert_array_equal(ranks, np.ones(shape))


def test_all_masked_is_zero():
  ranks = rank(np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool),
               np.zeros(SHAPE, np.int32))
  np.testing.assert_array_equal(ranks, np.zeros(SHAPE))


def test_eager_jit_vmap_and_scan_agree():
  scores, where, ids = oracles.random_lists(SHAPE, 5)
  lists = np.float32(scores), where, np.int32(ids)
  eager = lambda s, w, i: harmonrank_jax.hard_rank(
      s, where=w, segment_ids=i)
  expected = rank(*lists)
  np.testing.assert_array_equal(eager(*lists), expected)
  np.testing.assert_array_equal(jax.jit(jax.vmap(eager))(*lists), expected)
  _, scanned = jax.lax.scan(
      lambda _, x: (None, eager(*x)), None, lists)
  np.testing.assert_array_equal(scanned, expected)


def test_one_trace():
  traces.clear()
  for seed in range(3):
    scores, where, ids = oracles.random_lists(SHAPE, 5 + seed, seed)
    rank(np.float32(scores), where, np.int32(ids))
  assert len(traces) <= 1


def test_has_no_gradient():
  gradient = jax.grad(lambda s: rank(
      s, np.ones(SHAPE, bool), np.zeros(SHAPE, np.int32)).sum())(
          np.float32(np.random.default_rng(0).normal(size=SHAPE)))
  np.testing.assert_array_equal(gradient, np.zeros(SHAPE))


def test_both_forms_of_the_sort_agree():
  rng = np.random.default_rng(0)
  keys = tuple(jnp.asarray(rng.integers(-3, 3, SHAPE), jnp.int32)
               for _ in range(3))
  packed, by_keys = jax.jit(lambda *keys: (
      sorting._argsort_packed(*keys), sorting._argsort_by_keys(*keys)))(*keys)
  np.testing.assert_array_equal(packed, by_keys)
  np.testing.assert_array_equal(packed[0], np.lexsort([k[0] for k in keys]))


def test_exports_for_every_platform():
  exported = jax.export.export(
      jax.jit(harmonrank_jax.hard_rank), platforms=("cpu", "cuda", "tpu"))(
          jax.ShapeDtypeStruct((8,), jnp.float32))
  scores = np.float32(np.random.default_rng(0).normal(size=8).round())
  np.testing.assert_array_equal(
      exported.call(scores), oracles.mid_ranks(scores))


@pytest.mark.parametrize("arguments, message", [
    ({"scores": 1.0}, "scores must have shape"),
    ({"scores": jnp.ones(3), "where": jnp.ones((2, 3), bool)},
     r"where.*\(2, 3\)"),
    ({"scores": jnp.ones(3), "segment_ids": jnp.ones(2, int)},
     r"segment_ids.*\(2,\).*\(3,\)"),
    ({"scores": jnp.ones(3), "segment_ids": jnp.ones(3)}, "integers.*float32"),
    ({"scores": jnp.ones(3, jnp.complex64)}, "real"),
    ({"scores": np.array(["a"])}, "scores must be numbers"),
    ({"scores": np.ones(2), "segment_ids": np.array(["a", "b"])},
     "segment_ids must be integers, got <U1: number them"),
])
def test_errors_name_the_argument(arguments, message):
  with pytest.raises(ValueError, match=message):
    harmonrank_jax.hard_rank(**arguments)
