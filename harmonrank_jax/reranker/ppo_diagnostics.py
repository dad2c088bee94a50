"""Figures of an update, by which a person judges a training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmonrank_jax.reranker import ppo_fit
from harmonrank_jax.reranker import trajectory as trajectory_lib


class Diagnostics(NamedTuple):
  """Figures of an update. Means are over the rows with `where` True.

  Minibatch figures are those of the last minibatch evaluated, including the
  one at which early stopping triggered.

  Attributes:
    mean_reward: `[M]`, total reward by the number of rows with `where` True.
    cost_ratio: `[Q]`, total cost by total counted; NaN if nothing counted.
    violation: `[Q]`, cost ratio less threshold; NaN likewise.
    multipliers: `[Q]`, used in this update.
    explained_variance: `[M + Q]`, of returns by the values before the update;
      NaN where returns do not vary.
    value_loss: of a minibatch.
    policy_loss: of a minibatch.
    approx_kl: of a minibatch, estimate of KL(acting policy || actor).
    clip_fraction: of a minibatch, share of ratios outside the clip range.
    entropy: of a minibatch, mean of the policy's, in nats.
    actor_gradient_norm: of a minibatch, before clipping.
    critic_gradient_norm: of a minibatch, before clipping.
    num_actor_steps: int32, fewer than all if early stopping triggered.
    num_where: int32, rows with `where` True.
  """

  mean_reward: jax.Array
  cost_ratio: jax.Array
  violation: jax.Array
  multipliers: jax.Array
  explained_variance: jax.Array
  value_loss: jax.Array
  policy_loss: jax.Array
  approx_kl: jax.Array
  clip_fraction: jax.Array
  entropy: jax.Array
  actor_gradient_norm: jax.Array
  critic_gradient_norm: jax.Array
  num_actor_steps: jax.Array
  num_where: jax.Array


def cost_ratio(trajectory: trajectory_lib.Trajectory) -> jax.Array:
  """Total cost by total counted, `[Q]`; NaN if nothing counted."""
  counted = jnp.sum(trajectory.counted, axis=(0, 1))
  return jnp.where(
      counted > 0, jnp.sum(trajectory.cost, axis=(0, 1)) / counted, jnp.nan)


def diagnose(
    trajectory: trajectory_lib.Trajectory,
    advantages: jax.Array,
    returns: jax.Array,
    multipliers: jax.Array,
    threshold: jax.Array,
    *,
    critic: ppo_fit.Fit,
    actor: ppo_fit.Fit,
) -> Diagnostics:
  """The figures of an update.

  Args:
    trajectory: of the update.
    advantages: `[T, E, M + Q]`.
    returns: `[T, E, M + Q]`.
    multipliers: `[Q]`.
    threshold: `[Q]`.
    critic: after its descent.
    actor: after its descent.

  Returns:
    The `Diagnostics`.
  """
  ratio = cost_ratio(trajectory)
  num_where = jnp.sum(trajectory.where, dtype=jnp.int32)
  errors, spread = (jnp.var(x, axis=(0, 1)) for x in (advantages, returns))
  return Diagnostics(
      mean_reward=(jnp.sum(trajectory.reward, axis=(0, 1))
                   / jnp.maximum(num_where, 1)),
      cost_ratio=ratio,
      violation=ratio - threshold,
      multipliers=multipliers,
      explained_variance=jnp.where(spread > 0, 1 - errors / spread, jnp.nan),
      value_loss=critic.metrics.loss,
      policy_loss=actor.metrics.loss,
      approx_kl=actor.metrics.approx_kl,
      clip_fraction=actor.metrics.clip_fraction,
      entropy=actor.metrics.entropy,
      actor_gradient_norm=actor.gradient_norm,
      critic_gradient_norm=critic.gradient_norm,
      num_actor_steps=actor.num_steps,
      num_where=num_where)
