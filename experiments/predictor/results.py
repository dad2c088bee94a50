"""What comes of a predictor: a log with scores, and how good they are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.predictor import task as out_of_fold
from experiments.runs import console
from experiments.runs import errors
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.evaluation import bootstrap as evaluation

COLUMNS = ("objective", "positives", "AUC", "log-loss", "of base rate")


class Measures(NamedTuple):
  """Of the scores of M objectives on the same rows; `[M]` each.

  Attributes:
    positives: rows with the event.
    auc: NaN where all rows are of one class.
    auc_error: standard error, by bootstrap over users (rows without users).
    log_loss: mean cross-entropy.
    log_loss_error: standard error, users (or rows) as clusters.
    base_log_loss: of the rate of the training rows as constant score.
  """

  positives: np.ndarray
  auc: np.ndarray
  auc_error: np.ndarray
  log_loss: np.ndarray
  log_loss_error: np.ndarray
  base_log_loss: np.ndarray


def check_names(schema: schema_lib.Schema, profile: tuple[str, ...]) -> None:
  """Checks that the scored log will be understood by the names of columns.

  Raises:
    UserError: if a name would be there twice, or would be taken for a score.
  """
  names = [schema_lib.ROLES[role] for role in schema.ids]
  for name in schema.names:
    names += [name, schema_lib.SCORE_PREFIX + name]
  for name in profile:
    if name.startswith(schema_lib.SCORE_PREFIX):
      raise errors.UserError(
          f"profile column {name!r} would be taken for a score; leave it out "
          "or rename it.")
  for name in (*names, *profile):
    if [*names, *profile].count(name) > 1 or (
        name in schema_lib.ROLES.values()
        and name in (*schema.names, *profile)):
      raise errors.UserError(
          f"the scored log would have {name!r} in two roles; rename it.")


def scored_table(
    table: pa.Table,
    schema: schema_lib.Schema,
    profile: tuple[str, ...],
    scores: np.ndarray,
) -> pa.Table:
  """The log as the ensemble reads it, by the names of its columns.

  Args:
    table: rows.
    schema: their roles.
    profile: columns that go along: categorical ones as text, missing values
      stay missing; others as floats.
    scores: `[N, M]` float32 probabilities.

  Returns:
    Ids and time by their names, then the label and `score_<objective>` of
    each objective, then the profile. Nothing else.
  """
  columns: dict[str, pa.ChunkedArray | np.ndarray] = {}
  for role, column in schema.ids.items():
    columns[schema_lib.ROLES[role]] = (
        features_lib.times(table, column) if role == "time"
        else features_lib.plain(table[column]))
  for m, objective in enumerate(schema.objectives):
    kind = np.float32 if objective.is_value else np.int8
    columns[objective.name] = schema_lib.numbers_of(
        table[objective.label]).astype(kind)
    columns[schema_lib.SCORE_PREFIX + objective.name] = scores[:, m]
  for name in profile:
    values = features_lib.plain(table[name])
    if name in schema.categorical:
      columns[name] = pc.cast(values, pa.string())
    else:
      columns[name] = pc.cast(values, pa.float64(), safe=False)
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


def measure(
    logits: np.ndarray,
    labels: np.ndarray,
    users: np.ndarray | None,
    base_rates: np.ndarray,
) -> Measures:
  """How good scores are.

  Args:
    logits: `[N, M]` log-odds.
    labels: `[N, M]` bool.
    users: `[N]` integers, or None.
    base_rates: `[M]` in (0, 1), of the training rows.
  """
  losses = out_of_fold.log_losses(logits, labels)
  rows = np.broadcast_to(np.log(base_rates / (1 - base_rates)), logits.shape)
  # Of all scores against all labels, each against its own.
  _, replicates = evaluation.bootstrap_auc(
      [evaluation.Part(logits.T, labels, users)])
  own = np.diagonal(replicates, axis1=1, axis2=2)
  return Measures(
      positives=labels.sum(axis=0),
      auc=out_of_fold.own_auc(logits, labels),
      auc_error=np.ma.masked_invalid(own).std(axis=0, ddof=1).filled(np.nan),
      log_loss=losses.mean(axis=0),
      log_loss_error=_clustered_error(losses, users),
      base_log_loss=out_of_fold.log_losses(rows, labels).mean(axis=0))


def table_rows(
    names: Sequence[str], measures: Measures
) -> list[list[str]]:
  """Texts under `COLUMNS`, a row for each objective."""
  rows = []
  for m, name in enumerate(names):
    positives, auc, auc_error, loss, loss_error, base = (
        values[m] for values in measures)
    rows.append([name, f"{positives:,}", console.with_error(auc, auc_error),
                 console.with_error(loss, loss_error), console.number(base)])
  return rows


def print_table(
    names: Sequence[str], measures: Measures, num_rows: int
) -> None:
  """The last thing on the terminal."""
  console.show(f"{num_rows:,} held-out rows, ± one standard error", COLUMNS,
               table_rows(names, measures))


def _clustered_error(
    losses: np.ndarray, users: np.ndarray | None
) -> np.ndarray:
  """Standard error of means `[M]` over rows `[N, M]` that come in clusters."""
  groups = np.arange(len(losses))
  if users is not None:
    _, groups = np.unique(users, return_inverse=True)
  residuals = losses - losses.mean(axis=0)
  sums = np.stack([np.bincount(groups, column) for column in residuals.T])
  return np.sqrt(np.sum(sums**2, axis=1)) / len(losses)
