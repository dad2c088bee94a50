"""The descent of critic and actor on the rows of an update; its figures."""

from collections.abc import Callable
import math
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import optax

from harmonrank_jax.reranker import finite
from harmonrank_jax.reranker import policy
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import trajectory as trajectory_lib


class Metrics(NamedTuple):
  """Figures of one minibatch; for the critic all but the loss are 0."""

  loss: jax.Array
  approx_kl: jax.Array
  clip_fraction: jax.Array
  entropy: jax.Array


class Fit(NamedTuple):
  """A network after its descent."""

  params: Any
  opt_state: optax.OptState
  may_continue: jax.Array  # [] bool, False = early stopping has triggered.
  num_steps: jax.Array  # [] int32
  gradient_norm: jax.Array  # [], of the last minibatch, before clipping.
  metrics: Metrics  # Of the last minibatch evaluated.


class _CriticRows(NamedTuple):
  """N rows that the critic learns from."""

  observation: jax.Array  # [N, O], normalised
  returns: jax.Array  # [N, M + Q], as the critic predicts them


class _ActorRows(NamedTuple):
  """N rows that the actor learns from; 0 where masked."""

  observation: jax.Array  # [N, O], normalised
  action: jax.Array  # [N, A]
  log_prob: jax.Array  # [N]
  advantage: jax.Array  # [N]
  where: jax.Array  # [N] bool


def optimiser(
    learning_rate: float, config: ppo_config.PpoConfig
) -> optax.GradientTransformation:
  """Adam on clipped gradients."""
  return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm),
                     optax.adam(learning_rate))


def fit_critic(
    params: Any,
    opt_state: optax.OptState,
    observation: jax.Array,
    returns: jax.Array,
    *,
    key: jax.Array,
    rate: jax.Array,
    config: ppo_config.PpoConfig,
) -> Fit:
  """Descends on the squared error of the values.

  Observations `[T, E, O]` are normalised, returns `[T, E, M + Q]` as the critic
  predicts them; `rate` is a factor of the learning rate.
  """
  return _descend(
      lambda params, rows: _critic_loss(params, rows, config), params,
      opt_state, _CriticRows(_flat(observation), _flat(returns)), key, rate,
      adam=optimiser(config.critic_learning_rate, config),
      num_epochs=config.num_critic_epochs,
      num_minibatches=config.num_minibatches)


def fit_actor(
    params: Any,
    opt_state: optax.OptState,
    observation: jax.Array,
    trajectory: trajectory_lib.Trajectory,
    advantage: jax.Array,
    *,
    key: jax.Array,
    rate: jax.Array,
    config: ppo_config.PpoConfig,
) -> Fit:
  """Descends on the clipped surrogate while the divergence is below target.

  Arguments are as in `fit_critic`, with an advantage `[T, E]`.

  References:
    Schulman et al., "Proximal policy optimization algorithms", 2017, equation
    7.
  """
  where = trajectory.where
  # A masked action has no ratio, and the gradient of 0 * inf would be NaN.
  acted = lambda x: _flat(jnp.where(trajectory_lib.expand(where, x), x, 0))
  rows = _ActorRows(
      _flat(observation), acted(trajectory.action), acted(trajectory.log_prob),
      acted(advantage), _flat(where))
  return _descend(
      lambda params, rows: _actor_loss(params, rows, config), params,
      opt_state, rows, key, rate,
      adam=optimiser(config.actor_learning_rate, config),
      num_epochs=config.num_epochs, num_minibatches=config.num_minibatches,
      target_kl=config.target_kl)


class Diagnostics(NamedTuple):
  """Figures of an update. Means are over the rows with `where` True.

  Minibatch figures are those of the last minibatch evaluated, including the
  one at which early stopping triggered.
  """

  # [M], total reward by the number of rows with where True.
  mean_reward: jax.Array
  # [Q], total cost by total counted; NaN if nothing counted.
  cost_ratio: jax.Array
  violation: jax.Array  # [Q], cost ratio less threshold; NaN likewise
  multipliers: jax.Array  # [Q], used in this update
  # [M + Q], of returns by the values before the update; NaN where returns do
  # not vary.
  explained_variance: jax.Array
  value_loss: jax.Array  # of a minibatch
  policy_loss: jax.Array  # of a minibatch
  approx_kl: jax.Array  # of a minibatch, estimate of KL(acting policy || actor)
  # Of a minibatch, share of ratios outside the clip range.
  clip_fraction: jax.Array
  entropy: jax.Array  # of a minibatch, mean of the policy's, in nats
  actor_gradient_norm: jax.Array  # of a minibatch, before clipping
  critic_gradient_norm: jax.Array  # of a minibatch, before clipping
  # Int32, fewer than all if early stopping triggered.
  num_actor_steps: jax.Array
  num_where: jax.Array  # int32, rows with where True
  # For `check_finite`: where there is one, the update was not made.
  bad: finite.BadNumber


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
    bad: finite.BadNumber,
    *,
    critic: Fit,
    actor: Fit,
) -> Diagnostics:
  """The figures of an update; advantages and returns are `[T, E, M + Q]`."""
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
      num_where=num_where,
      bad=bad)


