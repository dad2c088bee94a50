"""Calibrations against known truths, and against scikit-like oracles."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest
from scipy import optimize
from scipy import special

from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import score_calibration as calibration

SLATES, SLOTS, CATEGORIES, WINDOWS = 6000, 6, 4, calibration.NUM_WINDOWS
# The last category is never shown.
UNSEEN = CATEGORIES - 1
SLOPES = np.array([0.6, 1.4, 1.0])
OFFSETS = np.array([0.5, -0.8, 0.0])
FITS = {
    name: jax.jit(functools.partial(
        getattr(calibration, name), num_categories=CATEGORIES))
    for name in ("uncalibrated", "intercepts", "platt", "platt_by_hour",
                 "isotonic_by_category")}
APPLY = jax.jit(calibration.calibrated_log_odds)


@functools.cache
def log(kind):
  """Exposures, and the true log-odds of their clicks."""
  rng = np.random.default_rng(0)
  shape = (SLATES, SLOTS)
  log_odds = 1.5 * rng.normal(size=shape) - 0.5
  kinds = rng.integers(0, UNSEEN, shape)
  time = rng.integers(0, WINDOWS, SLATES) + 0.5
  truth = {
      "calibrated": lambda: log_odds,
      "intercepts": lambda: log_odds + OFFSETS[kinds],
      "platt": lambda: SLOPES[kinds] * log_odds + OFFSETS[kinds],
      "hour": lambda: (SLOPES[kinds] * log_odds + OFFSETS[kinds]
                       + waves()[np.floor(time).astype(int)[:, None], kinds]),
      "rare": lambda: 0.5 * log_odds - 4,
      "bent": lambda: 2 * np.tanh(3 * (log_odds + kinds - 1)) - 0.5}[kind]()
  where = rng.random(shape) < 0.9
  clicks = (rng.random(shape) < special.expit(truth)) & where
  return response_lib.Exposures(
      log_odds=np.where(where, log_odds, 0).astype(np.float32),
      categories=np.where(where, kinds, 0),
      similarity=np.zeros(shape, np.float32), clicks=clicks,
      dismissed=np.zeros(shape, bool), where=where,
      time=time.astype(np.float32), day_ids=np.arange(SLATES)), truth


def waves():
  """Waves of the day in the first two categories, `[W, C]`."""
  angle = 2 * np.pi * (np.arange(WINDOWS) + 0.5) / WINDOWS
  result = np.zeros((WINDOWS, CATEGORIES))
  result[:, 0] = 0.8 * np.cos(angle) - 0.4 * np.sin(3 * angle)
  result[:, 1] = 0.5 * np.sin(2 * angle)
  return result


GRID = np.linspace(-3, 2.5, 40, dtype=np.float32)
ASKED = np.tile(GRID, (CATEGORIES, 1))
ASKED_KINDS = np.repeat(np.arange(CATEGORIES), len(GRID))


class Scores(NamedTuple):
  base: np.ndarray  # of the grid
  shift: np.ndarray


def fitted(method, exposures):
  return jax.tree.map(np.asarray, FITS[method](exposures))


def apply(fit, log_odds, kinds):
  return np.asarray(APPLY(fit, log_odds.astype(np.float32), kinds))


def calibrated(method, exposures):
  fit = fitted(method, exposures)
  return Scores(apply(fit, ASKED, ASKED_KINDS.reshape(ASKED.shape)), fit.shift)


def of_rows(method, exposures):
  """Scores of the log's own rows, with the hour."""
  fit = fitted(method, exposures)
  windows = exposures.time.astype(int)[:, None]
  clear = lambda values: np.where(exposures.where, values, 0)
  kinds = clear(exposures.categories)
  return apply(fit, clear(exposures.log_odds), kinds) + fit.shift[
      windows, kinds]


def log_loss(odds, exposures):
  signed = np.where(exposures.clicks, -odds, odds)
  return np.logaddexp(0, signed)[exposures.where].mean()


def test_uncalibrated_is_what_was_predicted():
  result = calibrated("uncalibrated", log("platt")[0])
  np.testing.assert_array_equal(result.base, ASKED)
  assert result.shift.shape == (WINDOWS, CATEGORIES) and not result.shift.any()


