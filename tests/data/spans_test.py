"""Spans of files: where they are cut, and what is read of them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import spans as spans_lib


@pytest.mark.parametrize("sizes,wanted", [
    ((), [0]), ((5,), [5]), ((40, 60, 100, 1), [100, 100, 1]),
    ((250, 10, 10), [250, 20])])
def test_spans_are_whole_row_groups(tmp_path, sizes, wanted):
  rows = pa.table({"x": range(sum(sizes))})
  with pq.ParquetWriter(tmp_path / "a.parquet", rows.schema) as writer:
    start = 0
    for size in sizes:
      writer.write_table(rows.slice(start, size))
      start += size
  pq.write_table(pa.table({"x": [0]}), tmp_path / "b.parquet")
  spans = spans_lib.spans_of(parquet.ParquetLog(tmp_path), 100)
  assert [span.num_rows for span in spans] == [*wanted, 1]
  read = [batch for span in spans[:-1] for _, batch in
          spans_lib.read_span(span, 64)]
  assert pa.Table.from_batches(read, rows.schema).equals(rows)


def test_a_span_has_the_columns_and_places_of_its_file(tmp_path):
  path = tmp_path / "day=7" / "a.parquet"
  path.parent.mkdir()
  rows = pa.table({"x": pa.array(range(50), pa.uint8()),
                   "t": pa.array(range(50), pa.timestamp("ns"))})
  pq.write_table(rows, path, row_group_size=20)
  spans = spans_lib.spans_of(parquet.ParquetLog(tmp_path), 30)
  assert [(span.number, span.of, span.firsts) for span in spans] == [
      (0, 2, (0, 20)), (1, 2, (40,))]
  read = list(spans_lib.read_span(spans[0], 25))
  assert [place.row for place, _ in read] == [0, 25]
  assert read[1][0].where(3) == f"{path}, row group 1"
  got = pa.Table.from_batches([batch for _, batch in read])
  assert got.schema.types == [*rows.schema.types, pa.int64()]
  assert got.drop_columns("day").equals(rows.slice(0, 40))
  assert got["day"].to_pylist() == [7] * 40


def test_a_page_that_has_changed_is_named(tmp_path):
  path = tmp_path / "a.parquet"
  pq.write_table(pa.table({"x": range(10_000)}), path, row_group_size=1000,
                 write_page_checksum=True)
  span, = spans_lib.spans_of(parquet.ParquetLog(path), 10_000)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  with pytest.raises(schema_lib.DataError, match=r"a\.parquet.*not readable"):
    list(spans_lib.read_span(span, 500))
