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
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harmonrank_jax.data import checks
from harmonrank_jax.data import files
from harmonrank_jax.data import schema as schema_lib

# A NamedTuple of arrays with rows along the first axis.
Arrays = Any

# Integer columns of at most this many values count as categorical where no
# schema says what they are.
FEW_VALUES = 256
# Row groups are joined into blocks of at least so many rows, which are shuffled
# together.
BLOCK_ROWS = 131_072
# A log of at most so many rows is transformed once and kept in memory, instead
# of being read anew in every epoch.
_KEPT_ROWS = 1_000_000


class RowGroup(NamedTuple):
  """A row group of a file of a log."""

  file: int
  number: int
  num_rows: int
  first_row: int  # In its file.


class ParquetLog:
  """A Parquet file, or the Parquet files of a folder as one log.

  Attributes:
    files: paths, sorted.
    arrow_schema: names and types, the same in every file.
    row_groups: all row groups, in order.
    num_rows: rows of all files.
  """

  def __init__(self, path: str | pathlib.Path):
    """Opens the log and reads its metadata.

    Args:
      path: a file, or a folder that is searched for `*.parquet`.

    Raises:
      DataError: if there is no such file, no Parquet in the folder, a file
        that is not Parquet or is cut off, a column that appears twice, files
        with different columns, or no row at all.
    """
    self.files = files.find(path, "*.parquet")
    self.row_groups: list[RowGroup] = []
    for number, file in enumerate(self.files):
      parquet = _open(file)
      arrow_schema = parquet.schema_arrow.remove_metadata()
      for name in arrow_schema.names:
        if arrow_schema.names.count(name) > 1:
          raise schema_lib.DataError(f"{file}: column {name!r} appears twice.")
      if not number:
        self.arrow_schema = arrow_schema
      else:
        _check_same(self.arrow_schema, arrow_schema, self.files[0], file)
      first = 0
      for index in range(parquet.num_row_groups):
        num_rows = parquet.metadata.row_group(index).num_rows
        if num_rows:
          self.row_groups.append(RowGroup(number, index, num_rows, first))
        first += num_rows
      parquet.close()
    self.num_rows = sum(group.num_rows for group in self.row_groups)
    if not self.num_rows:
      raise schema_lib.DataError(f"{path}: the log has no rows.")

  def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
    """The rows of a row group; raises a DataError if it cannot be read."""
    with (reading(self.place(group).where),
          _open(self.files[group.file]) as parquet):
      return parquet.read_row_group(group.number, columns=list(columns))

  def place(self, group: RowGroup) -> checks.Place:
    """Location of a row group, for messages."""
    return checks.Place(f"{self.files[group.file]}, row group {group.number}",
                        group.first_row)

  def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
    """All rows in order, a row group at a time."""
    for group in self.row_groups:
      yield self.read(group, columns)

  def columns_of_few_values(self) -> list[str]:
    """Integer columns that take at most `FEW_VALUES` values."""
    values: dict[str, set] = {
        field.name: set() for field in self.arrow_schema
        if pa.types.is_integer(field.type)}
    for group in self.row_groups:
      if not values:
        break
      table = self.read(group, list(values))
      for name in list(values):
        values[name].update(pc.unique(table[name]).to_pylist())
        if len(values[name]) > FEW_VALUES:
          del values[name]
    return list(values)


def check_log(log: ParquetLog, schema: schema_lib.Schema) -> None:
  """Checks types and every row of a log, in one streaming pass.

  Raises:
    DataError: at the first thing that is wrong.
  """
  checks.check_types(schema, log.arrow_schema, log.files[0])
  for group in log.row_groups:
    checks.check_rows(
        schema, log.read(group, schema.columns), log.place(group))


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


def _open(file: pathlib.Path) -> pq.ParquetFile:
  with reading(file, "not a Parquet file, or cut off"):
    return pq.ParquetFile(file, page_checksum_verification=True)


def _check_same(
    schema: pa.Schema, other: pa.Schema, file: pathlib.Path,
    other_file: pathlib.Path,
) -> None:
  if schema.equals(other):
    return
  for field in schema:
    if field.name not in other.names:
      raise schema_lib.DataError(
          f"{other_file}: no column {field.name!r}"
          f"{schema_lib.nearest(field.name, other.names)}, which "
          f"{file} has.")
    if other.field(field.name).type != field.type:
      raise schema_lib.DataError(
          f"{other_file}: column {field.name!r} has type "
          f"{other.field(field.name).type}, in {file} it has {field.type}.")
  if set(other.names) != set(schema.names):
    extra = next(n for n in other.names if n not in schema.names)
    raise schema_lib.DataError(
        f"{other_file}: column {extra!r} is not in {file}.")
