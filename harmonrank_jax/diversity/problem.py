"""The input and the output of the greedy loop."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp


class Problem(NamedTuple):
  """B rows of N candidates in G lists, K slots, C categories.

  Attributes:
    features: `[B or 1, N, D]`, of any length; with 1, all rows share them. A
      candidate whose feature is 0 or not finite cannot be picked. With D = 0
      there are no features, and no candidates are similar.
    relevance: `[B, N]`, weighted; -inf for candidates that cannot be picked.
    lists: `[B, N]` int32, the list of each candidate, in [0, G).
    categories: `[B, N]` int32, in [0, C).
    limits: `[B, G]` int32, picks of each list at most.
    quotas: `[B, C]` int32, picks of each category at most.
    slot_bias: `[B, K, C]`, weighted; -inf keeps a category out of a slot.
    weight: `[B]`, weight of the criterion's term.
    rows: `[B, R, D]`, compared with the first picks. With a window the last R
      unit features that were shown, the newest last; without, their
      directions.
    num_rows: `[B]` int32, number of rows that exist: the last ones with a
      window, the first ones without.
    volume: `[B]`, volume that the shown features span.
  """

  features: jax.Array
  relevance: jax.Array
  lists: jax.Array
  categories: jax.Array
  limits: jax.Array
  quotas: jax.Array
  slot_bias: jax.Array
  weight: jax.Array
  rows: jax.Array
  num_rows: jax.Array
  volume: jax.Array


class Picks(NamedTuple):
  """Picks of G lists in each row.

  Attributes:
    indices: `[B, G, K]` int32, -1 in empty slots.
    gains: `[B, G, K]`, the keys; 0 in empty slots.
    num_valid: `[B, G]` int32, number of slots filled by their key.
  """

  indices: jax.Array
  gains: jax.Array
  num_valid: jax.Array


def subset(problem: Problem, chosen: jax.Array) -> Problem:
  """The problem of some of the candidates of every row, as one list.

  Args:
    problem: B rows of N candidates.
    chosen: `[B, N']` int32, candidates of the new problem; -1 for none.
  """
  index = jnp.maximum(chosen, 0)
  return problem._replace(
      features=entries(problem.features, index),
      relevance=jnp.where(
          chosen < 0, -jnp.inf, entries(problem.relevance, index)),
      lists=jnp.zeros((1, chosen.shape[1]), jnp.int32),
      categories=entries(problem.categories, index))


def superset(picks: Picks, chosen: jax.Array) -> Picks:
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
