"""Functions to be exported beside the models that they are made of."""

import functools

import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.data import encoding
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import items
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.diversity import greedy
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.predictor import pepnet
from harmonrank_jax.predictor import training
from harmonrank_jax.serving import functions
from harmonrank_jax.serving import models
from harmonrank_jax.serving import scorer
from harmonrank_jax.serving import selector

PLATFORMS = ("cpu", "cuda", "tpu")
CATEGORICAL, NUMERIC = ("age", "page", "device"), ("dwell", "hour")
SIZES, NUM_MEMBERS = (5, 3, 4), 2
NUM_SELECTED, NUM_FEATURES, MAX_SHOWN = 4, 3, 2


def schema_of(num_objectives, *, scores=True, categorical=CATEGORICAL):
  return schema_lib.Schema(
      tuple(schema_lib.Objective(
          f"o{m}", f"o{m}", f"score_o{m}" if scores else None)
            for m in range(num_objectives)),
      categorical=categorical, numeric=NUMERIC)


def features_of(num_objectives, scale=None):
  return encoding.Features(
      {name: list(range(size - 1))
       for name, size in zip(CATEGORICAL, SIZES, strict=True)},
      {name: [0.0, 1.0] for name in NUMERIC},
      {f"o{m}": scale for m in range(num_objectives)})


def random_like(params, seed):
  """Parameters that are all other than at the start."""
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  return jax.tree.unflatten(tree, [
      jnp.asarray(np.asarray(x) + 0.3 * rng.random(x.shape), jnp.float32)
      for x in leaves])


@functools.cache
def ensemble_of(num_objectives, head="aligned"):
  model = models.Ensemble(
      network.HarmonRankConfig(num_objectives, head=head, token_size=4),
      schema_of(num_objectives), features_of(num_objectives),
      tuple(1.0 + m for m in range(num_objectives)))
  rows = draw(2, num_objectives)
  profile = network.ProfileEncoder(SIZES)
  keys = jax.random.split(jax.random.key(0), NUM_MEMBERS)

  def init(key):
    encoder = profile.init(key, rows.categorical, rows.numeric)
    vectors = profile.apply(encoder, rows.categorical, rows.numeric)
    return {"encoder": encoder,
            "network": network.HarmonRank(model.config).init(
                key, rows.scores, vectors)}

  params = random_like(jax.jit(jax.vmap(init))(keys), num_objectives)
  # Shares and rates stay between 0 and 1.
  inner = params["network"]["params"]
  inner["base_rate"] = inner["base_rate"] * 0.4
  return models.Trained(model, models.flat(params))


@functools.cache
def predictor_of(num_objectives):
  config = pepnet.PepNetConfig(
      num_objectives, SIZES, domain=(1,), personal=(0,), shared_sizes=(8,),
      tower_sizes=(4,))
  rows = draw(2, num_objectives)
  params = jax.jit(pepnet.PepNet(config).init)(
      jax.random.key(1), rows.categorical, rows.numeric)
  return models.Trained(
      models.Predictor(config, schema_of(num_objectives, scores=False),
                       features_of(num_objectives)),
      models.flat(random_like(params, 7)))


def slates_of(method="dpp", relevance="log", **rules):
  return models.Trained(models.Slates(
      method, selector.Rules(num_selected=NUM_SELECTED, **rules), 0.6,
      relevance, ("a", "b", "c"), NUM_FEATURES, items.CandidateColumns()), {})


def draw(shape, num_objectives, seed=0):
  """Rows with unknown ids and missing scores."""
  shape = shape if isinstance(shape, tuple) else (shape,)
  rng = np.random.default_rng(seed)
  return ranker_lib.Rows(
      None,
      np.clip(rng.random((*shape, num_objectives)), 1e-3, 0.999).astype(
          np.float32),
      rng.random((*shape, num_objectives)) < 0.7,
      rng.integers(SIZES, size=(*shape, len(SIZES))).astype(np.int32),
      rng.uniform(-1, 1, (*shape, len(NUMERIC))).astype(np.float32))


