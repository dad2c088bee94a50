"""The suite of scored files: the same rows are copied and scored."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.benchmarks import scoring
from experiments.runs import errors
from tests.experiments.benchmarks import small


def test_a_log_is_repeated_to_any_number_of_rows(tmp_path):
  table = pa.table({"row": range(7), "text": list("abcdefg")})
  pq.write_table(table, tmp_path / "log.parquet")
  for num_rows in (3, 7, 20):
    scoring.write_rows(
        tmp_path / "log.parquet", tmp_path / "rows.parquet", num_rows)
    rows = pq.read_table(tmp_path / "rows.parquet")
    assert rows["row"].to_pylist() == [k % 7 for k in range(num_rows)]
  scoring.copy(tmp_path / "rows.parquet", tmp_path / "out")
  assert pq.read_table(tmp_path / "out" / "rows.parquet").equals(rows)


def test_a_command_that_fails_is_not_timed(tmp_path):
  with pytest.raises(errors.UserError, match=r"command failed: .*no manifest"):
    scoring.score(tmp_path, tmp_path, tmp_path / "out", 1)


def test_the_ratio_to_a_plain_copy_is_shown():
  measured = [
      {"rows": 1000, "method": name, "times_plain": seconds,
       "rows_per_second": 1000 / seconds, "median_seconds": seconds,
       "quartiles_seconds": [seconds, seconds]}
      for name, seconds in ((scoring.PLAIN, 1.0), (scoring.named(2), 4.0))]
  summary = scoring.tables({"measurements": measured, "span_rows": 1000})[0]
  assert summary.header == ["", "1,000 rows"]
  assert summary.rows == [
      [scoring.PLAIN, "1,000 (1.00x)"], ["score, 2 processes", "250 (4.00x)"]]


# Slow: training stacks and processes.


@pytest.mark.slow
def test_files_are_scored_and_copied(tmp_path):
  content = small.measure(tmp_path, "scoring", ("3000",), processes=(1,))
  assert json.loads((tmp_path / "benchmark.json").read_text()) == content
  plain, scored = sorted(
      content["measurements"], key=lambda m: m["times_plain"])
  assert plain["method"] == scoring.PLAIN and plain["times_plain"] == 1
  assert scored["method"] == scoring.named(1)
  assert scored["rows_per_second"] == pytest.approx(
      3000 / scored["median_seconds"])
  assert (tmp_path / "report.html").read_text().count("<svg") == 1
  assert not (tmp_path / "scored").exists()
