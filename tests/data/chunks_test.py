"""Chunks of requests: parts, unions and the file of their slates."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harmonrank_jax.data import chunks
from tests.data.candidate_files import assert_same
from tests.data.candidate_files import make_chunk


def test_requests_of_a_chunk():
  part = chunks.requests_of(make_chunk(0, [2, 3, 1], 5), np.array([0, 2]))
  assert part.request_ids.to_pylist() == ["r0", "r2"]
  assert part.starts.tolist() == [0, 2, 3]
  assert part.item_ids.to_pylist() == [0, 1, 5]
  assert part.scores.tolist() == [0, 0.1, 0.5]
  assert part.categories.tolist() == [0, 1, 2]
  assert part.features.tolist() == [[0, 0], [1, -1], [5, -5]]
  assert part.num_repeated == 0


def test_no_request_of_a_chunk():
  part = chunks.requests_of(make_chunk(0, [2, 3]), np.array([], int))
  assert not len(part.request_ids) and part.starts.tolist() == [0]
  assert part.features.shape == (0, 2)


def test_joined_chunks_are_split_again():
  parts = [make_chunk(0, [2, 3]), make_chunk(5, [1])]
  joined = chunks.joined_chunks(parts)
  assert joined.starts.tolist() == [0, 2, 5, 6]
  assert_same(chunks.requests_of(joined, np.array([0, 1])), parts[0])
  assert_same(chunks.requests_of(joined, np.array([2])), parts[1])
  repeated = [make_chunk(0, [1], 2), make_chunk(1, [1], 3)]
  assert chunks.joined_chunks(repeated).num_repeated == 2 + 3


def test_a_row_is_a_slot_with_an_item(tmp_path):
  path = tmp_path / "new" / "slates.parquet"
  gains = np.asarray([[0.5, 0.25], [1, 0]], np.float32)
  with chunks.slate_file(path) as write:
    write(make_chunk(0, [2, 3]), np.array([[1, 0], [4, -1]]), gains)
    write(make_chunk(5, [1]), np.array([[-1, 0]]), gains[:1])
    # Nothing stands under the name before all slates are written.
    assert not path.exists()
  table = pq.read_table(path)
  assert table.schema.field("slot").type == pa.int32()
  assert table.to_pydict() == {
      "request_id": ["r0", "r0", "r1", "r5"], "slot": [0, 1, 0, 1],
      "item_id": [1, 0, 4, 5], "gain": [0.5, 0.25, 1, 0.25]}


def test_an_error_leaves_the_earlier_file(tmp_path):
  path = tmp_path / "slates.parquet"
  path.write_text("earlier")
  with pytest.raises(RuntimeError), chunks.slate_file(path) as write:
    write(make_chunk(0, [1]), np.array([[0]]),
          np.ones((1, 1), np.float32))
    raise RuntimeError
  assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
  assert path.read_text() == "earlier"
