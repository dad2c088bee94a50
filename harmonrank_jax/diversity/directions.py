"""Unit features, and what each adds to the span of others."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def tolerance(dtype: jnp.dtype) -> float:
  """What is left of a unit feature, squared, and is rounding at most."""
  return 1e-10 if dtype == jnp.float64 else 1e-5


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
