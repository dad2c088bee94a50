"""A policy as a function of arrays: exported, kept in files, and refusals."""

import dataclasses
import functools

import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from harmonrank_jax.data import schema
from harmonrank_jax.data import slate_rows
from harmonrank_jax.reranker import day as day_lib
from harmonrank_jax.reranker import policy as policy_lib
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import request as request_lib
from harmonrank_jax.reranker import score_calibration
from harmonrank_jax.reranker import simulator as simulator_lib
from harmonrank_jax.reranker import trajectory
from harmonrank_jax.serving import models
from harmonrank_jax.serving import policy as serving

CATEGORIES, SLOTS, WIDTH, SHOWN = 3, 4, 5, 8
PAGE = simulator_lib.Simulator(
    num_categories=CATEGORIES, num_slots=SLOTS, num_candidates=12, knob=True)
CONFIG = ppo_config.PpoConfig.modern(PAGE)
POLICY = serving.Policy(
    PAGE, CONFIG.policy, CONFIG.normalise_observations, 0.7, "pctr",
    ("a", "b", "c"), WIDTH, 2.0, slate_rows.SlateColumns(user="who"))


@functools.cache
def deployed():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  networks = policy_lib.ActorCritic(CONFIG.policy).init(
      jax.random.key(0), jnp.zeros(PAGE.observation_size))["params"]
  size = PAGE.observation_size
  return jax.tree.map(np.asarray, request_lib.Deployed(
      networks["actor"] | {"mean": {
          "kernel": 0.3 * draw(64, PAGE.action_size),
          "bias": draw(PAGE.action_size)}},
      trajectory.Statistics(np.float32(3), draw(size), np.abs(draw(size))),
      score_calibration.Calibration(
          np.abs(draw(CATEGORIES)), np.sort(draw(CATEGORIES, 3)),
          np.sort(draw(CATEGORIES, 3)),
          draw(score_calibration.NUM_WINDOWS, CATEGORIES))))


def make_inputs(num_requests=3, num_candidates=20):
  rng = np.random.default_rng(1)
  sizes = {"b": num_requests, "n": num_candidates}
  draw = {
      "bool": lambda shape: rng.random(shape) < 0.8,
      "int32": lambda shape: rng.integers(-1, CATEGORIES, shape, np.int32),
      "float32": lambda shape: rng.random(shape, np.float32)}
  inputs = {name: draw[dtype](tuple(sizes.get(n, n) for n in shape))
            for name, dtype, shape, _ in serving.inputs_of(POLICY, SHOWN)}
  quotas = np.full((num_requests, CATEGORIES), SLOTS, np.int32)
  quotas[0] = 1
  inputs["features"] -= 0.5
  return inputs | {
      "quotas": quotas, "window": np.arange(num_requests, dtype=np.int32) + 90,
      "requests_today": np.arange(num_requests, dtype=np.float32),
      "shown_age": 9 * inputs["shown_age"]}


select = jax.jit(functools.partial(serving.select, POLICY))


def selected(inputs):
  return jax.tree.map(np.asarray, select(
      serving.parameters_of(deployed()), inputs))


def test_a_function_answers_as_the_policy_does():
  inputs = make_inputs()
  results = selected(inputs)
  for row in range(3):
    one = {name: values[row] for name, values in inputs.items()}
    expected = request_lib.answer(
        PAGE, CONFIG, deployed(), request_lib.Request(
            categories=one["category_ids"], features=one["features"],
            log_odds=special.logit(one["scores"]), log_value=one["log_value"],
            where=one["where"], history=day_lib.History(
                one["shown_categories"], one["shown_age"],
                special.logit(one["shown_scores"]), one["shown_clicked"],
                one["shown_dismissed"], one["shown_where"]),
            window=one["window"], requests_today=one["requests_today"],
            since_last=one["since_last"]),
        theta=one["theta"], quotas=one["quotas"])
    np.testing.assert_array_equal(results["indices"][row], expected.indices)
    np.testing.assert_allclose(
        results["gains"][row], expected.gains, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        results["diversity"][row], expected.diversity, atol=1e-3)
  assert (results["indices"][1:] >= 0).all()


