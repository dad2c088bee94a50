"""Hard ranks and the layout of lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax
from harmonrank_jax.ordering import sorting
from tests import oracles

SHAPE = (3, 40)


def test_ties_share_the_mean_rank():
  ranks = harmonrank_jax.hard_rank(jnp.array([0.7, 0.2, 0.7, 0.1, 0.7]))
  np.testing.assert_array_equal(ranks, [(3 + 4 + 5) / 3, 2, 4, 1, 4])


def test_the_document_example_ascends():
  # The source ranks [.7, .2, .8, .1, .9] descending, [3, 4, 2, 5, 1].
  ranks = harmonrank_jax.hard_rank(jnp.array([0.7, 0.2, 0.8, 0.1, 0.9]))
  np.testing.assert_array_equal(ranks, 6 - np.array([3, 4, 2, 5, 1]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_agrees_with_scipy(dtype, x64):
  scores = np.random.default_rng(0).normal(size=SHAPE).round(1)
  scores = jnp.asarray(scores, dtype)
  expected = np.stack([oracles.mid_ranks(row) for row in scores])
  ranks = harmonrank_jax.hard_rank(scores)
  np.testing.assert_array_equal(ranks, expected)
  assert ranks.dtype == (
      jnp.float64 if dtype == jnp.float64 else jnp.float32)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_masked_ragged_lists(dtype, x64):
  scores, where, ids = oracles.random_lists(SHAPE, 5)
  scores = scores.round(1)
  ids = ids if dtype != np.uint8 else ids % 5
  expected = oracles.per_list(oracles.mid_ranks, scores, where, ids)
  ranks = harmonrank_jax.hard_rank(
      jnp.asarray(scores), where=where, segment_ids=jnp.asarray(ids, dtype))
  np.testing.assert_array_equal(ranks, expected)


def test_extreme_ids_are_ids():
  ids = jnp.array([2**31 - 1, -(2**31), 0, 2**31 - 1, -(2**31), 0])
  ranks = harmonrank_jax.hard_rank(
      jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), segment_ids=ids,
      where=jnp.array([True, True, True, True, False, True]))
  np.testing.assert_array_equal(ranks, [1, 1, 1, 2, 0, 2])


def test_padding_changes_nothing_whatever_it_holds():
  scores, where, ids = oracles.random_lists(SHAPE, 5)
  rank = jax.jit(lambda s: harmonrank_jax.hard_rank(
      s, where=where, segment_ids=ids))
  for garbage in (np.nan, np.inf, -np.inf, 0.0, scores[0, 0]):
    np.testing.assert_array_equal(
        rank(np.where(where, scores, garbage)), rank(scores))


def test_infinities_end_the_scale_and_nan_takes_no_part():
  scores = jnp.array([1.0, jnp.inf, jnp.nan, -jnp.inf, jnp.inf, -0.0, 0.0])
  np.testing.assert_array_equal(
      harmonrank_jax.hard_rank(scores),
      [4, 5.5, np.nan, 1, 5.5, 2.5, 2.5])


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (1,), (2, 1)])
def test_empty_and_single(shape):
  ranks = harmonrank_jax.hard_rank(jnp.zeros(shape))
  np.testing.assert_array_equal(ranks, np.ones(shape))


def test_all_masked_is_zero():
  ranks = harmonrank_jax.hard_rank(jnp.ones(4), where=jnp.zeros(4, bool))
  np.testing.assert_array_equal(ranks, np.zeros(4))


def test_eager_jit_vmap_and_scan_agree():
  scores, where, ids = oracles.random_lists(SHAPE, 5)
  rank = lambda s, w, i: harmonrank_jax.hard_rank(
      s, where=w, segment_ids=i)
  expected = rank(scores, where, ids)
  np.testing.assert_array_equal(jax.jit(rank)(scores, where, ids), expected)
  np.testing.assert_array_equal(jax.vmap(rank)(scores, where, ids), expected)
  _, scanned = jax.lax.scan(
      lambda _, x: (None, rank(*x)), None, (scores, where, ids))
  np.testing.assert_array_equal(scanned, expected)


def test_has_no_gradient():
  gradient = jax.grad(lambda s: harmonrank_jax.hard_rank(s).sum())(
      jnp.arange(4.0))
  np.testing.assert_array_equal(gradient, np.zeros(4))


def test_both_forms_of_the_sort_agree():
  rng = np.random.default_rng(0)
  keys = tuple(jnp.asarray(rng.integers(-3, 3, SHAPE), jnp.int32)
               for _ in range(3))
  np.testing.assert_array_equal(
      sorting._argsort_packed(*keys), sorting._argsort_by_keys(*keys))


def test_exports_for_every_platform():
  exported = jax.export.export(
      jax.jit(harmonrank_jax.hard_rank), platforms=("cpu", "cuda", "tpu"))(
          jax.ShapeDtypeStruct((8,), jnp.float32))
  scores = jnp.asarray(np.random.default_rng(0).normal(size=8), jnp.float32)
  np.testing.assert_array_equal(
      exported.call(scores), harmonrank_jax.hard_rank(scores))


@pytest.mark.parametrize("arguments, message", [
    ({"scores": 1.0}, "scores must have shape"),
    ({"scores": jnp.ones(3), "where": jnp.ones((2, 3), bool)},
     r"where.*\(2, 3\)"),
    ({"scores": jnp.ones(3), "segment_ids": jnp.ones(2, int)},
     r"segment_ids.*\(2,\).*\(3,\)"),
    ({"scores": jnp.ones(3), "segment_ids": jnp.ones(3)}, "integers.*float32"),
    ({"scores": jnp.ones(3, jnp.complex64)}, "real"),
])
def test_errors_name_the_argument(arguments, message):
  with pytest.raises(ValueError, match=message):
    harmonrank_jax.hard_rank(arguments.pop("scores"), **arguments)
