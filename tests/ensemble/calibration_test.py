"""Platt scaling against scikit-learn, the closed form against all orders."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import linear_model

from harmonrank_jax.ensemble import calibration

SHAPE = (400, 5)
fit_platt = jax.jit(calibration.fit_platt)
EVERYWHERE = np.ones(SHAPE, bool)


def sample(seed=0):
  """Scores that are over-confident, shifted, rare or useless."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=SHAPE) * [1, 2, 0.3, 1, 1] + [0, 1, -1, -4, 0]
  truth = logits * [0.5, 0.3, 2, 1, 0] + [0, -1, 0, 1, 0.4]
  labels = rng.random(SHAPE) < 1 / (1 + np.exp(-truth))
  return np.float32(1 / (1 + np.exp(-logits))), labels


def scikit_learn_platt(scores, labels):
  """Slope and offset of one objective: fractions of both classes a row."""
  positives, count = labels.sum(), len(labels)
  target = np.where(labels, (positives + 1) / (positives + 2),
                    1 / (count - positives + 2))
  scores = np.float64(scores)
  rows = np.tile(np.log(scores / (1 - scores)), 2)[:, None]
  classes = np.repeat([1, 0], count)
  model = linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
  model.fit(rows, classes, np.concatenate([target, 1 - target]))
  return model.coef_[0, 0], model.intercept_[0]


def test_log_odds_are_finite_at_the_ends():
  odds = calibration.log_odds(jnp.array([0.0, 0.2, 0.5, 1.0]))
  np.testing.assert_allclose(odds[1:3], [np.log(0.2 / 0.8), 0], rtol=1e-6)
  assert np.isfinite(odds).all() and odds[0] < -10 and odds[3] > 10


def test_agrees_with_scikit_learn():
  scores, labels = sample()
  where = EVERYWHERE.copy()
  where[:, 1] = np.random.default_rng(1).random(SHAPE[0]) < 0.6
  platt = fit_platt(scores, labels, where=where)
  for m in range(SHAPE[1]):
    chosen = where[:, m]
    scale, shift = scikit_learn_platt(scores[chosen, m], labels[chosen, m])
    np.testing.assert_allclose(platt.scale[m], scale, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(platt.shift[m], shift, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        platt.base_rate[m],
        (labels[chosen, m].sum() + 1) / (chosen.sum() + 2), rtol=1e-6)


def test_calibrated_probabilities_have_the_mean_of_the_targets():
  scores, labels = sample()
  platt = fit_platt(scores, labels, where=EVERYWHERE)
  positives, count = labels.sum(axis=0), SHAPE[0]
  targets = (positives * (positives + 1) / (positives + 2)
             + (count - positives) / (count - positives + 2)) / count
  calibrated = calibration.calibrate(platt, scores)
  np.testing.assert_allclose(calibrated.mean(axis=0), targets, rtol=1e-4)
  np.testing.assert_allclose(
      calibration.calibrate(platt, scores[7]), calibrated[7], rtol=1e-6)


def test_degenerate_objectives_have_finite_parameters():
  scores, labels = sample()
  scores, labels = scores.copy(), labels.copy()
  labels[:, 0], labels[:, 1] = False, True  # One class only.
  labels[:, 2] = scores[:, 2] > 0.3  # Separable.
  scores[:, 3], scores[:, 4] = 0, 1  # The ends.
  platt = fit_platt(scores, labels, where=EVERYWHERE)
  for part in platt:
    assert np.isfinite(part).all()
  assert ((platt.base_rate > 0) & (platt.base_rate < 1)).all()
  calibrated = calibration.calibrate(platt, scores)
  # All targets are the same: 1 / (N + 2), (P + 1) / (P + 2).
  np.testing.assert_allclose(
      calibrated[:, 0], np.full(400, 1 / 402), rtol=1e-3)
  np.testing.assert_allclose(
      calibrated[:, 1], np.full(400, 401 / 402), rtol=1e-3)
  assert platt.scale[2] > 10


def test_scores_that_tell_rare_positives_apart_meet_both_targets():
  positives = 20
  labels = np.broadcast_to((np.arange(400) < positives)[:, None], SHAPE)
  scores = np.float32(np.where(labels, 0.9, 0.1))
  platt = fit_platt(scores, labels, where=EVERYWHERE)
  calibrated = calibration.calibrate(platt, scores)
  np.testing.assert_allclose(calibrated, np.where(
      labels, (positives + 1) / (positives + 2), 1 / (400 - positives + 2)),
                             rtol=1e-2)


def test_a_constant_score_is_calibrated_to_the_rate_of_positives():
  scores, labels = sample()
  scores = np.full_like(scores, 0.3)
  platt = fit_platt(scores, labels, where=EVERYWHERE)
  assert (np.abs(platt.scale) < 100).all()
  np.testing.assert_allclose(
      calibration.calibrate(platt, scores[0]), labels.mean(axis=0), atol=0.01)


def test_garbage_in_the_padding_changes_nothing():
  scores, labels = sample()
  where = np.random.default_rng(1).random(SHAPE) < 0.6
  expected = fit_platt(scores, labels, where=where)
  for garbage in (np.nan, np.inf, -1e30, 0.0):
    actual = fit_platt(
        np.where(where, scores, np.float32(garbage)), labels | ~where,
        where=where)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_without_a_valid_row_it_is_the_identity():
  scores, labels = sample()
  where = EVERYWHERE.copy()
  where[:, 1] = False
  platt = fit_platt(scores, labels, where=where)
  assert (platt.scale[1], platt.shift[1], platt.base_rate[1]) == (1, 0, 0.5)
  np.testing.assert_allclose(
      calibration.calibrate(platt, scores)[:, 1], scores[:, 1], rtol=1e-5)


def test_where_may_be_none_and_labels_numbers():
  scores, labels = sample()
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      fit_platt(scores, 1.0 * labels),
      fit_platt(scores, labels, where=EVERYWHERE))


