"""The embedded log is what its docstring says."""

import numpy as np
import pytest
from sklearn import metrics

from harmonrank_jax.data import generator


def columns(table, prefix, dtype=np.float64):
  return np.stack([table[prefix + name].to_numpy().astype(dtype)
                   for name in generator.OBJECTIVES], axis=1)


@pytest.fixture(scope="module")
def weeks():
  return {world: generator.generate_log(
      generator.LogConfig(num_exposures=60_000, world=world))
      for world in generator.WORLDS}


def test_is_deterministic_and_seeded():
  small = generator.LogConfig(num_exposures=1000)
  week, again = generator.generate_log(small), generator.generate_log(small)
  assert week.log.equals(again.log)
  assert week.items.equals(again.items)
  other = generator.generate_log(
      generator.LogConfig(num_exposures=1000, seed=1))
  assert not week.log.equals(other.log)


def test_requests_are_pages(weeks):
  log = weeks["default"].log
  assert log.num_rows == 60_000
  request = log["request_id"].to_numpy()
  sizes = np.bincount(request)
  assert sizes.min() >= 10 and sizes.max() <= 30
  assert (np.diff(log["time_ms"].to_numpy()) >= 0).all()
  span = np.ptp(log["time_ms"].to_numpy()) / (24 * 3_600_000)
  assert 6.5 < span < 7
  item = log["item_id"].to_numpy()
  assert len(np.unique(np.stack([request, item]), axis=1).T) == len(item)
  starts = np.cumsum(sizes) - sizes
  np.testing.assert_array_equal(
      log["position"].to_numpy(), np.arange(60_000) - starts[request])
  # A request has one user and one time.
  for name in ("user_id", "time_ms"):
    assert (np.diff(log[name].to_numpy())[np.diff(request) == 0] == 0).all()


def test_categories_are_uneven_and_items_have_unit_features(weeks):
  items = weeks["default"].items
  counts = np.array(sorted(
      items["category"].value_counts().field("counts").to_numpy()))
  assert len(counts) == 10 and counts[-1] > 5 * counts[0]
  features = np.stack(items["features"].to_numpy())
  assert features.shape == (items.num_rows, generator.NUM_FEATURES)
  np.testing.assert_allclose(
      np.linalg.norm(features, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("world", generator.WORLDS)
def test_labels_follow_the_truth(weeks, world):
  log = weeks[world].log
  truth, labels = columns(log, "true_"), columns(log, "")
  rates = (generator.RATES_OF_REGULARS if world == "regulars"
           else generator.RATES)
  np.testing.assert_allclose(truth.mean(axis=0), rates, rtol=1e-3)
  for m in range(len(generator.OBJECTIVES)):
    # In tenths by true probability, labels come as often as promised.
    for part in np.array_split(np.argsort(truth[:, m]), 10):
      expected = truth[part, m].sum()
      assert abs(labels[part, m].sum() - expected) < 5 * np.sqrt(expected + 1)


def test_default_world_is_a_funnel_with_comment_and_buy_tied(weeks):
  log = weeks["default"].log
  labels, truth = columns(log, "", int), columns(log, "true_")
  assert (labels[:, 1:] <= labels[:, :1]).all()
  comment, buy = (generator.OBJECTIVES.index(x) for x in ("comment", "buy"))
  # Far more often together than their probabilities, given the click, say.
  apart = (truth[:, comment] * truth[:, buy] / truth[:, 0]).sum()
  assert (labels[:, comment] * labels[:, buy]).sum() > 2 * apart


def test_independent_world_has_no_ties(weeks):
  log = weeks["independent"].log
  correlation = np.corrcoef(columns(log, "").T) - np.eye(6)
  assert np.abs(correlation).max() < 5 / np.sqrt(60_000)
  for column in ("age", "device", "activity"):
    groups = log[column].to_numpy()
    rates = [columns(log, "true_")[groups == g, 0].mean()
             for g in np.unique(groups)]
    assert np.ptp(rates) < 0.05


def test_scores_are_those_of_predictors(weeks):
  for world, low, high in (
      ("default", 0.6, 0.92), ("independent", 0.6, 0.8)):
    log = weeks[world].log
    truth, labels = columns(log, "true_"), columns(log, "")
    scores = columns(log, "score_")
    for m in range(3):
      reached = metrics.roc_auc_score(labels[:, m], scores[:, m])
      best = metrics.roc_auc_score(labels[:, m], truth[:, m])
      assert low < reached < best - 0.01 and best < high
    assert (np.abs(scores.mean(axis=0) / truth.mean(axis=0) - 1) > 0.1).any()
  perfect = weeks["perfect"].log
  np.testing.assert_array_equal(
      columns(perfect, "score_"), columns(perfect, "true_"))


def test_errors_are_shared_and_grow_with_newness(weeks):
  log = weeks["default"].log
  slopes, offsets = generator._SLOPES, generator._OFFSETS
  scores, truth = columns(log, "score_"), columns(log, "true_")
  seen = (np.log(scores / (1 - scores)) - offsets) / slopes
  # Beyond the click both miss the same: compare two later behaviours.
  error = seen - np.log(truth / (1 - truth))
  assert np.corrcoef(error[:, 2], error[:, 4])[0, 1] > 0.3
  is_new = log["tenure_days"].to_numpy() < 15
  assert error[is_new].std() > 1.2 * error[~is_new].std()


def test_bad_configurations_are_refused():
  with pytest.raises(ValueError, match="at least 1000, got 999"):
    generator.LogConfig(num_exposures=999)
  with pytest.raises(ValueError, match="independent, perfect, regulars"):
    generator.LogConfig(world="other")
