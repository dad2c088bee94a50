"""Expected calibration error."""

import numpy as np

_BINS = 15


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Expected calibration error `[S, M]`, in bins of as many rows.

  The mean distance, over bins of rows of similar probability, between the
  mean probability and the rate.

  Args:
    probabilities: `[S, N, M]`.
    labels: `[N, M]`, fractions of the largest for values.

  References:
    Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using
    Bayesian binning", AAAI 2015, with bins of equal mass.
  """
  edges = np.linspace(0, len(labels), _BINS + 1).astype(int)[:-1]
  result = np.empty((len(probabilities), labels.shape[1]))
  for s, m in np.ndindex(*result.shape):
    column = probabilities[s, :, m].astype(np.float64)
    gap = column - labels[:, m]
    order = np.argsort(column, kind="stable")
    result[s, m] = np.abs(np.add.reduceat(gap[order], edges)).sum() / len(gap)
  return result
