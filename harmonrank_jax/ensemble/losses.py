"""Multi-objective soft AUC, and the losses it is measured against.

Every loss has the signature `Loss`, so that one takes the place of another.
Scores are logits. Objectives that have no loss in a batch (an AUC without a
positive, say) leave the sum, and the weights of the rest are renormalised:
value and gradient stay finite. A NaN among the valid scores or labels makes the
loss NaN: what is no number is not what is absent.

With `axis_name`, inside `jax.shard_map`, every device holds a shard of the N
items, gathers the others' scores and labels, and computes the whole loss. All
results are those of one device; `sharding.gather` tells of the gradient.
"""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple
from typing import Protocol

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
from harmonrank_jax.ensemble import items
from harmonrank_jax.ensemble import pairs
from harmonrank_jax.ordering import permutahedron
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting
import harmonrank_jax.sharding as sharding

# The least spread of the scores that the strength of the soft rank follows, in
# logits. The gradient goes as 1 / spread: for a batch of ties, or a head that
# starts at zero, it would be hundreds of thousands, which Adam does not forget
# for a thousand steps. At 0.1 it is ten times that of the pairwise loss.
_MIN_SPREAD = 0.1
# The spread of a list is shrunk towards the mean of the batch as if so many
# more of its items had that spread, and is at least this share of it.
_PRIOR_ITEMS, _MIN_SHARE = 8, 0.7


class SoftAucDiagnostics(NamedTuple):
  """What the soft rank did; no gradient."""

  # [M], biased towards 1/2: log the exact AUC beside it. NaN for an objective
  # that is not live.
  soft_auc: jax.Array
  live_objectives: jax.Array  # [M] bool, whether any list has an AUC for it
  num_blocks: jax.Array  # int32, blocks of pooled items over all lists
  # Fraction of the valid items that pool with another.
  pooled_fraction: jax.Array
  # Fraction without a gradient, of the valid items whose list has a pair to
  # order; 1 if none has.
  dead_gradient_fraction: jax.Array


class LossDiagnostics(NamedTuple):
  """Parts of a loss; no gradient."""

  objective_loss: jax.Array  # [M], NaN for an objective that is not live
  live_objectives: jax.Array  # [M] bool


class Loss(Protocol):
  """The signature of every loss."""

  def __call__(
      self,
      scores: jax.Array,
      labels: jax.Array,
      *,
      objective_weights: jax.Array | None = None,
      where: jax.Array | None = None,
      segment_ids: jax.Array | None = None,
      axis_name: sharding.AxisName | None = None,
  ) -> tuple[jax.Array, Any]:
    """Value and diagnostics.

    Args:
      scores: `[..., N]` logits, any real dtype.
      labels: `[..., N]` or `[..., N, M]`: bool, 0 and 1, or non-negative
        values (watch time). Bool labels spare a check at run time.
      objective_weights: `[M]`, not negative; None for equal weights.
      where: `[..., N]` bool, True = valid.
      segment_ids: `[..., N]` integers, the list of each item. Without them
        every row of `[..., N]` is a list.
      axis_name: inside `jax.shard_map`, the mesh axes over which the items of
        the lists are sharded (pad with masked items to make shards even); all
        results are those of the whole lists, on every device.

    Returns:
      The loss, a scalar (0 with gradient 0 if no objective is live, NaN if a
      valid score or label is NaN), and its diagnostics, without a gradient.

    Raises:
      ValueError: if the shapes do not fit.
    """


