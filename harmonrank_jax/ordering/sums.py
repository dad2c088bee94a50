"""Sums and means of runs of items: how they are formed, and where they lie.

A sum is kept relative to one item, the anchor, which stands beside the place
where the sum starts: float32 stays accurate where a global prefix sum is off
by orders of magnitude. The two algebras, `LINEAR` and `LOGARITHMIC`, form sums
of numbers or of logarithms of numbers; everything else in the merge of
isotonic fits is the same for both.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import segments

# Units in the last place by which sums of logarithms may err.
_SLACK = 16
# Whether a slot is in the block of its neighbour, as bits.
TO_PREVIOUS, TO_NEXT = 1, 2


class Item(NamedTuple):
  """An item, or many."""

  value: jax.Array
  weight: jax.Array


class Sum(NamedTuple):
  """Sums of weighted values and of weights, relative to an anchor."""

  total: jax.Array
  weight: jax.Array


class Algebra(NamedTuple):
  """How means are formed."""

  empty: float  # total and weight of no item at all
  add: Callable[[jax.Array, jax.Array], jax.Array]  # two totals, two weights
  weigh: Callable[[jax.Array, jax.Array], jax.Array]  # value, weight to total
  mean: Callable[[jax.Array, jax.Array], jax.Array]  # of a total and a weight
  excess: Callable[[jax.Array, jax.Array], jax.Array]  # of the larger total
  absorbs: bool  # one item may exceed all others beyond all precision
  single: Callable[[Item, Item], Sum]  # of an item alone, and an anchor
  move: Callable[[Sum, Item, Item], Sum]  # from an anchor to another

  def join(self, left: Sum, right: Sum) -> Sum:
    """The sum of two runs, both relative to one anchor."""
    return Sum(self.add(left.total, right.total),
               self.add(left.weight, right.weight))

  def only(self, part: Sum, where: jax.Array) -> Sum:
    """The sum where a condition holds, elsewhere that of no item."""
    return Sum(*(jnp.where(where, x, self.empty) for x in part))

  def nothing(self, anchor: Item) -> Sum:
    """The sum of no item.

    Made from data: under `shard_map` a constant would not vary over devices,
    and could not be the carry of a loop whose results do.
    """
    return Sum(*(x - x + self.empty for x in anchor))


def _single_linear(item: Item, anchor: Item) -> Sum:
  return Sum(item.weight * (item.value - anchor.value), item.weight)


def _move_linear(part: Sum, anchor: Item, to: Item) -> Sum:
  return part._replace(
      total=part.total + part.weight * (anchor.value - to.value))


def _single_logarithmic(item: Item, anchor: Item) -> Sum:
  weight = item.weight - anchor.weight
  return Sum(item.value - anchor.value + weight, weight)


def _move_logarithmic(part: Sum, anchor: Item, to: Item) -> Sum:
  by = anchor.weight - to.weight
  return Sum(part.total + (anchor.value - to.value + by), part.weight + by)


def _excess_logarithmic(more: jax.Array, less: jax.Array) -> jax.Array:
  """`log(exp(more) - exp(less))`, enlarged by what rounding may have hidden.

  Two excesses are compared to tell which side of a run has too much. What is
  lost in the difference of large numbers may be more than all there is on the
  other side; giving up some of the larger side is then the harmless mistake.
  """
  lost = hidden(jnp.maximum(jnp.abs(more), jnp.abs(less)))
  return more + jnp.log(-jnp.expm1(-lost - jnp.maximum(more - less, 0)))


def hidden(size: jax.Array) -> jax.Array:
  """What rounding may hide in a sum of logarithms of some size."""
  return _SLACK * jnp.finfo(size.dtype).eps * (1 + size)


LINEAR = Algebra(
    empty=0.0, add=jnp.add, weigh=jnp.multiply, mean=jnp.divide,
    excess=jnp.subtract, absorbs=False, single=_single_linear,
    move=_move_linear)
LOGARITHMIC = Algebra(
    empty=-math.inf, add=jnp.logaddexp, weigh=jnp.add, mean=jnp.subtract,
    excess=_excess_logarithmic, absorbs=True, single=_single_logarithmic,
    move=_move_logarithmic)


class Problem(NamedTuple):
  """Slots in lanes of one tile: slot s is at `[s % TILE, s // TILE]`."""

  values: jax.Array  # [TILE, T]
  weights: jax.Array | None  # [TILE, T]
  list_start: jax.Array  # [TILE, T] int32
  list_end: jax.Array  # [T] int32, of the first slot of each tile
  rows: int
  algebra: Algebra

  @property
  def items(self) -> Item:
    """All of them; weights of 1 are `[TILE, 1]`."""
    if self.weights is None:
      return Item(self.values, jnp.ones_like(self.values[:, :1]))
    return Item(self.values, self.weights)

  def edge(self, place: int, tile: jax.Array) -> Item:
    """The first (0) or last (-1) item of tiles."""
    value = segments.take(self.values[place], tile)
    if self.weights is None:
      return Item(value, jnp.ones_like(value))
    return Item(value, segments.take(self.weights[place], tile))


def at(lanes: jax.Array, slots: jax.Array) -> jax.Array:
  """The entries of slots in an array `[TILE, T]`."""
  size, tiles = lanes.shape
  tile = slots >> (size.bit_length() - 1)
  return segments.take(lanes.reshape(-1), (slots & (size - 1)) * tiles + tile)


class Fit(NamedTuple):
  """Blocks so far: `start` at every slot, the rest at a block's first slot."""

  start: jax.Array  # [TILE, T] int32
  end: jax.Array  # [TILE, T] int32
  mean: jax.Array  # [TILE, T]

  def mean_at(self, slots: jax.Array) -> jax.Array:
    """The fitted values of any slots."""
    return at(self.mean, at(self.start, slots))


