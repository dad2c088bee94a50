"""Sorting every list at once, by the fast form of each backend; hard ranks."""

import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
import harmonrank_jax.native as native
from harmonrank_jax.ordering import segments


class SortedLists(NamedTuple):
  """Lists laid out in flat slots, each contiguous and in ascending order.

  A call on `[..., N]` works on `R` rows of `N` items, `S = R * N` slots. The
  slots of a row hold its lists one after the other, each followed by those of
  its items that take no part (masked, or NaN), each a list of its own.
  """

  order: jax.Array  # [S] int32, the flat position of the item in each slot
  lists: segments.Blocks  # of each slot
  valid: jax.Array  # [S] bool, whether the item of the slot takes part


@functools.partial(jax.jit, static_argnames="shape")
def sort_lists(
    scores: jax.Array | None,  # None for the order of appearance
    where: jax.Array | None,
    segment_ids: jax.Array | None,
    *,
    shape: tuple[int, ...],  # [..., N], of all that is given
) -> SortedLists:
  """Lays the lists of `[..., N]` out in slots, ascending by score.

  Items of a row with the same id are one list, wherever they stand.
  """
  rows = (math.prod(shape[:-1]), shape[-1])
  if segment_ids is not None:
    segment_ids = _integer_key(segment_ids)
  if scores is not None:
    scores = lax.stop_gradient(scores)
  # A primitive takes arrays alone: an empty one stands for None.
  given = [jnp.zeros(0, dtype) if x is None else x.reshape(rows)
           for x, dtype in ((scores, jnp.float32), (where, bool),
                            (segment_ids, jnp.int32))]
  if not any(x.size for x in given):
    given[1] = jnp.ones(rows, bool)
  order, start, end, valid = (x.reshape(-1) for x in _sort_rows(*given))
  return SortedLists(order, segments.Blocks(start, end), valid)


@native.form_of(
    "sort_lists",
    layout=native.slots(jnp.int32, jnp.int32, jnp.int32, bool))
