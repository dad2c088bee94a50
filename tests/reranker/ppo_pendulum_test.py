"""A known world: the learner swings a pendulum up."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import environment
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config
from tests.reranker import toys


@dataclasses.dataclass(frozen=True)
class Pendulum:
  """The classic swing-up: rewards in tens, cut off after 200 steps."""

  observation_size: int = 3
  action_size: int = 1
  num_rewards: int = 1
  num_costs: int = 0

  def _result(self, state, reward):
    angle, speed, time = state
    no, none = jnp.zeros((), bool), jnp.zeros(0)
    return environment.StepResult(
        jnp.stack([jnp.cos(angle), jnp.sin(angle), speed]), reward[None], none,
        none, ~no, no, time >= 200)

  def reset(self, key, params):
    low, high = jnp.array([-jnp.pi, -1]), jnp.array([jnp.pi, 1])
    angle, speed = jax.random.uniform(key, (2,), minval=low, maxval=high)
    state = angle, speed, jnp.zeros((), jnp.int32)
    return state, self._result(state, jnp.zeros(()))

  def step(self, key, state, action, params):
    angle, speed, time = state
    torque = jnp.clip(action[0], -2, 2)
    off = jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi
    reward = -(off**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = jnp.clip(
        speed + 0.05 * (15 * jnp.sin(angle) + 3 * torque), -8, 8)
    state = angle + 0.05 * speed, speed, time + 1
    return state, self._result(state, reward / 10)


def pendulum_return(learner, config):
  """Mean return of episodes under the mean action."""
  pendulum = Pendulum()
  keys = jax.random.split(jax.random.key(99), 64)

  def body(carry, _):
    state, result = carry
    action = ppo.mean_action(
        learner.params, learner.statistics, result.observation, config=config)
    state, result = jax.vmap(pendulum.step, in_axes=(None, 0, 0, None))(
        keys[0], state, action, None)
    return (state, result), result.reward[:, 0]

  rewards = jax.lax.scan(
      body, jax.vmap(pendulum.reset, in_axes=(0, None))(keys, None),
      length=200)[1]
  return 10 * jnp.mean(jnp.sum(rewards, axis=0))


@pytest.mark.slow
def test_swings_the_pendulum_up():
  pendulum = Pendulum()
  config = dataclasses.replace(
      ppo_config.PpoConfig.modern(pendulum, initial_std=1.0), num_envs=32,
      num_steps=64, num_epochs=10, num_critic_epochs=10, num_minibatches=8,
      actor_learning_rate=5e-4, target_kl=0.03)
  settings = ppo_config.Settings(
      jnp.ones(1), jnp.full(1, 0.95), constraints.Controller(jnp.zeros(0)))
  learning = ppo.Ppo(pendulum, config)
  learner = jax.jit(learning.init)(jax.random.key(0), None, settings)
  evaluate = jax.jit(functools.partial(pendulum_return, config=config))
  before = evaluate(learner)
  train = jax.jit(toys.train_scan(learning, 200), donate_argnums=0)
  learner, diagnostics = train(learner, None, settings)
  after = evaluate(learner)
  assert before < -900
  assert after > -200, (after, diagnostics)
