"""A small environment with two targets to hit, and learners on it."""

import dataclasses
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import environment
from harmonrank_jax.reranker import policy
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config

ENVS, STEPS, THRESHOLD = 16, 12, 0.8
traces = []
# Programs run once and briefly here: this halves the time to compile.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def train_scan(learning, num_updates):
  """A function that makes many updates as one scan."""
  def train(learner, env_params, settings):
    return lax.scan(
        lambda learner, _: learning.update(learner, env_params, settings),
        learner, length=num_updates)

  return train


class ToyState(NamedTuple):
  time: jax.Array
  context: jax.Array  # [2], of the whole episode


@dataclasses.dataclass(frozen=True)
class Toy:
  """Two targets to hit; episodes terminate at 5 steps or are cut at random."""

  observation_size: int = 3
  action_size: int = 2
  num_rewards: int = 2
  num_costs: int = 1

  def _result(self, state, reward, cost, key, ended, cut):
    return environment.StepResult(
        jnp.concatenate([state.time[None], state.context]), reward, cost,
        (cost != 0).astype(jnp.float32), jax.random.bernoulli(key, 0.7), ended,
        cut & ~ended)

  def reset(self, key, params):
    place, asks = jax.random.split(key)
    state = ToyState(jnp.zeros(()), jax.random.normal(place, (2,)))
    no = jnp.zeros((), bool)
    return state, self._result(
        state, jnp.zeros(2), jnp.zeros(1), asks, no, no)

  def step(self, key, state, action, params):
    cut, asks = jax.random.split(key)
    reward = -jnp.square(action - params["target"] - state.context)
    state = state._replace(time=state.time + 1)
    return state, self._result(
        state, reward, jnp.abs(action[:1]), asks, state.time >= 5,
        jax.random.bernoulli(cut, 0.15))


TOY, TARGET = Toy(), {"target": jnp.array([0.5, -0.5])}
TARGETS = {"target": jnp.tile(TARGET["target"], (ENVS, 1))}
MODERN = dataclasses.replace(
    ppo_config.PpoConfig.modern(TOY, hidden_sizes=(8,), initial_std=0.5),
    num_envs=ENVS, num_steps=STEPS, num_epochs=3, num_minibatches=2,
    target_kl=0.05, actor_learning_rate=3e-3)
PAPER = dataclasses.replace(
    ppo_config.PpoConfig.paper(TOY, hidden_sizes=(8, 6), initial_std=0.5),
    num_envs=ENVS, num_steps=STEPS, num_epochs=3, actor_learning_rate=0.03)


def settings_of(weights=(1.0, 0.5), **gains):
  return ppo_config.Settings(
      jnp.array(weights), jnp.array([0.9, 0.8, 0.95]),
      constraints.Controller(jnp.array([THRESHOLD]), **gains))


SETTINGS = settings_of(integral=0.5, initial=0.1)
SETTINGS_AXES = jax.tree.map(lambda _: None, SETTINGS)._replace(
    reward_weights=0)
WEIGHTS = jnp.array([[1.0, 0.5], [0.0, 1.0], [1.0, 0.0]])
MANY_SETTINGS = SETTINGS._replace(reward_weights=WEIGHTS)
LEARNING = ppo.Ppo(TOY, MODERN)

jitted_start = jit(LEARNING.init)
jitted_collect = jit(ppo.Ppo(TOY, MODERN, params_axes=0).collect)
jitted_improve = jit(
    lambda learner, steps, settings, config: ppo.Ppo(TOY, config).improve(
        learner, steps, settings), static_argnames="config")


def start(key, settings=SETTINGS):
  return jitted_start(key, TARGET, settings)


def collect(learner, targets=TARGETS):
  return jitted_collect(learner, targets)


def improve(learner, steps, settings=SETTINGS, *, config=MODERN):
  return jitted_improve(learner, steps, settings, config=config)


def step(learner, settings=SETTINGS):
  """An update by its two halves."""
  return improve(*collect(learner), settings)


@functools.partial(jit, donate_argnums=0)
@functools.partial(jax.vmap, in_axes=(0, SETTINGS_AXES))
def step_all(learner, settings):
  """An update of many learners with weights of their own."""
  traces.append(1)
  return LEARNING.update(learner, TARGET, settings)


@jit
def stack(*learners):
  return jax.tree.map(lambda *x: jnp.stack(x), *learners)


@jit
def look(learner, observation):
  """Both networks' words on observations, with units by hand."""
  shift, variance = learner.statistics.mean, learner.statistics.variance
  output = policy.ActorCritic(MODERN.policy).apply(
      learner.params,
      (observation - shift[None, None]) / jnp.sqrt(variance)[None, None])
  mean, spread = learner.returns.mean, jnp.sqrt(learner.returns.variance)
  return output._replace(
      values=mean[None, None] + spread[None, None] * output.values)


@functools.cache
def trained(seed=0, num_updates=3):
  """A learner after some updates, and the diagnostics of the last one."""
  learner = start(jax.random.key(seed))
  for _ in range(num_updates):
    learner, diagnostics = step(learner)
  return learner, diagnostics


@functools.cache
def collected():
  """A learner after some updates, and the steps of the next one."""
  return collect(trained()[0])


def raw(tree):
  """NumPy arrays; keys as their data."""
  return jax.tree.map(
      lambda x: np.asarray(
          jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
          else x), tree)


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, raw(one), raw(other))


def assert_close(one, other, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance),
               raw(one), raw(other))
