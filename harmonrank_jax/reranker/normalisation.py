"""Running mean and variance of observations, and their use as a scale."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

# Normalised observations are clipped to this range, in standard deviations.
OBSERVATION_RANGE = (-10.0, 10.0)


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
