"""Sharded lists against one device: fake devices, and two real processes."""

import functools
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import harmonrank_jax
from harmonrank_jax import sharding
from harmonrank_jax.ensemble import losses
from tests import oracles

SHAPE = (4, 16)  # Two items of each row on each of eight devices.
LOSSES = (
    losses.bce_loss, losses.balanced_bce_loss,
    losses.auc_margin_loss, losses.pairwise_loss)
ITEMS = P(None, "items")
traces = []


def make_mesh(shape=(8,), names=("items",)):
  return jax.make_mesh(
      shape, names, devices=jax.devices("cpu"),
      axis_types=(jax.sharding.AxisType.Auto,) * len(names))


def sharded(function, in_specs, **options):
  return jax.jit(jax.shard_map(
      function, mesh=make_mesh(), in_specs=in_specs, out_specs=P(), **options))


def sample(seed=0, kind="value"):
  """Scores, labels, `where` and `segment_ids` that span the devices."""
  scores, where, ids = oracles.random_lists(SHAPE, 2, seed)
  rng = np.random.default_rng(seed)
  labels = 1.0 * (rng.random((*SHAPE, 3)) < [0.5, 0.8, 0.2])
  if kind == "value":
    labels *= rng.exponential(size=labels.shape)
  return scores, labels, where, ids


def assert_same(actual, expected, rtol=1e-12):
  jax.tree.map(functools.partial(
      np.testing.assert_allclose, rtol=rtol, atol=rtol), actual, expected)


def every_result(scores, labels, where, ids, strength, axis_name=None):
  """The soft AUC with all its arguments, and both exact AUCs."""
  traces.append(axis_name)
  options = {"where": where, "axis_name": axis_name}
  return (
      harmonrank_jax.multi_objective_auc_loss(
          scores, labels, segment_ids=ids, relative_strength=strength,
          objective_weights=jnp.array([1.0, 2.0, 3.0]), **options),
      harmonrank_jax.auc(scores, labels, **options),
      harmonrank_jax.group_auc(scores, labels, ids, **options))


def with_gradient(results):
  """The results of a function of scores, and the gradient of its loss."""

  def evaluate(*args):
    value = lambda scores: (lambda r: (r[0][0], r))(results(scores, *args[1:]))
    gradient, outputs = jax.grad(value, has_aux=True)(args[0])
    return outputs, gradient

  return jax.jit(evaluate)


ONE_DEVICE = with_gradient(every_result)
MANY_DEVICES = with_gradient(lambda *args: sharded(
    functools.partial(every_result, axis_name="items"),
    (ITEMS,) * 4 + (P(),))(*args))


@pytest.mark.parametrize("kind", ["class", "value"])
def test_equals_one_device(x64, kind):
  for seed in range(3):
    args = *sample(seed, kind), [0.3, 2.0, 20.0][seed]
    outputs, gradient = ONE_DEVICE(*args)
    assert np.isfinite(outputs[0][0]) and (np.asarray(gradient) != 0).any()
    assert_same(MANY_DEVICES(*args), (outputs, gradient))


def test_devices_of_padding_change_nothing(x64):
  # Nine items: four devices are full, one is half full, three hold garbage.
  scores, labels, where, ids = sample()
  where[:, 9:] = False
  expected = ONE_DEVICE(scores, labels, where, ids, 2.0)
  for garbage in (np.nan, np.inf, 1e30):
    outputs, gradient = MANY_DEVICES(
        np.where(where, scores, garbage),
        np.where(where[..., None], labels, garbage), where,
        np.where(where, ids, 12345), 2.0)
    assert_same((outputs, gradient), expected)
    assert (np.asarray(gradient)[~where] == 0).all()


def test_nothing_valid_on_any_device(x64):
  args = *sample()[:2], np.zeros(SHAPE, bool), np.zeros(SHAPE, int), 2.0
  outputs, gradient = MANY_DEVICES(*args)
  assert outputs[0][0] == 0 and (np.asarray(gradient) == 0).all()
  assert np.isnan(outputs[1]).all()
  assert_same(outputs, ONE_DEVICE(*args)[0])


def test_a_nan_score_on_one_device_is_not_hidden(x64):
  scores, labels, where, ids = sample()
  scores[0, -1], where[0, -1] = np.nan, True
  args = scores, labels, where, ids, 2.0
  outputs, _ = MANY_DEVICES(*args)
  assert np.isnan(outputs[0][0]) and np.isnan(outputs[1][0]).all()
  assert_same(outputs, ONE_DEVICE(*args)[0])


def test_one_trace(x64):
  for seed in range(3):
    MANY_DEVICES(*sample(seed), 1.0 + seed)
  assert traces.count("items") == 1


