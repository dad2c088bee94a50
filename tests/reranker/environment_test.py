"""A page beside its twin."""

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import environment
from tests.reranker import worlds

BOTH = environment.Paired(worlds.PAGE)


@jax.jit
def day(params, key, action):
  """Results of a day of the environment, of its twin, and of both."""
  reset_key, step_key = jax.random.split(key)
  alone, _ = worlds.PAGE.reset(reset_key, params)
  both, seen = BOTH.reset(reset_key, params)

  def step(carry, key):
    alone, twin, both = carry
    alone, ours = worlds.PAGE.step(key, alone, action, params)
    twin, other = worlds.PAGE.step(key, twin, 0 * action, params)
    both, result = BOTH.step(key, both, action, params)
    return (alone, twin, both), (ours, other, result)

  keys = jax.random.split(step_key, worlds.WINDOWS)
  return seen, jax.lax.scan(step, (alone, alone, both), keys)[1]


def test_the_reward_is_what_the_actions_made_of_the_same_day():
  action = jnp.linspace(-1, 1, BOTH.action_size)
  seen, (ours, other, result) = worlds.arrays(
      day(worlds.default_params(), jax.random.key(3), action))
  np.testing.assert_allclose(result.reward, ours.reward - other.reward)
  assert np.abs(result.reward).sum() > 0 and seen.where
  for name in ("observation", "cost", "counted", "where", "terminated"):
    np.testing.assert_array_equal(getattr(result, name), getattr(ours, name))
  # Chance is the same for both, whatever is done.
  np.testing.assert_array_equal(ours.where, other.where)


def test_without_actions_nothing_is_ahead():
  _, (_, _, result) = worlds.arrays(day(
      worlds.default_params(), jax.random.key(4),
      jnp.zeros(BOTH.action_size)))
  assert (result.reward == 0).all()


def test_sizes_are_those_of_the_environment():
  for name in ("observation_size", "action_size", "num_rewards", "num_costs"):
    assert getattr(BOTH, name) == getattr(worlds.PAGE, name)
  assert hash(BOTH) == hash(environment.Paired(worlds.PAGE))
