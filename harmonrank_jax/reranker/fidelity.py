"""How well a response model predicts clicks on days it was not fitted to."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

import harmonrank_jax.logistic as logistic
from harmonrank_jax.reranker import response as response_lib

NUM_HOURS = 24
# Exposures to the category still fresh, at which a new bucket begins.
FATIGUE_EDGES = (0.5, 1.5, 3.0, 5.0, 8.0, 12.0)


class Curve(NamedTuple):
  """Click rates by group, `[G]`; NaN where nothing was shown."""

  observed: jax.Array
  predicted: jax.Array
  standard_error: jax.Array  # Of the observed rate, by predicted variances.
  size: jax.Array  # Exposures.


class ResponseFidelity(NamedTuple):
  """Predicted against observed clicks of a log."""

  by_hour: Curve  # Curve of 24 hours
  by_category: Curve  # Curve of C categories
  by_position: Curve  # Curve of K positions
  by_fatigue: Curve  # Curve of the buckets of FATIGUE_EDGES
  by_chance: Curve  # Curve of one group, the exposures that no policy chose
  # [], of a logistic regression of clicks on predicted log-odds; 1 if
  # probabilities are neither over- nor underconfident.
  slope: jax.Array
  # [], of the same regression; 0 if they are right on average.
  offset: jax.Array
  log_likelihood: jax.Array  # [], mean over exposures
  scores_log_likelihood: jax.Array  # [], the same for the predicted scores
  rate_log_likelihood: jax.Array  # [], the same for one rate for all exposures
  exposure_entropy: jax.Array  # [], of the shares of categories, in nats


def response_fidelity(
    response: response_lib.ResponseModel,
    exposures: response_lib.Exposures,
    *,
    is_random: jax.Array | None = None,
) -> ResponseFidelity:
  """Judges a model on a log that it was not fitted to.

  Args:
    response: the model.
    exposures: R slates of K positions.
    is_random: `[R, K]` bool, True = shown by chance; None if nothing was.

  Returns:
    The `ResponseFidelity`; predictions are given the clicks above in the
    slate.

  Raises:
    ValueError: if shapes do not fit.
  """
  p = response_lib.click_probabilities(response, exposures)
  p = jnp.clip(p, 1e-6, 1 - 1e-6)
  where, clicks = jnp.asarray(exposures.where), jnp.asarray(exposures.clicks)
  shape = clicks.shape
  fresh = response_lib.fresh_exposures(response, exposures)
  hour = (exposures.time * (NUM_HOURS / response_lib.NUM_WINDOWS)).astype(
      jnp.int32)
  curve = functools.partial(_curve, clicks, p)
  positions = jnp.broadcast_to(jnp.arange(shape[1])[None, :], shape)
  by_chance = jnp.zeros(shape, bool) if is_random is None else is_random
  by_category = curve(where, exposures.categories, response.level.shape[0])
  share = by_category.size / jnp.maximum(jnp.sum(by_category.size), 1)
  rate = jnp.sum(where & clicks) / jnp.maximum(jnp.sum(where), 1)
  slope, offset = _calibration_line(p, clicks, where)
  return ResponseFidelity(
      by_hour=curve(
          where, jnp.broadcast_to(hour[:, None], shape), NUM_HOURS),
      by_category=by_category,
      by_position=curve(where, positions, shape[1]),
      by_fatigue=curve(
          where,
          jnp.searchsorted(jnp.asarray(FATIGUE_EDGES), fresh, side="right"),
          len(FATIGUE_EDGES) + 1),
      by_chance=curve(where & by_chance, jnp.zeros(shape, jnp.int32), 1),
      slope=slope, offset=offset,
      log_likelihood=_mean_log_likelihood(p, clicks, where),
      scores_log_likelihood=_mean_log_likelihood(
          jax.nn.sigmoid(exposures.log_odds), clicks, where),
      rate_log_likelihood=_mean_log_likelihood(
          jnp.broadcast_to(rate, shape), clicks, where),
      exposure_entropy=entropy(share))


def entropy(shares: jax.Array) -> jax.Array:
  """Entropy `[...]` in nats of shares `[..., C]` that sum to 1."""
  return -jnp.sum(jax.scipy.special.xlogy(shares, shares), axis=-1)


def _curve(
    clicks: jax.Array, p: jax.Array, where: jax.Array, groups: jax.Array,
    count: int,
) -> Curve:
  """Rates of `count` groups of the exposures with `where` True."""
  groups = jnp.where(where, groups, count)
  total = lambda values: jnp.zeros(count + 1).at[groups].add(values)[:count]
  size = total(jnp.ones(clicks.shape))
  some = jnp.where(size > 0, size, jnp.nan)
  return Curve(
      total(clicks.astype(jnp.float32)) / some, total(p) / some,
      jnp.sqrt(total(p * (1 - p))) / some, size)


def _mean_log_likelihood(
    p: jax.Array, clicks: jax.Array, where: jax.Array
) -> jax.Array:
  """Mean log-likelihood of an exposure, `[]`."""
  p = jnp.clip(p, 1e-6, 1 - 1e-6)
  terms = jnp.where(clicks, jnp.log(p), jnp.log1p(-p))
  return jnp.sum(jnp.where(where, terms, 0)) / jnp.maximum(jnp.sum(where), 1)


def _calibration_line(
    p: jax.Array, clicks: jax.Array, where: jax.Array
) -> logistic.Line:
  """The logistic regression of clicks on predicted log-odds."""
  odds = jnp.where(where, jnp.log(p) - jnp.log1p(-p), 0)
  # Few steps do: of a model worth judging, the line is near the start.
  return logistic.fit_line(
      odds, clicks, weights=where.astype(odds.dtype), total=1,
      start=logistic.Line(jnp.ones(()), jnp.zeros(())), num_steps=10)
