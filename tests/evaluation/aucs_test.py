"""AUCs of several methods, against scikit-learn; errors, by simulation."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk_metrics

from harmonrank_jax.evaluation import aucs

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


def pair_auc(scores, worth, weights):
  """AUC over pairs of rows with a worth `[N, N]`, at weights of rows."""
  gap = scores[:, None] - scores[None, :]
  worth = worth * np.outer(weights, weights)
  return (worth * ((gap > 0) + 0.5 * (gap == 0))).sum() / worth.sum()


def pairs_of_labels(labels):
  return np.maximum(labels[:, None].astype(float) - labels[None, :], 0)


def pairs_of_chances(chances):
  # Of two rows, the one is positive and the other is not.
  worth = np.outer(chances, 1 - chances)
  np.fill_diagonal(worth, 0)
  return worth


def influence(auc_of, users):
  """`[G]` derivatives of an AUC by the weight of each user, by differences."""
  names, groups = np.unique(users, return_inverse=True)
  step = 1e-4
  move = lambda group, size: auc_of(1 + size * (groups == group))
  return np.array([(move(g, step) - move(g, -step)) / (2 * step)
                   for g in range(len(names))])


@pytest.mark.parametrize("kind", ["classes", "values", "chances"])
def test_an_auc_and_its_error_are_those_of_all_pairs(rows, kind):
  scores, labels, users = rows
  rng = np.random.default_rng(1)
  column = labels[:, 0]
  if kind == "values":
    column = (column * rng.integers(1, 4, ROWS)).astype(np.float32)
  if kind == "chances":
    column = rng.random(ROWS)
  found = aucs.auc_estimates(
      [aucs.Part(scores[:2], column[:, None], users)],
      are_probabilities=kind == "chances")
  worth = (pairs_of_chances if kind == "chances" else pairs_of_labels)(column)
  moves = []
  for k in range(2):
    auc_of = lambda weights, k=k: pair_auc(scores[k], worth, weights)
    assert found.auc[k, 0] == pytest.approx(auc_of(np.ones(ROWS)), abs=1e-12)
    moves.append(influence(auc_of, users))
  # 40 users: a fortieth goes to what each has of the class, about.
  for weights, move in (([1, 0], moves[0]), ([0, 1], moves[1]),
                        ([1, -1], moves[0] - moves[1])):
    estimate = found.contrast(np.array(weights)[:, None])
    assert estimate.error == pytest.approx(np.linalg.norm(move), rel=0.03)
    assert estimate.error > np.linalg.norm(move)
    assert 25 < estimate.freedoms <= 39


def test_rows_by_themselves_have_the_error_of_delong(rows):
  scores, labels, _ = rows
  y = labels[:, 1]
  found = aucs.auc_estimates([aucs.Part(scores[:2], y[:, None], None)])
  gap = scores[:2, y][:, :, None] - scores[:2, ~y][:, None]
  wins = (gap > 0) + 0.5 * (gap == 0)
  difference = wins[0] - wins[1]
  expected = sum(np.var(difference.mean(axis=axis), ddof=1) / size
                 for axis, size in ((1, y.sum()), (0, (~y).sum())))
  estimate = found.contrast(np.array([[1], [-1]]))
  assert estimate.error == pytest.approx(np.sqrt(expected), rel=1e-6)
  assert estimate.value == pytest.approx(difference.mean(), abs=1e-9)


def test_blocks_are_averaged_and_share_their_users(rows):
  scores, labels, users = rows
  labels = labels.copy()
  halves = [slice(0, 150), slice(150, None)]
  parts = [aucs.Part(scores[:, half], labels[half], users[half])
           for half in halves]
  # Without any, in one block.
  parts[1].labels[:, 1] = False
  found = aucs.auc_estimates(parts)
  singly = [aucs.auc_estimates([part]) for part in parts]
  np.testing.assert_allclose(
      found.auc[:, 0], (singly[0].auc + singly[1].auc)[:, 0] / 2)
  np.testing.assert_allclose(found.auc[:, 1], singly[0].auc[:, 1])
  assert np.isnan(found.auc[:, 2]).all()
  assert found.is_known.tolist() == [True, True, False]
  assert found.positives.tolist() == [
      labels[:, 0].sum(), labels[:150, 1].sum(), ROWS]
  # The same users in all blocks: what they add is added before it is squared.
  weights = np.outer([1, 0, 0], [1, 0, 0])
  moved = np.zeros(len(np.unique(users)))
  for one, of in zip(singly, parts, strict=True):
    places = np.searchsorted(np.unique(users), np.unique(of.users))
    moved[places] += one.influence[0][:, one.objectives == 0].sum(axis=1) / 2
  assert found.contrast(weights).error == pytest.approx(
      np.linalg.norm(moved), rel=1e-5)


def group_auc(users, labels, scores, chances=False):
  """AUC within users by pairs, weighted by rows."""
  terms = []
  for user in np.unique(users):
    y, s = labels[users == user].astype(float), scores[users == user]
    has_both = (1 - np.prod(1 - y) - np.prod(y) if chances
                else float(y.any() and not y.all()))
    if has_both > 1e-12:
      worth = pairs_of_chances(y) if chances else pairs_of_labels(y)
      terms.append((len(y) * has_both, pair_auc(s, worth, np.ones(len(y)))))
  weights, values = np.asarray(terms).T
  return np.average(values, weights=weights), weights, values


@pytest.mark.parametrize("chances", [False, True], ids=["classes", "chances"])
def test_auc_within_users_and_its_error(rows, chances):
  scores, labels, users = rows
  if chances:
    labels = np.random.default_rng(5).uniform(0, 0.3, labels.shape)
    labels[:, 1] *= users > users.min()  # One user without any.
    labels[:, 2] = 0
  found = aucs.group_auc_estimates(
      [aucs.Part(scores, labels, users)], are_probabilities=chances)
  assert np.isnan(found.auc[:, 2]).all() and not found.is_known[2]
  for k in range(METHODS):
    for m in (0, 1):
      value, weights, values = group_auc(
          users, labels[:, m], scores[k], chances)
      assert found.auc[k, m] == pytest.approx(value, abs=1e-12)
      shares = weights / weights.sum()
      estimate = found.contrast(np.outer(np.eye(3)[k], np.eye(3)[m]))
      assert estimate.error == pytest.approx(np.sqrt(np.sum(
          np.square(shares * (values - value)) / (1 - shares))), rel=1e-5)


@pytest.fixture(scope="module")
def comparison(rows):
  scores, labels, users = rows
  return aucs.compare(
      {"a": scores[0], "b": scores[1], "again": scores[0]}, labels, users)


def test_sums_leave_out_what_is_undefined(rows, comparison):
  scores, labels, _ = rows
  expected = [sk_metrics.roc_auc_score(labels[:, m], scores[0])
              for m in (0, 1)]
  np.testing.assert_allclose(comparison.auc[0, :2], expected, atol=1e-6)
  for undefined in (comparison.auc, comparison.auc_error,
                    comparison.auc_low, comparison.auc_high):
    assert np.isnan(undefined[:, 2]).all()
    assert np.isfinite(undefined[:, :2]).all()
  assert comparison.auc_sum[0] == pytest.approx(sum(expected), abs=1e-5)
  assert np.isfinite(comparison.sum_error).all()
  assert comparison.positives.tolist() == labels.sum(axis=0).tolist()
  assert comparison.is_known.tolist() == [True, True, False]


def test_a_method_is_not_ahead_of_itself(comparison):
  for number in (comparison.lead, comparison.lead_error,
                 comparison.lead_margin):
    assert number[0] == number[2] == 0 and number[1] != 0
  assert comparison.clusters == "users"


def test_scores_are_ranked_in_all_their_bits(rows):
  _, labels, users = rows
  places = np.arange(ROWS)
  scores = {"times": 1_767_000_000_000 + places, "close": 1 + 1e-12 * places}
  expected = aucs.compare({"places": places}, labels, users).auc[0]
  for method in scores.values():
    np.testing.assert_array_equal(
        aucs.compare({"a": method}, labels, users).auc[0], expected)


@pytest.mark.parametrize("place", [0, 1])
def test_a_score_that_is_nan_has_no_rank(rows, comparison, place):
  scores, labels, users = rows
  scores = scores.copy()
  scores[place, 7] = np.nan
  methods = {"a": scores[0], "b": scores[1], "again": scores[2]}
  found = aucs.compare(methods, labels, users)
  for numbers in (found.auc, found.auc_error, found.auc_low, found.auc_high,
                  found.auc_sum, found.sum_error):
    assert np.isnan(numbers[place]).all()
  leads = np.array([found.lead, found.lead_error, found.lead_margin])
  is_lost = np.array([[False, True, True], [False, True, False]][place])
  np.testing.assert_array_equal(
      np.isnan(leads), np.broadcast_to(is_lost, (3, 3)))
  # The others are as they were.
  np.testing.assert_array_equal(found.auc[1 - place], comparison.auc[1 - place])
  assert found.is_known.tolist() == [True, True, False]
  for estimate_fn in (aucs.auc_estimates, aucs.group_auc_estimates):
    found = estimate_fn([aucs.Part(scores, labels, users)])
    mixed = found.of_methods(np.array([[0.5, 0.5, 0], [0, 0, 1]]))
    assert np.isnan(mixed.auc).tolist() == [[True] * 3, [False, False, True]]
    assert np.isnan(mixed.contrast(np.outer([1, 0], [1, 0, 0]))).all()
    assert np.isfinite(mixed.contrast(np.outer([0, 1], [1, 0, 0]))).all()


def test_the_lead_weighs_objectives_the_sum_does_not(rows):
  scores, labels, users = rows
  methods = {"a": scores[0], "b": scores[1]}
  plain = aucs.compare(methods, labels, users)
  weighed = aucs.compare(
      methods, labels, users, objective_weights=np.array([3.0, 0.0, 0.0]))
  np.testing.assert_array_equal(plain.auc_sum, weighed.auc_sum)
  # Weights have mean 1: objective 0 counts three times.
  assert weighed.lead[1] == pytest.approx(
      3 * (plain.auc[0, 0] - plain.auc[1, 0]))


def labelled(counts, users, rng):
  """Labels `[N, M]` with so many positives each."""
  labels = np.zeros((len(users), len(counts)), bool)
  for column, count in zip(labels.T, counts, strict=True):
    column[rng.choice(len(users), count, replace=False)] = True
  return labels


def false_claims(counts, *, users=100, of_user=0.0, shared=0.0, lift=0.0,
                 rounds, num_rows=500):
  """Share of rounds in which one of two equal methods is ahead, by the sum.

  Scores are normal: a share that both have, effects of users on each.
  """
  rng = np.random.default_rng(0)
  claims = 0
  for _ in range(rounds):
    of_row = rng.integers(0, users, num_rows)
    labels = labelled(counts, of_row, rng)
    own = lambda: (np.sqrt(1 - shared) * rng.normal(size=num_rows)
                   + of_user * rng.normal(size=users)[of_row])  # noqa: B023
    common = (np.sqrt(shared) * rng.normal(size=num_rows)
              + lift * labels.any(axis=1))
    found = aucs.auc_estimates([aucs.Part(
        np.stack([common + own(), common + own()]), labels, of_row)])
    lead = found.contrast(np.outer([1, -1], np.ones(len(counts))))
    claims += abs(lead.value) > lead.margin
  return claims / rounds


# Of a share of 0.05, a standard error is 0.011 in 400 rounds.
@pytest.mark.parametrize("counts, most", [
    ((1,), 0), ((2,), 0), ((3,), 0), ((4,), 0.085), ((5,), 0.085),
    ((20,), 0.085), ((5, 100), 0.085), ((3, 100), 0)], ids=str)
def test_equal_methods_are_not_found_apart(counts, most):
  share = false_claims(counts, of_user=0.7, rounds=400)
  assert (0.02 if most else 0) <= share <= most


@pytest.mark.slow
@pytest.mark.parametrize("kind", [
    {}, {"shared": 0.9}, {"of_user": 1.0}, {"of_user": 1.0, "users": 30},
    {"lift": 1.5, "shared": 0.5}, {"users": 5000}], ids=str)
@pytest.mark.parametrize("counts", [
    (1,), (2,), (3,), (4,), (5,), (10,), (20,), (100,), (5, 5, 5),
    (4, 200, 300), (5, 200, 300), (1, 200, 300)], ids=str)
def test_false_claims_are_one_in_twenty(counts, kind):
  share = false_claims(counts, rounds=4000, num_rows=1000, **kind)
  if min(counts) < 4:
    assert share == 0
  else:
    # From 4 % to 6 %, with two standard errors of 4,000 rounds. Heavy tails
    # claim less, and so do four positives that may be of three users.
    claims_less = "lift" in kind or min(counts) < 5
    assert (0.01 if claims_less else 0.033) < share < 0.067


@pytest.mark.parametrize("count, auc, most", [
    (5, 0.9, 0.065), (8, 0.96, 0.065), (20, 0.75, 0.065)], ids=str)
def test_the_interval_of_an_auc_misses_about_one_time_in_twenty(
    count, auc, most):
  rng = np.random.default_rng(0)
  rounds, misses = 500, 0
  for _ in range(rounds):
    users = rng.integers(0, 100, 1000)
    labels = labelled((count,), users, rng)
    scores = rng.normal(size=1000) + (
        np.sqrt(2) * special.ndtri(auc) * labels[:, 0])
    found = aucs.auc_estimates([aucs.Part(scores[None], labels, users)])
    low, high = found.contrast(np.ones((1, 1))).ends_of_auc
    assert np.isnan(low) or 0 < low < found.auc[0, 0] < high < 1
    misses += not low <= auc <= high
  assert 0.01 < misses / rounds < most


def test_of_an_auc_of_one_no_interval_is_known(rows):
  _, labels, users = rows
  column = labels[:, :1]
  found = aucs.compare({"same": column[:, 0], "other": ~column[:, 0]},
                       column, users)
  assert found.auc[:, 0].tolist() == [1, 0]
  assert np.isnan([found.auc_low, found.auc_high]).all()
  one, other = (aucs.Estimate(value, 0.02, 9.0).ends_of_auc
                for value in (0.9, 0.1))
  # Log-odds of 0.9, and of a fifth of a user more, each half of the interval.
  half = 0.02 * 2.262157 / 0.09
  np.testing.assert_allclose(special.logit(one), [
      special.logit(9.1 / 10.2) - half, special.logit(0.9) + half], rtol=1e-6)
  np.testing.assert_allclose(other, 1 - np.array(one)[::-1])
  # To users without end a fifth of one adds nothing.
  np.testing.assert_allclose(
      special.logit(aucs.Estimate(0.9, 0.02, np.inf).ends_of_auc),
      special.logit(0.9) + np.array([-1, 1]) * 1.959964 * 0.02 / 0.09,
      rtol=1e-6)


def test_few_users_decide_however_many_their_rows():
  rng = np.random.default_rng(0)
  users = np.repeat(np.arange(20), 10)
  scores = rng.normal(size=(2, 200))

  def lead(labels):
    found = aucs.auc_estimates([aucs.Part(scores, labels[:, None], users)])
    return found.contrast(np.array([[1], [-1]]))

  # Thirty positives of three users; or of twenty, nearly all of one.
  few = users < 3
  one = (users == 0) | ((users > 0) & (np.arange(200) % 10 == 0))
  for labels in (few, ~few):  # Negatives count as positives do.
    assert np.isnan(lead(labels)[1:]).all() and np.isnan(lead(labels).margin)
  assert 1 < lead(users < 4).freedoms < 4
  assert np.isnan(lead(one & (users < 6)).margin)
  # Without users, rows are known singly.
  apart = aucs.auc_estimates([aucs.Part(scores, few[:, None], None)])
  assert apart.is_known.all()


def test_an_objective_that_is_not_known_is_in_no_claim():
  rng = np.random.default_rng(0)
  users = rng.integers(0, 50, 300)
  labels = labelled((100, 2), users, rng)
  methods = dict(zip("ab", rng.normal(size=(2, 300)), strict=True))
  found = aucs.compare(methods, labels, users)
  assert found.is_known.tolist() == [True, False]
  assert np.isfinite(found.auc).all() and np.isfinite(found.lead).all()
  assert np.isfinite(found.auc_error[:, 0]).all()
  for number in (found.auc_error[:, 1], found.auc_low[:, 1],
                 found.auc_high[:, 1], found.sum_error, found.lead_error[1:],
                 found.lead_margin[1:]):
    assert np.isnan(number).all()
  # Unless it weighs nothing.
  found = aucs.compare(methods, labels, users, objective_weights=np.eye(2)[0])
  assert np.isfinite(found.lead_margin).all()


def test_means_of_methods_and_some_objectives(rows):
  scores, labels, users = rows
  found = aucs.auc_estimates([aucs.Part(scores, labels, users)])
  mixed = found.of_methods(np.array([[0.5, 0.5, 0], [0, 0, 1]]))
  weights = np.outer([1, -1], [1, 2, 0])
  whole = np.outer([0.5, 0.5, -1], [1, 2, 0])
  np.testing.assert_allclose(
      mixed.contrast(weights), found.contrast(whole), rtol=1e-5)
  some = found.of_objectives(np.array([False, True, True]))
  np.testing.assert_allclose(
      some.contrast(np.outer([0, 1, 0], [1, 0])),
      found.contrast(np.outer([0, 1, 0], [0, 1, 0])), rtol=1e-12)
  assert some.is_known.tolist() == [True, False]


def test_draws_vary_as_sums_do(rows):
  scores, labels, users = rows
  found = aucs.auc_estimates([aucs.Part(scores, labels[:, :2], users)])
  draws = found.draws(3000, seed=0)
  assert draws.shape == (3000, METHODS, 2)
  for weights in (np.outer([1, -1, 0], [1, 1]), np.outer([0, 0, 1], [1, 0])):
    assert np.std(np.sum(weights * draws, axis=(1, 2))) == pytest.approx(
        found.contrast(weights).error, rel=0.05)


def test_independent_errors_add_up():
  one = aucs.Estimate(0.3, 3.0, 10.0)
  both = one.with_errors((4.0, 5.0), (0.0, 1.0))
  assert both.error == 5 and both.value == 0.3
  assert both.freedoms == pytest.approx(25**2 / (9**2 / 10 + 16**2 / 5))
  assert one.with_errors((0.0, 4.0)) == pytest.approx(one)
  assert one.margin == pytest.approx(3 * 2.228139, rel=1e-6)
  known = aucs.Estimate(0.0, 0.0, np.inf)
  assert known.margin == 0 and known.with_errors((0.0, 4.0)) == known
  assert np.isnan(aucs.Estimate(1.0, np.nan, np.nan).with_errors(
      (1.0, 4.0)).margin)


def part(**changes):
  return aucs.Part(**{
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
@pytest.mark.parametrize("estimate_fn", [
    aucs.auc_estimates, aucs.group_auc_estimates],
    ids=["all_rows", "within_users"])
def test_parts_that_do_not_fit_are_named(estimate_fn, parts, said):
  with pytest.raises(ValueError, match=said):
    estimate_fn(parts)


def test_aucs_within_users_need_users():
  with pytest.raises(ValueError, match=r"parts\[0\].users must not be None"):
    aucs.group_auc_estimates([part(users=None)])


@pytest.mark.parametrize("methods, changes, said", [
    ({}, {}, "methods must not be empty"),
    ({"a": np.zeros(3)}, {}, r"methods\['a'\] has shape \(3,\)"),
    ({"a": np.zeros(4)}, {"objective_weights": np.ones(3)},
     r"objective_weights has shape \(3,\)")],
    ids=["no_method", "scores", "weights"])
def test_a_comparison_names_what_does_not_fit(methods, changes, said):
  with pytest.raises(ValueError, match=said):
    aucs.compare(methods, part().labels, None, **changes)
