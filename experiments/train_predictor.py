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
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import special

from experiments.predictor import results as scored
from experiments.predictor import task as out_of_fold
from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import logs
from experiments.runs import loop
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import kuairand
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.predictor import pepnet

FORMATS = ("kuairand",)
# Chosen on validation rows: of the KuaiRand log, whose history columns say
# what embeddings would, and of the embedded log, which has no other way.
_EMBEDDING_LEARNING_RATES = {"kuairand": 3e-5, None: 1e-2}
_NETWORK: dict[str, Any] = {
    "shared_sizes": (128,), "tower_sizes": (32,), "dropout_rate": 0.2,
    "unknown_rate": 0.1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.LogConfig):
  """What a run depends on: the flags of these names."""

  format: str | None = flags.field(
      None, "A public log as released, which is prepared.", choices=FORMATS)
  users: str | None = flags.field(
      None, "Table of users for --format=kuairand, CSV or Parquet.")
  items: str | None = flags.field(
      None, "Table of items for --format=kuairand, CSV or Parquet.")
  domain: tuple[str, ...] | None = flags.field(
      None, "Categorical columns that say in which domain a row is, for the "
      "gates of EPNet; those of the --format if not given.")
  epnet: bool = flags.field(True, "Gates of the embedding by the domain.")
  ppnet: bool = flags.field(True, "Gates of the towers by user and item.")
  num_folds: int = flags.field(
      5, "Folds of the out-of-fold scores.", low=2, high=100)
  num_steps: int = flags.field(
      300, "Steps of training.", low=1, high=100_000_000)
  learning_rate: float = flags.field(
      3e-3, "Of Adam, falling to 0 by a cosine.", low=0.0, high=1.0)
  embedding_learning_rate: float | None = flags.field(
      None, "Likewise, of the embeddings; a smaller one overfits less. 3e-5 "
      "with --format=kuairand and 1e-2 otherwise if not given.", low=0.0,
      high=1.0)


class Source(NamedTuple):
  """Where rows come from.

  Attributes:
    log: to train on.
    eval_log: to test on; None where the last part of `log` is held out.
    schema: roles of the columns, without scores.
    profile: columns that go along with the scores.
    domain: categorical columns that say in which domain a row is.
    personal: categorical columns that identify user, item and author.
  """

  log: parquet.ParquetLog
  eval_log: parquet.ParquetLog | None
  schema: schema_lib.Schema
  profile: tuple[str, ...]
  domain: tuple[str, ...]
  personal: tuple[str, ...]


class Inputs(NamedTuple):
  """What is trained and tested on, in memory.

  Attributes:
    source: where it comes from.
    features: fitted on the rows to train and validate on.
    table: these rows.
    rows: these rows as arrays.
    is_validation: `[N]` bool, which of them to validate on.
    test_table: the rows to test on.
    test: these rows as arrays.
  """

  source: Source
  features: features_lib.Features
  table: pa.Table
  rows: features_lib.Batch
  is_validation: np.ndarray
  test_table: pa.Table
  test: features_lib.Batch


