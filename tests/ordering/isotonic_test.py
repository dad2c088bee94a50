"""Isotonic regression against SciPy's solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax
from harmonrank_jax.ordering import isotonic
from harmonrank_jax.ordering import segments
from tests import oracles

fit = jax.jit(harmonrank_jax.isotonic_regression)
weighted_fit = jax.jit(
    lambda y, w: harmonrank_jax.isotonic_regression(y, weights=w))


def assert_fits(values, weights=None, tolerance=1e-12):
  expected = oracles.isotonic(values, weights)
  scale = max(np.abs(values).max(), 1e-300)
  actual = fit(values) if weights is None else weighted_fit(values, weights)
  np.testing.assert_allclose(
      np.asarray(actual) / scale, expected / scale, atol=tolerance, rtol=0)


def test_by_hand():
  np.testing.assert_array_equal(
      fit(jnp.array([1.0, 3.0, 2.0, 4.0, 0.0])),
      [1] + [(3 + 2 + 4 + 0) / 4] * 4)


# One tile, an odd number of tiles, several loops of levels.
@pytest.mark.parametrize("size", [16, 333, 20_000])
def test_agrees_with_scipy(size, x64):
  rng = np.random.default_rng(1)
  for values in oracles.families(size).values():
    assert_fits(values)
    assert_fits(values, np.exp(3 * rng.normal(size=size)))


def test_a_million_values(x64):
  assert_fits(oracles.families(1_000_000)["ranks at 3.0"])


def test_weights_of_many_magnitudes(x64):
  rng = np.random.default_rng(0)
  for _ in range(20):
    assert_fits(rng.normal(size=333), 10.0 ** rng.integers(-8, 8, 333))


def test_one_item_lists_and_empty_ones():
  assert fit(jnp.zeros((0,))).shape == (0,)
  assert fit(jnp.zeros((3, 0))).shape == (3, 0)
  np.testing.assert_array_equal(fit(jnp.array([[2.0], [1.0]])), [[2], [1]])


def test_masked_ragged_lists_in_order_of_appearance(x64):
  values, where, ids = oracles.random_lists((3, 333), 9)
  expected = oracles.per_list(oracles.isotonic, values, where, ids)
  call = jax.jit(lambda y: harmonrank_jax.isotonic_regression(
      y, where=where, segment_ids=ids))
  np.testing.assert_allclose(call(values), expected, atol=1e-13)
  np.testing.assert_array_equal(
      call(np.where(where, values, np.nan)), call(values))


def test_lists_of_other_magnitudes_do_not_blur_a_list():
  # 1e30 and 1 in one tile: nothing of the large list may enter the small.
  small = np.random.default_rng(0).normal(size=100).astype(np.float32)
  values = np.stack([small, small * 1e30], axis=1).reshape(-1)
  ids = np.tile([0, 1], 100)
  expected = oracles.isotonic(small)
  actual = harmonrank_jax.isotonic_regression(values, segment_ids=ids)
  np.testing.assert_allclose(actual[::2], expected, atol=1e-6)
  np.testing.assert_allclose(actual[1::2] / 1e30, expected, atol=1e-6)


def test_what_is_not_finite_is_left_out_and_returned():
  values = jnp.array([1.0, jnp.nan, 3.0, jnp.inf, 1.0, -jnp.inf])
  np.testing.assert_array_equal(
      harmonrank_jax.isotonic_regression(values),
      [1, np.nan, 2, np.inf, 2, -np.inf])


def test_weights_that_are_no_weights_are_masked():
  values = jnp.array([2.0, 9.0, 1.0, 8.0, 7.0])
  weights = jnp.array([1.0, 0.0, 1.0, -1.0, jnp.nan])
  np.testing.assert_array_equal(
      harmonrank_jax.isotonic_regression(values, weights=weights),
      [1.5, 0, 1.5, 0, 0])


def test_terminates_and_is_monotone_in_float32():
  # Values far from 0 and close to each other: every comparison is rounding.
  rng = np.random.default_rng(0)
  for offset in (0.0, 1e4, 1e7):
    values = np.float32(offset + rng.normal(size=20_000))
    result = np.asarray(fit(values))
    spacing = np.spacing(np.float32(offset + 1))
    assert (np.diff(result) >= -spacing).all()
    np.testing.assert_allclose(
        result, oracles.isotonic(values), atol=2 * spacing)


def blocks_of(values):
  """Partition of one list in float32."""
  slots = np.zeros(len(values), np.int32)
  return isotonic.isotonic_blocks(
      jnp.asarray(values, jnp.float32),
      segments.Blocks(slots, slots + len(values)), row_size=len(values))


def test_blocks_are_a_partition():
  for values in oracles.families(333).values():
    start, end = blocks_of(values)
    slots = np.arange(333)
    assert ((start <= slots) & (slots < end)).all()
    first = slots[start == slots]
    np.testing.assert_array_equal(
        start, first[np.searchsorted(first, slots, side="right") - 1])
    np.testing.assert_array_equal(end[first], np.append(first[1:], 333))


def test_equal_values_stay_apart():
  np.testing.assert_array_equal(
      blocks_of(np.full(333, 0.1)).start, np.arange(333))


def test_derivative_is_the_block_mean(x64):
  values = np.random.default_rng(0).normal(size=333)
  labels = oracles.isotonic_blocks(values)
  same = labels[:, None] == labels[None, :]
  expected = same / same.sum(axis=1, keepdims=True)
  for jacobian in (jax.jacfwd(fit)(values), jax.jacrev(fit)(values)):
    np.testing.assert_allclose(jacobian, expected, atol=1e-15)


def test_derivative_in_values_and_weights_against_differences(x64):
  rng = np.random.default_rng(0)
  values, weights, cotangent = rng.normal(size=(3, 17))
  weights = np.exp(weights)
  objective = lambda y, w: weighted_fit(y, w) @ cotangent
  for argument in (0, 1):
    gradient = jax.grad(objective, argument)(values, weights)
    for i in range(17):
      step = np.zeros(17)
      step[i] = 1e-6
      ends = [objective(*(x + sign * step if k == argument else x
                          for k, x in enumerate((values, weights))))
              for sign in (1, -1)]
      np.testing.assert_allclose(
          gradient[i], (ends[0] - ends[1]) / 2e-6, atol=1e-8)


def test_both_forms_of_the_block_sum_agree():
  rng = np.random.default_rng(0)
  blocks = segments.run_blocks(jnp.asarray(rng.random(333) < 0.2))
  values = jnp.asarray(rng.normal(size=(333, 2)), jnp.float32)
  np.testing.assert_allclose(
      jax.jit(segments._block_sum_scatter)(values, blocks),
      jax.jit(segments._block_sum_scan)(values, blocks), rtol=1e-5, atol=1e-6)


def test_one_trace():
  traces = []

  @jax.jit
  def traced(values):
    traces.append(1)
    return harmonrank_jax.isotonic_regression(values)

  for seed in range(3):
    traced(np.random.default_rng(seed).normal(size=17))
  assert len(traces) == 1


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"weights.*\(2,\).*\(3,\).*values"):
    harmonrank_jax.isotonic_regression(jnp.ones(3), weights=jnp.ones(2))
  with pytest.raises(ValueError, match="values must have shape"):
    harmonrank_jax.isotonic_regression(1.0)
