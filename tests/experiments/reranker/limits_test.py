"""Limits of diversity: thresholds, targets and what is feasible."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reranker import config as config_lib
from experiments.reranker import limits

PROBE = limits.Probe(0.4, 1.2, np.array([0.8, 1.0, 1.2]), 0.95)


def test_a_threshold_is_the_mean_or_a_quantile():
  assert PROBE.threshold(None) == 0.95
  assert PROBE.threshold(0.5) == 1.0


def test_a_threshold_may_be_out_of_reach():
  assert limits.Limit(PROBE, 0.5, "platt", 0.8).is_feasible
  assert not limits.Limit(PROBE, 0.3, "platt", 0.8).is_feasible


def test_policies_aim_three_tolerances_below():
  limit = limits.Limit(PROBE, 0.9, "platt", 0.8)
  assert PROBE.tolerance == pytest.approx(0.02 * (1.2 - 0.4))
  assert limit.target == pytest.approx(0.9 - 3 * PROBE.tolerance)


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
