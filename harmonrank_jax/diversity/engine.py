"""The greedy loop: many lists side by side, one pick in each slot.

A list is a set of candidates from which some are picked, one after the other;
lists are independent of each other. A row holds N candidates in G lists: one
list (a slate), or one for each category (the flow pool). Every pick yields a
direction x, and the products F x of all candidates with the directions of
their lists update how similar each candidate is to the picks. No array of size
N x N is formed, and none of size N x K without a window.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
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
  """How similarity to the picks enters the gain of a candidate.

  Each candidate has one value: the squared residual of its unit feature
  outside the span of the picks, or its largest cosine with a pick.
  """

  code: int  # number of the criterion in the native form
  start: float  # value while nothing is picked
  # Whether directions are orthogonalised against those of earlier picks;
  # otherwise the direction is the pick itself.
  is_orthogonal: bool
  neutral: float  # product with an empty row, which leaves values unchanged
  # From values [B, N] and products [B, R, N] to values.
  update: Callable[[jax.Array, jax.Array], jax.Array]
  # From values [B, N], the volume of the picks and whether there are any to
  # the term of the gain; -inf rules a candidate out.
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


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the loop is compiled for."""

  criterion: Criterion
  windowed: bool = False  # whether only the last R picks are compared with
  ridge: float | None = None  # as in `directions.direction`
  fill: bool = False  # whether slots without a gain are filled by relevance


class _State(NamedTuple):
  """The state between two slots."""

  relevance: jax.Array  # [B, N], -inf for candidates that were picked
  value: jax.Array  # [B, N]
  remaining: jax.Array  # [B, C] int32
  # Directions (with a window, unit features) that the next picks of each list
  # are compared with.
  compared: jax.Array  # [B, G, R, D]
  num_compared: jax.Array  # [B, G] int32, shown items and picks
  volume: jax.Array  # [B, G]


def pick(
    problem: problem_lib.Problem,
    *,
    settings: Settings,
    axis_name: sharding.AxisName | None = None,
) -> problem_lib.Selection:
  """Picks, slot after slot, the candidate of the largest gain in every list.

  Equal gains are resolved by the lowest index. A slot for which no candidate
  has a gain stays empty, or with `fill` takes the most relevant one left.
  """
  dtype = problem.relevance.dtype
  shape = (*problem.limits.shape, problem.slot_bias.shape[1])
  if 0 in (*problem.relevance.shape, *shape):
    return problem_lib.Selection(
        jnp.full(shape, -1, jnp.int32), jnp.zeros(shape, dtype),
        jnp.zeros(shape[:-1], jnp.int32))
  # The native form takes no shards and no other dtypes.
  if axis_name is not None or dtype == jnp.float64 or (
      problem.features.dtype not in (jnp.float32, jnp.bfloat16)):
    return problem_lib.Selection(*_loop(
        problem, settings=settings, axis_name=axis_name))
  return problem_lib.Selection(*_greedy(*problem, settings=settings))


def _num_rows(problem: Sequence[Any]) -> int:
  """B; it may be open, in a function to be exported, and compare with none."""
  return jnp.broadcast_shapes(*(x.shape[:1] for x in problem))[0]


def _results(*problem: Any, **_):
  p = problem_lib.Problem(*problem)
  shape = (_num_rows(problem), p.limits.shape[1])
  slots = (*shape, p.slot_bias.shape[1])
  return [(slots, jnp.int32), (slots, p.relevance.dtype), (shape, jnp.int32)]


def _attributes(*, settings: Settings):
  ridge = -1 if settings.ridge is None else settings.ridge
  return {"criterion": np.int32(settings.criterion.code),
          "windowed": settings.windowed, "ridge": np.float32(ridge),
          "fill": settings.fill}


@native.form_of(
    "greedy", layout=native.rows(_results), attributes=_attributes)
def _greedy(*problem: jax.Array, settings: Settings):
  """`_loop`, with its native form."""
  count = _num_rows(problem)
  p = problem_lib.Problem(*(
      jnp.broadcast_to(x, (count, *x.shape[1:])) if x.shape[0] == 1 else x
      for x in problem))
  # These arrays are large and may be shared by all rows: they stay as they are.
  p = p._replace(features=problem[0], lists=problem[2], categories=problem[3])
  return _loop(p, settings=settings, axis_name=None)