def _descend(
    loss_fn: Callable[[Any, Any], tuple[jax.Array, Metrics]],
    params: Any,
    opt_state: optax.OptState,
    rows: Any,
    key: jax.Array,
    rate: jax.Array,
    *,
    adam: optax.GradientTransformation,
    num_epochs: int,
    num_minibatches: int,
    target_kl: float = math.inf,
) -> Fit:
  """Takes steps, `rate` times those of Adam, on shuffled minibatches."""
  num_rows = rows.observation.shape[0]
  order = jax.vmap(lambda key: jax.random.permutation(key, num_rows))(
      jax.random.split(key, num_epochs))
  order = order.reshape(num_epochs * num_minibatches, -1)

  def descend(fit, index):
    minibatch = jax.tree.map(lambda x: x[index], rows)
    gradient, metrics = jax.grad(loss_fn, has_aux=True)(fit.params, minibatch)
    updates, opt_state = adam.update(gradient, fit.opt_state)
    updates = jax.tree.map(lambda x: rate.astype(x.dtype) * x, updates)
    moved = optax.apply_updates(fit.params, updates), opt_state
    norm = optax.tree.norm(gradient)
    # "Below" instead of "not above", so that NaN stops, and inf whatever the
    # target. The divergence is still 0 at the first minibatch: its gradient
    # tells whether the step can be taken.
    may_continue = (metrics.approx_kl < target_kl) & jnp.isfinite(norm)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(may_continue, new, old),
        moved, (fit.params, fit.opt_state))
    return Fit(params, opt_state, may_continue, fit.num_steps + may_continue,
               norm, metrics)

  def body(fit, index):
    return lax.cond(
        fit.may_continue, descend, lambda fit, index: fit, fit, index), None

  zero = jnp.zeros((), rows.observation.dtype)
  start = Fit(params, opt_state, jnp.array(True), jnp.zeros((), jnp.int32),
              zero, Metrics(zero, zero, zero, zero))
  return lax.scan(body, start, order)[0]


def _critic_loss(
    params: Any, rows: _CriticRows, config: ppo_config.PpoConfig
) -> tuple[jax.Array, Metrics]:
  """Mean squared error of the values."""
  values = policy.values(params, rows.observation, config=config.policy)
  loss = jnp.mean(jnp.square(values - rows.returns))
  return loss, Metrics(loss, *[jnp.zeros_like(loss)] * 3)


def _actor_loss(
    params: Any, rows: _ActorRows, config: ppo_config.PpoConfig
) -> tuple[jax.Array, Metrics]:
  """Clipped surrogate, to be minimised."""
  mean, log_std = policy.action_distribution(
      params, rows.observation, config=config.policy)
  log_ratio = jnp.where(
      rows.where,
      policy.log_prob(rows.action, mean, log_std) - rows.log_prob, 0)
  ratio = jnp.exp(log_ratio)
  low, high = 1 - config.clip_range, 1 + config.clip_range
  count = jnp.maximum(jnp.sum(rows.where, dtype=jnp.int32), 1)
  average = lambda x: jnp.sum(x, where=rows.where) / count
  loss = -average(jnp.minimum(
      ratio * rows.advantage, jnp.clip(ratio, low, high) * rows.advantage))
  outside = ((ratio < low) | (ratio > high)).astype(loss.dtype)
  # This estimate of the divergence has the mean of -log_ratio, is never
  # negative, and is far less noisy.
  approx_kl = average(ratio - 1 - log_ratio)
  return loss, Metrics(
      loss, approx_kl, average(outside), average(policy.entropy(log_std)))


def _flat(x: jax.Array) -> jax.Array:
  """`[T, E, ...]` as rows, `[T * E, ...]`."""
  return x.reshape(-1, *x.shape[2:])
