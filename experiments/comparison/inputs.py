"""What is compared, and the rows it is compared on."""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.comparison import studies as contenders
from experiments.comparison.config import Config
from experiments.runs import errors
from experiments.runs import logs
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import splits


class Block(NamedTuple):
  """Rows of one split.

  Attributes:
    vocabulary_sizes: of the categorical profile columns.
    train: rows.
    validation: rows.
    test: rows.
    truth: `[N, M]` true probabilities of the test rows, or None.
  """

  vocabulary_sizes: tuple[int, ...]
  train: features_lib.Batch
  validation: features_lib.Batch
  test: features_lib.Batch
  truth: np.ndarray | None


class Inputs(NamedTuple):
  """What is compared, on what.

  Attributes:
    schema: roles of the columns.
    study: with the methods that were asked for and the lists there are.
    blocks: rows, at least one.
  """

  schema: schema_lib.Schema
  study: contenders.Study
  blocks: list[Block]


def read_inputs(config: Config, workdir: pathlib.Path) -> Inputs:
  """Opens, checks, splits and reads the data."""
  if config.blocks > 1 and config.eval_data:
    raise errors.UserError(
        "--blocks cuts --data by time and takes no --eval_data; name a folder "
        "that holds both files with --data.")
  log, schema = logs.open_scored_log(
      workdir, config.data, config.schema, config.objectives,
      config.embedded)
  study = _study(config, schema)
  parquet.check_log(log, schema)
  test_log = logs.open_eval_log(config.eval_data, log, schema)
  cuts = (splits.temporal_blocks(log, schema, config.blocks)
          if config.blocks > 1 else
            [splits.split_log(log, schema, hold_out=config.eval_data is None)])
  logs.announce(schema, cuts[-1])
  is_embedded = config.data is None and config.eval_data is None
  true = tuple(f"true_{name}" for name in schema.names if is_embedded)
  fitted = [features_lib.fit_features(log, schema, split.rows(splits.TRAIN))
            for split in cuts]
  # Entries that are in no row of a block stay as they began: networks of all
  # blocks have one shape, and are compiled once.
  sizes = tuple(max(column) for column in zip(*(
      features.vocabulary_sizes for features in fitted), strict=True))
  blocks = []
  for split, features in zip(cuts, fitted, strict=True):
    read = lambda source, keep, columns=schema.columns: splits.read_rows(
        source, columns, keep)
    train, validation = (
        features_lib.encode(features, schema, read(log, split.rows(part)))
        for part in (splits.TRAIN, splits.VALIDATION))
    keep = None if config.eval_data else split.rows(splits.TEST)
    table = read(test_log, keep, (*schema.columns, *true))
    test = features_lib.encode(features, schema, table)
    truth = None
    if is_embedded:
      truth = np.stack([table[name].to_numpy() for name in true], axis=1)
    logs.warn_of_one_class(schema, test.labels, "test")
    blocks.append(Block(sizes, train, validation, test, truth))
  return Inputs(schema, study, blocks)


def _study(
    config: Config, schema: schema_lib.Schema
) -> contenders.Study:
  """The study that fits the columns there are."""
  if config.without is not None and config.without not in schema.names:
    raise errors.UserError(
        f"--without={config.without} is no objective"
        f"{schema_lib.nearest(config.without, schema.names)}; there are "
        f"{', '.join(schema.names)}.")
  study = contenders.STUDIES[config.study]
  listed = tuple(
      condition for condition in study.conditions
      if condition.lists == "batch"
      or getattr(schema, condition.lists) is not None)
  if study.conditions[1:] and not listed[1:]:
    raise errors.UserError(
        f"--study={config.study} needs a column of users or of requests; the "
        "data has neither.")
  study = dataclasses.replace(study, conditions=listed)
  if config.methods is None:
    return study
  for name in config.methods:
    if name not in contenders.METHODS:
      raise errors.UserError(
          f"--methods: {name} is none"
          f"{schema_lib.nearest(name, contenders.METHODS)}; there are "
          f"{', '.join(contenders.METHODS)}.")
  return dataclasses.replace(study, methods=config.methods)
