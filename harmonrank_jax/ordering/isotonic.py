"""Exact isotonic regression in polylogarithmic depth: dyadic bridge merge.

Pool-adjacent-violators is sequential. Here the list is cut into tiles; fits
of neighbouring tiles are merged, then of neighbouring pairs of tiles, and so
on. Merging two isotonic fits L | R pools exactly one run around the junction:
the last values of L above a level `mu` and the first values of R below it,
where `mu` is the mean of all that is pooled. In the picture of the greatest
convex minorant that run is the common tangent (the bridge) of two hulls, and
it is found by bisection. Only the partition into blocks is carried from level
to level, never recovered from the fitted values; the fit is the blocks' mean.

Inside a tile the bridge is found by brute force, without a gather. Above it
all junctions of a level are searched at once, and levels share one loop body.
Sums start at the junction, and they sum differences from a value beside it,
so nothing large is added or cancels: float32 stays accurate where a global
prefix sum is off by orders of magnitude.
"""

import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import kernel
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting

_TILE = 16
# Levels share a loop, and with it an array of junctions as long as the lowest
# of them needs. While many levels are left, the lowest few have their own.
_MOST_LEVELS, _LOWEST_LEVELS = 9, 5

# What a probe of a bridge teaches about the two counts, as bits of an integer.
_GROW_LEFT, _GROW_RIGHT, _SHRINK_LEFT, _SHRINK_RIGHT = 1, 2, 4, 8
_KEEP_LEFT, _KEEP_RIGHT, _BEGIN = 16, 32, 64


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
  equals the block's weighted mean. No pass over the list is sequential:
  the depth is polylogarithmic in N.

  Differentiable in `values` in both modes (and in `weights`): the derivative
  of the fit is the block mean of the derivative of the values.

  Args:
    values: `[..., N]`, any real dtype. A value that is NaN or infinite has no
      least-squares fit: it is left out of its list and returned unchanged.
    weights: `[..., N]` positive, or None for 1. An item whose weight is not
      a positive finite number is left out as if masked.
    where: `[..., N]` bool, True = valid. Masked items are left out and get 0.
    segment_ids: `[..., N]` integers: the items of a row that share an id form
      one list, in order of appearance, contiguous or not.

  Returns:
    `[..., N]` fit, float32 (float64 for float64 values).

  Raises:
    ValueError: if shapes do not broadcast to that of `values`, or
      `segment_ids` are not integers.

  References:
    Best and Chakravarti, "Active set algorithms for isotonic regression",
    1990, for the solution's form; Overmars and van Leeuwen, 1981, for
    bridges of hulls.

  >>> import jax.numpy as jnp
  >>> isotonic_regression(jnp.array([1., 3., 2., 4., 0.]))
  Array([1.  , 2.25, 2.25, 2.25, 2.25], dtype=float32)
  """
  values, where, segment_ids = sorting.check_lists(
      values, where, segment_ids, name="values")
  if weights is not None:
    weights = sorting.broadcast(
        jnp.asarray(weights, values.dtype), values, "weights", "values")
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


@functools.partial(jax.jit, static_argnames="row_size")
def isotonic_blocks(
    values: jax.Array,
    lists: segments.Blocks,
    *,
    weights: jax.Array | None = None,
    row_size: int,
) -> segments.Blocks:
  """The partition of the isotonic fit, for lists that are contiguous slots.

  Args:
    values: `[S]` floating, rows of `row_size` slots one after the other.
    lists: the list of each slot; no list leaves its row.
    weights: `[S]` positive, or None for 1.
    row_size: slots of a row. Rows are aligned, so that the number of merge
      levels depends on the row and not on how many rows there are.

  Returns:
    The `Blocks` on which the fit is constant. Neighbours of equal value are
    not pooled. Not differentiable (piecewise constant).
  """
  arrays = (values,) if weights is None else (values, weights)
  return segments.Blocks(*_isotonic(
      *lists, *map(lax.stop_gradient, arrays), row_size=row_size))


@kernel.form_of(
    "isotonic", results=((0, jnp.int32), (1, jnp.int32)))
def _isotonic(
    list_start: jax.Array, list_end: jax.Array, values: jax.Array,
    weights: jax.Array | None = None, *, row_size: int,
) -> tuple[jax.Array, jax.Array]:
  """Starts and ends of the blocks of `isotonic_blocks`."""
  rows = values.shape[0] // row_size
  tiles = -(-row_size // _TILE)
  padded = tiles * _TILE
  grow = padded - row_size

  def pad(array, fill):
    array = array.reshape(rows, row_size)
    array = jnp.pad(array, ((0, 0), (0, grow)), constant_values=fill)
    return array.reshape(-1)

  slots = jnp.arange(values.shape[0], dtype=jnp.int32)
  shift = slots // row_size * grow
  padded_slots = jnp.arange(rows * padded, dtype=jnp.int32)
  is_pad = padded_slots % padded >= row_size
  problem = _Problem(
      values=pad(values, 0),
      weights=None if weights is None else pad(weights, 1),
      # A pad slot is a list of its own.
      list_start=jnp.where(
          is_pad, padded_slots, pad(list_start + shift, 0)),
      list_end=jnp.where(
          is_pad, padded_slots + 1, pad(list_end + shift, 0)),
      rows=rows)
  fit = _merge_tiles(problem, _fit_tiles(problem))

  def unpad(array):
    return array.reshape(rows, padded)[:, :row_size].reshape(-1) - shift

  return unpad(fit.start), unpad(segments.take(fit.end, fit.start))


class _Problem(NamedTuple):
  """Flat slots, each row padded to whole tiles."""

  values: jax.Array  # [S]
  weights: jax.Array | None  # [S]
  list_start: jax.Array  # [S] int32
  list_end: jax.Array  # [S] int32
  rows: int


class _Fit(NamedTuple):
  """Blocks so far: `start` at every slot, the rest at a block's first slot."""

  start: jax.Array  # [S] int32
  end: jax.Array  # [S] int32
  mean: jax.Array  # [S]


