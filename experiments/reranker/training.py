"""What is trained to re-rank, and its task for `runs.loop`."""

import dataclasses
import functools
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.reranker import config as config_lib
from experiments.reranker import limits
from experiments.reranker import world as world_lib
from experiments.runs import errors
from experiments.runs import loop
from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import environment as environments
from harmonrank_jax.reranker import finite
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import response_fit
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator as simulator_lib
from harmonrank_jax.reranker import trajectory as trajectory_lib

# For each seed, an evaluation simulates the day of so many users.
_EVALUATION_USERS = 128
_PAPER_DISCOUNT = 0.99
_PAPER_MAX_ENVS = 64


class Recipe(NamedTuple):
  """What is trained, and how."""

  simulator: simulator_lib.Simulator  # As the learner sees it.
  config: ppo_config.PpoConfig
  settings: ppo_config.Settings  # Weights, discounts, constraints.
  # `[Q]`, costs up to which an evaluation keeps to the constraints.
  allowed: jax.Array
  num_updates: int
  is_paired: bool  # Rewards are differences to the page without actions.


class Best(NamedTuple):
  """The best evaluation of each of S learners.

  That of the most reward among those that keep to the constraints; if none
  does, the one nearest to them.
  """

  policy: Any  # Params and statistics, `[S, ...]`.
  step: jax.Array  # `[S]` int32, updates before it.
  excess: jax.Array  # `[S]`, costs above what is allowed; 0 = kept.
  reward: jax.Array  # `[S]`, of a slate.


class State(NamedTuple):
  """S learners, stacked, and what is delivered of them."""

  learner: ppo.Learner
  best: Best


class Trained(NamedTuple):
  """The end of a training."""

  recipe: Recipe
  state: State
  user_steps_per_second: float  # Of all seeds; NaN if too few were timed.


class PageTask:
  """PPO in many augmented worlds, all seeds in one compiled update."""

  def __init__(
      self, recipe: Recipe, fit: response_fit.ResponseFit,
      params: simulator_lib.Params, *, num_seeds: int, seed: int,
  ):
    """Draws worlds from replicates of the fit; scores are those of `params`."""
    self.recipe, self.num_seeds, self._seed = recipe, num_seeds, seed
    response, arrivals = world_lib.training_worlds(
        fit, params.arrivals, recipe.config.num_envs, seed=seed)
    self._params = params._replace(response=response, arrivals=arrivals)
    environment = (environments.Paired(recipe.simulator) if recipe.is_paired
                   else recipe.simulator)
    learning = ppo.Ppo(
        environment, recipe.config, params_axes=world_lib.WORLD_AXES)
    over_seeds = functools.partial(jax.vmap, in_axes=(0, None, None))
    self._init = jax.jit(over_seeds(learning.init))
    self._update = jax.jit(over_seeds(learning.update), donate_argnums=0)
    self._outcome = jax.jit(jax.vmap(
        functools.partial(_outcome, recipe, params), in_axes=(0, None)))

  def init(self) -> State:
    """Learners before their first update, and nothing evaluated."""
    keys = jax.random.split(jax.random.key(self._seed), self.num_seeds)
    learner = self._init(keys, self._params, self.recipe.settings)
    far = jnp.full(self.num_seeds, jnp.inf)
    # A copy, since learners are donated.
    return State(learner, Best(
        jax.tree.map(jnp.copy, (learner.params, learner.statistics)),
        jnp.zeros(self.num_seeds, jnp.int32), far, -far))

  def batches(self, cursor: list[int] | None) -> loop.NoBatches:
    """Days are simulated inside the update."""
    del cursor
    return loop.NoBatches()

  def update(
      self, state: State, batch: None
  ) -> tuple[State, dict[str, Any]]:
    """One update of all."""
    del batch
    learner, diagnostics = self._update(
        state.learner, self._params, self.recipe.settings)
    try:
      finite.check_finite(diagnostics.bad)
    except ValueError as error:
      raise errors.UserError(f"training stopped: {error}") from error
    return state._replace(learner=learner), {
        "loss": jnp.mean(diagnostics.policy_loss),
        **{name: value for name, value in diagnostics._asdict().items()
           if name != "bad"}}

  def evaluate(
      self, state: State, step: int
  ) -> tuple[State, dict[str, Any]]:
    """Clicks and costs of a day in the world of the fit, without noise."""
    learner = state.learner
    outcome = self._outcome(learner, jax.random.key(self._seed))
    best = better(state.best, Best(
        (learner.params, learner.statistics),
        jnp.full(self.num_seeds, step, jnp.int32),
        excess_of(outcome["cost"], self.recipe.allowed), outcome["reward"]))
    return state._replace(best=best), {"validation": {
        name: values.tolist()
        for name, values in jax.device_get(outcome).items()}}


def excess_of(cost: jax.Array, allowed: jax.Array) -> jax.Array:
  """By how much costs `[S, Q]` are above what is allowed `[Q]`, together."""
  return jnp.sum(jnp.maximum(cost - allowed[None], 0), axis=-1)


