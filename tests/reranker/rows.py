"""Rows of users in the middle of their day, on four pages, for tests."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import simulator
from tests.reranker import worlds

ROWS = 2048
# Responses and theta differ between rows, all else is shared.
AXES = simulator.Params(
    pool=None, response=0, arrivals=None, activity=None, base=None,
    shift=None, theta=0, values=None)
VALUES = np.array([1.0, 0.5, 2.0, 0.25])
traces = []

RULES = worlds.PAGE
PLAIN = dataclasses.replace(RULES, spread=None, feedback_rule=0.0)
BY_SLOT = dataclasses.replace(
    PLAIN, layout="slot_category", knob=True, scope="window")
BOUND = dataclasses.replace(
    PLAIN, layout="rank2", knob=True, max_requests=1, privileged=True,
    expected_rewards=True, exposure_costs=True)


@functools.cache
def stepper(page):
  def run(keys, states, actions, params):
    traces.append(page)
    return jax.vmap(page.step_with_pages, in_axes=(0, 0, 0, AXES))(
        keys, states, actions, params)
  return jax.jit(run)


reset = jax.jit(jax.vmap(RULES.reset, in_axes=(0, None)))


@functools.cache
def world():
  return worlds.make_params(values=VALUES)


def by_row(params):
  """The same response and theta in every row."""
  repeat = lambda leaf: jnp.broadcast_to(leaf, (ROWS, *leaf.shape))
  return params._replace(response=jax.tree.map(repeat, params.response),
                         theta=repeat(params.theta))


def row_of(params, row):
  one = lambda leaf: leaf[row]
  return params._replace(response=jax.tree.map(one, params.response),
                         theta=params.theta[row])


def step(page, states, actions=None, params=None, seed=0):
  """States, results and pages of all rows, as NumPy."""
  if actions is None:
    actions = jnp.zeros((ROWS, page.action_size))
  if page.max_requests == 1:
    states = states._replace(start=states.start[:, :1])
  keys = jax.random.split(jax.random.key(seed), ROWS)
  return worlds.arrays(stepper(page)(
      keys, states, jnp.asarray(actions, jnp.float32),
      by_row(world()) if params is None else params))


@functools.cache
def begun():
  return reset(jax.random.split(jax.random.key(7), ROWS), world())


@functools.cache
def states():
  """The middle of a day: a memory, and two requests to answer."""
  rng = np.random.default_rng(0)
  state = worlds.arrays(begun()[0])._replace(
      window=rng.integers(0, worlds.WINDOWS - 3, ROWS).astype(np.int32))
  for seed in (20, 21):
    state = state._replace(
        num_requests=np.full(ROWS, 2, np.int32))
    state = step(RULES, state, seed=seed)[0]
  return state._replace(num_requests=np.full(ROWS, 2, np.int32))


def random_actions(page, size=1.0):
  return size * np.random.default_rng(1).normal(size=(ROWS, page.action_size))


def random_thetas():
  thetas = np.random.default_rng(2).uniform(0.1, 0.9, ROWS)
  return by_row(world())._replace(theta=jnp.asarray(thetas, jnp.float32))


def wide(tree):
  return jax.tree.map(
      lambda x: np.asarray(x, np.float64)
      if np.issubdtype(np.asarray(x).dtype, np.floating) else np.asarray(x),
      tree)


def candidates(state, row, request, params):
  """Items, places, categories and where of a request."""
  pool = wide(params.pool)
  user = state.user[row]
  places = (state.start[row, request] + np.arange(worlds.CANDIDATES)
            ) % worlds.PLACES
  items = pool.items[user, places]
  return items, (user, places), pool.item_categories[items], pool.where[
      user, places]


def assert_mean_zero(values):
  """The mean over independent rows is 0 within 4.5 standard errors."""
  error = values.std(axis=0) / np.sqrt(len(values))
  assert (np.abs(values.mean(axis=0)) < 4.5 * error + 1e-9).all(), (
      values.mean(axis=0) / error)
