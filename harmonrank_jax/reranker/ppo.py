"""Proximal policy optimisation with a vector of rewards and of constraints.

An update has two halves, both pure functions of the learner:

  collect   every environment takes `num_steps` steps under the policy
  improve   multipliers move, then critic and actor descend on these steps

The critic predicts each reward and each cost by itself, with a discount of its
own. Weights and multipliers combine their advantages into one, which is only
then normalised.

Weights, discounts and controllers are arrays: `vmap` over `init` and `update`
trains many seeds, or many trade-offs, at once. Nothing is jitted here:

  learning = ppo.Ppo(environment, config)
  learner = learning.init(key, params, settings)
  update = jax.jit(learning.update, donate_argnums=0)
  for _ in range(num_updates):
    learner, diagnostics = update(learner, params, settings)
"""

import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import environment as environments
from harmonrank_jax.reranker import finite
from harmonrank_jax.reranker import gae
from harmonrank_jax.reranker import policy
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import ppo_fit
from harmonrank_jax.reranker import trajectory as trajectory_lib


class OptimiserStates(NamedTuple):
  """States of Adam, one for each network."""

  actor: optax.OptState
  critic: optax.OptState


class Learner(NamedTuple):
  """All that an update depends on: a restored learner goes on bit by bit."""

  params: Any  # variables of policy.ActorCritic
  opt_state: OptimiserStates  # of both optimisers
  statistics: trajectory_lib.Statistics  # of observations
  # [M + Q], of returns: the unit of each reward, and of each cost.
  returns: trajectory_lib.Statistics
  env_state: Any  # [E, ...], of the environments
  # [E, ...], what they showed last: the next actions answer it.
  result: environments.StepResult
  constraint: constraints.ConstraintState  # of the controller
  key: jax.Array  # consumed by the next update
  num_updates: jax.Array  # [] int32


