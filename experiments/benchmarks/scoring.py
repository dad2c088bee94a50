"""Files scored by the command `score`, beside files that are only copied."""

from collections.abc import Sequence
import functools
import math
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pyarrow.parquet as pq

from experiments.benchmarks import served
from experiments.benchmarks import timing as timing_lib
from experiments.runs import errors
from experiments.runs import logs
from experiments.scoring import files

SIZES: tuple[int, ...] = (1_000_000, 4_000_000)
PLAIN = "pyarrow, read and write"
_ROOT = pathlib.Path(__file__).parents[2]


def parse_size(text: str) -> int:
  """Reads the rows of a file."""
  return timing_lib.parse_counts(text, 1, "rows of a file, as in 4000000")[0]


def run(
    sizes: Sequence[int] | None = None, *, repeats: int, seed: int,
    workdir: pathlib.Path, processes: Sequence[int] = (1, 2),
) -> dict[str, Any]:
  """Times the whole command, its start included, on files of every size."""
  stage = served.ensemble(workdir, seed=seed)
  artefact = served.publish(workdir / "artefact", [stage])
  log = logs.write_embedded_log(workdir, served.LOG)
  clock = timing_lib.Clock(repeats, seed, limit_seconds=math.inf,
                           sample_seconds=0.0)
  data, out = workdir / "rows.parquet", workdir / "scored"
  measurements = []
  for size in sorted(sizes or SIZES):
    write_rows(log, data, size)
    calls = {PLAIN: functools.partial(copy, data, out)} | {
        named(count): functools.partial(score, artefact, data, out, count)
        for count in processes}
    timings = clock.interleaved(calls, size)
    plain = timings[PLAIN].median
    measurements += [
        {"task": f"{size:,} rows", "rows": size, "method": name,
         "times_plain": timing.median / plain,
         **timing.rates(size, "rows"), **timing.to_json()}
        for name, timing in timings.items()]
    print(f"{size:,} rows: {len(calls)} ways", flush=True)
  data.unlink()
  shutil.rmtree(out)
  return {"measurements": measurements, "left_out": [],
          "span_rows": files.SPAN_ROWS}


def named(processes: int) -> str:
  """The method of the command with so many processes."""
  return f"score, {processes} process{'es' * (processes > 1)}"


def write_rows(log: pathlib.Path, data: pathlib.Path, num_rows: int) -> None:
  """Writes the rows of a log again and again, until there are so many."""
  table = pq.read_table(log)
  with pq.ParquetWriter(data, table.schema) as writer:
    for first in range(0, num_rows, len(table)):
      writer.write_table(table.slice(0, num_rows - first))


def copy(data: pathlib.Path, out: pathlib.Path) -> None:
  """Reads a file and writes it, a row group at a time."""
  _clear(out)
  with pq.ParquetFile(data) as file, pq.ParquetWriter(
      out / data.name, file.schema_arrow) as writer:
    for group in range(file.num_row_groups):
      writer.write_table(file.read_row_group(group))


def score(
    artefact: pathlib.Path, data: pathlib.Path, out: pathlib.Path,
    processes: int,
) -> None:
  """Scores a file by the command."""
  _clear(out)
  ended = subprocess.run(
      [sys.executable, "-m", "experiments.score", f"--artefact={artefact}",
       f"--data={data}", f"--out={out}", f"--processes={processes}"],
      cwd=_ROOT, capture_output=True, text=True, check=False)
  if ended.returncode:
    raise errors.UserError(f"the command failed: {ended.stderr.strip()}")


def _clear(out: pathlib.Path) -> None:
  shutil.rmtree(out, ignore_errors=True)
  out.mkdir()


def tables(content: dict[str, Any]) -> list[timing_lib.Table]:
  """What was measured as tables; the first is the summary."""
  measured = content["measurements"]
  sizes = list(dict.fromkeys(m["rows"] for m in measured))
  header = ["", *(f"{size:,} rows" for size in sizes)]
  rows = lambda cell: timing_lib.rows(
      measured, sizes, lambda m: m["rows"], cell)
  note = (
      "Medians of whole commands, start and compilation included, Parquet in "
      "and out; the default ensemble of four members. In brackets the time "
      f"beside that of {PLAIN}. A process takes "
      f"{content['span_rows']:,} rows at a time.")
  return [
      timing_lib.Table(
          "Scoring files, rows per second", header,
          rows(lambda m: f"{m['rows_per_second']:,.0f} "
                         f"({timing_lib.number(m['times_plain'])}x)"), note),
      timing_lib.Table(
          "Milliseconds, with quartiles", header, rows(
              lambda m: f"{timing_lib.milliseconds(m)} "
                        f"{timing_lib.quartiles(m)}"))]
