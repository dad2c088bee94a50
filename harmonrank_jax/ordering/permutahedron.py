"""Soft ranks: exact projections onto the permutahedron."""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.native as native
from harmonrank_jax.ordering import isotonic
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting


def soft_rank(
    scores: jax.Array,
    *,
    strength: jax.Array | float,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    regularization: str = "quadratic",
) -> jax.Array:
  """Differentiable ascending ranks: the projection of `scores / strength`.

  The ranks `(1, ..., n)` and all their permutations span a polytope, the
  permutahedron. The soft rank is its point nearest to `s / eps`,

    r_eps(s) = argmax_{t in P(1..n)} <s, t> - eps / 2 |t|^2,

  computed exactly: with `z = s / eps` in ascending order, pool `z - (1..n)`
  into the blocks of its isotonic fit; inside a block of items

    r_i = (mean rank of the block) + z_i - (mean of z over the block).

  Neighbours whose gap is above `strength` never pool as a pair: 1 to 3 times
  the mean gap smooths locally, 8 times that of normal scores makes everything
  one block. As the strength falls to 0 the result is the hard rank, ties
  sharing the mean rank; as it grows, `(n + 1) / 2` for every item. Ranks sum
  to `n (n + 1) / 2`, do not change when a constant is added to the scores, and
  are monotone in them.

  Derivative (both modes, jit, vmap): for a cotangent u,
  `ds_i = (u_i - mean of u over i's block) / strength`, and with respect to
  the strength `dr_i / d strength = -(r_i - mean rank of i's block) /
  strength`. At strength 0 both are 0.

  With `regularization="entropic"` the distance is the Kullback-Leibler
  divergence: the point of the permutahedron nearest to `exp(z)`, up to scale.
  Pool `z - log(1..n)` by log-sum-exp; inside a block its ranks are shared out
  by a softmax,

    r_i = (sum of the block's ranks) exp(z_i) / (sum of exp(z) over the block).

  Limits and invariances are the same. Neighbours pool when their gap is below
  `strength * log((k + 1) / k)`, k the rank of the lower: low ranks pool first,
  and a useful strength is of the order of the scores' spread. Derivative:
  `ds_i = r_i (u_i - mean of u over i's block, weighted by r) / strength`.

  Args:
    scores: `[..., N]`, any real dtype. Infinite scores are ranked hard, at the
      ends. An item whose score is NaN has rank NaN, and the others are ranked
      as if it were not there.
    strength: eps >= 0 in the unit of the scores, a scalar or broadcastable to
      `[..., 1]`. Traced, what is negative or NaN is taken as 0.
    where: `[..., N]` bool, True = valid. Masked: rank 0 and no gradient.
    segment_ids: `[..., N]` integers, the list of each item; neither sorted
      nor contiguous.
    regularization: "quadratic" or "entropic".

  Returns:
    `[..., N]` soft ranks in [1, N], float32 (float64 for float64 scores).

  Raises:
    ValueError: if shapes do not fit, a static strength is negative, or the
      regularization is unknown.

  References:
    Blondel et al., "Fast differentiable sorting and ranking", ICML 2020,
    arXiv 2002.08871, eq. 5, propositions 3 and 4; the ranks descend there.

  >>> import jax.numpy as jnp
  >>> soft_rank(jnp.array([0.7, 0.2, 0.8, 0.1]), strength=0.2)
  Array([3.25, 1.75, 3.75, 1.25], dtype=float32)
  >>> soft_rank(jnp.array([0.7, 0.2, 0.8, 0.1]), strength=0.0)
  Array([3., 2., 4., 1.], dtype=float32)
  >>> ranks = soft_rank(jnp.array([0.7, 0.2, 0.8, 0.1]), strength=1.0,
  ...                   regularization="entropic")
  >>> [round(float(rank), 2) for rank in ranks]
  [3.07, 1.86, 3.39, 1.68]
  """
  scores, where, segment_ids = sorting.check_lists(
      scores, where, segment_ids, matters="differences")
  strength = sorting.check_strength(strength, regularization, scores)
  if not scores.size:
    return scores
  laid_out = sorting.sort_lists(scores, where, segment_ids, shape=scores.shape)
  if regularization == "entropic":
    strength = jnp.broadcast_to(strength, scores.shape)
    ranks = _entropic_rank(
        scores.reshape(-1), strength.reshape(-1), laid_out,
        row_size=scores.shape[-1]).reshape(scores.shape)
  else:
    ranks, _ = rank_lists(scores, laid_out, strength)
  return sorting.mark_nan(ranks, scores, where)


