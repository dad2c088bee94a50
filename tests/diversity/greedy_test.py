"""Greedy slates against brute force, LAPACK and each other."""

import functools

import chex
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from scipy import linalg

import harmonrank_jax as hr
from harmonrank_jax import arrays
from harmonrank_jax import native
from harmonrank_jax.diversity import engine
from tests.diversity import fuzz_native
from tests.diversity import reference

SIZE, WIDTH, SLOTS, CATEGORIES = 24, 6, 9, 3
METHODS = {"dpp": hr.greedy_dpp, "mmr": hr.greedy_mmr, "ssd": hr.greedy_ssd}
FEATURES, RELEVANCE = reference.pools(SIZE, WIDTH)
RNG = np.random.default_rng(1)
SHOWN = RNG.normal(size=(4, 3, WIDTH)).astype(np.float32)
SHOWN[1, 1] = 0
SHOWN[3, 0, 2] = np.nan
RULES = {
    "category_ids": RNG.integers(-1, CATEGORIES, (4, SIZE)),
    "quotas": np.array([[2, 1, 9], [0, 9, 9], [1, 1, 1], [9, 2, 2]])}
BIAS = RNG.normal(size=(4, SLOTS, CATEGORIES)).astype(np.float32)
BIAS[0, 3] = -np.inf
BIAS[1, 2, 1] = np.nan
WHERE = RNG.random((4, SIZE)) < 0.6
THETAS = np.array([0.0, 0.3, 0.6, 0.9], np.float32)

CASES = {
    "plain": {},
    "shown": {"shown_features": SHOWN},
    "rules": {**RULES, "slot_bias": BIAS, "where": WHERE},
    "all": {**RULES, "slot_bias": BIAS, "shown_features": SHOWN, "window": 4},
    **{f"window {w}": {"window": w} for w in (1, 2, 3, 5, 8)},
    # Rules of the DPP alone.
    "ridge": {"ridge": 0.9, "shown_features": SHOWN},
    "ridge in a window": {"ridge": 0.9, "window": 4, "shown_features": SHOWN},
    "no fill": {"fill": "none", **RULES, "slot_bias": BIAS},
}


def check(method, num_selected=SLOTS, features=FEATURES, **arguments):
  """Compares the slates of four pools, each at its theta, with brute force."""
  static = {name: arguments.pop(name) for name in ("window", "ridge", "fill")
            if name in arguments}
  slate = jax.jit(functools.partial(
      METHODS[method], num_selected=num_selected, **static))(
          features, RELEVANCE, theta=THETAS, **arguments)
  for row in range(4):
    own = {name: value[row] for name, value in arguments.items()}
    indices, gains, num_valid = reference.greedy(
        method, features[row], RELEVANCE[row], num_selected,
        float(THETAS[row]), **own, **static)
    np.testing.assert_array_equal(slate.indices[row], indices, str(row))
    np.testing.assert_allclose(
        slate.gains[row], gains, rtol=1e-4, atol=2e-4)
    assert slate.num_valid[row] == num_valid


QUICK = [("dpp", "plain"), ("dpp", "shown"), ("dpp", "all"), ("mmr", "all"),
         ("ssd", "all"), ("ssd", "plain"), ("dpp", "ridge"), ("dpp", "no fill")]
REST = [(method, name) for method in METHODS for name in CASES
        if (method, name) not in QUICK
        and (method == "dpp" or not {"ridge", "fill"} & set(CASES[name]))]


