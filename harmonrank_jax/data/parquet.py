"""Parquet logs: a checked pass over all rows, and a resumable shuffled reader.

A log is a file or a folder of files, and may be larger than memory: it is read
a block at a time. The order of an epoch is a permutation of row groups and one
of the rows within each block, both drawn from (seed, epoch): the same on
every host, and a cursor of three integers says where it stands.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import copy
import functools
import itertools
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harmonrank_jax.data import checks
from harmonrank_jax.data import files
from harmonrank_jax.data import kinds
from harmonrank_jax.data import leaks
from harmonrank_jax.data import probabilities
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import times as times_lib

# A NamedTuple of arrays with rows along the first axis.
Arrays = Any

# Integer columns of at most this many values count as categorical where no
# schema says what they are.
FEW_VALUES = 256
# Row groups are joined into blocks of at least so many rows, which are shuffled
# together.
BLOCK_ROWS = 131_072
# Smaller row groups of a file are read together: each costs a fixed time.
GROUP_ROWS = 8192
# Rows of a log that are searched for columns that tell the labels.
_SAMPLE_ROWS = 20_000
# Files that are kept open between two reads.
_OPEN_FILES = 64
# A log of at most so many rows is transformed once and kept in memory, instead
# of being read anew in every epoch.
_KEPT_ROWS = 1_000_000


class RowGroup(NamedTuple):
  """A row group of a file of a log, or several small ones in a row."""

  file: int
  number: int  # Of the first of them.
  num_rows: int
  firsts: tuple[int, ...]  # The first row of each of them, in its file.


class ParquetLog:
  """A Parquet file, or the Parquet files of a folder as one log.

  Files may differ in columns and their types. A column that every file has is
  read in the type that holds all its values (`kinds.common`); others are
  irregular, and may not be read. Folders named `<column>=<value>` are columns.

  Attributes:
    path: what was named.
    files: paths, sorted.
    metadata: what each file says of itself.
    partitions: by number of a file with rows, what its folders name.
    arrow_schema: names and types of the columns of all files.
    irregular: of columns that some file lacks, or has in a type that does not
      go with the others, what is wrong.
    row_groups: all row groups, in order; small ones are joined.
    num_rows: rows of all files.
    notes: what was found odd, a line each.
    meanings: by column, what its values are read as; of a checked log.
    times: `[num_rows]` int64 milliseconds of a checked log with a time.
  """

  def __init__(
      self, path: str | pathlib.Path, *, group_rows: int = GROUP_ROWS
  ):
    """Opens the log and reads its metadata.

    Args:
      path: a file, or a folder that is searched for `*.parquet`; what begins
        with a dot or an underscore is skipped.
      group_rows: row groups of a file are joined until they have so many rows.

    Raises:
      DataError: if there is no such file, no Parquet in the folder, a file
        that is not Parquet or is cut off, a column that appears twice, or no
        row at all; or if the folder is that of a table with versions.
    """
    self.path = pathlib.Path(path)
    self.files, skipped = files.search(path, "*.parquet")
    self.notes: list[str] = []
    if skipped:
      self.notes.append(
          f"{path}: {len(skipped):,} hidden Parquet "
          f"{'file is' if len(skipped) == 1 else 'files are'} skipped, as "
          f"{skipped[0].relative_to(path)}.")
    self.row_groups: list[RowGroup] = []
    self.metadata: list[pq.FileMetaData] = []
    schemas: dict[int, pa.Schema] = {}  # Of the files with rows.
    for number, file in enumerate(self.files):
      parquet = open_file(file)
      arrow_schema, metadata = parquet.schema_arrow, parquet.metadata
      parquet.close()
      for name in arrow_schema.names:
        if arrow_schema.names.count(name) > 1:
          raise schema_lib.DataError(f"{file}: column {name!r} appears twice.")
      self.metadata.append(metadata)
      if metadata.num_rows:
        schemas[number] = arrow_schema
        self.row_groups += _row_groups(number, metadata, group_rows)
    self.num_rows = sum(group.num_rows for group in self.row_groups)
    if not self.num_rows:
      raise schema_lib.DataError(f"{path}: the log has no rows.")
    self.partitions = self._read_partitions(path, schemas)
    self.irregular: dict[str, str] = {}
    self.arrow_schema = self._join_schemas(schemas)
    self._read_as = {
        field.name: kinds.read_as(field.type) for field in self.arrow_schema}
    self.meanings: dict[
        str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {}
    self.times: np.ndarray | None = None
    names, known = self.files, self.metadata
    self._opened = functools.lru_cache(_OPEN_FILES)(
        lambda number: open_file(names[number], known[number]))

  def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
    """The rows of a row group; raises a DataError if it cannot be read."""
    with reading(self._span(group)):
      return self._as_read(group, columns, self._opened(
          group.file).read_row_groups(
              _numbers(group), columns=self._stored(group, columns)))

  def parts(
      self, columns: Sequence[str], num_rows: int
  ) -> Iterator[tuple[checks.Place, pa.Table]]:
    """All rows in order with their places, so many at a time at most.

    Memory holds a part of a row group.
    """
    for number, groups in itertools.groupby(
        self.row_groups, lambda group: group.file):
      with open_file(self.files[number], self.metadata[number],
                 buffer_size=1 << 20) as file:
        for group in groups:
          place = self.place(group)
          with reading(self._span(group)):
            for batch in file.iter_batches(
                num_rows, row_groups=_numbers(group),
                columns=self._stored(group, columns)):
              yield place, self._as_read(
                  group, columns, pa.Table.from_batches([batch]))
              place = place._replace(row=place.row + batch.num_rows)

  def place(self, group: RowGroup) -> checks.Place:
    """Location of a row group, for messages."""
    return checks.Place(self.files[group.file], group.firsts[0], group.number,
                        group.firsts)

  def place_of(self, row: int) -> str:
    """Location of a row of the log."""
    for group in self.row_groups:
      if row < group.num_rows:
        place = self.place(group)
        return f"{place.where(row)}, row {place.row + row}"
      row -= group.num_rows
    raise IndexError(row)

  def placed(
      self, columns: Sequence[str]
  ) -> Iterator[tuple[checks.Place, pa.Table]]:
    """All rows in order with their places, a row group at a time."""
    for group in self.row_groups:
      yield self.place(group), self.read(group, columns)

  def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
    """All rows in order, a row group at a time."""
    for _, table in self.placed(columns):
      yield table

  def kind(self, column: str) -> pa.DataType:
    """The type in which a column is read."""
    return self._read_as[column]

  def columns_of_few_values(self) -> list[str]:
    """Integer columns that take at most `FEW_VALUES` values."""
    values: dict[str, set] = {
        field.name: set() for field in self.arrow_schema
        if pa.types.is_integer(field.type)
        and field.name not in self.irregular}
    for group in self.row_groups:
      if not values:
        break
      table = self.read(group, list(values))
      for name in list(values):
        values[name].update(pc.unique(table[name]).to_pylist())
        if len(values[name]) > FEW_VALUES:
          del values[name]
    return list(values)

  def _span(self, group: RowGroup) -> str:
    """File and row groups, for errors of reading."""
    last = _numbers(group)[-1]
    numbers = f"row group {last}" if last == group.number else (
        f"row groups {group.number} to {last}")
    return f"{self.files[group.file]}, {numbers}"

  def _stored(self, group: RowGroup, columns: Sequence[str]) -> list[str]:
    """Those of the columns that are in the file itself."""
    for column in columns:
      if column in self.irregular:
        raise schema_lib.DataError(self.irregular[column])
    return [column for column in columns
            if column not in self.partitions[group.file]]

  def _as_read(
      self, group: RowGroup, columns: Sequence[str], table: pa.Table
  ) -> pa.Table:
    """Rows of a row group as all files have them, with their partition."""
    result, partition = {}, self.partitions[group.file]
    for name in columns:
      if name in partition:
        column = pa.chunked_array([pa.repeat(partition[name], table.num_rows)])
      else:
        column = table[name]
      column = kinds.convert(column, self._read_as[name])
      if name in self.meanings:
        column = self.meanings[name](column)
      result[name] = column
    return pa.table(result)

  def _read_partitions(
      self, path: str | pathlib.Path, schemas: dict[int, pa.Schema]
  ) -> dict[int, dict[str, pa.Scalar]]:
    """By file, the columns that its folders name, with their values."""
    named = {number: files.partition(path, self.files[number])
             for number in schemas}
    stored = {name for schema in schemas.values() for name in schema.names}
    for name in dict.fromkeys(itertools.chain(*named.values())):
      if name in stored:
        self.notes.append(
            f"{path}: files and folders have a column {name!r}; that of the "
            "files is read.")
    types = {
        name: kinds.named([of[name] for of in named.values() if name in of])
        for name in itertools.chain(*named.values()) if name not in stored}
    return {number: {name: pa.scalar(of[name]).cast(kind)
                     for name, kind in types.items() if name in of}
            for number, of in named.items()}

  def _join_schemas(self, schemas: dict[int, pa.Schema]) -> pa.Schema:
    """Names and types of the columns of all files; finds irregular ones."""
    types: dict[str, dict[int, pa.DataType]] = {}
    for number, schema in schemas.items():
      for name, kind in [
          *zip(schema.names, schema.types, strict=True),
          *((n, v.type) for n, v in self.partitions[number].items())]:
        types.setdefault(name, {})[number] = kind
    fields = []
    for name, by_file in types.items():
      first = next(iter(by_file))
      kind = kinds.common(list(by_file.values()))
      lacking = [number for number in schemas if number not in by_file]
      if lacking:
        near = schema_lib.nearest(name, schemas[lacking[0]].names)
        self.irregular[name] = (
            f"{self.files[lacking[0]]}: no column {name!r}{near}, which "
            f"{self.files[first]} has.")
      elif kind is None:
        other = next(number for number in by_file if kinds.common(
            [by_file[first], by_file[number]]) is None)
        self.irregular[name] = (
            f"{self.files[other]}: column {name!r} has type {by_file[other]}, "
            f"in {self.files[first]} it has {by_file[first]}.")
      fields.append(pa.field(name, kind or by_file[first]))
    return pa.schema(fields)


def check_log(
    log: ParquetLog, schema: schema_lib.Schema, *,
    trained: ParquetLog | None = None,
) -> ParquetLog:
  """Checks types and every row of a log, in one streaming pass.

  What columns mean is decided by nearly all of their rows, and said in the
  notes where it is not plain; so are the number and the first of the odd rows,
  and profile columns that tell the labels.
  Integer times are of the unit that makes them dates. Scores are probabilities
  if at most 2 % of them are outside [0, 1].

  Args:
    log: as it was opened.
    schema: its roles.
    trained: what this function returned for the log that a model was trained
      on, whose scores say which are probabilities; None if it is this one.

  Returns:
    The log, with its `times`, as it is to be read: integer times are
    milliseconds, and scores that should be probabilities and are none are
    missing.

  Raises:
    DataError: at the first thing that is wrong.
  """
  checks.check_types(schema, log.arrow_schema, log.files[0])
  times: list[np.ndarray] = []
  scores = {o.score: probabilities.Tally()
            for o in schema.objectives if o.score}
  sample: list[pa.Table] = []
  num_rows, stride = 0, -(-log.num_rows // _SAMPLE_ROWS)
  for place, table in log.placed(schema.columns):
    checks.check_rows(schema, table, place)
    if schema.time:
      times.append(times_lib.integers_of(table[schema.time]))
    for column, tally in scores.items():
      tally.add(kinds.numbers_of(table[column]), num_rows)
    sample.append(table.take(np.arange(-num_rows % stride, len(table), stride)))
    num_rows += table.num_rows
  result = copy.copy(log)
  result.notes, result.meanings = list(log.notes), dict(log.meanings)
  if schema.time:
    _understand_times(result, schema.time, np.concatenate(times))
  for column, tally in scores.items():
    _understand_scores(result, column, tally, trained)
  if trained is None:
    result.notes += [f"{log.path}: {line}" for line in leaks.describe(
        schema, pa.concat_tables(sample),
        None if result.times is None else result.times[::stride])]
  return result


def _understand_times(
    log: ParquetLog, column: str, integers: np.ndarray
) -> None:
  """Sets `times`, and how the column is read."""
  kind = log.arrow_schema.field(column).type
  unit = times_lib.unit_of(integers)
  log.notes += [f"{log.path}: {line}" for line in times_lib.describe(
      column, kind, integers, unit)]
  if not kinds.is_moment(kind):
    log.meanings[column] = lambda values: pa.chunked_array([
        times_lib.in_ms(times_lib.integers_of(values), unit)])
  log.times = times_lib.in_ms(integers, unit)
  far = times_lib.are_far(log.times)
  if unit and far.any():
    row = int(np.argmax(far))
    dates = log.times[~far]
    are = "is" if far.sum() == 1 else "are"
    log.notes.append(
        f"column {column!r}: {far.sum():,} of {len(far):,} times {are} far "
        f"from the others ({times_lib.day_of(dates.min())} to "
        f"{times_lib.day_of(dates.max())}), the first is {integers[row]} "
        f"({log.place_of(row)}).")


def _understand_scores(
    log: ParquetLog, column: str, tally: probabilities.Tally,
    trained: ParquetLog | None,
) -> None:
  """Sets how the column is read."""
  if not tally.num_scores:
    log.notes.append(
        f"{log.path}: column {column!r} has no score in any row, all are "
        "missing; the AUC of the scores as they are is that of chance, 0.5.")
  if trained is not None and column not in trained.meanings:
    return
  if tally.are_probabilities:
    log.meanings[column] = probabilities.cleaned
  if tally.first is None:
    return
  said = tally.describe(column, log.place_of(tally.first[0]))
  if tally.are_probabilities:
    log.notes.append(f"{said}; they count as missing.")
  elif trained is not None:
    raise schema_lib.DataError(
        f"{said}; they were probabilities in the rows to train on.")
  elif 2 * tally.num_odd < tally.num_scores:
    log.notes.append(
        f"{said}; all are taken for scores of any range. Make the odd ones "
        "null if the others are probabilities.")


class Cursor(NamedTuple):
  """Where a reader stands: the next row to be read."""

  epoch: int = 0
  block: int = 0  # In the order of the epoch.
  row: int = 0  # In the order of the block.


class BatchReader:
  """Endless shuffled batches of a fixed size, exactly resumable.

  Batches run on over the ends of blocks and epochs. Rows of a block that
  share a list (say, a user) can be kept together: then lists are permuted
  instead of rows and a batch holds whole lists, but for the two at its ends.
  In a log of many blocks that is sorted by time, a user's rows are in many of
  them; sort such a log by user to rank within users.
  """

  def __init__(
      self,
      log: ParquetLog,
      columns: Sequence[str],  # What `transform` needs.
      # From rows to a NamedTuple of arrays with the rows (or some of them)
      # along the first axis; a function of the rows alone.
      transform: Callable[[pa.Table], Arrays],
      *,
      batch_size: int,
      seed: int,  # Seed of the permutations.
      # From the arrays of a block to the list of each row.
      list_of: Callable[[Arrays], np.ndarray] | None = None,
      cursor: Cursor | None = None,
      block_rows: int = BLOCK_ROWS,  # Rows shuffled together, at least.
  ):
    """Starts at the cursor, or at the beginning without one."""
    self._log, self._columns, self._transform = log, tuple(columns), transform
    self._batch_size, self._seed, self._list_of = batch_size, seed, list_of
    self._block_rows = block_rows
    self.cursor = cursor or Cursor()
    self._order: tuple[int, list[list[RowGroup]]] | None = None
    self._loaded: tuple[tuple[int, int], tuple] | None = None
    self._kept: dict[RowGroup, Any] = {}

  def __iter__(self) -> "BatchReader":
    return self

  def __next__(self):
    """The next batch, a NamedTuple of arrays of `batch_size` rows.

    Raises:
      DataError: if `transform` leaves no row, a file cannot be read, or the
        cursor is not one of this log.
    """
    parts: list[Any] = []
    missing, empty_epochs = self._batch_size, 0
    while missing:
      epoch, block, row = self.cursor
      blocks = self._blocks(epoch)
      if block == len(blocks):
        self.cursor = Cursor(epoch + 1)
        empty_epochs += 1
        if empty_epochs > 1 and not parts:
          raise schema_lib.DataError("no row is left to read after filtering.")
        continue
      if block > len(blocks):
        raise schema_lib.DataError(
            f"block {block} of an epoch of {len(blocks)} is to be read next: "
            "the log is not the one that was read before.")
      arrays = self._load(epoch, block, blocks[block])
      size = len(arrays[0])
      if row >= size:
        self.cursor = Cursor(epoch, block + 1)
        continue
      end = min(size, row + missing)
      parts.append(arrays._make(array[row:end] for array in arrays))
      missing -= end - row
      self.cursor = Cursor(epoch, block, end)
    return joined(parts)

  def _blocks(self, epoch: int) -> list[list[RowGroup]]:
    """Row groups in the order of the epoch, joined into blocks."""
    if self._order is not None and self._order[0] == epoch:
      return self._order[1]
    groups = self._log.row_groups
    order = np.random.default_rng([self._seed, epoch]).permutation(len(groups))
    blocks: list[list[RowGroup]] = [[]]
    rows = 0
    for index in order:
      if rows >= self._block_rows:
        blocks.append([])
        rows = 0
      blocks[-1].append(groups[index])
      rows += groups[index].num_rows
    self._order = epoch, blocks
    return blocks

  def _load(self, epoch: int, block: int, groups: list[RowGroup]):
    """The arrays of a block in the order of the epoch."""
    if self._loaded is not None and self._loaded[0] == (epoch, block):
      return self._loaded[1]
    arrays = joined([self._arrays(group) for group in groups])
    # `block + 1`: NumPy seeds ignore trailing zeros, so block 0 would reuse
    # the seed of the order of blocks.
    rng = np.random.default_rng([self._seed, epoch, block + 1])
    if self._list_of is None:
      order = rng.permutation(len(arrays[0]))
    else:
      _, lists = np.unique(self._list_of(arrays), return_inverse=True)
      places = rng.permutation(lists.max(initial=-1) + 1)
      order = np.argsort(places[lists], kind="stable")
    arrays = arrays._make(array[order] for array in arrays)
    self._loaded = ((epoch, block), arrays)
    return arrays

  def _arrays(self, group: RowGroup):
    """The arrays of a row group, from memory if it is kept there."""
    if group in self._kept:
      return self._kept[group]
    arrays = self._transform(self._log.read(group, self._columns))
    if self._log.num_rows <= _KEPT_ROWS:
      self._kept[group] = arrays
    return arrays


def write_parquet(
    table: pa.Table, path: pathlib.Path, *, row_group_size: int = 32_768
) -> None:
  """Writes a table under a temporary name and renames it.

  Pages carry checksums, which reading verifies. If the disk does not take the
  file, nothing is left behind.
  """
  with files.atomic(path) as temporary:
    pq.write_table(table, temporary, row_group_size=row_group_size,
                   write_page_checksum=True)


@contextlib.contextmanager
def reading(
    place: str | pathlib.Path, what: str = "not readable"
) -> Iterator[None]:
  """A context in which errors of a reader become errors of the data."""
  try:
    yield
  except (OSError, pa.ArrowException) as error:
    one_line = " ".join(str(error).split())[:200]
    raise schema_lib.DataError(f"{place}: {what} ({one_line}).") from None


def joined(parts: list):
  """NamedTuples of arrays as one, along the first axis."""
  if len(parts) == 1:
    return parts[0]
  return parts[0]._make(
      pa.concat_arrays(arrays) if isinstance(arrays[0], pa.Array)
      else np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def open_file(
    file: pathlib.Path, metadata: pq.FileMetaData | None = None, **options: Any
) -> pq.ParquetFile:
  """Opens a file; raises a DataError if it is no Parquet or cut off."""
  with reading(file, "not a Parquet file, or cut off"):
    return pq.ParquetFile(
        file, metadata=metadata, page_checksum_verification=True, **options)


def _row_groups(
    file: int, metadata: pq.FileMetaData, group_rows: int
) -> list[RowGroup]:
  """The row groups of a file that have rows, joined until they have enough."""
  sizes = [metadata.row_group(number).num_rows
           for number in range(metadata.num_row_groups)]
  firsts = [0, *itertools.accumulate(sizes)]
  begins = [0]
  for number in range(1, len(sizes)):
    if firsts[number + 1] - firsts[begins[-1]] > group_rows:
      begins.append(number)
  groups = [RowGroup(file, begin, firsts[end] - firsts[begin],
                     tuple(firsts[begin:end]))
            for begin, end in itertools.pairwise([*begins, len(sizes)])]
  return [group for group in groups if group.num_rows]


def _numbers(group: RowGroup) -> list[int]:
  return list(range(group.number, group.number + len(group.firsts)))
