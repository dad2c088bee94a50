"""Pairs of a better and a worse item: counts, weights, and a loss of all."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ensemble import items as items_lib
from harmonrank_jax.ordering import sorting

# Rows of a block of pairs: bounds the memory of the pairwise loss.
_BLOCK_ROWS = 256
# Flags summed in one int8, which holds 127.
_IN_BYTE = 64


def pair_counts(
    labels: jax.Array, dtype: jnp.dtype, where: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array:
  """`sum over pairs of the list with y_i > y_j of (y_i - y_j)`, at each item.

  For labels of 0 and 1 that is P N. In general it is twice the centred rank
  sum of the labels ranked by themselves, the best any ranking can reach.
  `[..., 1, M]` if the rows are the lists, else `[..., N, M]`; 0 where an AUC is
  undefined, and NaN where a label of the list is.
  """
  values = items_lib.valid_labels(labels, dtype, where)

  def classes(values):
    if labels.dtype == jnp.bool_ and segment_ids is None:
      positive = labels if where is None else labels & where[..., None]
      positives = _count(positive).astype(dtype)
    else:
      positives = items_lib.list_sum(values, where, segment_ids)
    size = items_lib.list_sizes(
        values[..., 0], dtype, where, segment_ids)[..., None]
    return positives * (size - positives)

  def graded(values):
    # One objective after the other along a new leading axis.
    columns = jnp.moveaxis(values, -1, 0)
    rank = lambda column: items_lib.centred(
        sorting.hard_rank(column, where=where, segment_ids=segment_ids),
        where, segment_ids)
    ranks = jnp.moveaxis(lax.map(rank, columns), 0, -1)
    return 2 * items_lib.list_sum(ranks * values, where, segment_ids)

  if labels.dtype == jnp.bool_:
    return classes(values)
  is_class = jnp.all((values == 0) | (values == 1))
  return lax.cond(is_class, classes, graded, values)


def _count(flags: jax.Array) -> jax.Array:
  """How many of `[..., N, M]` are True, `[..., 1, M]`.

  In bytes first: a vector instruction adds four times as many bytes as words.
  """
  *lists, num_items, objectives = flags.shape
  if not isinstance(num_items, int):  # Any number, in what is exported.
    return jnp.sum(flags, axis=-2, keepdims=True, dtype=jnp.int32)
  num_parts = -(-num_items // _IN_BYTE)
  pad = [(0, 0)] * len(lists) + [
      (0, num_parts * _IN_BYTE - num_items), (0, 0)]
  parts = jnp.pad(flags, pad).reshape(*lists, num_parts, _IN_BYTE, objectives)
  counts = jnp.sum(parts, axis=-2, dtype=jnp.int8)
  return jnp.sum(counts, axis=-2, keepdims=True, dtype=jnp.int32)


def pair_rate(
    labels: jax.Array, dtype: jnp.dtype, where: jax.Array | None,
    segment_ids: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Weights that make a mean over pairs, and lists weigh by their size.

  Rates with which `sum_ij rate_i relu(y_i - y_j) = 1` over the pairs of a list,
  for every live objective: `[..., 1, M]` if the rows are the lists, else
  `[..., N, M]`. And `[M]`, which objectives are live.
  """
  pairs = pair_counts(labels, dtype, where, segment_ids)
  has_pairs = ~(pairs <= 0)
  size = items_lib.list_sizes(labels[..., 0], dtype, where, segment_ids)
  size = size[..., None]
  items = size if segment_ids is None else 1
  count = jnp.sum(jnp.where(has_pairs, items, jnp.zeros((), dtype)),
                  axis=tuple(range(pairs.ndim - 1)))
  per_item = items_lib.with_axes(jnp.maximum(count, 1), pairs.ndim)
  rate = size / jnp.where(has_pairs, pairs, 1) / per_item
  return jnp.where(has_pairs, rate, 0), count > 0


class _Items(NamedTuple):
  """Items of pairs; a leading axis of lists, of blocks, or none."""

  scores: jax.Array  # [N]
  values: jax.Array  # [N, M]
  rate: jax.Array  # [N, M], weight of a pair at its better item
  valid: jax.Array  # [N] bool
  list_ids: jax.Array  # [N]


def logistic_losses(
    scores: jax.Array,
    labels: jax.Array,  # [..., N, M]; bool ones take a faster way
    rate: jax.Array,  # as `pair_rate` gives it
    where: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array:
  """`sum_ij rate_i relu(y_i - y_j) log(1 + exp(s_j - s_i))`, `[M]`.

  Summed over the pairs of all lists, for each objective.
  """
  valid = jnp.ones(scores.shape, bool) if where is None else where
  if segment_ids is None:
    segment_ids = jnp.zeros(scores.shape, jnp.int32)
  # The difference of two infinite scores would be none, and no weight makes an
  # infinite loss 0: of ends that are this far the loss is as good as infinite.
  end = float(jnp.finfo(scores.dtype).max) ** 0.5
  items = _Items(
      jnp.where(valid, jnp.clip(scores, -end, end), 0),
      items_lib.valid_labels(labels, scores.dtype, where),
      jnp.broadcast_to(rate, labels.shape), valid, segment_ids)
  axes = scores.ndim
  rows = _Items(*(
      x.reshape((-1, scores.shape[-1], *x.shape[axes:])) for x in items))
  num_items = scores.shape[-1]  # Unknown to an export with lists of any length.
  block_rows = (min(_BLOCK_ROWS, num_items) if isinstance(num_items, int) else
                _BLOCK_ROWS)
  is_class = labels.dtype == jnp.bool_

  def list_losses(row):
    blocks = _Items(*(_parts(x, block_rows) for x in row))
    # Pairs are computed anew on the way back: kept, they would be N^2 numbers.
    block_losses = jax.checkpoint(
        lambda block: _block_losses(block, row, is_class=is_class))
    return jnp.sum(lax.map(block_losses, blocks), axis=0)

  # As many short lists at once as fill a block.
  rows = _Items(*(_parts(x, _BLOCK_ROWS // block_rows) for x in rows))
  return jnp.sum(lax.map(jax.vmap(list_losses), rows), axis=(0, 1))


def _parts(array: jax.Array, size: int) -> jax.Array:
  """Cuts the first axis into parts of a size, the last one filled with 0."""
  count = -(-array.shape[0] // size)
  pad = [(0, count * size - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
  return jnp.pad(array, pad).reshape((count, size, *array.shape[1:]))


def _block_losses(
    block: _Items, others: _Items, *, is_class: bool
) -> jax.Array:
  """`[M]` loss of the pairs whose better item is in the block."""
  together = (
      block.valid[:, None] & others.valid[None, :]
      & (block.list_ids[:, None] == others.list_ids[None, :]))
  losses = jnp.where(together, jax.nn.softplus(
      others.scores[None, :] - block.scores[:, None]), 0)
  if is_class:
    # relu(y_i - y_j) = y_i (1 - y_j): all objectives by one product.
    over_negatives = jnp.dot(
        losses, 1 - others.values, precision=lax.Precision.HIGHEST)
    return jnp.sum(block.values * block.rate * over_negatives, axis=0)

  def objective_loss(column):
    value, rate, other_value = column
    worth = jax.nn.relu(value[:, None] - other_value[None, :])
    return jnp.sum(losses * rate[:, None] * worth)

  return lax.map(
      objective_loss, (block.values.T, block.rate.T, others.values.T))