# Jitted here, because every eager call would compile the loop anew.
@functools.partial(jax.jit, static_argnames=("settings", "axis_name"))
def _loop(
    p: problem_lib.Problem, *, settings: Settings,
    axis_name: sharding.AxisName | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The pure form of `pick`."""
  lists = lists_lib.lists_of(p, axis_name)
  compare = _Window if settings.windowed else _Everything
  comparison = compare(lists, settings.criterion, settings.ridge)

  def body(slot: jax.Array, carry):
    state, indices, gains, num_valid = carry
    value, volume = comparison.look(state)
    choice, has_gain = _choose(
        p, lists, settings, state, slot, value, volume)
    state = comparison.remember(state._replace(
        relevance=jnp.where(
            lists.is_chosen(choice), -jnp.inf, state.relevance),
        remaining=state.remaining - lists.count_categories(choice)), choice)
    put = functools.partial(
        lax.dynamic_update_index_in_dim, index=slot, axis=2)
    return (state, put(indices, jnp.where(choice.exists, choice.item, -1)),
            put(gains, jnp.where(choice.exists, choice.gain, 0)),
            num_valid + has_gain.astype(jnp.int32))

  shape, num_slots = p.limits.shape, p.slot_bias.shape[1]
  start = (comparison.start(p), jnp.full((*shape, num_slots), -1, jnp.int32),
           jnp.zeros((*shape, num_slots), p.relevance.dtype),
           jnp.zeros(shape, jnp.int32))
  # One list fills all slots: its trip count is static, so accelerators need
  # not wait for a value. Many lists may have limits far below K.
  last = num_slots if shape[1] == 1 else jnp.minimum(
      jnp.max(p.limits, initial=0), num_slots)
  return lax.fori_loop(0, last, body, start)[1:]


def _choose(
    p: problem_lib.Problem, lists, settings: Settings, state: _State,
    slot: jax.Array, value: jax.Array, volume: jax.Array,
) -> tuple[lists_lib.Choice, jax.Array]:
  """The choice of each list for a slot, and whether it had a gain `[B, G]`."""
  any_picked, term_of = state.num_compared > 0, settings.criterion.term
  bias = lax.dynamic_index_in_dim(p.slot_bias, slot, 1, keepdims=False)
  base = state.relevance + lists.of_category(
      jnp.where(state.remaining > 0, bias, -jnp.inf))
  base = jnp.where(lists.to_candidates(slot < p.limits), base, -jnp.inf)
  term = term_of(
      value, lists.to_candidates(volume), lists.to_candidates(any_picked))
  # Filled by relevance without the term, which could hide small differences.
  choice = lists.choose(
      base + p.weight[:, None] * term, base if settings.fill else None)
  if not settings.fill:
    return choice, choice.by_gain
  dtype = base.dtype
  least = jnp.full_like(choice.gain, np.nextafter(
      np.asarray(directions.tolerance(dtype), dtype), np.ones((), dtype)))
  gain = choice.gain + jnp.where(choice.by_gain, 0, p.weight[:, None] * term_of(
      least, volume, any_picked))
  return choice._replace(gain=gain), choice.by_gain


class _Comparison:
  """How candidates are compared with earlier picks."""

  def __init__(self, lists, criterion: Criterion, ridge: float | None):
    self._lists, self._criterion, self._ridge = lists, criterion, ridge

  def start(self, p: problem_lib.Problem) -> _State:
    """The state before the first slot."""
    size = p.limits.shape
    return _State(
        p.relevance,
        jnp.full_like(p.relevance, self._criterion.start), p.quotas,
        jnp.broadcast_to(p.compared[:, None], (*size, *p.compared.shape[1:])),
        jnp.broadcast_to(p.num_compared[:, None], size),
        jnp.broadcast_to(p.volume[:, None], size))

  def _updated(self, value, compared, present):
    """Values beside the rows that are present."""
    return self._criterion.update(value, self._lists.products(
        compared, present, self._criterion.neutral))


class _Everything(_Comparison):
  """Compares with all earlier picks: values are carried from slot to slot."""

  def start(self, p: problem_lib.Problem) -> _State:
    state = super().start(p)
    place = problem_lib.places(state.compared.shape[:3])
    shown = place < state.num_compared[..., None]
    # Directions are kept to orthogonalise later ones against them.
    room = p.slot_bias.shape[1] if self._criterion.is_orthogonal else 0
    return state._replace(
        value=self._updated(state.value, state.compared, shown),
        compared=jnp.pad(state.compared, ((0, 0), (0, 0), (0, room), (0, 0))))

  def look(self, state: _State) -> tuple[jax.Array, jax.Array]:
    return state.value, state.volume

  def remember(self, state: _State, choice: lists_lib.Choice) -> _State:
    compared, count, volume = state[3:]
    new, exists = choice.feature, choice.exists
    if self._criterion.is_orthogonal:
      new, left = directions.direction(compared, new, self._ridge)
      volume *= directions.volume(jnp.where(exists, left, 1)[..., None])
      new = jnp.where(exists[..., None], new, 0)
      # An empty slot writes zeros, which the next pick overwrites.
      at = problem_lib.places(compared.shape[:3]) == count[..., None]
      compared = jnp.where(at[..., None], new[:, :, None], compared)
    return state._replace(
        value=self._updated(state.value, new[:, :, None], exists[..., None]),
        compared=compared, num_compared=count + exists.astype(jnp.int32),
        volume=volume)


class _Window(_Comparison):
  """Compares with the last R picks; their directions are computed anew."""

  def look(self, state: _State) -> tuple[jax.Array, jax.Array]:
    compared, count, volume = state[3:]
    size = compared.shape[2]
    if self._criterion.is_orthogonal:
      compared, left = directions.directions(compared, self._ridge)
      volume = directions.volume(left)
    present = problem_lib.places(compared.shape[:3]) >= size - count[..., None]
    return self._updated(state.value, compared, present), volume

  def remember(self, state: _State, choice: lists_lib.Choice) -> _State:
    size, exists = state.compared.shape[2], choice.exists
    moved = jnp.concatenate(
        [state.compared, choice.feature[:, :, None]], axis=2)[:, :, 1:]
    return state._replace(
        compared=jnp.where(exists[..., None, None], moved, state.compared),
        num_compared=jnp.minimum(
            state.num_compared + exists.astype(jnp.int32), size))
