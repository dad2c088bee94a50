"""Greedy slates: determinantal point process, MMR, SSD and top-K.

All pick one candidate a slot, the one of the largest key: relevance and
something about how near it is to what has been picked. They share the loop
(`engine.py`), the arguments, and the direction of the one knob: towards
`theta = 1` relevance decides, towards `theta = 0` diversity.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.diversity import engine
from harmonrank_jax.sharding import AxisName

FILLS = ("none", "relevance")


class Slate(NamedTuple):
  """What was selected, slot by slot.

  Attributes:
    indices: `[..., K]` int32, of candidates, none twice; -1 where nothing was
      selected.
    gains: `[..., K]`, the key by which each was selected; 0 at -1.
    num_valid: `[...]` int32, how many slots were filled by their key. Without
      `fill` the others are -1. They are the last slots, unless a window or a
      `slot_bias` of -inf has made a candidate possible again.
  """

  indices: jax.Array
  gains: jax.Array
  num_valid: jax.Array


def greedy_dpp(
    features: jax.Array,
    relevance: jax.Array,
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
    fill: str = "none",
    prefilter: int | None = None,
    axis_name: AxisName | None = None,
) -> Slate:
  """Greedy MAP of a determinantal point process: a relevant and varied slate.

  With unit features f, `S_ij = <f_i, f_j>` and `alpha = theta / (2 (1 -
  theta))` the process prefers sets Y of a large

      log det L_Y = 2 alpha sum_{i in Y} r_i + log det S_Y,

  and the next pick is the one that adds most to it, of the key

      2 alpha (r_i + slot_bias) + log s2_i,

  where s2_i in [0, 1] is the squared part of f_i outside the span of the picks
  before. Without window, ridge and fill the gains sum to `log det S_Y + 2
  alpha sum (r + slot_bias)`. Of equal keys the lowest index is taken: so is
  the first pick at theta = 0. Nothing is picked of which rounding alone is
  left (s2 of 1e-5 or less, in float64 1e-10): copies, or more picks than the
  features have dimensions.

  Time O(K N D), memory O(N + K D) beside the features (O(window N) with one);
  neither the kernel nor its Cholesky factor is ever made.

  Args:
    features: `[..., N, D]`, or `[N, D]` shared by all lists: of any length
      (their directions count), float32, bfloat16 or float64. Candidates whose
      feature is 0 or not finite are not selected.
    relevance: `[..., N]`, on a log scale if it comes from a probability (log
      pCTR). Candidates whose relevance is not finite are not selected.
    num_selected: K, slots of the slate; may exceed N.
    theta: in [0, 1), a scalar or `[...]`, one for each list. 0 is diversity
      alone; for relevance alone see `greedy_top_k`.
    where: `[..., N]` bool, True = may be selected.
    shown_features: `[..., S, D]` or `[S, D]`, of items shown before, the
      newest last: the slate is made diverse against them as well. Rows that
      are 0 or not finite are none (padding).
    category_ids: `[..., N]` or `[N]` integers in [0, C), for `quotas` and
      `slot_bias`; others are in no category and have neither.
    quotas: `[..., C]` or `[C]` integers, at most so many of a category.
    window: diversity against the last `window - 1` picks (and shown items)
      only, at least 1.
    slot_bias: `[..., K, C]` or `[K, C]`, added to the relevance of a category
      in a slot. What is not finite keeps the category out of the slot.
    ridge: rho in [0, 1] of the kernel `rho S + (1 - rho) I`, which has full
      rank: copies lose by being picked again, but can be. None is 1.
    fill: what to do with slots for which no candidate has a key: "none"
      leaves them at -1; "relevance" takes the most relevant candidate there
      is (under the same mask, quotas and bias), its gain that of the smallest
      s2.
    prefilter: K' to look at the K' most relevant candidates first, and at all
      only if one of the others could have been picked: the same slate, faster
      where N is large and theta is not small. A batch looks at all of them
      together; under `jax.vmap` nothing is saved.
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
    `c_ti = <q_t, f_i>`, so that no factor `[N, K]` is stored; the window's
    directions are made anew in every slot, so that errors do not build up.

  >>> import jax.numpy as jnp
  >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
  >>> relevance = jnp.array([0.9, 0.8, 0.1])
  >>> greedy_dpp(features, relevance, num_selected=2, theta=0.5).indices
  Array([0, 2], dtype=int32)
  >>> greedy_dpp(features, relevance, num_selected=2, theta=0.95).indices
  Array([0, 1], dtype=int32)
  """
  if fill not in FILLS:
    raise ValueError(f"fill must be one of {FILLS}, got {fill!r}.")
  if isinstance(ridge, (int, float)) and not 0 <= ridge <= 1:
    raise ValueError(f"ridge must be in [0, 1], got {ridge}.")
  request = _Request(
      features, relevance, num_selected, where, shown_features, category_ids,
      quotas, window, slot_bias)
  theta = request.knob(theta, below_one=True)
  problem, windowed = request.problem(
      theta / (1 - theta), jnp.ones_like(theta), engine.DPP, ridge)

  def pick(problem):
    return engine.pick(
        problem, criterion=engine.DPP, num_slots=num_selected,
        windowed=windowed, ridge=ridge, fill=fill == "relevance",
        axis_name=axis_name)

  if prefilter is None:
    return request.slate(pick(problem))
  if prefilter < 1:
    raise ValueError(f"prefilter must be at least 1, got {prefilter}.")
  if axis_name is not None:
    raise ValueError("prefilter is for candidates on one device.")
  return request.slate(_prefiltered(problem, prefilter, pick))


def greedy_mmr(
    features: jax.Array,
    relevance: jax.Array,
    *,
    num_selected: int,
    theta: jax.Array | float,
    where: jax.Array | None = None,
    shown_features: jax.Array | None = None,
    category_ids: jax.Array | None = None,
    quotas: jax.Array | None = None,
    window: int | None = None,
    slot_bias: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> Slate:
  """Maximal marginal relevance: not too similar to any one pick before.

  The key is `theta (r + slot_bias) - (1 - theta) max_j cos(f_i, f_j)` over
  the picks j before (and shown items); with none, the second term is 0. Copies
  can be picked: they are only penalised.

  Args:
    features: as in `greedy_dpp`.
    relevance: `[..., N]`; mind its scale, the cosine is in [-1, 1].
    num_selected: K.
    theta: in [0, 1], a scalar or `[...]`; 1 is relevance alone.
    where: as in `greedy_dpp`, like all that follow.
    shown_features: `[..., S, D]`.
    category_ids: `[..., N]`.
    quotas: `[..., C]`.
    window: similarity to the last `window - 1` picks only.
    slot_bias: `[..., K, C]`.
    axis_name: mesh axes over which candidates are sharded.

  Returns:
    The `Slate`.

  Raises:
    ValueError: if shapes do not fit, or a static argument is out of range.

  References:
    Carbonell and Goldstein 1998, "The use of MMR".

  >>> import jax.numpy as jnp
  >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
  >>> greedy_mmr(features, jnp.array([0.9, 0.8, 0.1]), num_selected=2,
  ...            theta=0.5).indices
  Array([0, 2], dtype=int32)
  """
  request = _Request(
      features, relevance, num_selected, where, shown_features, category_ids,
      quotas, window, slot_bias)
  return _penalised(request, theta, engine.MMR, axis_name)


def greedy_ssd(
    features: jax.Array,
    relevance: jax.Array,
    *,
    num_selected: int,
    theta: jax.Array | float,
    where: jax.Array | None = None,
    shown_features: jax.Array | None = None,
    category_ids: jax.Array | None = None,
    quotas: jax.Array | None = None,
    window: int | None = None,
    slot_bias: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> Slate:
  """Sliding spectrum decomposition: relevance plus the volume of the window.

  The key is `theta (r + slot_bias) + (1 - theta) V_i`, V_i in [0, 1] the
  volume that candidate i spans together with the picks before it (and shown
  items), those of the window if there is one. A long slate without a window
  spans next to no volume, and relevance takes over; a copy adds none, but can
  be picked.

  Args:
    features: as in `greedy_dpp`.
    relevance: `[..., N]`; mind its scale, the volume is in [0, 1].
    num_selected: K.
    theta: in [0, 1], a scalar or `[...]`; 1 is relevance alone. The weight
      gamma of the paper is `(1 - theta) / theta`.
    where: as in `greedy_dpp`, like all that follow.
    shown_features: `[..., S, D]`.
    category_ids: `[..., N]`.
    quotas: `[..., C]`.
    window: volume of the last `window - 1` picks and the candidate.
    slot_bias: `[..., K, C]`.
    axis_name: mesh axes over which candidates are sharded.

  Returns:
    The `Slate`.

  Raises:
    ValueError: if shapes do not fit, or a static argument is out of range.

  References:
    Huang et al. 2021 (arXiv 2107.05204), the greedy algorithm with a sliding
    window; without its bias dimension, which users may append to features.

  >>> import jax.numpy as jnp
  >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
  >>> greedy_ssd(features, jnp.array([0.9, 0.8, 0.1]), num_selected=2,
  ...            theta=0.5).indices
  Array([0, 2], dtype=int32)
  """
  request = _Request(
      features, relevance, num_selected, where, shown_features, category_ids,
      quotas, window, slot_bias)
  return _penalised(request, theta, engine.SSD, axis_name)


def greedy_top_k(
    relevance: jax.Array,
    *,
    num_selected: int,
    where: jax.Array | None = None,
    category_ids: jax.Array | None = None,
    quotas: jax.Array | None = None,
    slot_bias: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> Slate:
  """The most relevant candidates: the limit theta = 1 of the others.

  The key is `r + slot_bias`, under the same mask and quotas.

  Args:
    relevance: `[..., N]`. Candidates whose relevance is not finite are not
      selected.
    num_selected: K.
    where: `[..., N]` bool, True = may be selected.
    category_ids: `[..., N]` or `[N]` integers, as in `greedy_dpp`.
    quotas: `[..., C]` or `[C]` integers, at most so many of a category.
    slot_bias: `[..., K, C]` or `[K, C]`, as in `greedy_dpp`.
    axis_name: mesh axes over which candidates are sharded.

  Returns:
    The `Slate`.

  Raises:
    ValueError: if shapes do not fit.

  >>> import jax.numpy as jnp
  >>> greedy_top_k(jnp.array([0.1, 0.9, 0.8]), num_selected=2,
  ...              category_ids=jnp.array([0, 1, 1]),
  ...              quotas=jnp.array([1, 1])).indices
  Array([1, 0], dtype=int32)
  """
  relevance = jnp.asarray(relevance)
  request = _Request(
      jnp.zeros((*relevance.shape[-1:], 0)), relevance, num_selected, where,
      None, category_ids, quotas, None, slot_bias)
  one = request.knob(1.0, below_one=False)
  problem, _ = request.problem(one, one, engine.DPP, None)
  return request.slate(engine.pick(
      problem, criterion=engine.DPP, num_slots=num_selected, windowed=False,
      ridge=None, fill=False, axis_name=axis_name))


def _penalised(request, theta, criterion, axis_name) -> Slate:
  """`theta` times relevance against `1 - theta` times something in [-1, 1]."""
  theta = request.knob(theta, below_one=False)
  problem, windowed = request.problem(theta, 1 - theta, criterion, None)
  return request.slate(engine.pick(
      problem, criterion=criterion, num_slots=request.num_selected,
      windowed=windowed, ridge=None, fill=False, axis_name=axis_name))


class _Request:
  """Arguments that all methods share, checked and brought to B rows."""

  def __init__(
      self, features, relevance, num_selected, where, shown_features,
      category_ids, quotas, window, slot_bias):
    features, relevance = jnp.asarray(features), jnp.asarray(relevance)
    for name, array in (("features", features), ("relevance", relevance)):
      if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got {array.dtype}.")
    if not relevance.ndim:
      raise ValueError("relevance must have shape [..., N], got a scalar.")
    if num_selected < 0:
      raise ValueError(
          f"num_selected must be at least 0, got {num_selected}.")
    if window is not None and window < 1:
      raise ValueError(f"window must be at least 1, got {window}.")
    self._shape = relevance.shape
    self._dtype = jnp.promote_types(
        jnp.promote_types(relevance.dtype, features.dtype), jnp.float32)
    self._batch, num_items = relevance.shape[:-1], relevance.shape[-1]
    self._num_rows = int(np.prod(self._batch))
    self.num_selected, self._window = num_selected, window
    self._features = self._rows(
        features, "features", (num_items, *features.shape[-1:]), shared=True)
    finite = jnp.isfinite(relevance)
    if where is not None:
      finite &= self._broadcast(
          jnp.asarray(where, bool), "where", relevance.shape)
    self._relevance = jnp.where(
        finite, relevance.astype(self._dtype), -jnp.inf).reshape(
            self._num_rows, num_items)
    self._shown = self._shown_rows(shown_features)
    self._categories, self._quotas, self._bias = self._rules(
        category_ids, quotas, slot_bias)

  def knob(self, theta: jax.Array | float, *, below_one: bool) -> jax.Array:
    """Theta of each row, `[B]`."""
    if isinstance(theta, (int, float)) and not (
        0 <= theta < 1 or (theta == 1 and not below_one)):
      interval = "[0, 1)" if below_one else "[0, 1]"
      raise ValueError(f"theta must be in {interval}, got {theta}.")
    theta = self._broadcast(
        jnp.asarray(theta, self._dtype), "theta", self._batch)
    most = 1 - jnp.finfo(self._dtype).epsneg if below_one else 1
    return jnp.clip(theta, 0, most).reshape(self._num_rows)

  def problem(
      self, of_relevance: jax.Array, of_term: jax.Array,
      criterion: engine.Criterion, ridge: float | None,
  ) -> tuple[engine.Problem, bool]:
    """The problem, and whether picks are compared within a window only."""
    rows, count = self._shown
    volume = jnp.ones(self._num_rows, self._dtype)
    # A window that nothing leaves is none.
    windowed = (self._window is not None and
                self._window <= rows.shape[1] + self.num_selected)
    if windowed:
      size = self._window - 1
      # The newest stand last, and none before the first.
      order = (jnp.arange(size) - size + count[:, None])
      padded = jnp.pad(rows, ((0, 0), (0, 1), (0, 0)))
      rows = jnp.take_along_axis(
          padded, jnp.where(order < 0, -1, order)[..., None], axis=1)
      count = jnp.minimum(count, size)
    elif criterion.is_orthogonal and rows.shape[1]:
      rows, volume = engine.directions(rows, ridge)
    relevance = jnp.where(  # 0 times -inf is not 0.
        self._relevance > -jnp.inf,
        of_relevance[:, None] * self._relevance, -jnp.inf)
    return engine.Problem(
        features=self._features, relevance=relevance,
        lists=jnp.zeros((1, self._shape[-1]), jnp.int32),
        categories=self._categories,
        limits=jnp.full((self._num_rows, 1), self.num_selected, jnp.int32),
        quotas=self._quotas,
        slot_bias=jnp.where(
            jnp.isfinite(self._bias),
            of_relevance[:, None, None] * self._bias, -jnp.inf),
        weight=of_term, rows=rows, num_rows=count, volume=volume), windowed

  def slate(self, picks: engine.Picks) -> Slate:
    """What was picked, in the shape of the arguments."""
    shape = (*self._batch, self.num_selected)
    return Slate(picks.indices.reshape(shape), picks.gains.reshape(shape),
                 picks.num_valid.reshape(self._batch))

  def _shown_rows(self, shown):
    """Unit features `[B, S, D]`, the ones there are first; their number."""
    num_features = self._features.shape[-1]
    if shown is None:
      return (jnp.zeros((self._num_rows, 0, num_features), self._dtype),
              jnp.zeros(self._num_rows, jnp.int32))
    shown = jnp.asarray(shown)
    shown = self._rows(
        shown, "shown_features", (*shown.shape[-2:-1], num_features))
    scale = engine.inverse_norms(shown, self._dtype)
    unit = jnp.where(
        scale[..., None] > 0, shown.astype(self._dtype) * scale[..., None], 0)
    order = jnp.argsort(scale == 0, axis=1, stable=True)
    return (jnp.take_along_axis(unit, order[..., None], axis=1),
            jnp.sum(scale > 0, axis=1, dtype=jnp.int32))

  def _rules(self, category_ids, quotas, slot_bias):
    """Categories `[B or 1, N]`, quotas `[B, C]` and bias `[B, K, C]`.

    The last category is that of candidates without one.
    """
    num_items, slots = self._shape[-1], self.num_selected
    free = jnp.full((self._num_rows, 1), num_items, jnp.int32)
    unbiased = jnp.zeros((self._num_rows, slots, 1), self._dtype)
    if quotas is None and slot_bias is None:
      return jnp.zeros((1, num_items), jnp.int32), free, unbiased
    if category_ids is None:
      raise ValueError("quotas and slot_bias need category_ids.")
    category_ids = jnp.asarray(category_ids)
    if not jnp.issubdtype(category_ids.dtype, jnp.integer):
      raise ValueError(
          f"category_ids must be integers, got {category_ids.dtype}.")
    count = jnp.shape(slot_bias if quotas is None else quotas)[-1:]
    if quotas is None:
      quotas = jnp.full(count, num_items, jnp.int32)
    quotas = jnp.asarray(quotas)
    if not jnp.issubdtype(quotas.dtype, jnp.integer):
      raise ValueError(f"quotas must be integers, got {quotas.dtype}.")
    quotas = self._rows(quotas, "quotas", count)
    bias = jnp.zeros((slots, *count)) if slot_bias is None else (
        jnp.asarray(slot_bias))
    bias = self._rows(bias, "slot_bias", (slots, *count))
    ids = self._rows(category_ids, "category_ids", (num_items,), shared=True)
    ids = jnp.where((ids >= 0) & (ids < count[0]), ids, count[0])
    return (ids.astype(jnp.int32),
            jnp.concatenate([quotas.astype(jnp.int32), free], axis=1),
            jnp.concatenate([bias.astype(self._dtype), unbiased], axis=2))

  def _rows(self, array, name, last, *, shared=False):
    """`[..., *last]` as `[B, *last]`; what all rows share `[1, *last]`."""
    if shared and array.shape == last:
      return array[None]
    array = self._broadcast(array, name, (*self._batch, *last))
    return array.reshape(self._num_rows, *last)

  def _broadcast(self, array, name, shape):
    try:
      return jnp.broadcast_to(array, shape)
    except ValueError:
      raise ValueError(
          f"{name} has shape {array.shape}, which does not broadcast to "
          f"{shape}; relevance has shape {self._shape}.") from None


def _prefiltered(problem: engine.Problem, size: int, pick) -> engine.Picks:
  """Picks among the candidates of the largest bounds, if that is certain.

  A key is at most what it is while nothing is picked, s2 being at most 1. So
  if every pick among some candidates has a key above that bound of all others,
  it is the pick among all.
  """
  num_items = problem.relevance.shape[1]
  if size >= num_items:
    return pick(problem)
  bias = jnp.max(problem.slot_bias, axis=1)
  categories = jnp.broadcast_to(problem.categories, problem.relevance.shape)
  bounds = problem.relevance + jnp.take_along_axis(bias, categories, axis=1)
  # NaN: -inf plus inf does not occur, biases are finite or -inf.
  best, chosen = lax.top_k(bounds, size + 1)
  # In their order: of equal keys the lowest index is picked.
  chosen = jnp.sort(chosen[:, :-1], axis=1)

  def of_chosen(array):
    if array.shape[0] == 1 < chosen.shape[0]:
      return array[0][chosen]
    index = chosen.reshape(chosen.shape + (1,) * (array.ndim - 2))
    return jnp.take_along_axis(array, index, axis=1)

  picks = pick(problem._replace(
      features=of_chosen(problem.features),
      relevance=of_chosen(problem.relevance),
      lists=jnp.zeros((1, size), jnp.int32),
      categories=of_chosen(problem.categories)))
  bound = best[:, None, -1:]
  is_certain = (picks.indices >= 0) & (picks.gains > bound)
  is_certain = jnp.all(is_certain | (bound == -jnp.inf))
  index = jnp.take_along_axis(
      chosen[:, None], jnp.maximum(picks.indices, 0), axis=2)
  picks = picks._replace(indices=jnp.where(picks.indices < 0, -1, index))
  return lax.cond(is_certain, lambda: picks, lambda: pick(problem))
