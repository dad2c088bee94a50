"""Fits of response models against the simulated truth."""

import functools

import jax
import numpy as np
import pytest
from scipy import special

from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import response_fit
from tests.reranker import worlds

NUM_CATEGORIES = worlds.CATEGORIES
traces = []


@jax.jit
def fit(exposures, key):
  traces.append(exposures.clicks.shape)
  return response_fit.fit_response(
      exposures, num_categories=NUM_CATEGORIES, num_replicates=200, key=key)


probabilities = jax.jit(response_lib.click_probabilities)


@functools.cache
def log(seed=0):
  return worlds.log_of(worlds.default_params(), seed)


@functools.cache
def fitted():
  return worlds.arrays(fit(log(), jax.random.key(0)))


def numbers(response):
  """Parameters `[..., P]` and their names; demand at every third hour."""
  values = {
      "scale": response.scale[..., None], "level": response.level,
      "demand": response.demand[..., ::12].reshape(
          *response.scale.shape, -1),
      "fatigue": response.fatigue[..., None],
      "recovery": response.recovery[..., None],
      "redundancy": response.redundancy[..., None],
      "examination": response.examination[..., 1:],
      "stop": response.stop[..., None], "dismiss": response.dismiss[..., None]}
  names = np.concatenate([
      np.full(value.shape[-1], name) for name, value in values.items()])
  return names, np.concatenate(list(values.values()), axis=-1)


def assert_recovered(result, truth):
  """Nearly all within two and a half standard deviations."""
  names, estimate = numbers(result.response)
  _, expected = numbers(worlds.arrays(truth))
  spread = numbers(result.replicates)[1].std(axis=0)
  score = np.abs(estimate - expected) / spread
  assert result.is_converged
  assert np.isfinite(score).all() and (spread < 0.5).all()
  off = dict(zip(names, score.round(1), strict=True))
  assert (score < 2.5).mean() > 0.9 and score.max() < 4.5, off


def test_a_simulated_world_is_recovered_from_its_log():
  result = fitted()
  assert_recovered(result, worlds.make_response())
  # What users tire of is felt, and its fading known.
  spread = np.std(result.replicates.fatigue)
  assert result.response.fatigue > 6 * spread
  assert np.std(result.replicates.recovery) < 0.04
  alone = worlds.arrays(fit(log()._replace(
      day_ids=np.arange(worlds.ROWS, dtype=np.int32)), jax.random.key(0)))
  assert result.log_likelihood > alone.log_likelihood + 50


def test_the_likelihood_is_that_of_the_click_probabilities():
  result, exposures = fitted(), log()
  p = np.asarray(probabilities(result.response, exposures), np.float64)
  terms = np.where(exposures.clicks, np.log(np.maximum(p, 1e-12)),
                   np.log1p(-p))
  np.testing.assert_allclose(
      terms[exposures.where].sum(), result.log_likelihood, rtol=1e-5)
  # No neighbour is much better: the prior alone holds the fit back.
  for name in ("scale", "fatigue", "redundancy", "recovery", "stop"):
    for step in (-0.02, 0.02):
      value = getattr(result.response, name) * (1 + step)
      p = np.asarray(probabilities(
          result.response._replace(**{name: value}), exposures), np.float64)
      moved = np.where(exposures.clicks, np.log(np.maximum(p, 1e-12)),
                       np.log1p(-p))[exposures.where].sum()
      assert moved < result.log_likelihood + 0.2, name


def test_causes_that_are_not_there_are_not_found():
  truth = worlds.make_response(
      fatigue=0.0, redundancy=0.0, stop=1e-4, dismiss=0.0,
      demand=np.zeros((NUM_CATEGORIES, worlds.WINDOWS)))
  exposures = worlds.log_of(worlds.make_params(response=truth))
  result = worlds.arrays(fit(exposures, jax.random.key(0)))
  assert abs(result.response.fatigue) < 0.03
  assert abs(result.response.redundancy) < 0.35
  assert result.response.stop < 0.02 and result.response.dismiss == 0
  spread = result.replicates.demand.std(axis=0)
  assert np.abs(result.response.demand).max() < 0.3
  assert (np.abs(result.response.demand) < 2.5 * spread).mean() > 0.9
  assert result.replicates.dismiss.max() == 0


def test_replicates_are_days_drawn_again():
  result = fitted()
  exposures = log()
  could = exposures.where & ~exposures.clicks
  days = exposures.day_ids
  dismissed = np.bincount(days, (could & exposures.dismissed).sum(1))
  unclicked = np.bincount(days, could.sum(1))
  rate = dismissed.sum() / unclicked.sum()
  np.testing.assert_allclose(result.response.dismiss, rate, rtol=1e-5)
  # The standard error of a ratio of sums over days.
  error = np.sqrt(np.square(dismissed - rate * unclicked).sum()
                  ) / unclicked.sum()
  np.testing.assert_allclose(result.replicates.dismiss.std(), error, rtol=0.2)
  _, replicates = numbers(result.replicates)
  _, estimate = numbers(result.response)
  np.testing.assert_allclose(
      replicates.mean(axis=0), estimate,
      atol=4 * (replicates.std(axis=0) / np.sqrt(len(replicates))).max())
  again = fit(exposures, jax.random.key(1))
  assert (np.asarray(again.response.level) == result.response.level).all()
  assert (np.asarray(again.replicates.level) != result.replicates.level).any()


