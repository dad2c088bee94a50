"""Expected calibration error against a loop over bins."""

import numpy as np
import pytest

from harmonrank_jax.evaluation import calibration_error


def by_a_loop(probabilities, labels, num_bins):
  """The error of one predictor `[N]`, of sorted rows cut into bins."""
  rows = sorted(zip(probabilities, labels, strict=True))
  total = 0.0
  for b in range(num_bins):
    part = rows[b * len(rows) // num_bins:(b + 1) * len(rows) // num_bins]
    total += abs(sum(p for p, _ in part) - sum(y for _, y in part))
  return total / len(rows)


@pytest.mark.parametrize("num_rows, num_bins, used", [
    (157, 15, 15), (157, 4, 4), (6, 15, 6), (1, 15, 1)],
    ids=["default", "few_bins", "few_rows", "one_row"])
def test_the_error_is_that_of_a_loop(num_rows, num_bins, used):
  rng = np.random.default_rng(0)
  probabilities = rng.random((2, num_rows, 3)).astype(np.float32)
  labels = rng.random((num_rows, 3))
  errors = calibration_error.expected_calibration_error(
      probabilities, labels, num_bins=num_bins)
  assert errors.shape == (2, 3)
  for s, m in np.ndindex(2, 3):
    assert errors[s, m] == pytest.approx(
        by_a_loop(probabilities[s, :, m], labels[:, m], used), abs=1e-6)


def test_gaps_of_both_signs_do_not_cancel_between_bins():
  # Right on average only: 7 bins are 0.5 too low, 8 too high.
  is_low = np.arange(3000) < 1400
  wrong = np.where(is_low, 0.25, 0.75)[None, :, None]
  rates = np.where(is_low, 0.75, 0.25)[:, None]
  assert calibration_error.expected_calibration_error(
      wrong, rates) == pytest.approx(0.5)


def test_rates_themselves_have_no_error():
  rates = np.random.default_rng(0).random((200, 2))
  np.testing.assert_array_equal(
      calibration_error.expected_calibration_error(rates[None], rates), 0)


def test_without_rows_the_error_is_undefined():
  assert np.isnan(calibration_error.expected_calibration_error(
      np.empty((1, 0, 2)), np.empty((0, 2)))).all()


@pytest.mark.parametrize("changes, said", [
    ({"probabilities": np.zeros((4, 2))}, r"probabilities has shape \(4, 2\)"),
    ({"labels": np.zeros((5, 2))}, r"labels \(5, 2\)"),
    ({"num_bins": 0}, "num_bins must be at least 1")],
    ids=["axes", "rows", "bins"])
def test_errors_name_the_argument(changes, said):
  given = {"probabilities": np.zeros((1, 4, 2)), "labels": np.zeros((4, 2)),
           **changes}
  with pytest.raises(ValueError, match=said):
    calibration_error.expected_calibration_error(
        given.pop("probabilities"), given.pop("labels"), **given)
