"""AUC and group AUC against scikit-learn and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import harmonrank_jax
from tests import oracles

SHAPE = (3, 40)


def sample(seed=0, num_objectives=3):
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=SHAPE).round(1)
  labels = rng.random((*SHAPE, num_objectives)) < [0.5, 0.6, 0.3]
  return scores, labels


def value_auc(scores, values):
  """Pairs counted one by one, by the difference of their values."""
  worth = np.maximum(values[:, None] - values[None, :], 0)
  order = np.sign(scores[:, None] - scores[None, :])
  total = worth.sum()
  return np.nan if total == 0 else (worth * (order + 1) / 2).sum() / total


auc = jax.jit(lambda s, y, w=None: harmonrank_jax.auc(s, y, where=w))


def test_by_hand():
  scores = jnp.array([0.1, 0.4, 0.35, 0.8])
  # Pairs (positive, negative): .35 > .1, .35 < .4, .8 > .1, .8 > .4.
  np.testing.assert_array_equal(auc(scores, jnp.array([0, 0, 1, 1])), 3 / 4)


def test_perfect_reversed_and_tied():
  labels = jnp.array([0, 0, 1, 1, 1])
  np.testing.assert_array_equal(auc(jnp.arange(5.0), labels), 1)
  np.testing.assert_array_equal(auc(-jnp.arange(5.0), labels), 0)
  np.testing.assert_array_equal(auc(jnp.zeros(5), labels), 0.5)


def test_agrees_with_scikit_learn_over_batch_and_objectives(x64):
  scores, labels = sample()
  result = auc(scores, labels)
  assert result.shape == (3, 3)
  for row, m in np.ndindex(3, 3):
    np.testing.assert_allclose(result[row, m], sklearn_metrics.roc_auc_score(
        labels[row, :, m], scores[row]), rtol=1e-13)
    np.testing.assert_allclose(
        auc(scores, labels[..., m])[row], result[row, m])


def test_masked_items_do_not_exist(x64):
  scores, labels = sample()
  where = np.random.default_rng(1).random(SHAPE) < 0.7
  where[0, 0] = False
  expected = [[value_auc(scores[r][where[r]], labels[r][where[r]][:, m] * 1.0)
               for m in range(3)] for r in range(3)]
  np.testing.assert_allclose(auc(scores, labels, where), expected)
  dirty = np.where(where, scores, np.nan)
  np.testing.assert_array_equal(
      auc(dirty, labels | ~where[..., None], where),
      auc(scores, labels, where))


def test_values_count_by_their_difference(x64):
  scores, _ = sample()
  values = np.random.default_rng(1).exponential(size=SHAPE).round(1)
  expected = [value_auc(s, v) for s, v in zip(scores, values, strict=True)]
  np.testing.assert_allclose(auc(scores, values), expected, rtol=1e-12)
  # A constant factor is a unit; classes in any unit are classes.
  classes = (values > 1) * 7.0
  np.testing.assert_allclose(
      auc(scores, classes), auc(scores, classes > 0), rtol=1e-12)


def test_undefined_is_nan_and_nan_is_not_hidden():
  scores = jnp.arange(4.0)
  assert jnp.isnan(auc(scores, jnp.zeros(4)))
  assert jnp.isnan(auc(scores, jnp.ones(4)))
  assert jnp.isnan(auc(scores, jnp.array([0, 1, 0, 1]), jnp.zeros(4, bool)))
  assert jnp.isnan(auc(jnp.zeros(0), jnp.zeros(0)))
  assert jnp.isnan(auc(scores.at[1].set(jnp.nan), jnp.array([0, 1, 0, 1])))


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


def grouped(scores, labels, ids, where, weighting):
  values, weights, skipped = [], [], 0
  for group in np.unique(ids[where]):
    chosen = where & (ids == group)
    value = value_auc(scores[chosen], labels[chosen] * 1.0)
    if np.isnan(value):
      skipped += 1
      continue
    values.append(value)
    weights.append({"impressions": chosen.sum(),
                    "positives": labels[chosen].sum(), "uniform": 1}[weighting])
  return np.average(values, weights=weights), len(values), skipped


@pytest.mark.parametrize("weighting", ["impressions", "positives", "uniform"])
def test_group_auc_is_the_weighted_mean_over_lists(weighting, x64):
  scores, where, ids = oracles.random_lists(SHAPE, 5)
  labels = sample()[1]
  result = jax.jit(lambda s: harmonrank_jax.group_auc(
      s, labels, ids, where=where, weighting=weighting))(scores)
  for row, m in np.ndindex(3, 3):
    value, groups, skipped = grouped(
        scores[row], labels[row, :, m], ids[row], where[row], weighting)
    np.testing.assert_allclose(result.value[row, m], value, rtol=1e-12)
    assert result.num_groups[row, m] == groups
    assert result.num_skipped[row, m] == skipped


def test_group_auc_of_values_and_of_one_list(x64):
  scores, _ = sample()
  values = np.random.default_rng(1).exponential(size=40)
  ids = np.arange(40) % 3
  one = harmonrank_jax.group_auc(scores[0], values, np.zeros(40, int))
  np.testing.assert_allclose(one.value, value_auc(scores[0], values))
  three = harmonrank_jax.group_auc(
      scores[0], values, ids, weighting="uniform")
  np.testing.assert_allclose(three.value, np.mean(
      [value_auc(scores[0][ids == i], values[ids == i]) for i in range(3)]))


def test_no_group_with_an_auc_is_nan():
  result = harmonrank_jax.group_auc(
      jnp.arange(4.0), jnp.array([1, 1, 0, 0]), jnp.array([1, 1, 2, 2]))
  assert jnp.isnan(result.value)
  assert (result.num_groups, result.num_skipped) == (0, 2)


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"labels.*\(4,\).*\(3,\)"):
    harmonrank_jax.auc(jnp.ones(3), jnp.ones(4))
  with pytest.raises(ValueError, match=r"weighting.*'mean'"):
    harmonrank_jax.group_auc(
        jnp.ones(3), jnp.ones(3), jnp.ones(3, int), weighting="mean")
