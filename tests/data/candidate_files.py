"""Files of candidates that are good, for tests to spoil."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.data import chunks
from harmonrank_jax.data import items as items_lib

CATEGORIES = ("phones", "books", "toys")
# Candidates of the requests, in their order.
SIZES = (20, 3, 40, 1, 17, 16, 30, 25, 8, 33)
NUM_FEATURES = 6
NUM_ITEMS = 60


def make_frame():
  """Columns of a good file, as lists and arrays."""
  rng = np.random.default_rng(0)
  rows = sum(SIZES)
  names = [f"r{k:02}" for k in rng.permutation(len(SIZES))]
  return {
      "request_id": np.repeat(names, SIZES).tolist(),
      "item_id": np.concatenate([
          rng.choice(NUM_ITEMS, size, replace=False)
          for size in SIZES]).tolist(),
      "score": rng.uniform(0.01, 0.99, rows),
      "category": rng.choice(CATEGORIES, rows, p=(0.6, 0.3, 0.1)).tolist(),
      "features": rng.normal(size=(rows, NUM_FEATURES)).tolist()}


def without_items(frame):
  """The columns that no table of items can hold."""
  return {name: frame[name] for name in ("request_id", "item_id", "score")}


def spoiled(frame, column, row, value):
  """The frame with another value in one row."""
  values = list(frame[column])
  values[row] = value
  return {**frame, column: values}


def write(frame, path, **options):
  """Writes a frame; returns the path as a text."""
  options.setdefault("row_group_size", 50)
  pq.write_table(pa.table(frame), path, **options)
  return str(path)


def opened(path, items=None, columns=None, **options):
  """The reader of a file."""
  options.setdefault("positive_scores", True)
  return candidates_lib.Candidates(
      path, items, columns or items_lib.CandidateColumns(), **options)


def read(path, *args, **options):
  """All requests of a file as one chunk, and the facts."""
  candidates = opened(path, *args, **options)
  facts = candidates.check()
  return chunks.joined_chunks(list(candidates.chunks(facts))), facts


def make_chunk(first, sizes, num_repeated=0):
  """A chunk of requests of these sizes; rows count from `first`."""
  num = sum(sizes)
  rows = np.arange(first, first + num)
  return chunks.Chunk(
      pa.array([f"r{k}" for k in range(first, first + len(sizes))]),
      chunks.starts_of(np.asarray(sizes)), pa.array(rows), rows / 10,
      rows.astype(np.int32) % 3, np.stack([rows, -rows], 1), num_repeated)


def assert_same(one, other):
  """Two chunks hold the same."""
  for left, right in zip(one, other, strict=True):
    if isinstance(left, pa.Array):
      assert left.equals(right)
    else:
      np.testing.assert_array_equal(left, right)