@dataclasses.dataclass(frozen=True)
class Ppo:
  """The algorithm for one kind of environment: pure functions of a learner.

  Attributes:
    environment: an `Environment`.
    config: static configuration.
    params_axes: of the environment's parameters, as `in_axes` of `vmap`: None
      = shared by all environments, 0 = one for each.
  """

  environment: environments.Environment
  config: ppo_config.PpoConfig
  params_axes: Any = None

  def init(
      self, key: jax.Array, env_params: Any, settings: ppo_config.Settings
  ) -> Learner:
    """A learner before its first update, every environment freshly reset.

    The key is that of everything random in training, `env_params` are what the
    environment takes. Raises ValueError if sizes of configuration, settings
    and environment differ, or a threshold is NaN (unless it is traced).
    """
    config = self.config
    ppo_config.check_sizes(settings, self.environment, config)
    key, network_key, reset_key = jax.random.split(key, 3)
    env_state, result = self._reset(reset_key, env_params)
    params = policy.ActorCritic(config.policy).init(
        network_key, result.observation[0])
    networks = params["params"]
    return Learner(
        params,
        OptimiserStates(
            ppo_fit.optimiser(config.actor_learning_rate, config).init(
                networks["actor"]),
            ppo_fit.optimiser(config.critic_learning_rate, config).init(
                networks["critic"])),
        trajectory_lib.no_statistics(
            result.observation.shape[-1], variance=1),
        trajectory_lib.no_statistics(config.policy.num_values, variance=0),
        env_state, result, constraints.init(settings.controller), key,
        jnp.zeros((), jnp.int32))

  def update(
      self, learner: Learner, env_params: Any, settings: ppo_config.Settings
  ) -> tuple[Learner, ppo_fit.Diagnostics]:
    """`collect`, then `improve`: the learner after, and the update's figures.

    The learner may be donated; parameters and settings may change between
    updates. Raises as `init`.
    """
    ppo_config.check_sizes(settings, self.environment, self.config)
    learner, trajectory = self.collect(learner, env_params)
    return self.improve(learner, trajectory, settings)

  def collect(
      self, learner: Learner, env_params: Any
  ) -> tuple[Learner, trajectory_lib.Trajectory]:
    """Acts for T steps; environments go on where the last update left them.

    Every environment is reset once, in advance; one that ends continues from
    there. An environment that ends twice in an update starts twice from the
    same state, with other draws afterwards: let T be no longer than an episode
    or two.
    """
    config = self.config
    key, fresh_key, noise_key, step_key = jax.random.split(learner.key, 4)
    shape = (config.num_steps, config.num_envs)
    step = jax.vmap(
        self.environment.step, in_axes=(0, 0, 0, self.params_axes))

    def act_fn(observation, noise):
      mean, log_std = _distribution(
          learner.params, learner.statistics, observation, config)
      action = mean + jnp.exp(log_std) * noise
      return action, policy.log_prob(action, mean, log_std)

    (env_state, result), trajectory = trajectory_lib.unroll(
        (learner.env_state, learner.result),
        self._reset(fresh_key, env_params),
        jax.random.normal(noise_key, (*shape, config.policy.action_size)),
        jax.random.split(step_key, shape), act_fn=act_fn,
        step_fn=lambda keys, state, action: step(
            keys, state, action, env_params),
        value_fn=lambda observation: _values(learner, observation, config),
        num_values=config.policy.num_values)
    return learner._replace(
        env_state=env_state, result=result, key=key), trajectory

  def improve(
      self, learner: Learner, trajectory: trajectory_lib.Trajectory,
      settings: ppo_config.Settings,
  ) -> tuple[Learner, ppo_fit.Diagnostics]:
    """Learns from the steps of an update.

    In this order: returns and advantages are formed with the values as they
    are; the controller answers the cost, in units of the returns; the critic
    descends; the actor descends until it is too far from the acting policy; the
    statistics take in the new observations. The ratio is therefore 1 at the
    actor's first step.

    If a number is not finite, as a reward of NaN, nothing is learned from these
    steps: only the key and the number of updates go on, and
    `check_finite(diagnostics.bad)` says where it is.

    Rewards, and costs with their thresholds, may be in any unit: a learner of
    multiplier 0 at the start takes the same actions, but for rounding.

    Rows with `where` False have no part in the actor's loss, nor in the
    normalisation of advantages, whatever their action; the critic learns from
    all rows.
    """
    config = self.config
    key, actor_key, critic_key = jax.random.split(learner.key, 3)
    advantages, returns = _targets(learner, trajectory, settings, config)
    seen = trajectory_lib.merge(learner.returns, returns)
    constraint = constraints.update(
        learner.constraint, ppo_fit.cost_ratio(trajectory),
        settings.controller, units=_units(seen, settings.reward_weights))
    advantage = gae.combine_advantages(
        advantages, settings.reward_weights, constraint.multiplier)
    if config.normalise_advantages:
      advantage = gae.normalise_advantages(advantage, where=trajectory.where)
    observation = _normalise(
        learner.statistics, trajectory.observation, config)
    networks, rate = learner.params["params"], _rate(learner, config)
    targets = returns
    if config.normalise_returns:
      targets = trajectory_lib.standardise(seen, returns)
    critic = ppo_fit.fit_critic(
        networks["critic"], learner.opt_state.critic, observation, targets,
        key=critic_key, rate=rate, config=config)
    actor = ppo_fit.fit_actor(
        networks["actor"], learner.opt_state.actor, observation, trajectory,
        advantage, key=actor_key, rate=rate, config=config)
    bad = finite.find_bad_number(
        trajectory, learner.result.observation, returns,
        (seen.variance, critic.gradient_norm, actor.gradient_norm))
    diagnostics = ppo_fit.diagnose(
        trajectory, advantages, returns, constraint.multiplier,
        settings.controller.threshold, bad, critic=critic, actor=actor)
    statistics = learner.statistics
    if config.normalise_observations:
      statistics = trajectory_lib.merge(statistics, trajectory.observation)
    learnt = {
        "params": {"params": {"actor": actor.params, "critic": critic.params}},
        "opt_state": OptimiserStates(actor.opt_state, critic.opt_state),
        "statistics": statistics, "returns": seen, "constraint": constraint}
    kept = {name: getattr(learner, name) for name in learnt}
    learnt = jax.tree.map(
        lambda new, old: jnp.where(bad.array < 0, new, old), learnt, kept)
    return learner._replace(
        **learnt, key=key, num_updates=learner.num_updates + 1), diagnostics

  def _reset(
      self, key: jax.Array, env_params: Any
  ) -> trajectory_lib.Standing:
    """States and results `[E, ...]`."""
    return jax.vmap(self.environment.reset, in_axes=(0, self.params_axes))(
        jax.random.split(key, self.config.num_envs), env_params)


