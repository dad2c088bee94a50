"""AUCs of several methods on the same rows, and how sure their differences are.

Methods are compared on the same rows: the difference between two is far better
known than the AUC of either, as both see the same easy and hard rows. Rows of
one user go together, so that errors are those of users (clusters).

With labels y >= 0 and centred mid-ranks r of scores (the rows below, half of
those of the same score, less half of all),

    AUC = 1/2 + T / B,    T = sum_i y_i r_i,    B = 2 sum_i y_i r*_i,

in which r* are the ranks by the labels themselves. For labels of 0 and 1 this
is the usual AUC, with ties counted as one half; values weigh each pair by
their difference. A user c moves a sum of AUCs by what its rows add to
derivatives by their weights,

    e_c = (dT_c - (AUC - 1/2) dB_c) / B,

and the variance of the sum is that of sum_c e_c. Two things make this right
for an objective of a handful of positives, which may lie with as few users:

  - Residuals are too small: P positives lie about their own mean. Those that
    a user adds to the positives (or negatives) of an objective are divided by
    sqrt(1 - h), h its share of these, which for P users of one positive is the
    P / (P - 1) of a sample variance.
  - A variance of few terms is itself uncertain: intervals are of Student's t,
    with Satterthwaite's degrees of freedom for the users that carry it. For P
    users of one positive, if these decide, they are P - 1.

The AUC of a method ends at 1, and the higher it is, the fewer positives make
its error, which is too small where these are missing. So its interval is one of
log-odds, which stays within 0 and 1, and reaches towards 1/2 as far as if there
had been a fifth of a user more, with an AUC of 1/2: by simulation this misses
about one time in twenty, for five positives or a hundred.

Below four users with positives (or negatives; or the same, where some users
have far more than others) there is no interval.

References:
  DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more
  correlated receiver operating characteristic curves: a nonparametric
  approach", Biometrics 44, 1988; Obuchowski, "Nonparametric analysis of
  clustered ROC curve data", Biometrics 53, 1997, for users. Bell and
  McCaffrey, "Bias reduction in standard errors for linear regression with
  multi-stage samples", Survey Methodology 28, 2002, for both corrections.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from harmonrank_jax.evaluation import rank_sums

# Of the variance within a class, those of between three and four equal users:
# an interval of fewer does not hold what it promises.
_FEWEST_FREEDOMS = 2.5

# Users with an AUC of 1/2 that the interval of an AUC reckons with.
_PRIOR_USERS = 0.2


class Part(NamedTuple):
  """Rows that are ranked together: those of one test, by K methods."""

  scores: np.ndarray  # [K, N]; higher ranks first
  labels: np.ndarray  # [N, M] bool, or non-negative values
  users: np.ndarray | None  # [N] integers, or None: each row by itself


class Estimate(NamedTuple):
  """A number and how sure it is; NaN where that is not known."""

  value: float
  error: float  # standard
  freedoms: float  # degrees of freedom of the error

  @property
  def margin(self) -> float:
    """Half of the 95 % interval."""
    return self.error * float(special.stdtrit(self.freedoms, 0.975))

  @property
  def ends_of_auc(self) -> tuple[float, float]:
    """Ends of the 95 % interval of a number that is the AUC of one method.

    NaN where the AUC is 0 or 1, or the error 0: nothing is known of it then.
    """
    if not (0 < self.value < 1 and self.error > 0):
      return np.nan, np.nan
    share = _PRIOR_USERS / (self.freedoms + 1 + _PRIOR_USERS)
    odds = special.logit([self.value, self.value + share * (0.5 - self.value)])
    half = self.margin / (self.value * (1 - self.value))
    low, high = special.expit([odds.min() - half, odds.max() + half])
    return float(low), float(high)

  def with_errors(self, *others: tuple[float, float]) -> "Estimate":
    """Adds independent errors, each with its degrees of freedom."""
    errors, freedoms = np.array([(self.error, self.freedoms), *others]).T
    squares = np.square(errors)
    total = squares.sum()
    if not total:
      return self
    with np.errstate(divide="ignore"):
      return Estimate(self.value, float(np.sqrt(total)), float(
          np.square(total) / np.sum(np.square(squares) / freedoms)))


class AucEstimates(NamedTuple):
  """AUCs of K methods for M objectives, and what G clusters add to errors.

  The errors of an objective come from J parts, its positives and negatives, or
  one.
  """

  # [K, M]; NaN without an AUC, and for a method with a score that is NaN
  auc: np.ndarray
  influence: np.ndarray  # [K, G, J] float32, corrected for leverage
  objectives: np.ndarray  # [J] numbers of the objectives of parts
  spread: np.ndarray  # [J, J]; 1 / its diagonal are degrees of freedom
  positives: np.ndarray  # [M] rows with a label above 0
  is_known: np.ndarray  # [M], whether there are enough clusters for an error
  is_scored: np.ndarray  # [K], whether no score is NaN

  def contrast(self, weights: np.ndarray) -> Estimate:
    """The sum of AUCs by weights `[K, M]`; objectives without one left out.

    NaN with a weight for a method with a score that is NaN.
    """
    if np.any(np.asarray(weights)[~self.is_scored]):
      return Estimate(np.nan, np.nan, np.nan)
    weights = np.asarray(np.where(np.isnan(self.auc), 0, weights))
    value = float(np.sum(weights * np.nan_to_num(self.auc)))
    is_used = np.asarray(weights.any(axis=0))
    if not self.is_known[is_used].all():
      return Estimate(value, np.nan, np.nan)
    parts = np.flatnonzero(is_used[self.objectives])
    each = np.zeros((self.influence.shape[1], len(parts)))
    for k in np.flatnonzero(weights.any(axis=1)):
      each += weights[k, self.objectives[parts]] * self.influence[k][:, parts]
    total = each.sum(axis=1)
    variance = float(total @ total)
    if not variance:
      return Estimate(value, 0.0, np.inf)
    # What a part has of the variance, in proportion to its second moment: one
    # of few clusters that is small by chance would not seem to be well known.
    spread = self.spread[np.ix_(parts, parts)]
    shares = np.maximum(total @ each, 0) * (1 + 2 * np.diag(spread))
    return Estimate(value, variance**0.5, float(
        shares.sum()**2 / (shares @ spread @ shares)))

  def draws(self, count: int, *, seed: int) -> np.ndarray:
    """`[R, K, M]` normal errors of AUCs, all with the covariance of these.

    For what is no sum of AUCs. They are too small where `is_known` is False.
    """
    rng = np.random.default_rng(seed)
    times = rng.normal(size=(count, self.influence.shape[1]))
    of_objective = self.objectives[:, None] == np.arange(len(self.is_known))
    return np.stack([times @ (each @ of_objective)
                     for each in self.influence], axis=1)

  def of_methods(self, mixing: np.ndarray) -> "AucEstimates":
    """Means `[L, K]` of methods, such as of seeds, as methods."""
    is_scored = ~np.any(mixing[:, ~self.is_scored], axis=1)
    auc = mixing @ np.where(self.is_scored[:, None], self.auc, 0)
    return self._replace(
        auc=np.where(is_scored[:, None], auc, np.nan), is_scored=is_scored,
        influence=np.tensordot(mixing.astype(np.float32), self.influence, 1))

  def of_objectives(self, kept: np.ndarray) -> "AucEstimates":
    """Some of the objectives, `[M]` bool."""
    parts = kept[self.objectives]
    return AucEstimates(
        self.auc[:, kept], self.influence[..., parts],
        (np.cumsum(kept) - 1)[self.objectives[parts]],
        self.spread[np.ix_(parts, parts)], self.positives[kept],
        self.is_known[kept], self.is_scored)


class Comparison(NamedTuple):
  """AUCs of K methods for M objectives, with errors over users.

  NaN where undefined: an objective with one class has no AUC and is left out of
  sums, and a method with a score that is NaN has none, nor a lead. The lead is
  the weighted sum of AUCs of the first method minus that of this one, with
  weights of mean 1; its error is that of the paired difference. Margins are
  halves of 95 % intervals. Errors and margins that rest on an objective of too
  few positives are NaN: nothing can be claimed.
  """

  names: tuple[str, ...]  # of the methods; the first is compared with others
  auc: np.ndarray  # [K, M]
  auc_error: np.ndarray  # [K, M]
  auc_low: np.ndarray  # [K, M], ends of 95 % intervals; NaN for AUCs of 0 and 1
  auc_high: np.ndarray  # [K, M]
  auc_sum: np.ndarray  # [K]
  sum_error: np.ndarray  # [K]
  lead: np.ndarray  # [K]
  lead_error: np.ndarray  # [K]
  lead_margin: np.ndarray  # [K]
  positives: np.ndarray  # [M] rows with a label above 0
  is_known: np.ndarray  # [M], whether these are enough for an error
  clusters: str  # "users" or "rows", what varies as a whole


def compare(
    methods: dict[str, np.ndarray],
    labels: np.ndarray,
    users: np.ndarray | None,
    *,
    objective_weights: np.ndarray | None = None,
) -> Comparison:
  """Compares the first method with the others, on the same rows.

  Args:
    methods: name to `[N]` scores; higher ranks first.
    labels: `[N, M]` bool, or non-negative values.
    users: `[N]` integers, or None for rows that are independent.
    objective_weights: `[M]` non-negative, of the AUCs in the lead; all equal
      if None.

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
  scores = np.stack(list(methods.values()))
  found = auc_estimates([Part(scores, labels, users)])
  one_method, one_objective = np.eye(len(scores)), np.eye(len(worth))
  each = [[found.contrast(np.outer(k, m)) for m in one_objective]
          for k in one_method]
  sums = [found.contrast(np.outer(k, np.ones_like(worth))) for k in one_method]
  leads = [found.contrast(np.outer(one_method[0] - k, worth))
           for k in one_method]
  errors = np.array([[x.error for x in row] for row in each])
  low, high = np.moveaxis(
      np.array([[x.ends_of_auc for x in row] for row in each]), -1, 0)
  is_undefined = np.isnan(found.auc)
  return Comparison(
      names=tuple(methods), auc=found.auc,
      auc_error=np.where(is_undefined, np.nan, errors),
      auc_low=low, auc_high=high,
      auc_sum=np.array([x.value for x in sums]),
      sum_error=np.array([x.error for x in sums]),
      lead=np.array([x.value for x in leads]),
      lead_error=np.array([x.error for x in leads]),
      lead_margin=np.array([x.margin for x in leads]),
      positives=found.positives, is_known=found.is_known,
      clusters="rows" if users is None else "users")


