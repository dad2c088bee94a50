"""Values and Jacobians of an operator, by both modes of differentiation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ROWS = 18


class Calculus(NamedTuple):
  """Values and the Jacobians of each row, by both modes."""

  values: np.ndarray  # [R, N]
  by_items: np.ndarray  # [R, N, N], of each result by each item
  by_items_forward: np.ndarray  # [R, N, N]
  by_strength: np.ndarray  # [R, N]
  by_strength_forward: np.ndarray  # [R, N]


def make_calculus(operator, size):
  """A function of values `[ROWS, size]` that returns a `Calculus`."""
  shape = (ROWS, size)

  @jax.jit
  def calculus(values, strength, where, ids):
    call = lambda v, e: operator(
        v, strength=e, where=where, segment_ids=ids)
    units = jnp.broadcast_to(
        jnp.eye(size, dtype=values.dtype)[:, None], (size, *shape))
    result, pull = jax.vjp(call, values, strength)
    by_items, by_strength = jax.vmap(pull)(units)
    push = lambda unit: jax.jvp(
        call, (values, strength), (unit, jnp.zeros_like(strength)))[1]
    by_items_forward = jax.vmap(push)(units)
    _, by_strength_forward = jax.jvp(
        call, (values, strength),
        (jnp.zeros_like(values), jnp.ones_like(strength)))
    return Calculus(
        result, jnp.swapaxes(by_items, 0, 1), jnp.moveaxis(
            by_items_forward, 0, 2), by_strength[..., 0].T,
        by_strength_forward)

  def checked(values, strength, where=None, ids=None):
    values = np.broadcast_to(values, shape)
    strength = np.broadcast_to(strength, (ROWS, 1)).astype(values.dtype)
    where = np.ones(shape, bool) if where is None else where
    ids = np.zeros(shape, np.int32) if ids is None else ids
    result = calculus(values, strength, where, np.asarray(ids, np.int32))
    return Calculus(*(np.asarray(x) for x in result))

  return checked
