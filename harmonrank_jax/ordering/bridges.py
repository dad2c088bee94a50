"""Isotonic partitions in polylogarithmic depth: the dyadic bridge merge.

Pool-adjacent-violators is sequential. Here the list is cut into tiles; fits
of neighbouring tiles are merged, then of neighbouring pairs of tiles, and so
on. Merging two isotonic fits L | R pools exactly one run around the junction:
the last values of L above a level `mu` and the first values of R below it,
where `mu` is the mean of all that is pooled. In the picture of the greatest
convex minorant that run is the common tangent (the bridge) of two hulls, and
it is found by a search. Only the partition into blocks is carried from level
to level, never recovered from the fitted values; the fit is the blocks' mean.

Inside a tile the bridge is found by brute force, without a gather, for all
tiles at once: slots are stored with the tile as the last axis. Above it all
junctions of a level are searched at once, and levels share one loop body.
Sums start at the junction, and they sum differences from an item beside it,
so nothing large is added or cancels: float32 stays accurate where a global
prefix sum is off by orders of magnitude.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import segments

_TILE = 32
# Levels share a loop, and with it an array of junctions as long as the lowest
# of them needs. The lowest few have their own.
_LOWEST_LEVELS = 5
# Probes of a bracket at a time, where steps cost more than work does.
_WIDTH = 8
# Junctions that bisect together, where work costs more than steps do.
_PART = 512

# Units in the last place by which sums of logarithms may err.
_SLACK = 16

# Whether a slot is in the block of its neighbour, as bits.
_TO_PREVIOUS, _TO_NEXT = 1, 2
# What a probe of a bridge teaches about the two counts, as bits.
_GROW_LEFT, _GROW_RIGHT, _SHRINK_LEFT, _SHRINK_RIGHT = 1, 2, 4, 8
_KEEP_LEFT, _KEEP_RIGHT, _FOUND, _BEGIN = 16, 32, 64, 128


def partition(
    values: jax.Array, lists: segments.Blocks, weights: jax.Array | None,
    row_size: int, algebra: "_Algebra", search_fn: Callable[..., "_Bracket"],
) -> segments.Blocks:
  """The blocks of the isotonic fit; see `isotonic.isotonic_blocks`.

  Args:
    values: `[S]` floating.
    lists: the list of each slot.
    weights: `[S]`, or None for 1.
    row_size: slots of a row.
    algebra: `LINEAR` or `LOGARITHMIC`, how means are formed.
    search_fn: `find_bridges`, or of its two forms `bisect` or `sect`.

  Returns:
    The `Blocks` on which the fit is constant.
  """
  rows = values.shape[0] // row_size
  tile = min(_TILE, 1 << (row_size - 1).bit_length())
  padded = -(-row_size // tile) * tile
  grow = padded - row_size
  shift = grow * jnp.arange(rows, dtype=jnp.int32)[:, None]
  slots = jnp.arange(rows * padded, dtype=jnp.int32).reshape(rows, padded)
  is_pad = slots % padded >= row_size

  def pad(array, fill):
    array = array.reshape(rows, row_size)
    return jnp.pad(array, ((0, 0), (0, grow)), constant_values=fill)

  def to_lanes(array):
    return array.reshape(-1, tile).T

  def from_lanes(array):
    array = array.T.reshape(rows, padded)[:, :row_size]
    return (array - shift).reshape(-1)

  # A pad slot is a list of its own.
  list_start = jnp.where(is_pad, slots, pad(lists.start, 0) + shift)
  list_end = jnp.where(is_pad, slots + 1, pad(lists.end, 0) + shift)
  problem = _Problem(
      values=to_lanes(pad(values, 0)),
      weights=None if weights is None else to_lanes(pad(weights, 1)),
      list_start=to_lanes(list_start),
      list_end=list_end.reshape(-1, tile)[:, 0],
      rows=rows, algebra=algebra)
  fit, sums = _summarise(problem, *_fit_tiles(problem))
  fit = _merge_tiles(problem, fit, sums, search_fn)
  return segments.Blocks(
      from_lanes(fit.start), from_lanes(_at(fit.end, fit.start)))


class _Item(NamedTuple):
  """An item, or many."""

  value: jax.Array
  weight: jax.Array


class _Sum(NamedTuple):
  """Sums of weighted values and of weights, relative to an item, the anchor."""

  total: jax.Array
  weight: jax.Array


class _Algebra(NamedTuple):
  """How means are formed: of numbers, or of logarithms of positive numbers."""

  empty: float  # What adds nothing.
  add: Callable[[jax.Array, jax.Array], jax.Array]
  weigh: Callable[[jax.Array, jax.Array], jax.Array]
  mean: Callable[[jax.Array, jax.Array], jax.Array]
  excess: Callable[[jax.Array, jax.Array], jax.Array]  # Of more over less.
  # Whether one item may exceed the sum of all others beyond all precision.
  absorbs: bool
  # The sum that is one item alone; a sum relative to another anchor.
  single: Callable[[_Item, _Item], _Sum]
  move: Callable[[_Sum, _Item, _Item], _Sum]

  def join(self, left: _Sum, right: _Sum) -> _Sum:
    return _Sum(self.add(left.total, right.total),
                self.add(left.weight, right.weight))


def _single_linear(item: _Item, anchor: _Item) -> _Sum:
  return _Sum(item.weight * (item.value - anchor.value), item.weight)


def _move_linear(part: _Sum, anchor: _Item, to: _Item) -> _Sum:
  return part._replace(
      total=part.total + part.weight * (anchor.value - to.value))


def _single_logarithmic(item: _Item, anchor: _Item) -> _Sum:
  weight = item.weight - anchor.weight
  return _Sum(item.value - anchor.value + weight, weight)


def _move_logarithmic(part: _Sum, anchor: _Item, to: _Item) -> _Sum:
  by = anchor.weight - to.weight
  return _Sum(part.total + (anchor.value - to.value + by), part.weight + by)


def _excess_logarithmic(more: jax.Array, less: jax.Array) -> jax.Array:
  """`log(exp(more) - exp(less))`, enlarged by what rounding may have hidden.

  Two excesses are compared to tell which side of a run has too much. What is
  lost in the difference of large numbers may be more than all there is on the
  other side; giving up some of the larger side is then the harmless mistake.
  """
  hidden = _hidden(jnp.maximum(jnp.abs(more), jnp.abs(less)))
  return more + jnp.log(-jnp.expm1(-hidden - jnp.maximum(more - less, 0)))


def _hidden(size: jax.Array) -> jax.Array:
  """What rounding may hide in a sum of logarithms of some size."""
  return _SLACK * jnp.finfo(size.dtype).eps * (1 + size)


LINEAR = _Algebra(
    empty=0.0, add=jnp.add, weigh=jnp.multiply, mean=jnp.divide,
    excess=jnp.subtract, absorbs=False, single=_single_linear,
    move=_move_linear)
LOGARITHMIC = _Algebra(
    empty=-math.inf, add=jnp.logaddexp, weigh=jnp.add, mean=jnp.subtract,
    excess=_excess_logarithmic, absorbs=True, single=_single_logarithmic,
    move=_move_logarithmic)


class _Problem(NamedTuple):
  """Slots in lanes: slot `s` is the entry `[s % TILE, s // TILE]`.

  A lane is a tile. Each row is padded to whole tiles.
  """

  values: jax.Array  # [TILE, T]
  weights: jax.Array | None  # [TILE, T]
  list_start: jax.Array  # [TILE, T] int32
  list_end: jax.Array  # [T] int32, of the first slot of each tile
  rows: int
  algebra: _Algebra

  @property
  def items(self) -> _Item:
    """All of them; weights of 1 are `[TILE, 1]`."""
    if self.weights is None:
      return _Item(self.values, jnp.ones_like(self.values[:, :1]))
    return _Item(self.values, self.weights)

  def edge(self, place: int, tile: jax.Array) -> _Item:
    """The first (0) or last (-1) item of tiles."""
    value = segments.take(self.values[place], tile)
    if self.weights is None:
      return _Item(value, jnp.ones_like(value))
    return _Item(value, segments.take(self.weights[place], tile))


class _Fit(NamedTuple):
  """Blocks so far: `start` at every slot, the rest at a block's first slot."""

  start: jax.Array  # [TILE, T] int32
  end: jax.Array  # [TILE, T] int32
  mean: jax.Array  # [TILE, T]


