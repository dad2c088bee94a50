"""Sums and means of runs of items: of numbers, or of logarithms of numbers.

A sum is kept relative to one item, the anchor, which stands beside the place
where the sum starts: nothing large is added or cancels. The two algebras,
`LINEAR` and `LOGARITHMIC`, say how such sums are formed; everything else in
the merge of isotonic fits is the same for both.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Units in the last place by which sums of logarithms may err.
_SLACK = 16


class Item(NamedTuple):
  """An item, or many."""

  value: jax.Array
  weight: jax.Array


class Sum(NamedTuple):
  """Sums of weighted values and of weights, relative to an anchor."""

  total: jax.Array
  weight: jax.Array


class Algebra(NamedTuple):
  """How means are formed.

  Attributes:
    empty: total and weight of no item at all.
    add: adds two totals, or two weights.
    weigh: the total of a value with a weight.
    mean: the mean of a total and its weight.
    excess: how much a larger total exceeds a smaller one.
    absorbs: whether one item may exceed the sum of all others beyond all
      precision.
    single: the sum that is one item alone, relative to an anchor.
    move: a sum relative to one anchor, made relative to another.
  """

  empty: float
  add: Callable[[jax.Array, jax.Array], jax.Array]
  weigh: Callable[[jax.Array, jax.Array], jax.Array]
  mean: Callable[[jax.Array, jax.Array], jax.Array]
  excess: Callable[[jax.Array, jax.Array], jax.Array]
  absorbs: bool
  single: Callable[[Item, Item], Sum]
  move: Callable[[Sum, Item, Item], Sum]

  def join(self, left: Sum, right: Sum) -> Sum:
    """The sum of two runs, both relative to one anchor."""
    return Sum(self.add(left.total, right.total),
               self.add(left.weight, right.weight))

  def only(self, part: Sum, where: jax.Array) -> Sum:
    """The sum where a condition holds, elsewhere that of no item."""
    return Sum(*(jnp.where(where, x, self.empty) for x in part))

  def nothing(self, anchor: Item) -> Sum:
    """The sum of no item; made from data, so that it varies as they do.

    Under `shard_map` a constant would not vary over devices, and could not
    be the carry of a loop whose results do.
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
