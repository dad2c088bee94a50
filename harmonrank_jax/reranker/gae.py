"""Advantages: generalised estimates by component, and their combination."""

import jax
from jax import lax
import jax.numpy as jnp


def vector_gae(
    rewards: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    discounts: jax.Array,
    gae_lambda: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Generalised advantages of each component, and returns.

  Backwards in time, with g the discount of the component,

    delta_t = r_t + g v'_t (1 - terminated_t) - v_t
    A_t = delta_t + g lambda (1 - terminated_t) (1 - truncated_t) A_{t+1}.

  After a terminated step there is no value; after a truncated one there is v',
  that of the observation it led to. With lambda 1, and with v' the value of the
  next step where no episode ended, returns are the discounted sum of rewards up
  to the end of the episode, or of the T steps, plus the discounted value there.

  Args:
    rewards: `[T, ..., K]`.
    values: like rewards, v, of the observation before the step.
    next_values: like rewards, v', of the observation after the step, before
      any reset.
    terminated: `[T, ...]` bool; where both flags are True, this flag counts.
    truncated: `[T, ...]` bool.
    discounts: `[K]`, in [0, 1].
    gae_lambda: in [0, 1], scalar.

  Returns:
    Advantages and returns (advantages + values), like rewards.

  Raises:
    ValueError: if shapes do not fit.

  References:
    Schulman et al., "High-dimensional continuous control using generalized
    advantage estimation", ICLR 2016, equation 16.

  >>> values, next_values = jnp.zeros((3, 1)), jnp.array([[0.0], [0], [8]])
  >>> advantages, _ = vector_gae(
  ...     values + 1, values, next_values, jnp.array([False, True, False]),
  ...     jnp.zeros(3, bool), discounts=jnp.array([0.5]), gae_lambda=1.0)
  >>> advantages[:, 0]
  Array([1.5, 1. , 5. ], dtype=float32)
  """
  for name, value in (("values", values), ("next_values", next_values)):
    if value.shape != rewards.shape:
      raise ValueError(f"{name} has shape {value.shape}; rewards "
                       f"{rewards.shape}.")
  for name, value in (("terminated", terminated), ("truncated", truncated)):
    if value.shape != rewards.shape[:-1]:
      raise ValueError(f"{name} has shape {value.shape}; rewards of shape "
                       f"{rewards.shape} need {rewards.shape[:-1]}.")
  if discounts.shape != rewards.shape[-1:]:
    raise ValueError(f"discounts has shape {discounts.shape}; rewards of shape "
                     f"{rewards.shape} need {rewards.shape[-1:]}.")
  discounts = discounts.reshape((1,) * (rewards.ndim - 1) + (-1,))
  follows = jnp.where(terminated[..., None], 0, discounts)
  deltas = rewards + follows * next_values - values
  decay = jnp.where(truncated[..., None], 0, gae_lambda * follows)

  def body(advantage, inputs):
    delta, decay = inputs
    advantage = delta + decay * advantage
    return advantage, advantage

  _, advantages = lax.scan(
      body, jnp.zeros_like(deltas[0]), (deltas, decay), reverse=True)
  return advantages, advantages + values


def combine_advantages(
    advantages: jax.Array, reward_weights: jax.Array, multipliers: jax.Array
) -> jax.Array:
  """One advantage `[...]` from those of M rewards and Q costs `[..., M + Q]`.

    A = (sum_k w_k A_k - sum_q lambda_q A_q) / (1 + sum_q lambda_q)

  References:
    Stooke, Achiam and Abbeel, "Responsive safety in reinforcement learning by
    PID Lagrangian methods", ICML 2020, equation 6, for the division.

  >>> combine_advantages(
  ...     jnp.array([1.0, 2.0, 4.0]), jnp.array([3.0, 1.0]), jnp.array([1.0]))
  Array(0.5, dtype=float32)
  """
  weights = jnp.concatenate([reward_weights, -multipliers])
  return advantages @ (weights / (1 + jnp.sum(multipliers)))


def normalise_advantages(
    advantages: jax.Array, *, where: jax.Array
) -> jax.Array:
  """Advantages `[T, E]` of mean 0 and variance 1 over rows of `where`."""
  mean = jnp.mean(advantages, where=where)
  std = jnp.std(advantages, where=where)
  # Nothing is added to std: advantages may be in any unit.
  return (advantages - mean) / jnp.where(std > 0, std, 1)
