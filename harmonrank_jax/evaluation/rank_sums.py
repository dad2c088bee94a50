"""Rows in order, and sums of labels times ranks: what AUCs are made of."""

from typing import NamedTuple

import numpy as np


class Ordered(NamedTuple):
  """Rows in the order of their scores."""

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
