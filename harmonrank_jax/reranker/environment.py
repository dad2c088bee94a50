"""What a learner asks of an environment: one page, one user, one step.

`vmap` makes many of it. There is no hidden reset: after `terminated` or
`truncated` the learner calls `reset`.
"""

from typing import Any
from typing import NamedTuple
from typing import Protocol

import jax


class StepResult(NamedTuple):
  """What a step, or a reset, leaves to be seen.

  Attributes:
    observation: `[O]` float32, all that the policy may know.
    reward: `[M]` float32, of the step that ended here; 0 after a reset.
    cost: `[Q]` float32, likewise, of what is constrained.
    counted: `[Q]` float32, how much of the constrained is in `cost` (1 for a
      slate that was shown, 0 where none was): a constraint is on the ratio of
      the sums of both. 0 after a reset.
    where: bool, True = the next action acts. False where nobody asks for a
      page: the step passes all the same, and its action changes nothing.
    terminated: bool, the episode is over and nothing is worth anything after.
    truncated: bool, it was cut off here; what comes after has a value.
  """

  observation: jax.Array
  reward: jax.Array
  cost: jax.Array
  counted: jax.Array
  where: jax.Array
  terminated: jax.Array
  truncated: jax.Array


class Environment(Protocol):
  """Pure functions of arrays, and the sizes of these.

  `params` is a tree of arrays; so is the state. Static choices belong to the
  environment itself, which is hashable.
  """

  @property
  def observation_size(self) -> int:
    """O."""

  @property
  def action_size(self) -> int:
    """A, of an unbounded continuous action."""

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
