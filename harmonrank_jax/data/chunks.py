"""Chunks: whole requests with their candidates, as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa


class Chunk(NamedTuple):
  """R requests with N candidates in total; a request has an item once."""

  request_ids: pa.Array  # [R] integers or texts.
  # [R + 1] int64; request r has the rows `starts[r]` to `starts[r + 1]`.
  starts: np.ndarray
  item_ids: pa.Array  # [N] integers or texts.
  scores: np.ndarray  # [N] float64.
  categories: np.ndarray  # [N] int32, places in the names of all categories.
  features: np.ndarray  # [N, D] float32, of any length but 0.
  # Rows left out because their request has the item with a better score, or
  # with the same score in an earlier row.
  num_repeated: int


def requests_of(chunk: Chunk, places: np.ndarray) -> Chunk:
  """The requests at `places` `[S]`, ascending; `num_repeated` becomes 0.

  >>> chunk = Chunk(
  ...     pa.array(["a", "b"]), np.array([0, 2, 3]), pa.array([7, 8, 7]),
  ...     np.array([0.3, 0.2, 0.9]), np.zeros(3, np.int32), np.ones((3, 2)), 0)
  >>> one = requests_of(chunk, np.array([1]))
  >>> one.request_ids.to_pylist(), one.item_ids.to_pylist()
  (['b'], [7])
  """
  sizes = np.diff(chunk.starts)
  rows = np.flatnonzero(
      np.repeat(np.isin(np.arange(len(sizes)), places), sizes))
  return Chunk(
      chunk.request_ids.take(pa.array(places)), starts_of(sizes[places]),
      chunk.item_ids.take(pa.array(rows)), chunk.scores[rows],
      chunk.categories[rows], chunk.features[rows], 0)


def joined_chunks(chunks: Sequence[Chunk]) -> Chunk:
  """Joins one chunk or more of the same data, in their order."""
  return Chunk(
      pa.concat_arrays([chunk.request_ids for chunk in chunks]),
      starts_of(np.concatenate([np.diff(chunk.starts) for chunk in chunks])),
      pa.concat_arrays([chunk.item_ids for chunk in chunks]),
      np.concatenate([chunk.scores for chunk in chunks]),
      np.concatenate([chunk.categories for chunk in chunks]),
      np.concatenate([chunk.features for chunk in chunks]),
      sum(chunk.num_repeated for chunk in chunks))


def starts_of(sizes: np.ndarray) -> np.ndarray:
  """`[R + 1]` int64, the starts of R requests of these sizes, and the end."""
  return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
