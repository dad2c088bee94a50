"""Which policy a run leaves, and what of it."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reranker import config as config_lib
from experiments.reranker import delivery
from experiments.reranker import training
from harmonrank_jax.reranker import policy as policy_lib
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import score_calibration
from harmonrank_jax.reranker import simulator as simulator_lib
from harmonrank_jax.reranker import trajectory
from harmonrank_jax.serving import models

PAGE = simulator_lib.Simulator(
    num_categories=2, num_slots=3, num_candidates=5, knob=True,
    expected_rewards=True)


@pytest.mark.parametrize("excess, reward, expected", [
    ([0, 0, 0], [1, 3, 2], 1), ([0.2, 0.1, 0], [9, 9, 1], 2),
    ([0.2, 0.1, 0.1], [9, 1, 2], 2)])
def test_the_best_keeps_to_the_constraints_before_it_has_most_reward(
    excess, reward, expected):
  best = training.Best(
      None, np.zeros(3), jnp.asarray(excess), jnp.asarray(reward))
  assert delivery.best_seed(best) == expected


def test_one_learner_is_left_with_the_page_and_the_scores_it_corrects(
    tmp_path):
  config = config_lib.Config(relevance="pctcvr", base="platt",
                             utc_offset_hours=8.0)
  learner = ppo_config.PpoConfig.paper(PAGE, hidden_sizes=(4,))
  networks = jax.vmap(lambda key: policy_lib.ActorCritic(learner.policy).init(
      key, jnp.zeros(PAGE.observation_size)))(
          jax.random.split(jax.random.key(0), 2))
  statistics = jax.tree.map(
      lambda leaf: jnp.stack([leaf, leaf + 1]),
      trajectory.no_statistics(PAGE.observation_size, variance=1))
  best = training.Best((networks, statistics), np.array([3, 4]),
                       np.zeros(2), np.array([1.0, 2.0]))
  recipe = training.Recipe(PAGE, learner, None, None, 4, True)
  trained = training.Trained(recipe, training.State(None, best), 1.0)
  calibrations = {
      name: score_calibration.Calibration(
          *(np.full(shape, value, np.float32)
            for shape in ((2,), (2, 1), (2, 1), (96, 2))))
      for name, value in (("platt", 0.5), ("isotonic", 2.0))}
  fitted = types.SimpleNamespace(
      calibrations=calibrations, log=types.SimpleNamespace(
          category_names=["x", "y"], item_features=np.zeros((9, 7))))
  models.write_model(tmp_path, *delivery.make_model(
      config, fitted, types.SimpleNamespace(theta=np.float32(0.75)), trained))
  model, parameters = models.read_model(tmp_path)
  assert model.simulator == dataclasses.replace(PAGE, expected_rewards=False)
  assert model.network == learner.policy and not model.normalise_observations
  assert (model.theta, model.relevance, model.utc_offset_hours) == (
      0.75, "pctcvr", 8.0)
  assert (model.categories, model.num_features) == (("x", "y"), 7)
  # Those of the embedded log.
  assert model.columns.value_score == "score_buy"
  parameters = models.nested(parameters)
  expected = jax.tree.map(lambda leaf: leaf[1], networks["params"]["actor"])
  jax.tree.map(np.testing.assert_array_equal, parameters["actor"], expected)
  assert set(parameters["statistics"]["variance"]) == {2}
  assert set(parameters["calibration"]["slope"]) == {0.5}
