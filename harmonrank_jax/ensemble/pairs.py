"""Pairs of a better and a worse item of a list: weights, and a loss of all."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ensemble import metrics

# Rows of a block of pairs: bounds the memory of the pairwise loss.
_BLOCK_ROWS = 256


def pair_rate(
    labels: jax.Array,
    dtype: jnp.dtype,
    where: jax.Array | None,
    segment_ids: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Weights that make a mean over pairs, and lists weigh by their size.

  Args:
    labels: `[..., N, M]`.
    dtype: dtype of the weights.
    where: `[..., N]` bool, True = valid, or None.
    segment_ids: `[..., N]`, or None: the rows are the lists.

  Returns:
    Rates with which `sum_ij rate_i relu(y_i - y_j) = 1` over the pairs of a
    list, for every live objective: `[..., 1, M]` if the rows are the lists,
    else `[..., N, M]`. And `[M]`, which objectives are live.
  """
  pairs = metrics.pair_counts(labels, dtype, where, segment_ids)
  has_pairs = pairs > 0
  size = metrics.list_sizes(labels[..., 0], dtype, where, segment_ids)
  size = size[..., None]
  items = size if segment_ids is None else 1
  count = jnp.sum(jnp.where(has_pairs, items, jnp.zeros((), dtype)),
                  axis=tuple(range(pairs.ndim - 1)))
  per_item = jnp.maximum(count, 1).reshape(
      (1,) * (pairs.ndim - 1) + count.shape)
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
    labels: jax.Array,
    rate: jax.Array,
    where: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array:
  """`sum_ij rate_i relu(y_i - y_j) log(1 + exp(s_j - s_i))` of each objective.

  Args:
    scores: `[..., N]` floating.
    labels: `[..., N, M]`; bool ones take a faster way.
    rate: weights as `pair_rate` gives them.
    where: `[..., N]` bool, True = valid, or None.
    segment_ids: `[..., N]`, or None: the rows are the lists.

  Returns:
    `[M]`, summed over all lists.
  """
  valid = jnp.ones(scores.shape, bool) if where is None else where
  if segment_ids is None:
    segment_ids = jnp.zeros(scores.shape, jnp.int32)
  items = _Items(
      jnp.where(valid, scores, 0),
      metrics.valid_labels(labels, scores.dtype, where),
      jnp.broadcast_to(rate, labels.shape), valid, segment_ids)
  axes = scores.ndim
  rows = _Items(*(
      x.reshape((-1, scores.shape[-1], *x.shape[axes:])) for x in items))
  pad = -scores.shape[-1] % _BLOCK_ROWS
  is_class = labels.dtype == jnp.bool_

  def list_losses(row):
    blocks = _Items(*(
        jnp.pad(x, ((0, pad),) + ((0, 0),) * (x.ndim - 1)).reshape(
            (-1, _BLOCK_ROWS, *x.shape[1:])) for x in row))
    # Pairs are computed anew on the way back: kept, they would be N^2 numbers.
    block_losses = jax.checkpoint(
        lambda block: _block_losses(block, row, is_class=is_class))
    return jnp.sum(lax.map(block_losses, blocks), axis=0)

  return jnp.sum(lax.map(list_losses, rows), axis=0)


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
