"""The schema of a log: which column plays which role.

A schema comes from a JSON file, from an adapter, or from the column names
(`naming`). `checks` holds the rows of a log against it.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import difflib
import json
import pathlib
from typing import Any

# The name of a score column is this prefix and the name of its objective.
SCORE_PREFIX = "score_"
ROLES = {"user": "user_id", "item": "item_id", "time": "time_ms",
         "request": "request_id"}
# Columns that are outcomes of their own row: used as features they would leak
# the labels.
OUTCOMES = ("play_time_ms", "profile_stay_time", "comment_stay_time")


class DataError(ValueError):
  """A file, column or value that is not what it should be; one line."""


@dataclasses.dataclass(frozen=True)
class Objective:
  """A behaviour to be ranked by."""

  name: str  # In tables.
  label: str  # Column of labels, 0 or 1 (or values at least 0).
  score: str | None = None  # Column; None if nothing predicts it yet.
  is_value: bool = False  # Labels are values (watch time, order value).


@dataclasses.dataclass(frozen=True)
class Schema:
  """Roles of the columns of a log; a column without a role is not read."""

  objectives: tuple[Objective, ...]  # The behaviours, at least one.
  # Columns of ids and of the time, if the log has them.
  user: str | None = None
  item: str | None = None
  time: str | None = None  # Integers since 1970, or dates or timestamps.
  request: str | None = None  # One page shown.
  # Profile columns.
  categorical: tuple[str, ...] = ()  # Text, integers or dates, embedded.
  numeric: tuple[str, ...] = ()  # Numbers, or dates.

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the objectives."""
    return tuple(objective.name for objective in self.objectives)

  @property
  def ids(self) -> dict[str, str]:
    """Role to column, for the roles that this log has."""
    roles = {role: getattr(self, role) for role in ROLES}
    return {role: column for role, column in roles.items() if column}

  @property
  def columns(self) -> tuple[str, ...]:
    """Every column that is read."""
    labels = [o.label for o in self.objectives]
    scores = [o.score for o in self.objectives if o.score]
    return tuple(dict.fromkeys(
        [*self.ids.values(), *labels, *scores, *self.categorical,
         *self.numeric]))

  def with_objectives(self, names: Iterable[str]) -> "Schema":
    """The schema of some of the objectives, in the order given, each once.

    Raises:
      DataError: if a name is unknown or none is left.
    """
    known = {o.name: o for o in self.objectives}
    chosen = dict.fromkeys(names)
    for name in chosen:
      if name not in known:
        raise DataError(
            f"objective {name!r} is not in the data{nearest(name, known)}; "
            f"it has {', '.join(known)}.")
    if not chosen:
      raise DataError("no objective is left; name at least one.")
    return dataclasses.replace(
        self, objectives=tuple(known[name] for name in chosen))

  def describe(self) -> str:
    """The roles in words, a line for each."""
    lines = []
    for o in self.objectives:
      kind = "values" if o.is_value else "0/1"
      score = f", score {o.score}" if o.score else ""
      lines.append(f"objective {o.name}: label {o.label} ({kind}){score}")
    lines += [f"{role}: {column}" for role, column in self.ids.items()]
    for kind in ("categorical", "numeric"):
      lines.append(f"{kind}: {', '.join(getattr(self, kind)) or 'none'}")
    return "\n".join(lines)

  def to_json(self) -> dict[str, Any]:
    """As `schema_from_json` reads it."""
    return {
        **self.ids,
        "objectives": {
            o.name: {"label": o.label, "score": o.score, "value": o.is_value}
            for o in self.objectives},
        "categorical": list(self.categorical),
        "numeric": list(self.numeric)}


def nearest(name: str, known: Iterable[str]) -> str:
  """` (did you mean 'x'?)`, or nothing where no name is near in any case."""
  folded = {each.casefold(): each for each in known}
  matches = difflib.get_close_matches(
      name.casefold(), list(folded), n=1, cutoff=0.6)
  return f" (did you mean {folded[matches[0]]!r}?)" if matches else ""


