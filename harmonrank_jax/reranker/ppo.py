"""Proximal policy optimisation with a vector of rewards and of constraints.

An update has two halves, both pure functions of the learner:

  collect   every environment takes `num_steps` steps under the policy
  improve   multipliers move, then critic and actor descend on what was seen

The critic predicts each reward and each cost by itself, with a discount of its
own. Their advantages become one by weights and multipliers, and only then are
they normalised:

  A = (sum_k w_k A_k - sum_q lambda_q A_q) / (1 + sum_q lambda_q).

Weights, discounts and controllers are arrays: `vmap` over `init` and `update`
trains many seeds, or many trade-offs, at once. Nothing is jitted here:

  step = jax.jit(functools.partial(
      ppo.update, environment=environment, config=config), donate_argnums=0)
  for _ in range(num_updates):
    learner, diagnostics = step(learner, params, settings)
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any
from typing import NamedTuple
from typing import Self

import jax
from jax import lax
import jax.numpy as jnp
import optax

from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import environment as environments
from harmonrank_jax.reranker import policy

# Of normalised observations, in standard deviations.
OBSERVATION_RANGE = (-10.0, 10.0)


@dataclasses.dataclass(frozen=True)
class PpoConfig:
  """Static configuration of a learner; see `document` and `modern`.

  Attributes:
    policy: both networks.
    num_envs: E, side by side.
    num_steps: T of each environment in an update.
    gae_lambda: in [0, 1].
    num_epochs: of the actor, passes over the T * E rows of an update.
    num_critic_epochs: of the critic.
    num_minibatches: of a pass, a divisor of T * E; 1 for the full batch.
    clip_range: how far from 1 the ratio of probabilities counts, above 0.
    actor_learning_rate: of Adam. One step moves every coordinate of the
      action, and the divergence grows with their number: at 100 of them take
      a tenth of what is usual.
    critic_learning_rate: of Adam.
    max_gradient_norm: of each network, inf for none.
    target_kl: the actor stops before the first step at which the approximate
      KL divergence from the policy that acted is not below; inf for none.
    num_updates: over which learning rates fall to 0, linearly; None keeps
      them. What is left of the noise at the end falls with them.
    normalise_advantages: to mean 0 and variance 1 over the rows that count.
    normalise_observations: by running mean and variance.
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
    """What has become usual since; the defaults.

    Args:
      environment: whose sizes the networks fit.
      hidden_sizes: of actor and critic.
      initial_std: of the action.

    Returns:
      A configuration; `dataclasses.replace` changes the rest of it.
    """
    return cls(policy.PolicyConfig(
        environment.action_size,
        environment.num_rewards + environment.num_costs,
        hidden_sizes=hidden_sizes, initial_std=initial_std))

  @classmethod
  def document(
      cls,
      environment: environments.Environment,
      *,
      hidden_sizes: tuple[int, ...] = (64, 64),
      initial_std: float = 0.3,
  ) -> Self:
    """The plain recipe: sigma by state, the full batch, nothing normalised.

    Advantages are full returns less the value, the critic takes one step an
    update, the actor several, and only the clipping of the ratio holds it.

    Args:
      environment: as in `modern`, and the others too.
      hidden_sizes: of actor and critic.
      initial_std: of the action.

    Returns:
      A configuration.
    """
    modern = cls.modern(
        environment, hidden_sizes=hidden_sizes, initial_std=initial_std)
    return dataclasses.replace(
        modern,
        policy=dataclasses.replace(
            modern.policy, state_dependent_std=True, orthogonal=False),
        gae_lambda=1.0, num_critic_epochs=1, num_minibatches=1,
        max_gradient_norm=math.inf, target_kl=math.inf,
        normalise_advantages=False, normalise_observations=False)


class Settings(NamedTuple):
  """What may be traced, and differ between learners of one `vmap`.

  Attributes:
    reward_weights: `[M]`, what a unit of each reward is worth.
    discounts: `[M + Q]`, per step, in [0, 1]: of rewards, then of costs.
    controller: Q constraints, on total cost over total counted.
  """

  reward_weights: jax.Array
  discounts: jax.Array
  controller: constraints.Controller


