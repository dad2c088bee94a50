"""The likelihood against N x N kernels and all subsets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.diversity import likelihood
from tests.diversity import reference
from tests.diversity.likelihood_reference import NUM_FEATURES
from tests.diversity.likelihood_reference import NUM_ITEMS
from tests.diversity.likelihood_reference import NUM_LISTS
from tests.diversity.likelihood_reference import POSSIBLE
from tests.diversity.likelihood_reference import RIDGES
from tests.diversity.likelihood_reference import SHAPE
from tests.diversity.likelihood_reference import SUBSETS
from tests.diversity.likelihood_reference import WEIGHTS
from tests.diversity.likelihood_reference import kernels
from tests.diversity.likelihood_reference import log_probabilities
from tests.diversity.likelihood_reference import sample


@pytest.fixture(autouse=True)
def form():
  """The likelihood has no native form: the tests run once."""


@jax.jit
def evaluate(features, relevance, positives, theta, log_scale, where, ridge):
  """Log-likelihoods, and the gradient of a weighted sum of the finite ones."""

  def value(features, relevance, theta, log_scale):
    values = likelihood.dpp_log_likelihood(
        features, relevance, positives, theta=theta, log_scale=log_scale,
        where=where, ridge=ridge)
    return jnp.sum(jnp.where(values > -jnp.inf, WEIGHTS * values, 0)), values

  gradient, values = jax.grad(value, argnums=(0, 1, 2, 3), has_aux=True)(
      features, relevance, theta, log_scale)
  return values, gradient


def log_likelihood(features, relevance, positives, *, theta, log_scale=0.3,
                   where=True, ridge=None):
  """`evaluate` in shapes that are always the same."""
  broadcast = lambda x, shape: np.broadcast_to(np.float64(x), shape)
  return evaluate(
      features, broadcast(relevance, SHAPE), np.broadcast_to(positives, SHAPE),
      broadcast(theta, NUM_LISTS), broadcast(log_scale, NUM_LISTS),
      np.broadcast_to(where, SHAPE), ridge)


@pytest.mark.parametrize("ridge", [*RIDGES, 0.0])
def test_probabilities_of_all_subsets_sum_to_one(ridge, x64):
  features, relevance = sample()
  values, _ = log_likelihood(
      features, relevance, SUBSETS, theta=0.6, ridge=ridge)
  np.testing.assert_allclose(np.exp(values).sum(), 1, rtol=1e-12)
  # Of three dimensions there are no four independent features.
  np.testing.assert_array_equal(
      values > -np.inf, POSSIBLE if ridge is None else True)


@pytest.mark.parametrize("ridge", RIDGES)
def test_agrees_with_the_kernel(ridge, x64):
  features, relevance = sample()
  theta, log_scale = np.linspace(0, 0.9, NUM_LISTS), np.linspace(
      -3, 3, NUM_LISTS)
  where = np.random.default_rng(1).random(SHAPE) < 0.8
  values, _ = log_likelihood(
      features, relevance, SUBSETS, theta=theta, log_scale=log_scale,
      where=where, ridge=ridge)
  kernel = kernels(features, np.tile(relevance, (NUM_LISTS, 1)), theta=theta,
                   log_scale=log_scale, ridge=ridge)
  expected = log_probabilities(kernel, SUBSETS, where)
  if ridge is None:
    few = (SUBSETS & where).sum(axis=1) <= NUM_FEATURES
    expected = np.where(few, expected, -np.inf)
  np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_by_hand_an_item_that_resembles_no_other(x64):
  # 2 alpha = 3 at theta = 3/4; the odds are e^(3 r + log_scale).
  odds = np.exp(3 * 0.2 + 0.3)
  values, _ = log_likelihood(sample()[0], 0.2, SUBSETS, theta=0.75,
                             where=np.arange(NUM_ITEMS) == 1)
  np.testing.assert_allclose(np.exp(values), np.where(
      SUBSETS[:, 1], odds / (1 + odds), 1 / (1 + odds)), rtol=1e-12)


@pytest.mark.parametrize("ridge", RIDGES)
def test_without_items_the_empty_set_is_certain(ridge, x64):
  features, relevance = sample()
  values, gradient = log_likelihood(
      features, relevance, True, theta=0.5, where=False, ridge=ridge)
  for part in (values, *gradient):
    np.testing.assert_array_equal(part, 0)


@pytest.mark.parametrize("ridge", RIDGES)
def test_gradient_against_differences(ridge, x64):
  features, relevance = sample()
  arguments = [features, np.tile(relevance, (NUM_LISTS, 1)),
               np.linspace(0.01, 0.9, NUM_LISTS),
               np.linspace(-1, 1, NUM_LISTS)]

  def at(arguments):
    f, r, theta, log_scale = arguments
    values, gradient = log_likelihood(
        f, r, SUBSETS, theta=theta, log_scale=log_scale, ridge=ridge)
    return np.sum(WEIGHTS * np.where(values > -np.inf, values, 0)), gradient

  _, gradient = at(arguments)
  rng = np.random.default_rng(5)
  for part, exact in enumerate(gradient):
    direction = rng.normal(size=np.shape(exact))
    ends = []
    for sign in (1, -1):
      moved = list(arguments)
      moved[part] = moved[part] + sign * 1e-6 * direction
      ends.append(at(moved)[0])
    np.testing.assert_allclose(
        (exact * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


def test_theta_is_clipped_and_its_derivative_at_zero_is_whole(x64):
  arguments = *sample(), SUBSETS
  at, gradient = log_likelihood(*arguments, theta=0, ridge=0.8)
  above, _ = log_likelihood(*arguments, theta=1e-7, ridge=0.8)
  np.testing.assert_allclose(
      gradient[2], WEIGHTS * (above - at) / 1e-7, rtol=1e-5, atol=1e-5)
  below, flat = log_likelihood(*arguments, theta=-0.5, ridge=0.8)
  np.testing.assert_array_equal(below, at)
  np.testing.assert_array_equal(flat[2], 0)
  beyond, _ = log_likelihood(*arguments, theta=2, ridge=0.8)
  assert np.isfinite(beyond).all()


def test_copies_are_impossible_without_ridge(x64):
  features, relevance = sample()
  features[3] = 2 * features[0]
  values, gradient = log_likelihood(features, relevance, SUBSETS, theta=0.5)
  impossible = (SUBSETS[:, 0] & SUBSETS[:, 3]) | ~POSSIBLE
  np.testing.assert_array_equal(values == -np.inf, impossible)
  for part in gradient:
    assert np.isfinite(part).all()
  values, _ = log_likelihood(
      features, relevance, SUBSETS, theta=0.5, ridge=0.8)
  kernel = kernels(features, np.tile(relevance, (NUM_LISTS, 1)), theta=0.5,
                   ridge=0.8)
  np.testing.assert_allclose(
      values, log_probabilities(kernel, SUBSETS, SUBSETS | True), rtol=1e-9)


@pytest.mark.parametrize("ridge", RIDGES)
def test_items_that_do_not_exist(ridge, x64):
  features, relevance = sample()
  expected, gradient = log_likelihood(
      features, relevance, SUBSETS, theta=0.5, ridge=ridge,
      where=np.arange(NUM_ITEMS) < 3)
  for garbage in (0.0, np.nan, np.inf):
    dirty, bad = features.copy(), relevance.copy()
    dirty[3], bad[4] = garbage, garbage - np.inf
    values, dirty_gradient = log_likelihood(
        dirty, bad, SUBSETS, theta=0.5, ridge=ridge,
        where=np.arange(NUM_ITEMS) != 3)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    for part, clean in zip(dirty_gradient, gradient, strict=True):
      np.testing.assert_allclose(part, clean, atol=1e-12)


@pytest.mark.parametrize("ridge", RIDGES)
def test_items_without_features_resemble_no_other(ridge, x64):
  features, relevance = sample()
  own_axis = np.concatenate([features, np.zeros((NUM_ITEMS, 1))], axis=1)
  own_axis[3] = 0, 0, 0, 1
  expected = log_probabilities(
      kernels(own_axis, np.tile(relevance, (NUM_LISTS, 1)), theta=0.5,
              ridge=ridge), SUBSETS, SUBSETS | True)
  expected = np.where(expected < -30, -np.inf, expected)  # Rounding of 0.
  for nothing in (0.0, np.nan):
    features[3] = nothing
    values, gradient = log_likelihood(
        features, relevance, SUBSETS, theta=0.5, ridge=ridge)
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    assert all(np.isfinite(part).all() for part in gradient)


def test_exponents_far_apart_in_float32():
  call = jax.jit(likelihood.dpp_log_likelihood)
  features, _ = sample()
  relevance = np.tile([12.0, 11, -12, 4, 0], (NUM_LISTS, 1))
  at = lambda theta: call(
      np.float32(features), np.float32(relevance), SUBSETS,
      theta=np.float32(theta), log_scale=np.float32(0.3))
  values = at(2 / 3)
  assert values.dtype == np.float32
  expected = log_probabilities(
      kernels(features, relevance, theta=2 / 3), SUBSETS, SUBSETS | True)
  np.testing.assert_allclose(
      values[POSSIBLE], expected[POSSIBLE], rtol=1e-5, atol=1e-4)
  # Exponents of thousands: those beyond the largest count as it.
  far = at(0.999)
  assert np.isfinite(far[POSSIBLE]).all()
  np.testing.assert_allclose(np.exp(far).sum(), 1, rtol=1e-3)


def test_exponents_far_apart_with_ridge(x64):
  features, _ = sample()
  relevance = np.array([12.0, 11, -12, 4, 0])
  values, gradient = log_likelihood(
      features, relevance, SUBSETS, theta=0.999, ridge=0.8)
  for part in (values, *gradient):
    assert np.isfinite(part).all()
  np.testing.assert_allclose(np.exp(values).sum(), 1, rtol=1e-9)


@pytest.mark.slow
def test_no_lists_and_no_items_have_probability_one():
  for batch, num_items in (((0,), 5), ((2,), 0)):
    arguments = (jnp.ones((*batch, num_items, 2)),
                 jnp.ones((*batch, num_items)), jnp.ones((*batch, num_items)))
    np.testing.assert_array_equal(
        likelihood.dpp_log_likelihood(*arguments, theta=0.5), np.zeros(batch))


LIST = {"features": np.ones((4, 2)), "relevance": np.ones(4),
        "positives": np.ones(4), "theta": 0.5}


@pytest.mark.parametrize("match, change", [
    ("features has shape", {"features": np.ones((3, 2))}),
    ("features has shape", {"features": np.ones((4, 0))}),
    ("positives has shape", {"positives": np.ones(3)}),
    ("relevance must", {"relevance": 1.0}),
    ("where has shape", {"where": np.ones(3)}),
    ("theta has shape", {"theta": np.ones(3)}),
    ("theta must", {"theta": 1.0}),
    ("ridge must", {"ridge": 1.5}),
], ids=reference.case_id)
def test_errors_name_the_argument(match, change):
  with pytest.raises(ValueError, match=match):
    likelihood.dpp_log_likelihood(**{**LIST, **change})
