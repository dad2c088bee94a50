"""The policies that are compared on the home page.

Static ones show predicted or calibrated scores, at theta as configured or at
the largest that keeps to the limit; one is the best constant action by
cross-entropy search; privileged ones see the state that users hide. Trained
ones are the policy asked for, a bandit, and PPO exactly as in the paper.
"""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.reranker import config as config_lib
from experiments.reranker import limits
from experiments.reranker import task as task_lib
from experiments.reranker import world as world_lib
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import search
from harmonrank_jax.reranker import simulator as simulator_lib

# At these thetas, the uncalibrated page is judged too.
_THETAS = (0.5, 0.95)
_PAPER_DISCOUNT = 0.99
_PAPER_MAX_ENVS = 64
_SEARCH_USERS = 32


class Contender(NamedTuple):
  """A policy, or one for each seed, and the home page it acts on.

  Attributes:
    simulator: the home page.
    params: scores and theta; the response is that of the world judged in.
    action_fn: from weights and observations `[B, O]` to actions `[B, A]`.
    weights: a tree of arrays; with a leading axis S if `by_seed`.
    by_seed: whether there is a policy for each seed.
  """

  simulator: simulator_lib.Simulator
  params: simulator_lib.Params
  action_fn: Callable[[Any, jax.Array], jax.Array]
  weights: Any
  by_seed: bool = False


@dataclasses.dataclass(frozen=True)
class _MeanAction:
  """The mean action of a learner's weights.

  Equal configurations make equal functions, which are compiled once.
  """

  config: ppo_config.PpoConfig

  def __call__(self, weights: Any, observations: jax.Array) -> jax.Array:
    params, statistics = weights
    return ppo.mean_action(
        params, statistics, observations, config=self.config)


def constant_action(weights: jax.Array, observations: jax.Array) -> jax.Array:
  """The same action for all: `[A]` to `[B, A]`."""
  return jnp.broadcast_to(weights, (len(observations), len(weights)))


def make_contenders(
    config: config_lib.Config, workdir: pathlib.Path, world: world_lib.World,
    limit: limits.Limit,
) -> tuple[dict[str, Contender], dict[str, task_lib.Trained]]:
  """Everything that is compared, in the order of the table.

  Args:
    config: what the run depends on.
    workdir: every training has a folder in it.
    world: of the log.
    limit: what is asked of diversity.

  Returns:
    Contenders by name, and the trainings by name.
  """
  page = dataclasses.replace(world.simulator, layout="category")
  params = {name: world_lib.calibrated(world.judged, world.log, calibrate)
            for name, calibrate in config_lib.CALIBRATIONS.items()}
  best = _at_theta(params[config.base], limit.theta)
  start = _at_theta(world_lib.calibrated(
      world.params, world.log, config_lib.CALIBRATIONS[config.base]),
                    limit.theta)
  contenders = {name: _static(page, value) for name, value in params.items()}
  contenders["random"] = _static(page, _random(world.judged, config.seed))
  contenders[f"{config.base}_at_budget"] = _static(page, best)
  for theta in _THETAS:
    contenders[f"theta_{theta}"] = _static(
        page, _at_theta(world.judged, theta))
  contenders["cross_entropy"] = _static(
      page, best, _search(page, start, limit, seed=config.seed))
  trained, policies = _train_all(config, workdir, world, limit, start, best)
  return {**contenders, **policies,
          **_privileged(config, page, world, limit)}, trained


def _static(
    page: simulator_lib.Simulator, params: simulator_lib.Params,
    action: jax.Array | None = None,
) -> Contender:
  """A policy of one action; of no correction if it is not given."""
  action = jnp.zeros(page.action_size) if action is None else action
  return Contender(page, params, constant_action, action)


def _at_theta(
    params: simulator_lib.Params, theta: float
) -> simulator_lib.Params:
  return params._replace(theta=jnp.float32(theta))


def _random(params: simulator_lib.Params, seed: int) -> simulator_lib.Params:
  """Scores without information, of the same spread."""
  noise = jax.random.normal(jax.random.key(seed), params.base.shape)
  return params._replace(base=jnp.std(params.base) * noise)


def _privileged(
    config: config_lib.Config, page: simulator_lib.Simulator,
    world: world_lib.World, limit: limits.Limit,
) -> dict[str, Contender]:
  """Pages that rank by the probabilities of the response itself."""
  page = dataclasses.replace(page, privileged=True)
  theta = limits.Thetas(page, seed=config.seed).at_budget(
      world.params, limit.target)
  return {
      "privileged": _static(page, world.judged),
      "privileged_at_budget": _static(page, _at_theta(world.judged, theta))}