def test_values_are_calibrated_as_fractions_of_the_largest():
  # The expected value is a share of 7 that the scores know exactly.
  rng = np.random.default_rng(1)
  scores = np.float32(rng.uniform(0.1, 0.9, SHAPE))
  values = 7 * rng.beta(20 * scores, 20 * (1 - scores))
  values[0] = 7
  where = EVERYWHERE.copy()
  where[5:50] = False
  garbage = np.where(where, values, 1e6)
  platt = fit_platt(scores, garbage, where=where)
  np.testing.assert_allclose(platt.unit, 7, rtol=1e-6)
  np.testing.assert_allclose(platt.scale, 1, atol=0.1)
  np.testing.assert_allclose(platt.shift, 0, atol=0.1)
  for m in range(SHAPE[1]):
    y = values[where[:, m], m] / 7
    rate = y.mean()
    half_gap = np.abs(y[:, None] - y[None]).mean() / 2
    np.testing.assert_allclose(
        platt.pair_share[m], half_gap / (rate * (1 - rate)), rtol=1e-3)
  # Every pair by the difference of its values, relative to all differences.
  unit = np.float64(platt.pair_share * platt.base_rate * (1 - platt.base_rate))
  calibrated = np.asarray(calibration.calibrate(platt, scores))
  np.testing.assert_allclose(
      calibration.platt_score(platt, scores, np.ones(SHAPE[1])),
      (calibrated / unit).sum(axis=1), rtol=1e-4)


def test_closed_form_by_hand():
  score = calibration.closed_form_score(
      jnp.array([[0.5, 0.2], [0.1, 0.4]]), jnp.array([0.5, 0.2]),
      jnp.array([2.0, 3.0]))
  np.testing.assert_allclose(
      score, [2 * 0.5 / 0.25 + 3 * 0.2 / 0.16,
              2 * 0.1 / 0.25 + 3 * 0.4 / 0.16], rtol=1e-6)


def test_closed_form_is_the_best_of_all_orders():
  rng = np.random.default_rng(0)
  closed_form = jax.jit(calibration.closed_form_score)
  orders = np.array(list(itertools.permutations(range(5))))
  for _ in range(20):
    p = rng.random((5, 2))
    base_rate, weights = rng.uniform(0.05, 0.95, 2), rng.random(2)
    # A pair counts where i is a positive and j is not, against the reverse.
    wins = p[:, None] * (1 - p[None]) - (1 - p[:, None]) * p[None]
    gain = (wins * weights / (base_rate * (1 - base_rate))).sum(axis=-1)
    value = np.array([
        sum(gain[i, j] for i, j in itertools.combinations(order, 2))
        for order in orders])
    best = np.argsort(-closed_form(p, base_rate, weights))
    mine = value[(orders == best).all(axis=1)]
    np.testing.assert_allclose(mine, value.max(), rtol=1e-9)
    assert (value < value.max() - 1e-9).sum() == len(orders) - 1


@pytest.mark.parametrize("name, scores, labels, where", [
    ("labels", SHAPE, (400, 1), None), ("where", SHAPE, SHAPE, (399, 5)),
    ("scores", (400,), (400,), None)], ids=["labels", "where", "scores"])
def test_errors_name_the_argument(name, scores, labels, where):
  where = None if where is None else np.ones(where, bool)
  with pytest.raises(ValueError, match=f"{name} has shape"):
    calibration.fit_platt(np.ones(scores), np.ones(labels), where=where)


@pytest.mark.slow
def test_values_of_the_host_are_read_in_all_their_bits():
  worth = np.array([5 * 10**9, 10**9, 3 * 10**9, 0])[:, None]
  fitted = calibration.fit_platt(np.full((4, 1), 0.5), worth)
  np.testing.assert_allclose(fitted.unit, 5e9)
