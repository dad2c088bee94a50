"""The likelihood against N x N kernels and all subsets, theta against truth."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import linear_model

from harmonrank_jax.diversity import likelihood
from tests.diversity import reference

NUM_ITEMS, NUM_FEATURES = 5, 3
SUBSETS = np.array(list(itertools.product([False, True], repeat=NUM_ITEMS)))
NUM_LISTS = len(SUBSETS)
SHAPE = (NUM_LISTS, NUM_ITEMS)
POSSIBLE = SUBSETS.sum(axis=1) <= NUM_FEATURES
WEIGHTS = 1.0 + np.arange(NUM_LISTS)
RIDGES = (None, 0.8)


@pytest.fixture(autouse=True)
def form():
  """The likelihood has no native form: the tests run once."""


jit_fit = jax.jit(likelihood.fit_theta)


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


def fit(features, relevance, positives, where, ridge=None):
  return jit_fit(features, relevance, positives, where=where, ridge=ridge)


def sample(seed=0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(NUM_ITEMS, NUM_FEATURES)),
          rng.normal(size=NUM_ITEMS))


def kernels(features, relevance, *, theta, log_scale=0.3, ridge=None):
  """`[B, N, N]` kernels L of `[B, N, D]` or `[N, D]` features."""
  unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
  rho = 1 if ridge is None else ridge
  similarity = (rho * unit @ np.swapaxes(unit, -2, -1)
                + (1 - rho) * np.eye(NUM_ITEMS))
  theta, log_scale = (
      np.broadcast_to(x, len(relevance))[:, None] for x in (theta, log_scale))
  quality = np.exp(theta / (2 * (1 - theta)) * relevance + log_scale / 2)
  return quality[..., :, None] * similarity * quality[..., None, :]


def log_probabilities(kernel, positives, where):
  """Log-probabilities under `[B, N, N]` kernels, by their determinants."""
  log_det = lambda matrix: np.linalg.slogdet(matrix)[1]
  both = lambda flags: flags[:, :, None] & flags[:, None, :]
  eye = np.eye(NUM_ITEMS)
  return (log_det(np.where(both(positives & where), kernel, eye))
          - log_det(eye + np.where(both(where), kernel, 0)))


def draw(kernel, rng):
  """One exact sample of each of `[B, N, N]` kernels, by all their subsets."""
  both = SUBSETS[:, :, None] & SUBSETS[:, None, :]
  weights = np.linalg.det(np.where(both, kernel[:, None], np.eye(NUM_ITEMS)))
  # A determinant of 0 is rounding, and so is its root.
  weights = np.cumsum(np.where(weights > 1e-12, weights, 0), axis=1)
  uniform = rng.random((len(kernel), 1)) * weights[:, -1:]
  return SUBSETS[(weights <= uniform).sum(axis=1)]


def draw_lists(num_lists, seed, **options):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(num_lists, NUM_ITEMS, NUM_FEATURES))
  relevance = rng.normal(size=(num_lists, NUM_ITEMS)) - 2
  positives = draw(kernels(features, relevance, **options), rng)
  return features, relevance, positives, rng.random(positives.shape) < 0.8


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
        dirty, bad, SUBSETS, theta=0.5, ridge=ridge)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    for part, clean in zip(dirty_gradient, gradient, strict=True):
      np.testing.assert_allclose(part, clean, atol=1e-12)


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


def test_fit_of_independent_items_is_a_logistic_regression(x64):
  features, relevance, positives, where = draw_lists(
      200, 0, theta=0.6, ridge=0.0)
  result = fit(features, relevance, positives, where, 0.0)
  column, labels = relevance[where][:, None], positives[where]
  model = linear_model.LogisticRegression(C=np.inf, tol=1e-12)
  model.fit(column, labels)
  slope, level = model.coef_[0, 0], model.intercept_[0]
  # The slope is 2 alpha = theta / (1 - theta).
  np.testing.assert_allclose(result.theta, slope / (1 + slope), rtol=1e-4)
  np.testing.assert_allclose(result.log_scale, level, rtol=1e-4)
  x = np.concatenate([column, np.ones_like(column)], axis=1)
  p = model.predict_proba(column)[:, 1]
  covariance = np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x)
  np.testing.assert_allclose(
      result.error, np.sqrt(covariance[0, 0]) / (1 + slope)**2, rtol=1e-4)


@pytest.mark.parametrize("ridge", RIDGES)
def test_fit_is_the_maximum_and_its_errors_the_curvature(ridge, x64):
  features, relevance, positives, where = draw_lists(
      200, 1, theta=0.6, ridge=ridge)
  result = fit(features, relevance, positives, where, ridge)

  def of_lists(*move):
    kernel = kernels(features, relevance, theta=result.theta + move[0],
                     log_scale=result.log_scale + move[1], ridge=ridge)
    return log_probabilities(kernel, positives, where)

  h = 1e-4 * np.eye(2)
  scores = np.stack(
      [(of_lists(*e) - of_lists(*-e)) / 2e-4 for e in h], axis=1)
  curvature = np.array([[
      (of_lists(*a + b) - of_lists(*a - b) - of_lists(*b - a)
       + of_lists(*-a - b)).sum() / 4e-8 for a in h] for b in h])
  np.testing.assert_allclose(
      result.log_likelihood, of_lists(0, 0).sum(), rtol=1e-9)
  covariance = np.linalg.inv(-curvature)
  # How far from the maximum, in standard errors, squared.
  gradient = scores.sum(axis=0)
  assert gradient @ covariance @ gradient < 2e-6
  np.testing.assert_allclose(
      result.error, np.sqrt(covariance[0, 0]), rtol=1e-3)
  robust = covariance @ (scores.T @ scores) @ covariance
  np.testing.assert_allclose(
      result.robust_error, np.sqrt(robust[0, 0]), rtol=1e-3)
  assert (result.num_lists, result.num_skipped) == (200, 0)
  # Without mask, the truth.
  full = fit(features, relevance, positives, where | True, ridge)
  assert abs(full.theta - 0.6) < 3 * full.error < 0.3
  assert abs(full.log_scale - 0.3) < 2


def test_fit_does_not_depend_on_the_zero_of_relevance(x64):
  features, relevance, *rest = draw_lists(200, 1, theta=0.6)
  one = fit(features, relevance, *rest)
  other = fit(features, 2 * relevance + 7, *rest)
  # Twice the relevance is worth half the alpha: odds of theta are 2 alpha.
  np.testing.assert_allclose(other.theta / (1 - other.theta),
                             one.theta / (1 - one.theta) / 2, rtol=1e-6)
  np.testing.assert_allclose(
      other.log_likelihood, one.log_likelihood, rtol=1e-9)


def test_garbage_in_the_padding_does_not_change_the_fit(x64):
  features, relevance, positives, where = draw_lists(200, 1, theta=0.6)
  where[50:60] = False
  expected = fit(features, relevance, positives, where)
  assert expected.num_lists == where.any(axis=1).sum() <= 190
  for garbage in (np.nan, np.inf, 1e30):
    dirty = fit(np.where(where[..., None], features, garbage),
                np.where(where, relevance, garbage), positives | ~where, where)
    jax.tree.map(np.testing.assert_array_equal, dirty, expected)


@pytest.mark.slow
def test_fits_in_float32_at_the_bound_and_without_a_maximum(x64):
  """Many fits side by side, of lists that share their candidates."""
  rng = np.random.default_rng(0)
  features, num_lists = sample()[0], 200
  relevance = rng.normal(size=(num_lists, NUM_ITEMS)) - 1
  positives = draw(kernels(features, relevance, theta=0.5), rng)
  everywhere = np.ones_like(positives)
  one = relevance == relevance.max(axis=1, keepdims=True)
  few = np.arange(num_lists)[:, None] < 7
  cases = [
      (relevance, positives, everywhere),
      # Sets of five are impossible: the same as lists that are not there.
      (relevance, positives | few, everywhere),
      (relevance, positives, everywhere & ~few),
      # Less relevant is better.
      (-relevance, positives, everywhere),
      # Without a maximum: relevance that is constant, or tells all; positives
      # that are none, or all, or always as many as dimensions; no lists.
      (0 * relevance + 0.1, positives, everywhere),
      (one * 1.0, one, everywhere),
      (relevance, positives & False, everywhere),
      (relevance, one, one),
      (relevance, everywhere & (np.arange(5) < NUM_FEATURES), everywhere),
      (relevance, positives, everywhere & False)]
  relevances, *flags = (np.stack(part) for part in zip(*cases, strict=True))
  results = jax.jit(jax.vmap(lambda r, y, where: likelihood.fit_theta(
      np.float32(features), r, y, where=where)))(
          np.float32(relevances), *flags)
  assert results.theta.dtype == np.float32
  tiled = np.tile(features, (num_lists, 1, 1))
  for case in (0, 2, 3):
    alone = fit(tiled, *cases[case])
    for part, expected in zip(results, alone, strict=True):
      np.testing.assert_allclose(part[case], expected, rtol=2e-3, atol=1e-6)
  for part in results[:-2]:
    np.testing.assert_array_equal(part[1], part[2])
    np.testing.assert_array_equal(np.isnan(part), np.arange(10) >= 4)
  np.testing.assert_array_equal(
      results.num_lists, [200, 193, 193, *[200] * 6, 0])
  np.testing.assert_array_equal(
      results.num_skipped, [0, 7, *[0] * 8])
  assert results.theta[3] == 0 < results.error[3]


@pytest.mark.slow
@pytest.mark.parametrize("ridge", RIDGES)
def test_fit_of_a_few_lists_at_a_time(ridge, x64, monkeypatch):
  arguments = draw_lists(200, 1, theta=0.6, ridge=ridge)
  expected = fit(*arguments, ridge)
  monkeypatch.setattr(likelihood, "_CHUNK", 30 * NUM_ITEMS * NUM_FEATURES)
  features, relevance, positives, where = (
      x.reshape(2, 100, *x.shape[1:]) for x in arguments)
  chunked = likelihood.fit_theta(
      features, relevance, positives, where=where, ridge=ridge)
  for part, other in zip(chunked, expected, strict=True):
    np.testing.assert_allclose(part, other, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("ridge", RIDGES)
def test_errors_cover_the_truth(ridge, x64):
  results = []
  for seed in range(300):
    features, relevance, positives, where = draw_lists(
        200, seed, theta=0.6, ridge=ridge)
    results.append(fit(features, relevance, positives, where | True, ridge))
  theta, error, robust = (
      np.array([result[part] for result in results]) for part in range(3))
  spread = theta.std()
  assert abs(theta.mean() - 0.6) < 4 * spread / np.sqrt(300)
  for stated in (error, robust):
    np.testing.assert_allclose(stated.mean(), spread, rtol=0.15)
    covered = (np.abs(theta - 0.6) < 1.96 * stated).mean()
    # 0.95, four standard errors of 300 trials around it.
    assert 0.90 < covered < 1


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
