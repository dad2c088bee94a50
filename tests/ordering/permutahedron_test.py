"""Soft rank and soft sort against float64 oracles and their theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax
from tests import oracles

SIZE = 60
soft_rank = jax.jit(
    lambda s, eps: harmonrank_jax.soft_rank(s, strength=eps))
soft_sort = jax.jit(
    lambda s, eps: harmonrank_jax.soft_sort(s, strength=eps))


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def relative(strength, scores):
  """eps of a relative strength: in units of std / n."""
  return strength * scores.std() / scores.shape[-1]


def test_by_hand():
  # z = [.5, 1, 3.5, 4] less [1, 2, 3, 4]: (-.5, -1) pool, and so do (.5, 0).
  np.testing.assert_allclose(
      harmonrank_jax.soft_rank(jnp.array([3.5, 1.0, 4.0, 0.5]), strength=1.0),
      [3.5 - 0.25, 1 + 0.75, 4 - 0.25, 0.5 + 0.75])
  # Positions [.5, 1, 1.5] less [1, 2, 3] pool to a mean of -1.
  np.testing.assert_allclose(
      harmonrank_jax.soft_sort(jnp.array([3.0, 1.0, 2.0]), strength=2.0),
      [0.5 + 1, 1 + 1, 1.5 + 1])


@pytest.mark.parametrize("strength", [0.01, 0.3, 1.0, 3.0, 8.0, 100.0])
def test_agree_with_the_oracle(strength, x64):
  for scores in (normal(SIZE), normal(SIZE).round(1), np.exp(normal(SIZE))):
    eps = relative(strength, scores)
    np.testing.assert_allclose(
        soft_rank(scores, eps), oracles.soft_rank(scores, eps),
        rtol=1e-12, atol=1e-12 * SIZE)
    np.testing.assert_allclose(
        soft_sort(scores, eps), oracles.soft_sort(scores, eps),
        rtol=1e-12, atol=1e-12 / eps)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float32_errs_by_less_than_a_rank_in_a_million(offset):
  scores = np.float32(normal(1_000_000) + offset)
  eps = np.float32(relative(3.0, scores))
  error = np.asarray(soft_rank(scores, eps)) - oracles.soft_rank(scores, eps)
  assert np.abs(error).max() < 0.5


def test_hard_limit_is_exact_and_reached_continuously():
  scores = np.float32(normal(SIZE).round(1))
  expected = oracles.mid_ranks(scores)
  for eps in (0.0, 1e-30, 1e-12, 1e-5):
    np.testing.assert_array_equal(soft_rank(scores, eps), expected)
    np.testing.assert_allclose(
        soft_sort(scores, eps), np.sort(scores), atol=1e-6)


def test_soft_limit():
  scores = np.float32(normal(SIZE))
  for eps in (1e6, 1e30, np.inf):
    np.testing.assert_allclose(
        soft_rank(scores, eps), np.full(SIZE, (SIZE + 1) / 2), rtol=1e-5)
    np.testing.assert_allclose(
        soft_sort(scores, eps), np.full(SIZE, scores.mean()), atol=1e-3)


def test_sum_shift_permutation_and_monotonicity(x64):
  scores = normal(SIZE)
  eps = relative(2.0, scores)
  ranks = soft_rank(scores, eps)
  np.testing.assert_allclose(ranks.sum(), SIZE * (SIZE + 1) / 2, rtol=1e-14)
  np.testing.assert_allclose(soft_rank(scores + 5, eps), ranks, rtol=1e-12)
  order = np.random.default_rng(1).permutation(SIZE)
  np.testing.assert_allclose(
      soft_rank(scores[order], eps), ranks[order], rtol=1e-14)
  assert (np.diff(ranks[np.argsort(scores)]) >= 0).all()
  assert (np.diff(soft_sort(scores, eps)) >= 0).all()


def test_all_equal():
  np.testing.assert_array_equal(
      soft_rank(np.ones(SIZE, np.float32), 0.1),
      np.full(SIZE, (SIZE + 1) / 2))
  np.testing.assert_allclose(
      jax.grad(lambda s: soft_rank(s, 0.1)[0])(np.ones(SIZE, np.float32)),
      (np.eye(SIZE)[0] - 1 / SIZE) / 0.1, rtol=1e-5, atol=1e-6)


def test_infinite_and_nan_scores():
  scores = jnp.array([0.0, jnp.inf, 0.1, jnp.nan, -jnp.inf, jnp.inf])
  np.testing.assert_allclose(
      harmonrank_jax.soft_rank(scores, strength=10.0),
      [2.5 - 0.005, 4.5, 2.5 + 0.005, np.nan, 1, 4.5], rtol=1e-6)
  gradient = jax.grad(lambda s: harmonrank_jax.soft_rank(
      s, strength=10.0)[jnp.array([0, 1, 2, 4])] @ jnp.arange(4.0))(scores)
  np.testing.assert_allclose(gradient, [-0.1, 0, 0.1, 0, 0, 0], atol=1e-7)
  np.testing.assert_allclose(
      harmonrank_jax.soft_sort(
          jnp.array([3.0, jnp.inf, jnp.nan, 1.0, -jnp.inf]), strength=0.25),
      [-np.inf, 1, np.nan, 3, np.inf])


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (1,), (2, 1)])
def test_empty_and_single(shape):
  values = jnp.full(shape, 3.0)
  np.testing.assert_array_equal(
      harmonrank_jax.soft_rank(values, strength=1.0), np.ones(shape))
  np.testing.assert_array_equal(
      harmonrank_jax.soft_sort(values, strength=1.0), values)


def test_all_masked_is_zero_without_gradient():
  masked = lambda s: harmonrank_jax.soft_rank(
      s, strength=1.0, where=jnp.zeros(4, bool))
  np.testing.assert_array_equal(masked(jnp.arange(4.0)), np.zeros(4))
  np.testing.assert_array_equal(
      jax.jacrev(masked)(jnp.arange(4.0)), np.zeros((4, 4)))


def test_bfloat16_ranks_are_float32():
  scores = jnp.asarray(normal(SIZE), jnp.bfloat16)
  ranks = harmonrank_jax.soft_rank(scores, strength=0.01)
  assert ranks.dtype == jnp.float32
  np.testing.assert_allclose(
      ranks, oracles.soft_rank(scores, 0.01), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("operator, oracle", [
    (harmonrank_jax.soft_rank, oracles.soft_rank),
    (harmonrank_jax.soft_sort, oracles.soft_sort)])
def test_masked_ragged_lists(operator, oracle, x64):
  scores, where, ids = oracles.random_lists((3, SIZE), 9)
  expected = oracles.per_list(lambda s: oracle(s, 0.02), scores, where, ids)
  call = jax.jit(lambda s, eps: operator(
      s, strength=eps, where=where, segment_ids=ids))
  actual = call(scores, 0.02)
  np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)
  pull = jax.vjp(lambda s: call(s, 0.02), scores)[1]
  gradient, = pull(normal(3, SIZE))
  assert (np.asarray(gradient)[~where] == 0).all()
  for garbage in (np.nan, np.inf, 1e30):
    dirty = np.where(where, scores, garbage)
    np.testing.assert_array_equal(call(dirty, 0.02), actual)
    pull = jax.vjp(lambda s: call(s, 0.02), dirty)[1]
    np.testing.assert_array_equal(pull(normal(3, SIZE))[0], gradient)


def test_gradient_is_the_written_out_jacobian(x64):
  scores = normal(SIZE)
  for strength in (0.5, 2.0, 20.0):
    eps = relative(strength, scores)
    expected = oracles.soft_rank_jacobian(scores, eps)
    for mode in (jax.jacfwd, jax.jacrev):
      actual = mode(lambda s, eps=eps: soft_rank(s, eps))(scores)
      np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-11)
      np.testing.assert_allclose(actual, np.transpose(actual), atol=1e-11)
      np.testing.assert_allclose(actual.sum(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("operator", [soft_rank, soft_sort])
def test_gradients_against_differences(operator, x64):
  scores, direction, cotangent = normal(3, SIZE)
  for strength in (0.5, 2.0, 20.0):
    eps = relative(strength, scores)
    objective = lambda s, e: operator(s, e) @ cotangent
    step = 1e-7
    by_scores = (objective(scores + step * direction, eps)
                 - objective(scores - step * direction, eps)) / (2 * step)
    by_strength = (objective(scores, eps * (1 + step))
                   - objective(scores, eps * (1 - step))) / (2 * step * eps)
    gradient = jax.grad(objective, (0, 1))(scores, eps)
    np.testing.assert_allclose(
        gradient[0] @ direction, by_scores, rtol=1e-5)
    np.testing.assert_allclose(gradient[1], by_strength, rtol=1e-5)
    _, tangent = jax.jvp(
        objective, (scores, eps), (direction, 1.0))
    np.testing.assert_allclose(
        tangent, gradient[0] @ direction + gradient[1], rtol=1e-10)


def test_derivative_in_the_strength_is_the_formula(x64):
  scores = normal(SIZE)
  eps = relative(2.0, scores)
  ranks = soft_rank(scores, eps)
  jacobian = oracles.soft_rank_jacobian(scores, eps) * eps
  # I - J eps averages over blocks; mean rank of a block = mean soft rank.
  mean_rank = (np.eye(SIZE) - jacobian) @ ranks
  np.testing.assert_allclose(
      jax.jacfwd(soft_rank, 1)(scores, eps), -(ranks - mean_rank) / eps,
      rtol=1e-9, atol=1e-7)


def test_at_strength_zero_derivatives_are_zero():
  scores = np.float32(normal(SIZE).round(1))
  for argument in (0, 1):
    derivative = jax.jacrev(soft_rank, argument)(scores, 0.0)
    np.testing.assert_array_equal(derivative, np.zeros_like(derivative))
  jacobian = jax.jacrev(soft_sort)(scores, 0.0)
  np.testing.assert_array_equal(jacobian, np.eye(SIZE)[np.argsort(
      scores, kind="stable")])
  np.testing.assert_array_equal(
      jax.jacrev(soft_sort, 1)(scores, 0.0), np.zeros(SIZE))


def test_strength_per_list_and_negative_when_traced():
  scores = np.float32(normal(2, SIZE))
  strength = np.float32([[0.001], [0.01]])
  ranks = soft_rank(scores, strength)
  for row in range(2):
    np.testing.assert_array_equal(
        ranks[row], soft_rank(scores, np.tile(strength[row], (2, 1)))[row])
  np.testing.assert_array_equal(
      soft_rank(scores, np.float32(-1.0)), soft_rank(scores, 0.0))


def test_eager_jit_and_vmap_agree():
  scores = np.float32(normal(2, 12))
  rank = lambda s: harmonrank_jax.soft_rank(s, strength=0.2)
  value_and_grad = jax.value_and_grad(lambda s: (rank(s) ** 2).sum())
  expected = [value_and_grad(row) for row in scores]
  actual = jax.jit(jax.vmap(value_and_grad))(scores)
  for row in range(2):
    np.testing.assert_allclose(actual[0][row], expected[row][0], rtol=1e-6)
    np.testing.assert_allclose(actual[1][row], expected[row][1], rtol=1e-5)


def test_exports_with_its_gradient():
  function = jax.jit(jax.value_and_grad(
      lambda s: harmonrank_jax.soft_rank(s, strength=0.1)[0]))
  exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(
      jax.ShapeDtypeStruct((40,), jnp.float32))
  scores = np.float32(normal(40))
  for actual, expected in zip(
      exported.call(scores), function(scores), strict=True):
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


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
