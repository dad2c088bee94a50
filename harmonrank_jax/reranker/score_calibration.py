"""Static calibrations of scores, the baselines that a policy has to beat.

All are fitted to logged clicks by category, without a simulator, and ignore
the user's day. They make scores `base + shift[window, category]`, log-odds of
a click.
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


class Calibrated(NamedTuple):
  """Log-odds of a click.

  Attributes:
    base: `[...]`, of the items to calibrate.
    shift: `[W, C]`, added by window and category.
  """

  base: jax.Array
  shift: jax.Array


# From a log of exposures to the calibrated scores of other items.
Calibration = Callable[..., Calibrated]


def uncalibrated(
    exposures: response_lib.Exposures, log_odds: jax.Array,
    categories: jax.Array, *, num_categories: int,
) -> Calibrated:
  """The predicted log-odds as they are.

  Args:
    exposures: unused.
    log_odds: `[...]`, predicted, of the items to calibrate.
    categories: `[...]` int in [0, C).
    num_categories: C.

  Returns:
    `Calibrated`.
  """
  del exposures, categories
  return Calibrated(
      jnp.asarray(log_odds), jnp.zeros((NUM_WINDOWS, num_categories)))


def intercepts(
    exposures: response_lib.Exposures, log_odds: jax.Array,
    categories: jax.Array, *, num_categories: int,
) -> Calibrated:
  """An offset for each category; arguments are those of `uncalibrated`."""
  rows = _rows(exposures)
  offsets = _fit_log_odds(
      jax.nn.one_hot(rows.categories, num_categories), rows)
  return Calibrated(log_odds + offsets[categories],
                    jnp.zeros((NUM_WINDOWS, num_categories)))


def platt(
    exposures: response_lib.Exposures, log_odds: jax.Array,
    categories: jax.Array, *, num_categories: int,
) -> Calibrated:
  """Slope and offset for each category; arguments as in `uncalibrated`.

  References:
    Platt 1999, with a normal prior of slope 1 and offset 0 instead of his
    targets.
  """
  rows = _rows(exposures)
  fitted = _fit_log_odds(_platt_design(rows, num_categories), rows)
  return Calibrated(_platt_base(fitted, log_odds, categories, num_categories),
                    jnp.zeros((NUM_WINDOWS, num_categories)))


def platt_by_hour(
    exposures: response_lib.Exposures, log_odds: jax.Array,
    categories: jax.Array, *, num_categories: int,
) -> Calibrated:
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
  fitted = _fit_log_odds(design, rows)
  amplitudes = fitted[2 * num_categories:].reshape(num_categories, -1)
  windows = response_lib.harmonics(jnp.arange(NUM_WINDOWS) + 0.5)
  return Calibrated(_platt_base(fitted, log_odds, categories, num_categories),
                    windows @ amplitudes.T)


def isotonic_by_category(
    exposures: response_lib.Exposures, log_odds: jax.Array,
    categories: jax.Array, *, num_categories: int,
) -> Calibrated:
  """The best non-decreasing function; arguments as in `uncalibrated`.

  Isotonic regression of click rates in 50 quantile bins a category, linear
  between the means of the bins. A category without exposures keeps its
  predictions.

  References:
    Zadrozny and Elkan 2002, "Transforming classifier scores into accurate
    multiclass probability estimates".
  """
  rows = _rows(exposures)
  base = jnp.asarray(log_odds)
  for category in range(num_categories):
    chosen = rows.where & (rows.categories == category)
    knots, curve = _isotonic_curve(rows, chosen)
    mapped = jnp.interp(log_odds, knots, curve)
    base = jnp.where(
        (categories == category) & jnp.any(chosen), mapped, base)
  return Calibrated(base, jnp.zeros((NUM_WINDOWS, num_categories)))


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


def _platt_base(
    fitted: jax.Array, log_odds: jax.Array, categories: jax.Array,
    num_categories: int
) -> jax.Array:
  scale = 1 + fitted[:num_categories]
  shift = fitted[num_categories:2 * num_categories]
  return scale[categories] * log_odds + shift[categories]


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