def auc_estimates(
    parts: Sequence[Part], *, are_probabilities: bool = False,
) -> AucEstimates:
  """AUC of every method, and what users add to errors.

  With `are_probabilities`, labels are the probabilities p that the labels are
  drawn with, and the result is the probability that a row drawn positive is
  ranked above one that is not,

      sum_{i != j} p_i (1 - p_j) [s_i > s_j] / sum_{i != j} p_i (1 - p_j),

  ties counted as one half. AUCs of drawn labels tend to it where positives
  are many, and it does not depend on which were drawn.

  Args:
    parts: each has an AUC of its own; the result is their mean, without those
      of one class. A user is the same in all parts.
    are_probabilities: whether labels are probabilities, in [0, 1].

  Returns:
    AUCs of K methods for M objectives, with two parts of errors for each.

  Raises:
    ValueError: if there is no part, or shapes do not agree.

  >>> import numpy as np
  >>> scores = np.array([[0.9, 0.4, 0.6, 0.1], [0.1, 0.4, 0.6, 0.9]])
  >>> labels = np.array([[1], [0], [1], [0]])
  >>> found = auc_estimates([Part(np.tile(scores, 5), np.tile(labels, (5, 1)),
  ...                             None)])
  >>> lead = found.contrast(np.array([[1], [-1]]))
  >>> found.auc.tolist(), lead.value, bool(lead.margin < lead.value)
  ([[1.0], [0.25]], 0.75, True)
  """
  _check(parts)
  groups, num_groups = _groups(parts)
  num_objectives = parts[0].labels.shape[1]
  blocks = []
  for part, ids in zip(parts, groups, strict=True):
    labels = part.labels.astype(np.float64)
    pairs = (_gradient_of_chances if are_probabilities else
             _gradient_of_ideal)(labels, ids, num_groups)
    total = pairs.sum(axis=(0, 1))
    total = np.where(total > 0, total, np.nan)
    gradients = (_gradient(rank_sums.Ordered.of(row, ids, labels), num_groups)
                 for row in part.scores)
    blocks.append(_block(gradients, pairs, total, degree=2))
  return _mean_of_blocks(
      blocks, np.tile(np.arange(num_objectives), 2), parts)


