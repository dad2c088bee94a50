"""AUC of several methods on the same rows, with its uncertainty.

Methods are compared pairwise on the same resamples of users: a difference
between two methods is far better known than either.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_REPLICATES = 300
# Item ranks computed over all replicates and methods, at most.
_WORK = 3_000_000_000


class Comparison(NamedTuple):
  """AUCs of K methods for M objectives; standard errors by bootstrap.

  NaN where undefined: an objective with one class has no AUC and is left out
  of sums.

  Attributes:
    names: of the methods; the first is the one that others are compared with.
    auc: `[K, M]`.
    auc_error: `[K, M]` standard error.
    auc_sum: `[K]`.
    sum_error: `[K]` standard error.
    lead: `[K]`, what the first method is ahead of this one: difference of
      the sums, each AUC by its worth (1 if all are worth the same).
    lead_error: `[K]` standard error of the paired difference.
    clusters: "users" or "rows", what was resampled.
  """

  names: tuple[str, ...]
  auc: np.ndarray
  auc_error: np.ndarray
  auc_sum: np.ndarray
  sum_error: np.ndarray
  lead: np.ndarray
  lead_error: np.ndarray
  clusters: str


def compare(
    methods: dict[str, np.ndarray],
    labels: np.ndarray,
    users: np.ndarray | None,
    *,
    objective_weights: np.ndarray | None = None,
    seed: int = 0,
) -> Comparison:
  """AUC of each method, bootstrapped over users.

  Args:
    methods: name to `[N]` scores; the first is compared with the others.
    labels: `[N, M]` bool, or non-negative values.
    users: `[N]` integers, or None to resample rows.
    objective_weights: `[M]`, what an AUC is worth in the lead.
    seed: of the resamples.
  """
  scores = np.stack([np.asarray(s, np.float32) for s in methods.values()])
  auc, replicates = bootstrap_auc([Part(scores, labels, users)], seed=seed)
  is_defined = ~np.isnan(auc[0])
  worth = np.ones(labels.shape[1])
  if objective_weights is not None:
    worth = objective_weights / np.mean(objective_weights)
  total = lambda auc, worth: np.sum(
      np.where(is_defined, auc * worth, 0), axis=-1)
  value = total(auc, worth)
  values = total(replicates, worth)
  return Comparison(
      names=tuple(methods), auc=auc, auc_error=_spread(replicates),
      auc_sum=total(auc, 1), sum_error=_spread(total(replicates, 1)),
      lead=value[0] - value, lead_error=_spread(values[:, :1] - values),
      clusters="rows" if users is None else "users")


class Part(NamedTuple):
  """Rows that are ranked together: those of one test, by K methods.

  Attributes:
    scores: `[K, N]`.
    labels: `[N, M]` bool, or non-negative values.
    users: `[N]` integers, or None to resample rows.
  """

  scores: np.ndarray
  labels: np.ndarray
  users: np.ndarray | None


def bootstrap_auc(
    parts: Sequence[Part], *, seed: int = 0,
    num_replicates: int | None = None, are_probabilities: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """AUC, and on resamples of users, the same resamples for every method.

  A resample is a weight per row, and its AUC one weighted rank sum: methods
  are sorted once, not once a resample. A user weighs the same in all parts.

  Args:
    parts: each has an AUC of its own; the result is their mean.
    seed: of the resamples.
    num_replicates: R; as many as are quick if None.
    are_probabilities: labels are the probabilities that labels are drawn
      with. Found is then how likely one that is drawn positive stands above
      one that is not: what the AUC of drawn labels comes to where they are
      many, and no chance of few of them.

  Returns:
    `[K, M]` and `[R, K, M]` float64; NaN where only one class is left.
  """
  num_methods = len(parts[0].scores)
  num_rows = sum(len(part.labels) for part in parts)
  if num_replicates is None:
    num_replicates = int(np.clip(
        _WORK // (10 * num_methods * num_rows), 50, _REPLICATES))
  groups, num_groups = _groups(parts)
  rng = np.random.default_rng(seed)
  ordered = [
      ([_Ordered.of(row, ids, part.labels) for row in part.scores],
       (_half_of_pairs if are_probabilities else _ideal_rank_sums)(part, ids))
      for part, ids in zip(parts, groups, strict=True)]

  def measure(weights: np.ndarray) -> np.ndarray:
    each = []
    for methods, largest in ordered:
      best = largest(weights)
      sums = np.stack([method.rank_sums(weights) for method in methods])
      with np.errstate(invalid="ignore"):
        each.append(0.5 + sums / np.where(best > 0, 2 * best, np.nan))
    return mean_of_defined(np.stack(each))

  value = measure(np.ones(num_groups))
  replicates = np.empty((num_replicates, *value.shape))
  for replicate in replicates:
    replicate[:] = measure(_resample(rng, num_groups))
  return value, replicates


def _ideal_rank_sums(
    part: Part, groups: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
  """From weights of groups to `[M]` rank sums of an AUC of 1: by labels."""
  ideals = [_Ordered.of(column, groups, column[:, None])
            for column in part.labels.T]
  return lambda weights: np.array([
      ideal.rank_sums(weights)[0] for ideal in ideals])


def _half_of_pairs(
    part: Part, groups: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
  """The same of labels that are drawn with probabilities."""
  chances = part.labels.astype(np.float64)
  # A row makes no pair with itself.
  itself = chances * (1 - chances)

  def half(weights: np.ndarray) -> np.ndarray:
    weights = weights[groups]
    positive = weights @ chances
    return 0.5 * (positive * (weights.sum() - positive)
                  - np.square(weights) @ itself)

  return half


def bootstrap_group_auc(
    parts: Sequence[Part], *, seed: int = 0, num_replicates: int = _REPLICATES,
    are_probabilities: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """AUC within users, weighted by their rows; and the same on resamples.

  Args:
    parts: with users; the result is their mean.
    seed: of the resamples.
    num_replicates: R.
    are_probabilities: as for `bootstrap_auc`, within each user; a user weighs
      its rows times the chance that both classes are drawn. Of few positives
      an approximation: the expected pairs in order over all expected ones.

  Returns:
    `[K, M]` and `[R, K, M]` float64; NaN where no user has both classes.
  """
  groups, num_groups = _groups(parts)
  rng = np.random.default_rng(seed)
  weights = np.stack([np.ones(num_groups), *(
      _resample(rng, num_groups) for _ in range(num_replicates))])
  each = []
  for part, ids in zip(parts, groups, strict=True):
    count = np.bincount(ids, minlength=num_groups)
    sums = np.stack([_rank_sums_within(row, part.labels, ids, count)
                     for row in part.scores])
    if are_probabilities:
      best, has_both = _pairs_within(part.labels, ids, count)
    else:
      best = np.concatenate([
          _rank_sums_within(column, column[:, None], ids, count)
          for column in part.labels.T], axis=1)
      has_both = (best > 0).astype(np.float64)
    value = 0.5 + sums / np.where(best > 0, 2 * best, 1)  # [K, G, M]
    mass = count[:, None] * has_both
    total = (weights @ mass)[:, None]
    gained = np.einsum("rg,kgm->rkm", weights, mass * value, optimize=True)
    each.append(np.where(
        total > 0, gained / np.where(total > 0, total, 1), np.nan))
  result = mean_of_defined(np.stack(each))
  return result[0], result[1:]


def _pairs_within(
    labels: np.ndarray, groups: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Of labels that are drawn with probabilities, within each of G groups.

  Returns:
    `[G, M]` halves of the pairs to expect, and chances that there is one.
  """
  chances = labels.astype(np.float64)
  each = lambda values: np.stack([
      np.bincount(groups, weights=column, minlength=len(count))
      for column in values.T], axis=1)
  positive = each(chances)
  half = 0.5 * (positive * (count[:, None] - positive)
                - each(chances * (1 - chances)))
  with np.errstate(divide="ignore"):
    none, every = (np.exp(each(np.log(part)))
                   for part in (1 - chances, chances))
  # Of no rows, none is positive and every one.
  return half, np.maximum(1 - none - every, 0)


