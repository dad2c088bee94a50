"""Logs as binaries open them."""

import pyarrow as pa

from experiments.runs import logs
from harmonrank_jax.data import generator
from harmonrank_jax.data import parquet


def test_the_embedded_log_is_written_once(tmp_path):
  config = generator.LogConfig(num_exposures=1000)
  path = logs.write_embedded_log(tmp_path, config)
  before = path.stat().st_mtime_ns
  assert logs.write_embedded_log(tmp_path, config) == path
  assert path.stat().st_mtime_ns == before
  log, schema = logs.open_log(path, generator.SCHEMA)
  parquet.check_log(log, schema)
  assert not any(column.startswith("true_") or column == "position"
                 for column in schema.columns)


def test_slices_are_quarters_of_numbers_and_values_of_text():
  numbers = pa.chunked_array([pa.array([1.0, 2, 3, 4, 5, 6, 7, 8, None])])
  names = logs.as_slices(numbers, True)
  assert names[-1] == "missing"
  assert [int((names == name).sum()) for name in dict.fromkeys(names[:-1])] == [
      2, 2, 2, 2]
  assert logs.as_slices(pa.chunked_array([[3.0, 3.0]]), True).tolist() == [
      "3", "3"]
  texts = pa.chunked_array([["a", None] + [f"v{i}" for i in range(12)] * 2])
  names = logs.as_slices(texts, False)
  assert names[0] == names[1] == "others" and names[2] == "v0"
