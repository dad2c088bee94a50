"""The greedy loop of this package: many lists side by side, one pick a slot.

A list is a set of candidates of which some are picked, one after the other;
lists know nothing of each other. A row holds N candidates and G lists of them:
one (a slate), or one for each category (the flow pool). Every pick gives a
direction x, and one product F x of all candidates with the directions of
their lists says how far each has come to be repeated. There is never an N x N
array, nor an N x K one without a window.
"""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

import harmonrank_jax.kernel as kernel
import harmonrank_jax.sharding as sharding

_EXACT = lax.Precision.HIGHEST
_einsum = functools.partial(jnp.einsum, precision=_EXACT)


class Criterion(NamedTuple):
  """What a candidate's nearness to the picks does to its key.

  The nearness is one value for each candidate: what is left of its unit
  feature beside the picks (squared), or its largest cosine with them.

  Attributes:
    code: its number in the kernel.
    start: the value while nothing is picked.
    is_orthogonal: a direction is what a pick adds to the span of those before
      it; otherwise the pick itself.
    nothing: the product with a pick that is none.
    update: from values and products `[B, W, N]` to the new values `[B, N]`.
    term: from values `[B, N]`, the volume of the picks and whether there are
      any to what is added to the key; -inf where it cannot be picked.
  """

  code: int
  start: float
  is_orthogonal: bool
  nothing: float
  update: Callable[[jax.Array, jax.Array], jax.Array]
  term: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _residual(value: jax.Array, products: jax.Array) -> jax.Array:
  return value - jnp.sum(products**2, axis=1)


def _log_residual(value, volume, any_picked):
  del volume, any_picked
  left = value > tolerance(value.dtype)
  return jnp.where(left, jnp.log(jnp.where(left, value, 1)), -jnp.inf)


def _volume(value, volume, any_picked):
  del any_picked
  left = jnp.where(value > tolerance(value.dtype), value, 0)
  return volume * jnp.sqrt(left)


def _largest(value: jax.Array, products: jax.Array) -> jax.Array:
  return jnp.maximum(value, jnp.max(products, axis=1, initial=-1))


def _dissimilarity(value, volume, any_picked):
  del volume
  return jnp.where(any_picked, -value, 0)


DPP = Criterion(0, 1.0, True, 0.0, _residual, _log_residual)
MMR = Criterion(1, -1.0, False, -1.0, _largest, _dissimilarity)
SSD = Criterion(2, 1.0, True, 0.0, _residual, _volume)


class Problem(NamedTuple):
  """B rows of N candidates in G lists, K slots, C categories.

  Attributes:
    features: `[B or 1, N, D]`, of any length; 1: all rows share them. Without
      a finite, non-zero feature a candidate cannot be picked. D = 0: there are
      none, and nothing is similar.
    relevance: `[B, N]`, weighted; -inf for what cannot be picked.
    lists: `[B, N]` int32, the list of each candidate, in [0, G).
    categories: `[B, N]` int32, in [0, C).
    limits: `[B, G]` int32, picks of each list at most.
    quotas: `[B, C]` int32, picks of each category at most.
    slot_bias: `[B, K, C]`, weighted; -inf: not in this slot.
    weight: `[B]`, of the criterion's term.
    rows: `[B, R, D]`, what picks are compared with at first. With a window
      the last R unit features, the newest last; without, directions.
    num_rows: `[B]` int32, how many of them there are: the last ones with a
      window, the first ones without.
    volume: `[B]`, of what the directions came from.
  """

  features: jax.Array
  relevance: jax.Array
  lists: jax.Array
  categories: jax.Array
  limits: jax.Array
  quotas: jax.Array
  slot_bias: jax.Array
  weight: jax.Array
  rows: jax.Array
  num_rows: jax.Array
  volume: jax.Array


class Picks(NamedTuple):
  """What was picked.

  Attributes:
    indices: `[B, G, K]` int32, -1 where nothing was.
    gains: `[B, G, K]`, the keys; 0 where nothing was picked.
    num_valid: `[B, G]` int32, picks by the key, not by filling.
  """

  indices: jax.Array
  gains: jax.Array
  num_valid: jax.Array


