"""Exact isotonic regression: the fit, and the blocks that it is constant on."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
import harmonrank_jax.native as native
from harmonrank_jax.ordering import dyadic
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting
from harmonrank_jax.ordering import sums


def isotonic_regression(
    values: jax.Array,
    *,
    weights: jax.Array | None = None,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
  """Exact non-decreasing weighted least-squares fit of every list.

  Minimises `sum_i w_i (v_i - y_i)^2` over `v_1 <= v_2 <= ...`, in the items'
  order of appearance. The solution is constant on contiguous blocks, where it
  equals the block's weighted mean, and so is its derivative in `values` (both
  modes; in `weights` too). The depth is polylogarithmic in N.

  Args:
    values: `[..., N]`, any real dtype. A value that is NaN or infinite has no
      least-squares fit: it is left out of its list and returned unchanged.
    weights: `[..., N]` positive, or None for 1. An item whose weight is not
      a positive finite number is left out as if masked.
    where: `[..., N]` bool, True = valid. Masked items are left out and get 0.
    segment_ids: `[..., N]` integers, the list of each item.

  Returns:
    `[..., N]` fit, float32 (float64 for float64 values).

  Raises:
    ValueError: if shapes do not broadcast to that of `values`, or
      `segment_ids` are not integers.

  References:
    Best and Chakravarti, 1990, for the solution's form; Overmars and van
    Leeuwen, 1981, for bridges of hulls.

  >>> import jax.numpy as jnp
  >>> isotonic_regression(jnp.array([1., 3., 2., 4., 0.]))
  Array([1.  , 2.25, 2.25, 2.25, 2.25], dtype=float32)
  """
  values, where, segment_ids = sorting.check_lists(
      values, where, segment_ids, name="values")
  if weights is not None:
    weights = sorting.broadcast(
        arrays.floats(weights, "weights").astype(values.dtype), values,
        "weights", "values")
  if not values.size:
    return values
  finite = jnp.isfinite(values)
  valid = finite if where is None else finite & where
  if weights is not None:
    valid &= (weights > 0) & jnp.isfinite(weights)
  # What is left out must not separate its neighbours: lists are closed up.
  laid_out = sorting.sort_lists(None, valid, segment_ids, shape=values.shape)

  def to_slots(array, fill):
    flat = segments.permute(array.reshape(-1), laid_out.order)
    return jnp.where(laid_out.valid, flat, fill)

  flat_values = to_slots(values, 0)
  flat_weights = None if weights is None else to_slots(weights, 1)
  blocks = isotonic_blocks(
      flat_values, laid_out.lists, weights=flat_weights,
      row_size=values.shape[-1])
  # Means of differences from the block's first value: no digits are lost to
  # the magnitude that all values of a block share.
  first = lax.stop_gradient(segments.take(flat_values, blocks.start))
  above = flat_values - first
  if flat_weights is None:
    fit = first + segments.block_mean(above, blocks)
  else:
    fit = first + (segments.block_sum(flat_weights * above, blocks)
                   / segments.block_sum(flat_weights, blocks))
  fit = segments.unpermute(
      jnp.where(laid_out.valid, fit, 0), laid_out.order).reshape(values.shape)
  if where is not None:
    finite |= ~where
  return jnp.where(finite, fit, values)


@functools.partial(jax.jit, static_argnames=("row_size", "logarithmic"))
def isotonic_blocks(
    values: jax.Array,  # [S], rows of `row_size` slots
    lists: segments.Blocks,  # no list leaves its row
    *,
    weights: jax.Array | None = None,  # [S] positive; needed if logarithmic
    row_size: int,  # rows are aligned: merge levels depend on it alone
    logarithmic: bool = False,
) -> segments.Blocks:
  """The partition of the isotonic fit, for lists that are contiguous slots.

  The fit of a block B is its weighted mean. With `logarithmic`, values and
  weights are logarithms x and u of positive numbers, and so is the fit,

    log(sum_B exp(x_i + u_i)) - log(sum_B exp(u_i)),

  summed in logarithms throughout: nothing overflows or vanishes. It serves
  entropic regularisation, whose fit is `LSE(z) - LSE(u)` with `x = z - u`
  (Blondel et al., arXiv 2002.08871, proposition 4; it descends there).

  Neighbours of equal value are not pooled. Piecewise constant: no derivative.
  """
  values, weights = jax.tree.map(lax.stop_gradient, (values, weights))
  if logarithmic:
    return dyadic.partition(
        values, lists, weights, row_size=row_size,
        algebra=sums.LOGARITHMIC)
  arrays = (values,) if weights is None else (values, weights)
  return segments.Blocks(*_isotonic(*lists, *arrays, row_size=row_size))


@native.form_of("isotonic", layout=native.slots(jnp.int32, jnp.int32))
def _isotonic(
    list_start: jax.Array, list_end: jax.Array, values: jax.Array,
    weights: jax.Array | None = None, *, row_size: int,
) -> tuple[jax.Array, jax.Array]:
  """Starts and ends of the blocks of the fit of numbers."""
  start, end = dyadic.partition(
      values, segments.Blocks(list_start, list_end), weights,
      row_size=row_size)
  return start, end
