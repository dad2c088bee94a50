"""What is trained, by preset and flags."""

import dataclasses
import types

import numpy as np
import pytest

from experiments.reranker import config as config_lib
from experiments.reranker import limits
from experiments.reranker import training
from experiments.reranker import world as world_lib
from experiments.runs import errors
from harmonrank_jax.reranker import finite
from harmonrank_jax.reranker import simulator as simulator_lib

CONFIG = config_lib.Config(num_envs=96, discount=0.25)
LIMIT = limits.Limit(
    limits.Probe(0.4, 1.4, np.ones(1), 1.0), 1.0, "platt", 0.8, 2.5)


def make_recipes(simulator=None, floors=(), **changes):
  """Recipes for a log of which only the page and its floors matter."""
  unknown = world_lib.FittedLog._make([None] * len(world_lib.FittedLog._fields))
  fitted = unknown._replace(
      simulator=simulator or simulator_lib.Simulator(knob=True),
      floors=list(floors))
  return training.recipes(
      dataclasses.replace(CONFIG, **changes), fitted, LIMIT)


def test_a_bandit_is_the_same_learner_without_a_future():
  recipes = make_recipes()
  assert list(recipes) == ["ppo", "bandit", "ppo_paper"]
  ours, bandit = recipes["ppo"], recipes["bandit"]
  assert ours.config == bandit.config and ours.is_paired
  assert set(np.asarray(ours.settings.discounts)) == {0.25}
  assert set(np.asarray(bandit.settings.discounts)) == {0.0}


def test_the_papers_policy_acts_by_slot_and_samples_clicks():
  paper = make_recipes()["ppo_paper"]
  assert paper.simulator.layout == "slot_category"
  assert not paper.simulator.knob and not paper.simulator.expected_rewards
  assert not paper.is_paired and paper.config.num_envs == 64


def test_the_papers_preset_trains_nothing_else():
  recipes = make_recipes(preset="paper")
  assert list(recipes) == ["ppo"] and not recipes["ppo"].is_paired


@pytest.mark.parametrize("num_updates, expected", [
    pytest.param(None, 30, id="by scale"), pytest.param(7, 7, id="by flag")])
def test_every_training_has_as_many_updates(num_updates, expected):
  recipes = make_recipes(num_updates=num_updates)
  assert {recipe.num_updates for recipe in recipes.values()} == {expected}


def evaluated(excess, reward, step):
  """An evaluation of four learners with a weight each."""
  return training.Best(
      (np.arange(4.0)[:, None] + step, np.arange(4) + step),
      np.full(4, step), np.float32(excess), np.float32(reward))


def test_the_best_evaluation_keeps_to_the_constraints():
  # By seed: more reward in vain, less reward but kept, nearer, NaN.
  first = evaluated([0, 0.2, 0.2, 0.1], [1, 2, 3, 4], step=0)
  second = evaluated([0.1, 0, 0.1, np.nan], [9, 1, 1, 9], step=10)
  best = training.better(first, second)
  np.testing.assert_array_equal(best.step, [0, 10, 10, 0])
  np.testing.assert_array_equal(best.excess, np.float32([0, 0, 0.1, 0.1]))
  np.testing.assert_array_equal(best.policy[0][:, 0], [0, 11, 12, 3])
  np.testing.assert_array_equal(best.policy[1], [0, 11, 12, 3])
  # Among those that keep to them, the one of more reward; the first of equals.
  third = evaluated([0, 0, 0, 0], [2, 1, 0.5, 0], step=20)
  np.testing.assert_array_equal(
      training.better(best, third).step, [20, 10, 20, 20])


def test_excess_is_that_of_all_constraints():
  cost = np.float32([[0.5, -0.2], [1.25, -0.2], [1.25, 0.5], [0.5, 0]])
  np.testing.assert_allclose(
      training.excess_of(cost, np.float32([1.0, -0.1])),
      [0, 0.25, 0.25 + 0.6, 0.1], rtol=1e-6)


@pytest.mark.parametrize("multiplier, expected", [
    pytest.param(None, [LIMIT.price, 0, 0], id="by the probe"),
    pytest.param(0.5, 0.5, id="by flag")])
def test_multipliers_start_at_the_price_of_diversity(multiplier, expected):
  page = simulator_lib.Simulator(num_categories=2, exposure_costs=True)
  for recipe in make_recipes(
      page, floors=[0.0, 0.1], multiplier=multiplier).values():
    np.testing.assert_array_equal(
        recipe.settings.controller.initial, expected)


def test_a_bad_number_stops_the_training():
  numbers = finite.BadNumber(*np.int32([[-1, 3], [0, 5], [0, 2], [0, 1]]),
                             np.float32([0, np.nan]))
  task = types.SimpleNamespace(
      _params=None, recipe=make_recipes()["ppo"],
      _update=lambda *_: (None, types.SimpleNamespace(bad=numbers)))
  with pytest.raises(errors.UserError, match=(
      r"training stopped: reward 1 is nan in environment 2 at step 5 .* "
      r"learner 1")):
    training.PageTask.update(task, training.State(None, None), None)


def test_floors_are_thresholds_of_their_own():
  page = simulator_lib.Simulator(num_categories=2, exposure_costs=True)
  settings = make_recipes(page, floors=[0.0, 0.1])["ppo"].settings
  np.testing.assert_allclose(
      settings.controller.threshold, [LIMIT.target, 0.0, -0.1], rtol=1e-6)
  assert settings.discounts.shape == (2 + 3,)
  np.testing.assert_allclose(
      make_recipes(page, floors=[0.0, 0.1])["ppo"].allowed,
      [LIMIT.allowed, 0.0, -0.098], rtol=1e-6)
