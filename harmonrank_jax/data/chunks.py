"""Chunks: whole requests with their candidates; the file of their slates."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harmonrank_jax.data import files


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
  """The requests at `places` `[S]`, ascending; `num_repeated` becomes 0."""
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


@contextlib.contextmanager
def slate_file(path: str | pathlib.Path) -> Iterator[
    Callable[[Chunk, np.ndarray, np.ndarray], None]]:
  """Opens a Parquet file of slates, which appears when all are written.

  Yields what writes a chunk: rows `[R, K]` of the candidates within it (-1 in
  empty slots), and gains `[R, K]`. A row of the file is a slot with an item.
  """
  with files.atomic(path) as temporary, contextlib.ExitStack() as stack:
    writer: pq.ParquetWriter | None = None

    def write(chunk: Chunk, rows: np.ndarray, gains: np.ndarray) -> None:
      nonlocal writer
      request, slot = np.nonzero(rows >= 0)
      table = pa.table({
          "request_id": chunk.request_ids.take(pa.array(request)),
          "slot": slot.astype(np.int32),
          "item_id": chunk.item_ids.take(pa.array(rows[request, slot])),
          "gain": gains[request, slot]})
      if writer is None:
        writer = stack.enter_context(pq.ParquetWriter(
            temporary, table.schema, write_page_checksum=True))
      writer.write_table(table)

    yield write
