"""The greedy loop: many lists side by side, one pick in each slot.

A list is a set of candidates from which some are picked, one after the other;
lists are independent of each other. A row holds N candidates in G lists: one
list (a slate), or one for each category (the flow pool). Every pick yields a
direction x, and the products F x of all candidates with the directions of
their lists update how similar each candidate is to the picks. No array of size
N x N is formed, and none of size N x K without a window.
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
  """How similarity to the picks enters the key of a candidate.

  Each candidate has one value: the squared residual of its unit feature
  outside the span of the picks, or its largest cosine with a pick.

  Attributes:
    code: number of the criterion in the native form.
    start: value while nothing is picked.
    is_orthogonal: whether directions are orthogonalised against those of
      earlier picks; otherwise the direction is the pick itself.
    neutral: product with an empty row, which leaves values unchanged.
    update: function from values `[B, N]` and products `[B, W, N]` to values.
    term: function from values `[B, N]`, the volume of the picks and whether
      there are any to the term of the key; -inf if it rules a candidate out.
  """

  code: int
  start: float
  is_orthogonal: bool
  neutral: float
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
  """The state between two slots."""

  relevance: jax.Array  # [B, N], -inf for candidates that were picked
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

  Equal keys are resolved by the lowest index. A slot for which no candidate
  has a key stays empty, or with `fill` takes the most relevant one left.

  Args:
    problem: candidates and rules.
    criterion: DPP, MMR or SSD.
    num_slots: K.
    windowed: whether candidates are compared with the last R picks only.
    ridge: as in `directions.direction`.
    fill: whether slots without a key are filled by relevance.
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
  # The native form takes no shards and no other dtypes.
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
  """`_loop`, with its native form."""
  count = max(x.shape[0] for x in problem)
  p = problem_lib.Problem(*(jnp.broadcast_to(x, (count, *x.shape[1:]))
                if x.shape[0] == 1 else x for x in problem))
  # These arrays are large and may be shared by all rows: they stay as they are.
  p = p._replace(features=problem[0], lists=problem[2], categories=problem[3])
  return _loop(p, axis_name=None, **static)


# Jitted here, because every eager call would compile the loop anew.
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
  """The pure form of `pick`."""
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
    by_key = choice.exists
    if fill:
      # By relevance without the term, which could hide small differences.
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
    return state, (jnp.where(choice.exists, choice.item, -1),
                   jnp.where(choice.exists, choice.key, 0), by_key)

  def body(slot: jax.Array, carry):
    state, indices, gains, num_valid = carry
    state, (index, gain, by_key) = step(state, slot)
    put = functools.partial(
        lax.dynamic_update_index_in_dim, index=slot, axis=2)
    return state, put(indices, index), put(gains, gain), num_valid + by_key

  shape = p.limits.shape
  start = (comparison.start(p), jnp.full((*shape, num_slots), -1, jnp.int32),
           jnp.zeros((*shape, num_slots), dtype), jnp.zeros(shape, jnp.int32))
  # One list fills all slots: its trip count is static, so accelerators need
  # not wait for a value. Many lists may have limits far below K.
  last = num_slots if shape[1] == 1 else jnp.minimum(
      jnp.max(p.limits, initial=0), num_slots)
  return lax.fori_loop(0, last, body, start)[1:]


class _Everything:
  """Compares with all earlier picks: values are carried from slot to slot."""

  def __init__(self, lists, criterion, ridge, num_slots):
    self._lists, self._criterion, self._ridge = lists, criterion, ridge
    # Directions are kept to orthogonalise later ones against them.
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
    new, exists = choice.feature, choice.exists
    if self._criterion.is_orthogonal:
      new, left = directions.direction(
          rows, choice.feature, self._ridge)
      left = jnp.where(left > directions.tolerance(left.dtype), left, 0)
      volume *= jnp.where(exists, jnp.sqrt(left), 1)
      new = jnp.where(exists[..., None], new, 0)
      # An empty slot writes zeros, which the next pick overwrites.
      at = problem_lib.places(rows.shape[:3]) == count[..., None]
      rows = jnp.where(at[..., None], new[:, :, None], rows)
    value = self._compared(state.value, new[:, :, None], exists[..., None])
    return state._replace(
        value=value, memory=lists_lib.Memory(rows, count + exists, volume))

  def _compared(self, value, rows, present):
    return self._criterion.update(
        value, self._lists.products(rows, present, self._criterion.neutral))


class _Window:
  """Compares with the last R picks; their directions are computed anew."""

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
    products = self._lists.products(rows, present, self._criterion.neutral)
    return self._criterion.update(state.value, products), volume

  def remember(self, state: _State, choice: lists_lib.Choice) -> _State:
    rows, count, volume = state.memory
    size = rows.shape[2]
    moved = jnp.concatenate([rows, choice.feature[:, :, None]], axis=2)
    moved = moved[:, :, 1:]
    exists = choice.exists
    return state._replace(memory=lists_lib.Memory(
        jnp.where(exists[..., None, None], moved, rows),
        jnp.minimum(count + exists, size), volume))
