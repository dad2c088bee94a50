"""The Parquet file of slates."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harmonrank_jax.data import slates
from tests.data.candidate_files import make_chunk


def test_a_row_is_a_slot_with_an_item(tmp_path):
  path = tmp_path / "new" / "slates.parquet"
  gains = np.asarray([[0.5, 0.25], [1, 0]], np.float32)
  with slates.slate_file(path) as write:
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
  with pytest.raises(RuntimeError), slates.slate_file(path) as write:
    write(make_chunk(0, [1]), np.array([[0]]),
          np.ones((1, 1), np.float32))
    raise RuntimeError
  assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
  assert path.read_text() == "earlier"