class Sums(NamedTuple):
  """Sums from either end of a tile, and from either end of a dyadic group.

  The anchor is the item at the end that a sum starts from. Where no weights are
  given, they are counts and follow from the bounds; then the weights here mean
  nothing.
  """

  prefix: Sum  # [TILE, T], within the tile
  suffix: Sum
  tile_prefix: Sum  # [T], whole tiles within the group
  tile_suffix: Sum


def summarise(
    problem: Problem, fitted: jax.Array, links: jax.Array
) -> tuple[Fit, Sums]:
  """Bounds of the blocks within tiles, and sums over the items of tiles."""
  algebra, items = problem.algebra, problem.items
  size, tiles = fitted.shape
  offset = size * jnp.arange(tiles, dtype=jnp.int32)
  place = jnp.arange(size, dtype=jnp.int32)

  def sweep(bounds, edge, ahead, back, *, reverse=False):
    anchor = Item(*(x[edge] for x in items))

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

  start, prefix = sweep(place, 0, TO_NEXT, TO_PREVIOUS)
  end, suffix = sweep(place + 1, -1, TO_PREVIOUS, TO_NEXT, reverse=True)
  return Fit(start, end, fitted), Sums(
      prefix, suffix, jax.tree.map(lambda x: x[-1], prefix),
      jax.tree.map(lambda x: x[0], suffix))


def pool_left(
    problem: Problem, sums: Sums, start: jax.Array, middle: jax.Array
) -> Sum:
  """Sums `[start, junction)`; anchor and junction are tile `middle`'s first."""
  algebra, size = problem.algebra, problem.values.shape[0]
  anchor, tile = problem.edge(0, middle), start // size
  part = algebra.move(
      _taken(problem, at, sums.suffix, start, (tile + 1) * size - start),
      problem.edge(-1, tile), anchor)
  others = algebra.move(
      _taken(problem, segments.take, sums.tile_suffix, tile + 1,
             (middle - tile - 1) * size),
      problem.edge(-1, middle - 1), anchor)
  return algebra.join(algebra.only(part, tile < middle),
                      algebra.only(others, tile + 1 < middle))


def pool_right(
    problem: Problem, sums: Sums, middle: jax.Array, end: jax.Array
) -> Sum:
  """Sums `[junction, end)`; anchor and junction are tile `middle`'s first."""
  algebra, size = problem.algebra, problem.values.shape[0]
  anchor, tile = problem.edge(0, middle), (end - 1) // size
  part = algebra.move(
      _taken(problem, at, sums.prefix, end - 1, end - tile * size),
      problem.edge(0, tile), anchor)
  others = _taken(problem, segments.take, sums.tile_prefix, tile - 1,
                  (tile - middle) * size)
  return algebra.join(algebra.only(part, tile >= middle),
                      algebra.only(others, tile > middle))


def _taken(
    problem: Problem, take: Callable[[jax.Array, jax.Array], jax.Array],
    sums: Sum, place: jax.Array, count: jax.Array,
) -> Sum:
  """The sum at a place; without weights, its weight is the count of items."""
  total = take(sums.total, place)
  if problem.weights is None:
    return Sum(total, count.astype(total.dtype))
  return Sum(total, take(sums.weight, place))


def extend_sums(
    problem: Problem, sums: Sums,
    start: jax.Array,  # [T], the first tile of the group of each tile
    middle: jax.Array,  # [T], the first tile of its right half
    end: jax.Array,  # [T], the tile after its last
) -> Sums:
  """Adds to each half the other's total, measured from the merged ends."""
  algebra, size = problem.algebra, problem.values.shape[0]
  tile = jnp.arange(middle.shape[0], dtype=jnp.int32)
  prefix, suffix = sums.tile_prefix, sums.tile_suffix
  if problem.weights is None:
    counts = lambda tiles: (tiles * size).astype(problem.values.dtype)
    prefix = prefix._replace(weight=counts(tile - middle + 1))
    suffix = suffix._replace(weight=counts(middle - tile))

  def extend(part, grows, anchor, to, other):
    others = Sum(*(segments.take(x, other) for x in part))
    longer = algebra.join(others, algebra.move(part, anchor, to))
    return Sum(*(jnp.where(grows, x, y)
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