def _groups(parts: Sequence[Part]) -> tuple[list[np.ndarray], int]:
  """What is resampled: a number for each row, and how many there are."""
  ends = np.cumsum([len(part.labels) for part in parts])
  if parts[0].users is None:
    return np.split(np.arange(ends[-1]), ends[:-1]), int(ends[-1])
  known, numbers = np.unique(
      np.concatenate([part.users for part in parts]), return_inverse=True)
  return np.split(numbers, ends[:-1]), len(known)


def _resample(rng: np.random.Generator, num_groups: int) -> np.ndarray:
  drawn = rng.integers(num_groups, size=num_groups)
  return np.bincount(drawn, minlength=num_groups).astype(np.float64)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
  """Mean over the first axis, NaN where nothing is defined."""
  defined = ~np.isnan(values)
  count = defined.sum(axis=0)
  return np.where(count > 0, np.where(defined, values, 0).sum(axis=0)
                  / np.maximum(count, 1), np.nan)


def _rank_sums_within(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray,
    count: np.ndarray,
) -> np.ndarray:
  """`[G, M]` sums of label times centred mid-rank within each of G groups."""
  order = np.lexsort((scores, groups))
  ids, ordered = groups[order], scores[order]
  opens = np.append(True, (ordered[1:] != ordered[:-1])
                    | (ids[1:] != ids[:-1]))
  first = np.flatnonzero(opens)
  middle = 0.5 * (first + np.append(first[1:], len(ids)))
  begins = np.cumsum(count) - count
  ranks = middle[np.cumsum(opens) - 1] - begins[ids] - 0.5 * count[ids]
  return np.stack([
      np.bincount(ids, weights=column * ranks, minlength=len(count))
      for column in labels[order].T.astype(np.float64)], axis=1)


