"""Predictions of a response model against clicks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.reranker import fidelity as fidelity_lib
from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import rollout
from tests.reranker import worlds

judge = jax.jit(fidelity_lib.response_fidelity)
predict = jax.jit(response_lib.click_probabilities)


@pytest.fixture(scope="module")
def log():
  """What users of a known response clicked, over 300 days."""
  params = worlds.make_params()
  visits = jax.jit(functools.partial(
      rollout.simulate_visits, worlds.PAGE,
      policy_fn=rollout.no_action(worlds.PAGE), num_users=300))(
          params, key=jax.random.key(0))
  exposures = worlds.arrays(worlds.exposures_of(visits))
  shown = exposures.where.any(axis=1)
  return params.response, jax.tree.map(lambda x: x[shown], exposures)


def curve(groups, clicks, p, count):
  """Rates by group, by a loop."""
  rows = [groups == group for group in range(count)]
  with np.errstate(invalid="ignore"):
    return [np.array([np.sum(values[row]) / row.sum() if row.any() else np.nan
                      for row in rows]) for values in (clicks, p)]


def test_curves_are_rates_by_group(log):
  response, exposures = log
  chance = np.random.default_rng(0).random(exposures.where.shape) < 0.1
  result = worlds.arrays(judge(response, exposures, is_random=chance))
  where = exposures.where
  clicks = exposures.clicks[where].astype(float)
  p = np.asarray(predict(response, exposures))[where]
  positions = np.broadcast_to(np.arange(where.shape[1]), where.shape)[where]
  hours = np.broadcast_to(
      (exposures.time // 4).astype(int)[:, None], where.shape)[where]
  for name, groups, count in (
      ("by_category", exposures.categories[where], worlds.CATEGORIES),
      ("by_position", positions, worlds.SLOTS), ("by_hour", hours, 24)):
    observed, predicted = curve(groups, clicks, p, count)
    np.testing.assert_allclose(
        getattr(result, name).observed, observed, rtol=1e-4)
    np.testing.assert_allclose(
        getattr(result, name).predicted, predicted, rtol=1e-4)
    assert getattr(result, name).size.sum() == where.sum()
  drawn = chance[where]
  np.testing.assert_allclose(result.by_chance.observed, clicks[drawn].mean())
  np.testing.assert_allclose(
      result.by_chance.standard_error,
      np.sqrt((p * (1 - p))[drawn].sum()) / drawn.sum(), rtol=1e-4)
  score = 1 / (1 + np.exp(-exposures.log_odds[where]))
  log_likelihood = lambda q: np.mean(
      np.where(clicks > 0, np.log(q), np.log(1 - q)))
  np.testing.assert_allclose(
      result.log_likelihood, log_likelihood(p), rtol=1e-4)
  np.testing.assert_allclose(
      result.scores_log_likelihood, log_likelihood(score), rtol=1e-4)
  np.testing.assert_allclose(
      result.rate_log_likelihood, log_likelihood(clicks.mean()), rtol=1e-4)
  share = np.bincount(exposures.categories[where]) / where.sum()
  np.testing.assert_allclose(
      result.exposure_entropy, -(share * np.log(share)).sum(), rtol=1e-4)


def test_the_truth_is_believed_and_a_wrong_model_is_not(log):
  response, exposures = log
  right = worlds.arrays(judge(response, exposures))
  assert abs(right.slope - 1) < 0.05 and abs(right.offset) < 0.05
  for name in ("by_category", "by_position", "by_fatigue"):
    result = getattr(right, name)
    z = (result.observed - result.predicted) / result.standard_error
    assert np.nanmax(np.abs(z)) < 4, name
  tireless = response._replace(fatigue=jnp.zeros(()))
  wrong = worlds.arrays(judge(tireless, exposures))
  assert wrong.log_likelihood < right.log_likelihood - 0.01
  z = (wrong.by_fatigue.observed - wrong.by_fatigue.predicted
       ) / wrong.by_fatigue.standard_error
  # Too many clicks are expected of the tired.
  assert np.nanmin(z) < -6 and z[0] > -4
  bold = worlds.arrays(judge(response._replace(
      scale=2 * response.scale, level=2 * response.level), exposures))
  assert bold.slope < 0.8


def test_nothing_shown_by_chance_is_no_rate(log):
  response, exposures = log
  result = judge(response, exposures, is_random=np.zeros_like(exposures.where))
  assert np.isnan(result.by_chance.observed[0])
  assert result.by_chance.size[0] == 0
