"""Ragged lists in flat arrays: contiguous blocks, their bounds and their sums.

Everything in this package works on one flat array of slots. Whatever the user
hands over (a batch of lists, padded lists, ragged groups in any order) is
first brought to slots in which every list is contiguous; from then on a list,
a run of ties and a pooled block are the same thing, a contiguous block.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

_PART = 128


class Blocks(NamedTuple):
  """A partition of S flat slots into contiguous blocks."""

  start: jax.Array  # [S] int32, the first slot of the block of each slot
  end: jax.Array  # [S] int32, one past the last slot of that block

  @property
  def size(self) -> jax.Array:
    """`[S]` int32: how many slots the block of each slot has."""
    return self.end - self.start

  def only(self, where: jax.Array) -> "Blocks":
    """The blocks at flagged slots `[S]`; the other slots are alone."""
    slots = jnp.arange(where.shape[0], dtype=jnp.int32)
    return Blocks(jnp.where(where, self.start, slots),
                  jnp.where(where, self.end, slots + 1))


def run_blocks(is_first: jax.Array) -> Blocks:
  """Blocks start wherever `is_first` `[S]` is True, and at slot 0."""
  slots = jnp.arange(is_first.shape[0], dtype=jnp.int32)
  return join_blocks(Blocks(slots, slots + 1), ~is_first.at[:1].set(True))


# Compiled once a shape, here and in the other rooms of this package: without
# jit, every eager call would trace and compile its loops anew.
@jax.jit
def join_blocks(blocks: Blocks, joined: jax.Array) -> Blocks:
  """Joins the block that starts at a flagged slot to the block before it.

  Flags inside a block mean nothing; slot 0 has none. Pointer jumping: the ends
  of neighbouring blocks point at one another, and pointers are squared until
  they rest. That takes as many rounds as the longest chain of blocks has binary
  digits: none where nothing is joined.
  """
  slots = jnp.arange(joined.shape[0], dtype=jnp.int32)
  joined &= blocks.start == slots
  last = blocks.end - 1
  before_joined = jnp.concatenate([joined[1:], jnp.zeros_like(joined[:1])])
  start = jnp.where(joined, take(blocks.start, slots - 1), blocks.start)
  last = jnp.where(before_joined, take(last, slots + 1), last)

  def body(carry):
    start, last, _ = carry
    new_start, new_last = take(start, start), take(last, last)
    return new_start, new_last, jnp.any(new_start != start)

  start, last, _ = lax.while_loop(
      lambda carry: carry[2], body, (start, last, jnp.any(joined)))
  return Blocks(start, last + 1)


def take(values: jax.Array, slots: jax.Array) -> jax.Array:
  """`values[slots]` along the first axis; slots outside are clipped."""
  return values.at[slots].get(mode="clip")


def permute(values: jax.Array, order: jax.Array) -> jax.Array:
  """`values[order]` for a permutation `order` of the first axis."""
  return values.at[order].get(unique_indices=True, mode="promise_in_bounds")


def unpermute(values: jax.Array, order: jax.Array) -> jax.Array:
  """The inverse of `permute`: the entry of slot `i` goes to `order[i]`."""
  return jnp.zeros_like(values).at[order].set(
      values, unique_indices=True, mode="promise_in_bounds")


def block_sum(values: jax.Array, blocks: Blocks) -> jax.Array:
  """Sum of `[S, ...]` over each slot's block, at every slot; its own transpose.

  Exactly the same number stands at every slot of a block. Differentiable in
  `values` in both modes; the derivative is again a block sum.
  """
  if not values.shape[0]:
    return values
  if not isinstance(values.shape[0], int):
    # JAX has no scan over a size that is left open in what is exported.
    return _block_sum_scatter(values, blocks)
  return lax.platform_dependent(
      values, blocks, cpu=_block_sum_scatter, default=_block_sum_scan)


def block_mean(values: jax.Array, blocks: Blocks) -> jax.Array:
  """Mean over each slot's block, at every slot; see `block_sum`."""
  size = blocks.size.astype(values.dtype)
  size = size.reshape(size.shape + (1,) * (values.ndim - 1))
  return block_sum(values, blocks) / size


def _block_sum_scatter(values: jax.Array, blocks: Blocks) -> jax.Array:
  """By scatters and gathers: the fast form of a sequential machine.

  A block is summed in parts of `_PART` terms, these in parts of `_PART`
  parts, and so on: one float32 sum of a million terms, one after the other,
  would keep three digits. The way back takes the same steps, so that the
  transpose is as exact as the sum.
  """
  slots = jnp.arange(values.shape[0], dtype=jnp.int32)
  # The number of slots may be left open in what is exported: any int32.
  size = values.shape[0]
  most = size if isinstance(size, int) else 2**31
  stride, steps = _PART, []
  while stride < most:
    steps.append(jnp.maximum(blocks.start, slots // stride * stride))
    stride *= _PART
  steps.append(blocks.start)
  for step in steps:
    values = jnp.zeros_like(values).at[step].add(
        values, indices_are_sorted=True, mode="promise_in_bounds")
  for step in reversed(steps):
    values = take(values, step)
  return values


def _block_sum_scan(values: jax.Array, blocks: Blocks) -> jax.Array:
  """By a segmented scan: logarithmic depth, and no atomics to reorder it."""
  slots = jnp.arange(values.shape[0], dtype=jnp.int32)
  first = blocks.start == slots
  first = first.reshape(first.shape + (1,) * (values.ndim - 1))
  first = jnp.broadcast_to(first, values.shape)

  def combine(left, right):
    left_sum, left_first = left
    right_sum, right_first = right
    return (jnp.where(right_first, right_sum, left_sum + right_sum),
            left_first | right_first)

  sums, _ = lax.associative_scan(combine, (values, first))
  return take(sums, blocks.end - 1)


@jax.custom_jvp
def over(values: jax.Array, strength: jax.Array) -> jax.Array:
  """`values / strength`; its derivative does not square a tiny strength."""
  return values / strength


@over.defjvp
def _over_jvp(primals, tangents):
  result = over(*primals)
  values_dot, strength_dot = tangents
  return result, (values_dot - result * strength_dot) / primals[1]


def log_share(
    slots: jax.Array, scale: jax.Array, blocks: Blocks
) -> jax.Array:
  """Logarithm of the softmax of `slots / scale` in each ascending block."""
  # From differences to the last and largest: no exponential above 1.
  last = take(slots, blocks.end - 1)
  below = over(jnp.where(
      blocks.size > 1, slots - lax.stop_gradient(last), 0), scale)
  return below - jnp.log(block_sum(jnp.exp(below), blocks))
