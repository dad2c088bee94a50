"""The checked arguments of the off-policy estimates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
from harmonrank_jax.ordering import sorting


class LoggedRounds(NamedTuple):
  """Rounds in one layout; rounds without slots have K = 1."""

  rewards: jax.Array  # [..., N, K, M], 0 where masked, NaN where not finite
  predicted_rewards: jax.Array | None  # like rewards
  predicted_values: jax.Array | None  # like rewards
  weights: jax.Array  # [..., N, K], 0 where masked, NaN where not a weight
  valid: jax.Array  # [..., N, K] bool
  segment_ids: jax.Array | None  # [..., N] integers
  squeeze: bool  # whether the rewards came without the axis M


def check_rounds(
    rewards: jax.Array,
    weights: jax.Array,
    *,
    predicted_rewards: jax.Array | None = None,
    predicted_values: jax.Array | None = None,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    slates: bool,
) -> LoggedRounds:
  """Checks arguments of `off_policy_value`, with `slates` of slate values.

  Results have the wider of the floating types.
  """
  if (predicted_rewards is None) != (predicted_values is None):
    missing = "values" if predicted_values is None else "rewards"
    raise ValueError(
        f"predicted_{missing} is missing: predictions come in pairs.")
  weights = as_floats(weights, "weights")
  rewards = as_floats(rewards, "rewards")
  squeeze = _lacks_objectives(rewards, weights, slates=slates)
  dtype = arrays.float_dtype(weights.dtype, rewards.dtype)
  valid = jnp.ones(weights.shape, bool) if where is None else sorting.broadcast(
      arrays.flags(where, "where"), weights, "where", "weights")
  if not slates:
    weights, valid = weights[..., None], valid[..., None]
  objectives = (1,) if squeeze else rewards.shape[-1:]

  def cleared(values, name):
    if values is None:
      return None
    values = sorting.broadcast(
        as_floats(values, name).astype(dtype), rewards, name, "rewards")
    values = values.reshape((*valid.shape, *objectives))
    values = jnp.where(jnp.isfinite(values), values, jnp.nan)
    return jnp.where(valid[..., None], values, 0)

  usable = (weights >= 0) & jnp.isfinite(weights)
  weights = jnp.where(usable, weights.astype(dtype), jnp.nan)
  return LoggedRounds(
      cleared(rewards, "rewards"),
      cleared(predicted_rewards, "predicted_rewards"),
      cleared(predicted_values, "predicted_values"),
      jnp.where(valid, weights, 0), valid,
      _check_segments(segment_ids, weights), squeeze)


def check_confidence(confidence: float) -> None:
  """Raises ValueError if a confidence is not in (0, 1)."""
  if not 0 < confidence < 1:
    raise ValueError(f"confidence must be in (0, 1), got {confidence}.")


def count(flags: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """How many of the rounds are True, `[..., K]` from flags `[..., N, K]`."""
  return jnp.sum(flags, axis=-2, dtype=jnp.int32).astype(dtype)


def as_floats(array: jax.Array, name: str = "an argument") -> jax.Array:
  """The array as float32, or as float64 if it is float64."""
  return arrays.floats(array, name)


def _lacks_objectives(
    rewards: jax.Array, weights: jax.Array, *, slates: bool
) -> bool:
  """True = rewards have the shape of the weights, without an axis M."""
  shape = weights.shape
  if weights.ndim < 1 + slates:
    expected = "[..., N, K]" if slates else "[..., N]"
    raise ValueError(f"weights has shape {shape}; expected {expected}.")
  if rewards.shape == shape:
    return True
  if rewards.ndim == weights.ndim or rewards.shape[:-1] != shape:
    raise ValueError(
        f"rewards has shape {rewards.shape}; weights of shape {shape} need "
        f"{shape} or {(*shape, 'M')}.")
  return False


def _check_segments(
    segment_ids: jax.Array | None, weights: jax.Array
) -> jax.Array | None:
  """The cluster of each round, `[..., N]`, for weights `[..., N, K]`."""
  if segment_ids is None:
    return None
  return sorting.broadcast(
      arrays.ids(segment_ids, "segment_ids"), weights[..., 0], "segment_ids",
      "the rounds")
