"""An environment beside its twin, whose difference is due to the actions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from harmonrank_jax.reranker import environment as environments


@dataclasses.dataclass(frozen=True)
class Paired:
  """An environment whose reward is its lead over a twin.

  The twin has the same day (the same keys: users, requests, candidates) with
  the action 0. Chance, as busy users and good candidates, is in both rewards
  and cancels; the difference is due to the actions. The twin's reward does not
  depend on the policy, so the best policy is the same, and the variance of its
  gradient is much smaller.

  It needs an environment in which chance and the end of an episode do not
  depend on actions, such as `simulator.Simulator`. Observations, costs and
  flags are those of the environment itself.

  Attributes:
    environment: the one that is simulated twice.

  References:
    Mao, Venkatakrishnan, Schwarzkopf and Alizadeh 2019, "Variance reduction
    for reinforcement learning in input-driven environments": baselines may
    depend on all inputs that actions do not change.
  """

  environment: environments.Environment

  @property
  def observation_size(self) -> int:
    """O."""
    return self.environment.observation_size

  @property
  def action_size(self) -> int:
    """A."""
    return self.environment.action_size

  @property
  def num_rewards(self) -> int:
    """M."""
    return self.environment.num_rewards

  @property
  def num_costs(self) -> int:
    """Q."""
    return self.environment.num_costs

  def reset(
      self, key: jax.Array, params: Any
  ) -> tuple[Any, environments.StepResult]:
    """Begins an episode of both."""
    state, result = self.environment.reset(key, params)
    return (state, state), result

  def step(
      self, key: jax.Array, state: Any, action: jax.Array, params: Any
  ) -> tuple[Any, environments.StepResult]:
    """Takes an action in the environment, and 0 in its twin."""
    state, twin = state
    state, result = self.environment.step(key, state, action, params)
    twin, other = self.environment.step(
        key, twin, jnp.zeros_like(action), params)
    return (state, twin), result._replace(reward=result.reward - other.reward)
