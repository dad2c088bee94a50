"""Slates of many requests, large and small, by a few compiled calls.

Requests are put together by size, padded, and always as many in a call.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.data import files
from harmonrank_jax.diversity import flow_pool
from harmonrank_jax.diversity import greedy

METHODS = ("dpp", "mmr", "ssd", "top_k")
FILLS = ("none", "relevance")
# Sizes are rounded up to powers of two, this the least; what is selected from
# in one call are this many candidates, or one request.
_LEAST_SIZE = 16
_CALL_CANDIDATES = 16_384


class Rules(NamedTuple):
  """What holds for the slates of all requests.

  Attributes:
    num_selected: K, slots of a slate.
    window: of the methods that have one, or None.
    quotas: `[C]` int32, or None: at most so many of a category.
    pool_quotas: `[C]` int32, or None: what of each category comes into the
      pool that a slate is then made from.
    ridge: of the DPP, or None.
    fill: of the DPP.
  """

  num_selected: int
  window: int | None = None
  quotas: np.ndarray | None = None
  pool_quotas: np.ndarray | None = None
  ridge: float | None = None
  fill: str = "none"


class Picks(NamedTuple):
  """Slates of R requests; both `[R, K]`.

  Attributes:
    rows: candidates, counted through the whole chunk; -1 where none is.
    gains: their keys.
  """

  rows: np.ndarray
  gains: np.ndarray


class Selector:
  """Makes slates by one method.

  Attributes:
    compiled: sizes a compile was made for, in order.
  """

  def __init__(self, method: str, rules: Rules):
    self.compiled: list[int] = []
    self._num_selected = rules.num_selected

    def select(features, relevance, where, categories, theta):
      self.compiled.append(relevance.shape[-1])  # When traced, only.
      return _slates(method, rules, features, relevance, where, categories,
                     theta)

    self._select = jax.jit(select)

  def __call__(
      self, chunk: candidates_lib.Chunk, relevance: np.ndarray, theta: float,
      *, least_size: int = _LEAST_SIZE,
  ) -> Picks:
    """The slate of every request of a chunk.

    Args:
      chunk: R requests of N candidates together.
      relevance: `[N]`.
      theta: towards 1 relevance, towards 0 diversity; without effect on the
        method top_k, but on its pool.
      least_size: requests are padded to it at least.
    """
    sizes = np.diff(chunk.starts)
    shape = (len(sizes), self._num_selected)
    picks = Picks(np.full(shape, -1), np.zeros(shape, np.float32))
    padded = padded_size(sizes, least_size)
    for size in np.unique(padded):
      members = np.flatnonzero(padded == size)
      per_call = max(1, _CALL_CANDIDATES // int(size))
      for first in range(0, len(members), per_call):
        part = members[first:first + per_call]
        place = np.zeros((per_call, size), np.int64)
        where = np.zeros((per_call, size), bool)
        where[:len(part)] = np.arange(size) < sizes[part, None]
        place[:len(part)] = chunk.starts[part, None] + np.arange(size)
        place[~where] = 0
        indices, gains = jax.device_get(self._select(
            chunk.features[place], relevance[place].astype(np.float32), where,
            chunk.categories[place], theta))
        indices, gains = indices[:len(part)], gains[:len(part)]
        picks.rows[part] = np.where(
            indices < 0, -1, indices + chunk.starts[part, None])
        picks.gains[part] = gains
    return picks


def padded_size(sizes: Any, least_size: int = _LEAST_SIZE) -> np.ndarray:
  """The power of two, at least `least_size`, that holds each size."""
  powers = 2 ** np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
  return np.maximum(powers, least_size)


def _slates(method, rules, features, relevance, where, categories, theta):
  """Indices and gains `[B, K]` of B requests of N candidates."""
  if rules.pool_quotas is not None:
    pool = flow_pool.flow_pool(
        features, relevance, categories, jnp.asarray(rules.pool_quotas),
        theta=theta, where=where,
        pool_size=min(relevance.shape[-1], int(rules.pool_quotas.sum())))
    chosen = jnp.maximum(pool.indices, 0)
    features = jnp.take_along_axis(features, chosen[..., None], axis=1)
    relevance, categories = (
        jnp.take_along_axis(array, chosen, axis=1)
        for array in (relevance, categories))
    where = pool.indices >= 0
  limits: dict[str, Any] = {
      "num_selected": rules.num_selected, "where": where}
  if rules.quotas is not None:
    limits |= {"category_ids": categories,
               "quotas": jnp.asarray(rules.quotas)}
  if method == "top_k":
    slate = greedy.greedy_top_k(relevance, **limits)
  else:
    limits |= {"theta": theta, "window": rules.window}
    if method == "dpp":
      slate = greedy.greedy_dpp(features, relevance, ridge=rules.ridge,
                                fill=rules.fill, **limits)
    else:
      select = greedy.greedy_mmr if method == "mmr" else greedy.greedy_ssd
      slate = select(features, relevance, **limits)
  indices = slate.indices
  if rules.pool_quotas is not None:
    indices = jnp.where(indices < 0, -1, jnp.take_along_axis(
        pool.indices, jnp.maximum(indices, 0), axis=1))
  return indices, slate.gains


@contextlib.contextmanager
def slate_file(path: pathlib.Path) -> Iterator[Callable[..., None]]:
  """Opens a Parquet file of slates under a temporary name, then renames it.

  What is yielded writes the slates of a chunk: it takes the chunk and its
  `Picks`. A row is a slot that has an item: `request_id`, `slot` (from 0),
  `item_id` and `gain`.
  """
  with files.atomic(path) as temporary, contextlib.ExitStack() as stack:
    writer: pq.ParquetWriter | None = None

    def write(chunk: candidates_lib.Chunk, picks: Picks) -> None:
      nonlocal writer
      request, slot = np.nonzero(picks.rows >= 0)
      table = pa.table({
          "request_id": chunk.request_ids.take(pa.array(request)),
          "slot": slot.astype(np.int32),
          "item_id": chunk.item_ids.take(pa.array(picks.rows[request, slot])),
          "gain": picks.gains[request, slot]})
      if writer is None:
        writer = stack.enter_context(pq.ParquetWriter(
            temporary, table.schema, write_page_checksum=True))
      writer.write_table(table)

    yield write
