"""Files of the KuaiRand logs as released: which they are, and their columns."""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv
import pyarrow.compute as pc

from harmonrank_jax.data import checks
from harmonrank_jax.data import files
from harmonrank_jax.data import kinds
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

PathLike = str | pathlib.Path

# Objective to column. Hate is an outcome too, but no objective to rank by.
OBJECTIVES = {
    "label": "label", "click": "is_click", "long_view": "long_view",
    "like": "is_like", "profile_enter": "is_profile_enter",
    "comment": "is_comment", "forward": "is_forward", "follow": "is_follow"}
_OUTCOMES = {*OBJECTIVES.values(), "is_hate", *schema_lib.OUTCOMES}

# The files of a folder are those of the first pattern that any file matches.
LOG_FILES = ("log_standard*.csv", "*.parquet")
ITEM_FILES = ("video_features_basic*.csv", "video_features_basic*.parquet")
# Column of the ids, files, and the columns to take (categorical); None for all.
_TABLES = {
    "user": ("user_id", ("user_features*.csv", "user_features*.parquet"), None),
    "item": ("video_id", ITEM_FILES, (
        "author_id", "video_type", "upload_type", "tag", "music_id"))}

# A rate of few rows is shrunk towards a prior rate that counts as this many.
PRIOR_ROWS = 5


def table_columns(
    path: PathLike | None,  # A file, or a folder with one; None has no column.
    role: str,  # "user" or "item".
    ids: pa.ChunkedArray,  # Of the rows of the log.
) -> dict[str, pa.ChunkedArray]:
  """Columns of a table of users or items, a row for each of `ids`.

  They are null where the table does not have the id. Raises if the table has
  an id twice, ids of another type than the log, or an outcome as a column.
  """
  if path is None:
    return {}
  id_column, patterns, wanted = _TABLES[role]
  file, *others = files.find(path, *patterns)
  if others:
    raise schema_lib.DataError(f"{path}: the folder has {file.name} and "
                               f"{others[0].name}; name one file.")
  names = [name for name in names_of(file)
           if name != id_column and (wanted is None or name in wanted)]
  for name in names:
    if name in _OUTCOMES:
      raise schema_lib.DataError(
          f"{file}: column {name!r} is an outcome and no feature; leave it "
          "out.")
  table = read_columns(file, [id_column, *names])
  numeric = [name for name in names if wanted is None
             and pa.types.is_floating(table.schema.field(name).type)]
  categorical = [name for name in names if name not in numeric]
  roles: dict[str, Any] = {role: id_column}
  schema = schema_lib.Schema(
      (), **roles, categorical=tuple(categorical), numeric=tuple(numeric))
  checks.check_types(schema, table.schema, file)
  checks.check_rows(schema, table, checks.Place(file))
  known = table[id_column].combine_chunks()
  if known.type != ids.type:
    raise schema_lib.DataError(
        f"{file}: column {id_column!r} has type {known.type}, in "
        f"the log it has {ids.type}.")
  checks.check_unique(known, id_column, file)
  rows = pc.index_in(ids, value_set=known).combine_chunks()
  return {name: table[name].combine_chunks().take(rows) for name in names}


def names_of(file: pathlib.Path) -> list[str]:
  """The columns of a file, from its head."""
  if file.suffix != ".csv":
    return parquet.ParquetLog(file).arrow_schema.names
  with parquet.reading(file):
    names = csv.open_csv(file).schema.names
  for name in names:
    if names.count(name) > 1:
      raise schema_lib.DataError(f"{file}: column {name!r} appears twice.")
  return names


def read_columns(file: pathlib.Path, columns: Sequence[str]) -> pa.Table:
  """Some columns; texts as strings, whole numbers and dates as int64."""
  checks.check_names(columns, names_of(file), file)
  with parquet.reading(file):
    if file.suffix == ".csv":
      # Tags are lists in text ("20,43"), even where each has one number.
      table = csv.read_csv(file, convert_options=csv.ConvertOptions(
          include_columns=columns, column_types={"tag": pa.string()},
          strings_can_be_null=True))
    else:
      table = pa.concat_tables(parquet.ParquetLog(file).tables(columns))
    if not table.num_rows:
      raise schema_lib.DataError(f"{file}: the file has no rows.")
    return pa.table({name: _canonical(table[name]) for name in columns})


def read_checked(file: pathlib.Path, schema: schema_lib.Schema) -> pa.Table:
  """The columns of a schema, with every row checked."""
  table = read_columns(file, schema.columns)
  checks.check_types(schema, table.schema, file)
  checks.check_rows(schema, table, checks.Place(file))
  return table


def _canonical(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
  """One type for what files of two kinds call text and integers."""
  column = kinds.plain(column)
  if kinds.is_text(column.type):
    return pc.cast(column, pa.string())
  if pa.types.is_integer(column.type) or pa.types.is_null(column.type) or (
      kinds.is_moment(column.type)):
    return kinds.convert(column, pa.int64())
  if pa.types.is_floating(column.type):
    values = kinds.numbers_of(column)
    known = values[~np.isnan(values)]
    if (known == np.floor(known)).all() and (np.abs(known) < 2**53).all():
      return pc.cast(pa.array(values, from_pandas=True), pa.int64())
  return column


def join(tables: list[pa.Table], path: PathLike) -> pa.Table:
  """Tables one after the other; integers and nulls meet as integers."""
  with parquet.reading(path):
    return pa.concat_tables(tables, promote_options="permissive")
