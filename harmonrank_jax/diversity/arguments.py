"""Checks the arguments of all methods and broadcasts them to rows."""

import math

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
from harmonrank_jax.diversity import directions
from harmonrank_jax.diversity import engine
from harmonrank_jax.diversity import problem as problem_lib

FILLS = ("none", "relevance")


class Arguments:
  """Arguments of all methods, checked; axes `batch` flattened to B rows."""

  def __init__(
      self,
      features: jax.Array | None,
      relevance: jax.Array | arrays.Relative,
      num_selected: int,
      where: jax.Array | None,
      *,
      bonus: jax.Array | None = None,  # [..., N], added to the relevance
      shown_features: jax.Array | None = None,
      category_ids: jax.Array | None = None,
      quotas: jax.Array | None = None,
      window: int | None = None,
      slot_bias: jax.Array | None = None,
  ):
    has_features = features is not None
    below, top = arrays.relative(relevance, "relevance", where)
    if bonus is not None:
      below = below + bonus
    features, relevance, self.dtype = check_arrays(features, below)
    if has_features and (features.shape[-2:-1] != relevance.shape[-1:]
                         or not features.shape[-1]):
      raise ValueError(
          "features must have shape [..., N, D], D at least 1, got "
          f"{features.shape}; relevance has shape {relevance.shape}.")
    # Indices have no derivative, in the pure and in the native form.
    features, relevance, top = lax.stop_gradient((features, relevance, top))
    if num_selected < 0:
      raise ValueError(
          f"num_selected must be at least 0, got {num_selected}.")
    if window is not None and window < 1:
      raise ValueError(f"window must be at least 1, got {window}.")
    self.batch, self._num_items = relevance.shape[:-1], relevance.shape[-1]
    self._num_rows = math.prod(self.batch)
    self.num_selected, self._window = num_selected, window
    self._features = self.rows(
        features, "features", (self._num_items, *features.shape[-1:]),
        shared=True)
    valid = jnp.isfinite(relevance) & mask(where, relevance.shape)
    self._relevance = self.rows(
        jnp.where(valid, relevance.astype(self.dtype), -jnp.inf),
        "relevance", (self._num_items,))
    self._top = self.rows(top.astype(self.dtype), "relevance", (1,))
    self._shown = self._shown_rows(shown_features)
    self._categories, self._quotas, self._bias = self._rules(
        category_ids, quotas, slot_bias)

  def problem(
      self, theta: jax.Array | float | None, criterion: engine.Criterion,
      ridge: float | None = None,
  ) -> tuple[problem_lib.Problem, bool, jax.Array]:
    """The problem of this trade-off, and whether it has a window.

    Its gains are those of the differences of relevance: what they lack is
    returned too, `[B]`.

    The weights of relevance and of the criterion's term are theta and 1 -
    theta; for the DPP, whose term is a logarithm, `2 alpha = theta / (1 -
    theta)` and 1; without theta 1 and 1.
    """
    of_relevance, of_term = self._weights(theta, is_dpp=criterion is engine.DPP)
    compared, count = self._shown
    volume = jnp.ones(self._num_rows, self.dtype)
    window = self._window
    if window is not None and window > compared.shape[1] + self.num_selected:
      window = None  # Too long for any pick to leave it.
    if window is not None:
      size = window - 1
      # The newest is the last; those that do not exist come first, as 0.
      order = problem_lib.places((1, size)) - size + count[:, None]
      padded = jnp.pad(compared, ((0, 0), (0, 1), (0, 0)))
      compared = jnp.take_along_axis(
          padded, jnp.where(order < 0, -1, order)[..., None], axis=1)
      count = jnp.minimum(count, size)
    elif criterion.is_orthogonal:
      compared, left = directions.directions(compared, ridge)
      volume = directions.volume(left)
    # Clipped, so that relevance and bias have a finite sum.
    largest = jnp.finfo(self.dtype).max / 4

    def weighted(values):
      weights = of_relevance.reshape(-1, *(1 for _ in values.shape[1:]))
      return jnp.where(jnp.isfinite(values), jnp.clip(
          weights * values, -largest, largest), -jnp.inf)

    return problem_lib.Problem(
        features=self._features, relevance=weighted(self._relevance),
        lists=jnp.zeros((1, self._num_items), jnp.int32),
        categories=self._categories,
        limits=jnp.full((self._num_rows, 1), self.num_selected, jnp.int32),
        quotas=self._quotas, slot_bias=weighted(self._bias), weight=of_term,
        compared=compared, num_compared=count, volume=volume
    ), window is not None, weighted(self._top)[:, 0]

  def _weights(self, theta, *, is_dpp):
    """Weights `[B]` of relevance and term; a traced theta is clipped."""
    if theta is None:
      return (jnp.ones(self._num_rows, self.dtype),) * 2
    if isinstance(theta, (int, float)) and not (
        0 <= theta < 1 or (theta == 1 and not is_dpp)):
      interval = "[0, 1)" if is_dpp else "[0, 1]"
      raise ValueError(f"theta must be in {interval}, got {theta}.")
    theta = self.rows(lax.stop_gradient(
        jnp.asarray(theta, self.dtype)), "theta", ())
    if not is_dpp:
      theta = jnp.clip(theta, 0, 1)
      return theta, 1 - theta
    theta = jnp.clip(theta, 0, 1 - jnp.finfo(self.dtype).epsneg)
    return theta / (1 - theta), jnp.ones_like(theta)

  def _shown_rows(self, shown):
    """Unit features `[B, S, D]` of shown items, present first; number `[B]`."""
    num_features = self._features.shape[-1]
    if shown is None:
      shown = jnp.zeros((0, num_features), self.dtype)
    shown = lax.stop_gradient(arrays.numbers(shown, "shown_features"))
    if shown.ndim < 2:
      raise ValueError("shown_features must have shape [..., S, D], got "
                       f"{shown.shape}.")
    unit = directions.unit_features(self.rows(
        shown, "shown_features", (*shown.shape[-2:-1], num_features)),
                                    self.dtype)
    exists = jnp.any(unit != 0, axis=-1)
    order = jnp.argsort(~exists, axis=1, stable=True)
    return (jnp.take_along_axis(unit, order[..., None], axis=1),
            jnp.sum(exists, axis=1, dtype=jnp.int32))

  def _rules(self, category_ids, quotas, slot_bias):
    """Categories `[B or 1, N]`, quotas `[B, C]` and bias `[B, K, C]`.

    The last category holds the candidates without one.
    """
    slots = self.num_selected
    # A quota of all slots is no limit.
    free = jnp.full((self._num_rows, 1), slots, jnp.int32)
    unbiased = jnp.zeros((self._num_rows, slots, 1), self.dtype)
    if quotas is None and slot_bias is None:
      return jnp.zeros((1, self._num_items), jnp.int32), free, unbiased
    if category_ids is None:
      raise ValueError("quotas and slot_bias need category_ids.")
    count = last_axis(*(("slot_bias", slot_bias) if quotas is None else
                        ("quotas", quotas)))
    if quotas is None:
      quotas = jnp.full(count, slots, jnp.int32)
    quotas = self.rows(arrays.integers(quotas, "quotas"), "quotas", count)
    bias = jnp.zeros((slots, *count), self.dtype) if slot_bias is None else (
        lax.stop_gradient(arrays.floats(slot_bias, "slot_bias")))
    bias = self.rows(bias, "slot_bias", (slots, *count))
    ids = self.rows(
        arrays.integers(category_ids, "category_ids"), "category_ids",
        (self._num_items,), shared=True)
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


