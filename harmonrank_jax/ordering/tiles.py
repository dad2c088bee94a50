"""The dense base of the dyadic merge: isotonic fits of tiles of 32 slots.

Inside a tile the run that pools is computed by brute force, without a gather,
for all tiles at once: the tile is the last axis, so that every operation is
one on whole vectors of tiles.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import sums as sums_lib

TILE = 32

def fit_tiles(problem: sums_lib.Problem) -> tuple[jax.Array, jax.Array]:
  """Fits tiles: `[TILE, T]` values, and which neighbours share a block (bits).

  By brute-force merges of 1 + 1, 2 + 2, ... slots.
  """
  size, tiles = problem.values.shape
  # On the CPU a loop of one round whose count the compiler does not know: it
  # keeps it from fusing levels into one another and recomputing them.
  rounds = lax.platform_dependent(
      jnp.arange(tiles, dtype=jnp.int32),
      cpu=lambda x: 1 + jnp.minimum(x[0], 0), default=lambda _: jnp.int32(1))
  carry = problem.values, 0 * problem.list_start
  half = 1
  while half < size:
    def merge(_, carry, half=half):
      return _merge(problem, *carry, half=half)
    carry = lax.fori_loop(0, rounds, merge, carry)
    half *= 2
  return carry


def _merge(
    problem: sums_lib.Problem, fitted: jax.Array, links: jax.Array, *,
    half: int,
) -> tuple[jax.Array, jax.Array]:
  """Merges pairs of `half` slots: `[G, 2 * half, T]`, G pairs in each tile."""
  def group(lanes):
    return lanes.reshape(-1, 2 * half, lanes.shape[-1])

  value, weight = group(fitted), group(problem.items.weight)
  lists = group(problem.list_start)
  level = _pooled_level(value, weight, lists, problem.algebra)[:, None]
  pooled = _is_pooled(value, weight, lists, level, problem.algebra)
  is_left = (jnp.arange(2 * half) < half)[None, :, None]
  link = jnp.where(is_left, sums_lib.TO_NEXT, sums_lib.TO_PREVIOUS)
  link = link.astype(jnp.int32)
  merged = jnp.where(pooled, value[:, half:half + 1] + level, value)
  return (merged.reshape(fitted.shape),
          links | jnp.where(pooled, link, 0).reshape(fitted.shape))


def _pooled_level(
    value: jax.Array, weight: jax.Array, lists: jax.Array,
    algebra: sums_lib.Algebra,
) -> jax.Array:
  """`max_a min_b mean(a, b)` over the runs `[a, b)` across the junction.

  That is the mean of the run that pools, where one does; `[G, T]`, relative
  to the first item right of the junction.
  """
  half = value.shape[1] // 2
  anchor = sums_lib.Item(value[:, half], weight[:, half])
  list_here = lists[:, half]

  def row(groups, i):
    return lax.dynamic_index_in_dim(groups, i, 1, keepdims=False)

  def extend(part, i):
    item = sums_lib.Item(row(value, i), row(weight, i))
    return (algebra.join(part, algebra.single(item, anchor)),
            row(lists, i) == list_here)

  def extend_right(right, i):
    right, is_inside = extend(right, i)
    return right, right._replace(
        total=jnp.where(is_inside, right.total, jnp.inf))

  empty = algebra.nothing(anchor)
  _, right = lax.scan(
      extend_right, empty, jnp.arange(half, 2 * half, dtype=jnp.int32))

  def extend_left(i, carry):
    left, level = carry
    left, is_inside = extend(left, half - 1 - i)
    # Not `jnp.min`: that is a slow library call on the CPU.
    least = functools.reduce(jnp.minimum, (
        algebra.mean(*algebra.join(
            left, sums_lib.Sum(right.total[b], right.weight[b])))
        for b in range(half)))
    return left, jnp.where(is_inside & (least > level), least, level)

  _, level = lax.fori_loop(
      0, half, extend_left, (empty, jnp.full_like(empty.total, -jnp.inf)))
  return level


def _is_pooled(
    value: jax.Array, weight: jax.Array, lists: jax.Array, level: jax.Array,
    algebra: sums_lib.Algebra,
) -> jax.Array:
  """Which slots `[G, 2 * half, T]` the run at `level` `[G, 1, T]` takes.

  Only operations that stay in their lane and place. A slot that has the value
  next to the junction pools even where rounding puts the level on it; so
  blocks stay whole.
  """
  half = value.shape[1] // 2
  last, first = value[:, half - 1:half], value[:, half:half + 1]
  list_here = lists[:, half][:, None]
  is_left = (jnp.arange(2 * half) < half)[None, :, None]
  above = value - first
  near = jnp.zeros_like(above)
  if algebra.absorbs:
    # A block that has all the weight is on the level, and must pool.
    # Alike for all of a block, so that it stays whole.
    apart = jnp.abs(weight - weight[:, half:half + 1])
    near = sums_lib.hidden(jnp.abs(above) + jnp.max(
        jnp.where(lists == list_here, apart, 0), axis=1, keepdims=True))
  pooled = jnp.where(is_left, (above > level - near) | (value >= last),
                     (above < level + near) | (value <= first))
  pooled &= (lists == list_here) & (last > first)
  return pooled & (lists[:, half - 1:half] == list_here)