class ObservationStatistics(NamedTuple):
  """Mean and variance of the observations of all updates before.

  Attributes:
    num_seen: `[]`, as a float.
    mean: `[O]`, 0 at first.
    variance: `[O]`, 1 at first.
  """

  num_seen: jax.Array
  mean: jax.Array
  variance: jax.Array


class OptimiserStates(NamedTuple):
  """Of Adam, for each network."""

  actor: optax.OptState
  critic: optax.OptState


class Learner(NamedTuple):
  """All that an update depends on: saved and restored, it goes on bit by bit.

  Attributes:
    params: variables of `policy.ActorCritic`.
    opt_state: of both optimisers.
    statistics: of observations.
    env_state: `[E, ...]`, of the environments.
    result: `[E, ...]`, what they showed last: the next actions answer it.
    constraint: of the controller.
    key: consumed by the next update.
    num_updates: `[]` int32.
  """

  params: Any
  opt_state: OptimiserStates
  statistics: ObservationStatistics
  env_state: Any
  result: environments.StepResult
  constraint: constraints.ConstraintState
  key: jax.Array
  num_updates: jax.Array


class Trajectory(NamedTuple):
  """The steps of one update; T steps, E environments.

  Attributes:
    observation: `[T, E, O]`, that the action answers, as the environment gave
      it.
    action: `[T, E, A]`.
    log_prob: `[T, E]`, of the action under the policy that drew it.
    where: `[T, E]` bool, True = the action acted.
    reward: `[T, E, M]`, what followed.
    cost: `[T, E, Q]`.
    counted: `[T, E, Q]`.
    terminated: `[T, E]` bool.
    truncated: `[T, E]` bool.
    final_values: `[T, E, M + Q]`, of the observation before the reset where
      truncated; 0 in steps of which none is.
  """

  observation: jax.Array
  action: jax.Array
  log_prob: jax.Array
  where: jax.Array
  reward: jax.Array
  cost: jax.Array
  counted: jax.Array
  terminated: jax.Array
  truncated: jax.Array
  final_values: jax.Array


