"""Strengths of soft ranks and sorts: checks, and quotients by them."""

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import segments


@jax.custom_jvp
def over(values: jax.Array, strength: jax.Array) -> jax.Array:
  """`values / strength`; its derivative does not square a tiny strength."""
  return values / strength


@over.defjvp
def _over_jvp(primals, tangents):
  result = over(*primals)
  values_dot, strength_dot = tangents
  return result, (values_dot - result * strength_dot) / primals[1]


def log_share(
    slots: jax.Array, scale: jax.Array, blocks: segments.Blocks
) -> jax.Array:
  """Logarithm of the softmax of `slots / scale` in each ascending block."""
  # From differences to the last and largest: no exponential above 1.
  last = segments.take(slots, blocks.end - 1)
  below = over(jnp.where(
      blocks.size > 1, slots - lax.stop_gradient(last), 0), scale)
  return below - jnp.log(segments.block_sum(jnp.exp(below), blocks))


def check_regularization(regularization: str) -> None:
  """Raises ValueError if there is no such regularization."""
  if regularization not in ("quadratic", "entropic"):
    raise ValueError(
        "regularization must be 'quadratic' or 'entropic', got "
        f"{regularization!r}.")


def check_strength(
    strength: jax.Array | float, scores: jax.Array
) -> jax.Array:
  """The strength as an array, checked to broadcast to `[..., 1]`."""
  if isinstance(strength, (int, float)) and not strength >= 0:
    raise ValueError(f"strength must be at least 0, got {strength}.")
  strength = jnp.asarray(strength, scores.dtype)
  lists = (*scores.shape[:-1], 1)
  try:
    jnp.broadcast_to(strength, lists)
  except ValueError:
    raise ValueError(
        f"strength has shape {strength.shape}, which does not broadcast to "
        f"{lists}, one value a list.") from None
  return strength
