"""Every operation in JAX's strict and debugging modes, without items, exported.

Both forms of the operations where they differ: strictness shows while the pure
form is traced, and the native form alone has a call of its own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax as hr
from harmonrank_jax import diversity
from harmonrank_jax import ensemble
from harmonrank_jax import evaluation
from harmonrank_jax import native

RNG = np.random.default_rng(0)
# More than a tile of the isotonic merge.
SHAPE = (2, 40)
SCORES = jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)
VALID = jnp.asarray(RNG.random(SHAPE) < 0.8)
IDS = jnp.asarray(RNG.integers(0, 3, SHAPE), jnp.int32)
CLICKS = jnp.asarray(RNG.random((*SHAPE, 2)) < 0.5)
WORTH = jnp.where(CLICKS, 2.5, 0)
FEATURES = jnp.asarray(RNG.normal(size=(*SHAPE, 4)), jnp.float32)
QUOTAS = jnp.array([2, 2, 2], jnp.int32)
LISTS = {"where": VALID, "segment_ids": IDS}
SLATE = {"num_selected": 3, "where": VALID, "category_ids": IDS,
         "quotas": QUOTAS, "slot_bias": jnp.ones((3, 3))}
VARIED = {**SLATE, "theta": 0.5, "shown_features": FEATURES[:, :2]}


def rank_gradient(scores, **options):
  return jax.grad(lambda s: jnp.square(
      hr.soft_rank(s, strength=0.3, **options)).sum())(scores)


OPERATIONS = {
    "hard_rank": lambda: hr.hard_rank(SCORES.astype(jnp.bfloat16), **LISTS),
    "soft_rank": lambda: rank_gradient(SCORES, **LISTS),
    "entropic rank": lambda: rank_gradient(SCORES, regularization="entropic"),
    "soft_sort": lambda: hr.soft_sort(SCORES, strength=jnp.int32(2), **LISTS),
    "isotonic": lambda: hr.isotonic_regression(
        SCORES, weights=jnp.exp(SCORES), **LISTS),
    "auc": lambda: [hr.auc(SCORES, y, where=VALID) for y in (CLICKS, WORTH)],
    "group_auc": lambda: [
        hr.group_auc(SCORES, CLICKS, IDS, where=VALID, weighting=weighting)
        for weighting in ("impressions", "positives", "uniform")],
    "auc loss": lambda: jax.grad(lambda s: hr.multi_objective_auc_loss(
        s, WORTH, **LISTS)[0])(SCORES),
    "pairwise": lambda: ensemble.pairwise_loss(SCORES, CLICKS, **LISTS),
    "platt": lambda: hr.fit_platt(
        jax.nn.sigmoid(SCORES), CLICKS[..., 0], where=VALID),
    "dpp": lambda: hr.greedy_dpp(
        FEATURES, SCORES, ridge=0.9, prefilter=5, **VARIED),
    "dpp of bfloat16": lambda: hr.greedy_dpp(
        FEATURES.astype(jnp.bfloat16), SCORES.astype(jnp.bfloat16), window=3,
        **VARIED),
    "mmr": lambda: hr.greedy_mmr(FEATURES, SCORES, **VARIED),
    "ssd": lambda: hr.greedy_ssd(FEATURES, SCORES, window=2, **VARIED),
    "top_k": lambda: hr.greedy_top_k(SCORES, **SLATE),
    "pool": lambda: hr.flow_pool(
        FEATURES, SCORES, IDS, QUOTAS, theta=0.5, pool_size=6,
        union="conditional", num_selected=3, subcategory_ids=IDS,
        affinity=jnp.ones((2, 3))),
    "likelihood": lambda: [diversity.fit_theta(
        FEATURES, SCORES, CLICKS[..., 0], ridge=ridge)
                           for ridge in (None, 0.5)],
    "metrics": lambda: (
        diversity.alpha_ndcg(IDS[:, :3], WORTH, where=VALID),
        diversity.category_entropy(IDS, num_categories=3),
        diversity.exposure_gini(IDS, where=VALID),
        diversity.near_duplicate_rate(FEATURES, where=VALID)),
    "off policy": lambda: evaluation.off_policy_value(
        CLICKS.astype(jnp.int32), jnp.exp(SCORES), self_normalise=True,
        **LISTS),
    "slates off policy": lambda: evaluation.cascade_slate_value(
        WORTH, jnp.exp(FEATURES[..., :2]), where=CLICKS),
    "front": lambda: (
        evaluation.pareto_mask(FEATURES[0]),
        evaluation.hypervolume(FEATURES[0, :, :2], jnp.zeros(2))),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_dtype_is_promoted_silently(name):
  with native.disabled(), jax.numpy_dtype_promotion("strict"):
    jax.eval_shape(OPERATIONS[name])


@pytest.mark.skipif(not native.available(), reason="no native form")
@pytest.mark.parametrize("select", [
    lambda: hr.hard_rank(SCORES[0]),
    lambda: rank_gradient(SCORES[0]),
    lambda: hr.isotonic_regression(SCORES[0]),
    lambda: hr.greedy_mmr(FEATURES, SCORES, num_selected=3, theta=0.5)],
    ids=["sort_lists", "soft_rank and deviation", "isotonic", "greedy"])
def test_native_forms_run_without_jit(select):
  with jax.disable_jit():
    got = select()
  jax.tree.map(functools.partial(
      np.testing.assert_allclose, rtol=1e-6), got, select())


@pytest.mark.parametrize("dtype", [bool, jnp.float32])
def test_without_lists_there_is_no_auc(dtype):
  assert hr.auc(jnp.zeros((0, 5)), jnp.zeros((0, 5), dtype)).shape == (0,)
  assert hr.auc(
      jnp.zeros((0, 5)), jnp.zeros((0, 5, 3), dtype)).shape == (0, 3)


@pytest.mark.slow
def test_exports_with_lists_of_any_length():
  b, n = jax.export.symbolic_shape("b, n")
  rank = jax.jit(functools.partial(hr.soft_rank, strength=0.3))
  exported = jax.export.export(rank)(
      jax.ShapeDtypeStruct((b, n), jnp.float32))
  for shape in ((2, 1), (2, 5), (1, 33), (3, 1200)):
    scores = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    np.testing.assert_allclose(
        exported.call(scores), rank(scores), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loss_fn", [
    hr.multi_objective_auc_loss, ensemble.pairwise_loss, ensemble.bce_loss,
    ensemble.balanced_bce_loss, ensemble.auc_margin_loss])
def test_losses_export_with_lists_of_any_length(loss_fn):
  b, n = jax.export.symbolic_shape("b, n")
  gradient = jax.jit(jax.value_and_grad(lambda s, y: loss_fn(s, y)[0]))
  exported = jax.export.export(gradient)(
      jax.ShapeDtypeStruct((b, n), jnp.float32),
      jax.ShapeDtypeStruct((b, n, 2), bool))
  for shape in ((1, 7), (3, 300)):
    scores = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    labels = jnp.asarray(RNG.random((*shape, 2)) < 0.5)
    jax.tree.map(functools.partial(
        np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
                 exported.call(scores, labels), gradient(scores, labels))


@pytest.mark.slow
def test_exports_with_any_number_of_lists():
  b, = jax.export.symbolic_shape("b")

  def measure(scores, labels, where):
    gradient = jax.grad(lambda s: hr.multi_objective_auc_loss(
        s, labels, where=where)[0])
    return (hr.soft_rank(scores, strength=0.3, where=where),
            hr.auc(scores, labels, where=where), gradient(scores))

  lists = SCORES[:, :5], CLICKS[:, :5, 0], VALID[:, :5]
  exported = jax.export.export(jax.jit(measure), platforms=("cpu", "cuda"))(
      *(jax.ShapeDtypeStruct((b, 5), x.dtype) for x in lists))
  jax.tree.map(functools.partial(
      np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
               exported.call(*lists), measure(*lists))
