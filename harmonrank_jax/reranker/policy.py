"""The actor and the vector critic: two networks that share nothing.

The action is a Gaussian with independent coordinates; the critic has one
output per component of the reward. An update of one network cannot change the
other, so each has its own optimiser and number of steps.
"""

import dataclasses
import math
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

# Beyond this range of log sigma, densities and their ratios leave float32.
LOG_STD_RANGE = (-5.0, 2.0)


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
  """Static configuration of `ActorCritic`.

  Attributes:
    action_size: A >= 1.
    num_values: V >= 1, components of the critic.
    hidden_sizes: of both trunks, each at least 1.
    state_dependent_std: True = sigma is a second head of the actor; False = it
      is one vector of parameters for all observations.
    initial_std: sigma at first (approximately, for the state-dependent head),
      within exp(`LOG_STD_RANGE`).
    orthogonal: True = orthogonal kernels of gain sqrt(2), 1 at the critic's
      output and 0.01 at the actor's: the mean of the untrained actor is 0 up to
      about a hundredth of sigma, and it learns a residual. False = normal
      kernels of variance 1 / inputs throughout.
  """

  action_size: int
  num_values: int
  hidden_sizes: tuple[int, ...] = (64, 64)
  state_dependent_std: bool = False
  initial_std: float = 0.3
  orthogonal: bool = True

  def __post_init__(self):
    sizes = {"action_size": self.action_size, "num_values": self.num_values,
             "hidden_sizes": min(self.hidden_sizes, default=1)}
    for name, size in sizes.items():
      if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}.")
    low, high = (math.exp(x) for x in LOG_STD_RANGE)
    if not low <= self.initial_std <= high:
      raise ValueError(f"initial_std must be in [{low:.3g}, {high:.3g}], got "
                       f"{self.initial_std}.")


class PolicyOutput(NamedTuple):
  """What `ActorCritic` returns."""

  mean: jax.Array  # [..., A] of the action.
  log_std: jax.Array  # [..., A], log sigma.
  values: jax.Array  # [..., V]


class Actor(nn.Module):
  """Observation to mean and log sigma of the action."""

  config: PolicyConfig

  @nn.compact
  def __call__(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`[..., O]` to twice `[..., A]`; log sigma is clipped to its range."""
    config = self.config
    size = config.action_size
    hidden = _trunk(config, observation)
    start = nn.initializers.constant(math.log(config.initial_std))
    mean = nn.Dense(size, kernel_init=_kernel(config, 0.01), name="mean")(
        hidden)
    if config.state_dependent_std:
      log_std = nn.Dense(size, kernel_init=_kernel(config, 0.01),
                         bias_init=start, name="log_std")(hidden)
    else:
      log_std = jnp.broadcast_to(
          self.param("log_std", start, (size,)), mean.shape)
    return mean, jnp.clip(log_std, *LOG_STD_RANGE)


class Critic(nn.Module):
  """Observation to one value per component."""

  config: PolicyConfig

  @nn.compact
  def __call__(self, observation: jax.Array) -> jax.Array:
    """`[..., O]` to `[..., V]`."""
    config = self.config
    return nn.Dense(config.num_values, kernel_init=_kernel(config, 1.0),
                    name="values")(_trunk(config, observation))


class ActorCritic(nn.Module):
  """Both networks; their parameters are `actor` and `critic`.

  >>> model = ActorCritic(PolicyConfig(action_size=3, num_values=2))
  >>> output, params = jax.eval_shape(
  ...     model.init_with_output, jax.random.key(0), jnp.zeros((4, 5)))
  >>> [x.shape for x in output], sorted(params["params"])
  ([(4, 3), (4, 3), (4, 2)], ['actor', 'critic'])
  """

  config: PolicyConfig

  def setup(self):
    self.actor = Actor(self.config)
    self.critic = Critic(self.config)

  def __call__(self, observation: jax.Array) -> PolicyOutput:
    """`[..., O]` float to the outputs of both networks."""
    return PolicyOutput(*self.actor(observation), self.critic(observation))


def action_distribution(
    params: Any, observation: jax.Array, *, config: PolicyConfig
) -> tuple[jax.Array, jax.Array]:
  """The actor alone: mean and log sigma of the action, `[..., A]` each.

  `params` are what `ActorCritic` calls `actor`.
  """
  result: Any = Actor(config).apply({"params": params}, observation)
  return result


def values(
    params: Any, observation: jax.Array, *, config: PolicyConfig
) -> jax.Array:
  """The critic alone, `[..., V]`; `ActorCritic` calls `params` `critic`."""
  result: Any = Critic(config).apply({"params": params}, observation)
  return result


def log_prob(
    action: jax.Array, mean: jax.Array, log_std: jax.Array
) -> jax.Array:
  """Log density of an action, `[...]` in nats, summed over its A coordinates.

  Ratios of two policies are differences of this: at 100 coordinates a product
  of densities is 0.

  >>> print(f"{log_prob(jnp.ones(1), jnp.zeros(1), jnp.zeros(1)):.4f}")
  -1.4189
  """
  scaled = (action - mean) * jnp.exp(-log_std)
  return -jnp.sum(0.5 * jnp.square(scaled) + log_std, axis=-1) - (
      0.5 * math.log(2 * math.pi) * action.shape[-1])


def entropy(log_std: jax.Array) -> jax.Array:
  """Differential entropy of the action, `[...]` in nats; may be negative.

  >>> print(f"{entropy(jnp.zeros(2)):.4f}")
  2.8379
  """
  return jnp.sum(log_std, axis=-1) + (
      0.5 * math.log(2 * math.pi * math.e) * log_std.shape[-1])


def _trunk(config: PolicyConfig, hidden: jax.Array) -> jax.Array:
  """Hidden layers of the module that calls."""
  for layer, size in enumerate(config.hidden_sizes):
    hidden = nn.tanh(nn.Dense(
        size, kernel_init=_kernel(config, math.sqrt(2)),
        name=f"hidden_{layer}")(hidden))
  return hidden


def _kernel(config: PolicyConfig, gain: float) -> nn.initializers.Initializer:
  """The initializer of a layer's kernel."""
  if config.orthogonal:
    return lambda key, shape, dtype=jnp.float32: gain * _orthogonal(
        key, shape, dtype)
  return nn.initializers.lecun_normal()


def _orthogonal(
    key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype
) -> jax.Array:
  """A matrix of orthonormal columns, or rows if there are fewer.

  Gram-Schmidt, twice for stability, replaces LAPACK's factorisations: on few
  cores, several batched ones in a program deadlock.
  """
  small, large = sorted(shape)
  rows = jax.random.normal(key, (small, large), dtype)

  def body(basis, index):
    row = basis[index]
    # The rows from here on are not orthonormal yet.
    done = jnp.where(jnp.arange(small)[:, None] < index, basis, 0)
    for _ in range(2):
      row -= (done @ row) @ done
    return basis.at[index].set(row / jnp.linalg.norm(row)), None

  basis, _ = lax.scan(body, rows, jnp.arange(small))
  return basis if shape[0] == small else basis.T