def tolerance(dtype: jnp.dtype) -> float:
  """What is left of a unit feature, squared, and is rounding at most."""
  return 1e-10 if dtype == jnp.float64 else 1e-5


def places(shape: tuple[int, ...]) -> jax.Array:
  """0, 1, ... along the last axis, int32."""
  return lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)


def inverse_norms(features: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """`1 / |f|` of `[..., D]`; 0 where f is zero, infinite or NaN."""
  features = features.astype(dtype)
  # Scaled by the largest entry, so that squares neither overflow nor vanish.
  largest = jnp.max(jnp.abs(features), axis=-1, initial=0)
  usable = jnp.isfinite(largest) & (largest >= jnp.finfo(dtype).tiny)
  largest = jnp.where(usable, largest, 1)
  square = jnp.sum((features / largest[..., None])**2, axis=-1)
  return jnp.where(usable, 1 / (largest * jnp.sqrt(square)), 0)


def direction(
    rows: jax.Array, feature: jax.Array, ridge: float | None
) -> tuple[jax.Array, jax.Array]:
  """What a pick adds to the directions of those before it.

  Args:
    rows: `[..., R, D]` directions; zero rows are none.
    feature: `[..., D]`, a unit feature.
    ridge: rho of the kernel `rho F F^T + (1 - rho) I`; None is 1.

  Returns:
    `[..., D]`, x so that `(x f)^2` is what candidate f loses by this pick, or
    0 if the pick was in their span; and what it had left, `[...]`.
  """
  along = _einsum("...rd,...d->...r", rows, feature)
  spanned = _einsum("...rd,...r->...d", rows, along)
  if ridge is not None:
    # sqrt(rho) of the direction between the parts that lie in the space of
    # features; the other parts are of no use to any candidate.
    left = jnp.maximum(1 - jnp.sum(along**2, axis=-1), tolerance(rows.dtype))
    return (ridge * feature - spanned) / jnp.sqrt(left)[..., None], left
  rest = feature - spanned
  # Once more: what the first pass left in their span is not small beside rest.
  rest -= _einsum("...rd,...r->...d", rows,
                  _einsum("...rd,...d->...r", rows, rest))
  left = jnp.sum(rest**2, axis=-1)
  outside = left > tolerance(rows.dtype)
  unit = rest / jnp.sqrt(jnp.where(outside, left, 1))[..., None]
  return jnp.where(outside[..., None], unit, 0), left


def directions(
    features: jax.Array, ridge: float | None
) -> tuple[jax.Array, jax.Array]:
  """`direction` of each of `[..., R, D]` unit features beside those before it.

  Returns:
    `[..., R, D]` directions, and the volume `[...]` that the features span;
    zero features are left out of it.
  """
  def body(carry, t):
    rows, volume = carry
    feature = features[..., t, :]
    row, left = direction(rows, feature, ridge)
    left = jnp.where(left > tolerance(rows.dtype), left, 0)
    is_one = jnp.any(feature != 0, axis=-1)
    volume *= jnp.where(is_one, jnp.sqrt(left), 1)
    return (rows.at[..., t, :].set(row), volume), None

  start = (jnp.zeros_like(features),
           jnp.ones(features.shape[:-2], features.dtype))
  return lax.scan(body, start, jnp.arange(features.shape[-2]))[0]


class _State(NamedTuple):
  """What changes from slot to slot."""

  relevance: jax.Array  # [B, N], -inf where taken
  value: jax.Array  # [B, N]
  remaining: jax.Array  # [B, C] int32
  memory: "_Memory"


class _Memory(NamedTuple):
  """What the next picks are compared with, in each list."""

  rows: jax.Array  # [B, G, R, D]
  num_rows: jax.Array  # [B, G] int32, picks and what was shown before
  volume: jax.Array  # [B, G]


class _Choice(NamedTuple):
  """The best candidate of each list."""

  item: jax.Array  # [B, G] int32
  key: jax.Array  # [B, G]
  feature: jax.Array  # [B, G, D], of unit length
  category: jax.Array  # [B, G] int32

  @property
  def found(self) -> jax.Array:
    """`[B, G]` bool, whether there is one."""
    return self.key > -jnp.inf


def pick(
    problem: Problem,
    *,
    criterion: Criterion,
    num_slots: int,
    windowed: bool,
    ridge: float | None,
    fill: bool,
    axis_name: sharding.AxisName | None = None,
) -> Picks:
  """Picks, slot after slot, the candidate of the largest key in every list.

  Of equal keys, the lowest index. A slot in which no candidate can be picked
  by its key stays empty, or with `fill` takes the most relevant one left.

  Args:
    problem: the candidates and the rules.
    criterion: DPP, MMR or SSD.
    num_slots: K.
    windowed: compare with the last R picks only, not with all.
    ridge: see `direction`.
    fill: see above.
    axis_name: mesh axes over which the candidates of a row are sharded.
  """
  dtype = problem.relevance.dtype
  if 0 in (*problem.relevance.shape, *problem.limits.shape, num_slots):
    shape = (*problem.limits.shape, num_slots)
    return Picks(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape, dtype),
                 jnp.zeros(problem.limits.shape, jnp.int32))
  static: dict[str, Any] = {
      "criterion": criterion, "num_slots": num_slots,
      "windowed": windowed, "ridge": ridge, "fill": fill}
  if axis_name is not None:
    return Picks(*_loop(problem, axis_name=axis_name, **static))
  if dtype == jnp.float64 or problem.features.dtype not in (
      jnp.float32, jnp.bfloat16):
    return Picks(*_loop(problem, axis_name=None, **static))
  return Picks(*_greedy(*problem, **static))