def check_arrays(
    features: jax.Array | None, relevance: jax.Array
) -> tuple[jax.Array, jax.Array, jnp.dtype]:
  """Features (None: D = 0) and relevance, and the dtype to compute in."""
  relevance = arrays.floats(relevance, "relevance")
  if not relevance.ndim:
    raise ValueError("relevance must have shape [..., N], got a scalar.")
  if features is None:
    features = jnp.zeros((relevance.shape[-1], 0), jnp.float32)
  features = arrays.numbers(features, "features")
  if not jnp.issubdtype(features.dtype, jnp.floating):
    features = arrays.floats(features, "features")
  return features, relevance, arrays.float_dtype(
      relevance.dtype, features.dtype)


def mask(where: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
  """The mask in this shape; True everywhere without one."""
  return broadcast(
      arrays.flags(True if where is None else where, "where"), "where", shape)


def broadcast(
    array: jax.Array, name: str, shape: tuple[int, ...]
) -> jax.Array:
  """Broadcasts an array to a shape; an error names the argument."""
  try:
    return jnp.broadcast_to(array, shape)
  except ValueError:
    raise ValueError(
        f"{name} has shape {array.shape}, which does not broadcast to "
        f"{shape}.") from None


def last_axis(name: str, array: jax.Array) -> tuple[int]:
  """The shape of the last axis; an error names the argument."""
  if not jnp.ndim(array):
    raise ValueError(f"{name} must have at least one axis, got a scalar.")
  return (jnp.shape(array)[-1],)


def check_options(fill: str, ridge: float | None) -> float | None:
  """Checks the options of a DPP; returns the ridge, None for 1."""
  if fill not in FILLS:
    raise ValueError(f"fill must be one of {FILLS}, got {fill!r}.")
  if ridge is not None and not 0 <= ridge <= 1:
    raise ValueError(f"ridge must be in [0, 1], got {ridge}.")
  return None if ridge == 1 else ridge
