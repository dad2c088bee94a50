"""Slates as a Parquet file."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harmonrank_jax.data import chunks
from harmonrank_jax.data import files

WriteFn = Callable[[chunks.Chunk, np.ndarray, np.ndarray], None]


@contextlib.contextmanager
def slate_file(path: str | pathlib.Path) -> Iterator[WriteFn]:
  """Opens a Parquet file of slates, which appears when all are written.

  A row of the file is a slot that has an item: `request_id`, `slot` (int32,
  from 0), `item_id` and `gain` (float32). Yields a function that writes the
  slates of a chunk of R requests, from the chunk, the rows `[R, K]` of the
  selected candidates within the chunk (-1 in empty slots) and the gains
  `[R, K]` they were selected by.

  >>> import tempfile
  >>> chunk = chunks.Chunk(
  ...     pa.array(["a"]), np.array([0, 2]), pa.array([7, 8]),
  ...     np.array([0.3, 0.2]), np.zeros(2, np.int32), np.ones((2, 2)), 0)
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder) / "slates.parquet"
  ...   with slate_file(path) as write:
  ...     write(chunk, np.array([[1, -1]]), np.array([[0.5, 0]], np.float32))
  ...   pq.read_table(path).to_pylist()
  [{'request_id': 'a', 'slot': 0, 'item_id': 8, 'gain': 0.5}]
  """
  with files.atomic(path) as temporary, contextlib.ExitStack() as stack:
    writer: pq.ParquetWriter | None = None

    def write(
        chunk: chunks.Chunk, rows: np.ndarray, gains: np.ndarray
    ) -> None:
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