class _Ordered(NamedTuple):
  """Rows in the order of their scores."""

  groups: np.ndarray  # [N]
  labels: np.ndarray  # [N, M] float64
  run: np.ndarray | None  # [N] number of the run of equal scores, if any are
  ends: np.ndarray  # [runs + 1], where runs begin, and N

  @classmethod
  def of(
      cls, scores: np.ndarray, groups: np.ndarray, labels: np.ndarray
  ) -> "_Ordered":
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    opens = np.append(True, ordered[1:] != ordered[:-1])
    run = None if opens.all() else np.cumsum(opens) - 1
    return cls(groups[order], labels[order].astype(np.float64), run,
               np.append(np.flatnonzero(opens), len(scores)))

  def rank_sums(self, group_weights: np.ndarray) -> np.ndarray:
    """`[M]` weighted sums of label times centred rank.

    The rank of an item is the weight below and half of its equals' weight.
    """
    weights = group_weights[self.groups]
    total = np.cumsum(weights)
    middle = 0.5 * total[-1]
    if self.run is None:
      ranks = total - 0.5 * weights - middle
    else:
      below = np.concatenate([[0.0], total])[self.ends]
      ranks = (0.5 * (below[:-1] + below[1:]) - middle)[self.run]
    return (weights * ranks) @ self.labels


def _spread(replicates: np.ndarray) -> np.ndarray:
  """Standard deviation over the first axis, of the defined ones."""
  defined = ~np.isnan(replicates)
  count = defined.sum(axis=0)
  mean = np.where(defined, replicates, 0).sum(axis=0) / np.maximum(count, 1)
  squares = np.where(defined, (replicates - mean)**2, 0).sum(axis=0)
  return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)),
                  np.nan)
