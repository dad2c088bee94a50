"""Static calibrations of scores, the baselines that a policy has to beat.

All are fitted to logged clicks by category, without a simulator, and ignore
the user's day. What is fitted is a `Calibration`, arrays of one form for all
of them; `calibrated_log_odds` applies it to any scores.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.logistic as logistic
from harmonrank_jax.ordering import isotonic
from harmonrank_jax.reranker import response as response_lib

NUM_WINDOWS = response_lib.NUM_WINDOWS
_BINS = 50
# Standard deviation of the coefficients' prior, in log-odds: the prior matters
# where rows are few.
_PRIOR_SPREAD = 1.0


class Calibration(NamedTuple):
  """Calibrated log-odds of a click, from predicted ones.

  Those of an item of category c with predicted log-odds x, in window w, are

    slope[c] x + curve_c(x) + shift[w, c],

  where curve_c is linear between its P knots and constant beyond them.
  """

  slope: jax.Array  # [C]
  knots: jax.Array  # [C, P], not decreasing.
  values: jax.Array  # [C, P], of the curve at its knots.
  shift: jax.Array  # [W, C], added by window and category.


# From a log of exposures to what is fitted to it.
CalibrationFn = Callable[..., Calibration]


def calibrated_log_odds(
    calibration: Calibration, log_odds: jax.Array, categories: jax.Array
) -> jax.Array:
  """Calibrated log-odds without the shift of the window.

  Args:
    calibration: what was fitted.
    log_odds: `[...]`, predicted, of the items to calibrate.
    categories: `[...]` int in [0, C); items of others keep their predictions.

  Returns:
    `[...]`.
  """
  num_categories, num_knots = calibration.knots.shape
  is_known = (categories >= 0) & (categories < num_categories)
  categories = jnp.where(is_known, categories, 0)
  passed = jnp.sum(
      calibration.knots[categories] <= log_odds[..., None], axis=-1)
  # Both are the nearest knot beyond the ends.
  below, above = jnp.maximum(passed - 1, 0), jnp.minimum(passed, num_knots - 1)
  at = lambda array, place: array[categories, place]
  start, width = at(calibration.knots, below), (
      at(calibration.knots, above) - at(calibration.knots, below))
  low, high = at(calibration.values, below), at(calibration.values, above)
  curve = jnp.where(
      width > 0,
      low + (log_odds - start) / jnp.where(width > 0, width, 1) * (high - low),
      low)
  return jnp.where(
      is_known, calibration.slope[categories] * log_odds + curve, log_odds)


def uncalibrated(
    exposures: response_lib.Exposures, *, num_categories: int
) -> Calibration:
  """The predicted log-odds as they are.

  Args:
    exposures: unused.
    num_categories: C.

  Returns:
    The `Calibration`.
  """
  del exposures
  return _straight(jnp.ones(num_categories), jnp.zeros(num_categories))


def intercepts(
    exposures: response_lib.Exposures, *, num_categories: int
) -> Calibration:
  """An offset for each category; arguments are those of `uncalibrated`."""
  rows = _rows(exposures)
  offsets = _fit_log_odds(
      jax.nn.one_hot(rows.categories, num_categories), rows)
  return _straight(jnp.ones(num_categories), offsets)


def platt(
    exposures: response_lib.Exposures, *, num_categories: int
) -> Calibration:
  """Slope and offset for each category; arguments as in `uncalibrated`.

  References:
    Platt 1999, with a normal prior of slope 1 and offset 0 instead of his
    targets.
  """
  rows = _rows(exposures)
  slopes, offsets = _fit_log_odds(
      _platt_design(rows, num_categories), rows).reshape(2, num_categories)
  return _straight(1 + slopes, offsets)


def platt_by_hour(
    exposures: response_lib.Exposures, *, num_categories: int
) -> Calibration:
  """`platt` with offsets by the hour; arguments as in `uncalibrated`.

  Three harmonics of the day for each category: the most that a score can
  express without the user's day.
  """
  rows = _rows(exposures)
  waves = response_lib.harmonics(rows.time)
  is_category = jax.nn.one_hot(rows.categories, num_categories)
  by_hour = (is_category[:, :, None] * waves[:, None, :]).reshape(
      len(waves), -1)
  design = jnp.concatenate(
      [_platt_design(rows, num_categories), by_hour], axis=1)
  slopes, offsets, *amplitudes = jnp.split(
      _fit_log_odds(design, rows), [num_categories, 2 * num_categories])
  windows = response_lib.harmonics(jnp.arange(NUM_WINDOWS) + 0.5)
  return _straight(1 + slopes, offsets)._replace(
      shift=windows @ amplitudes[0].reshape(num_categories, -1).T)


def isotonic_by_category(
    exposures: response_lib.Exposures, *, num_categories: int
) -> Calibration:
  """The best non-decreasing function; arguments as in `uncalibrated`.

  Isotonic regression of click rates in 50 quantile bins a category, linear
  between the means of the bins. A category without exposures keeps its
  predictions.

  References:
    Zadrozny and Elkan 2002, "Transforming classifier scores into accurate
    multiclass probability estimates".
  """
  rows = _rows(exposures)
  slopes, knots, values = [], [], []
  for category in range(num_categories):
    chosen = rows.where & (rows.categories == category)
    is_seen = jnp.any(chosen)
    places, curve = _isotonic_curve(rows, chosen)
    slopes.append(jnp.where(is_seen, 0.0, 1.0))
    knots.append(places)
    values.append(jnp.where(is_seen, curve, 0))
  return Calibration(
      jnp.stack(slopes), jnp.stack(knots), jnp.stack(values),
      jnp.zeros((NUM_WINDOWS, num_categories)))


class _Rows(NamedTuple):
  """Exposures one by one, `[N]` each."""

  log_odds: jax.Array
  categories: jax.Array
  clicks: jax.Array
  where: jax.Array
  time: jax.Array


def _rows(exposures: response_lib.Exposures) -> _Rows:
  """Exposures in one axis, log-odds 0 where nothing was shown."""
  flat = lambda values: jnp.asarray(values).reshape(-1)
  where = flat(exposures.where)
  time = jnp.repeat(jnp.asarray(exposures.time), exposures.clicks.shape[1])
  return _Rows(jnp.where(where, flat(exposures.log_odds), 0),
               flat(exposures.categories), flat(exposures.clicks), where, time)


def _platt_design(rows: _Rows, num_categories: int) -> jax.Array:
  """`[N, 2 C]`: slopes, then offsets."""
  is_category = jax.nn.one_hot(rows.categories, num_categories)
  return jnp.concatenate(
      [rows.log_odds[:, None] * is_category, is_category], axis=1)


def _straight(slopes: jax.Array, offsets: jax.Array) -> Calibration:
  """Slope and offset for each category, the same in all windows."""
  return Calibration(
      slopes, jnp.zeros((len(slopes), 1)), offsets[:, None],
      jnp.zeros((NUM_WINDOWS, len(slopes))))


def _isotonic_curve(
    rows: _Rows, chosen: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Predicted log-odds of the bins and their fit, of the chosen rows."""
  # Ranks are among the chosen rows; others go beyond the last bin.
  order = jnp.argsort(jnp.where(chosen, rows.log_odds, jnp.inf))
  place = jnp.zeros(len(order), jnp.int32).at[order].set(
      jnp.arange(len(order), dtype=jnp.int32))
  count = jnp.maximum(jnp.sum(chosen), 1)
  bins = jnp.where(
      chosen, (place.astype(jnp.float32) / count * _BINS).astype(jnp.int32),
      _BINS)
  total = lambda values: jnp.zeros(_BINS + 1).at[bins].add(values)[:_BINS]
  size = total(jnp.ones(len(order)))
  # One more row with the category's rate in every bin keeps rates off 0 and 1.
  clicks = total(rows.clicks.astype(jnp.float32))
  share = (jnp.sum(clicks) + 0.5) / (jnp.sum(size) + 1)
  rate = (clicks + share) / (size + 1)
  fit = isotonic.isotonic_regression(rate, weights=size + 1)
  mean = total(rows.log_odds) / jnp.maximum(size, 1)
  # Empty bins repeat the knot before, so that knots do not decrease.
  knots = lax.cummax(jnp.where(size > 0, mean, -jnp.inf))
  curve = jnp.log(fit) - jnp.log1p(-fit)
  return jnp.maximum(knots, -1e3), curve


def _fit_log_odds(design: jax.Array, rows: _Rows) -> jax.Array:
  """Coefficients `[P]` of `log_odds + design @ coefficients`."""
  return logistic.fit_coefficients(
      design, rows.clicks.astype(jnp.float32), offsets=rows.log_odds,
      weights=rows.where.astype(jnp.float32), precision=_PRIOR_SPREAD ** -2)
