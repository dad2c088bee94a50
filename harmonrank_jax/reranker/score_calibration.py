"""What a policy has to beat: calibrations that do not look at the user's day.

All are fitted to logged clicks by category, as a team would do it that has no
simulator; `cross_entropy_search` is what it would do with one. They make
scores `base + shift[window, category]`, log-odds of a click.
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
# Of the coefficients, in log-odds: they matter where rows are few.
_PRIOR_SPREAD = 1.0


class Calibrated(NamedTuple):
  """Log-odds of a click.

  Attributes:
    base: `[...]`, of the items asked for.
    shift: `[W, C]`, to be added by window and category.
  """

  base: jax.Array
  shift: jax.Array


# From a log of exposures to the log-odds and categories `[...]` of others.
Calibration = Callable[..., Calibrated]


def uncalibrated(
    exposures: response_lib.Exposures, log_odds: jax.Array,
    categories: jax.Array, *, num_categories: int,
) -> Calibrated:
  """The predicted log-odds as they are.

  Args:
    exposures: not looked at.
    log_odds: `[...]`, of the items to calibrate.
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
  """An offset for each category; arguments as those of `uncalibrated`."""
  rows = _rows(exposures)
  design = lambda rows: _one_hot(rows, num_categories)
  offsets = _fit_log_odds(
      design(rows), rows.clicks, rows.where, offset=rows.log_odds)
  return Calibrated(log_odds + offsets[categories],
                    jnp.zeros((NUM_WINDOWS, num_categories)))


def platt(
    exposures: response_lib.Exposures, log_odds: jax.Array,
    categories: jax.Array, *, num_categories: int,
) -> Calibrated:
  """A slope and an offset for each category; arguments as `uncalibrated`.

  References:
    Platt 1999, with a normal prior of slope 1 and offset 0 instead of his
    targets.
  """
  rows = _rows(exposures)
  fitted = _fit_log_odds(
      _platt_design(rows, num_categories), rows.clicks, rows.where,
      offset=rows.log_odds)
  return Calibrated(_platt_base(fitted, log_odds, categories, num_categories),
                    jnp.zeros((NUM_WINDOWS, num_categories)))


def platt_by_hour(
    exposures: response_lib.Exposures, log_odds: jax.Array,
    categories: jax.Array, *, num_categories: int,
) -> Calibrated:
  """`platt` with offsets that follow the hour; arguments as `uncalibrated`.

  Three harmonics of the day for each category: the best that a score without
  the user's day can do.
  """
  rows = _rows(exposures)
  waves = response_lib.harmonics(rows.time)
  is_category = _one_hot(rows, num_categories)
  by_hour = (is_category[:, :, None] * waves[:, None, :]).reshape(
      len(waves), -1)
  design = jnp.concatenate(
      [_platt_design(rows, num_categories), by_hour], axis=1)
  fitted = _fit_log_odds(
      design, rows.clicks, rows.where, offset=rows.log_odds)
  amplitudes = fitted[2 * num_categories:].reshape(num_categories, -1)
  windows = response_lib.harmonics(jnp.arange(NUM_WINDOWS) + 0.5)
  return Calibrated(_platt_base(fitted, log_odds, categories, num_categories),
                    windows @ amplitudes.T)


def isotonic_by_category(
    exposures: response_lib.Exposures, log_odds: jax.Array,
    categories: jax.Array, *, num_categories: int,
) -> Calibrated:
  """The best non-decreasing function; arguments as those of `uncalibrated`.

  Isotonic regression of the click rates of 50 quantile bins a category,
  linear between their means. A category that was never shown keeps its
  predictions.

  References:
    Zadrozny and Elkan 2002, "Transforming classifier scores into accurate
    multiclass probability estimates".
  """
  rows = _rows(exposures)
  base = jnp.asarray(log_odds)
  for category in range(num_categories):
    chosen = rows.where & (rows.categories == category)
    # Ranks among the category's rows; others go beyond the last bin.
    order = jnp.argsort(jnp.where(chosen, rows.log_odds, jnp.inf))
    place = jnp.zeros(len(order), jnp.int32).at[order].set(
        jnp.arange(len(order), dtype=jnp.int32))
    count = jnp.maximum(jnp.sum(chosen), 1)
    bins = jnp.where(
        chosen, (place.astype(jnp.float32) / count * _BINS).astype(jnp.int32),
        _BINS)
    total = lambda values, bins=bins: jnp.zeros(_BINS + 1).at[bins].add(
        values)[:_BINS]
    size = total(jnp.ones(len(order)))
    # One row more of the category's own rate in every bin keeps rates off 0
    # and 1.
    clicks = total(rows.clicks.astype(jnp.float32))
    share = (jnp.sum(clicks) + 0.5) / (jnp.sum(size) + 1)
    rate = (clicks + share) / (size + 1)
    fit = isotonic.isotonic_regression(rate, weights=size + 1)
    mean = total(rows.log_odds) / jnp.maximum(size, 1)
    # Empty bins repeat the value before, so that knots do not fall.
    knots = lax.cummax(jnp.where(size > 0, mean, -jnp.inf))
    curve = jnp.log(fit) - jnp.log1p(-fit)
    mapped = jnp.interp(log_odds, jnp.maximum(knots, -1e3), curve)
    base = jnp.where(
        (categories == category) & jnp.any(chosen), mapped, base)
  return Calibrated(base, jnp.zeros((NUM_WINDOWS, num_categories)))