def mean_action(
    params: Any,
    statistics: trajectory_lib.Statistics,
    observation: jax.Array,
    *,
    config: ppo_config.PpoConfig,
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
  """One member of a stack that `vmap` made: a learner, a policy, diagnostics.

  >>> take_one({"a": jnp.array([[1, 2], [3, 4]])}, 1)
  {'a': Array([3, 4], dtype=int32)}
  """
  return jax.tree.map(lambda x: x[index], stack)


def _targets(
    learner: Learner,
    trajectory: trajectory_lib.Trajectory,
    settings: ppo_config.Settings,
    config: ppo_config.PpoConfig,
) -> tuple[jax.Array, jax.Array]:
  """Advantages and returns `[T, E, M + Q]`, of rewards and of excess cost.

  A constraint limits the ratio of two sums, so its critic predicts
  `cost - threshold * counted`, whose sum is 0 at the threshold: a policy gains
  nothing by avoiding to be counted. A threshold that no case is above, or all
  are, is moved to the nearest case: how far away it is, be it infinite, must
  not drown what costs differ by.
  """
  values = _values(learner, trajectory.observation, config)
  last = _values(learner, learner.result.observation, config)
  next_values = jnp.where(
      trajectory.truncated[..., None], trajectory.final_values,
      jnp.concatenate([values[1:], last[None]]))
  is_counted = trajectory.counted > 0
  by_case = trajectory.cost / jnp.where(is_counted, trajectory.counted, 1)
  threshold = jnp.clip(
      settings.controller.threshold,
      jnp.min(by_case, axis=(0, 1), where=is_counted, initial=jnp.inf),
      jnp.max(by_case, axis=(0, 1), where=is_counted, initial=-jnp.inf))
  excess = trajectory.cost - jnp.where(
      is_counted, threshold[None, None] * trajectory.counted, 0)
  return gae.vector_gae(
      jnp.concatenate([trajectory.reward, excess], axis=-1), values,
      next_values, trajectory.terminated, trajectory.truncated,
      discounts=settings.discounts, gae_lambda=config.gae_lambda)


def _units(
    returns: trajectory_lib.Statistics, reward_weights: jax.Array
) -> constraints.Units:
  """By how much weighted returns of rewards differ, and of each cost."""
  num_rewards = len(reward_weights)
  spread = returns.spread
  return constraints.Units(
      jnp.linalg.norm(reward_weights * spread[:num_rewards]),
      spread[num_rewards:])


def _rate(learner: Learner, config: ppo_config.PpoConfig) -> jax.Array:
  """Factor of the learning rates in this update."""
  if config.num_updates is None:
    return jnp.ones(())
  return jnp.maximum(1 - learner.num_updates / config.num_updates, 0)


def _distribution(
    params: Any, statistics: trajectory_lib.Statistics,
    observation: jax.Array, config: ppo_config.PpoConfig,
) -> tuple[jax.Array, jax.Array]:
  """Mean and log sigma of the action, `[..., A]` each."""
  return policy.action_distribution(
      params["params"]["actor"], _normalise(statistics, observation, config),
      config=config.policy)


def _values(
    learner: Learner, observation: jax.Array, config: ppo_config.PpoConfig
) -> jax.Array:
  """Values `[..., M + Q]` of observations `[..., O]`, in units of returns."""
  values = policy.values(
      learner.params["params"]["critic"],
      _normalise(learner.statistics, observation, config),
      config=config.policy)
  if not config.normalise_returns:
    return values
  return trajectory_lib.restore(learner.returns, values)


def _normalise(
    statistics: trajectory_lib.Statistics, observation: jax.Array,
    config: ppo_config.PpoConfig,
) -> jax.Array:
  """Observations in standard deviations, if the configuration asks for it."""
  if not config.normalise_observations:
    return observation
  return trajectory_lib.normalise(statistics, observation)
