"""The one policy that a run leaves, to answer requests elsewhere."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments.reranker import config as config_lib
from experiments.reranker import limits
from experiments.reranker import training
from experiments.reranker import world as world_lib
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import request as request_lib
from harmonrank_jax.serving import policy as policy_lib


def make_model(
    config: config_lib.Config, fitted: world_lib.FittedLog,
    limit: limits.Limit, trained: training.Trained,
) -> tuple[policy_lib.Policy, dict[str, Any]]:
  """The best of the learners, on the page that it corrects."""
  recipe = trained.recipe
  params, statistics = ppo.take_one(
      trained.state.best.policy, best_seed(trained.state.best))
  deployed = request_lib.Deployed(
      params["params"]["actor"], statistics, fitted.calibrations[config.base])
  return policy_lib.Policy(
      simulator=dataclasses.replace(recipe.simulator, expected_rewards=False),
      network=recipe.config.policy,
      normalise_observations=recipe.config.normalise_observations,
      theta=float(limit.theta), relevance=config.relevance,
      categories=tuple(fitted.log.category_names),
      num_features=fitted.log.item_features.shape[1],
      utc_offset_hours=config.utc_offset_hours,
      columns=world_lib.columns_of(config)), policy_lib.parameters_of(
          jax.tree.map(np.asarray, deployed))


def best_seed(best: training.Best) -> int:
  """The learner nearest to the constraints, of these that of most reward."""
  return int(np.lexsort((-np.asarray(best.reward), np.asarray(best.excess)))[0])
