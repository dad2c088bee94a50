"""AUC and group AUC against scikit-learn and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import harmonrank_jax
from harmonrank_jax.ensemble import items
from tests import oracles

SHAPE = (3, 40)
WEIGHTINGS = ("impressions", "positives", "uniform")
traces = []


@jax.jit
def auc(scores, labels, where=None):
  traces.append(labels.shape)
  return harmonrank_jax.auc(scores, labels, where=where)


@jax.jit
def group_aucs(scores, labels, ids, where):
  return {weighting: harmonrank_jax.group_auc(
      scores, labels, ids, where=where, weighting=weighting)
          for weighting in WEIGHTINGS}


def sample(seed=0):
  """Scores with ties, and bool labels of three objectives."""
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=SHAPE).round(1)
  labels = rng.random((*SHAPE, 3)) < [0.5, 0.6, 0.3]
  return scores, labels


def value_auc(scores, values):
  """Pairs counted one by one, by the difference of their values."""
  worth = np.maximum(values[:, None] - values[None, :], 0)
  order = np.sign(scores[:, None] - scores[None, :])
  total = worth.sum()
  return np.nan if total == 0 else (worth * (order + 1) / 2).sum() / total


def list_aucs(scores, labels):
  """AUCs of up to three short lists of `labels` with these `scores`."""
  scores, where = oracles.padded_rows(scores, SHAPE)
  labels, _ = oracles.padded_rows(labels, SHAPE, fill=1)
  return np.asarray(auc(scores, labels, where))


def test_by_hand(x64):
  # Pairs (positive, negative): .35 > .1, .35 < .4, .8 > .1, .8 > .4.
  np.testing.assert_allclose(
      list_aucs([[0.1, 0.4, 0.35, 0.8]], [[0, 0, 1, 1]])[0], 3 / 4)


def test_perfect_reversed_and_tied(x64):
  order = np.arange(5.0)
  np.testing.assert_array_equal(
      list_aucs([order, -order, 0 * order], [[0, 0, 1, 1, 1]] * 3),
      [1, 0, 0.5])


def test_agrees_with_scikit_learn_over_batch_and_objectives(x64):
  scores, labels = sample()
  result = auc(scores, labels)
  assert result.shape == (3, 3)
  everywhere = np.ones(SHAPE, bool)
  for row, m in np.ndindex(3, 3):
    np.testing.assert_allclose(result[row, m], sklearn_metrics.roc_auc_score(
        labels[row, :, m], scores[row]), rtol=1e-13)
    np.testing.assert_allclose(
        auc(scores, labels[..., m] * 1.0, everywhere)[row], result[row, m])


def test_masked_items_do_not_exist(x64):
  values = np.random.default_rng(2).exponential(size=SHAPE)
  scores, classes = sample()
  where = np.random.default_rng(1).random(SHAPE) < 0.7
  for labels in (classes[..., 0] * 1.0, values):
    result = auc(scores, labels, where)
    np.testing.assert_allclose(
        result, [value_auc(scores[r][where[r]], labels[r][where[r]])
                 for r in range(3)], rtol=1e-12)
    for garbage in (np.nan, np.inf, 1e30):
      np.testing.assert_array_equal(
          auc(np.where(where, scores, garbage),
              np.where(where, labels, garbage), where), result)


def test_values_count_by_their_difference(x64):
  scores, _ = sample()
  everywhere = np.ones(SHAPE, bool)
  values = np.random.default_rng(1).exponential(size=SHAPE).round(1)
  expected = [value_auc(s, v) for s, v in zip(scores, values, strict=True)]
  np.testing.assert_allclose(
      auc(scores, values, everywhere), expected, rtol=1e-12)
  # A constant factor is a unit; classes in any unit are classes.
  classes = (values > 1) * 1.0
  np.testing.assert_allclose(
      auc(scores, 7 * classes, everywhere), auc(scores, classes, everywhere),
      rtol=1e-12)


def test_undefined_is_nan_and_nan_is_not_hidden(x64):
  order, both = np.arange(4.0), [0, 1, 0, 1]
  assert np.isnan(list_aucs([order, order, []], [[0] * 4, [1] * 4, []])).all()
  assert np.isnan(list_aucs([[0, np.nan, 2, 3], [1.0], order],
                            [both, [1], both]))[:2].all()
  assert jnp.isnan(auc(jnp.zeros(0), jnp.zeros(0)))


def test_nan_labels_are_not_hidden(x64):
  scores, labels = sample()
  values = np.float64(labels)
  values[1, 2, 0] = np.nan
  ids = np.broadcast_to(np.arange(SHAPE[1]) // 8, SHAPE)
  everywhere = np.ones(SHAPE, bool)
  for y, is_bad in ((values, True), (np.nan_to_num(values), False)):
    expected = np.full((3, 3), False)
    expected[1, 0] = is_bad
    np.testing.assert_array_equal(
        np.isnan(jax.jit(harmonrank_jax.auc)(scores, y)), expected)
    for result in group_aucs(scores, y, ids, everywhere).values():
      np.testing.assert_array_equal(np.isnan(result.value), expected)


def test_float32_is_accurate_at_ten_million_items():
  rng = np.random.default_rng(0)
  scores = rng.permutation(10_000_000).astype(np.float32)
  labels = rng.random(10_000_000) < 0.95
  positives = labels.sum()
  # Exact in integers: ranks of the positives, less those among themselves.
  ranks = scores[labels].astype(np.int64).sum() + positives
  wins = ranks - positives * (positives + 1) // 2
  exact = wins / (positives * (10_000_000 - positives))
  assert abs(float(auc(scores, labels)) - exact) < 1e-6


def grouped(list_auc, scores, labels, ids, where, weighting):
  """Weighted mean over lists by a loop, and how many have an AUC or none."""
  values, weights, skipped = [], [], 0
  for group in np.unique(ids[where]):
    chosen = where & (ids == group)
    if len(np.unique(labels[chosen])) == 1:
      skipped += 1
      continue
    values.append(list_auc(scores[chosen], labels[chosen]))
    weights.append({"impressions": chosen.sum(),
                    "positives": labels[chosen].sum(), "uniform": 1}[weighting])
  return np.average(values, weights=weights), len(values), skipped


@pytest.mark.parametrize("list_auc", [
    lambda s, y: sklearn_metrics.roc_auc_score(y, s), value_auc,
], ids=["class", "value"])
def test_group_auc_is_the_weighted_mean_over_lists(list_auc, x64):
  scores, where, ids = oracles.random_lists(SHAPE, 9)
  scores, labels = scores.round(), sample()[1] * 1.0
  if list_auc is value_auc:
    labels *= np.random.default_rng(1).exponential(size=labels.shape)
  results = group_aucs(scores, labels, ids, where)
  for weighting, row, m in (
      (w, *index) for w in WEIGHTINGS for index in np.ndindex(3, 3)):
    result = results[weighting]
    value, groups, skipped = grouped(
        list_auc, scores[row], labels[row, :, m], ids[row], where[row],
        weighting)
    np.testing.assert_allclose(result.value[row, m], value, rtol=1e-12)
    assert result.num_groups[row, m] == groups
    assert result.num_skipped[row, m] == skipped
  assert results["uniform"].num_skipped.max() > 0
  dirty = group_aucs(
      np.where(where, scores, np.nan),
      np.where(where[..., None], labels, np.nan), ids, where)
  jax.tree.map(np.testing.assert_array_equal, dirty, results)


def test_group_auc_of_one_list_is_the_auc_and_of_none_is_nan():
  call = jax.jit(harmonrank_jax.group_auc)
  scores, labels = sample()
  scores, labels = np.float32(scores[0]), labels[0, :, 0]
  one = call(scores, labels, np.zeros(40, int))
  np.testing.assert_allclose(
      one.value, sklearn_metrics.roc_auc_score(labels, scores), rtol=1e-6)
  assert (one.num_groups, one.num_skipped) == (1, 0)
  none = call(scores, labels, np.int64(labels))
  assert jnp.isnan(none.value)
  assert (none.num_groups, none.num_skipped) == (0, 2)


def test_arrays_of_the_host_are_read_in_all_their_bits():
  scores = 1_767_000_000_000 + np.array([3, 1, 2, 0])
  users = np.array([1, 1, 1, 2**32 + 1])
  result = harmonrank_jax.group_auc(scores, np.array([1, 0, 1, 0]) > 0, users)
  assert (result.value, result.num_groups, result.num_skipped) == (1, 1, 1)
  # Order values in minor units: 5e9 wraps to less than 1e9.
  worth = np.array([5 * 10**9, 10**9, 3 * 10**9, 0])
  _, labels, *_ = items.check_items(scores, worth, None, None, None)
  np.testing.assert_array_equal(labels[:, 0], np.float32(worth))


def test_one_trace(x64):
  for seed in range(3):
    auc(*sample(seed))
  assert traces.count((*SHAPE, 3)) == 1


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"labels.*\(4,\).*\(3,\)"):
    harmonrank_jax.auc(jnp.ones(3), jnp.ones(4))
  with pytest.raises(ValueError, match=r"weighting.*'mean'"):
    harmonrank_jax.group_auc(
        jnp.ones(3), jnp.ones(3), jnp.ones(3, int), weighting="mean")