class _Sums(NamedTuple):
  """Sums from either end of a tile, and from either end of a dyadic group.

  The anchor is the item at the end that a sum starts from: whatever is summed
  up to a junction is then measured against an item beside it, in its list.
  Where no weights are given, they are counts and follow from the bounds; then
  the weights here mean nothing.
  """

  prefix: _Sum  # [TILE, T], within the tile
  suffix: _Sum
  tile_prefix: _Sum  # [T], whole tiles within the group
  tile_suffix: _Sum


class _Bracket(NamedTuple):
  """How many slots left and right of each junction are pooled: bounds."""

  left_low: jax.Array
  left_high: jax.Array
  right_low: jax.Array
  right_high: jax.Array


class _Probes(NamedTuple):
  """Verdicts on runs, and how many slots these have on either side.

  `less` is the count without the outermost block.
  """

  verdict: jax.Array  # [W, W, P] int32, each left with each right
  left: jax.Array  # [W, 1, P] int32
  left_less: jax.Array
  right: jax.Array  # [1, W, P] int32
  right_less: jax.Array


def _at(lanes: jax.Array, slots: jax.Array) -> jax.Array:
  """The entries of slots in an array `[TILE, T]`."""
  size, tiles = lanes.shape
  tile = slots >> (size.bit_length() - 1)
  return segments.take(lanes.reshape(-1), (slots & (size - 1)) * tiles + tile)


