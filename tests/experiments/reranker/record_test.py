"""What the report shows is computed from results and metrics."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import policies
from experiments.reranker import record
from harmonrank_jax.reranker import simulator as simulator_lib

LIMIT = limits.Limit(
    limits.Probe(0.4, 1.4, np.ones(1), 1.0), 1.0, "platt", 0.8, 2.5)


def make_results(ctrs, costs):
  """One seed, one moving world and the static one, one day, one category."""
  shape = (1, 2, 1)
  days = {
      name: judging.Days(
          np.full((*shape, 1), ctr), np.ones((*shape, 1)),
          np.full((*shape, 1), ctr), np.full(shape, cost), np.ones(shape),
          np.ones(shape))
      for (name, ctr), cost in zip(ctrs.items(), costs, strict=True)}
  contenders = {
      name: policies.Contender(
          simulator_lib.Simulator(privileged=name == "privileged"), None,
          policies.constant_action, jnp.zeros(1)) for name in ctrs}
  return judging.compare(days, LIMIT, contenders, {})


@pytest.mark.parametrize("costs, expected", [
    pytest.param((1.0, 0.9, 1.3, 0.5), ("a", True, True), id="one keeps"),
    pytest.param((1.3, 1.3, 1.3, 0.5), ("b", False, False), id="none keeps"),
    pytest.param((1.01, 1.3, 1.015, 0.5), ("b", True, True),
                 id="within the tolerance")])
def test_the_lead_is_over_the_best_that_may_be_compared(costs, expected):
  results = make_results(
      {"ppo": 0.4, "a": 0.3, "b": 0.35, "privileged": 0.5}, costs)
  lead = record.find_lead(LIMIT, results)
  assert (lead.rival, lead.rival_keeps, lead.keeps) == expected
  ctr = {"a": 0.3, "b": 0.35}[lead.rival]
  assert lead.ahead.mean == pytest.approx(0.4 - ctr)


def test_there_may_be_no_rival():
  results = make_results({"ppo": 0.4, "privileged": 0.5}, (1.0, 0.5))
  assert record.find_lead(LIMIT, results) == (None, None, False, True)


def test_a_training_is_read_line_by_line(tmp_path):
  lines = [
      {"step": 0, "validation": {"ctr": [0.3, 0.4]}},
      {"step": 1, "train": {
          "multipliers": [[0.1, 9], [0.2, 9]], "violation": [[None, 9]] * 2,
          "explained_variance": [[0.2, None, 0.5], [None, None, 0.6]],
          "approx_kl": [0.01, 0.02]}}]
  (tmp_path / "metrics.jsonl").write_text(
      "".join(json.dumps(line) + "\n" for line in lines))
  training = record.read_training(tmp_path, num_rewards=2)
  np.testing.assert_array_equal(training.ctr.steps, [0])
  np.testing.assert_array_equal(training.ctr.values, [[0.3, 0.4]])
  np.testing.assert_array_equal(training.multiplier.values, [[0.1, 0.2]])
  assert np.isnan(training.violation.values).all()
  # Means over the rewards that are defined; NaN if none is.
  np.testing.assert_array_equal(
      training.reward_variance.values, [[0.2, np.nan]])
  np.testing.assert_array_equal(training.cost_variance.values, [[0.5, 0.6]])
  np.testing.assert_array_equal(training.kl.values, [[0.01, 0.02]])


def test_bins_are_quantiles():
  rng = np.random.default_rng(0)
  predicted = rng.uniform(0.1, 0.9, 1000)
  clicks = rng.random(1000) < predicted
  categories = np.zeros(1000, int)
  bins = lambda values: record.bins_by_category(
      values, clicks=clicks, categories=categories, num_categories=2)
  mean = np.mean([abs(predicted[part].mean() - clicks[part].mean())
                  for part in np.array_split(np.argsort(predicted), 10)])
  assert record.gap(bins(predicted)) == pytest.approx(mean)
  assert record.gap(bins(0.5 * predicted)) > 0.2
  assert [each.size for each in bins(predicted)] == [1000, 0]


def test_no_exposures_have_no_gap():
  none = np.zeros(0)
  assert np.isnan(record.gap(record.bins_by_category(
      none, clicks=none, categories=none, num_categories=2)))
