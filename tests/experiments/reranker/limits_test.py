"""Limits of diversity: thresholds, targets and what is feasible."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reranker import config as config_lib
from experiments.reranker import limits
from harmonrank_jax.reranker import simulator as simulator_lib

PROBE = limits.Probe(0.4, 1.2, np.array([0.8, 1.0, 1.2]), 0.95)


def limit_of(threshold):
  return limits.Limit(PROBE, threshold, "platt", 0.8, 1.0)


def test_a_threshold_is_the_mean_or_a_quantile():
  assert PROBE.threshold(None) == 0.95
  assert PROBE.threshold(0.5) == 1.0


def test_a_threshold_may_be_out_of_reach():
  assert limit_of(0.5).is_feasible
  assert not limit_of(0.3).is_feasible


@pytest.mark.parametrize("threshold, target", [
    pytest.param(0.9, 0.9 - 3 * 0.016, id="three tolerances below"),
    pytest.param(0.42, 0.4, id="no further than there is"),
    pytest.param(0.4, 0.4, id="no room at all"),
    pytest.param(0.3, 0.3, id="out of reach")])
def test_policies_aim_below(threshold, target):
  limit = limit_of(threshold)
  assert PROBE.tolerance == pytest.approx(0.016)
  assert limit.target == pytest.approx(target)
  assert limit.allowed == pytest.approx(target + PROBE.tolerance)
  # Whoever an evaluation lets pass is within what is tolerated.
  assert limit.is_kept(limit.allowed - threshold - 1e-9)
  assert not limit.is_kept(1.01 * PROBE.tolerance)


class Straight:
  """Days of which cost and reward are lines in theta."""

  price = limits.Thetas.price
  _key = None

  def __init__(self, cost, reward):
    self._cost, self._reward = cost, reward

  def _outcome(self, params, *, key):
    del key
    theta = np.float64(params.theta)
    # A second cost that does not count here.
    return types.SimpleNamespace(
        cost=np.array([[self._cost * theta, 9 * theta]] * 3),
        reward=np.array([[self._reward * theta, 1.0]] * 3))


@pytest.mark.parametrize("cost, reward, price", [
    pytest.param(2.0, 3.0, 1.5, id="clicks for diversity"),
    pytest.param(2.0, 3e-3, 1.5e-3, id="clicks of little worth"),
    pytest.param(2.0, -1.0, 0.0, id="diversity is clicked"),
    pytest.param(0.0, 1.0, 0.0, id="nothing to be had")])
def test_the_price_of_diversity(cost, reward, price):
  params = simulator_lib.Params._make(
      [None] * len(simulator_lib.Params._fields))
  found = Straight(cost, reward).price(params, 0.7)
  assert found == pytest.approx(price, rel=1e-4)


class Rarely:
  """Users of whom most do not come; the others cost 0.5, 1 and 1.5 a slate."""

  probe = limits.Thetas.probe
  _key = None

  def cost(self, params, theta):
    return theta

  def _outcome(self, params, *, key):
    counted = np.zeros((50, 1))
    counted[[3, 20, 40], 0] = [4, 2, 1]
    cost = np.zeros((50, 1))
    cost[[3, 20, 40], 0] = [2, 2, 1.5]
    return types.SimpleNamespace(cost=cost, counted=counted)


def test_who_does_not_come_has_no_cost():
  with np.errstate(invalid="ignore"):
    probe = Rarely().probe(None)
  np.testing.assert_array_equal(probe.today, [0.5, 1, 1.5])
  assert probe.threshold(0.5) == 1.0
  assert probe.mean == pytest.approx(5.5 / 7)


class OfTheta:
  """Costs that are known: theta itself, where `Thetas` simulates."""

  at_budget = limits.Thetas.at_budget

  def cost(self, params, theta):
    del params
    return theta


@pytest.mark.parametrize("threshold, theta", [
    pytest.param(0.6, 0.6, id="between"),
    pytest.param(1.0, 0.995, id="above all"),
    pytest.param(0.0, 0.02, id="below all")])
def test_the_largest_theta_that_keeps_to_a_threshold(threshold, theta):
  result = OfTheta().at_budget(None, threshold)
  assert result == pytest.approx(theta, abs=1e-3)
  assert result <= max(threshold, 0.02)


@pytest.mark.parametrize("rule", config_lib.CONSTRAINTS)
def test_every_rule_has_a_controller(rule):
  controller = limits.controller(rule, jnp.ones(2), 0.5)
  assert controller.initial == 0.5
  assert (controller.integral == 0) == (rule == "fixed")
