"""An environment beside its twin, to see what actions make of a day."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from harmonrank_jax.reranker import environment as environments


@dataclasses.dataclass(frozen=True)
class Paired:
  """An environment whose reward is what it is ahead of a twin by.

  The twin lives through the same day (the same keys: users, requests,
  candidates) with the action 0. What comes of chance alone, busy users and
  good candidates, is in both and cancels; what is left is what the actions
  made of it. The twin's reward does not depend on them, so the best policy is
  the same, and the variance of its gradient much smaller.

  It is for environments in which chance and the end of an episode do not
  depend on actions, as of a `simulator.Simulator`. Observations, costs and
  flags are those of the environment itself.

  Attributes:
    environment: what is lived through twice.

  References:
    Mao, Venkatakrishnan, Schwarzkopf and Alizadeh 2019, "Variance reduction
    for reinforcement learning in input-driven environments": baselines may
    depend on all inputs that actions do not touch.
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
    """Takes an action in the one, and 0 in the other."""
    state, twin = state
    state, result = self.environment.step(key, state, action, params)
    twin, other = self.environment.step(
        key, twin, jnp.zeros_like(action), params)
    return (state, twin), result._replace(reward=result.reward - other.reward)
