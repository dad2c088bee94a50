"""AUCs of several methods and their bootstrap, against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sk_metrics

from harmonrank_jax.evaluation import bootstrap

ROWS, METHODS = 400, 3


@pytest.fixture(scope="module")
def rows():
  rng = np.random.default_rng(0)
  labels = rng.random((ROWS, 3)) < np.array([0.5, 0.1, 0.3])
  labels[:, 2] = True  # One class only.
  scores = rng.normal(size=(METHODS, ROWS)).astype(np.float32)
  scores += labels[:, 0] + 2 * labels[:, 1]
  scores[1] = np.round(scores[1])  # Heavy ties.
  users = rng.integers(0, 40, ROWS) * 1_000_003 - 17
  return scores, labels, users


def resampled_rows(users, seed, replicate):
  """Row numbers of a resample, as drawing users with all rows gives them."""
  names, groups = np.unique(users, return_inverse=True)
  rng = np.random.default_rng(seed)
  for _ in range(replicate + 1):
    drawn = rng.integers(len(names), size=len(names))
  return np.concatenate([np.flatnonzero(groups == group) for group in drawn])


def test_a_resample_has_the_auc_of_its_rows(rows):
  scores, labels, users = rows
  value, replicates = bootstrap.bootstrap_auc(
      [bootstrap.Part(scores, labels, users)], seed=3)
  for k, m in np.ndindex(METHODS, 2):
    assert value[k, m] == pytest.approx(
        sk_metrics.roc_auc_score(labels[:, m], scores[k]), abs=1e-12)
  assert np.isnan(value[:, 2]).all()
  for replicate in (0, 7):
    chosen = resampled_rows(users, 3, replicate)
    for k in range(METHODS):
      for m in (0, 1):
        expected = sk_metrics.roc_auc_score(
            labels[chosen, m], scores[k, chosen])
        assert replicates[replicate, k, m] == pytest.approx(
            expected, abs=1e-12)
  assert np.isnan(replicates[..., 2]).all()


def test_values_count_pairs_by_their_difference(rows):
  scores, labels, _ = rows
  values = (labels[:, :1] * np.random.default_rng(1).integers(
      1, 4, (ROWS, 1))).astype(np.float32)
  replicate = bootstrap.bootstrap_auc(
      [bootstrap.Part(scores, values, None)], seed=5)[1][0]
  chosen = np.random.default_rng(5).integers(ROWS, size=ROWS)
  worth = np.maximum(values[chosen] - values[chosen].T, 0)
  for k in range(METHODS):
    drawn = scores[k, chosen]
    gap = drawn[:, None] - drawn[None, :]
    wins = (gap > 0) + 0.5 * (gap == 0)
    assert replicate[k, 0] == pytest.approx(
        (worth * wins).sum() / worth.sum(), abs=1e-12)


def test_probabilities_count_pairs_by_what_may_be_drawn(rows):
  scores, _, users = rows
  chances = np.random.default_rng(2).random((ROWS, 2))
  value, replicates = bootstrap.bootstrap_auc(
      [bootstrap.Part(scores, chances, users)], seed=3, num_replicates=1,
      are_probabilities=True)
  names, groups = np.unique(users, return_inverse=True)
  drawn = np.random.default_rng(3).integers(len(names), size=len(names))
  times = np.bincount(drawn, minlength=len(names))[groups]
  for weights, result in ((np.ones(ROWS), value), (times, replicates[0])):
    for k, m in np.ndindex(METHODS, 2):
      # Of two rows, the one is positive and the other is not.
      worth = np.outer(weights * chances[:, m], weights * (1 - chances[:, m]))
      np.fill_diagonal(worth, 0)
      gap = scores[k][:, None] - scores[k][None, :]
      wins = (gap > 0) + 0.5 * (gap == 0)
      assert result[k, m] == pytest.approx(
          (worth * wins).sum() / worth.sum(), abs=1e-12)


def test_auc_within_users_by_probabilities_is_over_pairs_of_each(rows):
  scores, _, users = rows
  rng = np.random.default_rng(5)
  chances = rng.uniform(0, 0.3, (len(users), 2))
  chances[:, 1] *= users > users.min()  # One user without any.
  part = bootstrap.Part(scores, chances, users)
  value, replicates = bootstrap.bootstrap_group_auc(
      [part], seed=3, num_replicates=1, are_probabilities=True)
  names = np.unique(users)
  drawn = np.random.default_rng(3).integers(len(names), size=len(names))

  def expected(chosen, k, m):
    terms = []
    for user in chosen:
      of_user = users == user
      positive, score = chances[of_user, m], scores[k, of_user]
      pairs = np.outer(positive, 1 - positive)
      np.fill_diagonal(pairs, 0)
      gap = score[:, None] - score[None, :]
      has_both = 1 - np.prod(1 - positive) - np.prod(positive)
      if has_both > 1e-12:
        terms.append((of_user.sum() * has_both, np.average(
            (gap > 0) + 0.5 * (gap == 0), weights=pairs)))
    weights, values = np.asarray(terms).T
    return np.average(values, weights=weights)

  for k in range(METHODS):
    for m in range(2):
      assert value[k, m] == pytest.approx(expected(names, k, m), abs=1e-12)
      assert replicates[0, k, m] == pytest.approx(
          expected(names[drawn], k, m), abs=1e-12)


def test_parts_share_the_resamples_of_their_users(rows):
  scores, labels, users = rows
  parts = [bootstrap.Part(scores[:, :150], labels[:150], users[:150]),
           bootstrap.Part(scores[:, 150:], labels[150:], users[150:])]
  _, together = bootstrap.bootstrap_auc(parts, seed=3, num_replicates=2)
  names = np.unique(users)
  rng = np.random.default_rng(3)
  for replicate in range(2):
    times = np.bincount(
        rng.integers(len(names), size=len(names)), minlength=len(names))
    for m in (0, 1):
      expected = np.mean([
          sk_metrics.roc_auc_score(
              part.labels[:, m], part.scores[0],
              sample_weight=times[np.searchsorted(names, part.users)])
          for part in parts])
      assert together[replicate, 0, m] == pytest.approx(expected, abs=1e-12)


def test_auc_within_users_and_on_resamples(rows):
  scores, labels, users = rows
  parts = [bootstrap.Part(scores, labels, users)]
  value, replicates = bootstrap.bootstrap_group_auc(
      parts, seed=3, num_replicates=2)

  def expected(chosen_users, k, m):
    terms = []
    for user in chosen_users:
      of_user = users == user
      if labels[of_user, m].any() and not labels[of_user, m].all():
        terms.append((of_user.sum(), sk_metrics.roc_auc_score(
            labels[of_user, m], scores[k, of_user])))
    weights, values = np.asarray(terms).T
    return np.average(values, weights=weights)

  names = np.unique(users)
  drawn = np.random.default_rng(3).integers(len(names), size=len(names))
  for k in range(METHODS):
    for m in (0, 1):
      assert value[k, m] == pytest.approx(expected(names, k, m), abs=1e-12)
      assert replicates[0, k, m] == pytest.approx(
          expected(names[drawn], k, m), abs=1e-12)
  assert np.isnan(value[:, 2]).all()


@pytest.fixture(scope="module")
def comparison(rows):
  scores, labels, users = rows
  return bootstrap.compare(
      {"a": scores[0], "b": scores[1], "again": scores[0]}, labels, users)


def test_sums_leave_out_what_is_undefined(rows, comparison):
  scores, labels, _ = rows
  expected = [sk_metrics.roc_auc_score(labels[:, m], scores[0])
              for m in (0, 1)]
  np.testing.assert_allclose(comparison.auc[0, :2], expected, atol=1e-6)
  assert np.isnan(comparison.auc[:, 2]).all()
  assert np.isnan(comparison.auc_error[:, 2]).all()
  assert comparison.auc_sum[0] == pytest.approx(sum(expected), abs=1e-5)


def test_a_method_is_not_ahead_of_itself(comparison):
  assert comparison.lead[2] == comparison.lead_error[2] == 0
  assert comparison.lead[0] == comparison.lead_error[0] == 0
  assert comparison.lead_error[1] > 0
  assert comparison.clusters == "users"


def test_rows_are_resampled_where_there_are_no_users(rows):
  scores, labels, _ = rows
  one = bootstrap.compare({"a": scores[0]}, labels, None)
  assert one.clusters == "rows"
  # The error of an AUC by Hanley and McNeil is of this size.
  assert 0.5 < one.auc_error[0, 0] / 0.022 < 1.5


def test_the_lead_weighs_objectives_the_sum_does_not(rows):
  scores, labels, users = rows
  methods = {"a": scores[0], "b": scores[1]}
  plain = bootstrap.compare(methods, labels, users)
  weighed = bootstrap.compare(
      methods, labels, users, objective_weights=np.array([3.0, 0.0, 0.0]))
  np.testing.assert_array_equal(plain.auc_sum, weighed.auc_sum)
  # Weights have mean 1: objective 0 counts three times.
  assert weighed.lead[1] == pytest.approx(
      3 * (plain.auc[0, 0] - plain.auc[1, 0]))


def part(**changes):
  return bootstrap.Part(**{
      "scores": np.zeros((2, 4)), "labels": np.eye(4)[:, :2],
      "users": np.arange(4), **changes})


@pytest.mark.parametrize("parts, said", [
    ([], "parts must not be empty"),
    ([part(scores=np.zeros((2, 3)))],
     r"parts\[0\].scores has shape \(2, 3\); expected \(2, 4\)"),
    ([part(), part(scores=np.zeros((3, 4)))], r"parts\[1\].scores"),
    ([part(), part(labels=np.zeros((4, 3)))], r"parts\[1\].labels"),
    ([part(users=np.arange(5))], r"parts\[0\].users has shape"),
    ([part(), part(users=None)], r"parts\[1\].users: either all")],
    ids=["no_part", "rows", "methods", "objectives", "users", "mixed"])
@pytest.mark.parametrize("bootstrap_fn", [
    bootstrap.bootstrap_auc, bootstrap.bootstrap_group_auc],
    ids=["all_rows", "within_users"])
def test_parts_that_do_not_fit_are_named(bootstrap_fn, parts, said):
  with pytest.raises(ValueError, match=said):
    bootstrap_fn(parts)


def test_other_errors_name_the_argument():
  with pytest.raises(ValueError, match="num_replicates must be at least 0"):
    bootstrap.bootstrap_auc([part()], num_replicates=-1)
  with pytest.raises(ValueError, match=r"parts\[0\].users must not be None"):
    bootstrap.bootstrap_group_auc([part(users=None)])


@pytest.mark.parametrize("methods, changes, said", [
    ({}, {}, "methods must not be empty"),
    ({"a": np.zeros(3)}, {}, r"methods\['a'\] has shape \(3,\)"),
    ({"a": np.zeros(4)}, {"objective_weights": np.ones(3)},
     r"objective_weights has shape \(3,\)")],
    ids=["no_method", "scores", "weights"])
def test_a_comparison_names_what_does_not_fit(methods, changes, said):
  with pytest.raises(ValueError, match=said):
    bootstrap.compare(methods, part().labels, None, **changes)
