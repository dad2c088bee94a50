"""Ids, categories and features of items, read and checked.

They are columns of the candidates, of a log of slates, or of a table of items.
"""

import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import checks
from harmonrank_jax.data import kinds
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

FEATURES, EMBEDDING_PREFIX = "features", "embedding_"


class CandidateColumns(NamedTuple):
  """Names of the columns of candidates and items."""

  request: str = "request_id"
  item: str = "item_id"
  score: str = "score"  # Predicted, of the item in the request.
  category: str = "category"
  # Lists of numbers; None stands for the column `features`, or for all columns
  # `embedding_*` if there is none.
  features: str | None = None


class Items(NamedTuple):
  """A table of I items."""

  ids: pa.Array  # [I] integers or texts, without duplicates.
  categories: pa.Array | None  # [I] texts; None if not read.
  features: np.ndarray | None  # [I, D] float32, finite; None if not read.
  notes: tuple[str, ...] = ()  # What was found odd in the files, a line each.


def feature_columns(
    log: parquet.ParquetLog, name: str | None
) -> tuple[str, ...]:
  """Names of one column of lists, or of D columns of numbers; () if none.

  The name None looks for the column `features`, then for `embedding_*`.
  """
  names = log.arrow_schema.names
  if name is not None or FEATURES in names:
    columns = tuple(n for n in names if n == (name or FEATURES))
  else:
    columns = tuple(n for n in names if n.startswith(EMBEDDING_PREFIX))
  for column in columns:
    kind = log.arrow_schema.field(column).type
    if kinds.is_list(kind) and len(columns) == 1:
      kind = kind.value_type
    if not kinds.is_number(kinds.read_as(kind)):
      raise schema_lib.DataError(
          f"{log.files[0]}: column {column!r} has type "
          f"{log.arrow_schema.field(column).type}; accepted: lists of numbers "
          f"in one column, or numbers in {EMBEDDING_PREFIX}*.")
  return columns


def missing(
    log: parquet.ParquetLog, role: str, name: str | None, *, or_items: bool
) -> schema_lib.DataError:
  """The error for a missing column; a table of items may hold it instead."""
  names, name = log.arrow_schema.names, name or FEATURES
  also = f" and no {EMBEDDING_PREFIX}*" if name == FEATURES else ""
  return schema_lib.DataError(
      f"{log.files[0]}: no column {name!r}{schema_lib.nearest(name, names)}"
      f"{also}; it has {', '.join(names)}; name another {role} column"
      + (", or a table of items that has it." if or_items else "."))


def read_titles(
    log: parquet.ParquetLog, item: str, title: str, wanted: pa.Array
) -> dict[Any, str]:
  """Titles by id of the items wanted that have one, the first of each.

  Ids are converted to the type of those wanted, as `read_items` does. Reads
  two columns of all rows, a row group at a time.
  """
  checks.check_names((item, title), log.arrow_schema.names, log.files[0])
  titles: dict[Any, str] = {}
  for table in log.tables((item, title)):
    ids = _cast(one_array(table[item]), wanted.type, log, item)
    texts = one_array(table[title])
    chosen = pc.and_(pc.is_in(ids, value_set=wanted), pc.is_valid(texts))
    for key, text in zip(ids.filter(chosen).to_pylist(),
                         texts.filter(chosen).to_pylist(), strict=True):
      titles.setdefault(key, str(text))
  return titles


def read_categories(
    table: pa.Table, column: str, place: checks.Place
) -> pa.Array:
  """Categories of N rows as `[N]` texts; raises if one is missing."""
  values = one_array(table[column])
  checks.fail_at(pc.is_null(values), table, column, place,
                 "every item needs its category")
  return pc.cast(values, pa.string())


def read_features(
    table: pa.Table,
    columns: tuple[str, ...],  # As from `feature_columns`, at least one.
    place: checks.Place,
    num_features: int | None,  # D; None takes that of the first row with any.
    *,
    may_lack: bool,  # Whether rows may be without features.
) -> np.ndarray:
  """Features of N rows, `[N, D]` float32, finite.

  Null, an empty list and features that are all 0 are no features: the row is
  0, or an error. D is 0 if it is not known and no row has features.
  """
  if kinds.is_list(table.schema.field(columns[0]).type):
    features = _read_lists(table, columns[0], place, num_features)
    by_column = [features]
  else:
    features = np.stack([kinds.numbers_of(table[name])
                         for name in columns], axis=1).astype(np.float32)
    features[np.all([pc.is_null(table[name]).to_numpy()
                     for name in columns], axis=0)] = 0
    by_column = list(features[:, :, None].swapaxes(0, 1))
  for name, values in zip(columns, by_column, strict=True):
    checks.fail_at(~np.isfinite(values).all(axis=1), table, name, place,
                   "features must be finite")
  if not may_lack:
    checks.fail_at(
        ~features.any(axis=1), table, columns[0], place,
        "every item of a log of slates needs features that are not all 0: "
        "users respond to how similar items are")
  return features