def exported(function):
  """A function that runs the exported bytes, at any size."""
  dims = dict(zip("bn", export.symbolic_shape("b, n"), strict=True))
  shapes = {
      field.name: jax.ShapeDtypeStruct(
          tuple(dims.get(size, size) for size in field.shape), field.dtype)
      for field in function.inputs}
  parameters = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), function.parameters)
  made = export.export(jax.jit(function.call), platforms=PLATFORMS)(
      parameters, shapes)
  assert made.platforms == PLATFORMS
  text = made.mlir_module()
  assert "stablehlo.custom_call" not in text or all(
      "shape_assertion" in line for line in text.splitlines()
      if "stablehlo.custom_call" in line)
  call = jax.jit(export.deserialize(made.serialize()).call)

  def run(inputs):
    assert set(inputs) == {field.name for field in function.inputs}
    outputs = call(function.parameters, inputs)
    sizes = {}
    for fields, arrays in ((function.inputs, inputs),
                           (function.outputs, outputs)):
      assert {field.name for field in fields} == set(arrays)
      for field in fields:
        array = arrays[field.name]
        assert array.dtype == field.dtype, field
        assert array.ndim == len(field.shape), field
        for size, found in zip(field.shape, array.shape, strict=True):
          assert found == sizes.setdefault(size, found if isinstance(
              size, str) else size), field
    return jax.device_get(outputs)

  return run


def columns_of(kind, rows):
  return {f"{kind}.categorical": rows.categorical,
          f"{kind}.numeric": rows.numeric}


def score_inputs(rows, weights=None):
  inputs = {**columns_of("ensemble", rows), "ensemble.scores": rows.scores,
            "ensemble.has_score": rows.has_score}
  return inputs if weights is None else {
      **inputs, "objective_weights": np.asarray(weights, np.float32)}


@pytest.mark.parametrize("num_objectives, head", [
    (1, "aligned"), pytest.param(3, "score", marks=pytest.mark.slow),
    pytest.param(16, "aligned", marks=pytest.mark.slow)])
def test_exported_scores_are_those_of_the_ensemble(num_objectives, head):
  trained = ensemble_of(num_objectives, head)
  weights = trained.model.objective_weights
  run = exported(functions.score_function([trained]))
  expect = scorer.Scorer(trained.model.ranker, np.asarray(weights))
  params = models.nested(trained.parameters)
  rows = draw(300, num_objectives)
  full = features_lib.Batch(
      np.zeros((300, num_objectives), bool), *rows[1:5],
      *np.zeros((3, 300), np.int64))
  expected = expect(params, full)
  assert expected.std() > 1e-2
  for count in (1, 300):
    part = jax.tree.map(lambda x, count=count: x[:count], rows)
    found = run(score_inputs(part, weights if head == "aligned" else None))
    np.testing.assert_allclose(
        found["ranking_score"], expected[:count], rtol=1e-6,
        atol=1e-6 * np.abs(expected).max())


def test_exported_scores_are_those_of_the_predictor():
  trained = predictor_of(3)
  run = exported(functions.score_function([trained]))
  rows = draw(50, 3)
  logits = training.predict(
      models.nested(trained.parameters), rows.categorical, rows.numeric,
      config=trained.model.config)
  for count in (1, 50):
    part = jax.tree.map(lambda x, count=count: x[:count], rows)
    found = run(columns_of("predictor", part))
    np.testing.assert_allclose(
        found["objective_scores"],
        1 / (1 + np.exp(-np.asarray(logits, np.float64)[:count])), rtol=1e-6)


