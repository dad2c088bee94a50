"""Checks the arguments of all methods and broadcasts them to rows."""

import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.diversity import directions
from harmonrank_jax.diversity import engine
from harmonrank_jax.diversity import problem as problem_lib

FILLS = ("none", "relevance")


class Arguments:
  """The arguments that all methods share, checked and as B rows.

  Leading axes are flattened: B is their product.

  Attributes:
    batch: shape of the leading axes.
    num_selected: K.
    dtype: dtype of the keys.
  """

  def __init__(
      self,
      features: jax.Array | None,
      relevance: jax.Array,
      num_selected: int,
      where: jax.Array | None,
      *,
      shown_features: jax.Array | None = None,
      category_ids: jax.Array | None = None,
      quotas: jax.Array | None = None,
      window: int | None = None,
      slot_bias: jax.Array | None = None,
  ):
    relevance = jnp.asarray(relevance)
    if not relevance.ndim:
      raise ValueError("relevance must have shape [..., N], got a scalar.")
    if features is None:
      features = jnp.zeros((*relevance.shape[-1:], 0), jnp.float32)
    else:
      features = jnp.asarray(features)
      if (features.shape[-2:-1] != relevance.shape[-1:]
          or not features.shape[-1]):
        raise ValueError(
            "features must have shape [..., N, D], D at least 1, got "
            f"{features.shape}; relevance has shape {relevance.shape}.")
    for name, array in (("features", features), ("relevance", relevance)):
      if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got {array.dtype}.")
    # Indices have no derivative, in the pure and in the native form.
    features, relevance = lax.stop_gradient((features, relevance))
    if num_selected < 0:
      raise ValueError(
          f"num_selected must be at least 0, got {num_selected}.")
    if window is not None and window < 1:
      raise ValueError(f"window must be at least 1, got {window}.")
    self._shape = relevance.shape
    self.dtype = jnp.promote_types(
        jnp.promote_types(relevance.dtype, features.dtype), jnp.float32)
    self.batch, num_items = relevance.shape[:-1], relevance.shape[-1]
    self._num_rows = math.prod(self.batch)
    self.num_selected, self._window = num_selected, window
    self._features = self.rows(
        features, "features", (num_items, *features.shape[-1:]), shared=True)
    finite = jnp.isfinite(relevance)
    if where is not None:
      finite &= broadcast(
          jnp.asarray(where, bool), "where", relevance.shape)
    self._relevance = jnp.where(
        finite, relevance.astype(self.dtype), -jnp.inf).reshape(
            self._num_rows, num_items)
    self._shown = self._shown_rows(shown_features)
    self._categories, self._quotas, self._bias = self._rules(
        category_ids, quotas, slot_bias)

  def knob(self, theta: jax.Array | float, *, below_one: bool) -> jax.Array:
    """Theta of each row, `[B]`; a traced one is clipped into its range."""
    if isinstance(theta, (int, float)) and not (
        0 <= theta < 1 or (theta == 1 and not below_one)):
      interval = "[0, 1)" if below_one else "[0, 1]"
      raise ValueError(f"theta must be in {interval}, got {theta}.")
    theta = broadcast(lax.stop_gradient(
        jnp.asarray(theta, self.dtype)), "theta", self.batch)
    most = 1 - jnp.finfo(self.dtype).epsneg if below_one else 1
    return jnp.clip(theta, 0, most).reshape(self._num_rows)

  def problem(
      self, of_relevance: jax.Array, of_term: jax.Array,
      criterion: engine.Criterion, ridge: float | None,
  ) -> tuple[problem_lib.Problem, bool]:
    """The problem of these weights, and whether it has a window.

    Args:
      of_relevance: `[B]`, weight of relevance and slot bias.
      of_term: `[B]`, weight of the criterion's term.
      criterion: DPP, MMR or SSD.
      ridge: rho of the kernel of a DPP, or None.
    """
    rows, count = self._shown
    volume = jnp.ones(self._num_rows, self.dtype)
    window = self._window
    if window is not None and window > rows.shape[1] + self.num_selected:
      window = None  # Too long for any pick to leave it.
    if window is not None:
      size = window - 1
      # The newest row is the last; rows that do not exist come first, as 0.
      order = problem_lib.places((1, size)) - size + count[:, None]
      padded = jnp.pad(rows, ((0, 0), (0, 1), (0, 0)))
      rows = jnp.take_along_axis(
          padded, jnp.where(order < 0, -1, order)[..., None], axis=1)
      count = jnp.minimum(count, size)
    elif criterion.is_orthogonal and rows.shape[1]:
      rows, volume = directions.directions(rows, ridge)
    # Clipped, so that relevance and bias have a finite sum.
    largest = jnp.finfo(self.dtype).max / 4

    def weighted(values):
      weights = of_relevance.reshape(-1, *(1 for _ in values.shape[1:]))
      return jnp.where(jnp.isfinite(values), jnp.clip(
          weights * values, -largest, largest), -jnp.inf)

    return problem_lib.Problem(
        features=self._features, relevance=weighted(self._relevance),
        lists=jnp.zeros((1, self._shape[-1]), jnp.int32),
        categories=self._categories,
        limits=jnp.full((self._num_rows, 1), self.num_selected, jnp.int32),
        quotas=self._quotas,
        slot_bias=weighted(self._bias),
        weight=of_term, rows=rows, num_rows=count,
        volume=volume), window is not None

  def traded_off(
      self, theta: jax.Array | float, criterion: engine.Criterion,
      ridge: float | None = None,
  ) -> tuple[problem_lib.Problem, bool]:
    """`problem` with the weights that theta stands for.

    They are `theta` and `1 - theta`; for the DPP, whose term is a logarithm,
    `2 alpha = theta / (1 - theta)` and 1.
    """
    is_dpp = criterion is engine.DPP
    theta = self.knob(theta, below_one=is_dpp)
    if is_dpp:
      weights = theta / (1 - theta), jnp.ones_like(theta)
    else:
      weights = theta, 1 - theta
    return self.problem(*weights, criterion, ridge)

  def _shown_rows(self, shown):
    """Unit features `[B, S, D]` of shown items, and their number `[B]`.

    Items that exist come first, in their order.
    """
    num_features = self._features.shape[-1]
    if shown is None:
      return (jnp.zeros((self._num_rows, 0, num_features), self.dtype),
              jnp.zeros(self._num_rows, jnp.int32))
    shown = lax.stop_gradient(jnp.asarray(shown))
    if shown.ndim < 2:
      raise ValueError("shown_features must have shape [..., S, D], got "
                       f"{shown.shape}.")
    shown = self.rows(
        shown, "shown_features", (*shown.shape[-2:-1], num_features))
    scale = directions.inverse_norms(shown, self.dtype)
    unit = jnp.where(
        scale[..., None] > 0, shown.astype(self.dtype) * scale[..., None], 0)
    order = jnp.argsort(scale == 0, axis=1, stable=True)
    return (jnp.take_along_axis(unit, order[..., None], axis=1),
            jnp.sum(scale > 0, axis=1, dtype=jnp.int32))

  def _rules(self, category_ids, quotas, slot_bias):
    """Categories `[B or 1, N]`, quotas `[B, C]` and bias `[B, K, C]`.

    The last category holds the candidates without one.
    """
    num_items, slots = self._shape[-1], self.num_selected
    # A quota of all slots is no limit.
    free = jnp.full((self._num_rows, 1), slots, jnp.int32)
    unbiased = jnp.zeros((self._num_rows, slots, 1), self.dtype)
    if quotas is None and slot_bias is None:
      return jnp.zeros((1, num_items), jnp.int32), free, unbiased
    if category_ids is None:
      raise ValueError("quotas and slot_bias need category_ids.")
    count = last_axis(*(("slot_bias", slot_bias) if quotas is None else
                        ("quotas", quotas)))
    if quotas is None:
      quotas = jnp.full(count, slots, jnp.int32)
    quotas = self.rows(integers(quotas, "quotas"), "quotas", count)
    bias = jnp.zeros((slots, *count), self.dtype) if slot_bias is None else (
        lax.stop_gradient(jnp.asarray(slot_bias)))
    bias = self.rows(bias, "slot_bias", (slots, *count))
    ids = self.rows(integers(category_ids, "category_ids"), "category_ids",
                    (num_items,), shared=True)
    ids = jnp.where((ids >= 0) & (ids < count[0]), ids, count[0])
    return (ids, jnp.concatenate([quotas, free], axis=1),
            jnp.concatenate([bias.astype(self.dtype), unbiased], axis=2))

  def rows(
      self, array: jax.Array, name: str, last: tuple[int, ...], *,
      shared: bool = False,
  ) -> jax.Array:
    """`[..., *last]` as `[B, *last]`; if `shared`, `last` as `[1, *last]`."""
    if shared and array.shape == last:
      return array[None]
    array = broadcast(array, name, (*self.batch, *last))
    return array.reshape(self._num_rows, *last)


