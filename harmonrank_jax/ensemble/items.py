"""Items of lists: checks, labels of the valid ones, and sums over lists.

All functions take `where` `[..., N]` (True = valid, None = all) and
`segment_ids` `[..., N]` (None = the rows are the lists).
"""

import jax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting
import harmonrank_jax.sharding as sharding


def with_axes(array: jax.Array, ndim: int) -> jax.Array:
  """The array with leading axes of one, `ndim` axes in all."""
  return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def check_items(
    scores: jax.Array, labels: jax.Array, where: jax.Array | None,
    segment_ids: jax.Array | None, axis_name: sharding.AxisName | None, *,
    matters: arrays.Matters = "values",
) -> tuple[
    jax.Array, jax.Array, jax.Array | None, jax.Array | None, bool]:
  """Checks the arguments, and gathers them if the lists are sharded.

  What `matters` of the scores is told by `arrays.floats`. Returns scores
  `[..., N]`, labels `[..., N, M]`, `where` and `segment_ids`
  `[..., N]` if given, and whether the labels came without M.
  """
  scores, where, segment_ids = sorting.check_lists(
      scores, where, segment_ids, matters=matters)
  labels = arrays.numbers(labels, "labels")
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


def list_sizes(
    like: jax.Array, dtype: jnp.dtype, where: jax.Array | None,
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
    values: jax.Array, where: jax.Array | None, segment_ids: jax.Array | None
) -> jax.Array:
  """Sums `[..., N, M]`, 0 where masked, over lists.

  `[..., 1, M]` if the rows are the lists, else `[..., N, M]`: at each item the
  sum of its list (0 where masked).
  """
  if segment_ids is None:
    return jnp.sum(values, axis=-2, keepdims=True)
  shape = values.shape[:-1]
  laid_out = sorting.sort_lists(None, where, segment_ids, shape=shape)
  slots = values.reshape(-1, values.shape[-1])
  sums = segments.block_sum(
      segments.permute(slots, laid_out.order), laid_out.lists)
  return segments.unpermute(sums, laid_out.order).reshape(values.shape)


def centred(
    ranks: jax.Array, where: jax.Array | None, segment_ids: jax.Array | None
) -> jax.Array:
  """`r - (n + 1) / 2` with n the size of the item's list; 0 where masked."""
  middle = (list_sizes(ranks, ranks.dtype, where, segment_ids) + 1) / 2
  result = ranks - middle
  return result if where is None else jnp.where(where, result, 0)


def first_of_list(
    like: jax.Array, where: jax.Array | None, segment_ids: jax.Array | None
) -> jax.Array:
  """True at the first valid item of every list, `[..., N]`."""
  laid_out = sorting.sort_lists(None, where, segment_ids, shape=like.shape)
  slots = jnp.arange(laid_out.order.shape[0], dtype=jnp.int32)
  first = laid_out.valid & (laid_out.lists.start == slots)
  return segments.unpermute(first, laid_out.order).reshape(like.shape)