@pytest.mark.slow
def test_what_is_described_is_what_is_exported(tmp_path):
  models.write_model(tmp_path, POLICY, serving.parameters_of(deployed()))
  model, parameters = models.read_model(tmp_path)
  assert model == POLICY
  symbols = dict(zip(
      ("b", "n"), export.symbolic_shape("b, n"), strict=True))
  arguments = {
      name: jax.ShapeDtypeStruct(
          tuple(symbols.get(size, size) for size in shape), dtype)
      for name, dtype, shape, _ in serving.inputs_of(model, SHOWN)}
  exported = export.export(
      jax.jit(lambda parameters, inputs: serving.select(
          model, models.nested(parameters), inputs)),
      platforms=("cpu", "cuda", "tpu"))(parameters, arguments)
  restored = export.deserialize(exported.serialize())
  calls = {line.split("@")[1].split("(")[0]
           for line in restored.mlir_module().splitlines()
           if "custom_call" in line}
  assert calls <= {"shape_assertion"}
  for size in (20, 33):
    inputs = make_inputs(num_candidates=size)
    results, expected = restored.call(parameters, inputs), selected(inputs)
    for name, dtype, shape, _ in serving.outputs_of(model):
      assert results[name].dtype == dtype
      assert results[name].shape == tuple(
          3 if size == "b" else size for size in shape)
      np.testing.assert_allclose(
          results[name], expected[name], rtol=1e-3, atol=1e-4)
    assert set(results) == {name for name, *_ in serving.outputs_of(model)}


def test_a_ranking_score_takes_the_place_of_the_predicted_click():
  scores = np.array([0.0, 0.2, 0.9], np.float32)
  ranking = np.array([0.3, 0.6, 0.0], np.float32)
  value = np.asarray(serving.value_of(ranking, scores))
  click = np.log(np.clip(scores, 1e-4, 1 - 1e-4))
  np.testing.assert_allclose(
      (value + click)[:2], np.log(ranking[:2]), rtol=1e-4)
  assert -100 < value[2] < -80


def test_no_candidate_is_shown_whose_score_is_no_probability():
  inputs = make_inputs()
  inputs["where"][:, :4] = True
  scores, where = inputs["scores"].copy(), inputs["where"].copy()
  scores[:, :4] = [np.nan, np.inf, -0.1, 1.1]
  where[:, :4] = False
  results = selected(inputs | {"scores": scores})
  jax.tree.map(np.testing.assert_array_equal, results,
               selected(inputs | {"where": where}))
  assert (results["indices"] >= 4).any()
  # An item of the day whose score is unknown was expected to have no click.
  shown = inputs["shown_scores"].copy()
  shown[:, 0] = np.nan
  np.testing.assert_array_equal(
      selected(inputs | {"shown_scores": shown})["indices"] >= 0,
      selected(inputs)["indices"] >= 0)
  # All scores that a log may hold can be shown.
  scores[:, :4] = [0, 1, -1e-6, 1 + 1e-6]
  where[:] = np.arange(where.shape[1]) < 4
  results = selected(inputs | {
      "scores": scores, "where": where,
      "quotas": np.full_like(inputs["quotas"], SLOTS)})
  np.testing.assert_array_equal(
      np.sort(results["indices"]), np.tile(np.arange(4), (3, 1)))


def test_a_policy_of_several_requests_a_window_is_refused_in_one_line():
  page = dataclasses.replace(PAGE, max_requests=2)
  with pytest.raises(schema.DataError, match="--max_requests=1") as error:
    serving.select(dataclasses.replace(POLICY, simulator=page), {}, {})
  assert "\n" not in str(error.value)
