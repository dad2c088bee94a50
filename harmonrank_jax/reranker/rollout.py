"""Simulated days of many users under a policy: outcomes, and all slates."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.reranker import day as day_lib
from harmonrank_jax.reranker import environment
from harmonrank_jax.reranker import page as page_lib
from harmonrank_jax.reranker import simulator as simulator_lib

NUM_WINDOWS = simulator_lib.NUM_WINDOWS
# From observations `[B, O]` to actions `[B, A]`.
PolicyFn = Callable[[jax.Array], jax.Array]


class Outcome(NamedTuple):
  """Sums over the day of each of B users."""

  clicks: jax.Array  # [B, C]
  exposures: jax.Array  # [B, C]
  reward: jax.Array  # [B, C]
  cost: jax.Array  # [B, Q]
  counted: jax.Array  # [B, Q], number of cases in cost
  windows: jax.Array  # [B], from the first request to the end of the day
  # [W, A], mean action by window over users who were shown a page.
  action: jax.Array
  acted: jax.Array  # [W], number of these users


def no_action(simulator: simulator_lib.Simulator) -> PolicyFn:
  """The policy whose corrections are 0."""
  return lambda observations: jnp.zeros(
      (*observations.shape[:-1], simulator.action_size))


def simulate_days(
    simulator: simulator_lib.Simulator,
    params: simulator_lib.Params,
    policy_fn: PolicyFn,
    *,
    key: jax.Array,
    num_users: int,
) -> Outcome:
  """Simulates a day of users drawn from the world.

  Args:
    simulator: the page.
    params: the world.
    policy_fn: from observations to actions.
    key: consumed. The same key brings the same users, requests, candidates
      and dice to every policy: differences between policies are paired.
    num_users: B.

  Returns:
    The `Outcome`.

  Raises:
    ValueError: if shapes of the world do not fit.
  """
  begin, keys = _begin(simulator, params, key, num_users)
  slots = jnp.arange(NUM_WINDOWS)[:, None]

  def step(carry, keys):
    (state, seen), is_alive, total = carry
    action = policy_fn(seen.observation)
    window = state.window
    state, result, page = jax.vmap(
        simulator.step_with_pages, in_axes=(0, 0, 0, None))(
            keys, state, action, params)
    acts = (is_alive & seen.where).astype(jnp.float32)
    is_category = jax.nn.one_hot(page.categories, simulator.num_categories)
    count = lambda chosen: is_alive[:, None] * jnp.einsum(
        "brk,brkc->bc", chosen.astype(jnp.float32), is_category)
    at_window = (slots == window[None, :]) * acts[None, :]
    live = lambda values: values * is_alive[:, None]
    total = Outcome(
        total.clicks + count(page.clicks), total.exposures + count(page.where),
        total.reward + live(result.reward), total.cost + live(result.cost),
        total.counted + live(result.counted), total.windows + is_alive,
        total.action + at_window @ action,
        total.acted + jnp.sum(at_window, axis=1))
    return ((state, result), is_alive & ~result.terminated, total), None

  zeros = lambda *shape: jnp.zeros(shape)
  by_category = zeros(num_users, simulator.num_categories)
  by_cost = zeros(num_users, simulator.num_costs)
  total = Outcome(
      by_category, by_category, by_category, by_cost, by_cost, zeros(num_users),
      zeros(NUM_WINDOWS, simulator.action_size), zeros(NUM_WINDOWS))
  (_, _, total), _ = lax.scan(
      step, (begin, jnp.ones(num_users, bool), total), keys)
  acted = jnp.maximum(total.acted, 1)[:, None]
  return total._replace(action=total.action / acted)


class Visits(NamedTuple):
  """Every window of a simulated day, W steps of B users."""

  pages: page_lib.Page  # [W, B, max_requests, K] (diversity without K)
  window: jax.Array  # [W, B] int32
  where: jax.Array  # [W, B, max_requests] bool, True = a slate was shown.
  action: jax.Array  # [W, B, A]


def simulate_visits(
    simulator: simulator_lib.Simulator,
    params: simulator_lib.Params,
    policy_fn: PolicyFn,
    *,
    key: jax.Array,
    num_users: int,
) -> Visits:
  """Simulates the days of `simulate_days` and returns every slate of them."""
  begin, keys = _begin(simulator, params, key, num_users)

  def step(carry, keys):
    state, seen = carry
    action = policy_fn(seen.observation)
    next_state, result, page = jax.vmap(
        simulator.step_with_pages, in_axes=(0, 0, 0, None))(
            keys, state, action, params)
    made = (jnp.arange(simulator.max_requests)[None, :]
            < state.num_requests[:, None])
    is_in_day = state.window[:, None] < NUM_WINDOWS
    return (next_state, result), Visits(
        page, state.window, made & is_in_day, action)

  return lax.scan(step, begin, keys)[1]


def _begin(
    simulator: simulator_lib.Simulator,
    params: simulator_lib.Params,
    key: jax.Array,
    num_users: int,
) -> tuple[tuple[day_lib.State, environment.StepResult], jax.Array]:
  """States and results of the resets `[B, ...]`, and keys `[W, B]` of steps."""
  reset_key, step_key = jax.random.split(key)
  begin = jax.vmap(simulator.reset, in_axes=(0, None))(
      jax.random.split(reset_key, num_users), params)
  return begin, jax.random.split(step_key, (NUM_WINDOWS, num_users))
