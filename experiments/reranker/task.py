"""The training of a re-ranking policy, run by `runs.loop`."""

import functools
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.reranker import world as world_lib
from experiments.runs import loop
from harmonrank_jax.reranker import paired
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import response_fit
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator as simulator_lib

# For each seed, an evaluation simulates the day of so many users.
_EVALUATION_USERS = 128


class Recipe(NamedTuple):
  """What is trained, and how.

  Attributes:
    simulator: the home page as the learner sees it in training.
    config: configuration of the learner.
    settings: weights, discounts, constraints.
    num_updates: length of the training.
    is_paired: whether rewards are differences to the page without actions.
  """

  simulator: simulator_lib.Simulator
  config: ppo_config.PpoConfig
  settings: ppo_config.Settings
  num_updates: int
  is_paired: bool


class Trained(NamedTuple):
  """The end of a training.

  Attributes:
    learner: S learners, stacked.
    user_steps_per_second: of all seeds together; NaN if too few were timed.
  """

  learner: ppo.Learner
  user_steps_per_second: float


class PageTask:
  """PPO in many augmented worlds, all seeds in one compiled update."""

  def __init__(
      self, recipe: Recipe, fit: response_fit.ResponseFit,
      params: simulator_lib.Params, *, num_seeds: int, seed: int,
  ):
    """Draws the worlds.

    Args:
      recipe: what is trained.
      fit: the response, whose replicates worlds are made from.
      params: the world of the fit, with the scores that the page ranks by.
      num_seeds: S.
      seed: of worlds and learners.
    """
    self._recipe, self._num_seeds, self._seed = recipe, num_seeds, seed
    response, arrivals = world_lib.training_worlds(
        fit, params.arrivals, recipe.config.num_envs, seed=seed)
    self._params = params._replace(response=response, arrivals=arrivals)
    environment = (paired.Paired(recipe.simulator) if recipe.is_paired
                   else recipe.simulator)

    learning = ppo.Ppo(
        environment, recipe.config, params_axes=world_lib.WORLD_AXES)
    over_seeds = functools.partial(jax.vmap, in_axes=(0, None, None))
    self._init = jax.jit(over_seeds(learning.init))
    self._update = jax.jit(over_seeds(learning.update), donate_argnums=0)
    self._outcome = jax.jit(jax.vmap(
        functools.partial(_outcome, recipe, params), in_axes=(0, None)))

  def init(self) -> ppo.Learner:
    """Learners before their first update."""
    keys = jax.random.split(jax.random.key(self._seed), self._num_seeds)
    return self._init(keys, self._params, self._recipe.settings)

  def batches(self, cursor: list[int] | None) -> loop.NoBatches:
    """Days are simulated inside the update."""
    del cursor
    return loop.NoBatches()

  def update(
      self, state: ppo.Learner, batch: None
  ) -> tuple[ppo.Learner, dict[str, Any]]:
    """One update of all."""
    del batch
    state, diagnostics = self._update(
        state, self._params, self._recipe.settings)
    return state, {
        "loss": jnp.mean(diagnostics.policy_loss), **diagnostics._asdict()}

  def evaluate(
      self, state: ppo.Learner, step: int
  ) -> tuple[ppo.Learner, dict[str, Any]]:
    """Clicks and costs of a day in the world of the fit, without noise."""
    del step
    outcome = jax.device_get(self._outcome(state, jax.random.key(self._seed)))
    return state, {"validation": {
        name: values.tolist() for name, values in outcome.items()}}


def _outcome(
    recipe: Recipe, params: simulator_lib.Params, learner: ppo.Learner,
    key: jax.Array,
) -> dict[str, jax.Array]:
  """CTR and costs of a day under one learner's mean action."""
  policy_fn = functools.partial(
      ppo.mean_action, learner.params, learner.statistics,
      config=recipe.config)
  outcome = rollout.simulate_days(
      recipe.simulator, params, policy_fn, key=key,
      num_users=_EVALUATION_USERS)
  return {"ctr": outcome.clicks.sum() / outcome.exposures.sum(),
          "cost": outcome.cost.sum(0) / outcome.counted.sum(0)}


def train(
    task: PageTask, workdir: pathlib.Path, recipe: Recipe, num_seeds: int
) -> Trained:
  """Trains to the end, from the newest checkpoint if there is one."""
  config = recipe.config
  per_update = config.num_envs * config.num_steps * num_seeds
  fitted = loop.fit(task, workdir, num_steps=recipe.num_updates,
                    examples_per_step=per_update)
  rate = fitted.steps_per_second * per_update
  return Trained(fitted.state, rate if rate > 0 else float("nan"))
