"""AUC of several methods on the same rows, with its uncertainty.

Methods are compared on the same resamples of users (a paired cluster
bootstrap): the difference between two methods is far better known than the AUC
of either, as both see the same easy and hard rows.

With weights w of rows, labels y >= 0 and centred mid-ranks r of scores (the
weight below a row, half of that of rows of the same score, less half of the
total),

    AUC = 1/2 + sum_i w_i y_i r_i / (2 sum_i w_i y_i r*_i),

in which r* are the ranks by the labels themselves. For labels of 0 and 1 this
is the usual AUC, with ties counted as one half; values weigh each pair by
their difference. A resample of users is one w: methods are sorted once.

References:
  Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 8 for
  resamples of clusters. Hanley and McNeil, "The meaning and use of the area
  under a receiver operating characteristic (ROC) curve", Radiology 143, 1982.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harmonrank_jax.evaluation import rank_sums

_REPLICATES = 300
# Bounds the item ranks computed over all replicates and methods.
_WORK = 3_000_000_000


class Part(NamedTuple):
  """Rows that are ranked together: those of one test, by K methods."""

  scores: np.ndarray  # [K, N]; higher ranks first
  labels: np.ndarray  # [N, M] bool, or non-negative values
  users: np.ndarray | None  # [N] integers, or None to resample rows


class Comparison(NamedTuple):
  """AUCs of K methods for M objectives; standard errors by bootstrap.

  NaN where undefined: an objective with one class has no AUC and is left out
  of sums. The lead is the weighted sum of AUCs of the first method minus that
  of this one, with weights of mean 1; its error is that of the paired
  difference.
  """

  names: tuple[str, ...]  # of the methods; the first is compared with others
  auc: np.ndarray  # [K, M]
  auc_error: np.ndarray  # [K, M]
  auc_sum: np.ndarray  # [K]
  sum_error: np.ndarray  # [K]
  lead: np.ndarray  # [K]
  lead_error: np.ndarray  # [K]
  clusters: str  # "users" or "rows", what was resampled


def compare(
    methods: dict[str, np.ndarray],
    labels: np.ndarray,
    users: np.ndarray | None,
    *,
    objective_weights: np.ndarray | None = None,
    seed: int = 0,
) -> Comparison:
  """Compares the first method with the others, on resamples of users.

  Args:
    methods: name to `[N]` scores; higher ranks first.
    labels: `[N, M]` bool, or non-negative values.
    users: `[N]` integers, or None to resample rows.
    objective_weights: `[M]` non-negative, of the AUCs in the lead; all equal
      if None.
    seed: of the resamples.

  Returns:
    AUCs, their sums and the leads of the first method.

  Raises:
    ValueError: if there is no method, or shapes do not agree.

  >>> import numpy as np
  >>> labels = np.array([[1], [0], [1], [0]] * 50)
  >>> good, bad = np.tile([4, 2, 3, 1], 50), np.tile([1, 2, 3, 4], 50)
  >>> result = compare({"good": good, "bad": bad}, labels, None)
  >>> result.auc[:, 0].tolist(), result.lead.tolist()
  ([1.0, 0.25], [0.0, 0.75])
  """
  if not methods:
    raise ValueError("methods must not be empty.")
  for name, row in methods.items():
    if np.shape(row) != labels.shape[:1]:
      raise ValueError(f"methods[{name!r}] has shape {np.shape(row)}; labels "
                       f"of shape {labels.shape} need {labels.shape[:1]}.")
  worth = np.ones(labels.shape[1])
  if objective_weights is not None:
    if np.shape(objective_weights) != worth.shape:
      raise ValueError(
          f"objective_weights has shape {np.shape(objective_weights)}; labels "
          f"of shape {labels.shape} need {worth.shape}.")
    worth = objective_weights / np.mean(objective_weights)
  scores = np.stack([np.asarray(s, np.float32) for s in methods.values()])
  auc, replicates = bootstrap_auc([Part(scores, labels, users)], seed=seed)
  is_defined = ~np.isnan(auc[0])
  total = lambda auc, worth: np.sum(
      np.where(is_defined, auc * worth, 0), axis=-1)
  value = total(auc, worth)
  values = total(replicates, worth)
  return Comparison(
      names=tuple(methods), auc=auc, auc_error=_standard_error(replicates),
      auc_sum=total(auc, 1), sum_error=_standard_error(total(replicates, 1)),
      lead=value[0] - value, lead_error=_standard_error(values[:, :1] - values),
      clusters="rows" if users is None else "users")


def bootstrap_auc(
    parts: Sequence[Part], *, seed: int = 0,
    num_replicates: int | None = None, are_probabilities: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """AUC of every method, and on resamples of users that methods share.

  With `are_probabilities`, labels are the probabilities p that the labels are
  drawn with, and the result is the probability that a row drawn positive is
  ranked above one that is not,

      sum_{i != j} p_i (1 - p_j) [s_i > s_j] / sum_{i != j} p_i (1 - p_j),

  ties counted as one half. AUCs of drawn labels tend to it where positives
  are many, and it does not depend on which were drawn.

  Args:
    parts: each has an AUC of its own; the result is their mean. A user has the
      same weight in all parts.
    seed: of the resamples.
    num_replicates: R >= 0; None takes 300, or fewer, but at least 50, for many
      rows.
    are_probabilities: whether labels are probabilities, in [0, 1].

  Returns:
    `[K, M]` and `[R, K, M]` float64; NaN where only one class is left.

  Raises:
    ValueError: if there is no part, or shapes do not agree.

  >>> import numpy as np
  >>> scores = np.array([[0.9, 0.4, 0.6, 0.1], [0.1, 0.4, 0.6, 0.9]])
  >>> labels = np.array([[1], [0], [1], [0]])
  >>> auc, replicates = bootstrap_auc(
  ...     [Part(scores, labels, None)], num_replicates=5)
  >>> auc.tolist(), replicates.shape
  ([[1.0], [0.25]], (5, 2, 1))
  """
  _check(parts, num_replicates)
  num_methods = len(parts[0].scores)
  num_rows = sum(len(part.labels) for part in parts)
  if num_replicates is None:
    num_replicates = int(np.clip(
        _WORK // (10 * num_methods * num_rows), 50, _REPLICATES))
  groups, num_groups = _groups(parts)
  rng = np.random.default_rng(seed)
  normaliser_of = (rank_sums.half_of_pairs if are_probabilities else
                   rank_sums.ideal_rank_sums)
  ordered = [
      ([rank_sums.Ordered.of(row, ids, part.labels) for row in part.scores],
       normaliser_of(part.labels, ids))
      for part, ids in zip(parts, groups, strict=True)]

  def measure(weights: np.ndarray) -> np.ndarray:
    each = []
    for methods, normaliser in ordered:
      best = normaliser(weights)
      sums = np.stack([method.rank_sums(weights) for method in methods])
      with np.errstate(invalid="ignore"):
        each.append(0.5 + sums / np.where(best > 0, 2 * best, np.nan))
    return _mean_of_defined(np.stack(each))

  value = measure(np.ones(num_groups))
  replicates = np.empty((num_replicates, *value.shape))
  for replicate in replicates:
    replicate[:] = measure(_resample(rng, num_groups))
  return value, replicates


def _check(parts: Sequence[Part], num_replicates: int | None) -> None:
  """Raises ValueError if parts do not fit together."""
  if not parts:
    raise ValueError("parts must not be empty.")
  if num_replicates is not None and num_replicates < 0:
    raise ValueError(
        f"num_replicates must be at least 0, got {num_replicates}.")
  num_methods, num_objectives = len(parts[0].scores), parts[0].labels.shape[-1]
  for number, (scores, labels, users) in enumerate(parts):
    num_rows = len(labels)
    for name, array, shape in (
        ("scores", scores, (num_methods, num_rows)),
        ("labels", labels, (num_rows, num_objectives)),
        ("users", users, (num_rows,))):
      if array is not None and array.shape != shape:
        raise ValueError(f"parts[{number}].{name} has shape {array.shape}; "
                         f"expected {shape}.")
    if (users is None) != (parts[0].users is None):
      raise ValueError(
          f"parts[{number}].users: either all parts have users, or none has.")


def bootstrap_group_auc(
    parts: Sequence[Part], *, seed: int = 0, num_replicates: int = _REPLICATES,
    are_probabilities: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """AUC within users, weighted by their rows; and on resamples of users.

  With n_u rows of user u, over the users with both classes,

      GAUC = sum_u n_u AUC_u / sum_u n_u.

  With `are_probabilities`, AUC_u is as in `bootstrap_auc` and n_u is weighted
  by the probability that both classes are drawn. For users of few positives
  this approximates the expected GAUC: it divides expected pairs in order by
  expected pairs. Arguments and results are those of `bootstrap_auc`, but all
  parts need users, and values are NaN where no user has both classes.

  References:
    Zhou et al., "Deep interest network for click-through rate prediction",
    KDD 2018, whose AUCs of users are weighted by impressions as well.

  >>> import numpy as np
  >>> scores = np.array([[0.9, 0.4, 0.1, 0.6, 0.3]])
  >>> labels = np.array([[1], [0], [1], [0], [0]])
  >>> users = np.array([7, 7, 8, 8, 8])  # AUCs of 1 and 0.
  >>> bootstrap_group_auc(
  ...     [Part(scores, labels, users)], num_replicates=0)[0].round(3)
  array([[0.4]])
  """
  _check(parts, num_replicates)
  if parts[0].users is None:
    raise ValueError("parts[0].users must not be None.")
  groups, num_groups = _groups(parts)
  rng = np.random.default_rng(seed)
  weights = np.stack([np.ones(num_groups), *(
      _resample(rng, num_groups) for _ in range(num_replicates))])
  each = []
  for part, ids in zip(parts, groups, strict=True):
    count = np.bincount(ids, minlength=num_groups)
    sums = np.stack([rank_sums.rank_sums_within(row, part.labels, ids, count)
                     for row in part.scores])
    if are_probabilities:
      best, has_both = rank_sums.pairs_within(part.labels, ids, count)
    else:
      best = np.concatenate([
          rank_sums.rank_sums_within(column, column[:, None], ids, count)
          for column in part.labels.T], axis=1)
      has_both = (best > 0).astype(np.float64)
    value = 0.5 + sums / np.where(best > 0, 2 * best, 1)  # [K, G, M]
    mass = count[:, None] * has_both
    total = (weights @ mass)[:, None]
    gained = np.einsum("rg,kgm->rkm", weights, mass * value, optimize=True)
    each.append(np.where(
        total > 0, gained / np.where(total > 0, total, 1), np.nan))
  result = _mean_of_defined(np.stack(each))
  return result[0], result[1:]


def _groups(parts: Sequence[Part]) -> tuple[list[np.ndarray], int]:
  """Clusters to resample: the number of that of each row, and their count."""
  ends = np.cumsum([len(part.labels) for part in parts])
  if parts[0].users is None:
    return np.split(np.arange(ends[-1]), ends[:-1]), int(ends[-1])
  known, numbers = np.unique(
      np.concatenate([part.users for part in parts]), return_inverse=True)
  return np.split(numbers, ends[:-1]), len(known)


def _resample(rng: np.random.Generator, num_groups: int) -> np.ndarray:
  """`[G]` times that each cluster is drawn, with replacement."""
  drawn = rng.integers(num_groups, size=num_groups)
  return np.bincount(drawn, minlength=num_groups).astype(np.float64)


def _mean_of_defined(values: np.ndarray, lost: int = 0) -> np.ndarray:
  """Sum over the first axis by defined values less `lost`; NaN without any."""
  count = np.sum(~np.isnan(values), axis=0) - lost
  return np.where(
      count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)


def _standard_error(replicates: np.ndarray) -> np.ndarray:
  """Standard deviation over the first axis; NaN values are left out."""
  deviations = replicates - _mean_of_defined(replicates)
  return np.sqrt(_mean_of_defined(deviations**2, lost=1))
