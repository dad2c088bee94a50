"""Expected calibration error of predicted probabilities."""

import numpy as np


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, *, num_bins: int = 15
) -> np.ndarray:
  """How far probabilities are from the rates of rows of similar probability.

  Rows are sorted by their probability and cut into B bins of as many rows,
  give or take one (fewer bins if there are fewer rows):

      ECE = sum_b |sum_{i in b} (p_i - y_i)| / N.

  It is 0 for probabilities that are right on average in every bin; gaps of
  different sign within a bin cancel. With few rows a bin it is above 0 by
  chance even for true probabilities.

  Args:
    probabilities: `[S, N, M]` of S predictors, in [0, 1].
    labels: `[N, M]` bool, or values in [0, 1].
    num_bins: B, at least 1.

  Returns:
    `[S, M]` float64; NaN without rows.

  Raises:
    ValueError: if shapes do not agree or there is no bin.

  References:
    Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using
    Bayesian binning", AAAI 2015, with bins of equal mass instead of equal
    width.

  >>> import numpy as np
  >>> probabilities = np.array([0.1, 0.3, 0.8, 1.0])[None, :, None]
  >>> labels = np.array([0, 1, 1, 1])[:, None]
  >>> expected_calibration_error(probabilities, labels, num_bins=2).round(3)
  array([[0.2]])
  """
  if probabilities.ndim != 3 or probabilities.shape[1:] != labels.shape:
    raise ValueError(
        f"probabilities has shape {probabilities.shape}, labels "
        f"{labels.shape}; expected [S, N, M] and [N, M].")
  if num_bins < 1:
    raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
  num_rows = len(labels)
  result = np.full((len(probabilities), labels.shape[1]), np.nan)
  if not num_rows:
    return result
  bins = min(num_bins, num_rows)
  starts = np.linspace(0, num_rows, bins + 1).astype(int)[:-1]
  for s, m in np.ndindex(*result.shape):
    column = probabilities[s, :, m].astype(np.float64)
    gap = column - labels[:, m]
    order = np.argsort(column, kind="stable")
    result[s, m] = np.abs(
        np.add.reduceat(gap[order], starts)).sum() / num_rows
  return result