class Diagnostics(NamedTuple):
  """Of one update. Means are over the rows with `where` True.

  What is of a minibatch is of the last one that was looked at: that at which
  the actor stopped, if it did.

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
    clip_fraction: of a minibatch, ratios outside the clip range.
    entropy: of a minibatch, mean of the policy's, in nats.
    actor_gradient_norm: of a minibatch, before clipping.
    critic_gradient_norm: of a minibatch, before clipping.
    num_actor_steps: int32, fewer than all if the divergence stopped it.
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


def init(
    key: jax.Array,
    env_params: Any,
    settings: Settings,
    *,
    environment: environments.Environment,
    config: PpoConfig,
    params_axes: Any = None,
) -> Learner:
  """A learner before its first update, every environment freshly reset.

  Args:
    key: of everything that is random in training.
    env_params: what `environment` takes, shared or one per environment.
    settings: weights, discounts, constraints.
    environment: a factory of pure functions.
    config: static configuration.
    params_axes: as `in_axes` of `vmap`, of `env_params`: None = shared.

  Returns:
    The learner.

  Raises:
    ValueError: if sizes of configuration, settings and environment differ.
  """
  _check(settings, environment, config)
  key, network_key, reset_key = jax.random.split(key, 3)
  env_state, result = _reset(
      reset_key, env_params, environment, config, params_axes)
  params = policy.ActorCritic(config.policy).init(
      network_key, result.observation[0])
  networks = params["params"]
  size = result.observation.shape[-1:]
  return Learner(
      params,
      OptimiserStates(
          _actor_optimiser(config).init(networks["actor"]),
          _critic_optimiser(config).init(networks["critic"])),
      ObservationStatistics(jnp.zeros(()), jnp.zeros(size), jnp.ones(size)),
      env_state, result, constraints.init(settings.controller), key,
      jnp.zeros((), jnp.int32))


def update(
    learner: Learner,
    env_params: Any,
    settings: Settings,
    *,
    environment: environments.Environment,
    config: PpoConfig,
    params_axes: Any = None,
) -> tuple[Learner, Diagnostics]:
  """`collect`, then `improve`.

  Args:
    learner: may be donated.
    env_params: as in `init`; may change between updates.
    settings: as in `init`; may change between updates.
    environment: as in `init`.
    config: as in `init`.
    params_axes: as in `init`.

  Returns:
    The learner after, and what happened.

  Raises:
    ValueError: if sizes of configuration, settings and environment differ.
  """
  _check(settings, environment, config)
  learner, trajectory = collect(
      learner, env_params, environment=environment, config=config,
      params_axes=params_axes)
  return improve(learner, trajectory, settings, config=config)


def train_scan(
    learner: Learner,
    env_params: Any,
    settings: Settings,
    *,
    num_updates: int,
    environment: environments.Environment,
    config: PpoConfig,
    params_axes: Any = None,
) -> tuple[Learner, Diagnostics]:
  """Many updates as one scan: nothing returns to the host in between.

  Args:
    learner: as in `update`, and the others too.
    env_params: the same in all updates.
    settings: the same in all updates.
    num_updates: U.
    environment: as in `update`.
    config: as in `update`.
    params_axes: as in `update`.

  Returns:
    The learner after, and diagnostics with a leading axis U.
  """
  def body(learner, _):
    return update(learner, env_params, settings, environment=environment,
                  config=config, params_axes=params_axes)

  return lax.scan(body, learner, length=num_updates)


def collect(
    learner: Learner,
    env_params: Any,
    *,
    environment: environments.Environment,
    config: PpoConfig,
    params_axes: Any = None,
) -> tuple[Learner, Trajectory]:
  """Acts for T steps; environments go on where the last update left them.

  Every environment is reset once, in advance; one that ends continues from
  there. One that ends twice in an update starts twice from the same state,
  with other draws afterwards: let T be no longer than an episode or two.

  Args:
    learner: whose policy acts.
    env_params: as in `init`.
    environment: as in `init`.
    config: as in `init`.
    params_axes: as in `init`.

  Returns:
    The learner with its environments moved on, and what was seen.
  """
  key, fresh_key, noise_key, step_key = jax.random.split(learner.key, 4)
  fresh = _reset(fresh_key, env_params, environment, config, params_axes)
  step = jax.vmap(environment.step, in_axes=(0, 0, 0, params_axes))
  shape = (config.num_steps, config.num_envs)
  noise = jax.random.normal(noise_key, (*shape, config.policy.action_size))

  def value(observation):
    values = _values(
        learner.params, learner.statistics, observation, config)
    return values.astype(observation.dtype)

  def no_value(observation):
    return jnp.zeros((config.num_envs, config.policy.num_values),
                     observation.dtype)

  def body(carry, inputs):
    state, seen = carry
    noise, keys = inputs
    mean, log_std = _distribution(
        learner.params, learner.statistics, seen.observation, config)
    action = mean + jnp.exp(log_std) * noise
    state, result = step(keys, state, action, env_params)
    final_values = lax.cond(
        jnp.any(result.truncated), value, no_value, result.observation)
    ended = result.terminated | result.truncated
    carry = jax.tree.map(
        lambda new, old: jnp.where(_rows(ended, old), new, old),
        fresh, (state, result))
    return carry, Trajectory(
        seen.observation, action, policy.log_prob(action, mean, log_std),
        seen.where, result.reward, result.cost, result.counted,
        result.terminated, result.truncated, final_values)

  (env_state, result), trajectory = lax.scan(
      body, (learner.env_state, learner.result),
      (noise, jax.random.split(step_key, shape)))
  return learner._replace(
      env_state=env_state, result=result, key=key), trajectory


def improve(
    learner: Learner,
    trajectory: Trajectory,
    settings: Settings,
    *,
    config: PpoConfig,
) -> tuple[Learner, Diagnostics]:
  """Learns from what was seen.

  In this order: the controller answers the cost, returns and advantages are
  formed with the values as they are, the critic descends, the actor descends
  until it is too far from the policy that acted, and the statistics of
  observations take in the new ones; the ratio is 1 at the actor's first step.

  What a constraint limits is the ratio of two sums, so its critic predicts
  `cost - threshold * counted`, whose sum is 0 at the threshold: a policy gains
  nothing by avoiding to be counted. Rows with `where` False have no part in
  the actor's loss, nor in the normalisation of advantages, whatever their
  action; they are part of the day for the critic.

  Args:
    learner: whose `result` is what followed the last step.
    trajectory: by `collect`, with the learner's policy.
    settings: weights, discounts, constraints.
    config: static configuration.

  Returns:
    The learner after, and what happened.

  References:
    Schulman et al., "Proximal policy optimization algorithms", 2017, equation
    7. Stooke et al., 2020, equation 6, for the division by one plus the
    multipliers.
  """
  key, actor_key, critic_key = jax.random.split(learner.key, 3)
  counted = jnp.sum(trajectory.counted, axis=(0, 1))
  cost_ratio = jnp.where(
      counted > 0, jnp.sum(trajectory.cost, axis=(0, 1)) / counted, jnp.nan)
  constraint = constraints.update(
      learner.constraint, cost_ratio, settings.controller)

  advantages, returns = _targets(learner, trajectory, settings, config)
  weights = jnp.concatenate(
      [settings.reward_weights, -constraint.multiplier])
  advantage = advantages @ (weights / (1 + jnp.sum(constraint.multiplier)))
  where = trajectory.where
  if config.normalise_advantages:
    mean = jnp.mean(advantage, where=where)
    std = jnp.std(advantage, where=where)
    advantage = (advantage - mean) / (std + 1e-8)

  flat = lambda x: x.reshape(-1, *x.shape[2:])
  observation = flat(_normalise(
      learner.statistics, trajectory.observation, config))
  # A masked action has no ratio, and 0 * inf would be one.
  acted = lambda x: flat(jnp.where(_rows(where, x), x, 0))
  networks = learner.params["params"]
  rate = jnp.ones(())
  if config.num_updates is not None:
    rate = jnp.maximum(1 - learner.num_updates / config.num_updates, 0)
  critic = _fit(
      lambda params, rows: _critic_loss(params, rows, config),
      networks["critic"], learner.opt_state.critic,
      _CriticRows(observation, flat(returns)), critic_key,
      rate, optimiser=_critic_optimiser(config),
      num_epochs=config.num_critic_epochs,
      num_minibatches=config.num_minibatches)
  actor = _fit(
      lambda params, rows: _actor_loss(params, rows, config),
      networks["actor"], learner.opt_state.actor,
      _ActorRows(observation, acted(trajectory.action),
                 acted(trajectory.log_prob), acted(advantage), flat(where)),
      actor_key, rate, optimiser=_actor_optimiser(config),
      num_epochs=config.num_epochs, num_minibatches=config.num_minibatches,
      target_kl=config.target_kl)

  num_where = jnp.sum(where, dtype=jnp.int32)
  errors, spread = (jnp.var(x, axis=(0, 1)) for x in (advantages, returns))
  diagnostics = Diagnostics(
      mean_reward=(jnp.sum(trajectory.reward, axis=(0, 1))
                   / jnp.maximum(num_where, 1)),
      cost_ratio=cost_ratio,
      violation=cost_ratio - settings.controller.threshold,
      multipliers=constraint.multiplier,
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
  statistics = learner.statistics
  if config.normalise_observations:
    statistics = _merge(statistics, trajectory.observation)
  return learner._replace(
      params={"params": {"actor": actor.params, "critic": critic.params}},
      opt_state=OptimiserStates(actor.opt_state, critic.opt_state),
      statistics=statistics, constraint=constraint, key=key,
      num_updates=learner.num_updates + 1), diagnostics


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

  A terminated step is followed by nothing, a truncated one by what v' says of
  the observation it led to. With lambda 1, and v' the v of the next step where
  none ended, returns are the discounted sum of rewards up to the end of the
  episode, or of the T steps, and of the value there.

  Args:
    rewards: `[T, ..., K]`.
    values: like rewards, v of the observation before the step.
    next_values: like rewards, v' of the observation after the step, before any
      reset.
    terminated: `[T, ...]` bool; where both flags are True, this one counts.
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


def mean_action(
    params: Any,
    statistics: ObservationStatistics,
    observation: jax.Array,
    *,
    config: PpoConfig,
) -> jax.Array:
  """The action without its noise, for evaluation.

  Args:
    params: of a learner.
    statistics: of the same learner.
    observation: `[..., O]`, as the environment gives it.
    config: of the learner.

  Returns:
    `[..., A]`.
  """
  return _distribution(params, statistics, observation, config)[0]


def take_one(stack: Any, index: int | jax.Array) -> Any:
  """One of a stack that `vmap` made: a learner, a policy, diagnostics.

  Args:
    stack: a tree of arrays that share their first axis.
    index: on that axis.

  Returns:
    The same tree without that axis.

  >>> take_one({"a": jnp.array([[1, 2], [3, 4]])}, 1)
  {'a': Array([3, 4], dtype=int32)}
  """
  return jax.tree.map(lambda x: x[index], stack)


class _CriticRows(NamedTuple):
  """N rows to learn from."""

  observation: jax.Array  # [N, O], normalised
  returns: jax.Array  # [N, M + Q]


class _ActorRows(NamedTuple):
  """N rows to learn from; 0 where masked."""

  observation: jax.Array  # [N, O], normalised
  action: jax.Array  # [N, A]
  log_prob: jax.Array  # [N]
  advantage: jax.Array  # [N]
  where: jax.Array  # [N] bool


class _Metrics(NamedTuple):
  """Of a minibatch; of the critic all but the loss are 0."""

  loss: jax.Array
  approx_kl: jax.Array
  clip_fraction: jax.Array
  entropy: jax.Array


class _Fit(NamedTuple):
  """Carry of `_fit`."""

  params: Any
  opt_state: optax.OptState
  near: jax.Array  # [] bool, False = it has stopped
  num_steps: jax.Array  # [] int32
  gradient_norm: jax.Array  # []
  metrics: _Metrics


def _fit(
    loss_fn: Callable[[Any, Any], tuple[jax.Array, _Metrics]],
    params: Any,
    opt_state: optax.OptState,
    rows: Any,
    key: jax.Array,
    rate: jax.Array,
    *,
    optimiser: optax.GradientTransformation,
    num_epochs: int,
    num_minibatches: int,
    target_kl: float = math.inf,
) -> _Fit:
  """Descends on shuffled minibatches while the divergence is below target.

  Steps are `rate` times those of the optimiser.
  """
  num_rows = rows.observation.shape[0]
  order = jax.vmap(lambda key: jax.random.permutation(key, num_rows))(
      jax.random.split(key, num_epochs))
  order = order.reshape(num_epochs * num_minibatches, -1)

  def descend(fit, index):
    minibatch = jax.tree.map(lambda x: x[index], rows)
    gradient, metrics = jax.grad(loss_fn, has_aux=True)(fit.params, minibatch)
    updates, opt_state = optimiser.update(gradient, fit.opt_state)
    updates = jax.tree.map(lambda x: rate.astype(x.dtype) * x, updates)
    moved = optax.apply_updates(fit.params, updates), opt_state
    # Not below, rather than above: inf and NaN stop too, whatever the target.
    near = metrics.approx_kl < target_kl
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(near, new, old),
        moved, (fit.params, fit.opt_state))
    return _Fit(params, opt_state, near, fit.num_steps + near,
                optax.tree.norm(gradient), metrics)

  def body(fit, index):
    return lax.cond(
        fit.near, descend, lambda fit, index: fit, fit, index), None

  zero = jnp.zeros((), rows.observation.dtype)
  start = _Fit(params, opt_state, jnp.array(True), jnp.zeros((), jnp.int32),
               zero, _Metrics(zero, zero, zero, zero))
  return lax.scan(body, start, order)[0]


def _critic_loss(
    params: Any, rows: _CriticRows, config: PpoConfig
) -> tuple[jax.Array, _Metrics]:
  """Mean squared error of the values."""
  values = policy.values(params, rows.observation, config=config.policy)
  loss = jnp.mean(jnp.square(values - rows.returns))
  zero = jnp.zeros_like(loss)
  return loss, _Metrics(loss, zero, zero, zero)


def _actor_loss(
    params: Any, rows: _ActorRows, config: PpoConfig
) -> tuple[jax.Array, _Metrics]:
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
  return loss, _Metrics(
      # Of the same mean as -log_ratio, never negative, and far less noisy.
      loss, average(ratio - 1 - log_ratio), average(outside),
      average(policy.entropy(log_std)))


def _targets(
    learner: Learner, trajectory: Trajectory, settings: Settings,
    config: PpoConfig,
) -> tuple[jax.Array, jax.Array]:
  """Advantages and returns `[T, E, M + Q]`, of rewards and of excess cost."""
  value_fn = lambda observation: _values(
      learner.params, learner.statistics, observation, config)
  values = value_fn(trajectory.observation)
  last = value_fn(learner.result.observation)
  next_values = jnp.where(
      trajectory.truncated[..., None], trajectory.final_values,
      jnp.concatenate([values[1:], last[None]]))
  threshold = jnp.broadcast_to(
      settings.controller.threshold, trajectory.counted.shape)
  excess = trajectory.cost - threshold * trajectory.counted
  return vector_gae(
      jnp.concatenate([trajectory.reward, excess], axis=-1), values,
      next_values, trajectory.terminated, trajectory.truncated,
      discounts=settings.discounts, gae_lambda=config.gae_lambda)


def _reset(
    key: jax.Array, env_params: Any, environment: environments.Environment,
    config: PpoConfig, params_axes: Any,
) -> tuple[Any, environments.StepResult]:
  """States and results `[E, ...]`."""
  return jax.vmap(environment.reset, in_axes=(0, params_axes))(
      jax.random.split(key, config.num_envs), env_params)


def _distribution(
    params: Any, statistics: ObservationStatistics, observation: jax.Array,
    config: PpoConfig,
) -> tuple[jax.Array, jax.Array]:
  """Mean and log sigma `[..., A]`."""
  return policy.action_distribution(
      params["params"]["actor"], _normalise(statistics, observation, config),
      config=config.policy)


def _values(
    params: Any, statistics: ObservationStatistics, observation: jax.Array,
    config: PpoConfig,
) -> jax.Array:
  """`[..., M + Q]`."""
  return policy.values(
      params["params"]["critic"], _normalise(statistics, observation, config),
      config=config.policy)


def _normalise(
    statistics: ObservationStatistics, observation: jax.Array,
    config: PpoConfig,
) -> jax.Array:
  """`[..., O]` in standard deviations, if asked for."""
  if not config.normalise_observations:
    return observation
  row = lambda x: x.reshape((1,) * (observation.ndim - 1) + x.shape)
  # What is constant but for rounding is not blown up.
  scale = lax.rsqrt(statistics.variance + 1e-6)
  return jnp.clip((observation - row(statistics.mean)) * row(scale),
                  *OBSERVATION_RANGE)


def _merge(
    statistics: ObservationStatistics, observation: jax.Array
) -> ObservationStatistics:
  """Statistics with `[T, E, O]` more; exact for the union of both."""
  size = observation.shape[0] * observation.shape[1]
  total = statistics.num_seen + size
  share = size / total
  delta = jnp.mean(observation, axis=(0, 1)) - statistics.mean
  variance = (1 - share) * statistics.variance + share * (
      jnp.var(observation, axis=(0, 1)) + (1 - share) * jnp.square(delta))
  return ObservationStatistics(
      total, statistics.mean + share * delta, variance)


def _actor_optimiser(config: PpoConfig) -> optax.GradientTransformation:
  return _optimiser(config.actor_learning_rate, config)


def _critic_optimiser(config: PpoConfig) -> optax.GradientTransformation:
  return _optimiser(config.critic_learning_rate, config)


def _optimiser(
    learning_rate: float, config: PpoConfig
) -> optax.GradientTransformation:
  return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm),
                     optax.adam(learning_rate))


def _rows(mask: jax.Array, array: jax.Array) -> jax.Array:
  """A mask with as many axes as an array that begins with its axes."""
  return mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))


def _check(
    settings: Settings, environment: environments.Environment,
    config: PpoConfig,
) -> None:
  """That configuration and settings are of this environment's sizes."""
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