def multi_objective_auc_loss(
    scores: jax.Array,
    labels: jax.Array,
    *,
    objective_weights: jax.Array | None = None,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    relative_strength: float | jax.Array = 2.0,
    axis_name: sharding.AxisName | None = None,
) -> tuple[jax.Array, SoftAucDiagnostics]:
  """`1 - weighted mean soft AUC` of one score for M objectives.

  The AUC is a rank sum; the rank is replaced by the soft rank. There is one
  score, so there is one rank for all objectives: one sort, one projection and
  one `N x M` product, whatever M is.

  The strength of the soft rank is relative: for each list of n items
  `eps = relative_strength * spread / (n - 1)`, without a gradient.
  The spread of a list of hundreds is the standard deviation of its scores,
  that of a list of a few nearly the mean one of the batch (see `_spread`). With
  its own, a list of two would never pool (the two are as far apart as they
  spread), and one list of ties would have all of the gradient. Between 1 and 3
  it trains best, whatever the size of the lists; below 0.1 most gradients are
  exactly 0; above 8 everything pools and only class means are compared.

  With `segment_ids` the AUC is taken within lists and averaged, weighted by
  list size. A list with one class of an objective leaves that objective.

  Arguments as in `Loss`, and one more. Of labels that are values, a pair
  counts by their difference, see `auc`.

  Args:
    relative_strength: strength in units of `spread / (n - 1)`, at least 0.

  Returns:
    The loss, a scalar in [0, 1] (0 with gradient 0 if no objective is live,
    NaN if a valid score or label is NaN), and `SoftAucDiagnostics`.

  Raises:
    ValueError: if shapes do not fit or a static strength is negative.

  References:
    HarmonRank, arXiv 2601.02955: AUC as a rank sum, with the projection of
    Blondel et al., arXiv 2002.08871, eq. 5. There the strength is 1 on
    scores in [0, 1], which pools every list into one block.

  >>> import jax.numpy as jnp
  >>> loss, diagnostics = multi_objective_auc_loss(
  ...     jnp.array([2.0, -1.0, 0.5, 0.0]),
  ...     jnp.array([[1, 0], [0, 0], [1, 1], [0, 0]]), relative_strength=0.1)
  >>> loss
  Array(0.16666666, dtype=float32)
  >>> diagnostics.soft_auc
  Array([1.       , 0.6666667], dtype=float32)
  """
  if isinstance(relative_strength, (int, float)) and not relative_strength >= 0:
    raise ValueError(
        f"relative_strength must be at least 0, got {relative_strength}.")
  scores, labels, where, segment_ids = _check_items(
      scores, labels, where, segment_ids, axis_name, matters="differences")
  rate, live = pairs.pair_rate(labels, scores.dtype, where, segment_ids)
  labels = items.valid_labels(labels, scores.dtype, where)
  weights = _normalised_weights(objective_weights, live, scores.dtype)
  # What an item's rank is worth: all that the gradient needs of the labels.
  worth = _weigh(labels, rate * items.with_axes(weights, rate.ndim))
  laid_out = sorting.sort_lists(scores, where, segment_ids, shape=scores.shape)
  bad = jnp.isnan(scores) if where is None else jnp.isnan(scores) & where
  valid = ~bad if where is None else where & ~bad
  scores = jnp.where(valid, scores, 0)
  size = items.list_sizes(scores, scores.dtype, where, segment_ids)
  spread = _spread(lax.stop_gradient(scores), valid, laid_out, segment_ids)
  strength = lax.stop_gradient(
      relative_strength * spread / jnp.maximum(size - 1, 1))
  ranks, blocks = permutahedron.rank_lists(scores, laid_out, strength)
  middle = jnp.where(valid, (size + 1) / 2, 0)
  centred = ranks - middle
  loss = jnp.where(jnp.any(live), 0.5 - jnp.sum(centred * worth), 0)
  loss = _bad_if(jnp.any(bad) | jnp.isnan(loss), loss)

  soft_auc = 0.5 + _sum_items(centred[..., None] * (labels * rate))
  moved = permutahedron.deviations(worth, laid_out, blocks)
  count = lambda flags: jnp.sum(flags, dtype=jnp.int32)
  share = lambda flags, of: count(flags & of) / jnp.maximum(count(of), 1)
  has_pair = valid & jnp.any(rate != 0, axis=-1)
  has_gradient = has_pair & (jnp.abs(moved) > 1e-6 * jnp.abs(worth))
  first = blocks.start == jnp.arange(scores.size, dtype=jnp.int32)
  diagnostics = SoftAucDiagnostics(
      soft_auc=jnp.where(live, soft_auc, jnp.nan), live_objectives=live,
      num_blocks=count(first & laid_out.valid),
      pooled_fraction=share(blocks.size > 1, laid_out.valid),
      dead_gradient_fraction=1 - share(has_gradient, has_pair))
  return loss, lax.stop_gradient(diagnostics)


