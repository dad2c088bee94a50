"""The Open Bandit logs: rounds of a fashion shop with their propensities.

Two policies ran side by side in each of three campaigns: `random`, uniform
over the items, and `bts`, Thompson sampling. A round is one item shown in one
of three positions; what stands in the other two is not in the log. The true
probability of the item in its position is. They are here to estimate what a
policy is worth from the log of another; no binary reads them.

References:
  Saito et al., "Open Bandit Dataset and Pipeline: Towards realistic and
  reproducible off-policy evaluation", NeurIPS 2021, datasets and benchmarks.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from harmonrank_jax.data import checks
from harmonrank_jax.data import kinds
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

_USER = tuple(f"user_feature_{k}" for k in range(4))
_ROLES = schema_lib.Schema(
    (schema_lib.Objective("click", "click"),), item="item_id",
    categorical=_USER, numeric=("position", "propensity_score"))


class Rounds(NamedTuple):
  """Rounds in the order of the file."""

  clicks: np.ndarray  # [N] float32, 0 or 1.
  items: np.ndarray  # [N] int32 in [0, num_items).
  positions: np.ndarray  # [N] int32, 1 to 3.
  logging_prob: np.ndarray  # [N] float64 in (0, 1], the item in its position.
  # [N] int32, which users look the same: the log knows users by four hashed
  # features only, so that one id is a group of them.
  user_ids: np.ndarray
  num_items: int  # Of the campaign; random shows each with 1 / num_items.


def read_rounds(
    folder: str | pathlib.Path, *, policy: str, campaign: str
) -> Rounds:
  """Reads the log of a policy, "random" or "bts", in "all", "men" or "women".

  The folder has `<policy>/<campaign>/<campaign>.csv` and `item_context.csv`
  beside it, as released, or `<policy>_<campaign>.parquet` and
  `item_context_<policy>_<campaign>.parquet`.
  """
  folder = pathlib.Path(folder)
  items = _read(folder, (
      f"{policy}/{campaign}/item_context.csv",
      f"item_context_{policy}_{campaign}.parquet"), ("item_id",))[1]
  file, table = _read(folder, (
      f"{policy}/{campaign}/{campaign}.csv", f"{policy}_{campaign}.parquet"),
      _ROLES.columns)
  checks.check_types(_ROLES, table.schema, file)
  if kinds.is_text(table.schema.field("item_id").type):
    raise schema_lib.DataError(
        f"{file}: column 'item_id' has type string; accepted: integers from 0.")
  checks.check_rows(_ROLES, table, checks.Place(file))
  columns = {name: kinds.numbers_of(table[name]) for name in (
      "click", "item_id", "position", "propensity_score")}
  num_items = items.num_rows
  for name, good, accepted in (
      ("item_id", columns["item_id"] < num_items, f"0 to {num_items - 1}"),
      ("item_id", columns["item_id"] >= 0, f"0 to {num_items - 1}"),
      ("position", np.isin(columns["position"], (1, 2, 3)), "1 to 3"),
      ("propensity_score", (columns["propensity_score"] > 0)
       & (columns["propensity_score"] <= 1), "above 0 and at most 1")):
    if not good.all():
      row = int(np.argmin(good))
      raise schema_lib.DataError(
          f"{file}: column {name!r}, row {row}: accepted is {accepted}, got "
          f"{table[name][row].as_py()!r}.")
  _, user_ids = np.unique(np.stack([
      np.unique(table[name].to_numpy().astype(str), return_inverse=True)[1]
      for name in _USER]), axis=1, return_inverse=True)
  return Rounds(
      columns["click"].astype(np.float32), columns["item_id"].astype(np.int32),
      columns["position"].astype(np.int32), columns["propensity_score"],
      user_ids.astype(np.int32), num_items)


def _read(
    folder: pathlib.Path, files: tuple[str, ...], columns: tuple[str, ...]
) -> tuple[pathlib.Path, pa.Table]:
  """Columns of the first of the files that is there."""
  file = next((folder / name for name in files if (folder / name).is_file()),
              None)
  if file is None:
    raise schema_lib.DataError(f"{folder}: no {' and no '.join(files)}.")
  with parquet.reading(file):
    if file.suffix == ".csv":
      checks.check_names(columns, csv.open_csv(file).schema.names, file)
      return file, csv.read_csv(file, convert_options=csv.ConvertOptions(
          include_columns=columns))
    log = parquet.ParquetLog(file)
    checks.check_names(columns, log.arrow_schema.names, file)
    return file, pa.concat_tables(log.tables(columns))