def read_schema(path: str | pathlib.Path) -> Schema:
  """Reads a schema from a JSON file; see `schema_from_json`.

  Raises:
    DataError: if the file is missing, is not JSON, or is not a schema.
  """
  try:
    content = json.loads(pathlib.Path(path).read_text())
  except FileNotFoundError:
    raise DataError(f"schema {path}: no such file.") from None
  except (OSError, ValueError) as error:
    raise DataError(f"schema {path}: not readable as JSON ({error}).") from None
  try:
    return schema_from_json(content)
  except DataError as error:
    raise DataError(f"schema {path}: {error}") from None


def schema_from_json(content: Mapping[str, Any]) -> Schema:
  """A schema from its JSON form.

  Keys: `objectives`, an object of name to `{"label", "score", "value"}`, all
  optional (`{}` is label `name`, score `score_name`, not a value); `user`,
  `item`, `time`, `request`, a column each; `categorical` and `numeric`, lists
  of columns.

  Raises:
    DataError: if a key is unknown or a value has the wrong type.
  """
  if not isinstance(content, Mapping):
    raise DataError("must be a JSON object.")
  known = [*ROLES, "objectives", "categorical", "numeric"]
  for key in content:
    if key not in known:
      raise DataError(f"unknown key {key!r}{nearest(key, known)}; known are "
                      f"{', '.join(known)}.")
  objectives = content.get("objectives")
  if not isinstance(objectives, Mapping) or not objectives:
    raise DataError("'objectives' must be an object with at least one name.")
  parsed = tuple(_objective(name, {} if parts is None else parts)
                 for name, parts in objectives.items())
  roles: dict[str, Any] = {role: content.get(role) for role in ROLES}
  for role, column in roles.items():
    if not isinstance(column, (str, type(None))):
      raise DataError(f"{role!r} must be the name of a column.")
  lists = {kind: content.get(kind, []) for kind in ("categorical", "numeric")}
  for kind, columns in lists.items():
    if not isinstance(columns, list) or not all(
        isinstance(column, str) for column in columns):
      raise DataError(f"{kind!r} must be a list of columns.")
  schema = Schema(parsed, **roles, categorical=tuple(lists["categorical"]),
                  numeric=tuple(lists["numeric"]))
  check_roles(schema)
  return schema


def _objective(name: str, parts: Mapping[str, Any]) -> Objective:
  """An objective from its JSON form."""
  if not isinstance(parts, Mapping):
    raise DataError(f"objective {name!r} must be an object.")
  known = ("label", "score", "value")
  for key, value in parts.items():
    if key not in known:
      raise DataError(f"objective {name!r}: unknown key {key!r}"
                      f"{nearest(key, known)}.")
    wanted = bool if key == "value" else (str, type(None))
    if not isinstance(value, wanted):
      raise DataError(f"objective {name!r}: {key!r} has a wrong type.")
  return Objective(
      name, parts.get("label") or name,
      parts.get("score", SCORE_PREFIX + name), parts.get("value", False))


def check_roles(schema: Schema) -> None:
  """No column has two roles, and no outcome is a feature."""
  for column in (*schema.categorical, *schema.numeric):
    if column in OUTCOMES:
      raise DataError(
          f"column {column!r} is an outcome of its own row and no feature; "
          "leave it out.")
  roles: dict[str, str] = {}
  pairs = [(column, role) for role, column in schema.ids.items()]
  for objective in schema.objectives:
    pairs.append((objective.label, f"label of {objective.name}"))
    if objective.score:
      pairs.append((objective.score, f"score of {objective.name}"))
  pairs += [(column, "categorical") for column in schema.categorical]
  pairs += [(column, "numeric") for column in schema.numeric]
  for column, role in pairs:
    # A user or an item may also be embedded.
    if column in roles and not (
        role == "categorical" and roles[column] in ("user", "item")):
      raise DataError(
          f"column {column!r} has two roles, {roles[column]} and {role}.")
    roles[column] = role