def _check_items(
    scores: jax.Array, labels: jax.Array, where: jax.Array | None,
    segment_ids: jax.Array | None, axis_name: sharding.AxisName | None, *,
    matters: arrays.Matters = "values",
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
  """As `items.check_items`; of no item at all makes one that is masked."""
  scores, labels, where, segment_ids, _ = items.check_items(
      scores, labels, where, segment_ids, axis_name, matters=matters)
  if 0 not in scores.shape:
    return scores, labels, where, segment_ids
  return (jnp.zeros(1, scores.dtype),
          jnp.zeros((1, labels.shape[-1]), labels.dtype), jnp.zeros(1, bool),
          None)


def _of_items(
    objective_losses: Callable[..., tuple[jax.Array, jax.Array]]
) -> Loss:
  """A public loss, with the signature of `Loss`, of one of single items.

  Lists do not matter to it. The decorated function takes scores `[..., N, 1]`
  and the weight of each item as a positive and as a negative `[..., N, M]`; it
  returns the loss of each objective `[M]`, and whether it is live.
  """
  @functools.wraps(objective_losses)
  def loss_fn(
      scores, labels, *, objective_weights=None, where=None, segment_ids=None,
      axis_name=None,
  ):
    scores, labels, where, _ = _check_items(
        scores, labels, where, segment_ids, axis_name)
    positive = items.valid_labels(labels, scores.dtype, where)
    negative = jnp.where(
        jnp.isnan(positive), positive, (positive == 0).astype(scores.dtype))
    negative = items.valid_labels(negative, scores.dtype, where)
    if where is not None:
      scores = jnp.where(where, scores, 0)
    return _reduce(*objective_losses(scores[..., None], positive, negative),
                   objective_weights)

  # The signature to show is that of `Loss`, not that of the inner function.
  del loss_fn.__wrapped__
  return loss_fn


@_of_items
def bce_loss(
    scores: jax.Array, positive: jax.Array, negative: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Binary cross-entropy of one score shared by all objectives.

  The loss that HarmonRank departs from: M objectives pull one probability in
  M directions. The mean over items; lists do not matter. Labels may be
  values, by which a positive then counts.

  Called as a `Loss`; returns the loss (0 if nothing is valid) and
  `LossDiagnostics`. What stands below is its formula, which `_of_items` makes
  public: its arguments and results are described there.

  References:
    HarmonRank, arXiv 2601.02955, its first equation.

  >>> import jax.numpy as jnp
  >>> bce_loss(jnp.zeros(4), jnp.array([1, 0, 0, 1]))[0]
  Array(0.6931472, dtype=float32)
  """
  losses = _sum_items(_shared(jax.nn.softplus(-scores), positive)
                      + _shared(jax.nn.softplus(scores), negative))
  count = _sum_items(~((positive == 0) & (negative == 0))).astype(losses.dtype)
  return losses / jnp.maximum(count, 1), count > 0


@_of_items
def balanced_bce_loss(
    scores: jax.Array, positive: jax.Array, negative: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Class-balanced cross-entropy: positives and negatives weigh a half each.

  Called as a `Loss`, like `bce_loss`. An objective without a positive or
  without a negative is not live.

  >>> import jax.numpy as jnp
  >>> balanced_bce_loss(jnp.zeros(4), jnp.array([1, 0, 0, 0]))[0]
  Array(0.6931472, dtype=float32)
  """
  losses = 0.5 * (_mean(jax.nn.softplus(-scores), positive)
                  + _mean(jax.nn.softplus(scores), negative))
  return losses, _both(positive, negative)


@_of_items
def auc_margin_loss(
    scores: jax.Array, positive: jax.Array, negative: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """AUC min-max margin loss (AUCM), its inner problem solved on the batch.

  With p = sigmoid(scores) and class means a and b of p,

    variance of p over positives + variance over negatives
      + max(0, 1 - (a - b))^2,

  which is the paper's min over (a, b), max over the dual variable, in closed
  form, with margin 1. Called as a `Loss`, like `balanced_bce_loss`.

  References:
    Yuan et al., "Large-scale robust deep AUC maximization", ICCV 2021, eq. 5.

  >>> import jax.numpy as jnp
  >>> auc_margin_loss(jnp.zeros(4), jnp.array([1, 0, 0, 0]))[0]
  Array(1., dtype=float32)
  """
  probability = jax.nn.sigmoid(scores)
  high, low = _mean(probability, positive), _mean(probability, negative)

  def variance(mean, share):
    centre = items.with_axes(mean, scores.ndim)
    return _mean(jnp.square(probability - centre), share)

  losses = (variance(high, positive) + variance(low, negative)
            + jnp.square(jax.nn.relu(1 - (high - low))))
  return losses, _both(positive, negative)


def pairwise_loss(
    scores: jax.Array,
    labels: jax.Array,
    *,
    objective_weights: jax.Array | None = None,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    axis_name: sharding.AxisName | None = None,
) -> tuple[jax.Array, LossDiagnostics]:
  """Logistic loss of all pairs of a positive and a negative (RankNet).

  The mean of `log(1 + exp(s_j - s_i))` over the pairs that an AUC counts,
  lists weighted by their size; of values, a pair counts by their difference.
  Quadratic in N, in blocks of rows that the backward pass computes anew:
  memory stays linear in N. With `axis_name` every device counts all the
  pairs: more devices make it no faster. Arguments as in `Loss`; bool labels
  take the fast path.

  Returns:
    The loss (0 if no objective is live) and `LossDiagnostics`.

  References:
    Burges et al., "Learning to rank using gradient descent", ICML 2005.

  >>> import jax.numpy as jnp
  >>> pairwise_loss(jnp.zeros(4), jnp.array([1, 0, 0, 1]))[0]
  Array(0.6931472, dtype=float32)
  """
  scores, labels, where, segment_ids = _check_items(
      scores, labels, where, segment_ids, axis_name, matters="differences")
  rate, live = pairs.pair_rate(labels, scores.dtype, where, segment_ids)
  losses = pairs.logistic_losses(scores, labels, rate, where, segment_ids)
  return _reduce(losses, live, objective_weights)


def _mean(losses: jax.Array, share: jax.Array) -> jax.Array:
  """`[M]` mean over items, weighted by `share` `[..., N, M]`; 0 if none."""
  total = _sum_items(share)
  return _sum_items(_shared(losses, share)) / jnp.where(total != 0, total, 1)


def _shared(losses: jax.Array, share: jax.Array) -> jax.Array:
  """`losses * share`; what has no share is 0, be its loss infinite."""
  return jnp.where(share != 0, losses * share, 0)


def _both(positive: jax.Array, negative: jax.Array) -> jax.Array:
  return (_sum_items(positive) != 0) & (_sum_items(negative) != 0)


def _sum_items(array: jax.Array) -> jax.Array:
  """Sums `[..., N, M]` over all but the objectives."""
  return jnp.sum(array, axis=tuple(range(array.ndim - 1)))


def _weigh(labels: jax.Array, weights: jax.Array) -> jax.Array:
  """Sums labels `[..., N, M]` by weights, `[..., 1, M]` or `[..., N, M]`."""
  if weights.shape == labels.shape:
    return jnp.sum(labels * weights, axis=-1)
  # One weight for all items: a product of matrices is faster.
  return jnp.matmul(labels, jnp.swapaxes(weights, -1, -2),
                    precision=lax.Precision.HIGHEST)[..., 0]


def _spread(
    scores: jax.Array, valid: jax.Array, laid_out: sorting.SortedLists,
    segment_ids: jax.Array | None,
) -> jax.Array:
  """The spread of each item's list, `[..., 1]` if that is the row.

  With S the sum of squares of a list of n about its mean, and p the mean over
  lists of the standard deviation, in which a list of far scores counts by its
  share of the items,

    spread = max(sqrt((S + 8 p^2) / (n + 8)), 0.7 p, 0.1),

  of the valid finite scores. From differences to the middle of each list, which
  are exact where scores are large.
  """
  middle = (laid_out.lists.start + laid_out.lists.end) // 2
  shape, flat = scores.shape, scores.reshape(-1)
  if segment_ids is None:
    # The first slot of a row is in its list.
    middle = middle.reshape(scores.shape)[..., :1]
    at_middle = segments.take(flat, segments.take(laid_out.order, middle))
    total = lambda x: jnp.sum(x, axis=-1, keepdims=True)
  else:
    scores = segments.permute(flat, laid_out.order)
    valid, at_middle = laid_out.valid, segments.take(scores, middle)
    total = lambda x: segments.block_sum(x, laid_out.lists)
  counted = (valid & jnp.isfinite(scores)).astype(scores.dtype)
  above = jnp.where(
      counted > 0,
      scores - jnp.where(jnp.isfinite(at_middle), at_middle, 0), 0)
  count = total(counted)
  counted = jnp.where(count > 1, counted, 0)
  deviation = counted * (above - total(above) / jnp.maximum(count, 1))
  squares = total(jnp.square(deviation))
  mean = (jnp.sum(counted * jnp.sqrt(squares / jnp.maximum(count - 1, 1)))
          / jnp.maximum(jnp.sum(counted), 1))
  shrunk = jnp.sqrt(
      (squares + _PRIOR_ITEMS * jnp.square(mean)) / (count + _PRIOR_ITEMS))
  spread = jnp.maximum(
      shrunk, jnp.maximum(_MIN_SHARE * mean, _MIN_SPREAD))
  if segment_ids is None:
    return spread
  return segments.unpermute(spread, laid_out.order).reshape(shape)


def _normalised_weights(
    objective_weights: jax.Array | None, live: jax.Array, dtype: jnp.dtype
) -> jax.Array:
  """`[M]` weights of the live objectives, summing to 1 (or all 0)."""
  if objective_weights is None:
    weights = jnp.ones(live.shape, dtype)
  else:
    weights = jnp.asarray(objective_weights, dtype)
    if weights.shape != live.shape:
      raise ValueError(
          f"objective_weights has shape {weights.shape}; {live.shape[0]} "
          f"objectives need {live.shape}.")
  weights = jnp.where(live, weights, 0)
  return weights / jnp.maximum(jnp.sum(weights), jnp.finfo(dtype).tiny)


def _bad_if(is_bad: jax.Array, loss: jax.Array) -> jax.Array:
  """The loss, or NaN, and then its whole gradient is NaN as well."""
  return loss * jnp.where(is_bad, jnp.nan, 1).astype(loss.dtype)


def _reduce(
    losses: jax.Array, live: jax.Array, objective_weights: jax.Array | None
) -> tuple[jax.Array, LossDiagnostics]:
  """Weighted mean over live objectives, and the diagnostics."""
  weights = _normalised_weights(objective_weights, live, losses.dtype)
  loss = jnp.sum(weights * jnp.where(live, losses, 0))
  loss = _bad_if(jnp.isnan(loss), loss)
  diagnostics = LossDiagnostics(jnp.where(live, losses, jnp.nan), live)
  return loss, lax.stop_gradient(diagnostics)
