"""The predictor against a transcription of its equations, and its gates."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.predictor import pepnet

CONFIG = pepnet.PepNetConfig(
    num_objectives=3, vocabulary_sizes=(7, 5, 4), domain=(2,), personal=(0, 1),
    embedding_size=4, shared_sizes=(6,), tower_sizes=(5,), gate_size=3)
PLAIN = dataclasses.replace(CONFIG, epnet=False, ppnet=False)


def sample(config=CONFIG, shape=(11,), num_numeric=2, seed=0):
  """Categorical and numeric columns."""
  rng = np.random.default_rng(seed)
  categorical = [rng.integers(size, size=shape)
                 for size in config.vocabulary_sizes]
  categorical = (np.stack(categorical, axis=-1) if categorical
                 else np.zeros((*shape, 0)))
  numeric = rng.uniform(-1, 1, (*shape, num_numeric))
  return (jnp.asarray(categorical, jnp.int32), jnp.asarray(numeric))


@functools.cache
def init(config=CONFIG):
  """Parameters at the start of training."""
  return jax.jit(pepnet.PepNet(config).init)(
      jax.random.key(0), *sample(config))


@functools.cache
def compiled(config=CONFIG):
  """From parameters and columns to log-odds."""
  return jax.jit(pepnet.PepNet(config).apply, static_argnames="is_training")


def shapes(config=CONFIG, num_numeric=2):
  """Parameters without values."""
  return jax.eval_shape(pepnet.PepNet(config).init, jax.random.key(0),
                        *sample(config, num_numeric=num_numeric))


def shaken(config=CONFIG, num_numeric=2, seed=0):
  """Parameters of unit size: biases and closed gates, too."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype),
                      shapes(config, num_numeric))


def shared_only(params):
  """The parameters that the ungated network has, too."""
  return {"params": {name: value for name, value in params["params"].items()
                     if "pnet" not in name}}


