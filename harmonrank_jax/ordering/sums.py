"""Blocks of the fit so far, and sums of the items on either side of a junction.

Sums start at an end of a tile, or of a dyadic group of tiles. A sum up to a
junction is measured against the item beside it, in its list: float32 stays
accurate where a global prefix sum is off by orders of magnitude.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import algebra as algebra_lib
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import tiles as tiles_lib


class Fit(NamedTuple):
  """Blocks so far: `start` at every slot, the rest at a block's first slot."""

  start: jax.Array  # [TILE, T] int32
  end: jax.Array  # [TILE, T] int32
  mean: jax.Array  # [TILE, T]

  def mean_at(self, slots: jax.Array) -> jax.Array:
    """The fitted values of any slots."""
    return tiles_lib.at(self.mean, tiles_lib.at(self.start, slots))


class Sums(NamedTuple):
  """Sums from either end of a tile, and from either end of a dyadic group.

  The anchor is the item at the end that a sum starts from: whatever is summed
  up to a junction is then measured against an item beside it, in its list.
  Where no weights are given, they are counts and follow from the bounds; then
  the weights here mean nothing.
  """

  prefix: algebra_lib.Sum  # [TILE, T], within the tile
  suffix: algebra_lib.Sum
  tile_prefix: algebra_lib.Sum  # [T], whole tiles within the group
  tile_suffix: algebra_lib.Sum


def summarise(
    problem: tiles_lib.Problem, fitted: jax.Array, links: jax.Array
) -> tuple[Fit, Sums]:
  """Bounds of the blocks within tiles, and sums over the items of tiles."""
  algebra, items = problem.algebra, problem.items
  size, tiles = fitted.shape
  offset = size * jnp.arange(tiles, dtype=jnp.int32)
  place = jnp.arange(size, dtype=jnp.int32)

  def sweep(bounds, edge, ahead, back, *, reverse=False):
    anchor = algebra_lib.Item(*(x[edge] for x in items))

    def step(carry, inputs):
      bound, before, part = carry
      item, here, edge = inputs
      joined = (here & back) | (before & ahead) > 0
      bound = jnp.where(joined, bound, offset + edge)
      part = algebra.join(part, algebra.single(item, anchor))
      return (bound, here, part), (bound, part)

    nowhere = 0 * links[0]
    return lax.scan(step, (nowhere, nowhere, algebra.nothing(anchor)),
                    (items, links, bounds), reverse=reverse)[1]

  to_next, to_previous = tiles_lib.TO_NEXT, tiles_lib.TO_PREVIOUS
  start, prefix = sweep(place, 0, to_next, to_previous)
  end, suffix = sweep(place + 1, -1, to_previous, to_next, reverse=True)
  return Fit(start, end, fitted), Sums(
      prefix, suffix, jax.tree.map(lambda x: x[-1], prefix),
      jax.tree.map(lambda x: x[0], suffix))


def pool_left(
    problem: tiles_lib.Problem, sums: Sums, start: jax.Array,
    middle: jax.Array,
) -> algebra_lib.Sum:
  """Sums `[start, junction)`; anchor and junction are tile `middle`'s first."""
  algebra, size = problem.algebra, problem.values.shape[0]
  anchor = problem.edge(0, middle)
  tile = start // size
  if problem.weights is None:
    in_tile = ((tile + 1) * size - start).astype(anchor.value.dtype)
    in_others = ((middle - tile - 1) * size).astype(anchor.value.dtype)
  else:
    in_tile = tiles_lib.at(sums.suffix.weight, start)
    in_others = segments.take(sums.tile_suffix.weight, tile + 1)
  part = algebra.move(
      algebra_lib.Sum(tiles_lib.at(sums.suffix.total, start), in_tile),
      problem.edge(-1, tile), anchor)
  others = algebra.move(
      algebra_lib.Sum(
          segments.take(sums.tile_suffix.total, tile + 1), in_others),
      problem.edge(-1, middle - 1), anchor)
  return algebra.join(algebra.only(part, tile < middle),
                      algebra.only(others, tile + 1 < middle))


def pool_right(
    problem: tiles_lib.Problem, sums: Sums, middle: jax.Array, end: jax.Array
) -> algebra_lib.Sum:
  """Sums `[junction, end)`; anchor and junction are tile `middle`'s first."""
  algebra, size = problem.algebra, problem.values.shape[0]
  anchor = problem.edge(0, middle)
  tile = (end - 1) // size
  if problem.weights is None:
    in_tile = (end - tile * size).astype(anchor.value.dtype)
    in_others = ((tile - middle) * size).astype(anchor.value.dtype)
  else:
    in_tile = tiles_lib.at(sums.prefix.weight, end - 1)
    in_others = segments.take(sums.tile_prefix.weight, tile - 1)
  part = algebra.move(
      algebra_lib.Sum(tiles_lib.at(sums.prefix.total, end - 1), in_tile),
      problem.edge(0, tile), anchor)
  others = algebra_lib.Sum(
      segments.take(sums.tile_prefix.total, tile - 1), in_others)
  return algebra.join(algebra.only(part, tile >= middle),
                      algebra.only(others, tile > middle))


def extend_sums(
    problem: tiles_lib.Problem, sums: Sums, start: jax.Array,
    middle: jax.Array, end: jax.Array,
) -> Sums:
  """Adds to each half the other's total, measured from the merged ends.

  Args:
    problem: the slots.
    sums: sums of the halves.
    start: `[T]` int32, the first tile of the group of each tile.
    middle: `[T]` int32, the first tile of its right half.
    end: `[T]` int32, the tile after its last.
  """
  algebra, size = problem.algebra, problem.values.shape[0]
  tile = jnp.arange(middle.shape[0], dtype=jnp.int32)
  prefix, suffix = sums.tile_prefix, sums.tile_suffix
  if problem.weights is None:
    counts = lambda tiles: (tiles * size).astype(problem.values.dtype)
    prefix = prefix._replace(weight=counts(tile - middle + 1))
    suffix = suffix._replace(weight=counts(middle - tile))

  def extend(part, grows, anchor, to, other):
    others = algebra_lib.Sum(*(segments.take(x, other) for x in part))
    longer = algebra.join(others, algebra.move(part, anchor, to))
    return algebra_lib.Sum(*(jnp.where(grows, x, y)
                             for x, y in zip(longer, part, strict=True)))

  prefix = extend(prefix, tile >= middle, problem.edge(0, middle),
                  problem.edge(0, start), middle - 1)
  suffix = extend(suffix, (tile < middle) & (middle < end),
                  problem.edge(-1, middle - 1), problem.edge(-1, end - 1),
                  middle)
  if problem.weights is None:
    prefix = prefix._replace(weight=sums.tile_prefix.weight)
    suffix = suffix._replace(weight=sums.tile_suffix.weight)
  return sums._replace(tile_prefix=prefix, tile_suffix=suffix)
