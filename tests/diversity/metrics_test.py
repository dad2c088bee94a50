"""Metrics of slates by hand, and against pairs, counts and loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.diversity import metrics

SHAPE = (4, 6)
NUM_FEATURES, NUM_CATEGORIES = 4, 5
NUM_CANDIDATES, NUM_SUBTOPICS = 8, 3
EVERYWHERE = np.ones(SHAPE, bool)


@pytest.fixture(autouse=True)
def form():
  """Metrics have no native form: the tests run once."""


def of_features(features, where, threshold=0.95):
  return jit_of_features(features, where, threshold)


@jax.jit
def jit_of_features(features, where, threshold):
  return {
      "log_det": metrics.slate_log_det(features, where=where),
      "distance": metrics.intra_list_distance(features, where=where),
      "duplicates": metrics.near_duplicate_rate(
          features, threshold=threshold, where=where)}


@jax.jit
def of_categories(ids, where):
  options = {"num_categories": NUM_CATEGORIES, "where": where}
  return {
      "counts": metrics.exposure_counts(ids, **options),
      "coverage": metrics.category_coverage(ids, **options),
      "entropy": metrics.category_entropy(ids, **options)}


@jax.jit
def gini(exposures, where):
  return metrics.exposure_gini(exposures, where=where)


@jax.jit
def alpha_ndcg(indices, subtopics, alpha, where):
  return metrics.alpha_ndcg(indices, subtopics, alpha=alpha, where=where)


def sample(seed=0):
  """Features with near-copies, in and out of the mask, and categories."""
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(*SHAPE, NUM_FEATURES))
  features[1, 4] = 3 * features[1, 0] + 1e-3
  ids = rng.integers(0, NUM_CATEGORIES, SHAPE)
  where = rng.random(SHAPE) < 0.7
  where[1, [0, 4]] = True
  return features, ids, where


def cosines(features):
  unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
  return unit @ unit.T


def test_take_slate():
  values = np.arange(24.0).reshape(2, 4, 3)
  indices = np.array([[3, -1, 0], [9, 1, 1]])
  expected = [[values[0, 3], [7] * 3, values[0, 0]],
              [[7] * 3, values[1, 1], values[1, 1]]]
  np.testing.assert_array_equal(
      metrics.take_slate(values, indices, fill_value=7), expected)
  np.testing.assert_array_equal(
      metrics.take_slate(values[..., 0], indices), [[9, 0, 0], [0, 15, 15]])
  np.testing.assert_array_equal(
      metrics.take_slate(values[0, :, 0] > 2, indices, shared=True),
      [[True, False, False], [False, True, True]])
  np.testing.assert_array_equal(
      metrics.take_slate(values[:, :0], indices), np.zeros((2, 3, 3)))


def test_ids_are_taken_whole_or_not_at_all():
  with pytest.raises(ValueError, match="values has integers of more than 32"):
    metrics.take_slate(np.array([2**40, 1]), np.array([0, -1]))
  np.testing.assert_array_equal(
      metrics.take_slate(np.array([7, 8]), np.array([2**32, 1])), [0, 8])


def test_metrics_of_features_by_hand(x64):
  features = np.zeros((*SHAPE, NUM_FEATURES))
  # Two orthogonal items and one at 45 degrees between them, of any length.
  features[0, [1, 2, 4], :2] = [[2, 0], [0, 5], [1, 1]]
  features[1, [0, 1]] = 1
  features[2, 3] = 1
  result = of_features(features, EVERYWHERE)
  # The third is in the span of the two, and a copy has nothing left.
  np.testing.assert_allclose(
      result["log_det"], [np.log(1e-10), np.log(1e-10), 0, 0], atol=1e-12)
  np.testing.assert_allclose(
      result["distance"], [(1 + 2 * (1 - np.sqrt(0.5))) / 3, 0, np.nan, np.nan],
      atol=1e-12)
  np.testing.assert_array_equal(
      result["duplicates"], [0, 1 / 2, 0, np.nan])
  # The cosine of the third with each of the others is .707.
  np.testing.assert_array_equal(
      of_features(features, EVERYWHERE, 0.7)["duplicates"][0], 1 / 3)


def test_metrics_of_features_against_pairs(x64):
  features, _, where = sample()
  # More than dimensions: the determinant would be that of rounding.
  where[:, 5] = where[0, 0] = False
  where &= np.cumsum(where, axis=1) <= NUM_FEATURES
  result = of_features(features, where)
  for row, chosen in enumerate(where):
    similarity = cosines(features[row, chosen])
    pairs = similarity[np.tril_indices(chosen.sum(), -1)]
    np.testing.assert_allclose(
        result["log_det"][row], np.linalg.slogdet(similarity)[1], rtol=1e-6)
    np.testing.assert_allclose(result["distance"][row], (1 - pairs).mean())
    np.testing.assert_allclose(
        result["duplicates"][row],
        (np.tril(similarity, -1) >= 0.95).any(axis=1).sum() / chosen.sum())
  assert result["duplicates"][1] > 0
  for garbage in (np.nan, np.inf, 1e30):
    jax.tree.map(np.testing.assert_array_equal, of_features(
        np.where(where[..., None], features, garbage), where), result)
  # A feature that is 0 or not finite is no item.
  for garbage in (0, np.nan):
    jax.tree.map(np.testing.assert_array_equal, of_features(
        np.where(where[..., None], features, garbage), EVERYWHERE), result)


def test_metrics_of_features_in_bfloat16(x64):
  features, _, where = sample()
  rounded = jnp.asarray(features, jnp.bfloat16)
  result = of_features(rounded, where)
  expected = of_features(np.float64(rounded), where)
  for name, part in result.items():
    assert part.dtype == np.float32
    if name != "log_det":  # Of what is singular the tolerance decides.
      np.testing.assert_allclose(part, expected[name], rtol=1e-5)
  few = where & (np.arange(SHAPE[1]) < 4)
  np.testing.assert_allclose(
      of_features(rounded, few)["log_det"],
      of_features(np.float64(rounded), few)["log_det"], rtol=1e-5)


def test_gradients_are_finite_and_right(x64):
  features, _, where = sample()
  features[2] = features[2, 0]  # Copies.
  features[3, 1] = 0
  total = jax.jit(jax.grad(lambda f: jnp.sum(
      metrics.slate_log_det(f, where=where)
      + metrics.intra_list_distance(f, where=where))))
  gradient = np.asarray(total(features))
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[~where], 0)
  direction = np.zeros_like(features)
  direction[0] = np.random.default_rng(1).normal(size=features[0].shape)
  ends = [of_features(features + sign * 1e-6 * direction, where)
          for sign in (1, -1)]
  slope = sum(ends[0][name][0] - ends[1][name][0]
              for name in ("log_det", "distance")) / 2e-6
  np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-5)


def test_metrics_of_categories(x64):
  _, ids, where = sample()
  where[3] = False
  ids[0, 0], ids[0, 1] = -1, NUM_CATEGORIES
  where[0, :2] = True
  result = of_categories(ids, where)
  valid = where & (ids >= 0) & (ids < NUM_CATEGORIES)
  for row in range(SHAPE[0]):
    chosen = ids[row, valid[row]]
    counts = np.bincount(chosen, minlength=NUM_CATEGORIES)
    np.testing.assert_array_equal(result["counts"][row], counts)
    np.testing.assert_allclose(
        result["coverage"][row], len(set(chosen)) / NUM_CATEGORIES)
    shares = counts[counts > 0] / max(counts.sum(), 1)
    entropy = -(shares * np.log(shares)).sum() if counts.any() else np.nan
    np.testing.assert_allclose(result["entropy"][row], entropy, rtol=1e-6)
  assert result["coverage"][3] == 0
  jax.tree.map(np.testing.assert_array_equal, of_categories(
      np.where(where, ids, 2), where), result)


def test_entropy_by_hand():
  ids = np.array([[3] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, -1],
                  [0, 0, 0, 0, 1, 2]])
  np.testing.assert_allclose(
      of_categories(ids, EVERYWHERE)["entropy"],
      [0, np.log(2), np.log(5), np.log(6) - 4 / 6 * np.log(4)], rtol=1e-6)


def test_gini_is_the_mean_difference_of_pairs(x64):
  rng = np.random.default_rng(0)
  exposures = rng.poisson(2, SHAPE).astype(float)
  where = rng.random(SHAPE) < 0.8
  exposures[1, :2], where[1, :2] = 0, True
  result = gini(exposures, where)
  for row, chosen in enumerate(where):
    e = exposures[row, chosen]
    np.testing.assert_allclose(
        result[row],
        np.abs(e[:, None] - e[None]).mean() / (2 * e.mean()), rtol=1e-12)
  np.testing.assert_allclose(gini(3 * exposures, where), result, rtol=1e-12)
  for garbage in (np.nan, np.inf, -1):
    np.testing.assert_array_equal(
        gini(np.where(where, exposures, garbage), where), result)


def test_gini_by_hand_and_undefined(x64):
  cases = [[5.0] * 6, [0, 0, 7, 0, 0, 0], [1, 2, 3, 4, 5, 6], [0] * 6]
  np.testing.assert_allclose(gini(np.array(cases), EVERYWHERE), [
      0, 5 / 6, (-5 * 1 - 3 * 2 - 3 + 4 + 3 * 5 + 5 * 6) / (6 * 21), np.nan],
                             atol=1e-15)
  bad = np.ones(SHAPE)
  bad[:3, 0] = [-1, np.nan, np.inf]
  where = EVERYWHERE.copy()
  where[3] = False
  assert np.isnan(gini(bad, where)).all()


def alpha_dcg(held, alpha):
  """DCG of the subtopics of each slot, gain by gain."""
  total, before = 0.0, np.zeros(held.shape[-1])
  for slot, topics in enumerate(held):
    total += (topics * (1 - alpha)**before).sum() / np.log2(2 + slot)
    before += topics
  return total


def greedy_ideal(subtopics, num_slots, alpha):
  chosen = []
  for _ in range(min(num_slots, len(subtopics))):
    left = [i for i in range(len(subtopics)) if i not in chosen]
    before = subtopics[chosen].sum(axis=0)
    gains = [(subtopics[i] * (1 - alpha)**before).sum() for i in left]
    chosen.append(left[int(np.argmax(gains))])
  return alpha_dcg(subtopics[chosen], alpha)


def draw_slates(seed=0):
  """Slates with empty slots, subtopics of their candidates, and a mask."""
  rng = np.random.default_rng(seed)
  subtopics = rng.random((SHAPE[0], NUM_CANDIDATES, NUM_SUBTOPICS)) < 0.4
  indices = np.argsort(rng.random((SHAPE[0], NUM_CANDIDATES)))[:, :SHAPE[1]]
  indices[0, [1, 4]] = -1
  return indices, subtopics, rng.random(subtopics.shape[:2]) < 0.8


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_alpha_ndcg_against_loops(alpha, x64):
  indices, subtopics, where = draw_slates()
  result = alpha_ndcg(indices, subtopics * 1.0, alpha, where)
  for row, slate in enumerate(indices):
    topics = np.where(where[row][:, None], subtopics[row], 0)
    held = np.where((slate >= 0)[:, None], topics[slate], 0)
    ideal = greedy_ideal(topics[where[row]], SHAPE[1], alpha)
    np.testing.assert_allclose(
        result[row], alpha_dcg(held, alpha) / ideal, rtol=1e-12)
  np.testing.assert_array_equal(result, alpha_ndcg(indices, np.where(
      where[..., None], subtopics, np.nan), alpha, where))


def test_alpha_ndcg_by_hand(x64):
  subtopics = np.zeros((NUM_CANDIDATES, NUM_SUBTOPICS))
  subtopics[0, 0] = subtopics[1, 0] = subtopics[2, 1] = 1
  subtopics = np.broadcast_to(subtopics, (SHAPE[0], *subtopics.shape))
  none = [-1] * 4
  indices = np.array([[0, 2, 1, *none[:3]], [0, 1, *none], [-1, 0, *none],
                      [-1, -1, *none]])
  everyone = np.ones(subtopics.shape[:2], bool)
  slot = 1 / np.log2(np.arange(2, 8))
  ideal = slot[0] + slot[1] + slot[2] / 2
  np.testing.assert_allclose(
      alpha_ndcg(indices, subtopics, 0.5, everyone),
      [1, (slot[0] + slot[1] / 2) / ideal, slot[1] / ideal, 0], rtol=1e-12)
  # No candidate has a subtopic: undefined.
  assert np.isnan(alpha_ndcg(indices, 0 * subtopics, 0.5, everyone)).all()
  assert np.isnan(alpha_ndcg(indices, subtopics, 0.5, ~everyone)).all()


def test_the_greedy_ideal_is_nearly_the_best_slate(x64):
  _, subtopics, _ = draw_slates(3)
  slates = np.array(list(itertools.permutations(range(5))))
  slates = np.pad(slates, ((0, 0), (0, 1)), constant_values=-1)
  subtopics = np.broadcast_to(subtopics[0] * 1.0, subtopics.shape)
  where = np.broadcast_to(np.arange(NUM_CANDIDATES) < 5, subtopics.shape[:2])
  values = [alpha_ndcg(batch, subtopics, 0.5, where)
            for batch in slates.reshape(-1, *SHAPE)]
  best = max(alpha_dcg(subtopics[0][slate[:5]], 0.5) for slate in slates)
  ideal = greedy_ideal(subtopics[0][:5], 5, 0.5)
  np.testing.assert_allclose(np.max(values), best / ideal, rtol=1e-12)
  assert 1 <= np.max(values) < 1.1


def test_vmap_is_the_loop(x64):
  features, _, where = sample()
  together = of_features(features, where)
  apart = jax.vmap(of_features)(features, where)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
               apart, together)


SLATE_IDS, CANDIDATES = np.zeros((2, 3), int), np.ones((2, 3, 4))


@pytest.mark.parametrize("match, metric, arguments, options", [
    ("values has shape", metrics.take_slate,
     (jnp.ones((3, 5)), SLATE_IDS), {}),
    ("indices must", metrics.take_slate, (CANDIDATES, 1.0 * SLATE_IDS), {}),
    ("slate_features has", metrics.slate_log_det, (jnp.ones(3),), {}),
    ("where has shape", metrics.intra_list_distance, (CANDIDATES,),
     {"where": jnp.ones(2)}),
    ("threshold must", metrics.near_duplicate_rate, (CANDIDATES,),
     {"threshold": 2}),
    ("slate_category_ids must", metrics.exposure_counts, (1.0 * SLATE_IDS,),
     {"num_categories": 3}),
    ("num_categories must", metrics.category_coverage, (SLATE_IDS,),
     {"num_categories": 0}),
    ("exposures must", metrics.exposure_gini, (1.0,), {}),
    ("alpha must", metrics.alpha_ndcg, (SLATE_IDS, CANDIDATES),
     {"alpha": 2}),
    ("subtopics has shape", metrics.alpha_ndcg,
     (SLATE_IDS, jnp.ones((3, 5, 2))), {}),
    ("subtopics has shape", metrics.alpha_ndcg, (SLATE_IDS, jnp.ones(3)), {}),
], ids=["values", "indices", "features", "where", "threshold", "categories",
        "number of categories", "exposures", "alpha", "subtopics of others",
        "subtopics of one axis"])
def test_errors_name_the_argument(match, metric, arguments, options):
  with pytest.raises(ValueError, match=match):
    metric(*arguments, **options)
