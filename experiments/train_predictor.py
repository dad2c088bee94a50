"""Trains a multi-task predictor and scores a log for the ensemble.

    python -m experiments.train_predictor               # the embedded log
    python -m experiments.train_predictor --format=kuairand \\
        --data=$KUAIRAND --users=$KUAIRAND --items=$KUAIRAND
    python -m experiments.train_predictor --data=log.parquet --schema=roles.json

The network is PEPNet (EPNet and PPNet gates; --noepnet --noppnet is a plain
shared-bottom network), trained by cross-entropy of each objective. In the
workdir, scored/train.parquet and scored/eval.parquet hold ids, time, labels,
profile columns and score_<objective>; python -m experiments.train_auc takes
them as --data and --eval_data. Scores of training rows are out of fold: each
comes from a model that was not trained on its row. Rows are dealt to
--num_folds at random, so that model has seen other rows of the same user.

An objective that is a value is predicted as its event, a label above 0.
Validation rows decide which step's parameters are kept, and nothing else.
The data is held in memory: about 20 bytes a row and column, and what --format
needs to prepare it.
"""

import dataclasses
import pathlib
from typing import Any

from experiments.predictor import inputs as inputs_lib
from experiments.predictor import results
from experiments.predictor import task as task_lib
from experiments.predictor.config import Config
from experiments.runs import flags
from experiments.runs import loop
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.serving import models


@workdir_lib.alone
def train(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains (or resumes) and writes a run; the content of `summary.json`.

  Raises `UserError`, `DataError` or, after a checkpoint, `StoppedError`.
  """
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    inputs = inputs_lib.read_inputs(config, workdir)
    task = task_lib.make_task(config, inputs)
  fitted = loop.fit(task, workdir, num_steps=config.num_steps,
                    examples_per_step=task.recipe.batch_size)
  content = publish(config, workdir, inputs, task, fitted)
  models.write_model(
      workdir, models.Predictor(
          task.recipe.network, inputs.source.schema, inputs.features),
      task_lib.take(fitted.state.best_params, task_lib.FULL))
  return content


def publish(
    config: Config, workdir: pathlib.Path, inputs: inputs_lib.Inputs,
    task: task_lib.FoldTask, fitted: loop.Fitted,
) -> dict[str, Any]:
  """Writes the scored log, the summary and the report; shows the table."""
  from experiments.predictor import report  # Slow to import.

  schema, params = inputs.source.schema, fitted.state.best_params
  logits, test_logits = task.out_of_fold(params), task.full(params, inputs.test)
  folder = workdir / "scored"
  results.write_scored_logs(folder, inputs, logits, test_logits)
  measures = results.measure(
      test_logits, inputs.test.labels > 0,
      inputs.test.user if schema.user else None,
      task.base_rates[task_lib.FULL])
  summary = results.summary(config, inputs, task, fitted, logits, measures)
  workdir_lib.write_json(workdir / "summary.json", summary)
  report.write_report(
      workdir, schema.names, measures, len(test_logits), summary["config"])
  results.print_table(schema.names, measures, len(test_logits))
  print(f"{folder / 'train.parquet'}  {folder / 'eval.parquet'}  "
        f"{workdir / 'report.html'}  {workdir / 'summary.json'}")
  return workdir_lib.finite(summary)


def main(config: Config) -> None:
  """Runs what the flags say."""
  train(config, flags.workdir(config, "train_predictor"))


if __name__ == "__main__":
  flags.run(main, Config)
