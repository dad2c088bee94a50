"""The policies that are compared on the home page.

Static ones show predicted or calibrated scores, at theta as configured or at
the largest that keeps to the limit; one is the best constant action by
cross-entropy search; privileged ones see the state that users hide. Trained
ones are the policy asked for, a bandit, and PPO exactly as in the paper.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.reranker import config as config_lib
from experiments.reranker import limits
from experiments.reranker import training
from experiments.reranker import world as world_lib
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import search
from harmonrank_jax.reranker import simulator as simulator_lib

# At these thetas, the uncalibrated page is judged too.
_THETAS = (0.5, 0.95)
_SEARCH_USERS = 32


class Contender(NamedTuple):
  """A policy, or one for each seed, and the home page it acts on."""

  simulator: simulator_lib.Simulator
  params: simulator_lib.Params  # Judged with other responses.
  # From weights and observations `[B, O]` to actions `[B, A]`.
  action_fn: Callable[[Any, jax.Array], jax.Array]
  weights: Any  # A tree of arrays; with a leading axis S if `by_seed`.
  by_seed: bool = False  # Whether there is a policy for each seed.


@dataclasses.dataclass(frozen=True)
class _MeanAction:
  """A learner's mean action; for equal configurations it is compiled once."""

  config: ppo_config.PpoConfig

  def __call__(self, weights: Any, observations: jax.Array) -> jax.Array:
    params, statistics = weights
    return ppo.mean_action(
        params, statistics, observations, config=self.config)


def constant_action(weights: jax.Array, observations: jax.Array) -> jax.Array:
  """The same action for all: `[A]` to `[B, A]`."""
  return jnp.broadcast_to(weights, (len(observations), len(weights)))


def make_contenders(
    config: config_lib.Config, fitted: world_lib.FittedLog,
    limit: limits.Limit, trained: dict[str, training.Trained],
) -> dict[str, Contender]:
  """Everything that is compared, in the order of the table."""
  page = dataclasses.replace(fitted.simulator, layout="category")
  as_predicted = fitted.judge_params
  params = {name: world_lib.calibrated(as_predicted, calibration)
            for name, calibration in fitted.calibrations.items()}
  best = world_lib.at_theta(params[config.base], limit.theta)
  start = training.starting_params(config, fitted, limit)
  return {
      **{name: _static(page, value) for name, value in params.items()},
      "random": _static(page, _random(as_predicted, config.seed)),
      f"{config.base}_at_budget": _static(page, best),
      **{f"theta_{theta}": _static(
          page, world_lib.at_theta(as_predicted, theta)) for theta in _THETAS},
      "cross_entropy": _static(
          page, best, _search(page, start, limit, seed=config.seed)),
      **{name: _learnt(each, best) for name, each in trained.items()},
      **_privileged(config, page, fitted, limit)}


def _static(
    page: simulator_lib.Simulator, params: simulator_lib.Params,
    action: jax.Array | None = None,
) -> Contender:
  """A policy of one action; of no correction if it is not given."""
  action = jnp.zeros(page.action_size) if action is None else action
  return Contender(page, params, constant_action, action)


def _learnt(
    trained: training.Trained, params: simulator_lib.Params
) -> Contender:
  """The best mean actions of each learner, on the page it was trained for."""
  recipe = trained.recipe
  return Contender(
      dataclasses.replace(recipe.simulator, expected_rewards=False), params,
      _MeanAction(recipe.config), trained.state.best.policy, by_seed=True)


def _random(params: simulator_lib.Params, seed: int) -> simulator_lib.Params:
  """Scores without information, of the same spread."""
  noise = jax.random.normal(jax.random.key(seed), params.base.shape)
  return params._replace(base=jnp.std(params.base) * noise)


def _privileged(
    config: config_lib.Config, page: simulator_lib.Simulator,
    fitted: world_lib.FittedLog, limit: limits.Limit,
) -> dict[str, Contender]:
  """Pages that rank by the probabilities of the response itself."""
  page = dataclasses.replace(page, privileged=True)
  theta = limits.Thetas(page, seed=config.seed).at_budget(
      fitted.params, limit.target)
  return {
      "privileged": _static(page, fitted.judge_params),
      "privileged_at_budget": _static(
          page, world_lib.at_theta(fitted.judge_params, theta))}


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
    # In the unit of a click of the category that is worth most.
    worth = jnp.max(params.values)
    clicks = outcome.reward.sum() / slates / page.num_slots / jnp.where(
        worth > 0, worth, 1)
    # No click is worth an excess: a percent of the cost is one of the CTR.
    excess = jnp.maximum(outcome.cost[:, 0].sum() / slates - limit.target, 0)
    return clicks - excess

  @jax.jit
  def find(params, key):
    return search.cross_entropy_search(
        functools.partial(score, params), page.action_size, key=key,
        num_rounds=15, population=24, initial_spread=0.3)

  return find(params, jax.random.key(seed)).mean
