"""Sums of labels times ranks: the numerators and denominators of AUCs.

Rows have the weights of the groups (users) that they are in; a resample of
groups is one vector of weights.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Ordered(NamedTuple):
  """Rows in the order of their scores; sorted once for all resamples."""

  groups: np.ndarray  # [N]
  labels: np.ndarray  # [N, M] float64
  run: np.ndarray | None  # [N], runs of equal scores; None if all differ
  ends: np.ndarray  # [runs + 1], where runs begin, and N

  @classmethod
  def of(
      cls, scores: np.ndarray, groups: np.ndarray, labels: np.ndarray
  ) -> "Ordered":
    """Sorts scores `[N]` with their groups `[N]` and labels `[N, M]`."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    opens = np.append(True, ordered[1:] != ordered[:-1])
    run = None if opens.all() else np.cumsum(opens) - 1
    return cls(groups[order], labels[order].astype(np.float64), run,
               np.append(np.flatnonzero(opens), len(scores)))

  def rank_sums(self, group_weights: np.ndarray) -> np.ndarray:
    """`[M]` weighted sums of label times centred mid-rank; weights `[G]`."""
    weights = group_weights[self.groups]
    total = np.cumsum(weights)
    middle = 0.5 * total[-1]
    if self.run is None:
      ranks = total - 0.5 * weights - middle
    else:
      below = np.concatenate([[0.0], total])[self.ends]
      ranks = (0.5 * (below[:-1] + below[1:]) - middle)[self.run]
    return (weights * ranks) @ self.labels


def ideal_rank_sums(
    labels: np.ndarray, groups: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
  """From weights `[G]` to the `[M]` rank sums of a perfect ranking."""
  ideals = [Ordered.of(column, groups, column[:, None])
            for column in labels.T]
  return lambda weights: np.array([
      ideal.rank_sums(weights)[0] for ideal in ideals])


def half_of_pairs(
    labels: np.ndarray, groups: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
  """From weights `[G]` to `[M]` halves of the expected pairs of two classes.

  Labels are probabilities. Rank sums of a perfect ranking have this mean over
  many rows drawn.
  """
  chances = labels.astype(np.float64)
  # A row makes no pair with itself.
  itself = chances * (1 - chances)

  def half(weights: np.ndarray) -> np.ndarray:
    weights = weights[groups]
    positive = weights @ chances
    return 0.5 * (positive * (weights.sum() - positive)
                  - np.square(weights) @ itself)

  return half


def rank_sums_within(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray,
    count: np.ndarray,
) -> np.ndarray:
  """`[G, M]` sums of label times centred mid-rank within each of G groups.

  Scores are `[N]`, labels `[N, M]`, groups `[N]` numbers below G, and count
  `[G]` is the number of rows of each group.
  """
  order = np.lexsort((scores, groups))
  ids, ordered = groups[order], scores[order]
  opens = np.append(True, (ordered[1:] != ordered[:-1])
                    | (ids[1:] != ids[:-1]))
  first = np.flatnonzero(opens)
  middle = 0.5 * (first + np.append(first[1:], len(ids)))
  begins = np.cumsum(count) - count
  ranks = middle[np.cumsum(opens) - 1] - begins[ids] - 0.5 * count[ids]
  return _sums_within(
      labels[order].astype(np.float64) * ranks[:, None], ids, len(count))


def _sums_within(
    values: np.ndarray, groups: np.ndarray, num_groups: int
) -> np.ndarray:
  """`[G, M]` sums of values `[N, M]` within each of G groups."""
  return np.stack([
      np.bincount(groups, weights=column, minlength=num_groups)
      for column in values.T], axis=1)


def pairs_within(
    labels: np.ndarray, groups: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of two classes within each of G groups, for labels that are drawn.

  Returns `[G, M]` halves of the expected number of pairs, and the probability
  that there is a pair. Arguments are those of `rank_sums_within`.
  """
  chances = labels.astype(np.float64)
  each = lambda values: _sums_within(values, groups, len(count))
  positive = each(chances)
  half = 0.5 * (positive * (count[:, None] - positive)
                - each(chances * (1 - chances)))
  with np.errstate(divide="ignore"):
    none, every = (np.exp(each(np.log(part)))
                   for part in (1 - chances, chances))
  # A group without rows has no pair: both products are 1.
  return half, np.maximum(1 - none - every, 0)