def group_auc_estimates(
    parts: Sequence[Part], *, are_probabilities: bool = False,
) -> AucEstimates:
  """AUC within users, weighted by their rows, and what users add to errors.

  With n_u rows of user u, over the users with both classes,

      GAUC = sum_u n_u AUC_u / sum_u n_u.

  With `are_probabilities`, AUC_u is as in `auc_estimates` and n_u is weighted
  by the probability that both classes are drawn. For users of few positives
  this approximates the expected GAUC: it divides expected pairs in order by
  expected pairs. Arguments and results are those of `auc_estimates`, but all
  parts need users, errors have one part for each objective, and values are NaN
  where no user has both classes.

  References:
    Zhou et al., "Deep interest network for click-through rate prediction",
    KDD 2018, whose AUCs of users are weighted by impressions as well.

  >>> import numpy as np
  >>> scores = np.array([[0.9, 0.4, 0.1, 0.6, 0.3]])
  >>> labels = np.array([[1], [0], [1], [0], [0]])
  >>> users = np.array([7, 7, 8, 8, 8])  # AUCs of 1 and 0.
  >>> group_auc_estimates([Part(scores, labels, users)]).auc.round(3)
  array([[0.4]])
  """
  _check(parts)
  if parts[0].users is None:
    raise ValueError("parts[0].users must not be None.")
  groups, num_groups = _groups(parts)
  blocks = []
  for part, ids in zip(parts, groups, strict=True):
    count = np.bincount(ids, minlength=num_groups)
    if are_probabilities:
      best, has_both = rank_sums.pairs_within(part.labels, ids, count)
    else:
      best = np.concatenate([
          rank_sums.rank_sums_within(column, column[:, None], ids, count)
          for column in part.labels.T], axis=1)
      has_both = best > 0
    mass = count[:, None] * has_both
    total = mass.sum(axis=0)
    total = np.where(total > 0, total, np.nan)
    gained = (
        (mass * rank_sums.rank_sums_within(row, part.labels, ids, count)
         / np.where(best > 0, 2 * best, 1))[None] for row in part.scores)
    blocks.append(_block(gained, mass[None], total, degree=1))
  return _mean_of_blocks(
      blocks, np.arange(parts[0].labels.shape[1]), parts)


