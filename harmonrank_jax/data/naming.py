"""A schema from the names and types of the columns of a log."""

from collections.abc import Iterable
from collections.abc import Mapping
import difflib
import re

import pyarrow as pa

from harmonrank_jax.data import kinds
from harmonrank_jax.data import schema as schema_lib

# Columns that pandas makes of the numbers of rows.
_ROW_NUMBERS = re.compile(r"__index_level_\d+__|Unnamed: \d+")


def schema_from_names(
    arrow_schema: pa.Schema, few_values: Iterable[str] = (), *,
    irregular: Iterable[str] = (),
) -> schema_lib.Schema:
  """A schema from the names and types of columns.

  `<objective>` with `score_<objective>` is an objective; `user_id`,
  `item_id`, `request_id` and `time_ms` are themselves; every other column is
  profile: text, booleans and the integers in `few_values` categorical, other
  integers and floats numeric. Columns of other types, irregular ones and
  numbers of rows that pandas left are left out (`left_out` names them).

  Args:
    arrow_schema: names and types.
    few_values: integer columns that take few values.
    irregular: columns that are not in every file, or not of one type.

  Raises:
    DataError: if there is no objective, or a score without its label.
  """
  names = arrow_schema.names
  scores = [n for n in names if n.startswith(schema_lib.SCORE_PREFIX)]
  objectives = []
  for score in scores:
    label = score.removeprefix(schema_lib.SCORE_PREFIX)
    if label not in names:
      others = [n for n in names if n not in scores]
      raise schema_lib.DataError(
          f"column {score!r} has no column {label!r} of labels"
          f"{schema_lib.nearest(label, others)}.")
    objectives.append(schema_lib.Objective(label, label, score))
  if not objectives:
    raise schema_lib.DataError(
        "no objective found by name: expected columns <objective> and "
        f"{schema_lib.SCORE_PREFIX}<objective>, got {', '.join(names)}; name "
        "the roles in a schema, or the format of a public log.")
  roles = {role: name for role, name in schema_lib.ROLES.items()
           if name in names}
  taken = {*scores, *(o.label for o in objectives), *roles.values()}
  categorical, numeric = [], []
  for field in arrow_schema:
    if field.name in taken:
      continue
    _check_no_objective(field.name, [n for n in names if n not in taken],
                        [o.name for o in objectives])
    if field.name in irregular or _ROW_NUMBERS.fullmatch(field.name):
      continue
    if kinds.is_text(field.type) or pa.types.is_boolean(field.type) or (
        field.name in few_values):
      categorical.append(field.name)
    elif kinds.is_number(field.type):
      numeric.append(field.name)
  schema = schema_lib.Schema(
      tuple(objectives), **roles, categorical=tuple(categorical),
      numeric=tuple(numeric))
  schema_lib.check_roles(schema)
  return schema


def left_out(
    schema: schema_lib.Schema, arrow_schema: pa.Schema,
    irregular: Mapping[str, str],
) -> list[str]:
  """What a schema from names does not read, a line for each reason.

  `irregular` has what is wrong with irregular columns.
  """
  by_type, lines = [], []
  for field in arrow_schema:
    if field.name in schema.columns:
      continue
    if field.name in irregular:
      lines.append(f"column {field.name!r} is left out: "
                   f"{irregular[field.name]}")
    elif _ROW_NUMBERS.fullmatch(field.name):
      lines.append(f"column {field.name!r} is left out: it numbers the rows.")
    else:
      by_type.append(f"{field.name} ({field.type})")
  if by_type:
    lines.append(
        f"left out, for their types: {', '.join(by_type)}; a schema can give "
        "decimals and dates a role.")
  return lines


def _check_no_objective(
    name: str, others: list[str], objectives: list[str]
) -> None:
  """Refuses a column that, as a feature, would leak a label.

  A misspelt score makes its label a profile column; a column of true
  probabilities is the label without its noise. Names are compared in any case.
  """
  prefix, _, rest = name.casefold().partition("_")
  label = {other.casefold(): other for other in others}.get(rest)
  if label and difflib.get_close_matches(
      prefix, [schema_lib.SCORE_PREFIX.rstrip("_")], cutoff=0.7):
    raise schema_lib.DataError(
        f"column {name!r} looks like a score (did you mean "
        f"{schema_lib.SCORE_PREFIX + label!r}?); if it is none, name the roles "
        "in a schema.")
  if name.casefold().removeprefix("true_") in [
      objective.casefold() for objective in objectives]:
    raise schema_lib.DataError(
        f"column {name!r} looks like the truth of an objective and would leak "
        "the label; name the roles in a schema to leave it out.")
