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
import json
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np

from experiments.ranker import ranker as ranker_lib
from experiments.ranker import results
from experiments.ranker import task as auc_task
from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import logs
from experiments.runs import loop
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import network

# More passes learn profiles by heart where these tell users apart.
_DEFAULT_PASSES, _MAX_DEFAULT_STEPS = 10, 10_000
# Rows that are calibrated on, and rows that are validated on, at most.
_MAX_ROWS = 2_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.LogConfig):
  """What a run depends on: the flags of these names."""

  head: str = flags.field(
      "aligned", "What the network puts out: corrections to calibrated scores, "
      "or one score.", choices=network.HEADS)
  loss: str = flags.field(
      "soft_auc", "What is trained on.", choices=tuple(ranker_lib.LOSSES))
  lists: str = flags.field(
      "batch", "What is ranked against what in a rank loss. Of lists the last "
      "step is kept.", choices=auc_task.LISTS)
  relative_strength: float = flags.field(
      2.0, "Of the soft rank, in mean gaps of scores; 1 to 3 trains best.",
      low=0.0, high=1e6)
  objective_weights: tuple[float, ...] | None = flags.field(
      None, "What the AUC of each objective is worth, in their order; equal if "
      "not given.")
  num_steps: int | None = flags.field(
      None, "Steps of training; ten passes over the training rows if not "
      "given, at most 10,000 steps.", low=1, high=100_000_000)
  learning_rate: float = flags.field(
      1e-2, "Of Adam, falling to 0 by a cosine.", low=0.0, high=1.0)
  num_members: int = flags.field(
      4, "Networks that are trained side by side; the score is the mean of "
      "theirs.", low=1, high=100)
  init_from: str | None = flags.field(
      None, "Workdir of an earlier run: training starts from its best "
      "parameters, with its vocabularies.")
  token_size: int = flags.field(
      16, "Width of the tokens, even.", low=2, high=4096)
  relation_aware: bool = flags.field(
      True, "Ablation: the relation-aware branch.")
  relation_agnostic: bool = flags.field(
      True, "Ablation: the relation-agnostic branch.")
  self_attention: bool = flags.field(
      True, "Ablation: self-attention over objectives.")
  slice_by: str | None = flags.field(
      None, "Profile column by whose values AUCs are shown, too.")


