"""Exact AUC and group AUC, for several objectives at once."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting
import harmonrank_jax.sharding as sharding

# Flags that are counted in one byte; an int8 holds up to 127.
_IN_BYTE = 64


class GroupAuc(NamedTuple):
  """AUC averaged over lists; `[...]`, or `[..., M]` for M objectives.

  Attributes:
    value: weighted mean AUC of the lists that have one; NaN if none has.
    num_groups: int32, lists that have an AUC.
    num_skipped: int32, lists without one (all labels equal), left out.
  """

  value: jax.Array
  num_groups: jax.Array
  num_skipped: jax.Array


def auc(
    scores: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: sharding.AxisName | None = None,
) -> jax.Array:
  """Exact area under the ROC curve; ties count half.

  The probability that a positive is ranked above a negative,

    AUC = 1/2 + <r - (n + 1) / 2, y> / (P N),

  with r the ascending mid-ranks. Centred, it loses no digits at high
  prevalence: in float32 it is accurate to 1e-6 at ten million items.

  Labels may be values instead of classes (watch time, order value): a pair
  then counts by the difference of its values, `AUC = sum over pairs with
  y_i > y_j of (y_i - y_j) [s_i > s_j] / sum of (y_i - y_j)`; for labels of 0
  and 1 that is the formula above.

  Args:
    scores: `[..., N]`, any real dtype; higher means more likely positive.
    labels: `[..., N]` or `[..., N, M]`: bool, or 0 and 1, or values.
    where: `[..., N]` bool, True = valid. Masked items do not exist.
    axis_name: inside `jax.shard_map`, the mesh axes over which the items of
      the lists are sharded: every argument is a shard of N, and the result is
      that of the whole lists, on every device. See `sharding.gather`.

  Returns:
    `[...]` or `[..., M]` in [0, 1], float32 (float64 for float64 scores).
    NaN where it is undefined (all labels of a list equal, or no valid item)
    and where a valid score is NaN.

  Raises:
    ValueError: if the shapes do not fit.

  References:
    Hanley and McNeil, "The meaning and use of the area under a receiver
    operating characteristic curve", Radiology 1982: AUC as the Wilcoxon
    statistic. HarmonRank, arXiv 2601.02955, writes it with descending ranks.

  >>> import jax.numpy as jnp
  >>> auc(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1]))
  Array(0.75, dtype=float32)
  """
  scores, labels, where, _, squeeze = check_items(
      scores, labels, where, None, axis_name)
  ranks = sorting.hard_rank(scores, where=where)
  pairs = pair_counts(labels, scores.dtype, where, None)
  pairs = jnp.max(pairs, axis=-2, initial=0)
  gain = jnp.sum(centred(ranks, where, None)[..., None]
                 * valid_labels(labels, scores.dtype, where), axis=-2)
  value = jnp.where(pairs > 0, 0.5 + gain / jnp.where(pairs > 0, pairs, 1),
                    jnp.nan)
  return value[..., 0] if squeeze else value


def group_auc(
    scores: jax.Array,
    labels: jax.Array,
    segment_ids: jax.Array,
    *,
    where: jax.Array | None = None,
    weighting: str = "impressions",
    axis_name: sharding.AxisName | None = None,
) -> GroupAuc:
  """AUC within lists (users, sessions, requests), averaged over them.

  Args:
    scores: `[..., N]`, any real dtype.
    labels: `[..., N]` or `[..., N, M]`, as for `auc`.
    segment_ids: `[..., N]` integers, the list of each item; neither sorted
      nor contiguous.
    where: `[..., N]` bool, True = valid.
    weighting: what a list weighs: "impressions" (its number of items),
      "positives" (the sum of its labels) or "uniform".
    axis_name: mesh axes over which the items are sharded, as for `auc`; a
      list may have items on several devices.

  Returns:
    `GroupAuc`. A list whose labels are all equal has no AUC and is skipped,
    for that objective.

  Raises:
    ValueError: if shapes do not fit or `weighting` is unknown.

  References:
    Zhu et al., "Optimized cost per click in Taobao display advertising",
    KDD 2017, eq. 14, for the weighting by impressions.

  >>> import jax.numpy as jnp
  >>> group_auc(jnp.array([0.1, 0.9, 0.8, 0.2]), jnp.array([0, 1, 0, 1]),
  ...           jnp.array([7, 7, 3, 3])).value
  Array(0.5, dtype=float32)
  """
  if weighting not in ("impressions", "positives", "uniform"):
    raise ValueError(
        "weighting must be 'impressions', 'positives' or 'uniform', got "
        f"{weighting!r}.")
  scores, labels, where, ids, squeeze = check_items(
      scores, labels, where, segment_ids, axis_name)
  ranks = sorting.hard_rank(scores, where=where, segment_ids=ids)
  labels_of_valid = valid_labels(labels, scores.dtype, where)
  pairs = pair_counts(labels, scores.dtype, where, ids)
  live = pairs > 0
  size = list_sizes(scores, scores.dtype, where, ids)[..., None]
  if weighting == "impressions":
    weight = jnp.broadcast_to(size, pairs.shape)
  elif weighting == "positives":
    weight = list_sum(labels_of_valid, where, ids)
  else:
    weight = jnp.ones_like(pairs)
  weight = jnp.where(live, weight, 0)
  # Every item carries its list's share: 1 / size of what the list weighs.
  share = weight / jnp.where(size > 0, size, 1)
  gain = (centred(ranks, where, ids)[..., None] * labels_of_valid
          / jnp.where(live, pairs, 1))
  value = jnp.sum(0.5 * share + weight * gain, axis=-2) / jnp.sum(
      share, axis=-2)
  is_first = first_of_list(scores, where, ids)[..., None]
  num_groups = jnp.sum(is_first & live, axis=-2, dtype=jnp.int32)
  num_lists = jnp.sum(is_first, axis=-2, dtype=jnp.int32)
  result = GroupAuc(value, num_groups, num_lists - num_groups)
  return GroupAuc(*(x[..., 0] for x in result)) if squeeze else result


def check_items(
    scores: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    segment_ids: jax.Array | None,
    axis_name: sharding.AxisName | None,
) -> tuple[
    jax.Array, jax.Array, jax.Array | None, jax.Array | None, bool]:
  """Checks the arguments, and gathers them if the lists are sharded.

  Returns:
    Scores `[..., N]`, labels `[..., N, M]`, `where` and `segment_ids`
    `[..., N]` if given, and whether the labels came without M.
  """
  scores, where, segment_ids = sorting.check_lists(scores, where, segment_ids)
  labels = jnp.asarray(labels)
  squeeze = labels.shape == scores.shape
  if squeeze:
    labels = labels[..., None]
  elif labels.shape[:-1] != scores.shape or labels.ndim == scores.ndim:
    raise ValueError(
        f"labels has shape {labels.shape}; scores of shape {scores.shape} "
        f"need {scores.shape} or {(*scores.shape, 'M')}.")
  labels = sharding.gather(labels, axis_name, axis=-2)
  # Checked once more: the gathered list must be short enough for int32, too.
  scores, where, segment_ids = sorting.check_lists(*sharding.gather(
      (scores, where, segment_ids), axis_name, axis=-1))
  return scores, labels, where, segment_ids, squeeze


def valid_labels(
    labels: jax.Array, dtype: jnp.dtype, where: jax.Array | None
) -> jax.Array:
  """`[..., N, M]` labels as numbers, 0 where masked."""
  labels = labels.astype(dtype)
  return labels if where is None else jnp.where(where[..., None], labels, 0)


def pair_counts(
    labels: jax.Array,
    dtype: jnp.dtype,
    where: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array:
  """`sum over pairs of the list with y_i > y_j of (y_i - y_j)`, at each item.

  For labels of 0 and 1 that is P N. In general it is twice the centred rank
  sum of the labels ranked by themselves, the best any ranking can reach.

  Returns:
    `[..., 1, M]` if the rows are the lists, else `[..., N, M]`; 0 where an AUC
    is undefined.
  """
  values = valid_labels(labels, dtype, where)

  def classes(values):
    if labels.dtype == jnp.bool_ and segment_ids is None:
      positive = labels if where is None else labels & where[..., None]
      positives = _count(positive).astype(dtype)
    else:
      positives = list_sum(values, where, segment_ids)
    size = list_sizes(
        values[..., 0], dtype, where, segment_ids)[..., None]
    return positives * (size - positives)

  def graded(values):
    # One objective after the other along a new leading axis.
    columns = jnp.moveaxis(values, -1, 0)
    rank = lambda column: centred(
        sorting.hard_rank(column, where=where, segment_ids=segment_ids),
        where, segment_ids)
    ranks = jnp.moveaxis(lax.map(rank, columns), 0, -1)
    return 2 * list_sum(ranks * values, where, segment_ids)

  if labels.dtype == jnp.bool_:
    pairs = classes(values)
  else:
    is_class = jnp.all((values == 0) | (values == 1))
    pairs = lax.cond(is_class, classes, graded, values)
  return pairs


def _count(flags: jax.Array) -> jax.Array:
  """How many of `[..., N, M]` are True, `[..., 1, M]`.

  In bytes first: a vector instruction adds four times as many bytes as words.
  """
  *lists, num_items, objectives = flags.shape
  pad = [(0, 0)] * len(lists) + [(0, -num_items % _IN_BYTE), (0, 0)]
  parts = jnp.pad(flags, pad).reshape(*lists, -1, _IN_BYTE, objectives)
  counts = jnp.sum(parts, axis=-2, dtype=jnp.int8)
  return jnp.sum(counts, axis=-2, keepdims=True, dtype=jnp.int32)


def centred(
    ranks: jax.Array,
    where: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array:
  """`r - (n + 1) / 2` with n the size of the item's list; 0 where masked."""
  middle = (list_sizes(ranks, ranks.dtype, where, segment_ids) + 1) / 2
  result = ranks - middle
  return result if where is None else jnp.where(where, result, 0)


