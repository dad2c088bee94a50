"""A policy behind the stages whose scores it corrects."""

import dataclasses

import jax
import numpy as np
import pytest

from harmonrank_jax.data import schema
from harmonrank_jax.ensemble import network
from harmonrank_jax.serving import functions
from harmonrank_jax.serving import models
from harmonrank_jax.serving import policy as policy_lib
from tests.serving import functions_test as stages
from tests.serving import policy_test

POLICY = dataclasses.replace(
    policy_test.POLICY,
    columns=policy_test.POLICY.columns._replace(score="score_o1"))


def policy_of(**changes):
  return models.Trained(
      dataclasses.replace(POLICY, **changes),
      models.flat(policy_lib.parameters_of(policy_test.deployed())))


def ensemble_of(head):
  """Without parameters."""
  return models.Trained(models.Ensemble(
      network.HarmonRankConfig(2, head=head), stages.schema_of(2),
      stages.features_of(2), (1.0, 1.0)), {})


def draw(function, num_requests=2, num_candidates=16):
  """Inputs of the function: those of a policy, and columns of rows."""
  inputs = policy_test.make_inputs(num_requests, num_candidates)
  rng = np.random.default_rng(3)
  sizes = {"b": num_requests, "n": num_candidates}
  for name, dtype, shape, _ in function.inputs:
    shape = tuple(sizes.get(size, size) for size in shape)
    if name not in inputs:
      inputs[name] = {
          "int32": lambda s: rng.integers(0, 3, s, np.int32),
          "bool": lambda s: rng.random(s) < 0.8,
          "float32": lambda s: rng.uniform(0.05, 0.95, s).astype(np.float32),
      }[dtype](shape)
  return {field.name: inputs[field.name] for field in function.inputs}


# Networks of an ensemble take long to draw.
@pytest.mark.slow
@pytest.mark.parametrize("front", [
    pytest.param((stages.predictor_of, stages.ensemble_of), id="both"),
    pytest.param((stages.ensemble_of,), id="ensemble"),
    pytest.param((stages.predictor_of,), id="predictor")])
def test_a_policy_corrects_what_the_stages_before_it_make(front):
  trained = [*(make(2) for make in front), policy_of()]
  function = functions.select_function(
      trained, max_shown=policy_test.SHOWN, request_columns=("age",))
  inputs = draw(function)
  assert not {"scores", "log_value"} & set(inputs)
  results = jax.tree.map(
      np.asarray, jax.jit(function.call)(function.parameters, inputs))
  assert set(results) == {field.name for field in function.outputs}
  if "objective_scores" in results:
    clicks = results["objective_scores"][..., 1]
  else:
    clicks = np.where(inputs["ensemble.has_score"][..., 1],
                      inputs["ensemble.scores"][..., 1], np.nan)
  value = 0 * clicks
  if "ranking_score" in results:
    value = np.log(results["ranking_score"] / np.clip(clicks, 1e-4, 1 - 1e-4))
  alone = functions.select_function(
      [policy_of()], max_shown=policy_test.SHOWN)
  expected = alone.call(alone.parameters, {
      **{field.name: inputs[field.name] for field in alone.inputs
         if field.name in inputs}, "scores": clicks, "log_value": value})
  np.testing.assert_array_equal(results["indices"], expected["indices"])
  np.testing.assert_allclose(
      results["gains"], expected["gains"], rtol=1e-3, atol=1e-3)
  assert (results["indices"] >= 0).any()


def test_a_request_may_choose_what_the_run_did():
  assert functions.defaults([policy_of()]) == {
      "theta": 0.7, "quotas": [policy_test.SLOTS] * policy_test.CATEGORIES,
      "log_value": 0.0, "requests_today": 0.0, "since_last": 0.0}
  assert "log_value" not in functions.defaults([policy_of(relevance="pctcvr")])


@pytest.mark.parametrize("front, changes, said", [
    ((stages.slates_of,), {}, "take one of them"),
    ((lambda: stages.predictor_of(2),), {"relevance": "pctcvr"},
     "add the run of an ensemble"),
    ((lambda: ensemble_of("score"),), {}, "--head=aligned"),
    ((lambda: ensemble_of("aligned"),),
     {"columns": policy_test.POLICY.columns}, "'score_click'.*score_o0")])
def test_what_does_not_go_with_a_policy_is_said_in_one_line(
    front, changes, said):
  with pytest.raises(schema.DataError, match=said) as error:
    functions.check([*(make() for make in front), policy_of(**changes)])
  assert "\n" not in str(error.value)