class _Sums(NamedTuple):
  """Sums from either end of a tile, and from either end of a dyadic group.

  Sums of values are sums of differences from the value of the slot at the
  end they start from: whatever is summed up to a junction is then measured
  against a value beside it, in the same list.
  """

  prefix: jax.Array  # [S], within the tile
  suffix: jax.Array  # [S]
  tile_prefix: jax.Array  # [S / TILE], whole tiles within the group
  tile_suffix: jax.Array  # [S / TILE]


class _Run(NamedTuple):
  """The slots pooled around a junction; sums less the junction's value."""

  total: jax.Array
  left_weight: jax.Array
  right_weight: jax.Array

  @property
  def mean(self) -> jax.Array:
    return self.total / (self.left_weight + self.right_weight)


class _Bracket(NamedTuple):
  """How many slots left and right of each junction are pooled: bounds."""

  left_low: jax.Array
  left_high: jax.Array
  right_low: jax.Array
  right_high: jax.Array


def _fit_tiles(problem: _Problem) -> _Fit:
  """Fits every tile by brute-force merges of 1 + 1, 2 + 2, ... slots."""
  slots = jnp.arange(problem.values.shape[0], dtype=jnp.int32)
  carry = _Fit(slots, slots + 1, problem.values)
  # A loop of one round whose count the compiler does not know: it keeps the
  # CPU compiler from fusing levels into one another and recomputing them.
  one = 1 + jnp.minimum(slots[0], 0)
  half = 1
  while half < _TILE:
    def merge(_, fit, half=half):
      return _merge_dense(problem, fit, half)
    carry = lax.fori_loop(0, one, merge, carry)
    half *= 2
  return carry