def train(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains, evaluates and writes everything there is to see of a run.

  Args:
    config: what the run depends on.
    workdir: where it goes; a run of the same configuration there is resumed.

  Returns:
    The content of `summary.json`.

  Raises:
    UserError: if the configuration does not fit the data or the workdir.
    DataError: if the data is not what it should be.
    StoppedError: on Ctrl-C or SIGTERM, after a checkpoint.
  """
  workdir = pathlib.Path(workdir)
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    inputs = read_inputs(config, workdir)
    test = read_test(config, inputs)
  _check_same_data(workdir, inputs, test)
  ranker_lib.write_model(workdir, inputs.model)
  task = make_task(config, inputs)
  fitted = loop.fit(
      task, workdir, num_steps=inputs.num_steps,
      examples_per_step=inputs.batch_size)
  return publish(workdir, results.Run(
      config=dataclasses.asdict(config), schema=inputs.model.schema,
      platt=task.platt, num_steps=inputs.num_steps,
      best_step=int(fitted.state.best_step),
      objective_weights=inputs.objective_weights,
      score=lambda batch: task.score(fitted.state.best_params, batch),
      sample=inputs.sample, validation=inputs.validation,
      test=test.batch, truth=test.truth, slices=test.slices,
      examples_per_second=fitted.steps_per_second * inputs.batch_size))


def read_inputs(config: Config, workdir: pathlib.Path) -> auc_task.Inputs:
  """Opens, checks and splits the logs; fits the features."""
  log, schema = logs.open_scored_log(
      workdir, config.data, config.schema, config.objectives,
      config.embedded)
  _check_config(config, schema)
  parquet.check_log(log, schema)
  eval_log = logs.open_eval_log(config.eval_data, log, schema)
  split = logs.split_log(log, schema, hold_out=config.eval_data is None)
  logs.announce(schema, split)
  num_train = split.num_rows[logs.TRAIN]
  if config.batch_size and config.batch_size > num_train:
    raise errors.UserError(
        f"--batch_size={config.batch_size} is larger than the data: "
        f"{num_train:,} rows to train on.")
  model = _make_model(config, schema, log, split)

  def read(part: int) -> features_lib.Batch:
    """The rows of a part, or some of very many."""
    stride = -(-split.num_rows[part] // _MAX_ROWS)
    keep = lambda table: split.rows(part)(table) & (
        np.arange(table.num_rows) % stride == 0)
    return features_lib.encode(
        model.features, schema, logs.read_rows(log, schema.columns, keep))

  sample, validation = read(logs.TRAIN), read(logs.VALIDATION)
  logs.warn_of_one_class(schema, sample.labels, "train")
  logs.warn_of_one_class(schema, validation.labels, "validate")
  batch_size = config.batch_size or min(configs.DEFAULT_BATCH_SIZE, num_train)
  passes = -(-_DEFAULT_PASSES * num_train // batch_size)
  return auc_task.Inputs(
      model, log, split, eval_log, batch_size,
      config.num_steps or min(passes, _MAX_DEFAULT_STEPS),
      np.asarray(config.objective_weights or [1.0] * len(schema.objectives),
                 np.float32),
      sample, validation)


def _check_config(config: Config, schema: schema_lib.Schema) -> None:
  """Flags against the columns there are."""
  for role in ("user", "request"):
    if config.lists == role and getattr(schema, role) is None:
      raise errors.UserError(
          f"--lists={role} needs a column of {role}s; the data has none.")
  weights = config.objective_weights
  if weights is not None and len(weights) != len(schema.objectives):
    raise errors.UserError(
        f"--objective_weights has {len(weights)} values; there are "
        f"{len(schema.objectives)} objectives: {', '.join(schema.names)}.")
  if weights is not None and not any(weights):
    raise errors.UserError(
        "--objective_weights are all 0; one of them must be worth something.")
  profile = (*schema.categorical, *schema.numeric)
  if config.slice_by and config.slice_by not in profile:
    raise errors.UserError(
        f"--slice_by={config.slice_by} is no profile column"
        f"{schema_lib.nearest(config.slice_by, profile)}; there are "
        f"{', '.join(profile) or 'none'}.")


def _make_model(
    config: Config, schema: schema_lib.Schema, log: parquet.ParquetLog,
    split: logs.Split,
) -> ranker_lib.Model:
  """The model to be trained; features of a warm start are the earlier ones."""
  names = [field.name for field in dataclasses.fields(network.HarmonRankConfig)
           if hasattr(config, field.name)]
  try:
    network_config = network.HarmonRankConfig(
        len(schema.objectives),
        **{name: getattr(config, name) for name in names})
  except ValueError as error:
    raise errors.UserError(str(error)) from None
  if config.init_from is None:
    features = features_lib.fit_features(log, schema, split.rows(logs.TRAIN))
    return ranker_lib.Model(network_config, schema, features)
  folder = pathlib.Path(config.init_from)
  earlier = ranker_lib.read_model(folder)
  model = ranker_lib.Model(network_config, schema, earlier.features)
  for what, ours, theirs in (
      ("number of members", config.num_members,
       workdir_lib.read_config(folder).get("num_members")),
      ("network", model.config, earlier.config),
      ("objectives", schema.names, earlier.schema.names),
      ("categorical columns", schema.categorical, earlier.schema.categorical),
      ("numeric columns", schema.numeric, earlier.schema.numeric)):
    if ours != theirs:
      raise errors.UserError(
          f"--init_from={config.init_from}: {what}: {theirs} there, {ours} "
          "here.")
  return model


def _check_same_data(
    workdir: pathlib.Path, inputs: auc_task.Inputs, test: "Test"
) -> None:
  """By its rows, of very many by some, and what their columns mean."""
  features = json.dumps(inputs.model.features.to_json()).encode()
  workdir_lib.check_same_data(workdir, [
      np.frombuffer(features, np.uint8), np.asarray(inputs.split.num_rows),
      *inputs.sample, *inputs.validation, *test.batch])


class Test(NamedTuple):
  """Held-out rows.

  Attributes:
    batch: the rows.
    truth: `[N, M]` true probabilities, of the embedded log only.
    slices: the column asked for and `[N]` values as text, or None.
  """

  batch: features_lib.Batch
  truth: np.ndarray | None
  slices: tuple[str, np.ndarray] | None


def read_test(config: Config, inputs: auc_task.Inputs) -> Test:
  """Reads the held-out rows."""
  schema = inputs.model.schema
  keep = None if config.eval_data else inputs.split.rows(logs.TEST)
  is_embedded = config.data is None and config.eval_data is None
  true = tuple(f"true_{name}" for name in schema.names if is_embedded)
  table = logs.read_rows(inputs.eval_log, (*schema.columns, *true), keep)
  truth, slices = None, None
  if is_embedded:
    truth = np.stack([table[name].to_numpy() for name in true], axis=1)
  if config.slice_by:
    slices = (config.slice_by, logs.as_slices(
        table[config.slice_by], config.slice_by in schema.numeric))
  batch = features_lib.encode(inputs.model.features, schema, table)
  return Test(batch, truth, slices)


def make_task(config: Config, inputs: auc_task.Inputs) -> auc_task.AucTask:
  """The training that the configuration asks for."""
  names = [field.name for field in dataclasses.fields(auc_task.Recipe)]
  return auc_task.AucTask(
      auc_task.Recipe(**{name: getattr(config, name) for name in names}),
      inputs)


def publish(workdir: pathlib.Path, run: results.Run) -> dict[str, Any]:
  """Evaluates; writes summary and report; shows the table.

  Returns:
    The content of `summary.json`.
  """
  from experiments.ranker import report as ranker  # Slow to import.

  found = results.evaluate(run)
  content = workdir_lib.finite(results.summary(run, found))
  workdir_lib.write_json(workdir / "summary.json", content)
  ranker.write_report(workdir, run, found)
  results.print_table(run, found)
  print(f"{workdir / 'report.html'}  {workdir / 'summary.json'}")
  return content


def main(config: Config) -> None:
  """Runs what the flags say."""
  train(config, flags.workdir(config, "train_auc"))


if __name__ == "__main__":
  flags.run(main, Config)