def subset(problem: Problem, chosen: jax.Array) -> Problem:
  """The problem of some candidates of every row, as one list.

  Args:
    problem: of lists that are rows.
    chosen: `[B, N']` int32, which; -1 for none.
  """
  index = jnp.maximum(chosen, 0)
  return problem._replace(
      features=_at(problem.features, index),
      relevance=jnp.where(
          chosen < 0, -jnp.inf, _at(problem.relevance, index)),
      lists=jnp.zeros((1, chosen.shape[1]), jnp.int32),
      categories=_at(problem.categories, index))


def superset(picks: Picks, chosen: jax.Array) -> Picks:
  """Picks of a `subset` with the indices of all candidates."""
  shape = picks.indices.shape
  index = jnp.maximum(picks.indices, 0).reshape(shape[0], -1)
  index = jnp.take_along_axis(chosen, index, axis=1).reshape(shape)
  return picks._replace(indices=jnp.where(picks.indices < 0, -1, index))


def _results(*problem: jax.ShapeDtypeStruct, num_slots: int, **_):
  relevance, limits = problem[1], problem[4]
  shape = (max(x.shape[0] for x in problem), limits.shape[1])
  return [((*shape, num_slots), jnp.int32),
          ((*shape, num_slots), relevance.dtype), (shape, jnp.int32)]


def _attributes(*, criterion, windowed, ridge, fill, **_):
  return {"criterion": np.int32(criterion.code), "windowed": windowed,
          "ridge": np.float32(-1 if ridge is None else ridge), "fill": fill}


@kernel.form_of(
    "greedy", layout=kernel.rows(_results), attributes=_attributes)
def _greedy(*problem: jax.Array, **static):
  """`_loop`, which has a kernel."""
  count = max(x.shape[0] for x in problem)
  p = Problem(*(jnp.broadcast_to(x, (count, *x.shape[1:]))
                if x.shape[0] == 1 else x for x in problem))
  # These are large, and may well be shared.
  p = p._replace(features=problem[0], lists=problem[2], categories=problem[3])
  return _loop(p, axis_name=None, **static)


# Compiled once a shape: without jit, every eager call would compile it anew.
@functools.partial(jax.jit, static_argnames=(
    "criterion", "num_slots", "windowed", "ridge", "fill", "axis_name"))