def _search(
    page: simulator_lib.Simulator, params: simulator_lib.Params,
    limit: limits.Limit, *, seed: int,
) -> jax.Array:
  """`[A]`, the best constant action in the world of the fit."""
  page = dataclasses.replace(page, expected_rewards=True)

  def score(params, key, action):
    outcome = rollout.simulate_days(
        page, params, functools.partial(constant_action, action), key=key,
        num_users=_SEARCH_USERS)
    slates = outcome.counted[:, 0].sum()
    clicks = outcome.reward.sum() / slates / page.num_slots
    # No click is worth an excess: a percent of the cost is one of the CTR.
    excess = jnp.maximum(outcome.cost[:, 0].sum() / slates - limit.target, 0)
    return clicks - excess

  @jax.jit
  def find(params, key):
    return search.cross_entropy_search(
        functools.partial(score, params), page.action_size, key=key,
        num_rounds=15, population=24, initial_spread=0.3)

  return find(params, jax.random.key(seed)).mean


def _train_all(
    config: config_lib.Config, workdir: pathlib.Path, world: world_lib.World,
    limit: limits.Limit, start: simulator_lib.Params,
    judged: simulator_lib.Params,
) -> tuple[dict[str, task_lib.Trained], dict[str, Contender]]:
  """Trains every recipe in the world of the fit, from a starting point."""
  trained, contenders = {}, {}
  num_seeds = config.scale.num_seeds
  for name, recipe in recipes(config, world, limit).items():
    print(f"training {name}", flush=True)
    task = task_lib.PageTask(
        recipe, world.fit, start, num_seeds=num_seeds, seed=config.seed)
    trained[name] = task_lib.train(task, workdir / name, recipe, num_seeds)
    learner = trained[name].learner
    contenders[name] = Contender(
        dataclasses.replace(recipe.simulator, expected_rewards=False),
        judged, _MeanAction(recipe.config),
        (learner.params, learner.statistics), by_seed=True)
  return trained, contenders


def recipes(
    config: config_lib.Config, world: world_lib.World, limit: limits.Limit
) -> dict[str, task_lib.Recipe]:
  """What is trained: the policy, a bandit, and the paper's policy."""
  thresholds = [limit.target]
  if world.simulator.exposure_costs:
    # The cost is minus the share.
    thresholds += [-floor for floor in world.floors]
  paper = _paper_recipe(config, world.simulator, thresholds)
  if config.preset == "paper":
    return {"ppo": paper}
  modern = functools.partial(
      _modern_recipe, config, world.simulator, thresholds)
  return {"ppo": modern(config.discount), "bandit": modern(0.0),
          "ppo_paper": paper}


def _modern_recipe(
    config: config_lib.Config, simulator: simulator_lib.Simulator,
    thresholds: list[float], discount: float,
) -> task_lib.Recipe:
  """Expected rewards, ahead of the page without actions."""
  simulator = dataclasses.replace(simulator, expected_rewards=True)
  num_updates = _num_updates(config)
  learner = dataclasses.replace(
      ppo_config.PpoConfig.modern(simulator), num_envs=config.num_envs,
      num_minibatches=8, actor_learning_rate=config.learning_rate,
      target_kl=0.05, num_updates=num_updates)
  return task_lib.Recipe(
      simulator, learner, _settings(config, simulator, thresholds, discount),
      num_updates, is_paired=True)


def _paper_recipe(
    config: config_lib.Config, simulator: simulator_lib.Simulator,
    thresholds: list[float],
) -> task_lib.Recipe:
  """An action for each slot and category, sampled clicks, theta fixed."""
  simulator = dataclasses.replace(
      simulator, layout="slot_category", knob=False)
  learner = dataclasses.replace(
      ppo_config.PpoConfig.paper(simulator),
      num_envs=min(config.num_envs, _PAPER_MAX_ENVS))
  return task_lib.Recipe(
      simulator, learner,
      _settings(config, simulator, thresholds, _PAPER_DISCOUNT),
      _num_updates(config), is_paired=False)


def _num_updates(config: config_lib.Config) -> int:
  return config.num_updates or config.scale.num_updates


def _settings(
    config: config_lib.Config, simulator: simulator_lib.Simulator,
    thresholds: list[float], discount: float,
) -> ppo_config.Settings:
  rewards, costs = simulator.num_rewards, simulator.num_costs
  controller = limits.controller(
      config.constraint, jnp.array(thresholds), config.multiplier)
  return ppo_config.Settings(
      jnp.ones(rewards), jnp.full(rewards + costs, discount), controller)
