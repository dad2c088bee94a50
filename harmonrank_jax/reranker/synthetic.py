"""A small random world, for a first hour, tests and benchmarks."""

import jax
import jax.numpy as jnp

from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import simulator as simulator_lib


def synthetic_world(
    key: jax.Array,
    simulator: simulator_lib.Simulator,
    *,
    num_users: int = 32,
    num_places: int = 128,
    num_items: int = 1024,
    num_features: int = 16,
) -> simulator_lib.Params:
  """Draws a world in which every cause of the response model is felt.

  Users tire of categories and recover, demand follows the hour, items of a
  category resemble each other, positions are looked at less further down, and
  the scores are miscalibrated. The calibrated scores `base` and `shift` are
  the predictions with noise: they are no calibration.

  Args:
    key: consumed.
    simulator: the page, whose sizes the world fits.
    num_users: U.
    num_places: L, items of a user, at least the candidates of a request.
    num_items: I, at least L.
    num_features: D.

  Returns:
    The `Params`, float32 and int32.

  Raises:
    ValueError: if users have fewer places than a request has candidates, or
      there are fewer items than places.

  >>> page = simulator_lib.Simulator(
  ...     num_categories=10, layout="category", knob=True)
  >>> world_key, reset_key, step_key = jax.random.split(jax.random.key(0), 3)
  >>> params = synthetic_world(world_key, page)
  >>> state, seen = jax.jit(page.reset)(reset_key, params)
  >>> seen.observation.shape
  (128,)
  >>> action = jnp.zeros(page.action_size)
  >>> state, seen = jax.jit(page.step)(step_key, state, action, params)
  >>> seen.reward.shape, seen.cost.shape, bool(seen.cost[0] > 0)
  ((10,), (1,), True)
  """
  if not simulator.num_candidates <= num_places <= num_items:
    raise ValueError(
        f"num_places must be from num_candidates to num_items, got "
        f"{num_places} for {simulator.num_candidates} and {num_items}.")
  keys = jax.random.split(key, 6)
  pool = _draw_pool(
      keys[0], simulator.num_categories, num_users, num_places, num_items,
      num_features)
  windows = simulator_lib.NUM_WINDOWS
  normal = lambda key, *shape: jax.random.normal(key, shape, jnp.float32)
  return simulator_lib.Params(
      pool=pool,
      response=_draw_response(
          keys[1], simulator.num_categories, simulator.num_slots),
      arrivals=jax.nn.softmax(0.45 * normal(keys[2], windows)),
      activity=jax.random.uniform(
          keys[3], (num_users,), jnp.float32, 8.0, 24.0),
      base=pool.log_odds + 0.3 * normal(keys[4], num_users, num_places),
      shift=0.3 * normal(keys[5], windows, simulator.num_categories),
      theta=jnp.float32(0.6),
      values=jnp.ones(simulator.num_categories, jnp.float32))


def _draw_response(
    key: jax.Array, num_categories: int, num_positions: int
) -> response_lib.ResponseModel:
  """Users of random tastes, whose demand is a wave of a day."""
  level_key, phase_key = jax.random.split(key)
  windows = jnp.arange(response_lib.NUM_WINDOWS, dtype=jnp.float32) + 0.5
  phases = jax.random.uniform(phase_key, (num_categories, 1), jnp.float32)
  day = windows[None, :] / response_lib.NUM_WINDOWS
  return response_lib.ResponseModel(
      scale=jnp.float32(0.8),
      level=0.4 * jax.random.normal(
          level_key, (num_categories,), jnp.float32),
      demand=0.5 * jnp.cos(2 * jnp.pi * (day - phases)),
      fatigue=jnp.float32(0.25), recovery=jnp.float32(0.9),
      redundancy=jnp.float32(1.0),
      examination=jnp.linspace(1, 0.5, num_positions, dtype=jnp.float32),
      stop=jnp.float32(0.2), dismiss=jnp.float32(0.1))


def _draw_pool(
    key: jax.Array, num_categories: int, num_users: int, num_places: int,
    num_items: int, num_features: int,
) -> simulator_lib.Pool:
  """Items around the centres of their categories, and places of each user."""
  centre_key, kind_key, feature_key, place_key, odds_key, value_key = (
      jax.random.split(key, 6))
  normal = lambda key, *shape: jax.random.normal(key, shape, jnp.float32)
  kinds = jax.random.randint(
      kind_key, (num_items,), 0, num_categories, jnp.int32)
  centres = 0.8 * normal(centre_key, num_categories, num_features)
  items = jax.vmap(lambda key: jax.random.permutation(
      key, jnp.arange(num_items, dtype=jnp.int32))[:num_places])(
          jax.random.split(place_key, num_users))
  places = (num_users, num_places)
  return simulator_lib.Pool(
      features=normal(feature_key, num_items, num_features) + centres[kinds],
      item_categories=kinds, items=items,
      log_odds=normal(odds_key, *places) - 0.5,
      log_value=jax.random.uniform(value_key, places, jnp.float32, -0.5, 0.0),
      where=jnp.ones(places, bool))