@pytest.mark.parametrize("method, name", QUICK)
def test_picks_are_those_of_brute_force(method, name):
  check(method, **CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("method, name", REST)
def test_other_picks_are_those_of_brute_force(method, name):
  check(method, **CASES[name])


# What is new has no features yet, and some of it is good.
LONE = FEATURES.copy()
LONE[:, 2::7] = 0
LONE[:, 5] = np.nan
TOP = np.argmax(RELEVANCE, axis=1)
LONE[np.arange(4), TOP] = 0


@pytest.mark.parametrize("method, name", [
    ("dpp", "shown"), ("mmr", "shown"), ("ssd", "all"), ("dpp", "ridge")])
def test_items_without_features_resemble_no_other(method, name):
  check(method, features=LONE, **CASES[name])


@pytest.mark.parametrize("method, theta", [
    ("dpp", 1 - 1e-6), ("mmr", 1.0), ("ssd", 1.0)])
def test_relevance_alone_is_the_limit_without_features_too(method, theta):
  slate = METHODS[method](LONE, RELEVANCE, num_selected=3, theta=theta)
  top = hr.greedy_top_k(RELEVANCE, num_selected=3)
  chex.assert_trees_all_equal(slate.indices, top.indices)
  assert (slate.indices[:, 0] == TOP).all()


def test_float64_too(x64):
  features, relevance = reference.pools(SIZE, WIDTH, seed=2)
  slate = hr.greedy_dpp(
      features[:2].astype(np.float64), relevance[:2], num_selected=5,
      theta=0.5)
  assert slate.gains.dtype == jnp.float64
  for row in range(2):
    indices, gains, _ = reference.greedy(
        "dpp", features[row], relevance[row], 5, 0.5)
    np.testing.assert_array_equal(slate.indices[row], indices)
    np.testing.assert_allclose(slate.gains[row], gains, rtol=1e-9)


def test_gains_sum_to_the_log_determinant():
  theta, alpha = 0.6, 0.75
  slate = hr.greedy_dpp(
      FEATURES[0], RELEVANCE[0], num_selected=WIDTH, theta=theta)
  chosen = np.asarray(slate.indices)
  features = reference.unit(FEATURES[0])[chosen]
  np.testing.assert_allclose(
      slate.gains.sum(),
      np.linalg.slogdet(features @ features.T)[1]
      + 2 * alpha * RELEVANCE[0, chosen].sum(), rtol=1e-4)


def test_pivots_of_lapack():
  rng = np.random.default_rng(3)
  features = reference.unit(rng.normal(size=(300, 40)))
  # Beside one that is shown: else all first keys are equal.
  rest = features - np.outer(features @ features[0], features[0])
  _, _, pivots = linalg.qr(rest.T, mode="economic", pivoting=True)
  slate = hr.greedy_dpp(
      features.astype(np.float32), np.zeros(300), num_selected=38, theta=0.0,
      shown_features=features[:1].astype(np.float32))
  np.testing.assert_array_equal(slate.indices, pivots[:38])


def test_float32_picks_two_hundred_as_float64_does():
  rng = np.random.default_rng(4)
  features = rng.normal(size=(1000, 256)).astype(np.float32)
  relevance = rng.normal(size=1000).astype(np.float32)
  slate = hr.greedy_dpp(features, relevance, num_selected=200, theta=0.3)
  unit, taken, basis = reference.unit(features), [], np.zeros((0, 256))
  left = np.ones(1000)
  for _ in range(200):
    key = 3 / 7 * relevance + np.log(left)
    key[taken] = -np.inf
    taken.append(int(np.argmax(key)))
    rest = unit[taken[-1]] - basis.T @ (basis @ unit[taken[-1]])
    rest -= basis.T @ (basis @ rest)
    basis = np.concatenate([basis, rest[None] / np.linalg.norm(rest)])
    left = np.maximum(left - (unit @ basis[-1])**2, 1e-300)
  np.testing.assert_array_equal(slate.indices, taken)


@pytest.mark.parametrize("method", METHODS)
def test_equal_keys_go_to_the_lowest_index(method):
  # 150 copies in five places, over several panels of the native form.
  features = np.eye(5, dtype=np.float32)[np.arange(150) % 5] * 3
  slate = METHODS[method](
      features, np.zeros(150), num_selected=5, theta=0.0,
      where=np.arange(150) >= 7)
  assert sorted(slate.indices.tolist()) == [7, 8, 9, 10, 11]
  if method != "mmr":
    assert slate.indices.tolist() == [7, 8, 9, 10, 11]


def test_nothing_is_picked_of_which_rounding_is_left():
  features = np.repeat(
      np.random.default_rng(5).normal(size=(4, WIDTH)), 6, axis=0)
  slate = hr.greedy_dpp(features, RELEVANCE[0], num_selected=SLOTS, theta=0.9,
                        fill="none")
  assert slate.num_valid == 4
  assert (slate.indices[4:] == -1).all() and (slate.gains[4:] == 0).all()
  assert len({int(i) // 6 for i in slate.indices[:4]}) == 4


FAR = {
    "milliseconds": 1_767_000_000_000 + 1000 * np.arange(SIZE),
    "counts": np.uint64(2**63) + np.arange(SIZE).astype(np.uint64),
    "money": 2e8 + 0.01 * np.arange(SIZE)}


@pytest.mark.parametrize("name, method", [
    (name, "top_k") for name in FAR] + [
    (name, "dpp") for name in FAR] + [("counts", "mmr"), ("counts", "ssd")])
def test_relevance_of_the_host_keeps_its_differences(name, method):
  relevance = np.stack([FAR[name], FAR[name][::-1]])
  step = np.float32(relevance[0, 1] - relevance[0, 0])
  near = step * np.stack([np.arange(SIZE), np.arange(SIZE)[::-1]])
  where = np.arange(SIZE) != SIZE - 1
  select = jax.jit(functools.partial(
      hr.greedy_top_k if method == "top_k" else functools.partial(
          METHODS[method], FEATURES[:2], theta=0.7),
      num_selected=4, where=where))
  expected = select(near).indices
  # Given as it is, and under jit as the differences that are made outside.
  eager = select.__wrapped__(relevance)
  chex.assert_trees_all_equal(eager.indices, expected)
  traced = select(arrays.relative(relevance, "relevance", where))
  chex.assert_trees_all_equal(traced.indices, expected)
  np.testing.assert_allclose(traced.gains, eager.gains, rtol=1e-6)
  if method == "top_k":
    np.testing.assert_allclose(eager.gains, np.take_along_axis(
        relevance, np.asarray(eager.indices), axis=1), rtol=1e-6)


@pytest.mark.parametrize("method", [*METHODS, "top_k"])
def test_what_cannot_be_picked_is_not(method):
  features, relevance = FEATURES[0].copy(), RELEVANCE[0].copy()
  relevance[:4] = 100, np.nan, -np.inf, np.inf
  features[4], features[5, 2] = 0, np.nan  # These can: they resemble no other.
  where = np.arange(SIZE) > 0
  if method == "top_k":
    slate = hr.greedy_top_k(
        relevance, num_selected=SIZE + 3, where=where)
    assert sorted(slate.indices[:20].tolist()) == list(range(4, SIZE))
    assert (slate.indices[20:] == -1).all() and slate.num_valid == 20
    return
  slate = METHODS[method](
      features, relevance, num_selected=SIZE + 3, theta=0.5, where=where)
  chosen = slate.indices[slate.indices >= 0]
  assert sorted(chosen.tolist()) == list(range(4, SIZE))
  # Without features, two have a dimension of their own.
  assert slate.num_valid == (WIDTH + 2 if method == "dpp" else len(chosen))
  assert np.isfinite(slate.gains).all()


@pytest.mark.parametrize("method", METHODS)
def test_garbage_in_the_padding_changes_nothing(method):
  expected = METHODS[method](
      FEATURES, RELEVANCE, num_selected=SLOTS, theta=0.5, where=WHERE)
  for garbage in (np.nan, np.inf, 1e30):
    result = METHODS[method](
        np.where(WHERE[..., None], FEATURES, garbage),
        np.where(WHERE, RELEVANCE, garbage), num_selected=SLOTS, theta=0.5,
        where=WHERE)
    chex.assert_trees_all_equal(result, expected)


def test_nothing_to_pick_from():
  for size, slots in ((0, 3), (SIZE, 0)):
    slate = hr.greedy_dpp(
        FEATURES[:, :size], RELEVANCE[:, :size], num_selected=slots,
        theta=0.5)
    assert slate.indices.shape == slate.gains.shape == (4, slots)
    assert (slate.indices == -1).all() and (slate.num_valid == 0).all()
  masked = hr.greedy_dpp(
      FEATURES, RELEVANCE, num_selected=SLOTS, theta=0.5,
      where=np.zeros(SIZE, bool))
  assert (masked.indices == -1).all() and (masked.num_valid == 0).all()


def test_lengths_of_features_do_not_matter():
  scale = np.array([1e-18, 1e-4, 1.0, 1e18], np.float32)
  slate = hr.greedy_dpp(
      FEATURES[0] * scale[np.arange(SIZE) % 4][:, None], RELEVANCE[0],
      num_selected=4, theta=0.5)
  expected = hr.greedy_dpp(
      FEATURES[0], RELEVANCE[0], num_selected=4, theta=0.5)
  chex.assert_trees_all_equal(slate.indices, expected.indices)
  np.testing.assert_allclose(slate.gains, expected.gains, rtol=1e-4)


def test_vmap_is_a_loop_is_a_batch():
  arguments = {"num_selected": SLOTS, "window": 4}
  one = lambda f, r, theta: hr.greedy_dpp(f, r, theta=theta, **arguments)
  batch = hr.greedy_dpp(FEATURES, RELEVANCE, theta=THETAS, **arguments)
  mapped = jax.vmap(one)(FEATURES, RELEVANCE, THETAS)
  looped = lax.map(lambda x: one(*x), (FEATURES, RELEVANCE, THETAS))
  for result in (mapped, looped):
    chex.assert_trees_all_equal(result.indices, batch.indices)
    np.testing.assert_allclose(result.gains, batch.gains, atol=1e-5)


@pytest.mark.slow
def test_vmap_shares_what_it_does_not_map():
  one = lambda f, r, theta: hr.greedy_dpp(
      f, r, theta=theta, num_selected=SLOTS)
  batch = hr.greedy_dpp(
      FEATURES, RELEVANCE, theta=THETAS, num_selected=SLOTS)
  shared = jax.vmap(one, in_axes=(None, 0, None))(
      FEATURES[0], RELEVANCE, 0.5)
  together = hr.greedy_dpp(
      FEATURES[0], RELEVANCE, theta=0.5, num_selected=SLOTS)
  chex.assert_trees_all_equal(shared.indices, together.indices)
  thetas = jax.vmap(one, in_axes=(None, None, 0))(
      FEATURES, RELEVANCE, THETAS)
  chex.assert_trees_all_equal(thetas.indices[2][2], batch.indices[2])
  chex.assert_trees_all_equal(thetas.indices.shape, (4, 4, SLOTS))


def test_one_trace_serves_all_values():
  traces = []

  @jax.jit
  def select(features, relevance, theta):
    traces.append(1)
    return hr.greedy_dpp(features, relevance, num_selected=2, theta=theta)

  for theta in (0.1, 0.9):
    assert select(FEATURES, RELEVANCE, theta).indices.shape == (4, 2)
  assert len(traces) == 1
  # Traced, it is clipped.
  wild = select(FEATURES, RELEVANCE, 2.0).indices
  chex.assert_trees_all_equal(
      wild[:, 0], hr.greedy_top_k(RELEVANCE, num_selected=2).indices[:, 0])


@pytest.mark.parametrize("method", METHODS)
def test_the_knob_points_one_way(method):
  slates = [METHODS[method](FEATURES[0], RELEVANCE[0], num_selected=4,
                            theta=theta) for theta in (0.0, 0.5, 0.999)]
  relevance = [RELEVANCE[0][s.indices].mean() for s in slates]
  distance = [reference.volume(reference.unit(FEATURES[0])[s.indices])
              for s in slates]
  assert relevance[0] < relevance[1] <= relevance[2]
  assert distance[0] > distance[2]
  top = hr.greedy_top_k(RELEVANCE[0], num_selected=4)
  chex.assert_trees_all_equal(slates[2].indices, top.indices)


def test_bfloat16_features_pick_what_their_rounded_values_say():
  features = jnp.asarray(FEATURES, jnp.bfloat16)
  slate = hr.greedy_dpp(features, RELEVANCE, num_selected=3, theta=0.5)
  rounded = hr.greedy_dpp(
      features.astype(jnp.float32), RELEVANCE, num_selected=3, theta=0.5)
  assert slate.gains.dtype == jnp.float32
  chex.assert_trees_all_equal(slate.indices, rounded.indices)
  np.testing.assert_allclose(slate.gains, rounded.gains, rtol=1e-5)


def test_what_is_filled_in_is_no_certificate():
  # Copies are left among the first three, but another has a key.
  slates = [hr.greedy_dpp(
      np.eye(4)[[0, 0, 0, 1, 2, 3]], np.array([10.0, 10, 10, 0, 0, 0]),
      num_selected=2, theta=0.9, prefilter=prefilter)
            for prefilter in (3, None)]
  chex.assert_trees_all_equal(*slates)
  assert slates[0].indices.tolist() == [0, 3]


def test_filling_is_by_relevance_however_close():
  relevance = 1 + 2e-7 * np.arange(4)
  slate = hr.greedy_dpp(np.ones((4, 2)), relevance.astype(np.float32),
                        num_selected=4, theta=0.5)
  assert slate.indices.tolist() == [3, 2, 1, 0] and slate.num_valid == 1


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int32, np.int64],
    ids=lambda dtype: dtype.__name__)
def test_ids_of_every_width(dtype):
  last = min(np.iinfo(dtype).max, 200)
  quotas = np.full(last + 1, np.iinfo(dtype).max, dtype)
  quotas[last] = 1
  slate = hr.greedy_top_k(
      np.arange(4.0), num_selected=4, quotas=quotas,
      category_ids=np.array([0, last, last, last], dtype))
  assert slate.indices.tolist() == [3, 0, -1, -1]


def test_float32_stays_where_float64_is_on(x64):
  arguments = FEATURES, RELEVANCE
  copies = np.ones_like(FEATURES)
  slates = [
      hr.greedy_dpp(*arguments, num_selected=3, theta=0.5, window=2),
      hr.greedy_dpp(copies, RELEVANCE, num_selected=3, theta=0.5),
      hr.greedy_top_k(RELEVANCE, num_selected=3)]
  for slate in slates:
    assert (slate.indices >= 0).all()
    assert slate.gains.dtype == jnp.float32
    assert slate.num_valid.dtype == jnp.int32


def test_a_weight_may_overflow():
  relevance = np.array([3e38, 1, 2], np.float32)
  slate = hr.greedy_dpp(
      np.eye(3), relevance, num_selected=2, theta=0.9,
      category_ids=np.array([0, 1, 1]), quotas=np.array([0, 2]))
  assert slate.indices.tolist() == [2, 1]
  first = hr.greedy_dpp(np.eye(3), relevance, num_selected=1, theta=0.9)
  assert first.indices.tolist() == [0]


def test_nothing_is_differentiated_in_either_form():
  def chosen(relevance, features):
    slate = hr.greedy_dpp(features, relevance, num_selected=3, theta=0.5)
    return relevance[slate.indices].sum() + slate.gains.sum()

  by_relevance, by_features = jax.grad(chosen, argnums=(0, 1))(
      jnp.asarray(RELEVANCE[0]), FEATURES[0])
  assert by_relevance.sum() == 3 and not by_features.any()


def test_exports_with_any_number_of_requests():
  select = jax.jit(functools.partial(
      hr.greedy_dpp, num_selected=3, theta=0.5, window=2))
  b, = jax.export.symbolic_shape("b")
  exported = jax.export.export(select, platforms=["cpu", "cuda"])(
      jax.ShapeDtypeStruct((b, SIZE, WIDTH), jnp.float32),
      jax.ShapeDtypeStruct((b, SIZE), jnp.float32))
  assert "@harmonrank_" not in exported.mlir_module()
  chex.assert_trees_all_equal(
      exported.call(FEATURES, RELEVANCE).indices,
      select(FEATURES, RELEVANCE).indices)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["native"], indirect=True)
