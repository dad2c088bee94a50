"""The training of a re-ranking policy, for the loop of `loop.py`."""

import functools
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.reranker import world as home_page
from experiments.runs import loop
from harmonrank_jax.reranker import paired
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import response_fit
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator as simulator_lib

# Users whose day is simulated at an evaluation, for each seed.
_EVALUATION_USERS = 128


class Recipe(NamedTuple):
  """What a learner is.

  Attributes:
    simulator: the page it acts on, as it is trained.
    config: of the learner.
    settings: weights, discounts, constraints.
    num_updates: of the training.
    is_paired: whether rewards are those ahead of the page without actions.
  """

  simulator: simulator_lib.Simulator
  config: ppo.PpoConfig
  settings: ppo.Settings
  num_updates: int
  is_paired: bool


class Trained(NamedTuple):
  """The end of a training.

  Attributes:
    learner: S of them, stacked.
    user_steps_per_second: of all seeds together; NaN if too few to time.
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
      fit: of the response, of which worlds are made.
      params: the world of the fit, with the scores that the page goes by.
      num_seeds: S.
      seed: of worlds and learners.
    """
    self._recipe, self._num_seeds, self._seed = recipe, num_seeds, seed
    response, arrivals = home_page.training_worlds(
        fit, params.arrivals, recipe.config.num_envs, seed=seed)
    self._params = params._replace(response=response, arrivals=arrivals)
    environment = (paired.Paired(recipe.simulator) if recipe.is_paired
                   else recipe.simulator)
    of_all = lambda fn: jax.vmap(
        functools.partial(
            fn, environment=environment, config=recipe.config,
            params_axes=home_page.WORLD_AXES), in_axes=(0, None, None))
    self._init = jax.jit(of_all(ppo.init))
    self._update = jax.jit(of_all(ppo.update), donate_argnums=0)

    def outcome(learner, key):
      policy_fn = functools.partial(
          ppo.mean_action, learner.params, learner.statistics,
          config=recipe.config)
      found = rollout.simulate(
          recipe.simulator, params, policy_fn, key=key,
          num_users=_EVALUATION_USERS)
      return {"ctr": found.clicks.sum() / found.exposures.sum(),
              "cost": found.cost.sum(0) / found.counted.sum(0)}

    self._outcome = jax.jit(jax.vmap(outcome, in_axes=(0, None)))

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
    state, found = self._update(state, self._params, self._recipe.settings)
    return state, {"loss": jnp.mean(found.policy_loss), **found._asdict()}

  def evaluate(
      self, state: ppo.Learner, step: int
  ) -> tuple[ppo.Learner, dict[str, Any]]:
    """Clicks and costs of a day in the world of the fit, without noise."""
    del step
    found = jax.device_get(self._outcome(state, jax.random.key(self._seed)))
    return state, {"validation": {
        "ctr": found["ctr"].tolist(), "cost": found["cost"].tolist()}}


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
