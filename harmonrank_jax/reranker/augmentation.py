"""Worlds that a log could also have come from, to train in.

A policy that is trained in one world overfits its constants. Here every world
is a bootstrap replicate of the fit (users' days, resampled), with noise on its
constants and its clock moved. Candidates need no augmentation: every request
draws its own from the pool.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmonrank_jax.reranker import response as response_lib


class Spread(NamedTuple):
  """Standard deviations between worlds, beyond the bootstrap; scalars, >= 0."""

  fatigue: jax.Array | float = 0.4  # of the log of its strength
  # Of the log of the time in which fatigue fades.
  fading: jax.Array | float = 0.3
  demand: jax.Array | float = 0.4  # of the log of the demand's amplitude
  level: jax.Array | float = 0.1  # of the levels of categories, in log-odds
  stop: jax.Array | float = 0.3  # of the log-odds to leave after a click
  # Of the time by which demand and arrivals move, in windows.
  clock: jax.Array | float = 2.0


def augment_world(
    key: jax.Array,
    replicates: response_lib.ResponseModel,
    arrivals: jax.Array,
    *,
    spread: Spread,
) -> tuple[response_lib.ResponseModel, jax.Array]:
  """Draws a world.

  Args:
    key: consumed; `vmap` over keys makes many worlds.
    replicates: `ResponseModel` with leading axis B, of the bootstrap.
    arrivals: `[W]`, shares of a day's requests by window.
    spread: how far worlds differ; with all 0 a world is a replicate.

  Returns:
    A `ResponseModel`, and its arrivals `[W]`.

  >>> ones = jnp.ones(2)
  >>> replicates = response_lib.ResponseModel(
  ...     ones, jnp.zeros((2, 3)), jnp.zeros((2, 3, 96)), 0.1 * ones,
  ...     0.9 * ones, 0 * ones, jnp.ones((2, 5)), 0.1 * ones, 0 * ones)
  >>> world, arrivals = augment_world(
  ...     jax.random.key(0), replicates, jnp.full(96, 1 / 96), spread=Spread())
  >>> world.demand.shape, bool(world.fatigue > 0)
  ((3, 96), True)
  """
  choice_key, shake_key, level_key = jax.random.split(key, 3)
  chosen = jax.random.randint(
      choice_key, (), 0, replicates.scale.shape[0])
  response = jax.tree.map(lambda leaf: leaf[chosen], replicates)
  fatigue, fading, demand, stop, clock = jax.random.normal(shake_key, (5,))
  later = clock * spread.clock
  level = spread.level * jax.random.normal(level_key, response.level.shape)
  log_odds = jax.scipy.special.logit(jnp.clip(response.stop, 1e-6, 1 - 1e-6))
  response = response._replace(
      fatigue=response.fatigue * jnp.exp(spread.fatigue * fatigue),
      # Recovery is exp(-1 / time), so that a power of it scales the time.
      recovery=response.recovery ** jnp.exp(-spread.fading * fading),
      demand=jnp.exp(spread.demand * demand) * jax.vmap(
          _moved, in_axes=(0, None))(response.demand, later),
      level=response.level + level,
      stop=jax.nn.sigmoid(log_odds + spread.stop * stop))
  return response, _moved(arrivals, later)


def _moved(curve: jax.Array, windows: jax.Array) -> jax.Array:
  """A curve of the day moved by some windows, linear between windows."""
  num_windows = curve.shape[0]
  place = (jnp.arange(num_windows) - windows) % num_windows
  low = jnp.floor(place).astype(jnp.int32)
  share = place - low
  return (curve[low % num_windows] * (1 - share)
          + curve[(low + 1) % num_windows] * share)
