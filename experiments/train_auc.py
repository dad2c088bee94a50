"""Trains a HarmonRank ensemble on multi-objective AUC and evaluates it.

    python -m experiments.train_auc                     # the embedded log
    python -m experiments.train_auc --data=log.parquet

A log has a column <objective> of labels and score_<objective> of predicted
scores for each objective; every column that is no id is profile.

Beside the ensemble stand, on the same held-out rows, each objective's own
score, equal and tuned weighted sums, a tuned weighted product, and the closed
form on Platt-calibrated scores. Results go to --workdir; the same command
again goes on where it stopped.
"""

import dataclasses
import pathlib
from typing import Any

from experiments.artefacts import making
from experiments.artefacts import stages
from experiments.ranker import inputs as inputs_lib
from experiments.ranker import objectives
from experiments.ranker import results
from experiments.ranker import task as auc_task
from experiments.ranker.config import Config
from experiments.runs import flags
from experiments.runs import loop
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.serving import models


@workdir_lib.alone
def train(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains (or resumes) and writes a run; the content of `summary.json`.

  Raises `UserError`, `DataError` or, after a checkpoint, `StoppedError`.
  """
  with workdir_lib.claimed(workdir, config.settings):
    inputs = inputs_lib.read_inputs(config, workdir)
    test = inputs_lib.read_test(config, inputs, workdir)
  inputs_lib.check_same_data(workdir, inputs, test)
  task = make_task(config, inputs)
  if config.export:
    making.rehearse([stages.stage_of(models.Trained(
        inputs.model, models.flat(task.init().best_params)))], config.export)
  fitted = loop.fit(
      task, workdir, num_steps=inputs.num_steps,
      examples_per_step=inputs.batch_size, remark=objectives.remark)
  content = publish(workdir, results.Run(
      config=config.settings, schema=inputs.model.schema,
      platt=task.platt, num_steps=inputs.num_steps,
      best_step=int(fitted.state.best_step),
      objective_weights=inputs.objective_weights,
      score=lambda batch: task.score(fitted.state.best_params, batch),
      sample=inputs.sample, validation=inputs.validation,
      test=test.batch, truth=test.truth, slices=test.slices,
      examples_per_second=fitted.steps_per_second * inputs.batch_size))
  models.write_model(workdir, inputs.model, fitted.state.best_params)
  if config.export:
    making.publish(stages.read_stages([str(workdir)]), config.export)
  return content


def make_task(config: Config, inputs: inputs_lib.Inputs) -> auc_task.AucTask:
  """The training that the configuration asks for."""
  names = [field.name for field in dataclasses.fields(auc_task.Recipe)]
  return auc_task.AucTask(
      auc_task.Recipe(**{name: getattr(config, name) for name in names}),
      inputs)


def publish(workdir: pathlib.Path, run: results.Run) -> dict[str, Any]:
  """Evaluates; writes summary and report; shows the table."""
  from experiments.ranker import report  # Slow to import.

  measured = results.evaluate(run)
  content = workdir_lib.finite(results.summary(run, measured))
  workdir_lib.write_json(workdir / "summary.json", content)
  report.write_report(workdir, run, measured)
  results.print_table(run, measured)
  print(f"{workdir / 'report.html'}  {workdir / 'summary.json'}")
  return content


def main(config: Config) -> None:
  """Runs what the flags say."""
  train(config, flags.workdir(config, "train_auc"))


if __name__ == "__main__":
  flags.run(main, Config)
