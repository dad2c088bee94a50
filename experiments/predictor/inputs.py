"""What a predictor is trained, validated and tested on."""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.predictor.config import Config
from experiments.runs import errors
from experiments.runs import logs
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import encoding
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import generator
from harmonrank_jax.data import kuairand
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import scored_logs
from harmonrank_jax.data import splits


class Source(NamedTuple):
  """Where rows come from."""

  log: parquet.ParquetLog  # to train on
  # To test on; None where the last part of log is held out.
  eval_log: parquet.ParquetLog | None
  schema: schema_lib.Schema  # roles of the columns, without scores
  profile: tuple[str, ...]  # columns that go along with the scores
  # Categorical columns that say in which domain a row is.
  domain: tuple[str, ...]
  # Categorical columns that identify user, item and author.
  personal: tuple[str, ...]


class Inputs(NamedTuple):
  """What is trained and tested on, in memory."""

  source: Source  # where it comes from
  features: encoding.Features  # fitted on the rows to train and validate on
  table: pa.Table  # these rows
  rows: features_lib.Batch  # these rows as arrays
  is_validation: np.ndarray  # [N] bool, which of them to validate on
  test_table: pa.Table  # the rows to test on
  test: features_lib.Batch  # these rows as arrays


def read_inputs(config: Config, workdir: pathlib.Path) -> Inputs:
  """Opens, checks and splits the logs; fits the features."""
  source = read_source(config, workdir)
  schema = source.schema
  if config.objectives:
    schema = schema.with_objectives(config.objectives)
    source = source._replace(schema=schema)
  _check_columns(source)
  source = source._replace(log=parquet.check_log(source.log, schema))
  if source.eval_log:
    source = source._replace(eval_log=parquet.check_log(
        source.eval_log, schema, trained=source.log))
  workdir_lib.say(workdir, [
      *source.log.notes, *(source.eval_log.notes if source.eval_log else ())])
  split = splits.split_log(source.log, schema, hold_out=source.eval_log is None)
  logs.announce(schema, split)
  keep = split.rows(splits.TRAIN, splits.VALIDATION)
  features = features_lib.fit_features(source.log, schema, keep)
  table = splits.read_rows(source.log, schema.columns, keep)
  test_table = splits.read_rows(
      source.eval_log or source.log, schema.columns,
      None if source.eval_log else split.rows(splits.TEST))
  rows = features_lib.encode(features, schema, table)
  is_validation = split.part(table) == splits.VALIDATION
  test = features_lib.encode(features, schema, test_table)
  for labels, purpose in (
      (rows.labels[~is_validation], "train"),
      (rows.labels[is_validation], "validate"), (test.labels, "test")):
    logs.check_classes(workdir, schema, labels > 0, purpose)
  return Inputs(source, features, table, rows, is_validation, test_table, test)


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
  log = parquet.ParquetLog(prepared.train)
  log.notes += prepared.notes
  return Source(
      log,
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
  given = generator.SCHEMA
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
  scored_logs.check_names(schema, source.profile)