def train(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains, tests and writes the scored log.

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
    task = make_task(config, inputs)
  fitted = loop.fit(task, workdir, num_steps=config.num_steps,
                    examples_per_step=task.recipe.batch_size)
  return publish(config, workdir, inputs, task, fitted)


def read_inputs(config: Config, workdir: pathlib.Path) -> Inputs:
  """Opens, checks and splits the logs; fits the features.

  Args:
    config: what is read.
    workdir: for logs that are generated or prepared.
  """
  source = read_source(config, workdir)
  schema = source.schema
  if config.objectives:
    schema = schema.with_objectives(config.objectives)
    source = source._replace(schema=schema)
  _check_columns(source)
  parquet.check_log(source.log, schema)
  if source.eval_log:
    parquet.check_log(source.eval_log, schema)
  split = logs.split_log(source.log, schema, hold_out=source.eval_log is None)
  logs.announce(schema, split)
  keep = split.rows(logs.TRAIN, logs.VALIDATION)
  features = features_lib.fit_features(source.log, schema, keep)
  table = logs.read_rows(source.log, schema.columns, keep)
  test_table = logs.read_rows(
      source.eval_log or source.log, schema.columns,
      None if source.eval_log else split.rows(logs.TEST))
  return Inputs(
      source, features, table, features_lib.encode(features, schema, table),
      split.part(table) == logs.VALIDATION, test_table,
      features_lib.encode(features, schema, test_table))


def read_source(config: Config, workdir: pathlib.Path) -> Source:
  """Generates, prepares or opens the logs."""
  if config.format is None and (config.users or config.items):
    raise errors.UserError("--users and --items need --format.")
  if config.format and config.schema:
    raise errors.UserError("--format and --schema exclude each other.")
  if config.format and not config.data:
    raise errors.UserError(f"--format={config.format} needs --data.")
  if config.data is None and config.schema:
    raise errors.UserError("--schema needs --data.")
  if config.format:
    source = _prepared(config, workdir / "prepared")
  elif config.data:
    source = _opened(config)
  else:
    source = _embedded(config, workdir)
  if config.domain is not None:
    source = source._replace(domain=config.domain)
  return source


def _prepared(config: Config, folder: pathlib.Path) -> Source:
  """A public log."""
  assert config.data is not None
  prepared = kuairand.prepare(
      config.data, folder, evaluation=config.eval_data, users=config.users,
      items=config.items)
  return Source(
      parquet.ParquetLog(prepared.train),
      parquet.ParquetLog(prepared.evaluation) if prepared.evaluation else None,
      prepared.schema, prepared.profile, prepared.domain, prepared.personal)


def _opened(config: Config) -> Source:
  """A log of the user's: its scores, if it has any, are not looked at."""
  assert config.data is not None
  log, schema = logs.open_log(config.data, config.schema)
  ids = tuple(column for column in (schema.user, schema.item) if column)
  by_name = () if config.schema else ids
  schema = dataclasses.replace(
      schema, categorical=(*by_name, *schema.categorical),
      objectives=tuple(dataclasses.replace(objective, score=None)
                       for objective in schema.objectives))
  profile = tuple(column for column in (*schema.categorical, *schema.numeric)
                  if column not in ids)
  return Source(
      log, _evaluation(config, schema), schema, profile, (),
      tuple(column for column in ids if column in schema.categorical))


def _embedded(config: Config, workdir: pathlib.Path) -> Source:
  """The embedded log, without its scores."""
  path = logs.write_embedded_log(workdir, config.embedded)
  given = logs.EMBEDDED_SCHEMA
  schema = dataclasses.replace(
      given, categorical=("user_id", "item_id", "category", *given.categorical),
      objectives=tuple(dataclasses.replace(objective, score=None)
                       for objective in given.objectives))
  return Source(
      parquet.ParquetLog(path), _evaluation(config, schema), schema,
      (*given.categorical, *given.numeric), ("category", "device"),
      ("user_id", "item_id"))


def _evaluation(
    config: Config, schema: schema_lib.Schema
) -> parquet.ParquetLog | None:
  if config.eval_data is None:
    return None
  return logs.open_log(config.eval_data, schema)[0]


def _check_columns(source: Source) -> None:
  """The roles of columns, before anything long begins."""
  schema = source.schema
  if not schema.categorical and not schema.numeric:
    raise errors.UserError(
        "there is no categorical and no numeric column to predict from.")
  for name in source.domain:
    if name not in schema.categorical:
      raise errors.UserError(
          f"--domain: {name!r} is no categorical column"
          f"{schema_lib.nearest(name, schema.categorical)}; there are "
          f"{', '.join(schema.categorical) or 'none'}.")
  scored.check_names(schema, source.profile)


def make_task(config: Config, inputs: Inputs) -> out_of_fold.FoldTask:
  """The training of all models."""
  schema, num_rows = inputs.source.schema, len(inputs.is_validation)
  for name in ("batch_size", "num_folds"):
    if (getattr(config, name) or 0) > num_rows:
      raise errors.UserError(
          f"--{name}={getattr(config, name)} is larger than the data: "
          f"{num_rows:,} rows to train and validate on.")
  positions = lambda columns: tuple(map(schema.categorical.index, columns))
  network = pepnet.PepNetConfig(
      len(schema.objectives), inputs.features.vocabulary_sizes,
      domain=positions(inputs.source.domain),
      personal=positions(inputs.source.personal),
      epnet=config.epnet, ppnet=config.ppnet, **_NETWORK)
  folds = out_of_fold.deal(
      inputs.is_validation, num_folds=config.num_folds, seed=config.seed)
  embedding_learning_rate = config.embedding_learning_rate
  if embedding_learning_rate is None:
    embedding_learning_rate = _EMBEDDING_LEARNING_RATES[config.format]
  recipe = out_of_fold.Recipe(
      network, config.batch_size or min(configs.DEFAULT_BATCH_SIZE, num_rows),
      config.num_steps, config.learning_rate, embedding_learning_rate,
      config.seed)
  return out_of_fold.FoldTask(recipe, inputs.rows, folds, schema.names)


def publish(
    config: Config, workdir: pathlib.Path, inputs: Inputs,
    task: out_of_fold.FoldTask, fitted: loop.Fitted,
) -> dict[str, Any]:
  """Writes the scored log and the summary; shows the table.

  Returns:
    The content of `summary.json`.
  """
  from experiments.predictor import report as predictor  # Slow to import.

  schema, profile = inputs.source.schema, inputs.source.profile
  params = fitted.state.best_params
  logits, test_logits = task.out_of_fold(params), task.full(params, inputs.test)
  folder = workdir / "scored"
  for name, table, values in (("train", inputs.table, logits),
                              ("eval", inputs.test_table, test_logits)):
    scores = special.expit(values).astype(np.float32)
    parquet.write_parquet(
        scored.scored_table(table, schema, profile, scores),
        folder / f"{name}.parquet")
  workdir_lib.write_json(folder / "schema.json", scored.scored_schema(
      schema, profile).to_json())
  test = scored.measure(test_logits, inputs.test.labels > 0,
                        inputs.test.user if schema.user else None,
                        task.base_rates[out_of_fold.FULL])
  summary = _summary(config, inputs, task, fitted, logits, test)
  workdir_lib.write_json(workdir / "summary.json", summary)
  logs.warn_of_one_class(schema, inputs.test.labels > 0, "test")
  predictor.write_report(
      workdir, schema.names, test, len(test_logits), summary["config"])
  scored.print_table(schema.names, test, len(test_logits))
  print(f"{folder / 'train.parquet'}  {folder / 'eval.parquet'}  "
        f"{workdir / 'report.html'}  {workdir / 'summary.json'}")
  return workdir_lib.finite(summary)


def _summary(
    config: Config, inputs: Inputs, task: out_of_fold.FoldTask,
    fitted: loop.Fitted, logits: np.ndarray, test: scored.Measures,
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
          out_of_fold.own_auc(logits, inputs.rows.labels > 0)),
      "validation_auc": by_name(
          out_of_fold.own_auc(judged, validation.labels)),
      "validation_relative_log_loss": fitted.state.best_value,
      "train_rows": len(logits), "validation_rows": len(judged),
      "test_rows": len(inputs.test.labels),
      "num_steps": config.num_steps, "best_step": fitted.state.best_step,
      "examples_per_second": (
          fitted.steps_per_second * task.recipe.batch_size),
      "config": dataclasses.asdict(config)}


def main(config: Config) -> None:
  """Runs what the flags say."""
  train(config, flags.workdir(config, "train_predictor"))


if __name__ == "__main__":
  flags.run(main, Config)
