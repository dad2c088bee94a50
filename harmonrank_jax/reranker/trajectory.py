"""The steps of many environments under a policy."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.reranker import environment as environments

# Normalised observations are clipped to this range, in standard deviations.
OBSERVATION_RANGE = (-10.0, 10.0)


class Trajectory(NamedTuple):
  """The steps of one update; T steps, E environments.

  Attributes:
    observation: `[T, E, O]`, which the action answers, not normalised.
    action: `[T, E, A]`.
    log_prob: `[T, E]`, of the action under the policy that drew it.
    where: `[T, E]` bool, True = the action acted.
    reward: `[T, E, M]`, of the step.
    cost: `[T, E, Q]`, likewise.
    counted: `[T, E, Q]`, likewise.
    terminated: `[T, E]` bool.
    truncated: `[T, E]` bool.
    final_values: `[T, E, M + Q]`, of the observation before the reset where
      truncated; 0 in steps at which no environment is.
  """

  observation: jax.Array
  action: jax.Array
  log_prob: jax.Array
  where: jax.Array
  reward: jax.Array
  cost: jax.Array
  counted: jax.Array
  terminated: jax.Array
  truncated: jax.Array
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

  Args:
    start: `[E, ...]`, where the environments stand.
    fresh: `[E, ...]`, each of them after a reset.
    noise: `[T, E, A]`, of the actions.
    keys: `[T, E]`, of the steps.
    act_fn: from observations and noise to actions and their log-density.
    step_fn: from keys, states and actions to states and results.
    value_fn: from observations `[E, O]` to values `[E, M + Q]`.
    num_values: M + Q.

  Returns:
    Where the environments stand after, and the `Trajectory`.
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


class ObservationStatistics(NamedTuple):
  """Mean and variance of the observations of all updates before.

  Attributes:
    num_seen: `[]`, as a float.
    mean: `[O]`, 0 at first.
    variance: `[O]`, 1 at first.
  """

  num_seen: jax.Array
  mean: jax.Array
  variance: jax.Array


def no_statistics(size: int) -> ObservationStatistics:
  """The statistics before any observation of this size."""
  return ObservationStatistics(
      jnp.zeros(()), jnp.zeros(size), jnp.ones(size))


def normalise(
    statistics: ObservationStatistics, observation: jax.Array
) -> jax.Array:
  """Observations `[..., O]` in standard deviations from the mean, clipped."""
  row = lambda x: x.reshape((1,) * (observation.ndim - 1) + x.shape)
  # The 1e-6 keeps rounding errors of constant observations small.
  scale = lax.rsqrt(statistics.variance + 1e-6)
  return jnp.clip((observation - row(statistics.mean)) * row(scale),
                  *OBSERVATION_RANGE)


def merge(
    statistics: ObservationStatistics, observation: jax.Array
) -> ObservationStatistics:
  """Statistics with more observations; exact for the union of both.

  Args:
    statistics: before.
    observation: `[T, E, O]`.

  Returns:
    The statistics after.

  >>> seen = merge(no_statistics(1), jnp.array([[[1.0], [3.0]]]))
  >>> print(seen.num_seen, seen.mean, seen.variance)
  2.0 [2.] [1.]
  """
  size = observation.shape[0] * observation.shape[1]
  total = statistics.num_seen + size
  share = size / total
  delta = jnp.mean(observation, axis=(0, 1)) - statistics.mean
  variance = (1 - share) * statistics.variance + share * (
      jnp.var(observation, axis=(0, 1)) + (1 - share) * jnp.square(delta))
  return ObservationStatistics(
      total, statistics.mean + share * delta, variance)
