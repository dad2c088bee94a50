"""Checks of a log against its schema, with errors of one line.

Every row is checked before anything is trained. A message names the file, the
row group, the column, the first bad row and what is accepted.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import schema as schema_lib

DataError = schema_lib.DataError


def check_types(
    schema: schema_lib.Schema, arrow_schema: pa.Schema, file: str
) -> None:
  """Checks that every column is there, and has a type that fits its role.

  Raises:
    DataError: with the file, the column and what is accepted.
  """
  names = arrow_schema.names
  for name in schema.columns:
    if name not in names:
      raise DataError(
          f"{file}: no column {name!r}{schema_lib.nearest(name, names)}; it "
          f"has {', '.join(names)}.")
  kinds = {name: arrow_schema.field(name).type for name in schema.columns}

  def expect(column: str, accepted: bool, what: str) -> None:
    if not accepted:
      raise DataError(f"{file}: column {column!r} has type {kinds[column]}; "
                      f"accepted: {what}.")

  is_integer, is_boolean = pa.types.is_integer, pa.types.is_boolean
  is_text, is_number = schema_lib.is_text, schema_lib.is_number
  for role, column in schema.ids.items():
    kind = kinds[column]
    if role == "time":
      expect(column, is_integer(kind) or pa.types.is_timestamp(kind),
             "integer milliseconds or a timestamp")
    else:
      expect(column, is_integer(kind) or is_text(kind), "integers or text")
  for objective in schema.objectives:
    kind = kinds[objective.label]
    expect(objective.label, is_number(kind) or is_boolean(kind),
           "booleans or numbers")
    if objective.score:
      expect(objective.score, is_number(kinds[objective.score]), "numbers")
  for column in schema.categorical:
    kind = kinds[column]
    expect(column, is_text(kind) or is_integer(kind) or is_boolean(kind),
           "text, integers or booleans")
  for column in schema.numeric:
    kind = kinds[column]
    expect(column, is_number(kind) or is_boolean(kind), "numbers")


def check_rows(
    schema: schema_lib.Schema, table: pa.Table, where: str, row: int
) -> None:
  """Checks the values of a part of a log.

  Args:
    schema: roles.
    table: the rows, with at least the schema's columns.
    where: the file and row group, for the message.
    row: number of the first row of `table` in its file.

  Raises:
    DataError: for the first column with a bad value, at its first bad row.
  """

  def fail_at(bad: np.ndarray, column: str, what: str) -> None:
    if bad.any():
      first = int(np.argmax(bad))
      value = table[column][first].as_py()
      raise DataError(
          f"{where}: column {column!r}, row {row + first}: {what}, got "
          f"{'a missing value' if value is None else repr(value)}.")

  def missing(column: str) -> np.ndarray:
    return pc.is_null(table[column]).to_numpy()

  for role, column in schema.ids.items():
    fail_at(missing(column), column, f"every row needs its {role}")
  for objective in schema.objectives:
    label, score = objective.label, objective.score
    fail_at(missing(label), label, "every row needs a label")
    labels = schema_lib.numbers_of(table[label])
    if objective.is_value:
      fail_at(~(np.isfinite(labels) & (labels >= 0)), label,
              "values must be finite and at least 0")
    else:
      fail_at((labels != 0) & (labels != 1), label,
              "labels must be 0 or 1 (or declare a value objective in a "
              "schema)")
    if score:
      scores = schema_lib.numbers_of(table[score])
      fail_at(~np.isfinite(scores) & ~missing(score), score,
              "scores must be finite (leave missing ones null)")