def _fit_tiles(problem: _Problem) -> tuple[jax.Array, jax.Array]:
  """Fits every tile by brute-force merges of 1 + 1, 2 + 2, ... slots.

  Returns:
    `[TILE, T]` fitted values, and which neighbours share a block (bits).
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
      return _merge_dense(problem, *carry, half=half)
    carry = lax.fori_loop(0, rounds, merge, carry)
    half *= 2
  return carry


def _merge_dense(
    problem: _Problem, fitted: jax.Array, links: jax.Array, *, half: int
) -> tuple[jax.Array, jax.Array]:
  """Merges pairs of `half` slots; `mu = max_a min_b mean(a, b)` over a grid."""
  algebra = problem.algebra

  def group(lanes):
    return lanes.reshape(-1, 2 * half, lanes.shape[-1])

  def row(groups, i):
    return lax.dynamic_index_in_dim(groups, i, 1, keepdims=False)

  lists, value = group(problem.list_start), group(fitted)
  weight = group(problem.items.weight)
  anchor, list_here = _Item(value[:, half], weight[:, half]), lists[:, half]
  empty = _Sum(*(x - x + algebra.empty for x in anchor))

  def extend(part, i):
    item = _Item(row(value, i), row(weight, i))
    return (algebra.join(part, algebra.single(item, anchor)),
            row(lists, i) == list_here)

  def extend_right(right, i):
    right, is_inside = extend(right, i)
    return right, right._replace(
        total=jnp.where(is_inside, right.total, jnp.inf))

  _, right = lax.scan(
      extend_right, empty, jnp.arange(half, 2 * half, dtype=jnp.int32))

  def extend_left(i, carry):
    left, level = carry
    left, is_inside = extend(left, half - 1 - i)
    # Not `jnp.min`: that is a slow library call on the CPU.
    least = functools.reduce(jnp.minimum, (
        algebra.mean(*algebra.join(left, _Sum(right.total[b], right.weight[b])))
        for b in range(half)))
    return left, jnp.where(is_inside & (least > level), least, level)

  _, level = lax.fori_loop(
      0, half, extend_left, (empty, jnp.full_like(empty.total, -jnp.inf)))

  # From here on only operations that stay in their lane and place. What has
  # the value next to the junction pools even where rounding puts the level
  # on it; so blocks stay whole.
  level, list_here = level[:, None], list_here[:, None]
  last, first = value[:, half - 1:half], value[:, half:half + 1]
  is_left = (jnp.arange(2 * half) < half)[None, :, None]
  above = value - first
  near = jnp.zeros_like(above)
  if algebra.absorbs:
    # A block that has all the weight is on the level, and must pool.
    # Alike for all of a block, so that it stays whole.
    apart = jnp.abs(weight - weight[:, half:half + 1])
    near = _hidden(jnp.abs(above) + jnp.max(
        jnp.where(lists == list_here, apart, 0), axis=1, keepdims=True))
  pooled = jnp.where(is_left, (above > level - near) | (value >= last),
                     (above < level + near) | (value <= first))
  pooled &= (lists == list_here) & (last > first)
  pooled &= lists[:, half - 1:half] == list_here
  link = jnp.where(is_left, _TO_NEXT, _TO_PREVIOUS).astype(jnp.int32)
  return (jnp.where(pooled, first + level, value).reshape(fitted.shape),
          links | jnp.where(pooled, link, 0).reshape(fitted.shape))


def _summarise(
    problem: _Problem, fitted: jax.Array, links: jax.Array
) -> tuple[_Fit, _Sums]:
  """Bounds of the blocks within tiles, and sums over the items of tiles."""
  algebra, items = problem.algebra, problem.items
  size, tiles = fitted.shape
  offset = size * jnp.arange(tiles, dtype=jnp.int32)
  place = jnp.arange(size, dtype=jnp.int32)

  def sweep(bounds, edge, ahead, back, *, reverse=False):
    anchor = _Item(*(x[edge] for x in items))

    def step(carry, inputs):
      bound, before, part = carry
      item, here, edge = inputs
      joined = (here & back) | (before & ahead) > 0
      bound = jnp.where(joined, bound, offset + edge)
      part = algebra.join(part, algebra.single(item, anchor))
      return (bound, here, part), (bound, part)

    empty = _Sum(*(x - x + algebra.empty for x in anchor))
    nowhere = 0 * links[0]
    return lax.scan(step, (nowhere, nowhere, empty), (items, links, bounds),
                    reverse=reverse)[1]

  start, prefix = sweep(place, 0, _TO_NEXT, _TO_PREVIOUS)
  end, suffix = sweep(place + 1, -1, _TO_PREVIOUS, _TO_NEXT, reverse=True)
  return _Fit(start, end, fitted), _Sums(
      prefix, suffix, jax.tree.map(lambda x: x[-1], prefix),
      jax.tree.map(lambda x: x[0], suffix))


def _pool_left(
    problem: _Problem, sums: _Sums, start: jax.Array, middle: jax.Array
) -> _Sum:
  """Sums `[start, junction)`; anchor and junction are tile `middle`'s first."""
  algebra, size = problem.algebra, problem.values.shape[0]
  anchor = problem.edge(0, middle)
  tile = start // size
  if problem.weights is None:
    in_tile = ((tile + 1) * size - start).astype(anchor.value.dtype)
    in_others = ((middle - tile - 1) * size).astype(anchor.value.dtype)
  else:
    in_tile = _at(sums.suffix.weight, start)
    in_others = segments.take(sums.tile_suffix.weight, tile + 1)
  part = algebra.move(_Sum(_at(sums.suffix.total, start), in_tile),
                      problem.edge(-1, tile), anchor)
  others = algebra.move(
      _Sum(segments.take(sums.tile_suffix.total, tile + 1), in_others),
      problem.edge(-1, middle - 1), anchor)
  return algebra.join(_only(part, tile < middle, algebra),
                      _only(others, tile + 1 < middle, algebra))