def broadcast(
    array: jax.Array, name: str, shape: tuple[int, ...]
) -> jax.Array:
  """Broadcasts an array to a shape.

  Raises:
    ValueError: if it does not broadcast; with the name of the argument.
  """
  try:
    return jnp.broadcast_to(array, shape)
  except ValueError:
    raise ValueError(
        f"{name} has shape {array.shape}, which does not broadcast to "
        f"{shape}.") from None


def integers(values: jax.Array | int, name: str) -> jax.Array:
  """Integers as int32; those beyond its range become its ends.

  Raises:
    ValueError: if values are not integers; with the name of the argument.
  """
  # JAX would truncate 64-bit integers of NumPy before they are clipped.
  numbers: Any = jnp if isinstance(values, jax.Array) else np
  array = numbers.asarray(values)
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise ValueError(f"{name} must be integers, got {array.dtype}.")
  ends = jnp.iinfo(jnp.int32)
  if jnp.iinfo(array.dtype).max > ends.max:
    array = numbers.minimum(array, array.dtype.type(ends.max))
  if jnp.iinfo(array.dtype).min < ends.min:
    array = numbers.maximum(array, array.dtype.type(ends.min))
  return jnp.asarray(array, jnp.int32)


def last_axis(name: str, array: jax.Array) -> tuple[int]:
  """The shape of the last axis.

  Raises:
    ValueError: if the array is a scalar; with the name of the argument.
  """
  if not jnp.ndim(array):
    raise ValueError(f"{name} must have at least one axis, got a scalar.")
  return (jnp.shape(array)[-1],)


def check_options(fill: str, ridge: float | None) -> float | None:
  """Checks the options of a DPP; returns the ridge, None for 1.

  Raises:
    ValueError: if there is no such fill, or the ridge is outside [0, 1].
  """
  if fill not in FILLS:
    raise ValueError(f"fill must be one of {FILLS}, got {fill!r}.")
  if ridge is not None and not 0 <= ridge <= 1:
    raise ValueError(f"ridge must be in [0, 1], got {ridge}.")
  return None if ridge == 1 else ridge
