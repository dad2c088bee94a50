"""The interface of an environment: one page, one user, one step.

`Paired` is an environment beside its twin, whose lead is due to the actions.

`vmap` makes many environments of one. There is no hidden reset: after
`terminated` or `truncated` the learner calls `reset`.
"""

import dataclasses
from typing import Any
from typing import NamedTuple
from typing import Protocol

import jax
import jax.numpy as jnp


class StepResult(NamedTuple):
  """What a step, or a reset, shows."""

  observation: jax.Array  # [O] float32, all that the policy may know
  reward: jax.Array  # [M] float32, of the step that ended here; 0 after a reset
  # [Q] float32, constrained quantities of the step; 0 after a reset.
  cost: jax.Array
  # [Q] float32, the number of cases in cost (1 for a slate that was shown, 0
  # where none was); a constraint limits the ratio of the sums of both. 0
  # after a reset.
  counted: jax.Array
  # Bool, True = the next action acts. False where no page is requested: the
  # step passes all the same, and its action changes nothing.
  where: jax.Array
  # Bool, True = the episode is over, with no value after it.
  terminated: jax.Array
  # Bool, True = the episode was cut off; the rest has a value.
  truncated: jax.Array


class Environment(Protocol):
  """Pure functions of arrays, and the sizes of these.

  `params` and the state are trees of arrays. Static choices belong to the
  environment itself, which is hashable.
  """

  @property
  def observation_size(self) -> int:
    """O."""

  @property
  def action_size(self) -> int:
    """A, size of an unbounded continuous action."""

  @property
  def num_rewards(self) -> int:
    """M."""

  @property
  def num_costs(self) -> int:
    """Q, may be 0."""

  def reset(self, key: jax.Array, params: Any) -> tuple[Any, StepResult]:
    """Begins an episode."""

  def step(
      self, key: jax.Array, state: Any, action: jax.Array, params: Any
  ) -> tuple[Any, StepResult]:
    """Takes an action `[A]`."""


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

  References:
    Mao, Venkatakrishnan, Schwarzkopf and Alizadeh 2019, "Variance reduction
    for reinforcement learning in input-driven environments": baselines may
    depend on all inputs that actions do not change.
  """

  environment: Environment

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
  ) -> tuple[Any, StepResult]:
    """Begins an episode of both."""
    state, result = self.environment.reset(key, params)
    return (state, state), result

  def step(
      self, key: jax.Array, state: Any, action: jax.Array, params: Any
  ) -> tuple[Any, StepResult]:
    """Takes an action in the environment, and 0 in its twin."""
    state, twin = state
    state, result = self.environment.step(key, state, action, params)
    twin, other = self.environment.step(
        key, twin, jnp.zeros_like(action), params)
    return (state, twin), result._replace(reward=result.reward - other.reward)
