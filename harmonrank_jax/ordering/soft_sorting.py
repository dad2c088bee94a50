"""Soft sorts: exact projections onto the polytope of a list's values."""

import jax
import jax.numpy as jnp

from harmonrank_jax.ordering import isotonic
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting


def soft_sort(
    values: jax.Array,
    *,
    strength: jax.Array | float,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    regularization: str = "quadratic",
) -> jax.Array:
  """Differentiable ascending sort: a projection onto the values' polytope.

  The point of the convex hull of all permutations of the values that is
  nearest to `(1, ..., n) / eps`. With w the sorted values and the blocks of
  the isotonic fit of `(1..n) / eps - w`, inside a block of positions

    result_i = (mean of w over the block) + (i - mean position) / eps.

  As the strength falls to 0 this is the sorted list; as it grows, every
  position holds the mean. Derivative (both modes): of the sorted values the
  block mean, of the strength `-(i - mean position) / eps^2`; at strength 0
  that of the hard sort, and 0 for the strength.

  With `regularization="entropic"` means are taken of exponentials: the blocks
  are those of `(1..n) / eps - w` pooled by log-sum-exp, and inside a block

    result_i = i / eps + log(sum of exp(w)) - log(sum of exp((1..n) / eps)),

  which tends to the logarithm of the mean of `exp(values)`.

  Args:
    values: `[..., N]`, any real dtype. Infinite values sort hard, to the
      ends. NaN takes no part: it stays where it is.
    strength: eps >= 0 in positions per unit of value, a scalar or
      broadcastable to `[..., 1]`; may be traced (negative is taken as 0).
    where: `[..., N]` bool, True = valid. Masked positions get 0; the valid
      ones, in order of appearance, get the list's values ascending.
    segment_ids: `[..., N]` integers, the list of each position.
    regularization: "quadratic" or "entropic".

  Returns:
    `[..., N]`, float32 (float64 for float64 values).

  Raises:
    ValueError: if shapes do not fit, a static strength is negative, or the
      regularization is unknown.

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
  strength = sorting.check_strength(strength, regularization, values)
  if not values.size:
    return values
  taking_part = ~jnp.isnan(values)
  if where is not None:
    taking_part &= where
  laid_out = sorting.sort_lists(values, where, segment_ids, shape=values.shape)
  sorted_values = segments.permute(values.reshape(-1), laid_out.order)
  sorted_values = jnp.where(laid_out.valid, sorted_values, 0)
  strength = jnp.broadcast_to(strength, values.shape).reshape(-1)
  soft = strength > 0
  slots = jnp.arange(values.size, dtype=jnp.int32)
  alone = segments.Blocks(slots, slots + 1)
  position = sorting.middle_rank(alone, laid_out, values.dtype)
  scale = jnp.where(soft, strength, 1)
  # An infinite value is already where it belongs, and must not pool.
  infinite = jnp.isinf(sorted_values)
  gap = jnp.where(infinite, sorted_values,
                  segments.over(position, scale) - sorted_values)
  is_entropic = regularization == "entropic"
  blocks = isotonic.isotonic_blocks(
      gap, laid_out.lists, row_size=values.shape[-1], logarithmic=is_entropic,
      weights=jnp.where(infinite, 0, sorted_values) if is_entropic else None)
  blocks = blocks.only(soft)
  if is_entropic:
    result = (
        sorted_values + segments.log_share(position, scale, blocks)
        - segments.log_share(sorted_values, jnp.ones_like(scale), blocks))
  else:
    middle = sorting.middle_rank(blocks, laid_out, values.dtype)
    result = (segments.block_mean(sorted_values, blocks)
              + segments.over(position - middle, scale))
  # The places of a list, in order of appearance, take its sorted slots.
  places = sorting.sort_lists(
      None, taking_part, segment_ids, shape=values.shape)
  result = segments.unpermute(
      jnp.where(places.valid, result, 0), places.order).reshape(values.shape)
  return sorting.mark_nan(result, values, where)
