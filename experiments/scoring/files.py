"""The scored file of a span, and what could not be scored of it."""

from collections.abc import Callable
import contextlib
import glob
import pathlib
import secrets
from typing import Any
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments.runs import errors
from harmonrank_jax.data import files
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import spans as spans_lib
from harmonrank_jax.serving import batches

# Rows of a span, or a little more.
SPAN_ROWS = 1_000_000
# Rows that are scored at once, and of a row group that is written.
BATCH_ROWS = 131_072
# Folder of rows that have no score, which readers of the output skip.
REJECTED = "_rejected"
# Key of the metadata of a scored file.
VERSION = b"harmonrank_jax.artefact"


class Task(NamedTuple):
  """A span and the file that its scored rows become."""

  span: spans_lib.Span
  file: pathlib.Path  # Within the folder of the output.


class Done(NamedTuple):
  """What became of some rows."""

  num_rows: int
  num_rejected: int


def tasks_of(log: parquet.ParquetLog) -> list[Task]:
  """The spans of a log with their files, named after those of the log.

  A file of several spans becomes as many files, in the order of their names.

  Raises:
    DataError: if another file of the log has the name of one of these.
  """
  tasks = [Task(span, _named(span, log.path)) for span in
           spans_lib.spans_of(log, SPAN_ROWS)]
  spans: dict[pathlib.Path, spans_lib.Span] = {}
  for span, file in tasks:
    other = spans.setdefault(file, span)
    if other is not span:
      raise schema_lib.DataError(
          f"{span.file}: the scores of {other.file} would have the same name, "
          f"{file}; rename one of the two.")
  return tasks


def score_span(
    task: Task, out: pathlib.Path, scorer: batches.BatchScorer, *,
    strict: bool, say: Callable[[Done], Any] = lambda done: None,
) -> Done:
  """Writes the scored file of a span, whole or not at all.

  Rows that have no score go to a file of the same name in `_rejected`, which
  is there before the scored file is; without such rows there is none.

  Args:
    task: the span and its file.
    out: folder of the output.
    scorer: what scores.
    strict: whether such a row is an error.
    say: called after each batch with what became of it.

  Raises:
    DataError: if the span cannot be read or scored.
    UserError: at a row without a score, if strict.
  """
  num_rows = num_rejected = 0
  # Spark begins a span again whose process is slow or not heard of, and may
  # still write: two that write one span must not share a file.
  attempt = secrets.token_hex(4)
  with parquet.open_file(task.span.file) as file:
    stored = file.schema_arrow
    dictionaries = _dictionaries(file.metadata)
  reason = scorer.added.field(len(scorer.added) - 1)

  def writer(file: pathlib.Path, added: list[pa.Field]):
    schema = pa.schema([*stored, *added], {
        **(stored.metadata or {}), VERSION: scorer.version.encode()})
    # The rejected rows have their file first: the scored one says that all is
    # done.
    temporary = stack.enter_context(files.atomic(
        file, temporary_name=f"{file.name}.writing-{attempt}"))
    return stack.enter_context(pq.ParquetWriter(
        temporary, schema, use_dictionary=dictionaries,
        write_page_checksum=True))

  with contextlib.ExitStack() as stack:
    scored = writer(out / task.file, list(scorer.added)[:-1])
    rejected = None
    for place, batch in spans_lib.read_span(task.span, BATCH_ROWS):
      try:
        batch = scorer.score(batch)
      except schema_lib.DataError as error:
        raise schema_lib.DataError(f"{place.where(0)}: {error}") from None
      is_scored = pc.is_null(batch[reason.name])
      done = Done(batch.num_rows, batch.num_rows - is_scored.true_count)
      if done.num_rejected:
        if strict:
          row = pc.index(is_scored, False).as_py()
          raise errors.UserError(
              f"{place.where(row)}, row {place.row + row:,}: "
              f"{batch[reason.name][row]}.")
        rejected = rejected or writer(out / REJECTED / task.file, [reason])
        rejected.write_batch(batch.filter(pc.invert(is_scored)).select(
            rejected.schema.names))
        batch = batch.filter(is_scored)
      scored.write_batch(batch.select(scored.schema.names))
      say(done)
      num_rows += done.num_rows
      num_rejected += done.num_rejected
    _remove_left(out / task.file, attempt)
    _remove_left(out / REJECTED / task.file, attempt)
  return Done(num_rows, num_rejected)


def _remove_left(file: pathlib.Path, attempt: str) -> None:
  """Removes what other attempts at a file have left."""
  for left in file.parent.glob(f"{glob.escape(file.name)}.writing-????????"):
    if not left.name.endswith(attempt):
      left.unlink(missing_ok=True)


def _dictionaries(metadata: pq.FileMetaData) -> list[str]:
  """Paths of the columns that a file holds as dictionaries."""
  if not metadata.num_row_groups:
    return []
  group = metadata.row_group(0)
  columns = [group.column(number) for number in range(group.num_columns)]
  return [column.path_in_schema for column in columns
          if any("DICTIONARY" in each for each in column.encodings)]


def _named(span: spans_lib.Span, path: pathlib.Path) -> pathlib.Path:
  relative = (span.file.relative_to(path) if path.is_dir()
              else pathlib.Path(span.file.name))
  if span.of == 1:
    return relative
  return relative.with_name(f"{relative.stem}.{span.number:05}-of-"
                            f"{span.of:05}{relative.suffix}")
