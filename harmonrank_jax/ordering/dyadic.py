"""Isotonic partitions in polylogarithmic depth: the dyadic merge.

Tiles of 32 slots are fitted by brute force, in whole vectors of tiles; then
neighbours are merged, all junctions of a level at once. Where two fits meet,
one run of blocks pools, which `bridges` searches. Only the partition is
carried from level to level, never recovered from fitted values.
"""

from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import bridges
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sums as sums_lib

TILE = 32
# Levels share a loop, and with it an array of junctions as long as the lowest
# of them needs. The lowest few have their own.
_LOWEST_LEVELS = 5


def partition(
    values: jax.Array, lists: segments.Blocks, weights: jax.Array | None,
    *, row_size: int, algebra: sums_lib.Algebra = sums_lib.LINEAR,
    search_fn: Callable[..., bridges.Bracket] = bridges.find_bridges,
) -> segments.Blocks:
  """The blocks of the isotonic fit; see `isotonic.isotonic_blocks`."""
  rows = values.shape[0] // row_size
  tile = TILE
  if isinstance(row_size, int):
    tile = min(tile, 1 << (row_size - 1).bit_length())
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
  problem = sums_lib.Problem(
      values=to_lanes(pad(values, 0)),
      weights=None if weights is None else to_lanes(pad(weights, 1)),
      list_start=to_lanes(list_start),
      list_end=list_end.reshape(-1, tile)[:, 0],
      rows=rows, algebra=algebra)
  fit, sums = sums_lib.summarise(problem, *_fit_tiles(problem))
  fit = _merge_tiles(problem, fit, sums, search_fn)
  return segments.Blocks(
      from_lanes(fit.start), from_lanes(sums_lib.at(fit.end, fit.start)))


def _fit_tiles(problem: sums_lib.Problem) -> tuple[jax.Array, jax.Array]:
  """Values `[TILE, T]` of fitted tiles, and bits: which neighbours pool."""
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
      return _merge_halves(problem, *carry, half=half)
    carry = lax.fori_loop(0, rounds, merge, carry)
    half *= 2
  return carry