class SearchResult(NamedTuple):
  """The end of a search.

  Attributes:
    mean: `[P]`, of the last distribution: what was found.
    spread: `[P]`, its standard deviations.
    history: `[T]`, the elite's mean score in every round.
  """

  mean: jax.Array
  spread: jax.Array
  history: jax.Array


def cross_entropy_search(
    score_fn: Callable[[jax.Array, jax.Array], jax.Array],
    size: int,
    *,
    key: jax.Array,
    num_rounds: int = 20,
    population: int = 32,
    elite_share: float = 0.25,
    initial_spread: float = 0.5,
) -> SearchResult:
  """Searches numbers of a large score, by sampling around the best so far.

  Args:
    score_fn: from a key and `[P]` numbers to a score, which may be noisy; it
      gets the same key for all samples of a round (common random numbers).
    size: P.
    key: consumed.
    num_rounds: T.
    population: samples a round.
    elite_share: of the samples, what the next round is fitted to, in (0, 1].
    initial_spread: standard deviation around 0 in the first round.

  Returns:
    The `SearchResult`.

  Raises:
    ValueError: if no sample would be in the elite.

  References:
    Rubinstein and Kroese 2004, "The cross-entropy method", for normal
    distributions, with the extra variance of Szita and Lorincz 2006 falling
    to 0 over the rounds.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> found = cross_entropy_search(
  ...     lambda key, x: -jnp.sum((x - 0.3)**2), 2, key=jax.random.key(0))
  >>> bool(jnp.all(jnp.abs(found.mean - 0.3) < 0.05))
  True
  """
  num_elite = round(elite_share * population)
  if not 1 <= num_elite <= population:
    raise ValueError(
        f"elite_share {elite_share} of {population} samples leaves none, or "
        "is above 1.")

  def one_round(carry, inputs):
    mean, spread = carry
    number, key = inputs
    draw_key, score_key = jax.random.split(key)
    samples = mean[None, :] + spread[None, :] * jax.random.normal(
        draw_key, (population, size))
    scores = jax.vmap(score_fn, in_axes=(None, 0))(score_key, samples)
    best, chosen = lax.top_k(scores, num_elite)
    elite = samples[chosen]
    extra = 0.2 * initial_spread * jnp.maximum(
        1 - 2 * number / num_rounds, 0)
    return (jnp.mean(elite, axis=0), jnp.std(elite, axis=0) + extra
            ), jnp.mean(best)

  (mean, spread), history = lax.scan(
      one_round, (jnp.zeros(size), jnp.full(size, initial_spread)),
      (jnp.arange(num_rounds), jax.random.split(key, num_rounds)))
  return SearchResult(mean, spread, history)


class _Rows(NamedTuple):
  """Exposures one by one: `[N]`."""

  log_odds: jax.Array
  categories: jax.Array
  clicks: jax.Array
  where: jax.Array
  time: jax.Array


def _rows(exposures: response_lib.Exposures) -> _Rows:
  flat = lambda values: jnp.asarray(values).reshape(-1)
  where = flat(exposures.where)
  time = jnp.repeat(jnp.asarray(exposures.time), exposures.clicks.shape[1])
  return _Rows(jnp.where(where, flat(exposures.log_odds), 0),
               flat(exposures.categories), flat(exposures.clicks), where, time)


def _one_hot(rows: _Rows, num_categories: int) -> jax.Array:
  return jax.nn.one_hot(rows.categories, num_categories)


def _platt_design(rows: _Rows, num_categories: int) -> jax.Array:
  is_category = _one_hot(rows, num_categories)
  return jnp.concatenate(
      [rows.log_odds[:, None] * is_category, is_category], axis=1)


def _platt_base(
    fitted: jax.Array, log_odds: jax.Array, categories: jax.Array,
    num_categories: int
) -> jax.Array:
  scale = 1 + fitted[:num_categories]
  shift = fitted[num_categories:2 * num_categories]
  return scale[categories] * log_odds + shift[categories]


def _fit_log_odds(
    design: jax.Array, clicks: jax.Array, where: jax.Array, *,
    offset: jax.Array
) -> jax.Array:
  """Coefficients `[P]` of `offset + design @ coefficients`."""
  return logistic.fit_coefficients(
      design, clicks.astype(jnp.float32), weights=where.astype(jnp.float32),
      offset=offset, precision=_PRIOR_SPREAD ** -2)
