"""Independent references in float64: NumPy, SciPy, and nothing of ours."""

import numpy as np
from scipy import optimize
from scipy import stats


def isotonic(values, weights=None):
  """Non-decreasing least squares by SciPy's pool-adjacent-violators."""
  values = np.asarray(values, np.float64)
  return optimize.isotonic_regression(values, weights=weights).x


def mid_ranks(scores):
  """Ascending ranks, ties share the mean."""
  return stats.rankdata(np.asarray(scores, np.float64))


def soft_rank(scores, strength):
  """`z - isotonic(z - rho)` in sorted order, `z = scores / strength`."""
  scores = np.asarray(scores, np.float64)
  order = np.argsort(scores, kind="stable")
  z = scores[order] / strength
  ranks = np.empty_like(z)
  ranks[order] = z - isotonic(z - np.arange(1, len(z) + 1))
  return ranks


def soft_sort(values, strength):
  """`rho - isotonic(rho - w)` with `rho = positions / strength`."""
  w = np.sort(np.asarray(values, np.float64))
  rho = np.arange(1, len(w) + 1) / strength
  return rho - isotonic(rho - w)


def log_isotonic(values, log_weights):
  """Non-decreasing fit of logarithms: blocks of `LSE(y + w) - LSE(w)`."""
  blocks = []  # (log of the weighted sum, log of the weight, size)
  for value, log_weight in zip(values, log_weights, strict=True):
    blocks.append((value + log_weight, log_weight, 1))
    while len(blocks) > 1 and (
        blocks[-2][0] - blocks[-2][1] > blocks[-1][0] - blocks[-1][1]):
      (s1, w1, n1), (s2, w2, n2) = blocks[-2:]
      blocks[-2:] = [(np.logaddexp(s1, s2), np.logaddexp(w1, w2), n1 + n2)]
  return np.concatenate([np.full(n, s - w) for s, w, n in blocks])


def entropic_soft_rank(scores, strength):
  """`exp(z - v)` in sorted order, v the fit of `z - log(rho)`."""
  scores = np.asarray(scores, np.float64)
  order = np.argsort(scores, kind="stable")
  z = (scores[order] - np.median(scores)) / strength
  log_ranks = np.log(np.arange(1, len(z) + 1))
  ranks = np.empty_like(z)
  ranks[order] = np.exp(z - log_isotonic(z - log_ranks, log_ranks))
  return ranks


def entropic_soft_sort(values, strength):
  """`rho - v`, v the fit of `rho - w` with weights `exp(w)`."""
  w = np.sort(np.asarray(values, np.float64))
  rho = np.arange(1, len(w) + 1) / strength
  return rho - log_isotonic(rho - w, w)


def isotonic_blocks(values, weights=None):
  """Label of the block of every item in the isotonic fit."""
  edges = optimize.isotonic_regression(
      np.asarray(values, np.float64), weights=weights).blocks
  return np.searchsorted(edges, np.arange(len(values)), side="right")


def soft_rank_jacobian(scores, strength):
  """`(I - 1 1' / |B|) / strength` on every block B of pooled items."""
  scores = np.asarray(scores, np.float64)
  order = np.argsort(scores, kind="stable")
  labels = isotonic_blocks(
      scores[order] / strength - np.arange(1, len(scores) + 1))
  same = labels[:, None] == labels[None, :]
  sorted_jacobian = (np.eye(len(scores))
                     - same / same.sum(axis=1, keepdims=True)) / strength
  jacobian = np.empty_like(sorted_jacobian)
  jacobian[np.ix_(order, order)] = sorted_jacobian
  return jacobian


def families(size, seed=0):
  """Named inputs that are hard for isotonic regression, one way each."""
  rng = np.random.default_rng(seed)
  steps = np.arange(size, dtype=np.float64)
  ranked = np.sort(rng.normal(size=size))
  result = {
      "random": rng.normal(size=size),
      "sorted": np.sort(rng.normal(size=size)),
      "reversed": -np.sort(rng.normal(size=size)),
      "walk": np.cumsum(rng.normal(size=size)),
      # Every merge pools everything so far.
      "cascade": -steps**2,
      "zigzag": steps * (-1) ** steps,
      "heavy ties": rng.integers(0, 4, size).astype(np.float64),
      "constant": np.full(size, 0.1),
      "exponential": np.exp(8 * rng.normal(size=size)),
      "decaying": np.exp(-600 * steps / max(size, 1)),
  }
  for strength in (0.1, 1.0, 3.0, 8.0):
    result[f"ranks at {strength}"] = (
        ranked * size / strength - np.arange(1, size + 1))
  return result


def random_lists(shape, num_lists, seed=0):
  """Scores, a mask and ids of ragged lists, scattered over each row."""
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=shape)
  where = rng.random(shape) < 0.8
  ids = rng.integers(0, num_lists, shape) * 7919 - 3 * 7919
  return scores, where, ids


def per_list(function, values, where, ids):
  """Applies `function` to every list of every row; 0 where masked."""
  result = np.zeros(np.shape(values))
  for row in np.ndindex(np.shape(values)[:-1]):
    for list_id in np.unique(ids[row]):
      chosen = where[row] & (ids[row] == list_id)
      if chosen.any():
        result[row][chosen] = function(values[row][chosen])
  return result


def padded_rows(lists, shape, fill=np.nan):
  """Lists as the first items of rows of one shape, and the mask of them."""
  values, where = np.full(shape, fill), np.zeros(shape, bool)
  for row, items in enumerate(lists):
    values[row, :len(items)] = items
    where[row, :len(items)] = True
  return values, where
