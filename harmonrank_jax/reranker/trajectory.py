"""The steps of many environments, and the scale of what they show."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.reranker import environment as environments

# Normalised observations are clipped to this range, in standard deviations.
OBSERVATION_RANGE = (-10.0, 10.0)
# Of sums of float32, by their size.
_ROUNDING = 1e-5


class Trajectory(NamedTuple):
  """The steps of one update; T steps, E environments."""

  observation: jax.Array  # [T, E, O], which the action answers, as it is.
  action: jax.Array  # [T, E, A]
  log_prob: jax.Array  # [T, E] of the action under the policy that drew it.
  where: jax.Array  # [T, E] bool, True = the action acted.
  reward: jax.Array  # [T, E, M] of the step.
  cost: jax.Array  # [T, E, Q]
  counted: jax.Array  # [T, E, Q]
  terminated: jax.Array  # [T, E] bool
  truncated: jax.Array  # [T, E] bool
  # [T, E, M + Q] of the observation before the reset where truncated; 0 in
  # steps at which no environment is.
  final_values: jax.Array


# State and result of E environments.
Standing = tuple[Any, environments.StepResult]


def unroll(
    start: Standing,
    fresh: Standing,
    noise: jax.Array,
    keys: jax.Array,
    *,
    act_fn: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    step_fn: Callable[[jax.Array, Any, jax.Array], Standing],
    value_fn: Callable[[jax.Array], jax.Array],
    num_values: int,
) -> tuple[Standing, Trajectory]:
  """Acts for T steps; an environment that ends continues from `fresh`.

  Noise `[T, E, A]` is that of the actions, keys `[T, E]` are of the steps.
  `act_fn` gives actions and their log-density, `value_fn` values `[E, M + Q]`.
  """
  def final_value_fn(observation):
    return value_fn(observation).astype(observation.dtype)

  def no_value_fn(observation):
    return jnp.zeros((len(observation), num_values), observation.dtype)

  def body(standing, inputs):
    state, seen = standing
    noise, keys = inputs
    action, log_prob = act_fn(seen.observation, noise)
    state, result = step_fn(keys, state, action)
    final_values = lax.cond(
        jnp.any(result.truncated), final_value_fn, no_value_fn,
        result.observation)
    ended = result.terminated | result.truncated
    standing = jax.tree.map(
        lambda new, old: jnp.where(expand(ended, old), new, old),
        fresh, (state, result))
    return standing, Trajectory(
        seen.observation, action, log_prob, seen.where, result.reward,
        result.cost, result.counted, result.terminated, result.truncated,
        final_values)

  return lax.scan(body, start, (noise, keys))


def expand(mask: jax.Array, array: jax.Array) -> jax.Array:
  """A mask with the number of axes of an array that begins with its axes."""
  return mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))


class Statistics(NamedTuple):
  """Mean and variance of the vectors `[K]` of all updates before."""

  num_seen: jax.Array  # [], as a float.
  mean: jax.Array  # [K], 0 at first.
  variance: jax.Array  # [K], as given at first.

  @property
  def spread(self) -> jax.Array:
    """`[K]` standard deviations; not below the rounding of the mean."""
    return jnp.sqrt(self.variance + jnp.square(_ROUNDING * self.mean))


def no_statistics(size: int, *, variance: float) -> Statistics:
  """The statistics before any vector of this size."""
  return Statistics(
      jnp.zeros(()), jnp.zeros(size), variance * jnp.ones(size))


def normalise(statistics: Statistics, observation: jax.Array) -> jax.Array:
  """Observations `[..., O]` in standard deviations from the mean, clipped."""
  # The 1e-6 keeps rounding errors of constant observations small.
  scale = lax.rsqrt(statistics.variance + 1e-6)
  return jnp.clip(
      (observation - _row(statistics.mean, observation))
      * _row(scale, observation), *OBSERVATION_RANGE)


def standardise(statistics: Statistics, returns: jax.Array) -> jax.Array:
  """Returns `[..., K]` in standard deviations from the mean, in any unit."""
  spread = statistics.spread
  return (returns - _row(statistics.mean, returns)) / _row(
      jnp.where(spread > 0, spread, 1), returns)


def restore(statistics: Statistics, values: jax.Array) -> jax.Array:
  """The inverse of `standardise`; 0 before anything was seen."""
  return (_row(statistics.mean, values)
          + _row(statistics.spread, values) * values)


def _row(vector: jax.Array, array: jax.Array) -> jax.Array:
  """A vector `[K]` with as many axes as an array `[..., K]`."""
  return vector.reshape((1,) * (array.ndim - 1) + vector.shape)


def merge(statistics: Statistics, observation: jax.Array) -> Statistics:
  """Statistics with more vectors `[T, E, K]`, exact for their union.

  >>> seen = merge(
  ...     no_statistics(1, variance=1), jnp.array([[[1.0], [3.0]]]))
  >>> print(seen.num_seen, seen.mean, seen.variance)
  2.0 [2.] [1.]
  """
  size = observation.shape[0] * observation.shape[1]
  total = statistics.num_seen + size
  share = size / total
  delta = jnp.mean(observation, axis=(0, 1)) - statistics.mean
  variance = (1 - share) * statistics.variance + share * (
      jnp.var(observation, axis=(0, 1)) + (1 - share) * jnp.square(delta))
  return Statistics(total, statistics.mean + share * delta, variance)