class _Block(NamedTuple):
  """What one part adds: C classes, or 1, of each objective."""

  auc: np.ndarray  # [K, M]
  influence: np.ndarray  # [K, G, C M] float32
  leverage: np.ndarray  # [G, C M], shares of clusters in a class


def _block(
    gradients: Iterable[np.ndarray], pairs: np.ndarray, total: np.ndarray, *,
    degree: int,
) -> _Block:
  """From derivatives `[C, G, M]` of numerators, by method, and denominators.

  Both are of this degree in the weights of clusters: sums of derivatives are
  so many times the numerator and the denominator. `total` `[M]` is that of
  `pairs`; NaN where there are none.
  """
  of_class = pairs.sum(axis=1, keepdims=True)
  leverage = pairs / np.where(of_class > 0, of_class, 1)
  # Of a cluster that is all of its class, nothing is known.
  factor = 1 / np.sqrt(np.maximum(1 - leverage, 1e-12))
  flat = lambda values: np.concatenate(list(values), axis=-1)
  aucs, influences = [], []
  for gradient in gradients:
    gain = gradient.sum(axis=(0, 1)) / total
    aucs.append(0.5 + gain)
    moved = degree * factor * (gradient - gain * pairs) / total
    influences.append(flat(np.nan_to_num(moved)).astype(np.float32))
  is_defined = np.tile(~np.isnan(total), len(pairs))
  return _Block(np.stack(aucs), np.stack(influences),
                np.where(is_defined, flat(leverage), 0))


