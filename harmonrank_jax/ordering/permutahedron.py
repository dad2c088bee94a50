"""Soft ranks and soft sorts: exact projections onto the permutahedron."""

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import isotonic
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting


def soft_rank(
    scores: jax.Array,
    *,
    strength: jax.Array | float,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
  """Differentiable ascending ranks: the projection of `scores / strength`.

  The ranks `(1, ..., n)` and all their permutations span a polytope, the
  permutahedron. The soft rank is its point nearest to `s / eps`,

    r_eps(s) = argmax_{t in P(1..n)} <s, t> - eps / 2 |t|^2,

  computed exactly: with `z = s / eps` in ascending order, pool `z - (1..n)`
  into the blocks of its isotonic fit; inside a block of items

    r_i = (mean rank of the block) + z_i - (mean of z over the block).

  Items pool when their scores are close: neighbours whose gap is above
  `strength` never pool as a pair, so a strength of 1 to 3 times the mean gap
  smooths locally, and one of 8 times the mean gap of normal scores makes
  everything one block. As the strength falls to 0 the result is the hard
  rank, ties sharing the mean rank; as it grows, `(n + 1) / 2` for every item.
  Ranks sum to `n (n + 1) / 2`, do not change when a constant is added to the
  scores, and are monotone in them.

  Derivative (both modes, jit, vmap): for a cotangent u,
  `ds_i = (u_i - mean of u over i's block) / strength`, and with respect to
  the strength `dr_i / d strength = -(r_i - mean rank of i's block) /
  strength`. At strength 0 both are 0.

  Args:
    scores: `[..., N]` scores, any real dtype. N may be 0. Infinite scores are
      ranked hard, at the ends. An item whose score is NaN has rank NaN, and
      the others are ranked as if it were not there.
    strength: eps >= 0 in the unit of the scores, a scalar or broadcastable to
      `[..., 1]`; may be traced. Negative or NaN values are taken as 0 when
      traced.
    where: `[..., N]` bool, True = valid. Masked items get rank 0 and no
      gradient.
    segment_ids: `[..., N]` integers: the items of a row that share an id form
      one list. The ids need be neither sorted nor contiguous.

  Returns:
    `[..., N]` soft ranks in [1, N], float32 (float64 for float64 scores).

  Raises:
    ValueError: if shapes do not fit, or a static strength is negative.

  References:
    Blondel, Teboul, Berthet, Djolonga, "Fast differentiable sorting and
    ranking", ICML 2020, arXiv 2002.08871, eq. 5 and proposition 3. There the
    ranks descend; here they ascend.

  >>> import jax.numpy as jnp
  >>> soft_rank(jnp.array([0.7, 0.2, 0.8, 0.1]), strength=0.2)
  Array([3.25, 1.75, 3.75, 1.25], dtype=float32)
  >>> soft_rank(jnp.array([0.7, 0.2, 0.8, 0.1]), strength=0.0)
  Array([3., 2., 4., 1.], dtype=float32)
  """
  scores, where, segment_ids = sorting.check_lists(scores, where, segment_ids)
  strength = _check_strength(strength, scores)
  if not scores.size:
    return scores
  laid_out = sorting.sort_lists(scores, where, segment_ids, shape=scores.shape)
  slots = segments.permute(scores.reshape(-1), laid_out.order)
  ranks, _ = rank_slots(
      slots, laid_out, _strength_of_slots(strength, scores),
      row_size=scores.shape[-1])
  ranks = segments.unpermute(ranks, laid_out.order).reshape(scores.shape)
  return sorting.mark_nan(ranks, scores, where)


def rank_slots(
    sorted_scores: jax.Array,
    laid_out: sorting.SortedLists,
    strength: jax.Array,
    *,
    row_size: int,
) -> tuple[jax.Array, segments.Blocks]:
  """Soft ranks of lists that are laid out in ascending slots.

  Args:
    sorted_scores: `[S]` floating, `scores[laid_out.order]`.
    laid_out: the lists.
    strength: `[S]` or scalar, eps of the list of each slot, not negative.
    row_size: slots of a row; see `isotonic_blocks`.

  Returns:
    `[S]` soft ranks (0 where not valid) and the blocks that pooled.
  """
  hard_ranks, ties = sorting.mid_ranks(
      lax.stop_gradient(sorted_scores), laid_out)
  soft = strength > 0
  scale = jnp.where(soft, strength, 1)
  # Ties always pool, so their mean rank may stand for their ranks.
  lists = laid_out.lists
  middle = segments.take(sorted_scores, (lists.start + lists.end) // 2)
  centred = sorted_scores - jnp.where(jnp.isfinite(middle), middle, 0)
  blocks = isotonic.isotonic_blocks(
      centred / scale - hard_ranks, lists, row_size=row_size)
  blocks = segments.Blocks(jnp.where(soft, blocks.start, ties.start),
                           jnp.where(soft, blocks.end, ties.end))
  # A run of ties may stand in parts, each a block of the same mean.
  slots = jnp.arange(sorted_scores.shape[0], dtype=jnp.int32)
  blocks = segments.join_blocks(blocks, ties.start != slots)
  # Differences from the block's first score: exact where scores are large.
  first = lax.stop_gradient(segments.take(sorted_scores, blocks.start))
  inside = soft & (blocks.size > 1) & jnp.isfinite(first)
  above = jnp.where(inside, sorted_scores - first, 0) / scale
  ranks = (sorting.middle_rank(blocks, laid_out, sorted_scores.dtype)
           + above - segments.block_mean(above, blocks))
  return ranks, blocks


def soft_sort(
    values: jax.Array,
    *,
    strength: jax.Array | float,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
  """Differentiable ascending sort: a projection onto the values' polytope.

  The point of the convex hull of all permutations of the values that is
  nearest to `(1, ..., n) / eps`. With w the sorted values and the blocks of
  the isotonic fit of `(1..n) / eps - w`, inside a block of positions

    result_i = (mean of w over the block) + (i - mean position) / eps.

  As the strength falls to 0 this is the sorted list; as it grows, every
  position holds the mean.

  Derivative (both modes): with respect to the sorted values the block mean,
  with respect to the strength `-(i - mean position) / eps^2`. At strength 0
  the derivative is that of the hard sort, and 0 for the strength.

  Args:
    values: `[..., N]`, any real dtype. Infinite values sort hard, to the
      ends. NaN takes no part: it stays where it is.
    strength: eps >= 0 in positions per unit of value, a scalar or
      broadcastable to `[..., 1]`; may be traced (negative is taken as 0).
    where: `[..., N]` bool, True = valid. Masked positions get 0; the valid
      ones, in order of appearance, get the list's values ascending.
    segment_ids: `[..., N]` integers: positions of a row that share an id form
      one list.

  Returns:
    `[..., N]`, float32 (float64 for float64 values).

  Raises:
    ValueError: if shapes do not fit, or a static strength is negative.

  References:
    Blondel et al., ICML 2020, arXiv 2002.08871, eq. 6 (descending there).

  >>> import jax.numpy as jnp
  >>> soft_sort(jnp.array([3.0, 1.0, 2.0]), strength=0.5)
  Array([1., 2., 3.], dtype=float32)
  >>> soft_sort(jnp.array([3.0, 1.0, 2.0]), strength=2.0)
  Array([1.5, 2. , 2.5], dtype=float32)
  """
  values, where, segment_ids = sorting.check_lists(
      values, where, segment_ids, name="values")
  strength = _check_strength(strength, values)
  if not values.size:
    return values
  taking_part = ~jnp.isnan(values)
  if where is not None:
    taking_part &= where
  laid_out = sorting.sort_lists(values, where, segment_ids, shape=values.shape)
  sorted_values = segments.permute(values.reshape(-1), laid_out.order)
  sorted_values = jnp.where(laid_out.valid, sorted_values, 0)
  strength = _strength_of_slots(strength, values)
  soft = strength > 0
  slots = jnp.arange(values.size, dtype=jnp.int32)
  alone = segments.Blocks(slots, slots + 1)
  position = sorting.middle_rank(alone, laid_out, values.dtype)
  target = position / jnp.where(soft, strength, 1)
  # An infinite value is already where it belongs, and must not pool.
  gap = jnp.where(
      jnp.isinf(sorted_values), sorted_values, target - sorted_values)
  blocks = isotonic.isotonic_blocks(
      gap, laid_out.lists, row_size=values.shape[-1])
  blocks = segments.Blocks(jnp.where(soft, blocks.start, alone.start),
                           jnp.where(soft, blocks.end, alone.end))
  middle = sorting.middle_rank(blocks, laid_out, values.dtype)
  result = (segments.block_mean(sorted_values, blocks)
            + (position - middle) / jnp.where(soft, strength, 1))
  # The places of a list, in order of appearance, take its sorted slots.
  places = sorting.sort_lists(
      None, taking_part, segment_ids, shape=values.shape)
  result = segments.unpermute(
      jnp.where(places.valid, result, 0), places.order).reshape(values.shape)
  return sorting.mark_nan(result, values, where)


def _check_strength(
    strength: jax.Array | float, scores: jax.Array
) -> jax.Array:
  """The strength as an array that broadcasts to `[..., 1]`."""
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
  return strength


def _strength_of_slots(strength: jax.Array, scores: jax.Array) -> jax.Array:
  return jnp.broadcast_to(strength, scores.shape).reshape(-1)