def fused(rows, num_objectives):
  """Scores `[N]` by the trained predictor and ensemble, one after the other."""
  predictor, (ensemble, params) = (
      predictor_of(num_objectives), ensemble_of(num_objectives))
  logits = training.predict(
      models.nested(predictor.parameters), rows.categorical, rows.numeric,
      config=predictor.model.config)
  probabilities = np.asarray(jax.nn.sigmoid(logits))
  joined = rows._replace(
      scores=probabilities, has_score=np.ones(probabilities.shape, bool))
  return probabilities, np.asarray(ensemble.ranker.mean_score(
      models.nested(params), joined, jnp.asarray(ensemble.objective_weights)))


@pytest.mark.slow
def test_a_predictor_feeds_the_ensemble():
  stages = [ensemble_of(3), predictor_of(3)]
  function = functions.score_function(stages)
  assert {name.split("/")[0] for name in function.parameters} == {
      "predictor", "ensemble"}
  rows = draw(40, 3)
  found = exported(function)({
      **columns_of("predictor", rows), **columns_of("ensemble", rows),
      "objective_weights": np.asarray([1, 2, 3], np.float32)})
  probabilities, scores = fused(rows, 3)
  np.testing.assert_allclose(
      found["objective_scores"], probabilities, rtol=1e-6)
  np.testing.assert_allclose(found["ranking_score"], scores, rtol=1e-6)


def select_inputs(num_requests, num_candidates, seed=0):
  rng = np.random.default_rng(seed)
  shape = (num_requests, num_candidates)
  return {
      "where": rng.random(shape) < 0.8,
      "category_ids": rng.integers(-1, 3, shape).astype(np.int32),
      "features": rng.normal(size=(*shape, NUM_FEATURES)).astype(np.float32),
      "theta": rng.uniform(0.3, 0.8, num_requests).astype(np.float32),
      "quotas": rng.integers(1, 3, (num_requests, 3)).astype(np.int32),
      "shown_features": rng.normal(
          size=(num_requests, MAX_SHOWN, NUM_FEATURES)).astype(np.float32)}


@pytest.mark.parametrize("method", ["dpp", "mmr", "top_k"])
def test_slates_of_given_scores(method):
  run = exported(functions.select_function(
      [slates_of(method, window=3)], max_shown=MAX_SHOWN))
  for shape in ((1, 1), (3, 40)):
    inputs = select_inputs(*shape)
    scores = np.random.default_rng(1).random(shape).astype(np.float32)
    scores[0, 0] = 0  # The least relevant, not left out.
    found = run({**inputs, "scores": scores})
    same = {"num_selected": NUM_SELECTED, "where": inputs["where"],
            "category_ids": inputs["category_ids"],
            "quotas": inputs["quotas"]}
    relevance = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    if method == "top_k":
      expected = greedy.greedy_top_k(relevance, **same)
    else:
      expected = getattr(greedy, f"greedy_{method}")(
          inputs["features"], relevance, theta=inputs["theta"], window=3,
          shown_features=inputs["shown_features"], **same)
    np.testing.assert_array_equal(found["indices"], expected.indices)
    np.testing.assert_allclose(
        found["gains"], expected.gains, rtol=1e-5, atol=1e-5)
    assert (found["indices"] >= 0).any() == inputs["where"].any()


