"""A log with the scores of a predictor, as the ensemble reads it."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import kinds
from harmonrank_jax.data import schema as schema_lib


def check_names(schema: schema_lib.Schema, profile: tuple[str, ...]) -> None:
  """Raises if a name would be there twice, or would be taken for a score."""
  names = [schema_lib.ROLES[role] for role in schema.ids]
  for name in schema.names:
    names += [name, schema_lib.SCORE_PREFIX + name]
  for name in profile:
    if name.startswith(schema_lib.SCORE_PREFIX):
      raise schema_lib.DataError(
          f"profile column {name!r} would be taken for a score; leave it out "
          "or rename it.")
  names += profile
  for name in names:
    if names.count(name) > 1 or (
        name in schema_lib.ROLES.values()
        and name in (*schema.names, *profile)):
      raise schema_lib.DataError(
          f"the scored log would have {name!r} in two roles; rename it.")


def scored_table(
    table: pa.Table, schema: schema_lib.Schema, profile: tuple[str, ...],
    scores: np.ndarray,
) -> pa.Table:
  """The log as the ensemble reads it, with `[N, M]` float32 probabilities.

  Ids, time, labels, `score_<objective>` and profile (categories as text).
  """
  columns: dict[str, pa.ChunkedArray | np.ndarray] = {}
  for role, column in schema.ids.items():
    columns[schema_lib.ROLES[role]] = (
        features_lib.times(table, column) if role == "time"
        else kinds.plain(table[column]))
  for m, objective in enumerate(schema.objectives):
    # A sum of money in its smallest unit does not fit into float32.
    kind = np.float64 if objective.is_value else np.int8
    columns[objective.name] = kinds.numbers_of(
        table[objective.label]).astype(kind)
    columns[schema_lib.SCORE_PREFIX + objective.name] = scores[:, m]
  for name in profile:
    kind = pa.string() if name in schema.categorical else pa.float64()
    columns[name] = pc.cast(
        kinds.plain(table[name]), kind, safe=False)
  return pa.table(columns)


def scored_schema(
    schema: schema_lib.Schema, profile: tuple[str, ...]
) -> schema_lib.Schema:
  """Roles of the columns of `scored_table`."""
  return schema_lib.Schema(
      tuple(schema_lib.Objective(
          o.name, o.name, schema_lib.SCORE_PREFIX + o.name, o.is_value)
            for o in schema.objectives),
      **{role: schema_lib.ROLES[role] for role in schema.ids},
      categorical=tuple(n for n in profile if n in schema.categorical),
      numeric=tuple(n for n in profile if n not in schema.categorical))
