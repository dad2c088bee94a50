"""Greedy slates: determinantal point process, MMR, SSD and top-K.

Every method fills one slot after the other with the candidate of the largest
gain, which combines relevance with a term for the similarity to earlier picks.
The methods share the loop (`engine.py`), the arguments (`arguments.py`) and the
direction of theta: at 1 relevance alone decides, at 0 diversity alone. The
lambda of MMR is theta.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
from harmonrank_jax.diversity import arguments
from harmonrank_jax.diversity import engine
from harmonrank_jax.diversity import problem as problem_lib
import harmonrank_jax.sharding as sharding


class Slate(NamedTuple):
  """A slate of K slots.

  Slots for which no candidate is left are empty; with `fill="none"` those for
  which none has a gain. They are the last ones, unless a window or a
  `slot_bias` of -inf has made a candidate possible again.
  """

  indices: jax.Array  # [..., K] int32, candidates, none twice; -1 if empty
  gains: jax.Array  # [..., K], by which candidates were selected; 0 if empty
  num_valid: jax.Array  # [...] int32, number of slots filled by gain


def greedy_dpp(
    features: jax.Array,
    relevance: jax.Array | arrays.Relative,
    *,
    num_selected: int,
    theta: jax.Array | float,
    where: jax.Array | None = None,
    shown_features: jax.Array | None = None,
    category_ids: jax.Array | None = None,
    quotas: jax.Array | None = None,
    window: int | None = None,
    slot_bias: jax.Array | None = None,
    ridge: float | None = None,
    fill: str = "relevance",
    prefilter: int | None = None,
    axis_name: sharding.AxisName | None = None,
) -> Slate:
  """Greedy MAP of a determinantal point process: a relevant and varied slate.

  With unit features f, `S_ij = <f_i, f_j>` and `alpha = theta / (2 (1 -
  theta))` the process prefers sets Y of a large

      log det L_Y = 2 alpha sum_{i in Y} r_i + log det S_Y,

  and the next pick is the candidate that adds most to it. Its gain is

      2 alpha (r_i + slot_bias) + log s2_i,

  where s2_i in [0, 1] is the squared part of f_i outside the span of the picks
  before. Without window and ridge the gains of the picks that have one sum to
  `log det S_Y + 2 alpha sum (r + slot_bias)`. Equal gains are resolved by the
  lowest index: this decides the first pick at theta = 0. A candidate whose s2
  is rounding alone (1e-5 or less, in float64 1e-10) has no gain: copies have
  none, and no more candidates have one than the features have dimensions. They
  fill, by relevance, the slots that are left, unless `fill="none"` leaves those
  empty.

  A candidate without features (its feature is 0 or not finite) resembles no
  other, as if it had a dimension of its own: s2 is 1. So `greedy_top_k` is the
  limit of large theta for all candidates.

  Time O(K N D), memory O(N + K D) beside the features (O(window N) with a
  window); neither the kernel nor its Cholesky factor is formed.

  Args:
    features: `[..., N, D]`, or `[N, D]` shared by all lists: of any length
      (their directions count), float32, bfloat16 or float64; 0 where there
      are none.
    relevance: `[..., N]`, on a log scale if it comes from a probability (log
      pCTR). Candidates whose relevance is not finite are not selected. Of
      NumPy's, float32 need hold the differences in a list alone (times in
      milliseconds, counts); so under `jit` if `arrays.relative` is passed.
    num_selected: K, slots of the slate; may exceed N.
    theta: in [0, 1), a scalar or `[...]`, one for each list. 0 is diversity
      alone; for relevance alone see `greedy_top_k`. `fit_theta` learns it.
    where: `[..., N]` bool, True = may be selected.
    shown_features: `[..., S, D]` or `[S, D]`, features of items shown before,
      the newest last: the slate is made diverse against them as well. Rows
      that are 0 or not finite are ignored (padding).
    category_ids: `[..., N]` or `[N]` integers in [0, C), for `quotas` and
      `slot_bias`; others are in no category and have neither.
    quotas: `[..., C]` or `[C]` integers, at most so many of a category.
    window: diversity against the last `window - 1` picks (and shown items)
      only, at least 1.
    slot_bias: `[..., K, C]` or `[K, C]`, added to the relevance of a category
      in a slot. A bias that is not finite keeps the category out of the slot.
    ridge: rho in [0, 1] of the kernel `rho S + (1 - rho) I`, which has full
      rank: copies have a smaller gain, but can be picked. None is 1.
    fill: how slots are filled for which no candidate has a gain: "relevance"
      takes the most relevant candidate that is left (under the same mask,
      quotas and bias), with the gain of the smallest s2; "none" leaves them
      empty.
    prefilter: K'; the K' most relevant candidates are searched first, and all
      of them only if another one could have been picked. The slate is the
      same; it is faster where N is large and theta is not small. One list
      that needs all candidates makes the whole batch search them; under
      `jax.vmap` nothing is saved.
    axis_name: mesh axes over which candidates are sharded, inside
      `jax.shard_map`: features, relevance, `where` and `category_ids` hold
      the candidates of this device, everything else is the same on all.
      Indices are those of the whole pool. One small collective a slot.

  Returns:
    The `Slate`. No derivatives: indices have none.

  Raises:
    ValueError: if shapes do not fit, or a static argument is out of range. A
      traced theta is clipped.

  References:
    Chen, Zhang and Zhou 2018 (arXiv 1709.05135), algorithm 1 and section 4.
    Here the Cholesky entries are products with the directions of the picks,
    `c_ti = <q_t, f_i>`, so that no factor `[N, K]` is stored; the directions
    of a window are computed anew in every slot, so that rounding errors do not
    accumulate.

  >>> import jax.numpy as jnp
  >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
  >>> relevance = jnp.array([0.9, 0.8, 0.1])
  >>> greedy_dpp(features, relevance, num_selected=2, theta=0.5).indices
  Array([0, 2], dtype=int32)
  >>> greedy_dpp(features, relevance, num_selected=2, theta=0.95).indices
  Array([0, 1], dtype=int32)
  """
  ridge = arguments.check_options(fill, ridge)
  if prefilter is not None and prefilter < 1:
    raise ValueError(f"prefilter must be at least 1, got {prefilter}.")
  if prefilter is not None and axis_name is not None:
    raise ValueError("prefilter is for candidates on one device.")
  return _select(
      engine.DPP, features, relevance, num_selected=num_selected, theta=theta,
      where=where, shown_features=shown_features, category_ids=category_ids,
      quotas=quotas, window=window, slot_bias=slot_bias, ridge=ridge,
      fill=fill == "relevance", prefilter=prefilter, axis_name=axis_name)


def greedy_mmr(
    features: jax.Array,
    relevance: jax.Array | arrays.Relative,
    *,
    num_selected: int,
    theta: jax.Array | float,
    where: jax.Array | None = None,
    shown_features: jax.Array | None = None,
    category_ids: jax.Array | None = None,
    quotas: jax.Array | None = None,
    window: int | None = None,
    slot_bias: jax.Array | None = None,
    axis_name: sharding.AxisName | None = None,
) -> Slate:
  """Maximal marginal relevance: relevance less the similarity to a pick.

  The gain is `theta (r + slot_bias) - (1 - theta) max_j cos(f_i, f_j)` over
  earlier picks and shown items j; without any, the second term is 0. Copies
  are penalised, but can be picked. Arguments and results are those of
  `greedy_dpp`, except:

  Args:
    relevance: `[..., N]`, on a scale that fits the cosine's, [-1, 1].
    theta: in [0, 1], a scalar or `[...]`: the lambda of MMR. 1 is relevance
      alone.

  References:
    Carbonell and Goldstein 1998, "The use of MMR", whose lambda is theta.

  >>> import jax.numpy as jnp
  >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
  >>> greedy_mmr(features, jnp.array([0.9, 0.8, 0.1]), num_selected=2,
  ...            theta=0.5).indices
  Array([0, 2], dtype=int32)
  """
  return _select(
      engine.MMR, features, relevance, num_selected=num_selected, theta=theta,
      where=where, shown_features=shown_features, category_ids=category_ids,
      quotas=quotas, window=window, slot_bias=slot_bias, axis_name=axis_name)


def greedy_ssd(
    features: jax.Array,
    relevance: jax.Array | arrays.Relative,
    *,
    num_selected: int,
    theta: jax.Array | float,
    where: jax.Array | None = None,
    shown_features: jax.Array | None = None,
    category_ids: jax.Array | None = None,
    quotas: jax.Array | None = None,
    window: int | None = None,
    slot_bias: jax.Array | None = None,
    axis_name: sharding.AxisName | None = None,
) -> Slate:
  """Sliding spectrum decomposition: relevance plus the volume of the window.

  The gain is `theta (r + slot_bias) + (1 - theta) V_i`, with V_i in [0, 1] the
  volume that candidate i spans together with earlier picks and shown items (of
  the window, if there is one). The volume of a long slate without a window
  tends to 0, and relevance takes over. A copy spans no volume, but can be
  picked. Arguments and results are those of `greedy_dpp`, except:

  Args:
    relevance: `[..., N]`, on a scale that fits the volume's, [0, 1].
    theta: in [0, 1], a scalar or `[...]`; 1 is relevance alone. The weight
      gamma of the paper is `(1 - theta) / theta`.

  References:
    Huang et al. 2021 (arXiv 2107.05204), the greedy algorithm with a sliding
    window; without its bias dimension, which callers may append to features.

  >>> import jax.numpy as jnp
  >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
  >>> greedy_ssd(features, jnp.array([0.9, 0.8, 0.1]), num_selected=2,
  ...            theta=0.5).indices
  Array([0, 2], dtype=int32)
  """
  return _select(
      engine.SSD, features, relevance, num_selected=num_selected, theta=theta,
      where=where, shown_features=shown_features, category_ids=category_ids,
      quotas=quotas, window=window, slot_bias=slot_bias, axis_name=axis_name)


def greedy_top_k(
    relevance: jax.Array | arrays.Relative,
    *,
    num_selected: int,
    where: jax.Array | None = None,
    category_ids: jax.Array | None = None,
    quotas: jax.Array | None = None,
    slot_bias: jax.Array | None = None,
    axis_name: sharding.AxisName | None = None,
) -> Slate:
  """The most relevant candidates: the limit theta = 1 of the others.

  The gain is `r + slot_bias`; arguments and results are those of
  `greedy_dpp`.

  >>> import jax.numpy as jnp
  >>> greedy_top_k(jnp.array([0.1, 0.9, 0.8]), num_selected=2,
  ...              category_ids=jnp.array([0, 1, 1]),
  ...              quotas=jnp.array([1, 1])).indices
  Array([1, 0], dtype=int32)
  """
  # A DPP without features, and with weights of 1: D = 0 makes log s2 = 0.
  return _select(
      engine.DPP, None, relevance, num_selected=num_selected, theta=None,
      where=where, category_ids=category_ids, quotas=quotas,
      slot_bias=slot_bias, axis_name=axis_name)


def _select(
    criterion, features, relevance, *, num_selected, theta, where,
    category_ids, quotas, slot_bias, axis_name, shown_features=None,
    window=None, ridge=None, fill=False, prefilter=None,
) -> Slate:
  """The slate by a criterion; arguments as those of the public functions."""
  request = arguments.Arguments(
      features, relevance, num_selected, where, shown_features=shown_features,
      category_ids=category_ids, quotas=quotas, window=window,
      slot_bias=slot_bias)
  problem, windowed, lift = request.problem(theta, criterion, ridge)
  pick = functools.partial(
      engine.pick, axis_name=axis_name,
      settings=engine.Settings(criterion, windowed, ridge, fill))
  picks = pick(problem) if prefilter is None else _prefiltered(
      problem, prefilter, pick)
  gains = lifted(picks, lift)
  shape = (*request.batch, num_selected)
  return Slate(picks.indices.reshape(shape), gains.reshape(shape),
               picks.num_valid.reshape(request.batch))


def lifted(picks: problem_lib.Selection, lift: jax.Array) -> jax.Array:
  """Gains `[B, G, K]` of the whole relevance, from those of differences."""
  return jnp.where(
      picks.indices < 0, picks.gains, picks.gains + lift[:, None, None])


def _prefiltered(
    problem: problem_lib.Problem, size: int, pick
) -> problem_lib.Selection:
  """Picks among the candidates of the largest bounds, or else among all.

  A gain is largest while nothing is picked, because s2 is at most 1. If every
  pick among some candidates has a gain above this bound of all others, the
  picks are those among all candidates.
  """
  num_items, num_slots = problem.relevance.shape[1], problem.slot_bias.shape[1]
  if size >= num_items or not num_slots:
    return pick(problem)
  bias = jnp.max(problem.slot_bias, axis=1)
  categories = jnp.broadcast_to(problem.categories, problem.relevance.shape)
  bounds = problem.relevance + jnp.take_along_axis(bias, categories, axis=1)
  best, chosen = lax.top_k(bounds, size + 1)
  # In ascending order, because equal gains are resolved by the lowest index.
  chosen = jnp.sort(chosen[:, :-1], axis=1)

  picks = pick(problem_lib.subset(problem, chosen))
  bound = best[:, None, -1:]
  # Another candidate may have a gain in a slot that was filled by relevance or
  # stayed empty.
  by_gain = (picks.num_valid == num_slots)[..., None]
  is_certain = (by_gain & (picks.gains > bound)) | (bound == -jnp.inf)
  return lax.cond(
      jnp.all(is_certain), lambda: problem_lib.superset(picks, chosen),
      lambda: pick(problem))
