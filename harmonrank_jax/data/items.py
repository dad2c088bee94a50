"""Ids, categories and features of items, read and checked.

They are columns of the candidates, of a log of slates, or of a table of items.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import checks
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

DataError = schema_lib.DataError

FEATURES, EMBEDDING_PREFIX = "features", "embedding_"


class Columns(NamedTuple):
  """Names of the columns of candidates and items.

  Attributes:
    request: id of the request.
    item: id of the item.
    score: predicted score of the item in the request.
    category: category of the item.
    features: column of lists of numbers. None stands for `features` if there
      is such a column, and for all columns `embedding_*` otherwise.
  """

  request: str = "request_id"
  item: str = "item_id"
  score: str = "score"
  category: str = "category"
  features: str | None = None


class Place(NamedTuple):
  """Location of some rows, for error messages.

  Attributes:
    where: file and row group.
    row: number of the first of the rows within its file.
  """

  where: str
  row: int


class Items(NamedTuple):
  """A table of I items.

  Attributes:
    ids: `[I]` integers or texts, without duplicates.
    categories: `[I]` texts; None if they were not read.
    features: `[I, D]` float32, finite; None if they were not read.
  """

  ids: pa.Array
  categories: pa.Array | None
  features: np.ndarray | None


def feature_columns(
    log: parquet.ParquetLog, name: str | None
) -> tuple[str, ...]:
  """Names of the columns that hold the features of items.

  Args:
    log: files of candidates or items.
    name: the column; None looks for `features`, then for `embedding_*`.

  Returns:
    One column of lists, or D columns of numbers; empty if there are none.

  Raises:
    DataError: if a column does not hold numbers.
  """
  names = log.arrow_schema.names
  if name is not None or FEATURES in names:
    columns = tuple(n for n in names if n == (name or FEATURES))
  else:
    columns = tuple(n for n in names if n.startswith(EMBEDDING_PREFIX))
  for column in columns:
    kind = log.arrow_schema.field(column).type
    if _is_list(kind) and len(columns) == 1:
      kind = kind.value_type
    if not schema_lib.is_number(kind):
      raise DataError(
          f"{log.files[0]}: column {column!r} has type "
          f"{log.arrow_schema.field(column).type}; accepted: lists of numbers "
          f"in one column, or numbers in {EMBEDDING_PREFIX}*.")
  return columns


def missing(
    log: parquet.ParquetLog, role: str, name: str, *, or_items: bool
) -> DataError:
  """The error for a missing column.

  Args:
    log: files that lack the column.
    role: role of the column, a field of `Columns`.
    name: name of the column.
    or_items: whether a table of items may hold the column instead.
  """
  names = log.arrow_schema.names
  also = f" and no {EMBEDDING_PREFIX}*" if name == FEATURES else ""
  return DataError(
      f"{log.files[0]}: no column {name!r}{schema_lib.nearest(name, names)}"
      f"{also}; it has {', '.join(names)}; name another {role} column"
      + (", or a table of items that has it." if or_items else "."))


def read_categories(
    table: pa.Table, column: str, place: Place
) -> pa.Array:
  """Reads the categories of N rows.

  Args:
    table: the rows.
    column: name of the column: texts, integers or booleans.
    place: location of the rows.

  Returns:
    `[N]` texts.

  Raises:
    DataError: at the first row without a category.
  """
  values = one_array(table[column])
  fail_at(pc.is_null(values), table, column, place,
          "every item needs its category")
  return pc.cast(values, pa.string())


def read_features(
    table: pa.Table, columns: tuple[str, ...], place: Place,
    num_features: int | None,
) -> np.ndarray:
  """Reads the features of N rows.

  Args:
    table: the rows.
    columns: names from `feature_columns`, at least one.
    place: location of the rows.
    num_features: D; None takes the length of the first row.

  Returns:
    `[N, D]` float32, finite, with an entry other than 0 in every row.

  Raises:
    DataError: at the first row that lacks features, has another number of
      them, or whose features are not finite or all 0.
  """
  if _is_list(table.schema.field(columns[0]).type):
    features = _read_lists(table, columns[0], place, num_features)
    by_column = [features]
  else:
    features = np.stack([schema_lib.numbers_of(table[name])
                         for name in columns], axis=1).astype(np.float32)
    by_column = list(features[:, :, None].swapaxes(0, 1))
  for name, values in zip(columns, by_column, strict=True):
    fail_at(~np.isfinite(values).all(axis=1), table, name, place,
            "features must be finite")
  fail_at(~features.any(axis=1), table, columns[0], place,
          "features must not all be 0, they have no direction")
  return features


def read_items(
    path: str | pathlib.Path, columns: Columns, id_type: pa.DataType | None,
    *, has_category: bool, has_features: bool,
) -> Items:
  """Reads a table of items, one item a row, into memory.

  Args:
    path: a Parquet file, or a folder of them.
    columns: names of the columns.
    id_type: type of the item ids in the file that refers to the table, to
      which ids are converted; None keeps theirs.
    has_category: whether to read categories.
    has_features: whether to read features.

  Returns:
    The table, in the order of the files.

  Raises:
    DataError: if a column is missing or of a wrong type, a value is missing or
      invalid, ids cannot be converted, or two rows have the same id.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder) / "items.parquet"
  ...   parquet.write_parquet(pa.table({
  ...       "item_id": [7, 8], "category": ["books", "toys"],
  ...       "features": [[1.0, 0.0], [0.0, 1.0]]}), path)
  ...   items = read_items(
  ...       path, Columns(), None, has_category=True, has_features=True)
  >>> items.ids.to_pylist(), items.categories.to_pylist()
  ([7, 8], ['books', 'toys'])
  >>> items.features.shape
  (2, 2)
  """
  log = parquet.ParquetLog(path)
  names = feature_columns(log, columns.features) if has_features else ()
  if has_features and not names:
    raise missing(log, "features", columns.features or FEATURES,
                  or_items=False)
  schema = schema_lib.Schema(
      (), item=columns.item,
      categorical=(columns.category,) if has_category else ())
  checks.check_types(schema, log.arrow_schema, str(log.files[0]))
  ids, categories, features = [], [], []
  num_features = None
  for group in log.row_groups:
    table = log.read(group, (*schema.columns, *names))
    place = Place(log.place(group), group.first_row)
    checks.check_rows(schema, table, *place)
    ids.append(one_array(table[columns.item]))
    if has_category:
      categories.append(read_categories(table, columns.category, place))
    if has_features:
      features.append(read_features(table, names, place, num_features))
      num_features = features[0].shape[1]
  return Items(
      _unique_ids(pa.concat_arrays(ids), id_type, log, columns.item, path),
      pa.concat_arrays(categories) if has_category else None,
      np.concatenate(features) if has_features else None)


def one_array(column: pa.ChunkedArray) -> pa.Array:
  """The column as one array, without dictionary encoding."""
  column = features_lib.plain(column)
  if column.num_chunks == 1:
    return column.chunk(0)
  return pa.concat_arrays(column.chunks)


def plain_type(kind: pa.DataType) -> pa.DataType:
  """The type of the values of a column, dictionary-encoded or not."""
  return kind.value_type if pa.types.is_dictionary(kind) else kind


def fail_at(
    bad: np.ndarray | pa.Array, table: pa.Table, column: str, place: Place,
    what: str,
) -> None:
  """Raises if a row is bad.

  Args:
    bad: `[N]` bool, True = bad.
    table: N rows.
    column: name of the column in question.
    place: location of the rows.
    what: the rule that the row breaks, for the message.

  Raises:
    DataError: for the first bad row, with file, row group, column, row, rule
      and value.
  """
  bad = np.asarray(bad)
  if bad.any():
    first = int(np.argmax(bad))
    value = table[column][first].as_py()
    got = "a missing value" if value is None else repr(value)
    if isinstance(value, list):
      got = f"{got[:60]}..." if len(got) > 63 else got
    raise DataError(f"{place.where}: column {column!r}, row "
                    f"{place.row + first}: {what}, got {got}.")


def _unique_ids(
    ids: pa.Array, id_type: pa.DataType | None, log: parquet.ParquetLog,
    column: str, path: str | pathlib.Path,
) -> pa.Array:
  """Ids converted to `id_type`; raises if one of them comes twice."""
  if id_type is not None:
    try:
      ids = ids.cast(id_type)
    except pa.ArrowException:
      raise DataError(
          f"{log.files[0]}: column {column!r} has type {ids.type}, "
          f"among the candidates it has {id_type}.") from None
  first = pc.index_in(ids, value_set=ids).to_numpy()
  again = first != np.arange(len(first))
  if again.any():
    row = int(np.argmax(again))
    raise DataError(
        f"{path}: column {column!r}, row {row}: {ids[row].as_py()!r} "
        f"stands in row {first[row]} too.")
  return ids


def _read_lists(
    table: pa.Table, column: str, place: Place, num_features: int | None
) -> np.ndarray:
  """Features `[N, D]` from lists of D numbers; a missing number is NaN."""
  values = one_array(table[column])
  lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
  fail_at(lengths == 0, table, column, place, "every item needs its features")
  wanted = int(lengths[0]) if num_features is None else num_features
  fail_at(lengths != wanted, table, column, place,
          f"expected {wanted} features as in the rows before")
  flat = pc.cast(pc.list_flatten(values), pa.float32(), safe=False)
  return flat.to_numpy(zero_copy_only=False).reshape(len(values), wanted)


def _is_list(kind: pa.DataType) -> bool:
  return (pa.types.is_list(kind) or pa.types.is_large_list(kind)
          or pa.types.is_fixed_size_list(kind))
