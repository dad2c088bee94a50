"""Slates of many requests of any size by a few compiled calls.

Requests are grouped by size and padded to powers of two, and every call takes
the same number of candidates: the number of compilations grows with the
logarithm of the largest request, not with the number of requests.
"""

from collections.abc import Iterator
import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import harmonrank_jax.arrays as arrays
from harmonrank_jax.data import chunks
from harmonrank_jax.diversity import greedy
from harmonrank_jax.diversity import pooling

_GREEDY = {"dpp": greedy.greedy_dpp, "mmr": greedy.greedy_mmr,
           "ssd": greedy.greedy_ssd}
METHODS = (*_GREEDY, "top_k")
# The smallest padded size, and the candidates of a call of small requests. A
# request of more candidates has a call of its own.
_LEAST_SIZE = 16
_CALL_CANDIDATES = 16_384


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rules:
  """Rules that the slates of all requests follow."""

  num_selected: int  # K, slots of a slate.
  # Diversity against the last `window - 1` picks only; not used by top-K.
  window: int | None = None
  # [C] int32, at most so many items of each category in a slate.
  quotas: np.ndarray | None = None
  # [C] int32, candidates of each category in the pool that the slate is
  # selected from, as in `flow_pool`; None for no pool.
  pool_quotas: np.ndarray | None = None
  # Of the DPP, as in `greedy_dpp`; other methods do not use them.
  ridge: float | None = None
  fill: str = "relevance"


class Picks(NamedTuple):
  """Slates of R requests."""

  rows: np.ndarray  # [R, K] int64, rows of the chunk; -1 in empty slots.
  gains: np.ndarray  # [R, K] float32, keys of the picks; 0 in empty slots.


class Selector:
  """Selects the slates of chunks by one method.

  `compiled` lists the padded sizes of requests in the order of compilation.

  >>> import pyarrow as pa
  >>> chunk = chunks.Chunk(
  ...     request_ids=pa.array(["a", "b"]), item_ids=pa.array([7, 8, 9, 7]),
  ...     starts=np.array([0, 3, 4]), scores=np.array([0.9, 0.8, 0.1, 0.5]),
  ...     categories=np.zeros(4, np.int32), num_repeated=0,
  ...     features=np.array([[1, 0], [1, 0.1], [0, 1], [1, 0]], np.float32))
  >>> select = Selector("dpp", Rules(num_selected=2))
  >>> select(chunk, chunk.scores, theta=0.5).rows
  array([[ 0,  2],
         [ 3, -1]])
  """

  def __init__(self, method: str, rules: Rules):
    """Takes one of `METHODS`; nothing is compiled before the first call."""
    if method not in METHODS:
      raise ValueError(f"method must be one of {METHODS}, got {method!r}.")
    self.compiled: list[int] = []
    self._num_selected = rules.num_selected

    def select(features, relevance, category_ids, where, theta):
      self.compiled.append(where.shape[-1])  # Runs while tracing only.
      return select_slates(
          features, relevance, category_ids, method=method, rules=rules,
          theta=theta, where=where)

    self._select = jax.jit(select)

  def __call__(
      self, chunk: chunks.Chunk, relevance: np.ndarray, *, theta: float,
      least_size: int = _LEAST_SIZE,
  ) -> Picks:
    """Selects the slate of every request of a chunk.

    Args:
      chunk: R requests of N candidates in total.
      relevance: `[N]`, relevance of the candidates.
      theta: in [0, 1), or [0, 1] for MMR and SSD without a pool; towards 1
        relevance decides, towards 0 diversity. Top-K uses it for its pool
        only.
      least_size: size to which smaller requests are padded, a power of two.
    """
    sizes = np.diff(chunk.starts)
    shape = (len(sizes), self._num_selected)
    picks = Picks(np.full(shape, -1), np.zeros(shape, np.float32))
    for part, num_requests, size in _calls(sizes, least_size):
      starts = chunk.starts[part, None]
      where = np.zeros((num_requests, size), bool)
      where[:len(part)] = np.arange(size) < sizes[part, None]
      rows = np.zeros((num_requests, size), np.int64)
      rows[:len(part)] = starts + np.arange(size)
      # Padding repeats the first row of the chunk; the mask leaves it out.
      rows[~where] = 0
      indices, gains = jax.device_get(self._select(
          chunk.features[rows],
          arrays.relative(relevance[rows], "relevance", where),
          chunk.categories[rows], where, theta))
      indices = indices[:len(part)]
      picks.rows[part] = np.where(indices < 0, -1, indices + starts)
      picks.gains[part] = gains[:len(part)]
    return picks


