"""Which methods are compared, and the rows they are compared on."""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.comparison import studies
from experiments.runs import errors
from experiments.runs import logs
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import encoding
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import splits


class Block(NamedTuple):
  """Rows of one split."""

  vocabulary_sizes: tuple[int, ...]  # of the categorical profile columns
  train: features_lib.Batch
  validation: features_lib.Batch
  test: features_lib.Batch
  truth: np.ndarray | None  # [N, M] true probabilities of the test rows

  @property
  def num_rows(self) -> tuple[int, int, int]:
    """Numbers of rows to train, validate and test on."""
    return (len(self.train.labels), len(self.validation.labels),
            len(self.test.labels))


class Inputs(NamedTuple):
  """What is compared, on which rows."""

  schema: schema_lib.Schema
  study: studies.Study  # what was asked for, as far as there are columns for it
  left_out: tuple[studies.Condition, ...]  # the other conditions
  blocks: list[Block]  # at least one


def read_inputs(config: studies.Config, workdir: pathlib.Path) -> Inputs:
  """Opens, checks, splits and reads the data."""
  if config.blocks > 1 and config.eval_data:
    raise errors.UserError(
        "--blocks cuts --data by time and takes no --eval_data; name a folder "
        "that holds both files with --data.")
  log, schema = logs.open_scored_log(workdir, config)
  study, left_out = fitting_study(config, schema)
  log = parquet.check_log(log, schema)
  test_log = logs.open_eval_log(config.eval_data, log, schema)
  workdir_lib.say(workdir, [*log.notes, *test_log.notes])
  cuts = (splits.temporal_blocks(log, schema, config.blocks)
          if config.blocks > 1 else
          [splits.split_log(log, schema, hold_out=config.eval_data is None)])
  logs.announce(schema, cuts[-1])
  fitted = [features_lib.fit_features(log, schema, split.rows(splits.TRAIN))
            for split in cuts]
  # Networks of all blocks have one shape, and are compiled once: embeddings of
  # entries that are in no row of a block stay as they were initialised.
  sizes = tuple(max(column) for column in zip(*(
      features.vocabulary_sizes for features in fitted), strict=True))
  blocks = [
      _read_block(
          config, workdir, log, test_log, schema, split, features)._replace(
              vocabulary_sizes=sizes)
      for split, features in zip(cuts, fitted, strict=True)]
  return Inputs(schema, study, left_out, blocks)


def _read_block(
    config: studies.Config, workdir: pathlib.Path, log: parquet.ParquetLog,
    test_log: parquet.ParquetLog, schema: schema_lib.Schema,
    split: splits.Split, features: encoding.Features,
) -> Block:
  """The rows of one split, and the truth of its test rows where it is known."""
  is_embedded = config.data is None and config.eval_data is None
  true = tuple(f"true_{name}" for name in schema.names if is_embedded)
  *parts, table = splits.read_parts(log, (*schema.columns, *true), split)
  if config.eval_data:
    table = splits.read_rows(test_log, schema.columns)
  train, validation, test = (features_lib.encode(features, schema, rows)
                             for rows in (*parts, table))
  truth = None
  if is_embedded:
    truth = np.stack([table[name].to_numpy() for name in true], axis=1)
  for batch, purpose in ((train, "train"), (validation, "validate"),
                         (test, "test")):
    logs.check_classes(workdir, schema, batch.labels, purpose)
  return Block(features.vocabulary_sizes, train, validation, test, truth)


def fitting_study(
    config: studies.Config, schema: schema_lib.Schema
) -> tuple[studies.Study, tuple[studies.Condition, ...]]:
  """The study that the columns allow, and the conditions that they do not."""
  if config.without is not None and config.without not in schema.names:
    raise errors.UserError(
        f"--without={config.without} is no objective"
        f"{schema_lib.nearest(config.without, schema.names)}; there are "
        f"{', '.join(schema.names)}.")
  for name in config.methods or ():
    if name not in studies.METHODS:
      raise errors.UserError(
          f"--methods: {name} is none"
          f"{schema_lib.nearest(name, studies.METHODS)}; there are "
          f"{', '.join(studies.METHODS)}.")
  study = studies.STUDIES[config.study]
  is_possible = lambda condition: (
      condition.lists == "batch"
      or getattr(schema, condition.lists) is not None)
  listed = tuple(filter(is_possible, study.conditions))
  if len(listed) == 1 < len(study.conditions):
    raise errors.UserError(
        f"--study={config.study} needs a column of users or of requests; the "
        "data has neither.")
  left_out = tuple(condition for condition in study.conditions
                   if condition not in listed)
  methods = study.methods if config.methods is None else config.methods
  return studies.Study(listed, methods), left_out
