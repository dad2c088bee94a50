"""Logs as a binary takes them: opened, understood, checked and split."""

import itertools
import pathlib

import numpy as np
import pyarrow as pa

from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import generator
from harmonrank_jax.data import kinds
from harmonrank_jax.data import naming
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import splits

_MAX_SLICES = 12


def write_embedded_log(
    folder: pathlib.Path, config: generator.LogConfig, *,
    name: str = "embedded_log.parquet", items_name: str | None = None,
) -> pathlib.Path:
  """Writes the embedded log, and its items if named, unless it is there."""
  path = folder / name
  if not path.exists():
    week = generator.generate_log(config)
    if items_name:
      parquet.write_parquet(week.items, folder / items_name)
    parquet.write_parquet(week.log, path)
  return path


def open_log(
    path: str | pathlib.Path, schema: schema_lib.Schema | str | None
) -> tuple[parquet.ParquetLog, schema_lib.Schema]:
  """Opens a log, and reads its schema if it is a path or None (by name)."""
  log = parquet.ParquetLog(path)
  if schema is None:
    schema = naming.schema_from_names(
        log.arrow_schema, log.columns_of_few_values(), irregular=log.irregular)
    log.notes += naming.left_out(schema, log.arrow_schema, log.irregular)
  elif isinstance(schema, str):
    schema = schema_lib.read_schema(schema)
  return log, schema


def open_scored_log(
    folder: pathlib.Path, config: configs.LogConfig
) -> tuple[parquet.ParquetLog, schema_lib.Schema]:
  """Opens the scored log of the flags, or the embedded one in the folder."""
  if config.schema and not config.data:
    raise errors.UserError("--schema needs --data.")
  log, schema = (
      open_log(config.data, config.schema) if config.data else
      open_log(write_embedded_log(folder, config.embedded), generator.SCHEMA))
  if config.objectives:
    schema = schema.with_objectives(config.objectives)
  for objective in schema.objectives:
    if not objective.score:
      raise errors.UserError(
          f"objective {objective.name!r} has no score column; python -m "
          "experiments.train_predictor makes one for each objective.")
  return log, schema


def open_eval_log(
    path: str | None, log: parquet.ParquetLog, schema: schema_lib.Schema
) -> parquet.ParquetLog:
  """Opens and checks what --eval_data names; the log itself if nothing."""
  if path is None:
    return log
  eval_log, _ = open_log(path, schema)
  return parquet.check_log(eval_log, schema, trained=log)


def check_classes(
    workdir: pathlib.Path, schema: schema_lib.Schema, labels: np.ndarray,
    purpose: str,
) -> None:
  """Names objectives `[N, M]` without an AUC in the rows for a purpose.

  If none has one, that is a `UserError`.
  """
  is_constant = (labels == labels[:1]).all(axis=0)
  if is_constant.all():
    raise errors.UserError(
        f"no objective has two classes in the {len(labels):,} rows to "
        f"{purpose} on ({', '.join(schema.names)}): there is nothing to rank "
        "by.")
  workdir_lib.say(workdir, [
      f"objective {name!r} has one class only in the rows to {purpose} on; its "
      "AUC is undefined."
      for name in itertools.compress(schema.names, is_constant)])


def as_slices(column: pa.ChunkedArray, is_numeric: bool) -> np.ndarray:
  """Values as text: the most frequent ones, or quarters of a numeric column."""
  if is_numeric:
    values = kinds.numbers_of(column)
    if np.isnan(values).all():
      return np.full(len(values), "missing")
    edges = np.unique(np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1]))
    names = np.asarray(
        [f"{low:.4g} to {high:.4g}"
         for low, high in itertools.pairwise(edges)] or [f"{edges[0]:.4g}"])
    place = np.searchsorted(edges, np.nan_to_num(values), side="right") - 1
    return np.where(np.isnan(values), "missing",
                    names[place.clip(0, len(names) - 1)])
  texts = np.asarray(
      ["missing" if value is None else str(value)
       for value in column.to_pylist()])
  values, counts = np.unique(texts, return_counts=True)
  frequent = values[np.argsort(-counts, kind="stable")[:_MAX_SLICES]]
  return np.where(np.isin(texts, frequent), texts, "others")


def announce(schema: schema_lib.Schema, split: splits.Split) -> None:
  """Says what was understood."""
  print(schema.describe(), split.describe(), sep="\n", flush=True)
