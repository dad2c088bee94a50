"""The measures of fronts, against scikit-learn and by what they mean."""

import numpy as np
import pytest
from sklearn import metrics as sk_metrics

from experiments.runs import claims
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import front as front_lib
from experiments.tradeoff import weights as weights_lib
from tests.experiments.tradeoff import cases


def test_measures_are_those_of_the_scores(measured):
  families, labels, tradeoff = measured
  for f, family in enumerate(families.values()):
    for k in (0, 5):
      for m in range(3):
        assert tradeoff.auc[f, k, m] == pytest.approx(sk_metrics.roc_auc_score(
            labels[:, m], family.scores[k]), abs=1e-5)
  # One objective alone is where its own AUC is best.
  np.testing.assert_array_equal(tradeoff.auc[0, :, :2].argmax(axis=0), [1, 2])
  np.testing.assert_allclose(
      tradeoff.value, (tradeoff.auc * tradeoff.weights).sum(-1).mean(-1),
      rtol=1e-6)
  np.testing.assert_allclose(
      [each.mean for each in tradeoff.ratio],
      [each.mean / tradeoff.volume[1].mean for each in tradeoff.volume],
      rtol=1e-6)


def test_intervals_are_around_values_and_paired(measured):
  _, _, tradeoff = measured
  for intervals in (tradeoff.volume, tradeoff.ratio[::2], tradeoff.lead[::2]):
    assert all(each.low < each.mean < each.high for each in intervals)
  # Noise is surely worse; the ratio is better known than a volume.
  assert tradeoff.lead[0].standing == claims.AHEAD
  width = lambda row: np.log(row[2] / row[1])
  assert width(tradeoff.ratio[0]) < width(tradeoff.volume[0])
  assert tradeoff.ratio[1] == claims.Interval(1, 1, 1)


def test_asking_for_more_weights_only_adds_to_a_front(measured):
  _, _, tradeoff = measured
  # The weights of the others are among them.
  assert tradeoff.num_asked == 80
  assert tradeoff.asked_volume.mean >= tradeoff.volume[0].mean
  assert tradeoff.asked_ratio.mean == pytest.approx(
      tradeoff.asked_volume.mean / tradeoff.volume[1].mean)


def test_what_is_known_by_truth_is_known_better():
  terms, labels, users, truth = cases.rows()
  weights = weights_lib.simplex_weights(3, 4, seed=0)
  families = cases.families_of(terms, weights)
  tradeoff = front_lib.measure_fronts(
      families, weights, labels, users, names=cases.NAMES, truth=truth, seed=0)
  known = tradeoff.by_truth
  assert known.by_truth is None
  # Many labels that are drawn with these probabilities.
  drawn = np.random.default_rng(2).random((30, len(truth))) < truth[:, 1]
  scores = families[families_lib.ONE].scores[2]
  expected = np.mean([sk_metrics.roc_auc_score(y, scores) for y in drawn])
  assert known.auc[0, 2, 1] == pytest.approx(expected, abs=0.005)
  width = lambda rows: rows[0].high - rows[0].low
  for name in ("volume", "ratio", "lead"):
    assert width(getattr(known, name)) < 0.7 * width(getattr(tradeoff, name))


def test_pairs_begin_with_those_that_give_up_most(measured):
  _, _, tradeoff = measured
  alone = tradeoff.auc[0, 1:4]
  given_up = lambda i, j: (alone[i, i] - alone[j, i]) + (
      alone[j, j] - alone[i, j])
  pairs = front_lib.pairs_in_conflict(tradeoff)
  assert sorted(pairs) == [(0, 1), (0, 2), (1, 2)]
  losses = [given_up(*pair) for pair in pairs]
  assert losses == sorted(losses, reverse=True)


def test_the_front_of_a_pair_is_what_nothing_beats(measured):
  _, _, tradeoff = measured
  points = tradeoff.auc[1][:, (0, 2)]
  expected = sorted(
      tuple(p) for p in points
      if not any((q >= p).all() and (q > p).any() for q in points))
  np.testing.assert_array_equal(
      front_lib.front_of_pair(tradeoff, 1, (0, 2)), expected)
