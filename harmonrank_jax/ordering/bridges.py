"""The search for bridges: which run pools where two isotonic fits meet.

Merging two isotonic fits L | R pools exactly one run around the junction:
the last values of L above a level `mu` and the first values of R below it,
where `mu` is the mean of all that is pooled. In the picture of the greatest
convex minorant that run is the common tangent (the bridge) of two hulls.

A search keeps a bracket, bounds of how many slots pool left and right of each
junction, and probes counts inside it. A verdict on a probe is one integer,
and brackets follow it by integer arithmetic alone: whatever the compiler
recomputes with another rounding, all four bounds follow the same verdict.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import sums as sums_lib

# Probes of a bracket at a time, where steps cost more than work does.
WIDTH = 8
# Junctions that bisect together, where work costs more than steps do.
_PART = 512

# What a probe teaches about the two counts, as bits.
_GROW_LEFT, _GROW_RIGHT, _SHRINK_LEFT, _SHRINK_RIGHT = 1, 2, 4, 8
_KEEP_LEFT, _KEEP_RIGHT, _DONE, _BEGIN = 16, 32, 64, 128


class Bracket(NamedTuple):
  """How many slots left and right of each junction are pooled: bounds."""

  left_low: jax.Array
  left_high: jax.Array
  right_low: jax.Array
  right_high: jax.Array


class Probes(NamedTuple):
  """Verdicts on runs; slots either side, `less` without the outermost block."""

  verdict: jax.Array  # [W, W, P] int32, each left with each right
  left: jax.Array  # [W, 1, P] int32
  left_less: jax.Array
  right: jax.Array  # [1, W, P] int32
  right_less: jax.Array


def find_bridges(
    probe_fn: Callable[..., Probes],  # of a middle, a bracket and a width
    middle: jax.Array,  # [P], the tile that each junction is the start of
    bracket: Bracket,  # [P]; a closed one needs no search
    *,
    count: jax.Array,  # number of junctions to search; later ones are padding
    steps: int,  # enough steps of `WIDTH` probes; see `num_steps`
) -> Bracket:
  """A bracket whose low bounds lie in the outermost blocks of each run."""
  cpu, default = (
      functools.partial(fn, probe_fn, middle, count=count, steps=steps)
      for fn in (bisect, sect))
  return lax.platform_dependent(bracket, cpu=cpu, default=default)


def bisect(
    probe_fn: Callable[..., Probes], middle: jax.Array, bracket: Bracket, *,
    count: jax.Array, steps: int,
) -> Bracket:
  """One probe at a time, until a part of the junctions is done: least work."""
  del steps
  size = jax.core.min_dim(_PART, middle.shape[0])

  def search(i, bracket):
    def of_part(array):
      return lax.dynamic_slice_in_dim(array, i * size, size)

    here = of_part(middle)
    closed = _narrow(*lax.while_loop(
        lambda carry: jnp.any(carry[1].verdict != _DONE),
        lambda carry: _step(probe_fn, here, 1, *carry),
        _begin(Bracket(*map(of_part, bracket)), 1)))
    return Bracket(*(
        lax.dynamic_update_slice_in_dim(x, y, i * size, 0)
        for x, y in zip(bracket, closed, strict=True)))

  return lax.fori_loop(0, (count + size - 1) // size, search, bracket)


def sect(
    probe_fn: Callable[..., Probes], middle: jax.Array, bracket: Bracket, *,
    count: jax.Array, steps: int,
) -> Bracket:
  """A fixed number of steps of many probes: never waits for the host."""
  del count
  return _narrow(*lax.fori_loop(
      0, steps, lambda _, carry: _step(probe_fn, middle, WIDTH, *carry),
      _begin(bracket, WIDTH)))


def num_steps(size: int, width: int) -> int:
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


def _begin(bracket: Bracket, width: int) -> tuple[Bracket, Probes]:
  count = 0 * jnp.broadcast_to(
      bracket.left_low[None, None], (width, width, bracket.left_low.shape[0]))
  left, right = count[:, :1], count[:1]
  return bracket, Probes(count + _BEGIN, left, left, right, right)


def _step(
    probe_fn: Callable[..., Probes], middle: jax.Array, width: int,
    bracket: Bracket, probes: Probes,
) -> tuple[Bracket, Probes]:
  # Brackets move one step after the verdict: the verdict is then a carry of
  # the loop, a number that is in memory and not computed twice.
  bracket = _narrow(bracket, probes)
  return bracket, probe_fn(middle, bracket, width)


def _narrow(bracket: Bracket, probes: Probes) -> Bracket:
  """Brackets after the verdicts of all probes."""

  def bounds(low, high, count, less, grow, shrink, keep):
    says = lambda bit: probes.verdict & bit > 0
    count = jnp.broadcast_to(count, probes.verdict.shape)
    least = lambda bit, x: jnp.max(jnp.where(says(bit), x, 0), axis=(0, 1))
    low = jnp.maximum(low, jnp.maximum(
        least(grow, count + 1), least(keep, count)))
    high = jnp.minimum(high, jnp.min(
        jnp.where(says(shrink), less, high[None, None]), axis=(0, 1)))
    done = least(_DONE, count)
    low = jnp.where(done > 0, done, low)
    return low, jnp.where(done > 0, done, jnp.maximum(low, high))

  return Bracket(
      *bounds(bracket.left_low, bracket.left_high, probes.left,
              probes.left_less, _GROW_LEFT, _SHRINK_LEFT, _KEEP_LEFT),
      *bounds(bracket.right_low, bracket.right_high, probes.right,
              probes.right_less, _GROW_RIGHT, _SHRINK_RIGHT, _KEEP_RIGHT))


def probe(
    problem: sums_lib.Problem, fit: sums_lib.Fit, sums: sums_lib.Sums,
    middle: jax.Array,  # [P] int32, the tile that each junction is the start of
    bracket: Bracket, width: int,
) -> Probes:
  """Tries `width` counts left of each junction with as many right of it.

  The level of the merged run is the root of the decreasing function
  `F(x) = sum_L max(v - x, 0) - sum_R max(x - v, 0)`, in logarithms with
  exponentials of x and v. A probe takes whole blocks, `left` slots of L and
  `right` of R, with mean mu; the sign of F at the outermost pooled values, or
  at the next values outside, follows from mu. See `_verdict` for the cases.
  """
  tile = middle[None, None]
  left, right = _sides(
      problem, fit, sums, tile,
      _spread(bracket.left_low, bracket.left_high, width)[:, None],
      _spread(bracket.right_low, bracket.right_high, width)[None])
  bounds = Bracket(*(bound[None, None] for bound in bracket))
  return Probes(_verdict(problem.algebra, left, right, bounds),
                left.size, left.less, right.size, right.less)


def _spread(low: jax.Array, high: jax.Array, width: int) -> jax.Array:
  """`[W, P]` counts at the fractions i / (W + 1) of brackets `[P]`."""
  part = jnp.arange(1, width + 1, dtype=jnp.int32)[:, None]
  # By quotient and remainder: no product overflows.
  step, rest = jnp.divmod((high - low + 2)[None], width + 1)
  return jnp.maximum(
      low[None] - 1 + step * part + rest * part // (width + 1), low[None])


class _Side(NamedTuple):
  """Whole blocks on one side of junctions: `[W, 1, P]` or `[1, W, P]`.

  Values are relative to the item at the junction.
  """

  size: jax.Array  # slots of the blocks
  less: jax.Array  # slots without the outermost block
  value: jax.Array  # fitted value of the outermost block
  beyond: jax.Array  # fitted value of the next block outside
  sum: sums_lib.Sum  # over the items of all blocks
  rest: sums_lib.Sum  # without the outermost block, if the algebra absorbs


def _sides(
    problem: sums_lib.Problem, fit: sums_lib.Fit, sums: sums_lib.Sums,
    tile: jax.Array, left: jax.Array, right: jax.Array,
) -> tuple[_Side, _Side]:
  """The blocks with the last `left` and first `right` slots at junctions."""
  junction = tile * fit.start.shape[0]
  anchor = problem.edge(0, tile).value
  start = sums_lib.at(fit.start, junction - left)
  inner_end = sums_lib.at(fit.end, start)
  last_start = sums_lib.at(fit.start, junction + right - 1)
  end = sums_lib.at(fit.end, last_start)

  def side(size, less, block, beyond, pool, outer, inner):
    total = pool(outer)
    rest = pool(inner) if problem.algebra.absorbs else total
    return _Side(size, less, sums_lib.at(fit.mean, block) - anchor,
                 beyond - anchor, total, rest)

  return (
      side(junction - start, junction - inner_end, start,
           fit.mean_at(start - 1),
           lambda slot: sums_lib.pool_left(problem, sums, slot, tile),
           start, inner_end),
      side(end - junction, last_start - junction, last_start,
           sums_lib.at(fit.mean, end),
           lambda slot: sums_lib.pool_right(problem, sums, tile, slot),
           end, last_start))


def _verdict(
    algebra: sums_lib.Algebra, left: _Side, right: _Side, bounds: Bracket
) -> jax.Array:
  """What each run `[W, W, P]` teaches about the two counts, as bits.

  A run that wants more on a side grows there: the next block lies on the wrong
  side of the mean, and pools too. Otherwise a run that wants less on one side,
  whose outermost block there lies on the right side of the mean, shrinks
  there, and keeps at least what it has on the other; one that wants less on
  both shrinks where it has more to lose. A run that wants neither is the
  bridge.
  """
  mean = algebra.mean(*algebra.join(left.sum, right.sum))
  grow_left = (mean < left.beyond) & (left.size < bounds.left_high)
  grow_right = (mean > right.beyond) & (right.size < bounds.right_high)
  grow = grow_left | grow_right
  # A block compares with the run that it is in as with the rest of that run.
  # The rest is asked where one item may absorb all others: the mean of the run
  # is then the block's own to all digits.
  rest = algebra.mean(*algebra.join(left.rest, right.sum))
  less_left = ~grow & (
      (left.less >= bounds.left_low) & (rest > left.value))
  rest = algebra.mean(*algebra.join(left.sum, right.rest))
  less_right = ~grow & (
      (right.less >= bounds.right_low) & (rest < right.value))
  shrink_left = less_left & (
      ~less_right | _left_has_more_to_lose(algebra, left, right))
  shrink_right = less_right & ~shrink_left
  verdict = sum(jnp.where(says, bit, 0) for says, bit in (
      (grow_left, _GROW_LEFT), (grow_right, _GROW_RIGHT),
      (shrink_left, _SHRINK_LEFT), (shrink_right, _SHRINK_RIGHT),
      (shrink_right & ~less_left, _KEEP_LEFT),
      (shrink_left & ~less_right, _KEEP_RIGHT)))
  return jnp.where(verdict == 0, _DONE, verdict).astype(jnp.int32)


def _left_has_more_to_lose(
    algebra: sums_lib.Algebra, left: _Side, right: _Side
) -> jax.Array:
  """Which side shrinks where the mean is between the two outermost values.

  True if the pooled sum is at least `left * left_value + right * right_value`:
  L exceeds its outermost value by at least what R lacks of its own. That is
  the sign of F at a level between them.
  """
  return (
      algebra.excess(left.rest.total,
                     algebra.weigh(left.rest.weight, left.value))
      >= algebra.excess(algebra.weigh(right.rest.weight, right.value),
                        right.rest.total))
