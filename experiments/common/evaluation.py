"""AUC of several methods on the same rows, with its uncertainty.

Methods are compared pairwise on the same resamples of users: a difference
between two methods is far better known than either.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.ensemble import metrics

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
  auc = exact_auc(scores, labels)
  is_defined = ~np.isnan(auc[0])
  replicates = bootstrap_auc(scores, labels, users, seed=seed)
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


def exact_auc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`[K, M]` AUC of `[K, N]` scores for `[N, M]` labels."""
  return np.asarray(
      _one_by_one(jnp.asarray(scores), jnp.asarray(labels)), np.float64)


@jax.jit
def _one_by_one(scores: jax.Array, labels: jax.Array) -> jax.Array:
  return jax.lax.map(lambda row: metrics.auc(row, labels), scores)


def bootstrap_auc(
    scores: np.ndarray,
    labels: np.ndarray,
    users: np.ndarray | None,
    *,
    seed: int = 0,
) -> np.ndarray:
  """AUC on resamples of users, the same resamples for every method.

  A resample is a weight per row, and its AUC one weighted rank sum: methods
  are sorted once, not once a resample.

  Args:
    scores: `[K, N]`.
    labels: `[N, M]` bool, or non-negative values.
    users: `[N]` integers, or None to resample rows.
    seed: of the resamples.

  Returns:
    `[R, K, M]` float64; NaN where a resample leaves one class only.
  """
  num_methods, num_rows = scores.shape
  num_replicates = int(np.clip(
      _WORK // (10 * num_methods * num_rows), 50, _REPLICATES))
  groups = np.arange(num_rows)
  if users is not None:
    _, groups = np.unique(users, return_inverse=True)
  num_groups = groups.max() + 1
  rng = np.random.default_rng(seed)
  methods = [_Ordered.of(row, groups, labels) for row in scores]
  # By the labels themselves: the best there is.
  ideals = [_Ordered.of(column, groups, column[:, None])
            for column in labels.T]
  result = np.empty((num_replicates, num_methods, labels.shape[1]))
  for replicate in range(num_replicates):
    drawn = rng.integers(num_groups, size=num_groups)
    weights = np.bincount(drawn, minlength=num_groups).astype(np.float64)
    best = np.array([ideal.rank_sums(weights)[0] for ideal in ideals])
    sums = np.stack([method.rank_sums(weights) for method in methods])
    with np.errstate(invalid="ignore"):
      result[replicate] = 0.5 + sums / np.where(best > 0, 2 * best, np.nan)
  return result


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