def _loop(
    p: Problem,
    *,
    criterion: Criterion,
    num_slots: int,
    windowed: bool,
    ridge: float | None,
    fill: bool,
    axis_name: sharding.AxisName | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`pick` in operations of JAX."""
  dtype = p.relevance.dtype
  lists = _lists_of(p, axis_name)
  compare = _Window if windowed else _Everything
  comparison = compare(lists, criterion, ridge, num_slots)

  def step(state: _State, slot: jax.Array):
    value, volume = comparison.look(state)
    bias = lax.dynamic_index_in_dim(p.slot_bias, slot, 1, keepdims=False)
    base = state.relevance + lists.of_category(
        jnp.where(state.remaining > 0, bias, -jnp.inf))
    base = jnp.where(lists.spread(slot < p.limits), base, -jnp.inf)

    term = criterion.term(value, lists.spread(volume),
                          lists.spread(state.memory.num_rows > 0))
    choice = lists.choose(base + p.weight[:, None] * term)
    by_key = choice.found
    if fill:
      # By relevance alone: beside it, differences may be lost to rounding.
      other = lists.choose(base)
      least = jnp.full_like(other.key, np.nextafter(
          np.asarray(tolerance(dtype), dtype), np.ones((), dtype)))
      other = other._replace(key=other.key + p.weight[:, None] * criterion.term(
          least, volume, state.memory.num_rows > 0))
      choice = jax.tree.map(lambda x, y: jnp.where(
          jnp.reshape(by_key, by_key.shape + (1,) * (x.ndim - 2)), x, y),
                            choice, other)
    state = comparison.remember(state._replace(
        relevance=jnp.where(
            lists.is_chosen(choice), -jnp.inf, state.relevance),
        remaining=state.remaining - lists.count_categories(choice)), choice)
    return state, (jnp.where(choice.found, choice.item, -1),
                   jnp.where(choice.found, choice.key, 0), by_key)

  def body(slot: jax.Array, carry):
    state, indices, gains, num_valid = carry
    state, (index, gain, by_key) = step(state, slot)
    put = functools.partial(
        lax.dynamic_update_index_in_dim, index=slot, axis=2)
    return state, put(indices, index), put(gains, gain), num_valid + by_key

  shape = p.limits.shape
  start = (comparison.start(p), jnp.full((*shape, num_slots), -1, jnp.int32),
           jnp.zeros((*shape, num_slots), dtype), jnp.zeros(shape, jnp.int32))
  # Of one list the limit is the number of slots, a static trip count, which
  # accelerators need not wait for; of many lists it may be far below.
  last = num_slots if shape[1] == 1 else jnp.minimum(
      jnp.max(p.limits, initial=0), num_slots)
  return lax.fori_loop(0, last, body, start)[1:]


class _Everything:
  """Compares with all picks before: values go on from slot to slot."""

  def __init__(self, lists, criterion, ridge, num_slots):
    self._lists, self._criterion, self._ridge = lists, criterion, ridge
    # Directions are remembered to keep the next ones out of their span.
    self._num_slots = num_slots if criterion.is_orthogonal else 0

  def start(self, p: Problem) -> _State:
    memory = self._lists.memory(p)
    shown = places(memory.rows.shape[:3]) < memory.num_rows[..., None]
    value = self._compared(
        jnp.full_like(p.relevance, self._criterion.start), memory.rows, shown)
    rows = jnp.pad(
        memory.rows, ((0, 0), (0, 0), (0, self._num_slots), (0, 0)))
    return _State(self._lists.relevance, value, p.quotas,
                  memory._replace(rows=rows))

  def look(self, state: _State) -> tuple[jax.Array, jax.Array]:
    return state.value, state.memory.volume

  def remember(self, state: _State, choice: _Choice) -> _State:
    rows, count, volume = state.memory
    new, found = choice.feature, choice.found
    if self._criterion.is_orthogonal:
      new, left = direction(rows, choice.feature, self._ridge)
      left = jnp.where(left > tolerance(left.dtype), left, 0)
      volume *= jnp.where(found, jnp.sqrt(left), 1)
      new = jnp.where(found[..., None], new, 0)
      # An empty slot puts its zeros where the next pick will be.
      at = places(rows.shape[:3]) == count[..., None]
      rows = jnp.where(at[..., None], new[:, :, None], rows)
    value = self._compared(state.value, new[:, :, None], found[..., None])
    return state._replace(
        value=value, memory=_Memory(rows, count + found, volume))

  def _compared(self, value, rows, present):
    return self._criterion.update(
        value, self._lists.products(rows, present, self._criterion.nothing))


class _Window:
  """Compares with the last R picks: their directions are made anew."""

  def __init__(self, lists, criterion, ridge, num_slots):
    del num_slots
    self._lists, self._criterion, self._ridge = lists, criterion, ridge

  def start(self, p: Problem) -> _State:
    value = jnp.full_like(p.relevance, self._criterion.start)
    return _State(self._lists.relevance, value, p.quotas,
                  self._lists.memory(p))

  def look(self, state: _State) -> tuple[jax.Array, jax.Array]:
    rows, count, volume = state.memory
    size = rows.shape[2]
    if self._criterion.is_orthogonal and size:
      rows, volume = directions(rows, self._ridge)
    present = places(rows.shape[:3]) >= size - count[..., None]
    products = self._lists.products(rows, present, self._criterion.nothing)
    return self._criterion.update(state.value, products), volume

  def remember(self, state: _State, choice: _Choice) -> _State:
    rows, count, volume = state.memory
    size = rows.shape[2]
    moved = jnp.concatenate([rows, choice.feature[:, :, None]], axis=2)
    moved = moved[:, :, 1:]
    found = choice.found
    return state._replace(memory=_Memory(
        jnp.where(found[..., None, None], moved, rows),
        jnp.minimum(count + found, size), volume))


class _OneList:
  """All candidates of a row are one list: G = 1."""

  def __init__(self, p: Problem):
    self._features, self._categories = p.features, p.categories
    self._num_categories = p.quotas.shape[1]
    self._scale = inverse_norms(p.features, p.relevance.dtype)
    self._num_rows, self._num_items = p.relevance.shape
    self.relevance = p.relevance
    if p.features.shape[-1]:
      self.relevance = jnp.where(self._scale > 0, p.relevance, -jnp.inf)

  def memory(self, p: Problem) -> _Memory:
    """What there is at first, for every list."""
    size = p.limits.shape
    rows = jnp.broadcast_to(p.rows[:, None], (*size, *p.rows.shape[1:]))
    return _Memory(rows, jnp.broadcast_to(p.num_rows[:, None], size),
                   jnp.broadcast_to(p.volume[:, None], size))

  def spread(self, values: jax.Array) -> jax.Array:
    """`[B, G]` of lists as `[B, N]`, or what broadcasts to it, of items."""
    return values

  def of_category(self, values: jax.Array) -> jax.Array:
    """`[B, C]` as `[B, N]`, or what broadcasts to it."""
    if self._num_categories == 1:
      return values
    shape = (values.shape[0], self._num_items)
    return jnp.take_along_axis(
        values, jnp.broadcast_to(self._categories, shape), axis=1)

  def products(
      self, rows: jax.Array, present: jax.Array, nothing: float
  ) -> jax.Array:
    """Of unit features with rows `[B, G, R, D]` of their lists: `[B, R, N]`.

    Where a row is not present `[B, G, R]`, `nothing`.
    """
    features = self._features.astype(rows.dtype)
    if features.shape[0] == 1:
      found = _einsum("brd,nd->brn", rows[:, 0], features[0])
    else:
      found = _einsum("brd,bnd->brn", rows[:, 0], features)
    scale = self._scale[:, None]
    # The product with a feature that is not finite may be NaN.
    found = jnp.where(scale > 0, found * scale, 0)
    return jnp.where(present[:, 0, :, None], found, nothing)

  def choose(self, keys: jax.Array) -> _Choice:
    """The first candidate of the largest of `[B, N]` keys, in each list."""
    index = jnp.argmax(keys, axis=1, keepdims=True).astype(jnp.int32)
    return self._choice(index, jnp.take_along_axis(keys, index, axis=1))

  def is_chosen(self, choice: _Choice) -> jax.Array:
    """`[B, N]` bool."""
    items = places((1, self._num_items))
    return (items == choice.item) & choice.found

  def count_categories(self, choice: _Choice) -> jax.Array:
    """`[B, C]` int32, how many candidates of each were chosen."""
    categories = places((1, 1, self._num_categories))
    is_one = choice.category[..., None] == categories
    return jnp.sum(is_one & choice.found[..., None], axis=1, dtype=jnp.int32)

  def _choice(self, index: jax.Array, key: jax.Array) -> _Choice:
    feature = _at(self._features, index).astype(key.dtype)
    return _Choice(index, key, feature * _at(self._scale, index)[..., None],
                   _at(self._categories, index))


class _ManyLists(_OneList):
  """Candidates of a row belong to lists that advance together."""

  def __init__(self, p: Problem):
    super().__init__(p)
    self._num_lists = p.limits.shape[1]
    self._lists = jnp.broadcast_to(p.lists, p.relevance.shape)
    rows = jnp.arange(self._num_rows, dtype=jnp.int32)[:, None]
    self._segments = (rows * self._num_lists + self._lists).reshape(-1)

  def spread(self, values):
    return jnp.take_along_axis(values, self._lists, axis=1)

  def products(self, rows, present, nothing):
    # With the rows of all lists, of which there are few, and then its own: a
    # matrix product, where each with its own would have to gather its rows.
    features = jnp.broadcast_to(
        self._features, (self._num_rows, *self._features.shape[1:]))
    every = _einsum("bgrd,bnd->bgrn", rows, features.astype(rows.dtype))
    own = self._lists[:, None, None, :]
    found = jnp.take_along_axis(every, own, axis=1)[:, 0]
    present = jnp.take_along_axis(present[..., None], own, axis=1)[:, 0]
    scale = self._scale[:, None]
    return jnp.where(
        present, jnp.where(scale > 0, found * scale, 0), nothing)

  def choose(self, keys):
    count = self._num_rows * self._num_lists
    best = jax.ops.segment_max(keys.reshape(-1), self._segments, count)
    best = best.reshape(self._num_rows, self._num_lists)
    items = places((1, self._num_items))
    first = jnp.where(keys == self.spread(best), items, self._num_items)
    index = jax.ops.segment_min(first.reshape(-1), self._segments, count)
    # A list without candidates has none that is best.
    index = jnp.minimum(index.reshape(best.shape), self._num_items - 1)
    return self._choice(index, best)

  def is_chosen(self, choice):
    chosen = jnp.where(choice.found, choice.item, -1)
    return self.spread(chosen) == places((1, self._num_items))


class _ShardedList(_OneList):
  """A list whose candidates lie on several devices; indices are of all."""

  def __init__(self, p: Problem, axis_name: sharding.AxisName):
    super().__init__(p)
    self._axis_name = axis_name
    self._first = lax.axis_index(axis_name) * self._num_items

  def choose(self, keys):
    own = super().choose(keys)
    # Everything about a choice in words of one array: one collective a slot.
    word = jnp.int64 if keys.dtype == jnp.float64 else jnp.int32
    packed = jnp.concatenate([
        (own.item + self._first).astype(word)[..., None],
        own.category.astype(word)[..., None],
        lax.bitcast_convert_type(own.key, word)[..., None],
        lax.bitcast_convert_type(own.feature, word)], axis=2)
    shards = sharding.gather(packed, self._axis_name, axis=1)
    every = lax.bitcast_convert_type(shards[..., 2], keys.dtype)
    # The first of equal shards holds the lowest index.
    best = jnp.argmax(every, axis=1, keepdims=True)
    chosen = _at(shards, best)
    numbers = lax.bitcast_convert_type(chosen[..., 2:], keys.dtype)
    return _Choice(chosen[..., 0].astype(jnp.int32), numbers[..., 0],
                   numbers[..., 1:], chosen[..., 1].astype(jnp.int32))

  def is_chosen(self, choice):
    items = self._first + places((1, self._num_items))
    return (items == choice.item) & choice.found


def _lists_of(p: Problem, axis_name: sharding.AxisName | None) -> _OneList:
  if p.limits.shape[1] > 1:
    return _ManyLists(p)
  return _OneList(p) if axis_name is None else _ShardedList(p, axis_name)


def _at(array: jax.Array, index: jax.Array) -> jax.Array:
  """Entries `[B, G]` of `[B or 1, N, ...]`: `[B, G, ...]`."""
  if array.shape[0] == 1:
    return array[0][index]
  index = index.reshape(index.shape + (1,) * (array.ndim - 2))
  return jnp.take_along_axis(array, index, axis=1)