@pytest.mark.slow
def test_a_pool_comes_before_the_slate_at_any_size():
  pool = np.asarray([3, 2, 0], np.int32)
  run = exported(functions.select_function(
      [slates_of(relevance="raw", pool_quotas=pool)], max_shown=MAX_SHOWN))
  for shape in ((2, 3), (3, 40)):
    inputs = select_inputs(*shape)
    scores = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = run({**inputs, "scores": scores,
                 "score_top": np.zeros(shape[0], np.float32)})
    expected, gains = selector.select_slates(
        inputs["features"], scores, inputs["category_ids"], method="dpp",
        rules=selector.Rules(num_selected=NUM_SELECTED, pool_quotas=pool),
        theta=inputs["theta"], where=inputs["where"], quotas=inputs["quotas"],
        shown_features=inputs["shown_features"])
    np.testing.assert_array_equal(found["indices"], expected)
    np.testing.assert_allclose(found["gains"], gains, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_one_function_from_features_to_a_slate():
  stages = [slates_of(), ensemble_of(3), predictor_of(3)]
  # Two columns of the user, one between those of the candidate.
  function = functions.select_function(
      stages, request_columns=("page", "dwell"), max_shown=MAX_SHOWN)
  run = exported(function)
  shape = (3, 20)
  rows = draw(shape, 3)
  # What is given once is the same for all candidates.
  rows.categorical[..., 1] = rows.categorical[:, :1, 1]
  rows.numeric[..., 0] = rows.numeric[:, :1, 0]
  inputs = select_inputs(*shape)
  for kind in ("predictor", "ensemble"):
    inputs |= {
        f"{kind}.request_categorical": rows.categorical[:, 0, 1:2],
        f"{kind}.categorical": rows.categorical[..., [0, 2]],
        f"{kind}.request_numeric": rows.numeric[:, 0, :1],
        f"{kind}.numeric": rows.numeric[..., 1:]}
  weights = np.asarray([[1, 2, 3], [0, 0, 1], [1, 2, 3]], np.float32)
  found = run({**inputs, "objective_weights": weights})
  flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), rows)
  probabilities, scores = (x.reshape(*shape, *x.shape[1:])
                           for x in fused(flat, 3))
  np.testing.assert_allclose(
      found["objective_scores"], probabilities, rtol=1e-6)
  # The weights of each request: one and three are those of `fused`.
  np.testing.assert_allclose(
      found["ranking_score"][[0, 2]], scores[[0, 2]], rtol=2e-6)
  assert (np.abs(found["ranking_score"][1] - scores[1]) > 1e-3).all()
  same = {name: inputs[name] for name in (
      "where", "category_ids", "theta", "quotas", "shown_features")}
  expected = greedy.greedy_dpp(
      inputs["features"], jnp.log(found["ranking_score"]),
      num_selected=NUM_SELECTED, **same)
  np.testing.assert_array_equal(found["indices"], expected.indices)


def test_what_a_request_may_leave_out():
  found = functions.defaults([ensemble_of(3), slates_of()])
  assert found == {
      "objective_weights": [1, 2, 3], "theta": 0.6, "quotas": [4, 4, 4]}
  assert functions.defaults([slates_of(
      quotas=np.array([1, 2, 3], np.int32))])["quotas"] == [1, 2, 3]
  assert functions.defaults([ensemble_of(3, "score")]) == {}


def test_a_function_that_no_stage_makes():
  assert functions.score_function([slates_of()]) is None
  assert functions.select_function([ensemble_of(3)]) is None


@pytest.mark.parametrize("stages, said", [
    ([slates_of(), slates_of()], "two models of the kind slates"),
    ([lambda: predictor_of(3), slates_of()], "add the run of an ensemble"),
    ([lambda: ensemble_of(3, "score"), slates_of()], "--relevance=raw"),
    ([lambda: predictor_of(1), lambda: ensemble_of(3)],
     "'score_o1', which the predictor does not make")])
def test_stages_that_do_not_join_are_refused(stages, said):
  stages = [stage() if callable(stage) else stage for stage in stages]
  for function in (functions.score_function, functions.select_function):
    with pytest.raises(schema_lib.DataError, match=said) as caught:
      function(stages)
    assert "\n" not in str(caught.value)


def test_an_ensemble_of_other_scores_is_refused():
  trained = ensemble_of(3)
  for changes, said in (
      ({"features": features_of(3, (0.0, 1.0))}, "no probability"),
      ({"schema": schema_of(3, scores=False)}, "reads no score")):
    other = models.Trained(
        models.Ensemble(**{**vars(trained.model), **changes}), {})
    with pytest.raises(schema_lib.DataError, match=said):
      functions.check([predictor_of(3), other])


def test_an_unknown_column_of_requests_is_refused():
  with pytest.raises(schema_lib.DataError, match="did you mean 'age'"):
    functions.select_function(
        [slates_of(), ensemble_of(3)], request_columns=("agee",))
