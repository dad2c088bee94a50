"""What the greedy loop is given, and what it gives."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp


class Problem(NamedTuple):
  """B rows of N candidates in G lists, K slots, C categories.

  Attributes:
    features: `[B or 1, N, D]`, of any length; 1: all rows share them. Without
      a finite, non-zero feature a candidate cannot be picked. D = 0: there are
      none, and nothing is similar.
    relevance: `[B, N]`, weighted; -inf for what cannot be picked.
    lists: `[B, N]` int32, the list of each candidate, in [0, G).
    categories: `[B, N]` int32, in [0, C).
    limits: `[B, G]` int32, picks of each list at most.
    quotas: `[B, C]` int32, picks of each category at most.
    slot_bias: `[B, K, C]`, weighted; -inf: not in this slot.
    weight: `[B]`, of the criterion's term.
    rows: `[B, R, D]`, what picks are compared with at first. With a window
      the last R unit features, the newest last; without, directions.
    num_rows: `[B]` int32, how many of them there are: the last ones with a
      window, the first ones without.
    volume: `[B]`, of what the directions came from.
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
  """What was picked.

  Attributes:
    indices: `[B, G, K]` int32, -1 where nothing was.
    gains: `[B, G, K]`, the keys; 0 where nothing was picked.
    num_valid: `[B, G]` int32, picks by the key, not by filling.
  """

  indices: jax.Array
  gains: jax.Array
  num_valid: jax.Array


def subset(problem: Problem, chosen: jax.Array) -> Problem:
  """The problem of some candidates of every row, as one list.

  Args:
    problem: of lists that are rows.
    chosen: `[B, N']` int32, which; -1 for none.
  """
  index = jnp.maximum(chosen, 0)
  return problem._replace(
      features=entries(problem.features, index),
      relevance=jnp.where(
          chosen < 0, -jnp.inf, entries(problem.relevance, index)),
      lists=jnp.zeros((1, chosen.shape[1]), jnp.int32),
      categories=entries(problem.categories, index))


def superset(picks: Picks, chosen: jax.Array) -> Picks:
  """Picks of a `subset` with the indices of all candidates."""
  shape = picks.indices.shape
  index = jnp.maximum(picks.indices, 0).reshape(shape[0], -1)
  index = jnp.take_along_axis(chosen, index, axis=1).reshape(shape)
  return picks._replace(indices=jnp.where(picks.indices < 0, -1, index))


def entries(array: jax.Array, index: jax.Array) -> jax.Array:
  """Entries `[B, G]` of `[B or 1, N, ...]`: `[B, G, ...]`."""
  if array.shape[0] == 1:
    return array[0][index]
  index = index.reshape(index.shape + (1,) * (array.ndim - 2))
  return jnp.take_along_axis(array, index, axis=1)


def places(shape: tuple[int, ...]) -> jax.Array:
  """0, 1, ... along the last axis, int32."""
  return lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