def test_of_coins_the_rate_and_its_error_are_known():
  rng = np.random.default_rng(0)
  first = np.zeros((worlds.ROWS, worlds.SLOTS), bool)
  first[:, 0] = True
  zeros = np.zeros(first.shape, np.float32)
  heads = (rng.random(worlds.ROWS) < 0.3)[:, None] & first
  result = worlds.arrays(fit(response_lib.Exposures(
      zeros, zeros.astype(log().categories.dtype), zeros, heads,
      zeros.astype(bool), first,
      rng.uniform(0, worlds.WINDOWS, worlds.ROWS).astype(np.float32),
      np.arange(worlds.ROWS, dtype=np.int32)), jax.random.key(0)))
  rate = heads[:, 0].mean()
  error = 1 / np.sqrt(worlds.ROWS * rate * (1 - rate))
  np.testing.assert_allclose(
      result.response.level[0], special.logit(rate), atol=0.1 * error + 2e-3)
  np.testing.assert_allclose(
      result.replicates.level[:, 0].std(), error, rtol=0.2)
  # The log is silent on the others: they stay at their priors.
  np.testing.assert_array_equal(result.response.level[1:], 0)
  np.testing.assert_array_equal(result.replicates.level[:, 1:], 0)


def with_holes():
  exposures = log()
  holes = np.random.default_rng(1).random(exposures.where.shape) < 0.2
  where = exposures.where & ~holes
  clear = lambda values: np.where(where, values, 0).astype(values.dtype)
  return response_lib.Exposures(
      *map(clear, exposures[:5]), where, *exposures[6:])


def test_garbage_where_nothing_was_shown_changes_nothing():
  clean, key = with_holes(), jax.random.key(0)
  jax.tree.map(np.testing.assert_array_equal,
               fit(worlds.spoiled(clean), key), fit(clean, key))


def test_days_may_have_any_numbers():
  exposures = log()
  names = np.random.default_rng(0).permutation(
      np.arange(-500, 500, dtype=np.int32))
  renamed = fit(exposures._replace(day_ids=names[exposures.day_ids]),
                jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, worlds.arrays(renamed), fitted())


def test_a_log_without_slates_gives_the_prior():
  nothing = log()._replace(where=np.zeros((worlds.ROWS, worlds.SLOTS), bool))
  result = worlds.arrays(fit(worlds.spoiled(nothing), jax.random.key(0)))
  assert result.is_converged and result.log_likelihood == 0
  expected = worlds.make_response(
      scale=1.0, level=np.zeros(NUM_CATEGORIES),
      demand=np.zeros((NUM_CATEGORIES, worlds.WINDOWS)), fatigue=0.0,
      recovery=np.exp(-1 / 12), redundancy=0.0,
      examination=[1.0, *[special.expit(2)] * (worlds.SLOTS - 1)],
      stop=special.expit(-3), dismiss=0.0)
  for one, other in zip(result.response, worlds.arrays(expected), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5)
  jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other[0]),
               result.response, result.replicates)


def test_one_trace():
  key = jax.random.key(0)
  for _ in range(2):
    fit(log(), key)
  assert len(set(traces)) == len(traces)


def test_errors_name_the_field():
  wrong = log()._replace(time=np.zeros(3))
  with pytest.raises(ValueError, match=r"exposures\.time has shape"):
    jax.eval_shape(lambda: response_fit.fit_response(
        wrong, num_categories=NUM_CATEGORIES, key=jax.random.key(0)))


# --- many logs ---


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_other_worlds_are_recovered(seed):
  truth = worlds.make_response(seed, fatigue=0.1 * seed, stop=0.1 * seed,
                               recovery=1 - 0.04 * seed)
  exposures = worlds.log_of(worlds.make_params(seed, truth), seed)
  assert_recovered(worlds.arrays(fit(exposures, jax.random.key(seed))), truth)


@pytest.mark.slow
def test_bootstrap_errors_are_those_over_independent_logs():
  results = [worlds.arrays(fit(log(seed), jax.random.key(seed)))
             for seed in range(40)]
  estimates = np.stack([numbers(result.response)[1] for result in results])
  errors = np.stack([numbers(result.replicates)[1].std(axis=0)
                     for result in results])
  ratio = np.sqrt(np.square(errors).mean(axis=0)) / estimates.std(
      axis=0, ddof=1)
  # From 40 logs a standard deviation is known to 11 %.
  assert (ratio > 0.65).all() and (ratio < 1.55).all(), ratio
  assert 0.9 < np.median(ratio) < 1.12
  bias = estimates.mean(axis=0) - numbers(
      worlds.arrays(worlds.make_response()))[1]
  assert (np.abs(bias) < errors.mean(axis=0)).all()
