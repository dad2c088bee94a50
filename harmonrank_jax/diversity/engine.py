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

from harmonrank_jax.diversity import directions
from harmonrank_jax.diversity import lists as lists_lib
from harmonrank_jax.diversity import problem as problem_lib
import harmonrank_jax.native as native
import harmonrank_jax.sharding as sharding


class Criterion(NamedTuple):
  """What a candidate's nearness to the picks does to its key.

  The nearness is one value for each candidate: what is left of its unit
  feature beside the picks (squared), or its largest cosine with them.

  Attributes:
    code: its number in the native form.
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
  left = value > directions.tolerance(value.dtype)
  return jnp.where(left, jnp.log(jnp.where(left, value, 1)), -jnp.inf)


def _volume(value, volume, any_picked):
  del any_picked
  left = jnp.where(value > directions.tolerance(value.dtype), value, 0)
  return volume * jnp.sqrt(left)


def _largest(value: jax.Array, products: jax.Array) -> jax.Array:
  return jnp.maximum(value, jnp.max(products, axis=1, initial=-1))


def _dissimilarity(value, volume, any_picked):
  del volume
  return jnp.where(any_picked, -value, 0)


DPP = Criterion(0, 1.0, True, 0.0, _residual, _log_residual)
MMR = Criterion(1, -1.0, False, -1.0, _largest, _dissimilarity)
SSD = Criterion(2, 1.0, True, 0.0, _residual, _volume)


class _State(NamedTuple):
  """What changes from slot to slot."""

  relevance: jax.Array  # [B, N], -inf where taken
  value: jax.Array  # [B, N]
  remaining: jax.Array  # [B, C] int32
  memory: lists_lib.Memory


def pick(
    problem: problem_lib.Problem,
    *,
    criterion: Criterion,
    num_slots: int,
    windowed: bool,
    ridge: float | None,
    fill: bool,
    axis_name: sharding.AxisName | None = None,
) -> problem_lib.Picks:
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
    return problem_lib.Picks(
        jnp.full(shape, -1, jnp.int32), jnp.zeros(shape, dtype),
        jnp.zeros(problem.limits.shape, jnp.int32))
  static: dict[str, Any] = {
      "criterion": criterion, "num_slots": num_slots,
      "windowed": windowed, "ridge": ridge, "fill": fill}
  # What the native form does not take.
  if axis_name is not None or dtype == jnp.float64 or (
      problem.features.dtype not in (jnp.float32, jnp.bfloat16)):
    return problem_lib.Picks(*_loop(problem, axis_name=axis_name, **static))
  return problem_lib.Picks(*_greedy(*problem, **static))


def _results(*problem: jax.ShapeDtypeStruct, num_slots: int, **_):
  relevance, limits = problem[1], problem[4]
  shape = (max(x.shape[0] for x in problem), limits.shape[1])
  return [((*shape, num_slots), jnp.int32),
          ((*shape, num_slots), relevance.dtype), (shape, jnp.int32)]


def _attributes(*, criterion, windowed, ridge, fill, **_):
  return {"criterion": np.int32(criterion.code), "windowed": windowed,
          "ridge": np.float32(-1 if ridge is None else ridge), "fill": fill}


@native.form_of(
    "greedy", layout=native.rows(_results), attributes=_attributes)
def _greedy(*problem: jax.Array, **static):
  """`_loop`, which has a native form."""
  count = max(x.shape[0] for x in problem)
  p = problem_lib.Problem(*(jnp.broadcast_to(x, (count, *x.shape[1:]))
                if x.shape[0] == 1 else x for x in problem))
  # These are large, and may well be shared.
  p = p._replace(features=problem[0], lists=problem[2], categories=problem[3])
  return _loop(p, axis_name=None, **static)


# Compiled once a shape: without jit, every eager call would compile it anew.
@functools.partial(jax.jit, static_argnames=(
    "criterion", "num_slots", "windowed", "ridge", "fill", "axis_name"))
def _loop(
    p: problem_lib.Problem,
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
  lists = lists_lib.lists_of(p, axis_name)
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
          np.asarray(directions.tolerance(dtype), dtype), np.ones((), dtype)))
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

  def start(self, p: problem_lib.Problem) -> _State:
    memory = self._lists.memory(p)
    place = problem_lib.places(memory.rows.shape[:3])
    shown = place < memory.num_rows[..., None]
    value = self._compared(
        jnp.full_like(p.relevance, self._criterion.start), memory.rows, shown)
    rows = jnp.pad(
        memory.rows, ((0, 0), (0, 0), (0, self._num_slots), (0, 0)))
    return _State(self._lists.relevance, value, p.quotas,
                  memory._replace(rows=rows))

  def look(self, state: _State) -> tuple[jax.Array, jax.Array]:
    return state.value, state.memory.volume

  def remember(self, state: _State, choice: lists_lib.Choice) -> _State:
    rows, count, volume = state.memory
    new, found = choice.feature, choice.found
    if self._criterion.is_orthogonal:
      new, left = directions.direction(
          rows, choice.feature, self._ridge)
      left = jnp.where(left > directions.tolerance(left.dtype), left, 0)
      volume *= jnp.where(found, jnp.sqrt(left), 1)
      new = jnp.where(found[..., None], new, 0)
      # An empty slot puts its zeros where the next pick will be.
      at = problem_lib.places(rows.shape[:3]) == count[..., None]
      rows = jnp.where(at[..., None], new[:, :, None], rows)
    value = self._compared(state.value, new[:, :, None], found[..., None])
    return state._replace(
        value=value, memory=lists_lib.Memory(rows, count + found, volume))

  def _compared(self, value, rows, present):
    return self._criterion.update(
        value, self._lists.products(rows, present, self._criterion.nothing))


class _Window:
  """Compares with the last R picks: their directions are made anew."""

  def __init__(self, lists, criterion, ridge, num_slots):
    del num_slots
    self._lists, self._criterion, self._ridge = lists, criterion, ridge

  def start(self, p: problem_lib.Problem) -> _State:
    value = jnp.full_like(p.relevance, self._criterion.start)
    return _State(self._lists.relevance, value, p.quotas,
                  self._lists.memory(p))

  def look(self, state: _State) -> tuple[jax.Array, jax.Array]:
    rows, count, volume = state.memory
    size = rows.shape[2]
    if self._criterion.is_orthogonal and size:
      rows, volume = directions.directions(rows, self._ridge)
    present = problem_lib.places(rows.shape[:3]) >= size - count[..., None]
    products = self._lists.products(rows, present, self._criterion.nothing)
    return self._criterion.update(state.value, products), volume

  def remember(self, state: _State, choice: lists_lib.Choice) -> _State:
    rows, count, volume = state.memory
    size = rows.shape[2]
    moved = jnp.concatenate([rows, choice.feature[:, :, None]], axis=2)
    moved = moved[:, :, 1:]
    found = choice.found
    return state._replace(memory=lists_lib.Memory(
        jnp.where(found[..., None, None], moved, rows),
        jnp.minimum(count + found, size), volume))