def _merge_dense(problem: _Problem, fit: _Fit, half: int) -> _Fit:
  """Merges pairs of `half` slots; `mu = max_a min_b mean(a, b)` over a grid.

  Here `end` and `mean` are those of the block of every slot.
  """
  start, end, value = (x.reshape(-1, 2 * half) for x in fit)
  junction = jnp.arange(start.shape[0], dtype=jnp.int32)[:, None] * (2 * half)
  junction += half
  count = jnp.arange(half, dtype=jnp.int32)[None]
  in_left = junction - 1 - count >= segments.take(problem.list_start, junction)
  in_right = junction + count < segments.take(problem.list_end, junction)
  anchor = value[:, half:half + 1]
  left, right = value[:, :half][:, ::-1] - anchor, value[:, half:] - anchor
  if problem.weights is None:
    left_weight = right_weight = (count + 1).astype(value.dtype)
    left_sum, right_sum = jnp.cumsum(left, axis=1), jnp.cumsum(right, axis=1)
  else:
    weights = problem.weights.reshape(-1, 2 * half)
    left_weights, right_weights = weights[:, :half][:, ::-1], weights[:, half:]
    left_weight = jnp.cumsum(left_weights, axis=1)
    right_weight = jnp.cumsum(right_weights, axis=1)
    left_sum = jnp.cumsum(left_weights * left, axis=1)
    right_sum = jnp.cumsum(right_weights * right, axis=1)
  right_sum = jnp.where(in_right, right_sum, jnp.inf)
  means = ((left_sum[:, :, None] + right_sum[:, None, :])
           / (left_weight[:, :, None] + right_weight[:, None, :]))
  level = jnp.where(in_left, jnp.min(means, axis=2), -jnp.inf)
  level = jnp.max(level, axis=1, keepdims=True)

  violates = in_left[:, :1] & in_right[:, :1] & (left[:, :1] > 0)
  num_left = jnp.sum(
      in_left & (left > level), axis=1, keepdims=True, dtype=jnp.int32)
  num_right = jnp.sum(
      in_right & (right < level), axis=1, keepdims=True, dtype=jnp.int32)
  # Whole blocks at least, should rounding put the level on one of them.
  low = jnp.minimum(junction - num_left, start[:, half - 1:half])
  high = jnp.maximum(junction + num_right, end[:, half:half + 1])
  slots = junction - half + jnp.arange(2 * half, dtype=jnp.int32)[None]
  pooled = violates & (slots >= low) & (slots < high)
  return _Fit(
      jnp.where(pooled, low, start).reshape(-1),
      jnp.where(pooled, high, end).reshape(-1),
      jnp.where(pooled, anchor + level, value).reshape(-1))


def _tile_sums(
    values: jax.Array, weights: jax.Array | None, *, differences: bool
) -> _Sums:
  tiles = values.reshape(-1, _TILE)
  scale = 1 if weights is None else weights.reshape(-1, _TILE)
  first, last = (tiles[:, :1], tiles[:, -1:]) if differences else (0, 0)
  prefix = jnp.cumsum(scale * (tiles - first), axis=1)
  suffix = jnp.cumsum((scale * (tiles - last))[:, ::-1], axis=1)[:, ::-1]
  return _Sums(prefix.reshape(-1), suffix.reshape(-1),
               prefix[:, -1], suffix[:, 0])


def _pool(
    problem: _Problem, sums: _Sums, weight_sums: _Sums | None,
    start: jax.Array, junction: jax.Array, end: jax.Array,
) -> _Run:
  """Pools `[start, junction)` and `[junction, end)`, groups of this level."""
  value = lambda slot: segments.take(problem.values, slot)
  anchor = value(junction)
  tile, first, last = junction // _TILE, start // _TILE, (end - 1) // _TILE
  more_left, more_right = first + 1 < tile, last > tile
  if weight_sums is None:
    left_in_tile = ((first + 1) * _TILE - start).astype(anchor.dtype)
    left_tiles = ((tile - first - 1) * _TILE).astype(anchor.dtype)
    right_in_tile = (end - last * _TILE).astype(anchor.dtype)
    right_tiles = ((last - tile) * _TILE).astype(anchor.dtype)
  else:
    left_in_tile = segments.take(weight_sums.suffix, start)
    left_tiles = jnp.where(
        more_left, segments.take(weight_sums.tile_suffix, first + 1), 0)
    right_in_tile = segments.take(weight_sums.prefix, end - 1)
    right_tiles = jnp.where(
        more_right, segments.take(weight_sums.tile_prefix, last - 1), 0)
  left = (
      segments.take(sums.suffix, start)
      + left_in_tile * (value((first + 1) * _TILE - 1) - anchor)
      + jnp.where(
          more_left, segments.take(sums.tile_suffix, first + 1)
          + left_tiles * (value(junction - 1) - anchor), 0))
  right = (
      segments.take(sums.prefix, end - 1)
      + right_in_tile * (value(last * _TILE) - anchor)
      + jnp.where(more_right, segments.take(sums.tile_prefix, last - 1), 0))
  return _Run(left + right, left_in_tile + left_tiles,
              right_in_tile + right_tiles)


