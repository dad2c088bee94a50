"""The input and the output of the greedy loop."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp


class Problem(NamedTuple):
  """B rows of N candidates in G lists, K slots, C categories."""

  # [B or 1, N, D], of any length; with 1, all rows share them. A candidate
  # whose feature is 0 or not finite has none, and is similar to no other; with
  # D = 0 none has.
  features: jax.Array
  relevance: jax.Array  # [B, N], weighted; -inf: cannot be picked
  lists: jax.Array  # [B, N] int32, the list of each candidate, in [0, G)
  categories: jax.Array  # [B, N] int32, in [0, C)
  limits: jax.Array  # [B, G] int32, picks of each list at most
  quotas: jax.Array  # [B, C] int32, picks of each category at most
  slot_bias: jax.Array  # [B, K, C], weighted; -inf: not in this slot
  weight: jax.Array  # [B], weight of the criterion's term
  # [B, R, D], directions that the first pick is compared with (shown items);
  # with a window, the unit features of the last R, the newest last.
  compared: jax.Array
  # [B] int32, how many of them exist: the first ones; with a window, the last.
  num_compared: jax.Array
  volume: jax.Array  # [B], volume that the shown features span


class Selection(NamedTuple):
  """Picks of G lists in each row."""

  indices: jax.Array  # [B, G, K] int32, -1 in empty slots
  gains: jax.Array  # [B, G, K], 0 in empty slots
  num_valid: jax.Array  # [B, G] int32, slots whose pick had a gain


def subset(problem: Problem, chosen: jax.Array) -> Problem:
  """The problem of candidates `[B, N']` of every row (-1: none) as one list."""
  index = jnp.maximum(chosen, 0)
  return problem._replace(
      features=entries(problem.features, index),
      relevance=jnp.where(
          chosen < 0, -jnp.inf, entries(problem.relevance, index)),
      lists=jnp.zeros((1, chosen.shape[1]), jnp.int32),
      categories=entries(problem.categories, index))


def superset(picks: Selection, chosen: jax.Array) -> Selection:
  """Picks of a `subset`, with indices in the whole problem."""
  shape = picks.indices.shape
  index = jnp.maximum(picks.indices, 0).reshape(shape[0], -1)
  index = jnp.take_along_axis(chosen, index, axis=1).reshape(shape)
  return picks._replace(indices=jnp.where(picks.indices < 0, -1, index))


def entries(array: jax.Array, index: jax.Array) -> jax.Array:
  """Takes entries `[B, G]` of `[B or 1, N, ...]`, as `[B, G, ...]`."""
  if array.shape[0] == 1:
    return array[0][index]
  index = index.reshape(index.shape + (1,) * (array.ndim - 2))
  return jnp.take_along_axis(array, index, axis=1)


def places(shape: tuple[int, ...]) -> jax.Array:
  """An int32 array of 0, 1, ... along the last axis."""
  return lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