def select_slates(
    features: jax.Array, relevance: jax.Array | arrays.Relative,
    category_ids: jax.Array, *,
    method: str, rules: Rules, theta: jax.Array | float,
    where: jax.Array | None = None, quotas: jax.Array | None = None,
    shown_features: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Selects the slates of B requests of N candidates, padded to one size.

  Args:
    features: `[B, N, D]`, as in `greedy_dpp`.
    relevance: `[B, N]`, or `arrays.relative` of it.
    category_ids: `[B, N]` integers in [0, C), for the quotas.
    method: one of `METHODS`.
    rules: rules of the slates.
    theta: a scalar or `[B]`, as in the function of the method; below 1 with a
      pool.
    where: `[B, N]` bool, True = valid.
    quotas: `[B, C]` or `[C]` integers, in the place of those of the rules.
    shown_features: `[B, S, D]`, features of items shown before, as in
      `greedy_dpp`; top-K does not use them.

  Returns:
    Indices `[B, K]` int32 of candidates, -1 in empty slots, and gains
    `[B, K]`.

  Raises:
    ValueError: if shapes do not fit, or a rule is out of range.
  """
  relevance = arrays.relative(relevance, "relevance", where)
  pool = None
  if rules.pool_quotas is not None:
    pool_size = int(rules.pool_quotas.sum())
    num_items = relevance.below.shape[-1]
    # A number that is open, in a function to be exported, compares with none.
    if isinstance(num_items, int):
      pool_size = min(num_items, pool_size)
    pool = pooling.flow_pool(
        features, relevance, category_ids, jnp.asarray(rules.pool_quotas),
        theta=theta, where=where, pool_size=pool_size)
    where = pool.indices >= 0
    features, below, category_ids = (
        _members(array, pool.indices)
        for array in (features, relevance.below, category_ids))
    relevance = relevance._replace(below=below)
  rest: dict[str, Any] = {"num_selected": rules.num_selected, "where": where}
  if quotas is None and rules.quotas is not None:
    quotas = jnp.asarray(rules.quotas)
  if quotas is not None:
    rest |= {"category_ids": category_ids, "quotas": quotas}
  if method == "top_k":
    slate = greedy.greedy_top_k(relevance, **rest)
  else:
    rest |= {"theta": theta, "window": rules.window,
             "shown_features": shown_features}
    if method == "dpp":
      rest |= {"ridge": rules.ridge, "fill": rules.fill}
    slate = _GREEDY[method](features, relevance, **rest)
  if pool is None:
    return slate.indices, slate.gains
  return (jnp.where(slate.indices < 0, -1,
                    _members(pool.indices, slate.indices)), slate.gains)


def padded_size(
    sizes: np.ndarray | int, least_size: int = _LEAST_SIZE
) -> np.ndarray:
  """The power of two, at least `least_size`, that holds each size."""
  powers = 2 ** np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
  return np.maximum(powers, least_size)


def _calls(
    sizes: np.ndarray, least_size: int
) -> Iterator[tuple[np.ndarray, int, int]]:
  """Yields the calls for requests of these sizes.

  A call has the places of its requests, the number of requests that it takes
  (places may be fewer), and the size that they are padded to.
  """
  padded = padded_size(sizes, least_size)
  for size in map(int, np.unique(padded)):
    places = np.flatnonzero(padded == size)
    num_requests = max(1, _CALL_CANDIDATES // size)
    for first in range(0, len(places), num_requests):
      yield places[first:first + num_requests], num_requests, size


def _members(array: jax.Array, indices: jax.Array) -> jax.Array:
  """Entries `[B, P, ...]` of `[B, N, ...]`; any entry where the index is -1."""
  indices = jnp.maximum(indices, 0)
  indices = indices.reshape(indices.shape + (1,) * (array.ndim - 2))
  return jnp.take_along_axis(array, indices, axis=1)