# Standard errors of slopes and offsets are 0.03.
@pytest.mark.parametrize("method, kind", [
    ("intercepts", "intercepts"), ("platt", "platt"), ("platt", "intercepts"),
    ("platt_by_hour", "hour"), ("platt_by_hour", "platt"),
    ("platt", "calibrated"), ("intercepts", "calibrated")])
def test_what_was_designed_in_is_found(method, kind):
  slopes, offsets = {
      "calibrated": (1 + 0 * SLOPES, 0 * OFFSETS),
      "intercepts": (1 + 0 * SLOPES, OFFSETS)}.get(kind, (SLOPES, OFFSETS))
  result = calibrated(method, log(kind)[0])
  truth = slopes[:, None] * GRID + offsets[:, None]
  np.testing.assert_allclose(result.base[:UNSEEN], truth, atol=0.3)
  slope = (result.base[:, -1] - result.base[:, 0]) / (GRID[-1] - GRID[0])
  np.testing.assert_allclose(slope[:UNSEEN], slopes, atol=0.1)
  at_zero = result.base[:, 0] - slope * GRID[0]
  np.testing.assert_allclose(at_zero[:UNSEEN], offsets, atol=0.1)
  expected = waves() if kind == "hour" else np.zeros((WINDOWS, CATEGORIES))
  np.testing.assert_allclose(result.shift, expected, atol=0.3)
  assert np.sqrt(np.square(result.shift - expected).mean()) < 0.08
  # What nobody has seen stays as it was predicted.
  np.testing.assert_allclose(result.base[UNSEEN], GRID, atol=1e-5)
  assert np.abs(result.shift[:, UNSEEN]).max() < 1e-5


def odd_scores(kind):
  """A log in which scores of category 1 are far from its clicks."""
  center, spread, slope, offset, size = {
      "far": (12, 2, 0.2, -6, 300), "reversed": (-4, 3, -0.5, 2, 200),
      "few": (15, 8, 0, -3, 20), "wide": (0, 15, 0.05, 3, 5000)}[kind]
  exposures, _ = log("platt")
  rng = np.random.default_rng(1)
  own = exposures.where & (exposures.categories == 1)
  number = np.cumsum(own).reshape(own.shape)
  where = exposures.where & (~own | (number <= size))
  odds = np.where(own, center + spread * rng.normal(size=own.shape),
                  exposures.log_odds)
  clicks = np.where(
      own, rng.random(own.shape) < special.expit(slope * odds + offset),
      exposures.clicks)
  return exposures._replace(
      log_odds=np.where(where, odds, 0).astype(np.float32), where=where,
      clicks=clicks & where)


@pytest.mark.parametrize("kind", ["far", "reversed", "few", "wide"])
@pytest.mark.parametrize("method", ["intercepts", "platt", "platt_by_hour"])
def test_fits_converge_however_far_scores_are_off(method, kind):
  exposures = odd_scores(kind)
  missing = exposures.clicks - special.expit(of_rows(method, exposures))
  base = calibrated(method, exposures).base
  slope = (base[:, -1] - base[:, 0]) / (GRID[-1] - GRID[0])
  offsets = base[:, 0] - slope * GRID[0]
  for category in range(UNSEEN):
    own = exposures.where & (exposures.categories == category)
    # At the maximum, clicks that are missing are what the prior holds back:
    # deviations from offset 0 and slope 1, of spread 1.
    np.testing.assert_allclose(
        missing[own].sum(), offsets[category], atol=0.02)
    if method != "intercepts":
      np.testing.assert_allclose(
          (missing * exposures.log_odds)[own].sum(), slope[category] - 1,
          atol=0.1)


@pytest.mark.parametrize("kind", ["platt", "bent", "far", "few"])
def test_platt_is_the_maximum_of_its_posterior(kind):
  exposures = (log(kind)[0] if kind in ("platt", "bent")
               else odd_scores(kind))
  result = calibrated("platt", exposures)
  for category in range(UNSEEN):
    own = exposures.where & (exposures.categories == category)
    x, y = exposures.log_odds[own].astype(float), exposures.clicks[own]

    def loss(numbers, x=x, y=y):
      odds = numbers[0] * x + numbers[1]
      prior = ((numbers[0] - 1)**2 + numbers[1]**2) / 2
      return np.logaddexp(0, np.where(y, -odds, odds)).sum() + prior

    best = optimize.minimize(loss, [1.0, 0.0], method="BFGS").x
    np.testing.assert_allclose(
        result.base[category], best[0] * GRID + best[1], atol=2e-3)