def _merge_tiles(problem: _Problem, fit: _Fit) -> _Fit:
  """Merges fitted tiles pairwise until every row is one."""
  tiles = fit.start.shape[0] // (_TILE * problem.rows)
  levels = math.ceil(math.log2(tiles))
  sums = _tile_sums(problem.values, problem.weights, differences=True)
  weight_sums = None
  if problem.weights is not None:
    weight_sums = _tile_sums(problem.weights, None, differences=False)
  carry = (fit, sums, weight_sums)
  level = 0
  while level < levels:
    first = 1 << level
    num_pairs = -(-(tiles - first) // (2 * first))

    def merge(i, carry, first=first, num_pairs=num_pairs):
      return _merge_level(
          problem, *carry, half=jnp.int32(first) << i,
          num_pairs=num_pairs, tiles=tiles)

    left = levels - level
    count = left if left <= _MOST_LEVELS else _LOWEST_LEVELS
    carry = lax.fori_loop(0, count, merge, carry)
    level += count
  return carry[0]


def _merge_level(
    problem: _Problem, fit: _Fit, sums: _Sums, weight_sums: _Sums | None, *,
    half: jax.Array, num_pairs: int, tiles: int,
) -> tuple[_Fit, _Sums, _Sums | None]:
  """Merges groups of `half` tiles (a traced value) pairwise."""
  width = half * _TILE
  row, pair = jnp.divmod(
      jnp.arange(problem.rows * num_pairs, dtype=jnp.int32), num_pairs)
  offset = width * (2 * pair + 1)
  exists = offset < tiles * _TILE
  junction = row * (tiles * _TILE) + jnp.where(exists, offset, 1)
  low = jnp.maximum(
      segments.take(problem.list_start, junction), junction - width)
  high = jnp.minimum(
      segments.take(problem.list_end, junction), junction + width)
  violates = exists & (low < junction) & (
      _mean_at(fit, junction - 1) > segments.take(fit.mean, junction))

  start, end = _find_bridges(
      problem, fit, sums, weight_sums, junction, low, high, violates)
  mean = _pool(problem, sums, weight_sums, start, junction, end).mean
  mean += segments.take(problem.values, junction)
  # An empty run where nothing violates, dropped by the scatter below.
  start = jnp.where(violates, start, junction)
  end = jnp.where(violates, end, junction)
  target = jnp.where(violates, start, fit.start.shape[0])

  tile = jnp.arange(problem.rows * tiles, dtype=jnp.int32)
  tile_row, tile_in_row = jnp.divmod(tile, tiles)
  group = tile_in_row // (2 * half)
  of_tile = tile_row * num_pairs + jnp.minimum(group, num_pairs - 1)
  run_start = segments.take(start, of_tile)[:, None]
  run_end = segments.take(end, of_tile)[:, None]
  slots = jnp.arange(fit.start.shape[0], dtype=jnp.int32).reshape(-1, _TILE)
  pooled = (slots >= run_start) & (slots < run_end)
  merged = _Fit(
      jnp.where(pooled, run_start, fit.start.reshape(-1, _TILE)).reshape(-1),
      fit.end.at[target].set(end, mode="drop"),
      fit.mean.at[target].set(mean, mode="drop"))

  # Each half adds the other's total, measured from the group's new ends.
  group_start = tile_row * tiles + 2 * group * half
  middle = group_start + half
  group_end = jnp.minimum(middle + half, (tile_row + 1) * tiles)
  is_right, is_left = tile >= middle, (tile < middle) & (middle < group_end)
  value = lambda slot: segments.take(problem.values, slot)
  if weight_sums is None:
    right_weight = ((tile - middle + 1) * _TILE).astype(mean.dtype)
    left_weight = ((middle - tile) * _TILE).astype(mean.dtype)
  else:
    right_weight, left_weight = weight_sums.tile_prefix, weight_sums.tile_suffix
  from_first = value(middle * _TILE) - value(group_start * _TILE)
  from_last = value(middle * _TILE - 1) - value(group_end * _TILE - 1)
  sums = _extend(sums, middle, is_left, is_right,
                 left_weight * from_last, right_weight * from_first)
  if weight_sums is not None:
    weight_sums = _extend(weight_sums, middle, is_left, is_right, 0, 0)
  return merged, sums, weight_sums


def _extend(
    sums: _Sums, middle: jax.Array, is_left: jax.Array, is_right: jax.Array,
    left_shift: jax.Array | int, right_shift: jax.Array | int,
) -> _Sums:
  total_left = segments.take(sums.tile_prefix, middle - 1)
  total_right = segments.take(sums.tile_suffix, middle)
  return sums._replace(
      tile_prefix=sums.tile_prefix + jnp.where(
          is_right, total_left + right_shift, 0),
      tile_suffix=sums.tile_suffix + jnp.where(
          is_left, total_right + left_shift, 0))


def _mean_at(fit: _Fit, slots: jax.Array) -> jax.Array:
  return segments.take(fit.mean, segments.take(fit.start, slots))


def _find_bridges(
    problem: _Problem, fit: _Fit, sums: _Sums, weight_sums: _Sums | None,
    junction: jax.Array, low: jax.Array, high: jax.Array, violates: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Bisects for the run that pools at each junction.

  The level of the merged run is the root of the decreasing function
  `F(x) = sum_L max(v - x, 0) - sum_R max(x - v, 0)`. A probe takes whole
  blocks, `left` slots of L and `right` of R, with mean mu, outermost pooled
  values `left_value`, `right_value` and next values outside `left_next`,
  `right_next`. The sign of F at one of these four values follows from mu:
    mu < left_next:                       more of L;
    mu > right_next:                      more of R;
    mu > left_value, mu >= right_value:   less of L, no less of R;
    mu < right_value, mu <= left_value:   less of R, no less of L;
    left_value < mu < right_value:        less of L if the pooled sum is at
      least `left * left_value + right * right_value`, else less of R;
    otherwise the run is found.

  Returns:
    Start and end of the run at each junction; arbitrary where nothing violates.
  """

  def probe(bracket: _Bracket):
    left = (bracket.left_low + bracket.left_high) // 2
    right = (bracket.right_low + bracket.right_high) // 2
    start = segments.take(fit.start, junction - left)
    last_start = segments.take(fit.start, junction + right - 1)
    return start, last_start, segments.take(fit.end, last_start)

  anchor = segments.take(problem.values, junction)

  def narrow(bracket: _Bracket, move, counts) -> _Bracket:
    left, left_less, right, right_less = counts

    def step(low, high, grow, keep, shrink, count, less):
      low = jnp.where(move & grow > 0, count + 1,
                      jnp.where(move & keep > 0, count, low))
      return low, jnp.where(move & shrink > 0, less, high)

    return _Bracket(
        *step(bracket.left_low, bracket.left_high, _GROW_LEFT, _KEEP_LEFT,
              _SHRINK_LEFT, left, left_less),
        *step(bracket.right_low, bracket.right_high, _GROW_RIGHT,
              _KEEP_RIGHT, _SHRINK_RIGHT, right, right_less))

  def body(carry):
    # The verdict of a probe is one integer, and brackets move one round after
    # it, by integer arithmetic alone: whatever the compiler recomputes with
    # another rounding, all four bounds follow the same verdict.
    bracket, move, counts = carry
    bracket = narrow(bracket, move, counts)
    start, last_start, end = probe(bracket)
    run = _pool(problem, sums, weight_sums, start, junction, end)
    mean = run.mean
    left, right = junction - start, end - junction
    left_less = junction - segments.take(fit.end, start)
    right_less = last_start - junction
    left_value = segments.take(fit.mean, start) - anchor
    right_value = segments.take(fit.mean, last_start) - anchor
    left_next = _mean_at(fit, start - 1) - anchor
    right_next = segments.take(fit.mean, end) - anchor

    grow_left = (mean < left_next) & (left < bracket.left_high)
    grow_right = (mean > right_next) & (right < bracket.right_high)
    grow = grow_left | grow_right
    less_left = ~grow & (mean > left_value) & (left_less >= bracket.left_low)
    less_right = (~grow & (mean < right_value)
                  & (right_less >= bracket.right_low))
    left_first = run.total >= (
        run.left_weight * left_value + run.right_weight * right_value)
    shrink_left = less_left & (~less_right | left_first)
    shrink_right = less_right & ~shrink_left
    verdict = (
        _GROW_LEFT * grow_left + _GROW_RIGHT * grow_right
        + _SHRINK_LEFT * shrink_left + _SHRINK_RIGHT * shrink_right
        + _KEEP_LEFT * (shrink_right & ~less_left)
        + _KEEP_RIGHT * (shrink_left & ~less_right))
    move = jnp.where(move == 0, 0, verdict)
    return bracket, move, (left, left_less, right, right_less)

  one = jnp.ones_like(junction)
  bracket = _Bracket(one, jnp.maximum(junction - low, 1),
                     one, jnp.maximum(high - junction, 1))
  bracket, _, _ = lax.while_loop(
      lambda carry: jnp.any(carry[1] != 0), body,
      (bracket, jnp.where(violates, _BEGIN, 0), (0 * one,) * 4))
  start, _, end = probe(bracket)
  return start, end