def test_the_other_losses_take_its_place(x64):
  def every_loss(scores, labels, where, ids, axis_name=None):
    return [loss_fn(
        scores, labels, where=where, segment_ids=ids, axis_name=axis_name)
            for loss_fn in LOSSES]

  scores, labels, where, ids = sample()
  args = scores, labels > 0, where, ids
  assert_same(sharded(functools.partial(
      every_loss, axis_name="items"), ITEMS)(*args), jax.jit(every_loss)(*args))


def grad_outside(loss_fn, in_specs, check_vma):
  return jax.jit(jax.value_and_grad(
      sharded(loss_fn, in_specs, check_vma=check_vma), has_aux=True))


def grad_inside(loss_fn, in_specs, check_vma):
  def step(*args):
    value, gradient = jax.value_and_grad(loss_fn, has_aux=True)(*args)
    if not check_vma:
      gradient = jax.lax.pmean(gradient, "items")
    return value, gradient

  return sharded(step, in_specs, check_vma=check_vma)


@pytest.mark.parametrize("loss_fn", [
    losses.auc_margin_loss,  # Joins all items, and compiles fast.
    pytest.param(harmonrank_jax.multi_objective_auc_loss,
                 marks=pytest.mark.slow)])
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("make_step", [grad_outside, grad_inside])
def test_gradient_of_shared_parameters(make_step, check_vma, loss_fn):
  def linear_loss(params, features, labels, axis_name=None):
    return loss_fn(features @ params, labels, axis_name=axis_name)

  rng = np.random.default_rng(0)
  features = rng.normal(size=(16, 3)).astype(np.float32)
  params, labels = np.float32([1, -2, 0.5]), rng.random(16) < 0.3
  value, gradient = jax.jit(jax.value_and_grad(
      linear_loss, has_aux=True))(params, features, labels)
  assert gradient.dtype == np.float32 and (np.abs(gradient) > 1e-4).all()
  step = make_step(
      functools.partial(linear_loss, axis_name="items"),
      (P(), P("items"), P("items")), check_vma)
  assert_same(
      step(params, features, labels), (value, gradient), rtol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_gather_joins_in_order_and_keeps_types(check_vma):
  tree = {
      "bool": np.arange(16) % 3 == 0, "none": None,
      "int": np.arange(48, dtype=np.int16).reshape(16, 3),
      "bfloat": jnp.arange(16, dtype=jnp.bfloat16)}
  mesh = make_mesh((2, 4), ("slow", "fast"))
  axes = ("slow", "fast")
  joined = jax.jit(jax.shard_map(
      lambda tree: sharding.gather(tree, axes, axis=0), mesh=mesh,
      in_specs=P(axes), out_specs=P(), check_vma=check_vma))(tree)
  jax.tree.map(np.testing.assert_array_equal, joined, tree)
  assert jax.tree.map(lambda x: x.dtype, joined) == jax.tree.map(
      lambda x: x.dtype, tree)
  # Axes in another order are another order of items.
  turned = jax.jit(jax.shard_map(
      lambda x: sharding.gather(x, axes[::-1], axis=0), mesh=mesh,
      in_specs=P(axes), out_specs=P(), check_vma=check_vma))(tree["int"])
  np.testing.assert_array_equal(
      turned, tree["int"].reshape(2, 4, 2, 3).swapaxes(0, 1).reshape(16, 3))


@pytest.mark.parametrize("kind, check_vma", [
    (jax.sharding.AxisType.Auto, True), (jax.sharding.AxisType.Auto, False),
    (jax.sharding.AxisType.Explicit, True)])
def test_gather_over_one_of_two_axes(kind, check_vma):
  # The other axis holds other rows, or is left to the partitioner.
  mesh = jax.make_mesh(
      (2, 4), ("rows", "items"), axis_types=(kind, kind),
      devices=jax.devices("cpu"))
  value = lambda x: jnp.sum(sharding.gather(x, "items", axis=1) ** 3, axis=1)
  x = np.arange(32.0, dtype=np.float32).reshape(2, 16)
  with jax.set_mesh(mesh):
    for spec, options in (
        (P("rows"), {}), (P(), {"axis_names": {"items"}})):
      inner = P(*spec, "items") if spec else ITEMS
      total = jax.shard_map(
          value, in_specs=inner, out_specs=spec, check_vma=check_vma,
          **options)
      placed = jax.device_put(x, jax.NamedSharding(mesh, inner))
      np.testing.assert_allclose(jax.jit(total)(placed), (x**3).sum(1))
      np.testing.assert_allclose(
          jax.jit(jax.grad(lambda x, f=total: f(x).sum()))(placed), 3 * x**2)


def test_exact_auc_with_rows_over_another_axis(x64):
  scores, labels, where, _ = sample()
  items = P("rows", "items")
  result = jax.jit(jax.shard_map(
      lambda *args: harmonrank_jax.auc(
          *args[:2], where=args[2], axis_name="items"),
      mesh=make_mesh((2, 4), ("rows", "items")), in_specs=items,
      out_specs=P("rows")))(scores, labels, where)
  assert_same(result, jax.jit(lambda *args: harmonrank_jax.auc(
      *args[:2], where=args[2]))(scores, labels, where))


def test_only_scores_and_labels_travel_and_memory_is_linear():
  num_items = 1024
  shapes = (jax.ShapeDtypeStruct((num_items,), jnp.float32),
            jax.ShapeDtypeStruct((num_items, 3), bool))
  value = lambda scores, labels: harmonrank_jax.multi_objective_auc_loss(
      scores, labels, axis_name="items")[0]
  make_step = lambda check_vma: jax.jit(jax.value_and_grad(sharded(
      value, P("items"), check_vma=check_vma))).lower(*shapes)
  compiled = make_step(True).compile()
  program = compiled.as_text()
  # The way back needs no collective.
  assert sorted(re.findall(
      r"= (\S+?)(?:\{\S*)? (all-gather|all-reduce|reduce-scatter|all-to-all|"
      r"collective-permute|collective-broadcast)(?:-start)?\(", program)) == [
          ("f32[1024]", "all-gather"), ("pred[1024,3]", "all-gather")]
  sizes = [np.prod([int(n) for n in shape.split(",")], dtype=int)
           for shape in re.findall(r"\w\[([\d,]+)\]", program)]
  assert 3 * num_items <= max(sizes) <= 16 * num_items
  assert compiled.memory_analysis().temp_size_in_bytes < 500 * num_items
  # Unchecked, the cotangents of the scores are added up.
  assert sorted(re.findall(
      r"stablehlo\.(all_\w+|reduce_scatter|collective_\w+)",
      make_step(False).as_text())) == [
          "all_gather", "all_gather", "reduce_scatter"]


def test_errors_name_the_shard_and_the_axis():
  with pytest.raises(ValueError, match=r"labels.*\(7,\).*\(8,\)"):
    jax.eval_shape(sharded(
        lambda s, y: harmonrank_jax.auc(s, y, axis_name="items"),
        P("items")), np.zeros(64), np.zeros(56))
  with pytest.raises(NameError, match="items"):
    harmonrank_jax.auc(np.zeros(4), np.zeros(4), axis_name="items")
  with pytest.raises(NameError, match="users"):
    jax.eval_shape(sharded(
        lambda s: harmonrank_jax.auc(s, s, axis_name="users"),
        P("items")), np.zeros(64))


def run_process(address, process_id):
  """One of two processes with two devices each; raises if it is wrong."""
  jax.config.update("jax_num_cpu_devices", 2)
  jax.distributed.initialize(
      address, num_processes=2, process_id=process_id,
      initialization_timeout=60)
  assert jax.device_count() == 4 and jax.local_device_count() == 2
  rng = np.random.default_rng(0)
  scores = rng.normal(size=256).astype(np.float32)
  labels = rng.random((256, 3)) < [0.5, 0.8, 0.2]
  where, ids = rng.random(256) < 0.8, rng.integers(0, 3, 256)
  where[192:] = False  # The last device has padding only.

  def loss(scores, labels, where, ids, axis_name=None):
    return harmonrank_jax.multi_objective_auc_loss(
        scores, labels, where=where, segment_ids=ids, axis_name=axis_name)[0]

  mesh = jax.make_mesh(
      (4,), ("items",), axis_types=(jax.sharding.AxisType.Auto,))
  placed = [jax.make_array_from_callback(
      x.shape, jax.NamedSharding(mesh, P("items")), x.__getitem__)
            for x in (scores, labels, where, ids)]
  value, gradient = jax.jit(jax.value_and_grad(jax.shard_map(
      functools.partial(loss, axis_name="items"), mesh=mesh,
      in_specs=P("items"), out_specs=P())))(*placed)
  expected, expected_gradient = jax.jit(jax.value_and_grad(loss))(
      scores, labels, where, ids)
  np.testing.assert_allclose(np.asarray(value), expected, rtol=1e-6)
  assert np.any(expected_gradient)
  for shard in gradient.addressable_shards:
    np.testing.assert_allclose(
        shard.data, np.asarray(expected_gradient)[shard.index], atol=1e-8)
  print(f"process {process_id}: loss {value}")
  jax.distributed.shutdown()


@pytest.mark.slow
def test_two_processes_over_loopback():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{probe.getsockname()[1]}"
  root = pathlib.Path(__file__).parents[1]
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
  processes = [subprocess.Popen(
      [sys.executable, "-c", "from tests import sharding_test; "
       f"sharding_test.run_process({address!r}, {process_id})"],
      cwd=root, env=environment, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT) for process_id in range(2)]
  outputs = []
  for process in processes:
    try:
      outputs.append(process.communicate(timeout=180)[0])
    except subprocess.TimeoutExpired:
      process.kill()
      outputs.append(process.communicate()[0] + "\nkilled: it did not end")
  for process_id, process in enumerate(processes):
    assert process.returncode == 0, "\n".join(outputs)
    assert f"process {process_id}: loss 0." in outputs[process_id]