def test_isotonic_bends_where_platt_cannot():
  exposures, truth = log("bent")
  platt, bent = (of_rows(name, exposures)
                 for name in ("platt", "isotonic_by_category"))
  best = log_loss(truth, exposures)
  assert log_loss(bent, exposures) < log_loss(platt, exposures) - 0.01
  assert log_loss(bent, exposures) < best + 0.002
  near = exposures.where & (np.abs(exposures.log_odds + 0.5) < 2.5)
  error = (special.expit(bent) - special.expit(truth))[near]
  assert np.sqrt(np.square(error).mean()) < 0.05
  result = calibrated("isotonic_by_category", exposures)
  assert (np.diff(result.base, axis=1) >= 0).all()
  assert not result.shift.any()


def test_isotonic_where_a_straight_line_is_true_and_where_nothing_is_known():
  exposures, truth = log("platt")
  odds = of_rows("isotonic_by_category", exposures)
  assert log_loss(odds, exposures) < log_loss(truth, exposures) + 0.003
  result = calibrated("isotonic_by_category", exposures)
  assert np.isfinite(result.base).all()
  # Between the log-odds of half a click in one exposure, and its reverse.
  assert np.abs(result.base).max() < np.log(2 * SLATES)
  np.testing.assert_array_equal(result.base[UNSEEN], GRID)
  few = exposures._replace(where=np.zeros_like(exposures.where))
  few.where[0, :3] = True
  assert np.isfinite(calibrated("isotonic_by_category", few).base).all()


@pytest.mark.parametrize(
    "method", ["intercepts", "platt", "platt_by_hour", "isotonic_by_category"])
def test_as_many_clicks_are_expected_as_there_were(method):
  exposures, _ = log("rare")
  expected = special.expit(of_rows(method, exposures))
  for category in range(UNSEEN):
    own = exposures.where & (exposures.categories == category)
    np.testing.assert_allclose(
        expected[own].sum(), exposures.clicks[own].sum(), rtol=0.03)


def test_every_cause_that_is_modelled_lowers_the_loss():
  exposures, truth = log("hour")
  losses = [log_loss(of_rows(name, exposures), exposures) for name in (
      "uncalibrated", "intercepts", "platt", "platt_by_hour")]
  assert (np.diff(losses) < -0.005).all(), losses
  assert abs(losses[-1] - log_loss(truth, exposures)) < 0.002


@pytest.mark.parametrize("method", FITS)
def test_garbage_where_nothing_was_shown_changes_nothing(method):
  exposures, _ = log("hour")
  nowhere = np.arange(SLATES) % 50 == 7
  clean = exposures._replace(where=exposures.where & ~nowhere[:, None])
  put = lambda values, garbage: np.where(clean.where, values, garbage).astype(
      values.dtype)
  rng = np.random.default_rng(3)
  spoiled = clean._replace(
      log_odds=put(clean.log_odds, np.nan),
      categories=put(clean.categories,
                     rng.choice([-3, 1, 2, 77], clean.where.shape)),
      clicks=put(clean.clicks, True), similarity=put(clean.similarity, np.inf))
  for one, other in zip(
      calibrated(method, spoiled), calibrated(method, clean), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("method", FITS)
def test_without_a_log_predictions_stay_what_they_were(method):
  exposures, _ = log("hour")
  nothing = exposures._replace(where=np.zeros_like(exposures.where))
  result = calibrated(method, nothing)
  np.testing.assert_allclose(result.base, ASKED, atol=1e-5)
  assert np.abs(result.shift).max() < 1e-5


@pytest.mark.parametrize("method", FITS)
def test_the_curve_is_linear_between_its_knots_and_constant_beyond(method):
  fit = fitted(method, log("bent")[0])
  asked = np.linspace(-9, 9, 301)
  for kind in range(CATEGORIES):
    np.testing.assert_allclose(
        apply(fit, asked, np.full(len(asked), kind)),
        fit.slope[kind] * asked + np.interp(
            asked, fit.knots[kind], fit.values[kind]), atol=1e-4)
  # Of a category that is none of them nothing is known.
  for kind in (-1, CATEGORIES):
    np.testing.assert_array_equal(
        apply(fit, GRID, np.full(len(GRID), kind)), GRID)
