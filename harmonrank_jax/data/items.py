"""What slates need of an item: its id, category and features, checked.

They stand in columns of the candidates or of a table of items.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

DataError = schema_lib.DataError

FEATURES, EMBEDDING_PREFIX = "features", "embedding_"


class Columns(NamedTuple):
  """Names of columns; features None is `features`, or else `embedding_*`."""

  request: str = "request_id"
  item: str = "item_id"
  score: str = "score"
  category: str = "category"
  features: str | None = None


class Place(NamedTuple):
  """Where rows stand, for messages.

  Attributes:
    where: file and row group.
    row: number of the first row in its file.
  """

  where: str
  row: int


class Items(NamedTuple):
  """A table of items; None is what was not looked for.

  Attributes:
    ids: `[I]`, all different.
    categories: `[I]` texts.
    features: `[I, D]` float32.
  """

  ids: pa.Array
  categories: pa.Array | None
  features: np.ndarray | None


def feature_columns(
    log: parquet.ParquetLog, name: str | None
) -> tuple[str, ...]:
  """Columns of features, of a name or those by name; none if there are none.

  Raises:
    DataError: if they are not numbers.
  """
  names = log.arrow_schema.names
  if name is not None or FEATURES in names:
    found = tuple(n for n in names if n == (name or FEATURES))
  else:
    found = tuple(n for n in names if n.startswith(EMBEDDING_PREFIX))
  for column in found:
    kind = log.arrow_schema.field(column).type
    if _is_list(kind) and len(found) == 1:
      kind = kind.value_type
    if not schema_lib.is_number(kind):
      raise DataError(
          f"{log.files[0]}: column {column!r} has type "
          f"{log.arrow_schema.field(column).type}; accepted: lists of numbers "
          f"in one column, or numbers in {EMBEDDING_PREFIX}*.")
  return found


def missing(
    log: parquet.ParquetLog, role: str, name: str, *, or_items: bool
) -> DataError:
  """What to raise where a column is not there, nor in a table of items."""
  names = log.arrow_schema.names
  also = f" and no {EMBEDDING_PREFIX}*" if name == FEATURES else ""
  return DataError(
      f"{log.files[0]}: no column {name!r}{schema_lib.nearest(name, names)}"
      f"{also}; it has {', '.join(names)}; name another by --{role}_column"
      + (", or a table that has it by --items." if or_items else "."))


def read_categories(
    table: pa.Table, column: str, place: Place
) -> pa.Array:
  """Categories `[N]` as texts.

  Raises:
    DataError: at the first that is missing.
  """
  values = one_array(table[column])
  fail_at(pc.is_null(values), table, column, place,
          "every item needs its category")
  return pc.cast(values, pa.string())


def read_features(
    table: pa.Table, columns: tuple[str, ...], place: Place,
    num_features: int | None,
) -> np.ndarray:
  """Features `[N, D]` float32: finite, and not all 0 in any row.

  Args:
    table: N rows.
    columns: as `feature_columns` found them.
    place: where the rows stand.
    num_features: D, or None if the first row is to say it.

  Raises:
    DataError: at the first bad row.
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
  """Reads a table of items.

  Args:
    path: Parquet, a file or a folder.
    columns: their names.
    id_type: of the candidates' items, None if unknown.
    has_category: whether the category is looked for.
    has_features: whether features are.

  Raises:
    DataError: if a column or value is not what it should be, or an item
      stands in two rows.
  """
  log = parquet.ParquetLog(path)
  names = feature_columns(log, columns.features) if has_features else ()
  if has_features and not names:
    raise missing(log, "features", columns.features or FEATURES,
                  or_items=False)
  schema = schema_lib.Schema(
      (), item=columns.item,
      categorical=(columns.category,) if has_category else ())
  schema_lib.check_types(schema, log.arrow_schema, str(log.files[0]))
  ids, categories, features = [], [], []
  num_features = None
  for group in log.row_groups:
    table = log.read(group, (*schema.columns, *names))
    place = Place(log.place(group), group.first_row)
    schema_lib.check_rows(schema, table, *place)
    ids.append(one_array(table[columns.item]))
    if has_category:
      categories.append(read_categories(table, columns.category, place))
    if has_features:
      features.append(read_features(table, names, place, num_features))
      num_features = features[0].shape[1]
  known = pa.concat_arrays(ids)
  if id_type is not None:
    try:
      known = known.cast(id_type)
    except pa.ArrowException:
      raise DataError(
          f"{log.files[0]}: column {columns.item!r} has type {known.type}, "
          f"among the candidates it has {id_type}.") from None
  first = pc.index_in(known, value_set=known).to_numpy()
  again = first != np.arange(len(first))
  if again.any():
    row = int(np.argmax(again))
    raise DataError(
        f"{path}: column {columns.item!r}, row {row}: {known[row].as_py()!r} "
        f"stands in row {first[row]} too.")
  return Items(known, pa.concat_arrays(categories) if has_category else None,
               np.concatenate(features) if has_features else None)


def one_array(column: pa.ChunkedArray) -> pa.Array:
  """Without dictionary encoding, in one piece."""
  column = features_lib.plain(column)
  if column.num_chunks == 1:
    return column.chunk(0)
  return pa.concat_arrays(column.chunks)


def plain_type(kind: pa.DataType) -> pa.DataType:
  """Of the values, where they are encoded by a dictionary."""
  return kind.value_type if pa.types.is_dictionary(kind) else kind


def fail_at(
    bad: np.ndarray | pa.Array, table: pa.Table, column: str, place: Place,
    what: str,
) -> None:
  """Raises at the first row that is bad.

  Raises:
    DataError: with file, row group, column, row and what is wrong.
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


def _read_lists(
    table: pa.Table, column: str, place: Place, num_features: int | None
) -> np.ndarray:
  """`[N, D]` from lists of D numbers; a missing number is NaN."""
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