def list_sizes(
    like: jax.Array,
    dtype: jnp.dtype,
    where: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array:
  """Valid items of each list: `[..., 1]` if rows are lists, else `[..., N]`."""
  if where is None and segment_ids is None:
    return jnp.full((*like.shape[:-1], 1), like.shape[-1], dtype)
  ones = jnp.ones(like.shape, dtype)
  if where is not None:
    ones = jnp.where(where, ones, 0)
  return list_sum(ones[..., None], where, segment_ids)[..., 0]


def list_sum(
    values: jax.Array,
    where: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array:
  """Sums `[..., N, M]`, 0 where masked, over lists.

  Returns:
    `[..., 1, M]` if the rows are the lists, else `[..., N, M]`, at each item
    the sum of its list (0 where masked).
  """
  if segment_ids is None:
    return jnp.sum(values, axis=-2, keepdims=True)
  shape = values.shape[:-1]
  laid_out = sorting.sort_lists(None, where, segment_ids, shape=shape)
  slots = values.reshape(-1, values.shape[-1])
  sums = segments.block_sum(
      segments.permute(slots, laid_out.order), laid_out.lists)
  return segments.unpermute(sums, laid_out.order).reshape(values.shape)


def first_of_list(
    like: jax.Array, where: jax.Array | None, segment_ids: jax.Array | None
) -> jax.Array:
  """True at the first valid item of every list, `[..., N]`."""
  laid_out = sorting.sort_lists(None, where, segment_ids, shape=like.shape)
  slots = jnp.arange(laid_out.order.shape[0], dtype=jnp.int32)
  first = laid_out.valid & (laid_out.lists.start == slots)
  return segments.unpermute(first, laid_out.order).reshape(like.shape)