def _mean_of_blocks(
    blocks: Sequence[_Block], objectives: np.ndarray, parts: Sequence[Part]
) -> AucEstimates:
  """The mean over the blocks that have an AUC, objective by objective."""
  values = np.stack([block.auc for block in blocks])
  is_defined = ~np.isnan(values[:, 0])  # [blocks, M]
  count = np.maximum(is_defined.sum(axis=0), 1)
  auc = np.where(is_defined.any(axis=0),
                 np.nansum(values, axis=0) / count, np.nan)
  weights = (1 / count)[objectives].astype(np.float32)
  influence = sum(block.influence * weights for block in blocks)
  leverage = np.concatenate([block.leverage for block in blocks], axis=1)
  # The expected square of a sum of squared residuals, if the variance of a
  # class is evenly spread over its rows.
  residual = leverage / np.sqrt(np.maximum(1 - leverage, 1e-12))
  spread = (leverage.T @ leverage + np.square(residual.T @ residual)
            - np.square(residual).T @ np.square(residual))
  shape = (len(blocks), len(objectives))
  spread = (spread.reshape(*shape, *shape).sum(axis=(0, 2))
            * np.outer(weights, weights))
  is_alone = (leverage > 1 - 1e-9).any(axis=0).reshape(shape).any(axis=0)
  is_few = is_alone | (np.diag(spread) > 1 / _FEWEST_FREEDOMS)
  is_known = ~np.bincount(
      objectives, is_few, minlength=len(count)).astype(bool)
  is_scored = ~np.any([np.isnan(part.scores).any(axis=1) for part in parts],
                      axis=0)
  return AucEstimates(
      np.where(is_scored[:, None], auc, np.nan), np.asarray(influence),
      objectives, spread, _positives(parts), is_known & is_defined.any(axis=0),
      is_scored)


def _gradient(
    ordered: rank_sums.Ordered, num_groups: int
) -> np.ndarray:
  """`[2, G, M]` derivatives of rank sums by weights of rows, added up.

  Rows of a group with a label above 0 stand apart from the others.
  """
  values = ordered.labels
  ones = np.ones((len(values), 1))
  slopes = (values * _centred_ranks(ordered, ones)
            - _centred_ranks(ordered, values))
  return _by_class(slopes, values > 0, ordered.groups, num_groups)


def _centred_ranks(
    ordered: rank_sums.Ordered, weights: np.ndarray
) -> np.ndarray:
  """`[N, L]` weights below each row, half of its equals, less half of all."""
  total = np.cumsum(weights, axis=0)
  if ordered.run is None:
    return total - 0.5 * weights - 0.5 * total[-1]
  below = np.concatenate([np.zeros((1, total.shape[1])), total])[ordered.ends]
  return (0.5 * (below[:-1] + below[1:]) - 0.5 * total[-1])[ordered.run]


def _by_class(
    slopes: np.ndarray, is_positive: np.ndarray, groups: np.ndarray,
    num_groups: int,
) -> np.ndarray:
  """`[2, G, M]` sums of `[N, M]` over rows of both classes of groups `[N]`."""
  return np.stack([
      np.stack([np.bincount(groups, column, minlength=num_groups)
                for column in np.where(chosen, slopes, 0).T], axis=1)
      for chosen in (is_positive, ~is_positive)])


def _gradient_of_ideal(
    labels: np.ndarray, groups: np.ndarray, num_groups: int
) -> np.ndarray:
  """`[2, G, M]` derivatives of twice the rank sums by labels `[N, M]`."""
  return 2 * np.concatenate([
      _gradient(rank_sums.Ordered.of(column, groups, column[:, None]),
                num_groups) for column in labels.T], axis=2)


def _gradient_of_chances(
    labels: np.ndarray, groups: np.ndarray, num_groups: int
) -> np.ndarray:
  """`[2, G, M]` derivatives of expected pairs, by probabilities `[N, M]`."""
  positive = labels.sum(axis=0)
  # A row makes no pair with itself.
  slopes = (labels * (len(labels) - positive) + (1 - labels) * positive
            - 2 * labels * (1 - labels))
  return _by_class(slopes * (positive > 0), labels > 0, groups, num_groups)


def _positives(parts: Sequence[Part]) -> np.ndarray:
  """`[M]` rows of all parts with a label above 0."""
  return np.sum([np.sum(part.labels > 0, axis=0) for part in parts], axis=0)


def _check(parts: Sequence[Part]) -> None:
  """Raises ValueError if parts do not fit together."""
  if not parts:
    raise ValueError("parts must not be empty.")
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


def _groups(parts: Sequence[Part]) -> tuple[list[np.ndarray], int]:
  """Clusters: the number of that of each row, and their count."""
  ends = np.cumsum([len(part.labels) for part in parts])
  if parts[0].users is None:
    return np.split(np.arange(ends[-1]), ends[:-1]), int(ends[-1])
  known, numbers = np.unique(
      np.concatenate([part.users for part in parts]), return_inverse=True)
  return np.split(numbers, ends[:-1]), len(known)
