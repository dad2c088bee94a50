"""Unit features, and the direction that each adds to the span of others."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def tolerance(dtype: jnp.dtype) -> float:
  """The largest squared residual of a unit feature that counts as rounding."""
  return 1e-10 if dtype == jnp.float64 else 1e-5


def inverse_norms(features: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """`1 / |f|` of features f `[..., D]`; 0 where f is 0 or not finite."""
  features = features.astype(dtype)
  # Scaled by the largest entry, so that squares neither overflow nor vanish.
  largest = jnp.max(jnp.abs(features), axis=-1, initial=0)
  usable = jnp.isfinite(largest) & (largest >= jnp.finfo(dtype).tiny)
  largest = jnp.where(usable, largest, 1)
  square = jnp.sum((features / largest[..., None])**2, axis=-1)
  return jnp.where(usable, 1 / (largest * jnp.sqrt(square)), 0)


def unit_features(features: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Features `[..., D]` at length 1; 0 without gradient where not usable."""
  features = features.astype(dtype)
  usable = inverse_norms(lax.stop_gradient(features), dtype)[..., None] > 0
  # Unusable features are replaced by ones, whose gradient is defined.
  safe = jnp.where(usable, features, 1)
  return jnp.where(usable, safe * inverse_norms(safe, dtype)[..., None], 0)


def direction(
    earlier: jax.Array, feature: jax.Array, ridge: float | None
) -> tuple[jax.Array, jax.Array]:
  """The direction x `[..., D]` of a pick, and its squared residual `[...]`.

  A candidate f loses `(x f)^2` of its squared residual by this pick; x is 0
  for a pick in the span of `earlier` `[..., R, D]`. Zero rows are ignored, and
  a feature of 0 is in no span: its direction is 0, its residual 1. The kernel
  is `ridge F F^T + (1 - ridge) I`; None is 1.
  """
  exists = jnp.any(feature != 0, axis=-1)
  along = einsum("...rd,...d->...r", earlier, feature)
  spanned = einsum("...rd,...r->...d", earlier, along)
  if ridge is not None:
    # The kernel is that of features (sqrt(rho) f_i, sqrt(1 - rho) e_i), with
    # unit vectors e_i. Candidates have products with the first part of a
    # direction alone, and x is sqrt(rho) times that part.
    left = jnp.maximum(
        1 - jnp.sum(along**2, axis=-1), tolerance(feature.dtype))
    return (ridge * feature - spanned) / jnp.sqrt(left)[..., None], left
  rest = feature - spanned
  # A second pass, because what the first one leaves in the span by rounding is
  # not small beside a small residual.
  rest -= einsum("...rd,...r->...d", earlier,
                 einsum("...rd,...d->...r", earlier, rest))
  left = jnp.where(exists, jnp.sum(rest**2, axis=-1), 1)
  outside = left > tolerance(feature.dtype)
  unit = rest / jnp.sqrt(jnp.where(outside, left, 1))[..., None]
  return jnp.where(outside[..., None], unit, 0), left


def directions(
    features: jax.Array, ridge: float | None
) -> tuple[jax.Array, jax.Array]:
  """The `direction` of each unit feature `[..., R, D]` beside earlier ones.

  Returns directions `[..., R, D]` and squared residuals `[..., R]`.
  """
  if not features.size:
    return features, jnp.ones(features.shape[:-1], features.dtype)

  def body(rows, t):
    feature = features[..., t, :]
    row, left = direction(rows, feature, ridge)
    return rows.at[..., t, :].set(row), left

  rows, left = lax.scan(
      body, jnp.zeros_like(features), jnp.arange(features.shape[-2]))
  return rows, jnp.moveaxis(left, 0, -1)


def volume(left: jax.Array) -> jax.Array:
  """The volume `[...]` that squared residuals `[..., R]` stand for."""
  left = jnp.where(left > tolerance(left.dtype), left, 0)
  return jnp.prod(jnp.sqrt(left), axis=-1)
