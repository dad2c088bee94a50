"""What a request for a policy or slates may bring, and in which types."""

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import chunks
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import functions
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import requests as requests_lib
from harmonrank_jax.serving import selector
from tests.serving import functions_test
from tests.serving import policy_stage_test
from tests.serving import policy_test

DAY = {"window": 50, "requests_today": 1, "since_last": 4,
       "shown_where": [True, True], "shown_categories": ["2", "?"],
       "shown_age": [4, 5], "shown_scores": [0.2, None],
       "shown_clicked": [True, False], "shown_dismissed": [False, False]}


def encoder_of(trained, **request):
  function = functions.select_function([trained])
  signature = manifest_lib.Signature(
      "select", "", function.inputs, function.outputs, {})
  return requests_lib.Encoder(signature, {
      "request": functions.defaults([trained]) | request, "stages": []}, {})


@pytest.fixture(name="encoder", scope="module")
def fixture_encoder():
  return encoder_of(policy_stage_test.policy_of(), categories=["7", "2", "x"])


def columns(**changes):
  return {"score": [0.2, 0.1, 0.3], "category": ["7", "x", "new"],
          "features": np.ones((3, policy_test.POLICY.num_features))} | changes


def test_categories_that_were_numbers_are_known_in_any_type(encoder):
  places = lambda values: encoder.candidates(
      columns(category=values), DAY).arrays["category_ids"].tolist()
  assert places(["7", "x", "new"]) == [[0, 2, -1]]
  assert places([7, 2, 3]) == places(np.array([7, 2, 3], np.int8)) == [
      [0, 1, -1]]
  assert places([7, None, 2]) == places([7.0, np.nan, 2.0]) == [[0, -1, 1]]
  shown = encoder.candidates(columns(), DAY | {"shown_categories": [2, 9]})
  assert shown.arrays["shown_categories"][0, -2:].tolist() == [1, -1]
  quotas = encoder.candidates(columns(), DAY | {"quotas": {7: 0, "x": 1}})
  slots = policy_test.SLOTS
  assert quotas.arrays["quotas"].tolist() == [[0, slots, 1]]


def test_what_a_policy_cannot_rank_is_not_served(encoder):
  served = lambda **changes: encoder.candidates(
      columns(**changes), DAY).is_served.tolist()
  assert served() == [True] * 3
  assert served(score=[1.5, -0.2, 1.000001]) == [False, False, True]
  assert served(log_value=[-1, np.nan, -np.inf]) == [True, False, False]


def test_a_candidate_without_the_score_that_a_policy_corrects_is_not_served():
  policy = policy_stage_test.policy_of()
  ensemble = policy_stage_test.ensemble_of("aligned")
  function = functions.select_function([ensemble, policy])
  model = ensemble.model
  encoder = requests_lib.Encoder(
      manifest_lib.Signature(
          "select", "", function.inputs, function.outputs, {}),
      {"request": functions.defaults([ensemble, policy]) | {
          "categories": ["x"], "score_column": "score_o1"},
       "stages": [{"name": model.KIND, "schema": model.schema.to_json()}]},
      {model.KIND: model.features.to_json()})
  rows = columns() | dict.fromkeys(
      (*model.schema.categorical, *model.schema.numeric), 0)
  served = encoder.candidates(rows | {
      "score_o0": [0.1, None, 0.1], "score_o1": [0.1, 0.1, None]}, DAY)
  assert served.is_served.tolist() == [True, True, False]


@pytest.mark.parametrize("changes, said", [
    ({"shown_categories": ["2"]}, "one length, got .*shown_categories 1"),
    ({"shown_where": None}, "one length, got shown_where 0"),
    ({"shown_age": [None, 4]}, r"shown_age must be finite, got \[nan, 4.0\]"),
    ({"since_last": np.inf}, "since_last must be finite"),
    ({"requests_today": np.nan}, "requests_today must be finite"),
    ({"shown_scores": [[0.1], [0.1, 0.2]]}, "'shown_scores' is no array"),
    ({"shown_age": [10**400, 4]}, "'shown_age' holds a number .* too large"),
    ({"quotas": {3: 1, "y": 2}}, "unknown category '3'")])
def test_a_day_that_does_not_fit_is_one_error(encoder, changes, said):
  with pytest.raises(schema_lib.DataError, match=said) as error:
    encoder.candidates(columns(), DAY | changes)
  assert "\n" not in str(error.value)


def test_nothing_shown_before_is_an_empty_list():
  slates = functions_test.slates_of()
  encoder = encoder_of(slates, categories=list(slates.model.categories))
  rows = columns(features=np.ones((3, slates.model.num_features)))
  for shown in (None, [], [[]]):
    arrays = encoder.candidates(rows, {"shown": shown}).arrays
    assert arrays["shown_features"].shape == (
        1, 40, slates.model.num_features)
    assert not arrays["shown_features"].any()


@pytest.mark.parametrize("least", [0, 1_700_000_000_000])
def test_large_scores_are_told_apart_as_in_training(least):
  rng = np.random.default_rng(0)
  slates = functions_test.slates_of("dpp", "raw")
  scores = least + rng.random(40)
  chunk = chunks.Chunk(
      request_ids=pa.array(["a"]), item_ids=pa.array(range(40)),
      starts=np.array([0, 40]), scores=scores,
      categories=np.zeros(40, np.int32), num_repeated=0,
      features=rng.normal(size=(40, functions_test.NUM_FEATURES)).astype(
          np.float32))
  expected = selector.Selector("dpp", slates.model.rules)(
      chunk, scores, theta=slates.model.theta)
  inputs = encoder_of(slates, categories=["a", "b", "c"]).candidates(
      {"score": scores, "category": ["a"] * 40, "features": chunk.features},
      {"quotas": [40] * 3})
  found = functions.select_function([slates]).call({}, inputs.arrays)
  np.testing.assert_array_equal(found["indices"], expected.rows)
  np.testing.assert_allclose(found["gains"], expected.gains, rtol=1e-5)
