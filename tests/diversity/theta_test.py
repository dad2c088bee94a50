"""Theta fitted to drawn sets: maximum, errors, and fits without a maximum."""

import jax
import numpy as np
import pytest
from sklearn import linear_model

from harmonrank_jax.diversity import theta as theta_lib
from tests.diversity.likelihood_reference import NUM_FEATURES
from tests.diversity.likelihood_reference import NUM_ITEMS
from tests.diversity.likelihood_reference import RIDGES
from tests.diversity.likelihood_reference import draw
from tests.diversity.likelihood_reference import draw_lists
from tests.diversity.likelihood_reference import kernels
from tests.diversity.likelihood_reference import log_probabilities
from tests.diversity.likelihood_reference import sample


@pytest.fixture(autouse=True)
def form():
  """The likelihood has no native form: the tests run once."""


jit_fit = jax.jit(theta_lib.fit_theta)


def fit(features, relevance, positives, where, ridge=None):
  return jit_fit(features, relevance, positives, where=where, ridge=ridge)


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
  results = jax.jit(jax.vmap(lambda r, y, where: theta_lib.fit_theta(
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
  monkeypatch.setattr(theta_lib, "_CHUNK", 30 * NUM_ITEMS * NUM_FEATURES)
  features, relevance, positives, where = (
      x.reshape(2, 100, *x.shape[1:]) for x in arguments)
  chunked = theta_lib.fit_theta(
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
