"""What an update of PPO is: its static configuration and traced settings."""

import dataclasses
import math
from typing import NamedTuple
from typing import Self

import jax
import jax.numpy as jnp

from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import environment as environments
from harmonrank_jax.reranker import policy


@dataclasses.dataclass(frozen=True)
class PpoConfig:
  """Static configuration of a learner; see `paper` and `modern`.

  Attributes:
    policy: both networks.
    num_envs: E, environments side by side.
    num_steps: T, steps of each environment in an update.
    gae_lambda: in [0, 1].
    num_epochs: passes of the actor over the T * E rows of an update.
    num_critic_epochs: passes of the critic.
    num_minibatches: of a pass, a divisor of T * E; 1 for the full batch.
    clip_range: how far from 1 the ratio of probabilities counts, above 0.
    actor_learning_rate: of Adam. One step moves every coordinate of the
      action, and the divergence grows with their number: at 100 coordinates
      take a tenth of the usual rate.
    critic_learning_rate: of Adam.
    max_gradient_norm: of each network, inf for none.
    target_kl: the actor stops before the first step at which the approximate
      KL divergence from the acting policy is not below; inf for none.
    num_updates: updates over which learning rates fall linearly to 0; None
      keeps them. The noise left at the end falls with them.
    normalise_advantages: to mean 0 and variance 1 over the rows that count.
    normalise_observations: by running mean and variance.
    normalise_returns: whether the critic predicts each return in standard
      deviations from its mean, both running: one error for rewards and costs
      of different units.
  """

  policy: policy.PolicyConfig
  num_envs: int = 64
  num_steps: int = 96
  gae_lambda: float = 0.95
  num_epochs: int = 4
  num_critic_epochs: int = 4
  num_minibatches: int = 4
  clip_range: float = 0.2
  actor_learning_rate: float = 1e-4
  critic_learning_rate: float = 1e-3
  max_gradient_norm: float = 0.5
  target_kl: float = 0.02
  num_updates: int | None = None
  normalise_advantages: bool = True
  normalise_observations: bool = True
  normalise_returns: bool = True

  def __post_init__(self):
    for name in ("num_envs", "num_steps", "num_epochs", "num_critic_epochs",
                 "num_minibatches", "num_updates"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    for name in ("clip_range", "actor_learning_rate", "critic_learning_rate",
                 "max_gradient_norm", "target_kl"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got "
                         f"{getattr(self, name)}.")
    if not 0 <= self.gae_lambda <= 1:
      raise ValueError(
          f"gae_lambda must be in [0, 1], got {self.gae_lambda}.")
    if self.num_envs * self.num_steps % self.num_minibatches:
      raise ValueError(
          f"num_minibatches must divide num_envs * num_steps, got "
          f"{self.num_minibatches} for {self.num_envs} * {self.num_steps}.")

  @classmethod
  def modern(
      cls,
      environment: environments.Environment,
      *,
      hidden_sizes: tuple[int, ...] = (64, 64),
      initial_std: float = 0.3,
  ) -> Self:
    """What has become usual since the paper: the defaults of every field.

    The networks fit the sizes of the environment. `dataclasses.replace` changes
    the rest of the configuration.
    """
    return cls(policy.PolicyConfig(
        environment.action_size,
        environment.num_rewards + environment.num_costs,
        hidden_sizes=hidden_sizes, initial_std=initial_std))

  @classmethod
  def paper(
      cls,
      environment: environments.Environment,
      *,
      hidden_sizes: tuple[int, ...] = (64, 64),
      initial_std: float = 0.3,
  ) -> Self:
    """The plain recipe: sigma by state, the full batch, nothing normalised.

    Advantages are full returns less the value, the critic takes one step an
    update, the actor several, and only the clipping of the ratio limits it.
    """
    modern = cls.modern(
        environment, hidden_sizes=hidden_sizes, initial_std=initial_std)
    return dataclasses.replace(
        modern,
        policy=dataclasses.replace(
            modern.policy, state_dependent_std=True, orthogonal=False),
        gae_lambda=1.0, num_critic_epochs=1, num_minibatches=1,
        max_gradient_norm=math.inf, target_kl=math.inf,
        normalise_advantages=False, normalise_observations=False,
        normalise_returns=False)


class Settings(NamedTuple):
  """What may be traced, and may differ between the learners of one `vmap`."""

  reward_weights: jax.Array  # [M], what a unit of each reward is worth
  # [M + Q], per step, in [0, 1]: of rewards, then of costs.
  discounts: jax.Array
  # Q constraints, on total cost over total counted.
  controller: constraints.Controller


def check_sizes(
    settings: Settings,
    environment: environments.Environment,
    config: PpoConfig,
) -> None:
  """Raises ValueError if sizes do not fit those of the environment."""
  rewards, costs = environment.num_rewards, environment.num_costs
  sizes = {
      "action_size": (config.policy.action_size, environment.action_size),
      "num_values": (config.policy.num_values, rewards + costs)}
  for name, (size, expected) in sizes.items():
    if size != expected:
      raise ValueError(
          f"{name} of the policy is {size}; the environment needs {expected}.")
  shapes = {"reward_weights": (settings.reward_weights, rewards),
            "discounts": (settings.discounts, rewards + costs),
            "threshold": (settings.controller.threshold, costs)}
  for name, (value, size) in shapes.items():
    if jnp.shape(value) != (size,):
      raise ValueError(f"{name} has shape {jnp.shape(value)}; the environment "
                       f"needs {(size,)}.")