def test_panels_that_wait_miss_nothing():
  for seed in range(8):
    fuzz_native.fuzz(np.random.default_rng(seed), sizes=(400,), widths=(17,))


@pytest.mark.parametrize("size", [
    5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_prefilter_never_changes_the_slate(size):
  rng = np.random.default_rng(6)
  features = rng.normal(size=(60, 8)).astype(np.float32)
  ids = rng.integers(0, 3, 60)
  select = jax.jit(
      functools.partial(hr.greedy_dpp, num_selected=4),
      static_argnames="prefilter")
  for theta in (0.0, 0.5, 0.9, 0.99):
    for seed in range(3):
      relevance = np.random.default_rng(seed).normal(size=60)
      arguments = {"theta": theta, "category_ids": ids,
                   "quotas": np.array([1, 1, 4])}
      chex.assert_trees_all_close(
          select(features, relevance, prefilter=size, **arguments),
          select(features, relevance, **arguments), atol=1e-5)


def test_a_prefilter_looks_further_only_where_it_must(monkeypatch):
  looked = []
  pick = engine.pick

  def spy(problem, **static):
    jax.debug.callback(lambda: looked.append(problem.relevance.shape[1]))
    return pick(problem, **static)

  monkeypatch.setattr(engine, "pick", spy)
  for theta, sizes in ((0.999, [10]), (0.0, [10, SIZE])):
    looked.clear()
    jax.block_until_ready(hr.greedy_dpp(
        FEATURES[0], RELEVANCE[0], num_selected=3, theta=theta, prefilter=10))
    jax.effects_barrier()
    assert looked == sizes


@pytest.mark.parametrize("form", ["pure"], indirect=True)
@pytest.mark.parametrize("method, check_vma", [
    ("dpp", True), ("top_k", False),
    pytest.param("mmr", True, marks=pytest.mark.slow),
    pytest.param("ssd", True, marks=pytest.mark.slow),
    pytest.param("dpp", False, marks=pytest.mark.slow)])
def test_a_sharded_pool_gives_the_same_slate(method, check_vma):
  mesh = jax.make_mesh((8,), ("items",), axis_types=(AxisType.Auto,))
  ids, quotas = RULES["category_ids"][0], RULES["quotas"][0]

  def select(features, relevance, where, ids, quotas, axis_name=None):
    rules = {"num_selected": 7, "where": where, "category_ids": ids,
             "quotas": quotas, "axis_name": axis_name}
    if method == "top_k":
      return hr.greedy_top_k(relevance, **rules)
    return METHODS[method](features, relevance, theta=0.5, **rules)

  items = P(None, "items")
  sharded = jax.jit(jax.shard_map(
      functools.partial(select, axis_name="items"), mesh=mesh,
      in_specs=(items, items, items, P("items"), P()), out_specs=P(),
      check_vma=check_vma))
  arguments = (FEATURES, RELEVANCE, WHERE, ids, quotas)
  result, expected = sharded(*arguments), select(*arguments)
  # More than a device has.
  assert (np.asarray(expected.indices) >= 0).sum(axis=1).max() > SIZE // 8
  chex.assert_trees_all_equal(result.indices, expected.indices)
  np.testing.assert_allclose(result.gains, expected.gains, atol=1e-4)
  text = sharded.lower(*arguments).compile().as_text()
  assert text.count(" all-gather(") + text.count(" all-gather-start(") == 1


@pytest.mark.parametrize("form", ["pure"], indirect=True)
@pytest.mark.parametrize("match, change", [
    ("theta must be in \\[0, 1\\)", {"theta": 1.0}),
    ("theta has shape", {"theta": np.ones(3)}),
    ("features must have shape", {"features": FEATURES[:, :5]}),
    ("features must have shape", {"features": np.float32(1)}),
    ("features must have shape", {"features": np.ones(SIZE)}),
    ("features must have shape", {"features": FEATURES[..., :0]}),
    ("features must have shape", {"features": FEATURES[:, :1]}),
    ("shown_features must have shape", {"shown_features": np.ones(WIDTH)}),
    ("quotas must have at least one axis", {
        "quotas": 3, "category_ids": np.zeros(SIZE, int)}),
    ("relevance must have shape", {"relevance": np.float32(1)}),
    ("where has shape", {"where": np.ones((4, 5), bool)}),
    ("shown_features has shape", {"shown_features": np.ones((4, 2, 5))}),
    ("need category_ids", {"quotas": np.array([1])}),
    ("category_ids must be integers",
     {"quotas": np.array([1]), "category_ids": np.zeros(SIZE)}),
    ("quotas must be integers",
     {"quotas": np.array([1.0]), "category_ids": np.zeros(SIZE, int)}),
    ("slot_bias has shape",
     {"slot_bias": np.ones((5, 2)), "category_ids": np.zeros(SIZE, int)}),
    ("window must be at least 1", {"window": 0}),
    ("ridge must be in", {"ridge": 1.5}),
    ("fill must be one of", {"fill": "noise"}),
    ("prefilter must be at least 1", {"prefilter": 0}),
    ("num_selected must be at least 0", {"num_selected": -1}),
    ("features must be real", {"features": FEATURES.astype(complex)}),
], ids=reference.case_id)
def test_errors_name_the_argument(match, change):
  arguments = {"features": FEATURES, "relevance": RELEVANCE, "theta": 0.5,
               "num_selected": 3, **change}
  with pytest.raises(ValueError, match=match):
    hr.greedy_dpp(arguments.pop("features"), arguments.pop("relevance"),
                  **arguments)


@pytest.mark.skipif(not native.available(), reason="no native form")
def test_the_form_is_what_it_is_called(form):
  text = jax.jit(functools.partial(
      hr.greedy_dpp, num_selected=2, theta=0.5)).lower(
          FEATURES, RELEVANCE).as_text()
  assert ("@harmonrank_greedy" in text) == (form == "native")
