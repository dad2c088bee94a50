"""Simulated days are summed up as by hand."""

import numpy as np
import pytest

from experiments.reranker import judging
from experiments.reranker import limits

LIMIT = limits.Limit(
    limits.Probe(0.0, 10.0, np.zeros(1), 1.0), 1.1, "platt", 0.8, 2.5)


@pytest.fixture
def days():
  """Two seeds, one world, two days, three categories."""
  ones = np.ones((2, 1, 2, 3))
  return judging.Days(
      clicks=ones * np.array([[[1.0], [2]]])[None], exposures=10 * ones,
      reward=2 * ones, cost=np.array([[[1.0, 4.0]], [[2.0, 3.0]]]),
      counted=np.full((2, 1, 2), 2.0), users=np.full((2, 1, 2), 4.0))


def test_intervals_are_those_of_students_t():
  interval = judging.interval(np.array([1.0, 2.0, 3.0]))
  half = 4.302653 * 1.0 / 3**0.5
  np.testing.assert_allclose(interval, (2.0, 2 - half, 2 + half), rtol=1e-6)
  assert np.isnan(judging.interval(np.array([1.0])).low)


def test_standard_errors_need_two_seeds():
  error = judging.standard_error(np.array([1.0, 2.0, 3.0]))
  assert error == pytest.approx(1 / 3**0.5)
  assert np.isnan(judging.standard_error(np.array([1.0])))


def test_days_are_summed_up_as_by_hand(days):
  summary = judging.summarise(days, LIMIT)
  assert summary.ctr == pytest.approx(0.15)
  assert summary.cumulative_reward == pytest.approx(2 * 3 / 4)
  # Costs of 0.5, 2, 1 and 1.5 a slate; 1.1 + 0.02 * 10 is exceeded twice.
  assert summary.diversity == pytest.approx(-1.25)
  assert summary.violation_rate == pytest.approx(0.5)
  assert summary.excess.mean == pytest.approx(0.15)
  np.testing.assert_allclose(summary.exposure_share, np.full(3, 1 / 3))


def test_days_without_a_slate_are_not_days(days):
  summary = judging.summarise(days, LIMIT)
  empty = lambda values: np.concatenate([values, 0 * values], axis=2)
  more = judging.Days(*map(empty, days))
  assert np.isnan(more.ctr[..., 2:]).all()
  assert np.isnan(more.mean_cost[..., 2:]).all()
  again = judging.summarise(more, LIMIT)
  for name in ("ctr", "diversity", "violation_rate", "excess"):
    np.testing.assert_array_equal(
        getattr(again, name), getattr(summary, name))
  assert judging.paired(more, more) == (0, 0, 0)


def test_differences_are_paired(days):
  assert judging.paired(days, days) == (0, 0, 0)
  # Seeds differ between each other, but not in what doubling the clicks adds.
  more = days._replace(clicks=2 * days.clicks)
  np.testing.assert_allclose(judging.paired(more, days), (0.15, 0.15, 0.15))
