"""Checks of a log against its schema, with errors of one line.

Every row is checked before anything is trained. A message names the file, the
row group, the column, the first bad row and what is accepted.
"""

import bisect
from collections.abc import Callable
from collections.abc import Iterable
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import kinds
from harmonrank_jax.data import schema as schema_lib


class Place(NamedTuple):
  """Location of some rows, for messages."""

  file: str | pathlib.Path
  row: int = 0  # Number of the first of the rows within its file.
  # Where the rows are of row groups: the number of the first one, and the
  # first rows of all of them within the file.
  group: int = 0
  firsts: tuple[int, ...] = ()

  def where(self, offset: int) -> str:
    """The file and row group of the row this far after the first."""
    if not self.firsts:
      return str(self.file)
    place = bisect.bisect_right(self.firsts, self.row + offset) - 1
    return f"{self.file}, row group {self.group + place}"


def check_names(
    columns: Iterable[str], names: list[str], file: str | pathlib.Path
) -> None:
  """Raises if a column is not among the names of the columns of a file."""
  for column in columns:
    if column not in names:
      raise schema_lib.DataError(
          f"{file}: no column {column!r}{schema_lib.nearest(column, names)}; "
          f"it has {', '.join(names)}.")


def check_types(
    schema: schema_lib.Schema, arrow_schema: pa.Schema,
    file: str | pathlib.Path,
) -> None:
  """Raises if a column is missing or has a type that does not fit its role."""
  check_names(schema.columns, arrow_schema.names, file)

  def expect(
      column: str, what: str, *accepted: Callable[[pa.DataType], bool]
  ) -> None:
    kind = arrow_schema.field(column).type
    known = kind if kinds.is_moment(kind) else kinds.read_as(kind)
    if not any(accepts(known) for accepts in accepted):
      raise schema_lib.DataError(
          f"{file}: column {column!r} has type {kind}; accepted: {what}.")

  is_integer, is_boolean = pa.types.is_integer, pa.types.is_boolean
  is_text, is_number = kinds.is_text, kinds.is_number
  for role, column in schema.ids.items():
    if role == "time":
      expect(column, "integers since 1970, dates or timestamps", is_integer,
             kinds.is_moment)
    else:
      expect(column, "integers or text", is_integer, is_text)
  for objective in schema.objectives:
    expect(objective.label, "booleans or numbers", is_number, is_boolean)
    if objective.score:
      expect(objective.score, "numbers", is_number)
  for column in schema.categorical:
    expect(column, "text, integers, booleans or dates", is_text, is_integer,
           is_boolean, kinds.is_moment)
  for column in schema.numeric:
    expect(column, "numbers or dates", is_number, is_boolean, kinds.is_moment)


def check_rows(
    schema: schema_lib.Schema, table: pa.Table, place: Place
) -> None:
  """Raises at the first bad row of the first column with a bad value."""
  check = lambda bad, column, what: fail_at(bad, table, column, place, what)
  missing = lambda column: pc.is_null(table[column]).to_numpy()
  for role, column in schema.ids.items():
    check(missing(column), column, f"every row needs its {role}")
  for objective in schema.objectives:
    label, score = objective.label, objective.score
    check(missing(label), label, "every row needs a label")
    labels = kinds.numbers_of(table[label])
    if objective.is_value:
      check(~(np.isfinite(labels) & (labels >= 0)), label,
            "values must be finite and at least 0")
    else:
      check((labels != 0) & (labels != 1), label,
            "labels must be 0 or 1 (or declare a value objective in a schema)")
    if score:
      scores = kinds.numbers_of(table[score])
      check(~np.isfinite(scores) & ~missing(score), score,
            "scores must be finite (leave missing ones null)")


def fail_at(
    bad: np.ndarray | pa.Array,  # [N] bool.
    table: pa.Table,
    column: str,
    place: Place,
    what: str,  # The rule that a bad row breaks.
) -> None:
  """Raises at the first bad row of a table, with its place, rule and value."""
  bad = np.asarray(bad)
  if bad.any():
    first = int(np.argmax(bad))
    value = table[column][first].as_py()
    got = "a missing value" if value is None else repr(value)
    if isinstance(value, list):
      got = f"{got[:60]}..." if len(got) > 63 else got
    raise schema_lib.DataError(
        f"{place.where(first)}: column {column!r}, row {place.row + first}: "
        f"{what}, got {got}.")


def check_unique(
    ids: pa.Array, column: str, file: str | pathlib.Path
) -> None:
  """Raises if two rows have the same id."""
  first = pc.index_in(ids, value_set=ids).to_numpy()
  again = first != np.arange(len(first))
  if again.any():
    row = int(np.argmax(again))
    raise schema_lib.DataError(
        f"{file}: column {column!r}, row {row}: {ids[row].as_py()!r} stands "
        f"in row {first[row]} too.")