def _pool_right(
    problem: _Problem, sums: _Sums, middle: jax.Array, end: jax.Array
) -> _Sum:
  """Sums `[junction, end)`; anchor and junction are tile `middle`'s first."""
  algebra, size = problem.algebra, problem.values.shape[0]
  anchor = problem.edge(0, middle)
  tile = (end - 1) // size
  if problem.weights is None:
    in_tile = (end - tile * size).astype(anchor.value.dtype)
    in_others = ((tile - middle) * size).astype(anchor.value.dtype)
  else:
    in_tile = _at(sums.prefix.weight, end - 1)
    in_others = segments.take(sums.tile_prefix.weight, tile - 1)
  part = algebra.move(_Sum(_at(sums.prefix.total, end - 1), in_tile),
                      problem.edge(0, tile), anchor)
  others = _Sum(segments.take(sums.tile_prefix.total, tile - 1), in_others)
  return algebra.join(_only(part, tile >= middle, algebra),
                      _only(others, tile > middle, algebra))


def _only(part: _Sum, where: jax.Array, algebra: _Algebra) -> _Sum:
  return _Sum(*(jnp.where(where, x, algebra.empty) for x in part))


def _merge_tiles(
    problem: _Problem, fit: _Fit, sums: _Sums,
    search_fn: Callable[..., _Bracket],
) -> _Fit:
  """Merges fitted tiles pairwise until every row is one."""
  size, tiles = fit.start.shape[0], fit.start.shape[1] // problem.rows
  levels = (tiles - 1).bit_length()
  lowest = min(levels, _LOWEST_LEVELS)
  carry = fit, sums
  for first, last in ((0, lowest), (lowest, levels)):
    if first == last:
      continue
    num_pairs = -(-(tiles - (1 << first)) // (2 << first))
    search = functools.partial(
        search_fn, steps=_num_steps(size << (last - 1), _WIDTH))

    def merge(level, carry, num_pairs=num_pairs, search=search):
      return _merge_level(
          problem, *carry, level=level, num_pairs=num_pairs, search_fn=search)

    carry = lax.fori_loop(jnp.int32(first), jnp.int32(last), merge, carry)
  return carry[0]


def _merge_level(
    problem: _Problem, fit: _Fit, sums: _Sums, *, level: jax.Array,
    num_pairs: int, search_fn: Callable[..., _Bracket],
) -> tuple[_Fit, _Sums]:
  """Merges groups of `2 ** level` tiles (traced, so a loop) pairwise."""
  algebra, rows = problem.algebra, problem.rows
  size, tiles = fit.start.shape[0], fit.start.shape[1] // rows
  half = 1 << level
  pairs = (tiles + half - 1) // (2 * half)
  # Pair by pair, not row by row: those that exist at this level come first.
  pair, row = jnp.divmod(jnp.arange(num_pairs * rows, dtype=jnp.int32), rows)
  exists = pair < pairs
  middle = jnp.where(exists, row * tiles + (2 * pair + 1) * half, 1)
  junction = middle * size
  low = jnp.maximum(
      segments.take(problem.list_start[0], middle), junction - half * size)
  high = jnp.minimum(
      segments.take(problem.list_end, middle), junction + half * size)
  violates = exists & (low < junction) & (
      _mean_at(fit, junction - 1) > segments.take(fit.mean[0], middle))

  # From the data, so that under shard_map it varies over devices as they do.
  one = jnp.where(violates, 1, jnp.ones_like(junction))
  bracket = _Bracket(one, jnp.where(violates, junction - low, 1),
                     one, jnp.where(violates, high - junction, 1))
  found = search_fn(
      functools.partial(_probe, problem, fit, sums), middle, bracket,
      count=pairs * rows)
  start = _at(fit.start, junction - found.left_low)
  end = _at(fit.end, _at(fit.start, junction + found.right_low - 1))
  run = algebra.join(_pool_left(problem, sums, start, middle),
                     _pool_right(problem, sums, middle, end))
  mean = algebra.mean(*run) + problem.edge(0, middle).value
  # An empty run where nothing violates, dropped by the scatter below.
  start = jnp.where(violates, start, junction)
  end = jnp.where(violates, end, junction)
  target = jnp.where(violates, start % size * (rows * tiles) + start // size,
                     fit.start.size)

  tile = jnp.arange(rows * tiles, dtype=jnp.int32)
  tile_row, tile_in_row = jnp.divmod(tile, tiles)
  group = tile_in_row >> (level + 1)
  of_tile = jnp.minimum(group, pairs - 1) * rows + tile_row
  run_start = segments.take(start, of_tile)[None]
  run_end = segments.take(end, of_tile)[None]
  slots = tile[None] * size + jnp.arange(size, dtype=jnp.int32)[:, None]
  pooled = (slots >= run_start) & (slots < run_end)

  def write(lanes, of_run):
    return lanes.reshape(-1).at[target].set(
        of_run, mode="drop").reshape(lanes.shape)

  merged = _Fit(jnp.where(pooled, run_start, fit.start),
                write(fit.end, end), write(fit.mean, mean))
  group_start = tile_row * tiles + 2 * half * group
  group_end = jnp.minimum(group_start + 2 * half, (tile_row + 1) * tiles)
  return merged, _extend_sums(
      problem, sums, group_start, group_start + half, group_end)


def _mean_at(fit: _Fit, slots: jax.Array) -> jax.Array:
  return _at(fit.mean, _at(fit.start, slots))


def _extend_sums(
    problem: _Problem, sums: _Sums, start: jax.Array, middle: jax.Array,
    end: jax.Array,
) -> _Sums:
  """Adds to each half the other's total, measured from the merged ends."""
  algebra, size = problem.algebra, problem.values.shape[0]
  tile = jnp.arange(middle.shape[0], dtype=jnp.int32)
  prefix, suffix = sums.tile_prefix, sums.tile_suffix
  if problem.weights is None:
    counts = lambda tiles: (tiles * size).astype(problem.values.dtype)
    prefix = prefix._replace(weight=counts(tile - middle + 1))
    suffix = suffix._replace(weight=counts(middle - tile))

  def extend(part, grows, anchor, to, other):
    others = _Sum(*(segments.take(x, other) for x in part))
    longer = algebra.join(others, algebra.move(part, anchor, to))
    return _Sum(*(jnp.where(grows, x, y)
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


def find_bridges(
    probe_fn: Callable[..., _Probes], middle: jax.Array, bracket: _Bracket, *,
    count: jax.Array, steps: int,
) -> _Bracket:
  """Searches for the run that pools at each junction.

  Args:
    probe_fn: `_probe` of a middle, a bracket and a width.
    middle: `[P]` the tile that each junction is the start of.
    bracket: `[P]` bounds of how much pools; a closed one needs no search.
    count: junctions after this many are closed.
    steps: enough steps of `_WIDTH` probes; see `_num_steps`.

  Returns:
    A bracket whose low bounds lie in the outermost blocks of the run.
  """
  def search(fn):
    return lambda bracket: fn(
        probe_fn, middle, bracket, count=count, steps=steps)

  return lax.platform_dependent(
      bracket, cpu=search(bisect), default=search(sect))


def bisect(
    probe_fn: Callable[..., _Probes], middle: jax.Array, bracket: _Bracket, *,
    count: jax.Array, steps: int,
) -> _Bracket:
  """One probe at a time, until a part of the junctions is done: least work."""
  del steps
  size = jax.core.min_dim(_PART, middle.shape[0])

  def search(i, bracket):
    def of_part(array):
      return lax.dynamic_slice_in_dim(array, i * size, size)

    here = of_part(middle)
    found = _narrow(*lax.while_loop(
        lambda carry: jnp.any(carry[1].verdict != _FOUND),
        lambda carry: _step(probe_fn, here, 1, *carry),
        _begin(_Bracket(*map(of_part, bracket)), 1)))
    return _Bracket(*(
        lax.dynamic_update_slice_in_dim(x, y, i * size, 0)
        for x, y in zip(bracket, found, strict=True)))

  return lax.fori_loop(0, (count + size - 1) // size, search, bracket)


def sect(
    probe_fn: Callable[..., _Probes], middle: jax.Array, bracket: _Bracket, *,
    count: jax.Array, steps: int,
) -> _Bracket:
  """A fixed number of steps of many probes: never waits for the host."""
  del count
  return _narrow(*lax.fori_loop(
      0, steps, lambda _, carry: _step(probe_fn, middle, _WIDTH, *carry),
      _begin(bracket, _WIDTH)))


def _num_steps(size: int, width: int) -> int:
  """Steps that close every bracket of up to `size` slots a side.

  A step closes one side to the gap between two neighbouring probes, whatever
  rounding does to its verdicts. Let column i be the last whose probe says
  that left must grow. If any probe of column i + 1 says that left must
  shrink, left is between the two. If none does, they all speak of right; let
  row j be the last whose probe says, in any column, that right must grow.
  Then the probe of column i + 1 in row j + 1 says that it must shrink, and
  right is between these two. A gap in a bracket of n counts has at most
  `ceil((n + 1) / (width + 1)) - 1`, and a count that must be kept one more.
  """
  steps = 0
  while size > 1:
    size = -(-(size + 1) // (width + 1)) - 1
    steps += 2
  return steps


def _begin(bracket: _Bracket, width: int) -> tuple[_Bracket, _Probes]:
  count = 0 * jnp.broadcast_to(
      bracket.left_low[None, None], (width, width, bracket.left_low.shape[0]))
  left, right = count[:, :1], count[:1]
  return bracket, _Probes(count + _BEGIN, left, left, right, right)


def _step(
    probe_fn: Callable[..., _Probes], middle: jax.Array, width: int,
    bracket: _Bracket, probes: _Probes,
) -> tuple[_Bracket, _Probes]:
  # A verdict is one integer, and brackets move one step after it, by integer
  # arithmetic alone: whatever the compiler recomputes with another rounding,
  # all four bounds follow the same verdict.
  bracket = _narrow(bracket, probes)
  return bracket, probe_fn(middle, bracket, width)


def _narrow(bracket: _Bracket, probes: _Probes) -> _Bracket:
  """Brackets after the verdicts of all probes."""

  def bounds(low, high, count, less, grow, shrink, keep):
    says = lambda bit: probes.verdict & bit > 0
    count = jnp.broadcast_to(count, probes.verdict.shape)
    least = lambda bit, x: jnp.max(jnp.where(says(bit), x, 0), axis=(0, 1))
    low = jnp.maximum(low, jnp.maximum(
        least(grow, count + 1), least(keep, count)))
    high = jnp.minimum(high, jnp.min(
        jnp.where(says(shrink), less, high[None, None]), axis=(0, 1)))
    found = least(_FOUND, count)
    low = jnp.where(found > 0, found, low)
    return low, jnp.where(found > 0, found, jnp.maximum(low, high))

  return _Bracket(
      *bounds(bracket.left_low, bracket.left_high, probes.left,
              probes.left_less, _GROW_LEFT, _SHRINK_LEFT, _KEEP_LEFT),
      *bounds(bracket.right_low, bracket.right_high, probes.right,
              probes.right_less, _GROW_RIGHT, _SHRINK_RIGHT, _KEEP_RIGHT))


def _probe(
    problem: _Problem, fit: _Fit, sums: _Sums, middle: jax.Array,
    bracket: _Bracket, width: int,
) -> _Probes:
  """Tries `width` counts left of each junction with as many right of it.

  The level of the merged run is the root of the decreasing function
  `F(x) = sum_L max(v - x, 0) - sum_R max(x - v, 0)`, in logarithms with
  exponentials of x and v. A probe takes whole blocks, `left` slots of L and
  `right` of R, with mean mu, outermost pooled values `left_value`,
  `right_value` and next values outside `left_next`, `right_next`. The sign of
  F at one of these four values follows from mu:
    mu < left_next:                       more of L;
    mu > right_next:                      more of R;
    mu > left_value, mu >= right_value:   less of L, no less of R;
    mu < right_value, mu <= left_value:   less of R, no less of L;
    left_value < mu < right_value:        less of L if the pooled sum is at
      least `left * left_value + right * right_value`, else less of R;
    otherwise the run is found.
  """
  algebra = problem.algebra
  add_axes = lambda x: x[None, None]
  part = jnp.arange(1, width + 1, dtype=jnp.int32)[:, None]

  def spread(low, high):
    # At the fractions i / (width + 1); no product overflows.
    step, rest = jnp.divmod((high - low + 2)[None], width + 1)
    return jnp.maximum(
        low[None] - 1 + step * part + rest * part // (width + 1), low[None])

  # [W, 1, P] on the left and [1, W, P] on the right.
  tile = add_axes(middle)
  junction = tile * fit.start.shape[0]
  anchor = problem.edge(0, tile).value
  bounds = _Bracket(*map(add_axes, bracket))
  count = spread(bracket.left_low, bracket.left_high)[:, None]
  start = _at(fit.start, junction - count)
  count = spread(bracket.right_low, bracket.right_high)[None]
  last_start = _at(fit.start, junction + count - 1)
  end = _at(fit.end, last_start)
  left, right = junction - start, end - junction
  left_less = junction - _at(fit.end, start)
  right_less = last_start - junction
  left_value = _at(fit.mean, start) - anchor
  right_value = _at(fit.mean, last_start) - anchor
  left_next = _mean_at(fit, start - 1) - anchor
  right_next = _at(fit.mean, end) - anchor
  left_sum = _pool_left(problem, sums, start, tile)
  right_sum = _pool_right(problem, sums, tile, end)

  # [W, W, P]
  run = algebra.join(left_sum, right_sum)
  mean = algebra.mean(*run)
  grow_left = (mean < left_next) & (left < bounds.left_high)
  grow_right = (mean > right_next) & (right < bounds.right_high)
  grow = grow_left | grow_right
  # A block compares with the run that it is in as with the rest of that run.
  left_rest, right_rest = left_sum, right_sum
  if algebra.absorbs:
    left_rest = _pool_left(problem, sums, junction - left_less, tile)
    right_rest = _pool_right(problem, sums, tile, junction + right_less)
  less_left = (
      ~grow & (left_less >= bounds.left_low)
      & (algebra.mean(*algebra.join(left_rest, right_sum)) > left_value))
  less_right = (
      ~grow & (right_less >= bounds.right_low)
      & (algebra.mean(*algebra.join(left_sum, right_rest)) < right_value))
  left_first = (
      algebra.excess(left_rest.total,
                     algebra.weigh(left_rest.weight, left_value))
      >= algebra.excess(algebra.weigh(right_rest.weight, right_value),
                        right_rest.total))
  shrink_left = less_left & (~less_right | left_first)
  shrink_right = less_right & ~shrink_left
  verdict = (
      _GROW_LEFT * grow_left + _GROW_RIGHT * grow_right
      + _SHRINK_LEFT * shrink_left + _SHRINK_RIGHT * shrink_right
      + _KEEP_LEFT * (shrink_right & ~less_left)
      + _KEEP_RIGHT * (shrink_left & ~less_right))
  verdict = jnp.where(verdict == 0, _FOUND, verdict).astype(jnp.int32)
  return _Probes(verdict, left, left_less, right, right_less)
