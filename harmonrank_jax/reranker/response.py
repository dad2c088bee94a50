"""How users respond to slates: the model of their clicks.

A user who reaches a slot looks at it with a probability of its position, and
clicks what is looked at with a probability of its attraction:

  attraction = scale l + level[c] + demand[c, window]
               - fatigue F_c - redundancy max_above cos(f, f_above)

l are the predicted log-odds of a click; scale and level correct their
miscalibration. F_c counts the exposures to category c earlier in the day, each
fading by `recovery` a window. After a click the user leaves the page with
probability `stop`, and does not reach the slots below (the cascade). An item
that is not clicked is dismissed with probability `dismiss`.

A log shows the cascade only through the clicks. With q_k the probability of a
click if slot k is reached and b_k the probability that it was reached, given
the clicks above, P(click_k | clicks above) = b_k q_k and

  b_{k+1} = 1 - stop after a click, else b_k (1 - q_k) / (1 - b_k q_k).
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

# Windows of 15 minutes in a day.
NUM_WINDOWS = 96
# Harmonics of a day in the demand for a category: 24, 12 and 8 hours.
NUM_HARMONICS = 3


class ResponseModel(NamedTuple):
  """What decides the clicks; C categories, W windows, K positions."""

  # [], factor of the predicted log-odds; 1 if they are calibrated.
  scale: jax.Array
  level: jax.Array  # [C], log-odds added for a category
  # [C, W], log-odds added by the window of the day, of mean 0.
  demand: jax.Array
  fatigue: jax.Array  # [], log-odds lost for each exposure still fresh
  recovery: jax.Array  # [] in (0, 1), share of the fatigue left a window later
  redundancy: jax.Array  # [], log-odds lost by a copy of an item above
  # [K] in (0, 1], probability that a user who reaches a position looks at it;
  # 1 at the first.
  examination: jax.Array
  stop: jax.Array  # [] in (0, 1), probability to leave the page after a click
  # [] in [0, 1), probability to dismiss an item that is not clicked.
  dismiss: jax.Array


class Exposures(NamedTuple):
  """A log of R slates of up to K positions, by user, day and time."""

  log_odds: jax.Array  # [R, K] float32, predicted, of a click
  categories: jax.Array  # [R, K] int32 in [0, C)
  # [R, K] float32, cosine to the most similar item above, 0 at the top.
  similarity: jax.Array
  clicks: jax.Array  # [R, K] bool
  dismissed: jax.Array  # [R, K] bool
  where: jax.Array  # [R, K] bool, True = an item was shown
  time: jax.Array  # [R] float32, time of the day in windows, from 0 to W
  # [R] int32, one number for each day of a user. Slates of a day stand
  # together, in the order of time.
  day_ids: jax.Array


def click_probabilities(
    response: ResponseModel, exposures: Exposures
) -> jax.Array:
  """Probability of every click in a log, given the clicks above it, `[R, K]`.

  It is 0 where nothing was shown. Raises ValueError if shapes do not fit.
  """
  exposures = checked(exposures)
  num_positions = exposures.clicks.shape[1]
  if num_positions > response.examination.shape[0]:
    raise ValueError(
        f"exposures have {num_positions} positions, the response "
        f"{response.examination.shape[0]}.")
  shown = fresh_exposures(response, exposures)
  window = jnp.clip(exposures.time.astype(jnp.int32), 0, NUM_WINDOWS - 1)
  odds = attraction(
      response, exposures.log_odds, exposures.categories,
      response.demand[exposures.categories, window[:, None]], shown,
      exposures.similarity)
  click_if_reached = jnp.where(
      exposures.where,
      response.examination[None, :num_positions] * jax.nn.sigmoid(odds), 0)
  return jax.vmap(clicks_given_above, in_axes=(0, 0, None))(
      click_if_reached, exposures.clicks, response.stop)


def attraction(
    response: ResponseModel, log_odds: jax.Array, categories: jax.Array,
    demand: jax.Array, shown: jax.Array, similarity: jax.Array,
) -> jax.Array:
  """Log-odds of a click on an item that is looked at, `[...]`.

  All arrays are `[...]`, item by item: `demand` is that for the category now,
  `shown` counts the exposures to the category that are still fresh.
  """
  return (response.scale * log_odds + response.level[categories] + demand
          - response.fatigue * shown - response.redundancy * similarity)


def faded_exposures(
    exposures: Exposures, *, num_categories: int, fading: jax.Array | float
) -> jax.Array:
  """Exposures to each category earlier in the day, faded, `[R, C]`.

  `fading` is the number of windows in which an exposure falls by a factor e.
  """
  is_category = jax.nn.one_hot(exposures.categories, num_categories)
  counts = jnp.einsum(
      "rk,rkc->rc", exposures.where.astype(jnp.float32), is_category)
  same_day = exposures.day_ids[1:] == exposures.day_ids[:-1]
  passed = jnp.diff(exposures.time)
  kept = jnp.where(same_day, jnp.exp(-jnp.maximum(passed, 0) / fading), 0)
  kept = jnp.concatenate([jnp.zeros(1), kept])[:, None]
  # F_r = kept_r (F_{r-1} + n_{r-1}), a linear recurrence.
  before = jnp.concatenate([jnp.zeros_like(counts[:1]), counts[:-1]])

  def joined(first, second):
    return first[0] * second[0], second[0] * first[1] + second[1]

  return lax.associative_scan(joined, (kept, kept * before))[1]


def fresh_exposures(
    response: ResponseModel, exposures: Exposures
) -> jax.Array:
  """Exposures to each item's category that are still fresh, `[R, K]`."""
  shown = faded_exposures(
      exposures, num_categories=response.level.shape[0],
      fading=-1 / jnp.log(response.recovery))
  return jnp.take_along_axis(shown, exposures.categories, axis=1)


def harmonics(time: jax.Array) -> jax.Array:
  """Waves of 24, 12 and 8 hours, `[..., 6]`, at times `[...]` in windows."""
  angle = 2 * jnp.pi / NUM_WINDOWS * jnp.stack(
      [number * time for number in range(1, NUM_HARMONICS + 1)], axis=-1)
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def checked(exposures: Exposures) -> Exposures:
  """Exposures with zeros where nothing was shown; ValueError on bad shapes."""
  shape = exposures.clicks.shape
  if len(shape) != 2:
    raise ValueError(f"exposures.clicks has shape {shape}; expected [R, K].")
  for name in ("log_odds", "categories", "similarity", "dismissed", "where"):
    actual = getattr(exposures, name).shape
    if actual != shape:
      raise ValueError(
          f"exposures.{name} has shape {actual}; clicks have {shape}.")
  for name in ("time", "day_ids"):
    actual = getattr(exposures, name).shape
    if actual != shape[:1]:
      raise ValueError(
          f"exposures.{name} has shape {actual}; expected {shape[:1]}.")
  clear = lambda values: jnp.where(exposures.where, values, 0).astype(
      values.dtype)
  return exposures._replace(**{
      name: clear(jnp.asarray(getattr(exposures, name)))
      for name in ("log_odds", "categories", "similarity", "clicks",
                   "dismissed")})


def clicks_given_above(
    click_if_reached: jax.Array, clicks: jax.Array, stop: jax.Array
) -> jax.Array:
  """Probabilities of clicks given the clicks above, in one slate, `[K]`."""

  def step(b, slot):
    q, click = slot
    p = b * q
    unclicked = b * (1 - q) / jnp.maximum(1 - p, 1e-6)
    return jnp.where(click, 1 - stop, unclicked), p

  return lax.scan(step, jnp.ones_like(stop), (click_if_reached, clicks))[1]