def transcription(config, params, categorical, numeric):
  """The equations, one row and one objective at a time, in float64."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
  relu = lambda x: np.maximum(x, 0)
  dense = lambda name, x: x @ params[name]["kernel"] + params[name]["bias"]
  gate = lambda name, x: 2 / (1 + np.exp(
      -dense(f"{name}_out", relu(dense(f"{name}_in", x)))))
  starts = np.cumsum([0, *config.vocabulary_sizes])
  result = np.empty((len(categorical), config.num_objectives))
  for row, entries in enumerate(np.asarray(categorical)):
    joined = lambda places, entries=entries: np.concatenate(
        [np.zeros(0), *(params["embedding"][starts[place] + entries[place]]
                        for place in places)])
    shared = np.concatenate(
        [joined(range(len(entries))), np.asarray(numeric)[row]])
    if config.epnet:
      shared = shared * gate(
          "epnet", np.concatenate([joined(config.domain), shared]))
    bottom = shared
    for layer in range(len(config.shared_sizes)):
      bottom = relu(dense(f"shared_{layer}", bottom))
    prior = np.concatenate([joined(config.personal), shared])
    for m in range(config.num_objectives):
      hidden = bottom
      for layer in range(len(config.tower_sizes) + 1):
        is_last = layer == len(config.tower_sizes)
        if config.ppnet:
          factors = gate(f"ppnet_{layer}", prior)
          hidden = hidden * factors.reshape(config.num_objectives, -1)[m]
        tower = params["tower_out" if is_last else f"tower_{layer}"]
        hidden = hidden @ tower["kernel"][m] + tower["bias"][m]
        hidden = hidden if is_last else relu(hidden)
      result[row, m] = hidden[0]
  return result


@pytest.mark.parametrize("change", [
    {}, {"epnet": False, "ppnet": False},
    {"epnet": False, "shared_sizes": (), "tower_sizes": (5, 4)},
    {"ppnet": False, "tower_sizes": (), "domain": ()},
    {"num_objectives": 1, "vocabulary_sizes": (), "domain": (),
     "personal": ()},
], ids=["both_gates", "no_gate", "ppnet", "epnet", "numeric_only"])
def test_agrees_with_a_transcription(change, x64):
  config = dataclasses.replace(CONFIG, **change)
  rows = sample(config)
  params = shaken(config)
  found = compiled(config)(params, *rows)
  assert found.shape == (11, config.num_objectives)
  np.testing.assert_allclose(
      found, transcription(config, params, *rows), rtol=1e-5, atol=1e-5)


def test_works_without_numeric_columns():
  params = shaken(num_numeric=0)
  found = compiled()(params, *sample(num_numeric=0))
  assert found.shape == (11, 3)
  assert np.isfinite(found).all()


def test_leading_axes_are_batch():
  rows = sample(shape=(2, 3))
  params = shaken()
  found = compiled()(params, *rows)
  assert found.shape == (2, 3, 3)
  np.testing.assert_allclose(found[1, 2], compiled()(
      params, *(x[1, 2] for x in rows)), rtol=1e-5)


def test_zero_gates_give_exactly_the_ungated_network():
  params = init()
  plain = shared_only(params)
  assert set(params["params"]) > set(plain["params"])
  assert jax.tree.structure(plain) == jax.tree.structure(shapes(PLAIN))
  np.testing.assert_array_equal(
      compiled()(params, *sample()), compiled(PLAIN)(plain, *sample()))


@pytest.mark.parametrize("gate", ["epnet", "ppnet"])
def test_a_gate_that_is_off_has_no_parameters(gate):
  config = dataclasses.replace(CONFIG, **{gate: False})
  assert not any(gate in name for name in shapes(config)["params"])
  assert any(gate in name for name in shapes()["params"])


def test_open_gates_change_the_result():
  params = shaken()
  for name in ("epnet_out", "ppnet_0_out", "ppnet_1_out"):
    closed = {**params["params"], name: jax.tree.map(
        jnp.zeros_like, params["params"][name])}
    difference = compiled()(params, *sample()) - compiled()(
        {"params": closed}, *sample())
    assert float(jnp.max(jnp.abs(difference))) > 0.01


def test_no_gradient_goes_through_the_shared_input_of_a_gate():
  # The towers see nothing: whatever gradient is left comes through gates.
  config = dataclasses.replace(CONFIG, domain=(), personal=(), epnet=False)
  params = shaken(config)
  rows = sample(config)
  inner = dict(params["params"])
  inner["shared_0"] = {**inner["shared_0"], "kernel": jnp.zeros_like(
      inner["shared_0"]["kernel"])}
  of_embedding = lambda embedding: jnp.sum(compiled(config)(
      {"params": {**inner, "embedding": embedding}}, *rows))
  np.testing.assert_array_equal(jax.grad(of_embedding)(inner["embedding"]), 0)
  # By value it does go through.
  assert of_embedding(inner["embedding"]) != of_embedding(
      inner["embedding"] + 1)


def test_the_gate_of_the_embedding_stops_the_gradient():
  # With the gate's factor g(sg(E)) the derivative of sum(g E) by E is g.
  config = dataclasses.replace(
      CONFIG, num_objectives=1, domain=(), ppnet=False, shared_sizes=(),
      tower_sizes=())
  params = shaken(config)
  categorical, numeric = sample(config, shape=())
  inner = params["params"]
  output = lambda embedding: compiled(config)(
      {"params": {**inner, "embedding": embedding}}, categorical, numeric)[0]
  found = jax.grad(output)(inner["embedding"])
  rows = np.asarray(categorical) + np.asarray([0, 7, 12])
  shared = np.concatenate([
      np.asarray(inner["embedding"])[rows].reshape(-1), np.asarray(numeric)])
  hidden = np.maximum(shared @ np.asarray(inner["epnet_in"]["kernel"])
                      + np.asarray(inner["epnet_in"]["bias"]), 0)
  factor = 2 / (1 + np.exp(-(
      hidden @ np.asarray(inner["epnet_out"]["kernel"])
      + np.asarray(inner["epnet_out"]["bias"]))))
  expected = (factor * np.asarray(inner["tower_out"]["kernel"])[0, :, 0])[:12]
  np.testing.assert_allclose(
      np.asarray(found)[rows].reshape(-1), expected, rtol=1e-4, atol=1e-6)


def test_prior_embeddings_learn_through_their_gates():
  config = dataclasses.replace(CONFIG, domain=(), personal=(0,), epnet=False)
  params = shaken(config)
  inner = dict(params["params"])
  inner["shared_0"] = {**inner["shared_0"], "kernel": jnp.zeros_like(
      inner["shared_0"]["kernel"])}
  found = jax.grad(lambda embedding: jnp.sum(compiled(config)(
      {"params": {**inner, "embedding": embedding}}, *sample(config))))(
          inner["embedding"])
  assert np.abs(found[:7]).max() > 0
  np.testing.assert_array_equal(found[7:], 0)


def test_dropping_needs_training_and_a_rate():
  config = dataclasses.replace(CONFIG, dropout_rate=0.5, unknown_rate=0.5)
  params, rows = shaken(), sample()
  train = lambda seed: compiled(config)(
      params, *rows, is_training=True, rngs={"dropout": jax.random.key(seed)})
  np.testing.assert_array_equal(train(0), train(0))
  assert not np.array_equal(train(0), train(1))
  plain = compiled()(params, *rows)
  np.testing.assert_array_equal(compiled(config)(params, *rows), plain)
  np.testing.assert_array_equal(
      compiled()(params, *rows, is_training=True), plain)


def test_forgotten_entries_are_the_unknown():
  config = dataclasses.replace(CONFIG, unknown_rate=0.999999)
  (categorical, numeric), params = sample(), shaken()
  np.testing.assert_allclose(
      compiled(config)(params, categorical, numeric, is_training=True,
                       rngs={"dropout": jax.random.key(0)}),
      compiled()(params, jnp.zeros_like(categorical), numeric), rtol=1e-5)


def test_starts_at_the_base_rates():
  rates = jnp.asarray([0.5, 0.1, 0.001])
  params = pepnet.with_base_rates(init(), rates)
  categorical, numeric = sample()
  found = compiled()(params, categorical, 0 * numeric)
  # Embeddings start small, the rest without bias.
  np.testing.assert_allclose(
      jax.nn.sigmoid(found), np.broadcast_to(rates, found.shape), rtol=0.1)
  np.testing.assert_array_equal(init()["params"]["tower_out"]["bias"], 0)


def test_one_trace_for_all_values():
  model = pepnet.PepNet(CONFIG)
  fn = jax.jit(chex.assert_max_traces(
      lambda params, *rows: model.apply(params, *rows), n=1))
  for seed in range(2):
    fn(shaken(seed=seed), *sample(seed=seed))


def test_loss_by_hand():
  logits = jnp.log(jnp.asarray([[1.0, 3.0], [3.0, 1 / 3], [1.0, 7.0]]))
  labels = jnp.asarray([[1, 0], [0, 1], [5, 9]])
  where = jnp.asarray([[True, True], [True, False], [False, False]])
  expected = (-np.log(0.5) - np.log(1 - 0.75)) / 2
  expected = (expected - np.log(1 - 0.75)) / 2
  found = pepnet.multi_task_loss(logits, labels, where=where)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_loss_leaves_out_absent_objectives():
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(9, 2)), jnp.float32)
  labels = jnp.asarray(rng.random((9, 2)) < 0.5)
  where = jnp.ones((9, 2), bool).at[:, 1].set(False)
  np.testing.assert_allclose(
      pepnet.multi_task_loss(logits, labels, where=where),
      pepnet.multi_task_loss(logits[:, :1], labels[:, :1]), rtol=1e-6)
  nothing = jnp.zeros((9, 2), bool)
  assert pepnet.multi_task_loss(logits, labels, where=nothing) == 0


def test_values_are_predicted_as_events():
  logits = jnp.asarray([[0.3], [-0.2], [1.0]])
  np.testing.assert_array_equal(
      pepnet.multi_task_loss(logits, jnp.asarray([[0.0], [12.5], [1.0]])),
      pepnet.multi_task_loss(logits, jnp.asarray([[False], [True], [True]])))


@pytest.mark.parametrize("garbage", [jnp.nan, jnp.inf, 1e30])
def test_masked_rows_change_neither_loss_nor_gradient(garbage):
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)
  labels = jnp.asarray(rng.random((8, 2)) < 0.5)
  where = jnp.asarray(rng.random((8, 2)) < 0.6)
  fn = jax.value_and_grad(
      lambda logits, labels: pepnet.multi_task_loss(
          logits, labels, where=where))
  loss, gradient = fn(logits, labels)
  found, found_gradient = fn(
      jnp.where(where, logits, garbage), labels | ~where)
  assert found == loss
  np.testing.assert_array_equal(found_gradient, gradient)
  np.testing.assert_array_equal(gradient[~where], 0)


@pytest.mark.parametrize(("change", "message"), [
    ({"num_objectives": 0}, "num_objectives must be at least 1"),
    ({"vocabulary_sizes": (3, 0, 2)}, "vocabulary_sizes must be at least 1"),
    ({"embedding_size": 0}, "embedding_size must be at least 1"),
    ({"tower_sizes": (0,)}, "tower_sizes must be at least 1"),
    ({"domain": (3,)}, "domain must be positions of the 3"),
    ({"personal": (-1,)}, "personal must be positions of the 3"),
    ({"dropout_rate": 1.0}, "dropout_rate must be in"),
    ({"unknown_rate": -0.1}, "unknown_rate must be in")])
def test_a_wrong_configuration_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **change)


def test_wrong_shapes_are_named():
  model, params = pepnet.PepNet(CONFIG), shaken()
  categorical, numeric = sample()
  with pytest.raises(ValueError, match=r"categorical has shape \(11, 2\)"):
    model.apply(params, categorical[:, :2], numeric)
  with pytest.raises(ValueError, match=r"numeric has shape \(10, 2\)"):
    model.apply(params, categorical, numeric[:10])
  empty = pepnet.PepNet(pepnet.PepNetConfig(num_objectives=1))
  with pytest.raises(ValueError, match="have no column"):
    empty.init(jax.random.key(0), jnp.zeros((3, 0), jnp.int32),
               jnp.zeros((3, 0)))
  with pytest.raises(ValueError, match=r"labels has shape \(4,\)"):
    pepnet.multi_task_loss(jnp.zeros((4, 2)), jnp.zeros(4))
  with pytest.raises(ValueError, match=r"where has shape \(4, 1\)"):
    pepnet.multi_task_loss(jnp.zeros((4, 2)), jnp.zeros((4, 2)),
                           where=jnp.ones((4, 1), bool))