def better(best: Best, other: Best) -> Best:
  """The better of two evaluations, learner by learner."""
  is_better = (other.excess < best.excess) | (
      (other.excess == best.excess) & (other.reward > best.reward))
  return jax.tree.map(
      lambda new, old: jnp.where(
          trajectory_lib.expand(is_better, new), new, old), other, best)


def _outcome(
    recipe: Recipe, params: simulator_lib.Params, learner: ppo.Learner,
    key: jax.Array,
) -> dict[str, jax.Array]:
  """CTR, reward and costs of a day under one learner's mean action."""
  policy_fn = functools.partial(
      ppo.mean_action, learner.params, learner.statistics,
      config=recipe.config)
  outcome = rollout.simulate_days(
      recipe.simulator, params, policy_fn, key=key,
      num_users=_EVALUATION_USERS)
  return {"ctr": outcome.clicks.sum() / outcome.exposures.sum(),
          "reward": outcome.reward.sum() / outcome.counted[:, 0].sum(),
          "cost": outcome.cost.sum(0) / outcome.counted.sum(0)}


def train(task: PageTask, workdir: pathlib.Path) -> Trained:
  """Trains to the end, from the newest checkpoint if there is one."""
  config = task.recipe.config
  per_update = config.num_envs * config.num_steps * task.num_seeds
  fitted = loop.fit(task, workdir, num_steps=task.recipe.num_updates,
                    examples_per_step=per_update)
  rate = fitted.steps_per_second * per_update
  return Trained(task.recipe, fitted.state, rate if rate > 0 else float("nan"))


def train_all(
    config: config_lib.Config, workdir: pathlib.Path,
    fitted: world_lib.FittedLog, limit: limits.Limit,
) -> dict[str, Trained]:
  """Trains every recipe, each in a folder of its name."""
  params = starting_params(config, fitted, limit)
  trained = {}
  for name, recipe in recipes(config, fitted, limit).items():
    print(f"training {name}", flush=True)
    task = PageTask(recipe, fitted.fit, params,
                    num_seeds=config.scale.num_seeds, seed=config.seed)
    trained[name] = train(task, workdir / name)
  return trained


def starting_params(
    config: config_lib.Config, fitted: world_lib.FittedLog,
    limit: limits.Limit,
) -> simulator_lib.Params:
  """The world of the fit: the base's scores, at the limit's theta."""
  params = world_lib.calibrated(
      fitted.params, fitted.calibrations[config.base])
  return world_lib.at_theta(params, limit.theta)


def recipes(
    config: config_lib.Config, fitted: world_lib.FittedLog,
    limit: limits.Limit,
) -> dict[str, Recipe]:
  """What is trained: the policy, a bandit, and the paper's policy."""
  # The cost of an exposure floor is minus the share.
  floors = fitted.floors if fitted.simulator.exposure_costs else []
  thresholds = jnp.array([limit.target, *(-floor for floor in floors)])
  allowed = jnp.array([limit.allowed, *(
      -(1 - limits.TOLERANCE) * floor for floor in floors)])
  multiplier = (jnp.array([limit.price, *(0.0 for _ in floors)])
                if config.multiplier is None else config.multiplier)
  controller = limits.controller(config.constraint, thresholds, multiplier)
  paper = _paper_recipe(config, fitted.simulator, controller, allowed)
  if config.preset == "paper":
    return {"ppo": paper}
  modern = functools.partial(
      _modern_recipe, config, fitted.simulator, controller, allowed)
  return {"ppo": modern(config.discount), "bandit": modern(0.0),
          "ppo_paper": paper}


def _modern_recipe(
    config: config_lib.Config, simulator: simulator_lib.Simulator,
    controller: constraints.Controller, allowed: jax.Array, discount: float,
) -> Recipe:
  """Expected rewards, ahead of the page without actions."""
  simulator = dataclasses.replace(simulator, expected_rewards=True)
  num_updates = config.num_updates or config.scale.num_updates
  learner = dataclasses.replace(
      ppo_config.PpoConfig.modern(simulator), num_envs=config.num_envs,
      num_minibatches=8, actor_learning_rate=config.learning_rate,
      target_kl=0.05, num_updates=num_updates)
  return Recipe(
      simulator, learner, _settings(simulator, controller, discount), allowed,
      num_updates, is_paired=True)


def _paper_recipe(
    config: config_lib.Config, simulator: simulator_lib.Simulator,
    controller: constraints.Controller, allowed: jax.Array,
) -> Recipe:
  """An action for each slot and category, sampled clicks, theta fixed."""
  simulator = dataclasses.replace(
      simulator, layout="slot_category", knob=False)
  learner = dataclasses.replace(
      ppo_config.PpoConfig.paper(simulator),
      num_envs=min(config.num_envs, _PAPER_MAX_ENVS))
  return Recipe(
      simulator, learner,
      _settings(simulator, controller, _PAPER_DISCOUNT), allowed,
      config.num_updates or config.scale.num_updates, is_paired=False)


def _settings(
    simulator: simulator_lib.Simulator, controller: constraints.Controller,
    discount: float,
) -> ppo_config.Settings:
  rewards = simulator.num_rewards
  return ppo_config.Settings(
      jnp.ones(rewards), jnp.full(rewards + simulator.num_costs, discount),
      controller)
