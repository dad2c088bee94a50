"""What comes of a predictor: a log with scores, and how good they are."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
from scipy import special

from experiments.predictor import inputs as inputs_lib
from experiments.predictor import task as task_lib
from experiments.predictor.config import Config
from experiments.runs import claims
from experiments.runs import console
from experiments.runs import loop
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import scored_logs
from harmonrank_jax.evaluation import aucs

COLUMNS = ("objective", "positives", "AUC", "log-loss", "of base rate")


class Measures(NamedTuple):
  """Measures of M scores on the same rows; `[M]` each."""

  positives: np.ndarray  # rows with the event
  auc: np.ndarray  # NaN where all rows are of one class
  auc_error: np.ndarray  # standard error, users (or rows) as clusters
  auc_low: np.ndarray  # ends of the 95 % interval, likewise
  auc_high: np.ndarray
  log_loss: np.ndarray  # mean cross-entropy
  log_loss_error: np.ndarray  # standard error, users (or rows) as clusters
  # Log-loss of the rate of the training rows as constant score.
  base_log_loss: np.ndarray


def measure(
    logits: np.ndarray,
    labels: np.ndarray,
    users: np.ndarray | None,
    base_rates: np.ndarray,
) -> Measures:
  """Measures log-odds `[N, M]`; base rates `[M]` are of the training rows."""
  losses = task_lib.log_losses(logits, labels)
  rows = np.broadcast_to(np.log(base_rates / (1 - base_rates)), logits.shape)
  # Each score against its own labels.
  own = [aucs.auc_estimates([aucs.Part(
      score[None], label[:, None], users)]).contrast(np.ones((1, 1)))
         for score, label in zip(logits.T, labels.T, strict=True)]
  low, high = np.transpose([x.ends_of_auc for x in own])
  return Measures(
      positives=labels.sum(axis=0),
      auc=task_lib.own_auc(logits, labels),
      auc_error=np.array([x.error for x in own]),
      auc_low=low, auc_high=high,
      log_loss=losses.mean(axis=0),
      log_loss_error=_clustered_error(losses, users),
      base_log_loss=task_lib.log_losses(rows, labels).mean(axis=0))


def table_rows(
    names: Sequence[str], measures: Measures
) -> list[list[str]]:
  """Texts under `COLUMNS`, a row for each objective."""
  rows = []
  for m, name in enumerate(claims.marked(
      names, np.isfinite(measures.auc_error))):
    rows.append([name, f"{measures.positives[m]:,}",
                 console.with_error(measures.auc[m], measures.auc_error[m]),
                 console.with_error(measures.log_loss[m],
                                    measures.log_loss_error[m]),
                 console.number(measures.base_log_loss[m])])
  return rows


def print_table(
    names: Sequence[str], measures: Measures, num_rows: int
) -> None:
  """The last thing on the terminal."""
  console.show(f"{num_rows:,} held-out rows, ± one standard error", COLUMNS,
               table_rows(names, measures))
  if not np.isfinite(measures.auc_error).all():
    print(claims.NOTE)


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


def summary(
    config: Config, inputs: inputs_lib.Inputs, task: task_lib.FoldTask,
    fitted: loop.Fitted, logits: np.ndarray, test: Measures,
) -> dict[str, Any]:
  names = inputs.source.schema.names
  by_name = lambda values: dict(
      zip(names, np.asarray(values).tolist(), strict=True))
  judged, validation = task.judged(fitted.state.best_params)
  return {
      "objectives": list(names),
      **{name: by_name(values) for name, values in test._asdict().items()},
      "auc_sum": np.nansum(test.auc),
      "out_of_fold_auc": by_name(
          task_lib.own_auc(logits, inputs.rows.labels > 0)),
      "validation_auc": by_name(
          task_lib.own_auc(judged, validation.labels)),
      "validation_relative_log_loss": fitted.state.best_value,
      "train_rows": len(logits), "validation_rows": len(judged),
      "test_rows": len(inputs.test.labels),
      "num_steps": config.num_steps, "best_step": fitted.state.best_step,
      "examples_per_second": (
          fitted.steps_per_second * task.recipe.batch_size),
      "config": dataclasses.asdict(config)}


def write_scored_logs(
    folder: pathlib.Path, inputs: inputs_lib.Inputs, logits: np.ndarray,
    test_logits: np.ndarray,
) -> None:
  """Writes both logs and their schema; `logits` `[N, M]` are out of fold."""
  schema, profile = inputs.source.schema, inputs.source.profile
  for name, table, values in (("train", inputs.table, logits),
                              ("eval", inputs.test_table, test_logits)):
    scores = special.expit(values).astype(np.float32)
    parquet.write_parquet(
        scored_logs.scored_table(table, schema, profile, scores),
        folder / f"{name}.parquet")
  workdir_lib.write_json(folder / "schema.json", scored_logs.scored_schema(
      schema, profile).to_json())