def _sort_rows(
    scores: jax.Array, where: jax.Array, segment_ids: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """`SortedLists` of arrays `[R, N]`, or `[0]` for what is not given."""
  rows = max((scores, where, segment_ids), key=lambda x: x.size).shape
  valid = where if where.size else jnp.ones(rows, bool)
  keys = []
  if scores.size:
    valid &= ~jnp.isnan(scores)
    # No number has the largest key, so it can stand for items that take no
    # part: they come last.
    key = _float_key(scores)
    keys.append(jnp.where(valid, key, jnp.iinfo(key.dtype).max))
  elif where.size:
    keys.append(jnp.where(valid, 0, 1))
  if segment_ids.size:
    keys.append(segment_ids)
  slots = lax.broadcasted_iota(jnp.int32, (math.prod(rows),), 0).reshape(rows)
  row_start = slots[:, :1]
  order = _argsort(keys) + row_start
  if segment_ids.size:
    flat = order.reshape(-1)
    valid = segments.permute(valid.reshape(-1), flat).reshape(rows)
    ids = segments.permute(segment_ids.reshape(-1), flat).reshape(rows)
    is_first = (slots == row_start) | ~valid | (ids != jnp.roll(ids, 1, axis=1))
    lists = segments.run_blocks(is_first.reshape(-1))
    return order, lists.start.reshape(rows), lists.end.reshape(rows), valid
  # A row is one list, and the items that take no part are at its end: its
  # bounds follow from a count.
  row_end = row_start + jnp.sum(valid, axis=1, keepdims=True, dtype=jnp.int32)
  valid = slots < row_end
  return (order, jnp.where(valid, row_start, slots),
          jnp.where(valid, row_end, slots + 1), valid)


def hard_rank(
    scores: jax.Array,
    *,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
  """Ascending ranks: the lowest score of a list has rank 1, ties share.

  `rank_i = 1 + #{j: s_j < s_i} + (#{j: s_j = s_i} - 1) / 2` over the valid
  items j of the list of i, so that ranks of a list of n sum to
  `n (n + 1) / 2` whatever the ties. Infinities are the ends of the scale.
  An item whose score is NaN has rank NaN, and the others are ranked as if it
  were not there. The derivative is 0 everywhere.

  Args:
    scores: `[..., N]`, any real dtype. NumPy's are ranked in all their bits;
      integers of JAX as float32, that is, exactly up to 2^24.
    where: `[..., N]` bool, True = valid. Masked items get rank 0.
    segment_ids: `[..., N]` integers, the list of each item; neither sorted
      nor contiguous.

  Returns:
    `[..., N]` ranks in [1, N], float32 (float64 for 64-bit scores with x64
    on). Exact while the list has fewer than 2^23 items in float32.

  Raises:
    ValueError: if the shapes of `where` or `segment_ids` do not broadcast to
      that of `scores`, scores are not numbers or `segment_ids` not integers.

  References:
    Mid-ranks as in the Wilcoxon rank-sum statistic; `AUC = (sum of the
    positives' ranks - P (P + 1) / 2) / (P N)`.

  >>> import jax.numpy as jnp
  >>> hard_rank(jnp.array([0.7, 0.2, 0.7, 0.1]))
  Array([3.5, 2. , 3.5, 1. ], dtype=float32)
  """
  scores, where, segment_ids = check_lists(
      scores, where, segment_ids, matters="order")
  if not scores.size:
    return scores
  laid_out = sort_lists(scores, where, segment_ids, shape=scores.shape)
  flat = lax.stop_gradient(scores).reshape(-1)
  ranks = mid_ranks(segments.permute(flat, laid_out.order), laid_out)[0]
  ranks = segments.unpermute(ranks, laid_out.order).reshape(scores.shape)
  return mark_nan(ranks, scores, where)


def mid_ranks(
    sorted_scores: jax.Array, laid_out: SortedLists
) -> tuple[jax.Array, segments.Blocks]:
  """Mid-ranks of sorted slots (0 where not valid), and the runs of ties."""
  keys = _float_key(sorted_scores)
  tied = keys == jnp.roll(keys, 1)
  slots = jnp.arange(sorted_scores.shape[0], dtype=jnp.int32)
  ties = segments.run_blocks(~tied | (laid_out.lists.start == slots))
  return middle_rank(ties, laid_out, sorted_scores.dtype), ties


def middle_rank(
    blocks: segments.Blocks, laid_out: SortedLists, dtype: jnp.dtype
) -> jax.Array:
  """Mean rank (1-based, within its list) of the block of each slot."""
  base = laid_out.lists.start
  # Converted one by one: each is exact in float32 below 2^24, where the sum
  # of two integers would no longer be.
  low = (blocks.start - base).astype(dtype)
  high = (blocks.end - base).astype(dtype)
  return jnp.where(laid_out.valid, (low + high + 1) * 0.5, 0)


def check_lists(
    scores: jax.Array, where: jax.Array | None,
    segment_ids: jax.Array | None, *, name: str = "scores",
    matters: arrays.Matters = "values",
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
  """Checks shapes and dtypes and brings all arguments to `[..., N]`.

  What `matters` of the scores is told by `arrays.floats`.
  """
  scores = arrays.read(scores)
  shape = scores.shape
  if not shape:
    raise ValueError(f"{name} must have shape [..., N], got a scalar.")
  size = math.prod(shape)
  if isinstance(size, int) and size >= 2**31:
    raise ValueError(
        f"{name} must have fewer than 2^31 items, got shape {shape}.")
  if where is not None:
    where = broadcast(arrays.flags(where, "where"), scores, "where", name)
  if segment_ids is not None:
    segment_ids = broadcast(
        arrays.ids(segment_ids, "segment_ids"), scores, "segment_ids", name)
  return (arrays.floats(scores, name, matters=matters, where=where), where,
          segment_ids)


def check_strength(
    strength: jax.Array | float, regularization: str, scores: jax.Array
) -> jax.Array:
  """The strength as an array, checked to broadcast to `[..., 1]`."""
  if isinstance(strength, (int, float)) and not strength >= 0:
    raise ValueError(f"strength must be at least 0, got {strength}.")
  strength = jnp.asarray(strength, scores.dtype)
  lists = (*scores.shape[:-1], 1)
  try:
    jnp.broadcast_to(strength, lists)
  except ValueError:
    raise ValueError(
        f"strength has shape {strength.shape}, which does not broadcast to "
        f"{lists}, one value a list.") from None
  if regularization not in ("quadratic", "entropic"):
    raise ValueError(
        "regularization must be 'quadratic' or 'entropic', got "
        f"{regularization!r}.")
  return strength


def mark_nan(
    results: jax.Array, scores: jax.Array, where: jax.Array | None
) -> jax.Array:
  """Puts NaN where a valid item's score is NaN."""
  bad = jnp.isnan(scores)
  return jnp.where(bad if where is None else bad & where, jnp.nan, results)


def broadcast(
    array: jax.Array, scores: jax.Array, name: str, target: str
) -> jax.Array:
  """`array` in the shape of `scores`; an error that names both arguments."""
  try:
    return jnp.broadcast_to(array, scores.shape)
  except ValueError:
    raise ValueError(
        f"{name} has shape {array.shape}, which does not broadcast to the "
        f"shape {scores.shape} of {target}.") from None


def _argsort(keys: list[jax.Array]) -> jax.Array:
  """Stable argsort of each row of `[R, N]`; the last key decides first."""
  if all(key.dtype == jnp.int32 for key in keys):
    return lax.platform_dependent(
        *keys, cpu=_argsort_packed, default=_argsort_by_keys)
  return _argsort_by_keys(*keys)


def _argsort_packed(*keys: jax.Array) -> jax.Array:
  """Sorts 64-bit integers `key | position`, one key after the other.

  On CPU a sort of one integer operand is 5 to 8 times faster than any other.
  The position in the low half makes equal keys differ, so that the sort is
  stable; it is also the result, and the key need not be unpacked. Several
  keys are sorted like the digits of a number, the least important first.
  """
  position = lax.broadcasted_iota(jnp.int32, keys[0].shape, 1)
  order = None
  for key in keys:
    if order is not None:
      key = jnp.take_along_axis(key, order, axis=-1)
    # Only here, so that all other arrays keep the caller's precision.
    with jax.enable_x64(True):
      packed = (key.astype(jnp.int64) << 32) | position.astype(jnp.int64)
      step = lax.sort(packed).astype(jnp.int32)
    order = step if order is None else jnp.take_along_axis(order, step, axis=-1)
  assert order is not None
  return order


def _argsort_by_keys(*keys: jax.Array) -> jax.Array:
  """One sort by all keys; a single int32 key reaches the GPU's radix sort."""
  position = lax.broadcasted_iota(jnp.int32, keys[0].shape, 1)
  return lax.sort((*reversed(keys), position), num_keys=len(keys) + 1)[-1]


def _float_key(scores: jax.Array) -> jax.Array:
  """Integers in the order of the floats; NaN above infinity.

  The bits of a positive float already are in its order; those of a negative
  one are in the reverse order, and flipping all but the sign turns it. Numbers
  are not compared: XLA takes those that are subnormal for 0.
  """
  dtype = jnp.int64 if scores.dtype == jnp.float64 else jnp.int32
  bits = lax.bitcast_convert_type(lax.stop_gradient(scores), dtype)
  bits = jnp.where(bits < 0, bits ^ jnp.iinfo(dtype).max, bits)
  return jnp.where(bits == -1, 0, bits)  # -0.0 ties with 0.0.


def _integer_key(ids: jax.Array) -> jax.Array:
  """Ids as int32 or int64; only their equality matters, not their order."""
  if ids.dtype in (jnp.int64, jnp.uint64):
    return ids.astype(jnp.int64)
  return ids.astype(jnp.int32)