def _merge_halves(
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


def _merge_tiles(
    problem: sums_lib.Problem, fit: sums_lib.Fit, sums: sums_lib.Sums,
    search_fn: Callable[..., bridges.Bracket],
) -> sums_lib.Fit:
  """Merges fitted tiles pairwise until every row is one."""
  size, tiles = fit.start.shape[0], fit.start.shape[1] // problem.rows
  if isinstance(tiles, int):
    levels = needed = (tiles - 1).bit_length()
  else:
    # The length of rows is left open in what is exported: as many levels as
    # rows may need, of which that of a call has as many as it does.
    levels = 31 - (size - 1).bit_length()
    needed = 32 - lax.clz(jnp.asarray(tiles, jnp.int32) - 1)
  lowest = min(levels, _LOWEST_LEVELS)
  carry = fit, sums
  for first, last in ((0, lowest), (lowest, levels)):
    if first == last:
      continue
    num_pairs = jax.core.max_dim(
        -(-(tiles - (1 << first)) // (2 << first)), 1)
    search = functools.partial(search_fn, steps=bridges.num_steps(
        size << (last - 1), bridges.WIDTH))

    def merge(level, carry, num_pairs=num_pairs, search=search):
      return _merge_level(
          problem, *carry, level=level, num_pairs=num_pairs, search_fn=search)

    carry = lax.fori_loop(
        jnp.int32(first), jnp.minimum(jnp.int32(last), needed), merge, carry)
  return carry[0]


def _merge_level(
    problem: sums_lib.Problem, fit: sums_lib.Fit, sums: sums_lib.Sums, *,
    level: jax.Array, num_pairs: int,
    search_fn: Callable[..., bridges.Bracket],
) -> tuple[sums_lib.Fit, sums_lib.Sums]:
  """Merges groups of `2 ** level` tiles (traced, so a loop) pairwise."""
  rows, tiles = problem.rows, fit.start.shape[1] // problem.rows
  half = 1 << level
  pairs = (tiles + half - 1) // (2 * half)
  # Pair by pair, not row by row: those that exist at this level come first.
  pair, row = jnp.divmod(jnp.arange(num_pairs * rows, dtype=jnp.int32), rows)
  exists = pair < pairs
  middle = jnp.where(exists, row * tiles + (2 * pair + 1) * half, 1)
  violates, bracket = _open_brackets(problem, fit, middle, exists, half)
  bracket = search_fn(
      functools.partial(bridges.probe, problem, fit, sums), middle, bracket,
      count=pairs * rows)
  runs, mean = _runs(problem, fit, sums, middle, bracket)

  tile = jnp.arange(rows * tiles, dtype=jnp.int32)
  tile_row, tile_in_row = jnp.divmod(tile, tiles)
  group = tile_in_row >> (level + 1)
  merged = _pool_runs(
      fit, middle, violates, runs, mean,
      jnp.minimum(group, pairs - 1) * rows + tile_row)
  group_start = tile_row * tiles + 2 * half * group
  group_end = jnp.minimum(group_start + 2 * half, (tile_row + 1) * tiles)
  return merged, sums_lib.extend_sums(
      problem, sums, group_start, group_start + half, group_end)


def _open_brackets(
    problem: sums_lib.Problem, fit: sums_lib.Fit, middle: jax.Array,
    exists: jax.Array, half: jax.Array,
) -> tuple[jax.Array, bridges.Bracket]:
  """Which junctions violate the order, and how much may pool there."""
  size = fit.start.shape[0]
  junction = middle * size
  low = jnp.maximum(
      segments.take(problem.list_start[0], middle), junction - half * size)
  high = jnp.minimum(
      segments.take(problem.list_end, middle), junction + half * size)
  violates = exists & (low < junction) & (
      fit.mean_at(junction - 1) > segments.take(fit.mean[0], middle))
  # From the data, so that under shard_map it varies over devices as they do.
  one = jnp.where(violates, 1, jnp.ones_like(junction))
  return violates, bridges.Bracket(
      one, jnp.where(violates, junction - low, 1),
      one, jnp.where(violates, high - junction, 1))


def _runs(
    problem: sums_lib.Problem, fit: sums_lib.Fit, sums: sums_lib.Sums,
    middle: jax.Array, bracket: bridges.Bracket,
) -> tuple[segments.Blocks, jax.Array]:
  """Bounds `[P]` of the runs that closed brackets give, and their means."""
  junction = middle * fit.start.shape[0]
  start = sums_lib.at(fit.start, junction - bracket.left_low)
  end = sums_lib.at(
      fit.end, sums_lib.at(fit.start, junction + bracket.right_low - 1))
  algebra = problem.algebra
  run = algebra.join(sums_lib.pool_left(problem, sums, start, middle),
                     sums_lib.pool_right(problem, sums, middle, end))
  mean = algebra.mean(*run) + problem.edge(0, middle).value
  return segments.Blocks(start, end), mean


def _pool_runs(
    fit: sums_lib.Fit, middle: jax.Array, violates: jax.Array,
    runs: segments.Blocks, mean: jax.Array, run_of_tile: jax.Array,
) -> sums_lib.Fit:
  """The fit in which runs `[P]` are blocks; `[T]`, the run of each tile."""
  size, tiles = fit.start.shape
  # An empty run where nothing violates, dropped by the scatter below.
  start = jnp.where(violates, runs.start, middle * size)
  end = jnp.where(violates, runs.end, middle * size)
  target = jnp.where(
      violates, start % size * tiles + start // size, fit.start.size)
  run_start = segments.take(start, run_of_tile)[None]
  run_end = segments.take(end, run_of_tile)[None]
  slots = (jnp.arange(tiles, dtype=jnp.int32)[None] * size
           + jnp.arange(size, dtype=jnp.int32)[:, None])
  pooled = (slots >= run_start) & (slots < run_end)

  def write(lanes, of_run):
    return lanes.reshape(-1).at[target].set(
        of_run, mode="drop").reshape(lanes.shape)

  return sums_lib.Fit(jnp.where(pooled, run_start, fit.start),
                      write(fit.end, end), write(fit.mean, mean))
