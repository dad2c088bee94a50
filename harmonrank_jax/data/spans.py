"""Spans: the parts of a log that are read by themselves, in any process.

A span is some row groups of one file that follow each other. Where a file is
cut depends on the file alone, so that any number of processes or hosts work on
the same spans.
"""

from collections.abc import Iterator
import itertools
import pathlib
from typing import NamedTuple

import pyarrow as pa

from harmonrank_jax.data import checks
from harmonrank_jax.data import parquet


class Span(NamedTuple):
  """Row groups of a file, read by themselves."""

  file: pathlib.Path
  number: int  # Among the spans of the file, from 0.
  of: int  # Spans of the file.
  num_rows: int
  row_groups: range
  firsts: tuple[int, ...]  # The first row of each of them, in the file.
  # Columns that the folders of the file name, with their values.
  partition: dict[str, pa.Scalar]

  @property
  def place(self) -> checks.Place:
    """Location of its first row, for messages."""
    return checks.Place(self.file, self.firsts[0], self.row_groups.start,
                        self.firsts)


def spans_of(
    log: parquet.ParquetLog, num_rows: int
) -> list[Span]:
  """All rows of a log in order; a file without rows is a span too.

  Args:
    log: as it was opened.
    num_rows: row groups of a file are joined until they have so many rows.
  """
  result = []
  for number, (file, metadata) in enumerate(
      zip(log.files, log.metadata, strict=True)):
    sizes = [metadata.row_group(group).num_rows
             for group in range(metadata.num_row_groups)]
    firsts = [0, *itertools.accumulate(sizes)]
    ends = [0]
    for end, first in enumerate(firsts):
      is_last = end == len(sizes) and end > ends[-1]
      if is_last or first - firsts[ends[-1]] >= num_rows:
        ends.append(end)
    groups = [range(*pair) for pair in itertools.pairwise(ends)] or [range(0)]
    result += [
        Span(file, place, len(groups), firsts[group.stop] - firsts[group.start],
             group, tuple(firsts[group.start:group.stop]) or (0,),
             log.partitions.get(number, {}))
        for place, group in enumerate(groups)]
  return result


def read_span(
    span: Span, num_rows: int
) -> Iterator[tuple[checks.Place, pa.RecordBatch]]:
  """The rows of a span with their places, so many at a time at most.

  Columns have the types of the file; those that folders name are added at the
  end. Memory holds a part of a row group.

  Raises:
    DataError: if the file cannot be read.
  """
  place = span.place
  with parquet.open_file(span.file, buffer_size=1 << 20) as file:
    if not span.num_rows:
      return
    batches = file.iter_batches(
        num_rows, row_groups=list(span.row_groups), use_threads=False)
    while True:
      with parquet.reading(place.where(0)):
        batch = next(batches, None)
      if batch is None:
        return
      for name, value in span.partition.items():
        batch = batch.append_column(name, pa.repeat(value, batch.num_rows))
      yield place, batch
      place = place._replace(row=place.row + batch.num_rows)
