"""Isotonic regression against SciPy's solver.

Almost all of the time is compilation, so cases that share a code path share
one call: as ragged lists of a flat array, as rows, or padded with `where`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax
from harmonrank_jax.ordering import segments
from tests import oracles

SMALL = (3, 16)
traces = []


@jax.jit
def small_fit(values, weights, where):
  """Fits with weights and without, and their Jacobians, of one tile a row."""
  traces.append(1)

  def fits(values, weights):
    return (harmonrank_jax.isotonic_regression(values, where=where),
            harmonrank_jax.isotonic_regression(
                values, weights=weights, where=where))

  units = jnp.broadcast_to(
      jnp.eye(SMALL[1], dtype=values.dtype)[:, None], (SMALL[1], *SMALL))
  zeros = jnp.zeros_like(values)
  results, pull = jax.vjp(fits, values, weights)
  by_values, _ = jax.vmap(lambda unit: pull((unit, zeros)))(units)
  weighted = jax.vmap(lambda unit: pull((zeros, unit)))(units)
  forward = jax.vmap(lambda unit: jax.jvp(
      fits, (values, weights), (unit, zeros))[1])(units)
  reverse = tuple(
      jnp.swapaxes(x, 0, 1) for x in (by_values, *weighted))
  return results, reverse, tuple(jnp.moveaxis(x, 0, 2) for x in forward)


def fit_lists(lists, weights=None):
  """Fits of up to three short lists, padded with garbage."""
  values, where = oracles.padded_rows(lists, SMALL, fill=np.nan)
  if weights is None:
    weights = [np.ones(len(items)) for items in lists]
  weights, _ = oracles.padded_rows(weights, SMALL, fill=np.nan)
  plain, weighted = small_fit(values, weights, where)[0]
  assert (np.asarray(plain)[~where] == 0).all()
  assert (np.asarray(weighted)[~where] == 0).all()
  return plain, weighted


def assert_fits(actual, values, weights=None):
  expected = oracles.isotonic(values, weights)
  scale = max(np.abs(values).max(), 1e-300)
  np.testing.assert_allclose(
      actual / scale, expected / scale, atol=1e-12, rtol=0)


def test_by_hand(x64):
  plain, weighted = fit_lists(
      [[1.0, 3.0, 2.0, 4.0, 0.0], [5.0], [2.0, 1.0]],
      [[1.0, 2.0, 1.0, 1.0, 1.0], [7.0], [3.0, 1.0]])
  np.testing.assert_allclose(
      plain[0, :5], [1] + [(3 + 2 + 4 + 0) / 4] * 4, rtol=1e-15)
  np.testing.assert_allclose(
      weighted[0, :5], [1] + [(2 * 3 + 2 + 4 + 0) / 5] * 4, rtol=1e-15)
  assert plain[1, 0] == weighted[1, 0] == 5
  np.testing.assert_allclose(plain[2, :2], [1.5, 1.5])
  np.testing.assert_allclose(weighted[2, :2], [1.75, 1.75])


@pytest.mark.slow
def test_ragged_lists_up_to_a_million_agree_with_scipy(x64):
  # Lists of every kind and of 1 to a million values, dealt out over one row.
  lists = [oracles.families(1_000_000)["ranks at 3.0"],
           *oracles.families(20_000).values(), *oracles.families(333).values(),
           *oracles.families(16).values(), *oracles.families(2).values(),
           *([x] for x in range(50))]
  # Nothing of a large value may enter the lists among which it stands.
  lists.append(1e30 * oracles.families(333)["random"])
  sizes = [len(values) for values in lists]
  order = np.random.default_rng(1).permutation(
      np.repeat(np.arange(len(lists)), sizes))
  # The slots of each list, in order of appearance.
  slots = np.split(np.argsort(order, kind="stable"), np.cumsum(sizes)[:-1])
  values = np.zeros(len(order))
  values[np.concatenate(slots)] = np.concatenate(lists)
  actual = np.asarray(jax.jit(
      lambda y, ids: harmonrank_jax.isotonic_regression(y, segment_ids=ids))(
          values, np.int32(order * 7919 - 12345)))
  for items, where in zip(lists, slots, strict=True):
    assert_fits(actual[where], np.asarray(items, np.float64))


def test_weighted_masked_rows_agree_with_scipy(x64):
  size = 20_000
  rng = np.random.default_rng(1)
  values = np.stack([*oracles.families(size).values(), rng.normal(size=size),
                     rng.normal(size=size)])
  weights = np.exp(3 * rng.normal(size=values.shape))
  weights[-2] = 10.0 ** rng.integers(-8, 8, size)
  where = np.ones(values.shape, bool)
  where[-1] = rng.random(size) < 0.8
  ids = np.zeros(values.shape, np.int32)
  ids[-1] = rng.integers(-4, 4, size)
  fit = jax.jit(lambda y, w, where, ids: harmonrank_jax.isotonic_regression(
      y, weights=w, where=where, segment_ids=ids))
  actual = np.asarray(fit(values, weights, where, ids))
  for row in range(len(values) - 1):
    assert_fits(actual[row], values[row], weights[row])
  for group in np.unique(ids[-1]):
    chosen = where[-1] & (ids[-1] == group)
    assert_fits(actual[-1, chosen], values[-1, chosen], weights[-1, chosen])
  assert (actual[~where] == 0).all()
  np.testing.assert_array_equal(
      fit(np.where(where, values, np.nan), np.where(where, weights, np.inf),
          where, ids), actual)


def test_what_is_not_finite_is_left_out_and_returned(x64):
  for actual in fit_lists([[1.0, np.nan, 3.0, np.inf, 1.0, -np.inf]]):
    np.testing.assert_array_equal(
        actual[0, :6], [1, np.nan, 2, np.inf, 2, -np.inf])


def test_weights_that_are_no_weights_are_masked(x64):
  _, weighted = fit_lists(
      [[2.0, 9.0, 1.0, 8.0, 7.0]], [[1.0, 0.0, 1.0, -1.0, np.nan]])
  np.testing.assert_array_equal(weighted[0, :5], [1.5, 0, 1.5, 0, 0])


def test_empty_and_all_masked(x64):
  for shape in ((0,), (3, 0)):
    assert harmonrank_jax.isotonic_regression(jnp.zeros(shape)).shape == shape
  for actual in fit_lists([]):
    np.testing.assert_array_equal(actual, np.zeros(SMALL))


def test_float32_terminates_is_monotone_and_accurate():
  families = oracles.families(8000)
  # Values far from 0 and close to each other: every comparison is rounding.
  offsets = np.array([[0.0], [1e4], [1e7]])
  values = np.float32(np.stack([
      *families.values(), *(offsets + families["random"])]))
  fits = jax.jit(harmonrank_jax.isotonic_regression)(values)
  for row, actual in zip(values, fits, strict=True):
    spacing = np.spacing(np.abs(row).max())
    assert (np.diff(actual) >= -spacing).all()
    np.testing.assert_allclose(
        actual, oracles.isotonic(row), rtol=0, atol=4 * spacing)


def test_derivative_is_the_block_mean(x64):
  rng = np.random.default_rng(0)
  values, weights = rng.normal(size=SMALL), np.exp(rng.normal(size=SMALL))
  values += np.linspace(0, 4, SMALL[1])[None]
  _, reverse, forward = small_fit(values, weights, np.ones(SMALL, bool))
  for row in range(SMALL[0]):
    labels = oracles.isotonic_blocks(values[row])
    same = labels[:, None] == labels[None, :]
    assert 1 < len(np.unique(labels)) < SMALL[1]
    for jacobian in (reverse[0][row], forward[0][row]):
      np.testing.assert_allclose(
          jacobian, same / same.sum(axis=1, keepdims=True), atol=1e-15)
    labels = oracles.isotonic_blocks(values[row], weights[row])
    same = labels[:, None] == labels[None, :]
    share = same * weights[row]
    for jacobian in (reverse[1][row], forward[1][row]):
      np.testing.assert_allclose(
          jacobian, share / share.sum(axis=1, keepdims=True), atol=1e-14)


def test_equal_values_stay_apart(x64):
  values = np.full(SMALL, 0.1)
  for part in small_fit(values, np.ones(SMALL), np.ones(SMALL, bool))[1][:2]:
    np.testing.assert_array_equal(part[0], np.eye(SMALL[1]))


def test_derivative_in_values_and_weights_against_differences(x64):
  rng = np.random.default_rng(0)
  values, weights, direction = rng.normal(size=(3, *SMALL))
  where = rng.random(SMALL) < 0.8
  weights, step = np.exp(weights), 1e-6
  _, (_, by_values, by_weights), _ = small_fit(values, weights, where)

  def difference(low, high):
    low, high = (small_fit(*ends, where)[0][1] for ends in (low, high))
    return (high - low) / (2 * step)

  np.testing.assert_allclose(
      np.einsum("rij,rj->ri", by_values, direction),
      difference((values - step * direction, weights),
                 (values + step * direction, weights)), atol=1e-8)
  np.testing.assert_allclose(
      np.einsum("rij,rj->ri", by_weights, direction),
      difference((values, weights - step * direction),
                 (values, weights + step * direction)), atol=1e-8)
  for jacobian in (by_values, by_weights):
    assert (np.asarray(jacobian).swapaxes(1, 2)[~where] == 0).all()


def test_both_forms_of_the_block_sum_agree():
  rng = np.random.default_rng(0)
  blocks = segments.run_blocks(jnp.asarray(rng.random(200) < 0.02))
  values = jnp.asarray(rng.normal(size=(200, 2)), jnp.float32)
  scattered, scanned = jax.jit(lambda v, b: (
      segments._block_sum_scatter(v, b), segments._block_sum_scan(v, b)))(
          values, blocks)
  np.testing.assert_allclose(scattered, scanned, rtol=1e-5, atol=1e-5)
  start, end = np.asarray(blocks)
  np.testing.assert_allclose(
      scattered, [values[a:b].sum(axis=0) for a, b in zip(
          start, end, strict=True)], rtol=1e-5, atol=1e-5)


def test_one_trace(x64):
  traces.clear()
  for seed in range(3):
    small_fit(*np.random.default_rng(seed).normal(size=(2, *SMALL)),
              np.ones(SMALL, bool))
  assert len(traces) <= 1


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"weights.*\(2,\).*\(3,\).*values"):
    harmonrank_jax.isotonic_regression(jnp.ones(3), weights=jnp.ones(2))
  with pytest.raises(ValueError, match="values must have shape"):
    harmonrank_jax.isotonic_regression(1.0)