def rank_lists(
    scores: jax.Array,  # [..., N]
    laid_out: sorting.SortedLists,
    strength: jax.Array,  # [..., 1] or [..., N]; not positive is taken as 0
) -> tuple[jax.Array, segments.Blocks]:
  """Soft ranks `[..., N]` of lists whose order is known.

  Items that take no part get 0. The blocks that pooled are by slots; ties that
  are ranked hard (infinite, or at strength 0) are blocks of their own.
  """
  if not scores.size:
    # Rows without items have strengths, but no slots.
    return scores, laid_out.lists
  if strength.shape != scores.shape:
    strength = jnp.broadcast_to(strength, (*scores.shape[:-1], 1))
  ranks, blocks = _project(
      scores.reshape(-1), jnp.where(strength > 0, strength, 0).reshape(-1),
      laid_out, scores.shape[-1])
  return ranks.reshape(scores.shape), blocks


def deviations(
    values: jax.Array, laid_out: sorting.SortedLists, blocks: segments.Blocks
) -> jax.Array:
  """Items `[..., N]` less their block's mean; linear, its own transpose."""
  result, = _deviation(values.reshape(-1), laid_out.order, *blocks)
  return result.reshape(values.shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _project(
    scores: jax.Array, strength: jax.Array, laid_out: sorting.SortedLists,
    row_size: int,
) -> tuple[jax.Array, segments.Blocks]:
  """`rank_lists` of flat items `[S]`; strengths `[S]` or one for each row."""
  ranks, start, end = _soft_rank(
      scores, laid_out.order, *laid_out.lists, laid_out.valid, strength,
      row_size=row_size)
  return ranks, segments.Blocks(start, end)


@functools.partial(_project.defjvp, symbolic_zeros=True)
def _project_jvp(row_size, primals, tangents):
  scores, strength, laid_out = primals
  scores_dot, strength_dot, _ = tangents
  ranks, blocks = _project(scores, strength, laid_out, row_size)
  # With z = s / eps, dz = (ds - z deps) / eps; within a block z and the rank
  # differ by a constant. Reverse mode transposes this rule: all in it is linear
  # in the tangents, and `_deviation` is registered as its own transpose
  # (`linear=True`, see `native`).
  is_zero = lambda x: isinstance(x, jax.custom_derivatives.SymbolicZero)
  z_dot = jnp.zeros_like(scores) if is_zero(scores_dot) else scores_dot
  if not is_zero(strength_dot):
    z_dot = z_dot - ranks * _of_items(strength_dot, ranks)
  ranks_dot = deviations(z_dot, laid_out, blocks) / _of_items(
      jnp.where(strength > 0, strength, 1), ranks)
  no_tangent = jax.tree.map(
      jax.custom_derivatives.zero_from_primal, blocks)
  return (ranks, blocks), (ranks_dot, no_tangent)


@native.form_of("soft_rank", layout=native.slots(None, jnp.int32, jnp.int32))
def _soft_rank(
    scores: jax.Array, order: jax.Array, list_start: jax.Array,
    list_end: jax.Array, valid: jax.Array, strength: jax.Array, *,
    row_size: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Ranks in the order of the items; starts and ends of the blocks."""
  laid_out = sorting.SortedLists(
      order, segments.Blocks(list_start, list_end), valid)
  if strength.shape == scores.shape:
    strength = segments.permute(strength, order)
  else:
    strength = _of_items(strength, scores)  # The slots of a row are its own.
  pooled = _pool_sorted(scores, strength, laid_out, row_size, "quadratic")
  # Differences from the block's first score: exact where scores are large.
  first = segments.take(pooled.scores, pooled.blocks.start)
  above = jnp.where(pooled.inside, pooled.scores - first, 0) / pooled.scale
  ranks = jnp.where(
      pooled.inside, pooled.middle + above
      - segments.block_mean(above, pooled.blocks), pooled.hard_ranks)
  return segments.unpermute(ranks, order), *pooled.blocks


@functools.partial(jax.jit, static_argnames="row_size")
def _entropic_rank(
    scores: jax.Array, strength: jax.Array, laid_out: sorting.SortedLists, *,
    row_size: int,
) -> jax.Array:
  """Entropic soft ranks of flat items `[S]`, each with its strength."""
  strength = segments.permute(strength, laid_out.order)
  pooled = _pool_sorted(scores, strength, laid_out, row_size, "entropic")
  share = jnp.exp(segments.log_share(
      pooled.scores, pooled.scale, pooled.blocks))
  total = pooled.middle * pooled.blocks.size.astype(share.dtype)
  ranks = jnp.where(pooled.inside, total * share, pooled.hard_ranks)
  return segments.unpermute(ranks, laid_out.order)


class _Pooled(NamedTuple):
  """Sorted scores and the blocks that they pool into, by slots."""

  scores: jax.Array  # [S]
  scale: jax.Array  # [S], the strength, or 1 where ranks are hard
  hard_ranks: jax.Array  # [S]
  blocks: segments.Blocks
  inside: jax.Array  # [S] bool, pooled with another
  middle: jax.Array  # [S], mean rank of the block


def _pool_sorted(
    scores: jax.Array, strength: jax.Array, laid_out: sorting.SortedLists,
    row_size: int, regularization: str,
) -> _Pooled:
  """Pools items `[S]`; strengths are those of the slots `[S]`."""
  slots = segments.permute(scores, laid_out.order)
  hard_ranks, ties = sorting.mid_ranks(lax.stop_gradient(slots), laid_out)
  soft = (strength > 0) & jnp.isfinite(slots) & laid_out.valid
  scale = jnp.where(soft, strength, 1)
  lists = laid_out.lists
  middle = segments.take(slots, (lists.start + lists.end) // 2)
  z = jnp.where(
      soft, slots - jnp.where(jnp.isfinite(middle), middle, 0), slots) / scale
  index = jnp.arange(slots.shape[0], dtype=jnp.int32)
  if regularization == "entropic":
    log_ranks = jnp.log((index - lists.start + 1).astype(z.dtype))
    blocks = isotonic.isotonic_blocks(
        z - log_ranks, lists, weights=log_ranks, row_size=row_size,
        logarithmic=True)
  else:
    # Ties always pool, so their mean rank may stand for their ranks.
    blocks = isotonic.isotonic_blocks(
        z - hard_ranks, lists, row_size=row_size)
  # The fit may cut a run of ties into blocks of equal mean; join them.
  blocks = segments.join_blocks(blocks.only(soft), soft & (ties.start != index))
  return _Pooled(
      slots, scale, hard_ranks, blocks, blocks.size > 1,
      sorting.middle_rank(blocks, laid_out, slots.dtype))


@native.form_of("deviation", layout=native.slots(None), linear=True)
def _deviation(
    values: jax.Array, order: jax.Array, start: jax.Array, end: jax.Array
) -> tuple[jax.Array]:
  blocks = segments.Blocks(start, end)
  slots = segments.permute(values, order)
  slots = jnp.where(blocks.size > 1, slots, 0)
  return (segments.unpermute(
      slots - segments.block_mean(slots, blocks), order),)


def _of_items(lists: jax.Array, items: jax.Array) -> jax.Array:
  """Spreads one value per item or per row to all items `[S]`."""
  return jnp.broadcast_to(
      lists[:, None], (lists.shape[0], items.shape[0] // lists.shape[0])
  ).reshape(-1)
