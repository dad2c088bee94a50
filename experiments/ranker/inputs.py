"""What a ranker is trained, validated and tested on."""

import dataclasses
import json
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.ranker import config as config_lib
from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import logs
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import splits
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.serving import models

# More passes overfit profiles that identify users.
_DEFAULT_PASSES, _MAX_DEFAULT_STEPS = 10, 10_000
# Rows that are calibrated on, and rows that are validated on, at most.
_MAX_ROWS = 2_000_000


class Inputs(NamedTuple):
  """What is trained and evaluated on."""

  model: models.Ensemble
  # Of all members, to start from; None to start afresh.
  parameters: dict[str, Any] | None
  log: parquet.ParquetLog
  split: splits.Split
  # To test on; log where its last part is held out.
  eval_log: parquet.ParquetLog
  batch_size: int
  num_steps: int
  sample: features_lib.Batch  # training rows, or some of very many
  validation: features_lib.Batch  # rows to choose by
  held_out: pa.Table  # rows of log to test on, with their truth if embedded

  @property
  def objective_weights(self) -> np.ndarray:
    """`[M]` float32, what each AUC is worth."""
    return np.asarray(self.model.objective_weights, np.float32)


class Test(NamedTuple):
  """Held-out rows."""

  batch: features_lib.Batch
  # [N, M] true probabilities, of the embedded log only.
  truth: np.ndarray | None
  # The column asked for and [N] values as text, or None.
  slices: tuple[str, np.ndarray] | None


def read_test(
    config: config_lib.Config, inputs: Inputs, workdir: pathlib.Path
) -> Test:
  """Reads the held-out rows."""
  schema = inputs.model.schema
  true = _truth_columns(config, schema)
  table = inputs.held_out if config.eval_data is None else (
      splits.read_rows(inputs.eval_log, schema.columns))
  truth, slices = None, None
  if true:
    truth = np.stack([table[name].to_numpy() for name in true], axis=1)
  if config.slice_by:
    slices = (config.slice_by, logs.as_slices(
        table[config.slice_by], config.slice_by in schema.numeric))
  batch = features_lib.encode(inputs.model.features, schema, table)
  logs.check_classes(workdir, schema, batch.labels, "test")
  return Test(batch, truth, slices)


def read_inputs(config: config_lib.Config, workdir: pathlib.Path) -> Inputs:
  """Opens, checks and splits the logs; fits the features."""
  log, schema = logs.open_scored_log(workdir, config)
  _check_config(config, schema)
  log = parquet.check_log(log, schema)
  eval_log = logs.open_eval_log(config.eval_data, log, schema)
  workdir_lib.say(workdir, [*log.notes, *eval_log.notes])
  split = splits.split_log(log, schema, hold_out=config.eval_data is None)
  logs.announce(schema, split)
  num_train = split.num_rows[splits.TRAIN]
  if config.batch_size and config.batch_size > num_train:
    raise errors.UserError(
        f"--batch_size={config.batch_size} is larger than the data: "
        f"{num_train:,} rows to train on.")
  model, parameters, notes = _make_model(config, schema, log, split)
  workdir_lib.say(workdir, notes)
  *tables, held_out = splits.read_parts(
      log, (*schema.columns, *_truth_columns(config, schema)), split,
      most=_MAX_ROWS)
  sample, validation = (
      features_lib.encode(model.features, schema, table) for table in tables)
  logs.check_classes(workdir, schema, sample.labels, "train")
  logs.check_classes(workdir, schema, validation.labels, "validate")
  batch_size = config.batch_size or min(configs.DEFAULT_BATCH_SIZE, num_train)
  passes = -(-_DEFAULT_PASSES * num_train // batch_size)
  return Inputs(
      model, parameters, log, split, eval_log, batch_size,
      config.num_steps or min(passes, _MAX_DEFAULT_STEPS),
      sample, validation, held_out)


def _truth_columns(
    config: config_lib.Config, schema: schema_lib.Schema
) -> tuple[str, ...]:
  """Columns of the true probabilities of rows to test on, if they are known."""
  is_embedded = config.data is None and config.eval_data is None
  return tuple(f"true_{name}" for name in schema.names if is_embedded)


def _check_config(config: config_lib.Config, schema: schema_lib.Schema) -> None:
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
    config: config_lib.Config, schema: schema_lib.Schema,
    log: parquet.ParquetLog, split: splits.Split,
) -> tuple[models.Ensemble, dict[str, Any] | None, list[str]]:
  """The model to be trained, and of a warm start parameters and what is said.

  Features of a warm start are the earlier ones.
  """
  names = [field.name for field in dataclasses.fields(network.HarmonRankConfig)
           if hasattr(config, field.name)]
  try:
    network_config = network.HarmonRankConfig(
        len(schema.objectives),
        **{name: getattr(config, name) for name in names})
  except ValueError as error:
    raise errors.UserError(str(error)) from None
  weights = config.objective_weights or (1.0,) * len(schema.objectives)
  features = features_lib.fit_features(log, schema, split.rows(splits.TRAIN))
  model = models.Ensemble(network_config, schema, features, weights)
  if config.init_from is None:
    return model, None, []
  earlier, parameters = models.read_model(config.init_from)
  if not isinstance(earlier, models.Ensemble):
    raise errors.UserError(
        f"--init_from={config.init_from}: the workdir is that of another "
        f"kind of run, which left a model of kind {earlier.KIND!r}.")
  model = dataclasses.replace(model, features=earlier.features)
  num_members = len(next(iter(parameters.values())))
  for what, ours, theirs in (
      ("number of members", config.num_members, num_members),
      ("network", model.config, earlier.config),
      ("objectives", schema.names, earlier.schema.names),
      ("categorical columns", schema.categorical, earlier.schema.categorical),
      ("numeric columns", schema.numeric, earlier.schema.numeric)):
    if ours != theirs:
      raise errors.UserError(
          f"--init_from={config.init_from}: {what}: {theirs} there, {ours} "
          "here.")
  known = earlier.features.vocabularies
  new = [f"{len(set(values) - set(known[name]))} of {len(values)} of {name}"
         for name, values in features.vocabularies.items()]
  return model, models.nested(parameters), [
      f"--init_from={config.init_from}: values that are new in the training "
      f"rows, and read as unknown: {', '.join(new) or 'none'}."]


def make_rows(batch: features_lib.Batch, lists: str) -> ranker_lib.Rows:
  """Rows of a batch, with the lists of `config.LISTS`; a batch is one list."""
  return ranker_lib.rows_of(
      batch, None if lists == "batch" else getattr(batch, lists))


def check_same_data(
    workdir: pathlib.Path, inputs: Inputs, test: Test
) -> None:
  """By its rows, of very many by some, and what their columns mean."""
  features = json.dumps(inputs.model.features.to_json()).encode()
  workdir_lib.check_same_data(workdir, [
      np.frombuffer(features, np.uint8), np.asarray(inputs.split.num_rows),
      *inputs.sample, *inputs.validation, *test.batch])
