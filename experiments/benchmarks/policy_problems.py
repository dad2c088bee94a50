"""What the suite `policy` measures on: a page, and a free environment."""

import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import environment as environments
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import simulator as simulator_lib
from harmonrank_jax.reranker import synthetic

DISCOUNT = 0.95


class Shape(NamedTuple):
  """The sizes of pages and of learners."""

  categories: int = 10
  slots: int = 10
  candidates: int = 60
  features: int = 32
  users: int = 128
  places: int = 512  # items that can be shown to a user
  items: int = 8192  # of the world, from which these are drawn
  envs: int = 64  # of an update
  steps: int = 96  # of each in an update; an even number
  observation: int = 128  # numbers, of the free environment
  action: int = 10
  rewards: int = 10  # it has one cost


def make_page(shape: Shape, **changes: Any) -> simulator_lib.Simulator:
  """A page with a slate in each window; `changes` describe its action."""
  return simulator_lib.Simulator(
      num_categories=shape.categories, num_slots=shape.slots,
      num_candidates=shape.candidates, **changes)


def make_params(shape: Shape, seed: int) -> simulator_lib.Params:
  """Draws a world with every effect: fatigue, hours, redundancy."""
  return synthetic.synthetic_world(
      jax.random.key(seed), make_page(shape), num_users=shape.users,
      num_places=shape.places, num_items=shape.items,
      num_features=shape.features)


def settings(environment: environments.Environment) -> ppo_config.Settings:
  """Settings in which all rewards count and all costs are constrained."""
  rewards, costs = environment.num_rewards, environment.num_costs
  return ppo_config.Settings(
      jnp.ones(rewards), jnp.full(rewards + costs, DISCOUNT),
      constraints.Controller(
          jnp.full(costs, 0.1), proportional=0.1, integral=0.01))


@dataclasses.dataclass(frozen=True)
class Replay:
  """A free environment: it replays observations `[L, O]` of an episode.

  An observation begins with the M rewards and the cost of the step from it.
  """

  observation_size: int  # O, more than M
  action_size: int
  num_rewards: int  # M
  num_costs: int = 1

  def reset(
      self, key: jax.Array, params: jax.Array
  ) -> tuple[jax.Array, environments.StepResult]:
    del key
    none = jnp.zeros(self.num_costs)
    return jnp.zeros((), jnp.int32), environments.StepResult(
        params[0], jnp.zeros(self.num_rewards), none, none,
        jnp.ones((), bool), jnp.zeros((), bool), jnp.zeros((), bool))

  def step(
      self, key: jax.Array, state: jax.Array, action: jax.Array,
      params: jax.Array,
  ) -> tuple[jax.Array, environments.StepResult]:
    """Returns the next observation; the first follows the last."""
    del key, action
    length, then = len(params), state + 1
    here = params[state]
    return then, environments.StepResult(
        params[then % length], here[:self.num_rewards],
        here[self.num_rewards:self.num_rewards + 1], jnp.ones(1),
        jnp.ones((), bool), then == length, jnp.zeros((), bool))


def make_replay(shape: Shape, seed: int) -> tuple[Replay, jax.Array]:
  """The environment, and its parameters `[E, L, O]`: two episodes an update."""
  rng = np.random.default_rng(seed)
  return (Replay(shape.observation, shape.action, shape.rewards),
          jnp.asarray(rng.standard_normal(
              (shape.envs, shape.steps // 2, shape.observation)), jnp.float32))


def learner_config(replay: Replay, shape: Shape) -> ppo_config.PpoConfig:
  """`modern` without the parts that the peer lacks."""
  return dataclasses.replace(
      ppo_config.PpoConfig.modern(replay), num_envs=shape.envs,
      num_steps=shape.steps, actor_learning_rate=3e-4,
      critic_learning_rate=3e-4, target_kl=float("inf"),
      normalise_observations=False, normalise_returns=False)