def read_items(
    path: str | pathlib.Path, columns: CandidateColumns,
    id_type: pa.DataType | None, *, has_category: bool, has_features: bool,
    may_lack: bool = True,
) -> Items:
  """Reads a table of items, one item a row, into memory.

  Args:
    path: a Parquet file, or a folder of them.
    columns: names of the columns.
    id_type: of the item ids in the file that refers to the table, to which
      ids are converted, dictionary-encoded or not; None keeps theirs.
    has_category: whether to read categories.
    has_features: whether to read features.
    may_lack: whether items may be without features, which are 0 then.

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
  ...   items = read_items(path, CandidateColumns(), None,
  ...                      has_category=True, has_features=True)
  >>> items.ids.to_pylist(), items.features.shape
  ([7, 8], (2, 2))
  """
  log = parquet.ParquetLog(path)
  names = feature_columns(log, columns.features) if has_features else ()
  if has_features and not names:
    raise missing(log, "features", columns.features, or_items=False)
  schema = schema_lib.Schema(
      (), item=columns.item,
      categorical=(columns.category,) if has_category else ())
  checks.check_types(schema, log.arrow_schema, log.files[0])
  ids, categories, features = [], [], []
  num_features = None
  for place, table in log.placed((*schema.columns, *names)):
    checks.check_rows(schema, table, place)
    ids.append(one_array(table[columns.item]))
    if has_category:
      categories.append(read_categories(table, columns.category, place))
    if has_features:
      features.append(read_features(
          table, names, place, num_features, may_lack=may_lack))
      num_features = features[-1].shape[1] or None
  joined = _cast(pa.concat_arrays(ids), id_type, log, columns.item)
  checks.check_unique(joined, columns.item, path)
  return Items(
      joined, pa.concat_arrays(categories) if has_category else None,
      _stacked(features) if has_features else None, tuple(log.notes))


def one_array(column: pa.ChunkedArray) -> pa.Array:
  """The column as one array, without dictionary encoding."""
  return pa.concat_arrays(kinds.plain(column).chunks)


def _cast(
    ids: pa.Array, id_type: pa.DataType | None, log: parquet.ParquetLog,
    column: str,
) -> pa.Array:
  """Ids of the type of `read_items`."""
  if id_type is None:
    return ids
  if pa.types.is_dictionary(id_type):
    id_type = id_type.value_type
  try:
    return ids.cast(id_type)
  except pa.ArrowException:
    raise schema_lib.DataError(
        f"{log.files[0]}: column {column!r} has type {ids.type}, "
        f"among the candidates it has {id_type}.") from None


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
  """Features as one array; parts without any row that has some are 0."""
  num_features = max(1, *(part.shape[1] for part in parts))
  return np.concatenate([
      part if part.shape[1] else np.zeros((len(part), num_features), np.float32)
      for part in parts])


def _read_lists(
    table: pa.Table, column: str, place: checks.Place,
    num_features: int | None,
) -> np.ndarray:
  """Features `[N, D]` from lists of D numbers; a missing number is NaN.

  Without a list, or with one of nulls only, they are 0.
  """
  values = one_array(table[column])
  lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
  has_list = lengths > 0
  wanted = num_features
  if wanted is None:
    wanted = int(lengths[np.argmax(has_list)])
  checks.fail_at(has_list & (lengths != wanted), table, column, place,
                 f"expected {wanted} features as in the rows before")
  flat = pc.list_flatten(values.filter(pa.array(has_list)))
  shape = int(has_list.sum()), wanted
  numbers = pc.cast(flat, pa.float32(), safe=False).to_numpy(
      zero_copy_only=False).reshape(shape)
  nulls = pc.is_null(flat).to_numpy(zero_copy_only=False).reshape(shape)
  result = np.zeros((len(values), wanted), np.float32)
  result[has_list] = np.where(nulls.all(axis=1, keepdims=True), 0, numbers)
  return result

