"""What onnxruntime computes from the models is what JAX does."""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.data import schema
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.predictor import pepnet
from harmonrank_jax.predictor import training
from harmonrank_jax.serving import onnx as onnx_lib

VOCABULARIES = (5, 9)
NUM_NUMERIC = 2
SIZES = (1, 7, 512)


class Field(NamedTuple):
  """An input."""

  name: str
  dtype: str
  shape: tuple


def described(**arrays):
  """Inputs with any number of rows."""
  return [Field(name, array.dtype.name, ("b", *array.shape[1:]))
          for name, array in arrays.items()]


def session(model):
  """A function of arrays by name, run by onnxruntime on one thread."""
  onnxruntime = pytest.importorskip("onnxruntime")
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = options.inter_op_num_threads = 1
  run = onnxruntime.InferenceSession(
      model, options, providers=["CPUExecutionProvider"])
  names = [output.name for output in run.get_outputs()]
  return lambda inputs: dict(zip(names, run.run(None, inputs), strict=True))


def profile(rng, size):
  return {
      "categorical": rng.integers(
          0, VOCABULARIES, (size, 2)).astype(np.int32),
      "numeric": rng.normal(size=(size, NUM_NUMERIC)).astype(np.float32)}


def scored(rng, size, num_objectives):
  scores = rng.uniform(size=(size, num_objectives)).astype(np.float32)
  scores[rng.uniform(size=scores.shape) < 0.05] = 0
  return {**profile(rng, size), "scores": scores,
          "has_score": rng.uniform(size=scores.shape) < 0.7}


def disturbed(rng, parameters):
  """Away from the start, at which half of the network is zeros."""
  return jax.tree.map(
      lambda x: np.asarray(x * rng.uniform(0.8, 1.2, x.shape)
                           + rng.normal(0, 0.03, x.shape), np.float32),
      parameters)


def ranker_of(rng, config):
  """A function of rows and weights, with the parameters of four members."""
  ranker = ranker_lib.Ranker(config, VOCABULARIES)
  rows = lambda inputs: ranker_lib.Rows(
      None, inputs["scores"], inputs["has_score"], inputs["categorical"],
      inputs["numeric"])
  example = rows(scored(rng, 1, config.num_objectives))
  rates = jnp.full(config.num_objectives, 0.3)
  platt = calibration.Calibration(
      scale=jnp.ones_like(rates), shift=jnp.zeros_like(rates),
      base_rate=rates, unit=jnp.ones_like(rates), pair_share=rates)
  parameters = jax.vmap(lambda key: ranker.init(key, example, platt))(
      jax.random.split(jax.random.key(0), 4))

  def function(parameters, inputs):
    return {"ranking_score": ranker.mean_score(
        parameters, rows(inputs), inputs.get("objective_weights"))}

  return function, disturbed(rng, parameters)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", network.FUSIONS)
@pytest.mark.parametrize("num_objectives, head", [
    (1, "aligned"), (3, "aligned"), (16, "aligned"), (3, "score")])
def test_rankers_score_alike(num_objectives, head, fusion):
  pytest.importorskip("onnx")
  rng = np.random.default_rng(7)
  function, parameters = ranker_of(rng, network.HarmonRankConfig(
      num_objectives, head=head, fusion=fusion))
  inputs = described(**scored(rng, 1, num_objectives))
  weights = {}
  if head == "aligned":
    weights = {"objective_weights":
               rng.uniform(0.5, 2, num_objectives).astype(np.float32)}
    inputs.append(Field("objective_weights", "float32", (num_objectives,)))
  model = onnx_lib.convert(function, parameters, inputs)
  assert model == onnx_lib.convert(function, parameters, inputs)
  run = session(model)
  for size in SIZES:
    rows = {**scored(rng, size, num_objectives), **weights}
    wanted = jax.jit(function)(parameters, rows)["ranking_score"]
    got = run(rows)["ranking_score"]
    assert got.shape == (size,)
    assert size == 1 or np.ptp(wanted) > 0.1
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("config", [
    {}, {"domain": (0,), "personal": (1, 0)},
    {"epnet": False, "ppnet": False, "shared_sizes": ()},
], ids=["plain", "gates", "ungated"])
def test_predictors_score_alike(config):
  pytest.importorskip("onnx")
  rng = np.random.default_rng(8)
  config = pepnet.PepNetConfig(3, VOCABULARIES, **config)
  example = profile(rng, 1)
  parameters = disturbed(rng, pepnet.PepNet(config).init(
      jax.random.key(0), **example))

  def function(parameters, inputs):
    return {"objective_scores": jax.nn.sigmoid(training.predict(
        parameters, **inputs, config=config))}

  run = session(onnx_lib.convert(function, parameters, described(**example)))
  for size in SIZES:
    rows = profile(rng, size)
    wanted = jax.jit(function)(parameters, rows)["objective_scores"]
    got = run(rows)["objective_scores"]
    assert got.shape == (size, 3)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("function", [
    lambda x: jnp.einsum("bij,bkij->bk", x, x[:, None]),
    lambda x: jnp.broadcast_to(jnp.arange(4.0), (x.shape[0], 4)) + x[:, 0],
    lambda x: jax.lax.clamp(-0.5, x, 0.5) ** 3,
    lambda x: jax.nn.softplus(x).max(axis=1) - jax.nn.elu(x).min(axis=1),
    lambda x: x.reshape(x.shape[0] * 3, 4).sum(axis=1),
    lambda x: jnp.where(jnp.isfinite(jnp.log(x)), jnp.sign(x), x),
    lambda x: x @ np.arange(24, dtype=np.float32).reshape(4, 6),
    lambda x: x[:, np.array([2, 0]), :],
    lambda x: jnp.stack([x, -x], axis=1),
], ids=["einsum", "open", "clip", "softplus", "rows", "finite", "matrix",
        "places", "stack"])
def test_operations_compute_alike(function):
  pytest.importorskip("onnx")
  x = np.random.default_rng(9).normal(size=(5, 3, 4)).astype(np.float32)
  named = lambda _, inputs: {"y": function(inputs["x"])}
  got = session(onnx_lib.convert(named, {}, described(x=x)))({"x": x})["y"]
  np.testing.assert_allclose(got, function(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("function, said", [
    (lambda x: jnp.sort(x), "an operation sort"),
    (lambda x: x[:, np.arange(2), np.arange(2)], "more than one index"),
    (lambda x: jnp.zeros((x.shape[0] + 1, 4)), "no multiple"),
], ids=["sort", "indices", "sizes"])
def test_what_has_no_onnx_is_named(function, said):
  pytest.importorskip("onnx")
  named = lambda _, inputs: {"y": function(inputs["x"])}
  inputs = [Field("x", "float32", ("b", 4, 4))]
  with pytest.raises(schema.DataError, match=said):
    onnx_lib.convert(named, {}, inputs)


def test_a_missing_package_is_said_in_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "onnx", None)
  with pytest.raises(schema.DataError, match=r"pip install .*\[onnx\]"):
    onnx_lib.convert(lambda parameters, inputs: {}, {}, [])
