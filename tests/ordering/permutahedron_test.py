"""Soft rank and soft sort against float64 oracles and their theory.

Almost all of the time is compilation, so the cases of many tests are rows of
two shapes: one with three tiles to merge, the last not full, and one without.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax
from tests import oracles
from tests.ordering.calculus import ROWS
from tests.ordering.calculus import make_calculus

SIZE, SMALL = 40, 12
SHAPE, SMALL_SHAPE = (ROWS, SIZE), (ROWS, SMALL)

rank = make_calculus(harmonrank_jax.soft_rank, SIZE)
small_rank = make_calculus(harmonrank_jax.soft_rank, SMALL)
small_sort = make_calculus(harmonrank_jax.soft_sort, SMALL)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def relative(strength, scores):
  """eps of a relative strength: in units of std / n."""
  return strength * scores.std(axis=-1, keepdims=True) / scores.shape[-1]


def cases(size=SIZE):
  """Rows without ties, with ties and with heavy tails, at six strengths."""
  kinds = normal(size), normal(size).round(1), np.exp(normal(size))
  scores = np.repeat(kinds, 6, axis=0)
  strength = np.tile([0.01, 0.3, 1.0, 3.0, 8.0, 100.0], 3)[:, None]
  return scores, relative(strength, scores)


def test_by_hand():
  # z = [.5, 1, 3.5, 4] less [1, 2, 3, 4]: (-.5, -1) pool, and so do (.5, 0).
  values, where = oracles.padded_rows([[3.5, 1.0, 4.0, 0.5]], SMALL_SHAPE)
  np.testing.assert_allclose(
      small_rank(np.float32(values), 1.0, where).values[0, :4],
      [3.5 - 0.25, 1 + 0.75, 4 - 0.25, 0.5 + 0.75])


def test_soft_sort_by_hand(x64):
  # Positions [.5, 1, 1.5] less [1, 2, 3] pool to a mean of -1.
  values, where = oracles.padded_rows([[3.0, 1.0, 2.0]], SMALL_SHAPE)
  np.testing.assert_allclose(
      small_sort(values, 2.0, where).values[0, :3],
      [0.5 + 1, 1 + 1, 1.5 + 1])


def test_ranks_agree_with_the_oracle(x64):
  scores, eps = cases()
  ranks = rank(scores, eps).values
  for row, strength in enumerate(eps[:, 0]):
    np.testing.assert_allclose(
        ranks[row], oracles.soft_rank(scores[row], strength),
        rtol=1e-12, atol=1e-12 * SIZE)


def test_sorts_agree_with_the_oracle(x64):
  values, eps = cases(SMALL)
  ordered = small_sort(values, eps).values
  for row, strength in enumerate(eps[:, 0]):
    np.testing.assert_allclose(
        ordered[row], oracles.soft_sort(values[row], strength),
        rtol=1e-12, atol=1e-12 / strength)


@pytest.mark.slow
def test_float32_errs_by_less_than_a_rank_in_a_million():
  call = jax.jit(lambda s, eps: harmonrank_jax.soft_rank(s, strength=eps))
  for offset in (0, 100):
    scores = np.float32(normal(1_000_000) + offset)
    eps = np.float32(relative(3.0, scores)[0])
    error = np.asarray(call(scores, eps)) - oracles.soft_rank(scores, eps)
    assert np.abs(error).max() < 0.5


def test_hard_limit_is_exact_and_reached_continuously():
  scores = np.float32(normal(SMALL).round(1))
  eps = np.resize([0.0, 1e-30, 1e-12, 1e-5], (ROWS, 1))
  np.testing.assert_array_equal(
      small_rank(scores, eps).values,
      np.broadcast_to(oracles.mid_ranks(scores), SMALL_SHAPE))


def test_hard_limit_of_the_sort(x64):
  values = normal(SMALL).round(1)
  eps = np.resize([0.0, 1e-300, 1e-12, 1e-5], (ROWS, 1))
  np.testing.assert_allclose(
      small_sort(values, eps).values,
      np.broadcast_to(np.sort(values), SMALL_SHAPE), atol=1e-9)


def test_soft_limit():
  eps = np.resize([1e6, 1e30, np.inf], (ROWS, 1))
  np.testing.assert_allclose(
      small_rank(np.float32(normal(SMALL)), eps).values,
      np.full(SMALL_SHAPE, (SMALL + 1) / 2), rtol=1e-5)


def test_soft_limit_of_the_sort(x64):
  values = normal(SMALL)
  eps = np.resize([1e6, 1e300, np.inf], (ROWS, 1))
  np.testing.assert_allclose(
      small_sort(values, eps).values,
      np.full(SMALL_SHAPE, values.mean()), atol=1e-4)


@pytest.mark.parametrize("far", [
    1_767_000_000_000, np.uint64(2**64 - 2**40), 1.7e12], ids=str)
def test_scores_of_the_host_keep_their_differences(far):
  near = np.array([3, 1, 2, 9])
  valid = np.array([True, True, True, False])
  np.testing.assert_allclose(
      harmonrank_jax.soft_rank(
          far + near.astype(type(far)), strength=0.4, where=valid),
      harmonrank_jax.soft_rank(
          np.float32(near), strength=0.4, where=valid), rtol=1e-6)


def test_sum_shift_permutation_and_monotonicity(x64):
  scores, eps = cases()
  ranks = rank(scores, eps).values
  np.testing.assert_allclose(
      ranks.sum(axis=1), np.full(ROWS, SIZE * (SIZE + 1) / 2), rtol=1e-14)
  np.testing.assert_allclose(
      rank(scores + 5, eps).values, ranks, rtol=1e-10)
  order = np.random.default_rng(1).permutation(SIZE)
  np.testing.assert_allclose(
      rank(scores[:, order], eps).values, ranks[:, order], rtol=1e-13)
  ascending = np.argsort(scores, axis=1)
  in_order = np.take_along_axis(ranks, ascending, axis=1)
  assert (np.diff(in_order) >= -1e-12).all()


def test_all_equal():
  result = small_rank(np.ones(SMALL, np.float32), 0.1)
  np.testing.assert_array_equal(
      result.values, np.full(SMALL_SHAPE, (SMALL + 1) / 2))
  np.testing.assert_allclose(
      result.by_items[0], (np.eye(SMALL) - 1 / SMALL) / 0.1,
      rtol=1e-5, atol=1e-6)


def test_infinite_and_nan_scores():
  scores, where = oracles.padded_rows(
      [[0.0, np.inf, 0.1, np.nan, -np.inf, np.inf]], SMALL_SHAPE)
  result = small_rank(np.float32(scores), 10.0, where)
  np.testing.assert_allclose(
      result.values[0, :6],
      [2.5 - 0.005, 4.5, 2.5 + 0.005, np.nan, 1, 4.5], rtol=1e-6)
  # The two finite ones pool; nothing else has a derivative.
  expected = np.zeros((SMALL, SMALL))
  expected[0, [0, 2]], expected[2, [0, 2]] = [0.05, -0.05], [-0.05, 0.05]
  np.testing.assert_allclose(result.by_items[0], expected, atol=1e-7)


def test_infinite_and_nan_values_of_the_sort(x64):
  values, where = oracles.padded_rows(
      [[3.0, np.inf, np.nan, 1.0, -np.inf]], SMALL_SHAPE)
  np.testing.assert_allclose(
      small_sort(values, 0.25, where).values[0, :5],
      [-np.inf, 1, np.nan, 3, np.inf])


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)], ids=str)
def test_empty(shape):
  values = jnp.full(shape, 3.0)
  assert harmonrank_jax.soft_rank(values, strength=1.0).shape == shape
  assert harmonrank_jax.soft_sort(values, strength=1.0).shape == shape


def test_a_list_of_one():
  call = jax.jit(lambda v: (harmonrank_jax.soft_rank(v, strength=1.0),
                            harmonrank_jax.soft_sort(v, strength=1.0)))
  values = jnp.array([[3.0], [-1.0]])
  ranks, ordered = call(values)
  np.testing.assert_array_equal(ranks, [[1], [1]])
  np.testing.assert_array_equal(ordered, values)


def test_all_masked_is_zero_without_gradient():
  result = small_rank(
      np.float32(normal(*SMALL_SHAPE)), 1.0, np.zeros(SMALL_SHAPE, bool))
  for part in result:
    np.testing.assert_array_equal(part, np.zeros_like(part))


@pytest.mark.parametrize("calculus, oracle, shape, num_lists", [
    (rank, oracles.soft_rank, SHAPE, 5),
    (small_sort, oracles.soft_sort, SMALL_SHAPE, 2)], ids=["rank", "sort"])
def test_masked_ragged_lists(calculus, oracle, shape, num_lists, x64):
  scores, where, ids = oracles.random_lists(shape, num_lists)
  eps = 0.3
  expected = oracles.per_list(lambda s: oracle(s, eps), scores, where, ids)
  result = calculus(scores, eps, where, ids)
  np.testing.assert_allclose(
      result.values, expected, rtol=1e-11, atol=1e-11)
  apart = (ids[:, :, None] != ids[:, None]) | ~(
      where[:, :, None] & where[:, None])
  assert (result.by_items[apart] == 0).all()
  assert (result.by_items[~apart] != 0).any()
  assert (result.by_strength[~where] == 0).all()
  for garbage in (np.nan, np.inf, 1e30):
    dirty = calculus(np.where(where, scores, garbage), eps, where, ids)
    for part, other in zip(dirty, result, strict=True):
      np.testing.assert_array_equal(part, other)


def test_gradient_is_the_written_out_jacobian(x64):
  scores, eps = cases()
  result = rank(scores, eps)
  for row, strength in enumerate(eps[:, 0]):
    expected = oracles.soft_rank_jacobian(scores[row], strength)
    scale = 1e-13 / strength
    for actual in (result.by_items[row], result.by_items_forward[row]):
      np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=scale)
      np.testing.assert_allclose(actual, actual.T, atol=scale)
      np.testing.assert_allclose(actual.sum(axis=0), 0, atol=SIZE * scale)


def test_derivative_in_the_strength_is_the_formula(x64):
  scores, eps = cases()
  result = rank(scores, eps)
  for row, strength in enumerate(eps[:, 0]):
    # I - J eps averages over blocks; mean rank of a block = mean soft rank.
    mean_rank = (np.eye(SIZE) - strength * oracles.soft_rank_jacobian(
        scores[row], strength)) @ result.values[row]
    expected = -(result.values[row] - mean_rank) / strength
    for actual in (result.by_strength[row], result.by_strength_forward[row]):
      np.testing.assert_allclose(
          actual, expected, rtol=1e-9, atol=1e-11 / strength)


@pytest.mark.parametrize("calculus, shape", [
    (rank, SHAPE), (small_sort, SMALL_SHAPE)], ids=["rank", "sort"])
def test_gradients_against_differences(calculus, shape, x64):
  scores, direction = normal(2, *shape)
  eps = relative(np.geomspace(0.3, 30, ROWS)[:, None], scores)
  step = 1e-7

  def difference(low, high):
    return (calculus(*high).values - calculus(*low).values) / (2 * step)

  result = calculus(scores, eps)
  np.testing.assert_allclose(
      eps * np.einsum("rij,rj->ri", result.by_items, direction),
      eps * difference((scores - step * direction, eps),
                       (scores + step * direction, eps)),
      rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      eps * result.by_strength,
      difference((scores, eps * (1 - step)), (scores, eps * (1 + step))),
      rtol=1e-5, atol=1e-5)
  for actual, forward in ((result.by_items, result.by_items_forward),
                          (result.by_strength, result.by_strength_forward)):
    np.testing.assert_allclose(forward, actual, rtol=1e-9, atol=1e-9)


def test_at_strength_zero_derivatives_are_zero():
  result = small_rank(np.float32(normal(SMALL).round(1)), 0.0)
  for part in result[1:]:
    np.testing.assert_array_equal(part, np.zeros_like(part))


def test_at_strength_zero_the_sort_has_the_hard_derivative(x64):
  values = normal(SMALL).round(1)
  result = small_sort(values, 0.0)
  np.testing.assert_array_equal(
      result.by_items[0], np.eye(SMALL)[np.argsort(values, kind="stable")])
  np.testing.assert_array_equal(
      result.by_strength, np.zeros(SMALL_SHAPE))


def test_a_traced_negative_strength_is_zero():
  scores = np.float32(normal(SMALL))
  for eps in (-1.0, np.nan):
    np.testing.assert_array_equal(
        small_rank(scores, eps).values, small_rank(scores, 0.0).values)


@pytest.mark.slow
def test_eager_jit_and_vmap_agree():
  scores = np.float32(normal(*SMALL_SHAPE))
  call = lambda s: harmonrank_jax.soft_rank(s, strength=0.2)
  expected = small_rank(scores, 0.2)
  np.testing.assert_allclose(call(scores[0]), expected.values[0], rtol=1e-6)
  gradient = jax.jit(jax.vmap(jax.grad(lambda s: call(s)[3])))(scores)
  np.testing.assert_allclose(
      gradient, expected.by_items[:, 3], rtol=1e-5, atol=1e-6)


def test_exports_and_bfloat16_ranks_are_float32():
  exported = jax.export.export(
      jax.jit(jax.value_and_grad(
          lambda s: harmonrank_jax.soft_rank(s, strength=0.5)[0])),
      platforms=("cpu", "cuda", "tpu"))(
          jax.ShapeDtypeStruct((SMALL,), jnp.bfloat16))
  scores = jnp.asarray(normal(SMALL), jnp.bfloat16)
  value, gradient = exported.call(scores)
  assert (value.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)
  np.testing.assert_allclose(
      value, oracles.soft_rank(scores, 0.5)[0], rtol=1e-6)
  np.testing.assert_allclose(
      np.float32(gradient), oracles.soft_rank_jacobian(scores, 0.5)[0],
      rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("operator", [
    harmonrank_jax.soft_rank, harmonrank_jax.soft_sort])
def test_errors_name_the_argument(operator):
  with pytest.raises(ValueError, match="strength must be at least 0, got -1"):
    operator(jnp.ones(3), strength=-1)
  with pytest.raises(ValueError, match="strength must be at least 0, got nan"):
    operator(jnp.ones(3), strength=float("nan"))
  with pytest.raises(ValueError, match=r"strength.*\(3,\).*\(2, 1\)"):
    operator(jnp.ones((2, 3)), strength=jnp.ones(3))
  with pytest.raises(ValueError, match=r"where.*\(2,\)"):
    operator(jnp.ones(3), strength=1.0, where=jnp.ones(2, bool))
