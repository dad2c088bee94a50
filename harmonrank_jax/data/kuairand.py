"""The public KuaiRand logs: from the files as released to one prepared log.

A prepared row is an exposure with its labels and with what was known before
it: an outcome of a row is never a feature of that row.

References:
  Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with
  Randomly Exposed Videos", CIKM 2022.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import features
from harmonrank_jax.data import files
from harmonrank_jax.data import kuairand_tables as tables_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import times as times_lib

PathLike = tables_lib.PathLike


class Prepared(NamedTuple):
  """A prepared log; both files have the same columns, sorted by time."""

  train: pathlib.Path  # Parquet.
  evaluation: pathlib.Path | None
  schema: schema_lib.Schema  # Objectives have labels but no scores yet.
  profile: tuple[str, ...]  # Feature columns of the user and the context.
  domain: tuple[str, ...]  # Categorical ones: in which domain a row is.
  personal: tuple[str, ...]  # Those that identify user, item and author.
  notes: tuple[str, ...]  # What was found odd in the files, a line each.


def prepare(
    data: PathLike, destination: PathLike, *,
    evaluation: PathLike | None = None, users: PathLike | None = None,
    items: PathLike | None = None,
) -> Prepared:
  """Writes a KuaiRand log with history features as Parquet.

  Labels are named by objective. Features are `user_id`, `item_id`, `hour`,
  `tab` and `duration_ms` (0 becomes null), the columns of the tables, and for
  both sides, user and item, `<side>_rows`, log(1 + n) of n earlier rows, and
  `<side>_rate_<objective>`, their number of positives / (n + 5). Earlier is
  strictly earlier in time: rows of one millisecond do not see each other.
  Evaluation rows also see the training rows that are earlier than they are.
  Text, integers, dates, booleans, and floats that are all whole (CSV has no
  integers with gaps) are categorical, other floats numeric.

  Everything is in memory: about 800 bytes a row of both logs with both tables,
  600 without them. That is 1.2 GB for KuaiRand-Pure.

  Args:
    data: a CSV (`.csv`) or Parquet file, or a folder: every
      `log_standard*.csv` in it, or else every `*.parquet`. Columns `user_id`,
      `video_id`, `time_ms`, `hourmin`, `duration_ms`, perhaps `tab`, and at
      least one objective.
    destination: folder of the result, `train.parquet` and `eval.parquet`.
    evaluation: a log that has all columns used of `data`.
    users: table with `user_id`, every other column a feature; a file, or a
      folder with one `user_features*`.
    items: likewise with `video_id`, of which author, type, upload type, tag
      and music are features; or a folder with one `video_features_basic*`.
  """
  raw = _roles(files.find(data, *tables_lib.LOG_FILES)[0])
  log, notes = _read_log(data, raw)
  num_train = log.num_rows
  if evaluation is not None:
    evaluated_log, more = _read_log(evaluation, raw)
    log = tables_lib.join([log, evaluated_log], evaluation)
    notes += more
  ids = {"user_id": log["user_id"], "item_id": log["video_id"]}
  labels = {o.name: log[o.label] for o in raw.objectives}
  hour = pc.divide(pc.cast(log["hourmin"], pa.int64(), safe=False), 100)
  context = {name: log[name] for name in raw.categorical} | {"hour": hour}
  duration = pc.cast(log["duration_ms"], pa.float32())
  duration = pc.if_else(
      pc.equal(duration, 0), pa.scalar(None, pa.float32()), duration)
  of_user = tables_lib.table_columns(users, "user", ids["user_id"])
  of_item = tables_lib.table_columns(items, "item", ids["item_id"])
  user_history = _history("user", log, "user_id", labels)
  item_history = _history("item", log, "video_id", labels)
  made = {**ids, "time_ms": log["time_ms"], **labels, **context,
          "duration_ms": duration, **of_item, **user_history, **item_history}
  for name in of_user:
    if name in made:
      raise schema_lib.DataError(
          f"{users}: column {name!r} is also made from the log or the table of "
          "items; rename it.")
  table = pa.table(made | of_user)
  numeric = [name for name in ("duration_ms", *of_user, *user_history,
                               *item_history)
             if pa.types.is_floating(table.schema.field(name).type)]
  categorical = [name for name in (*ids, *context, *of_user, *of_item)
                 if name not in numeric]
  train = pathlib.Path(destination) / "train.parquet"
  parquet.write_parquet(table.slice(0, num_train), train)
  evaluated = None if evaluation is None else train.with_name("eval.parquet")
  if evaluated is not None:
    parquet.write_parquet(table.slice(num_train), evaluated)
  return Prepared(
      train, evaluated, schema_lib.Schema(
          tuple(schema_lib.Objective(name, name) for name in labels),
          user="user_id", item="item_id", time="time_ms",
          categorical=tuple(categorical), numeric=tuple(numeric)),
      profile=(*context, *of_user, *user_history),
      domain=tuple(context),
      personal=(*ids, *(name for name in of_item if name == "author_id")),
      notes=tuple(notes))


def earlier_sums(
    key: np.ndarray, time: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Number `[N]` and sums `[N, M]` of strictly earlier rows of the same key."""
  order = np.lexsort((time, key))
  key, time = key[order], time[order]
  opens_key = np.append(True, np.diff(key) != 0)
  opens_tie = np.append(True, np.diff(time) != 0) | opens_key
  rows = np.arange(len(key))
  first = np.maximum.accumulate(np.where(opens_key, rows, 0))
  tie = np.maximum.accumulate(np.where(opens_tie, rows, 0))
  counts = np.empty(len(key), np.int64)
  counts[order] = tie - first
  sums = np.empty(values.shape, np.int64)
  running = np.zeros(len(key) + 1, np.int64)
  for column in range(values.shape[1]):
    np.cumsum(values[order, column], out=running[1:])
    sums[order, column] = running[tie] - running[first]
  return counts, sums


def _history(
    side: str, log: pa.Table, id_column: str, labels: dict[str, pa.ChunkedArray]
) -> dict[str, np.ndarray]:
  counts, sums = earlier_sums(
      features.id_numbers(log, id_column), log["time_ms"].to_numpy(),
      np.stack([column.to_numpy() for column in labels.values()], axis=1))
  columns = {f"{side}_rows": np.log1p(counts).astype(np.float32)}
  for m, name in enumerate(labels):
    columns[f"{side}_rate_{name}"] = (
        sums[:, m] / (counts + tables_lib.PRIOR_ROWS)).astype(np.float32)
  return columns


def _read_log(
    path: PathLike, raw: schema_lib.Schema
) -> tuple[pa.Table, list[str]]:
  """The checked rows by time, and what is to be said of the times."""
  tables = []
  for file in files.find(path, *tables_lib.LOG_FILES):
    table = tables_lib.read_checked(file, raw)
    narrow = {o.label: pc.cast(table[o.label], pa.int8())
              for o in raw.objectives}
    narrow["time_ms"] = pa.array(times_lib.integers_of(table["time_ms"]))
    tables.append(pa.table(
        {name: narrow.get(name, table[name]) for name in raw.columns}))
  log = tables_lib.join(tables, path)
  integers = log["time_ms"].to_numpy()
  unit = times_lib.unit_of(integers)
  # Counters stay as they are; whoever reads the prepared log says so.
  notes = [f"{path}: {line}" for line in times_lib.describe(
      "time_ms", pa.int64(), integers, unit) if unit]
  log = log.set_column(
      log.column_names.index("time_ms"), "time_ms",
      pa.array(times_lib.in_ms(integers, unit)))
  order = np.argsort(log["time_ms"].to_numpy(), kind="stable")
  return log.take(pa.array(order)), notes


def _roles(file: pathlib.Path) -> schema_lib.Schema:
  """Roles of the columns as released; a log may lack objectives."""
  names, known = tables_lib.names_of(file), tables_lib.OBJECTIVES
  objectives = tuple(
      schema_lib.Objective(name, column)
      for name, column in known.items() if column in names)
  if not objectives:
    raise schema_lib.DataError(
        f"{file}: no objective; expected at least one of the columns "
        f"{', '.join(known.values())}, got {', '.join(names)}.")
  return schema_lib.Schema(
      objectives, user="user_id", item="video_id", time="time_ms",
      categorical=("tab",) if "tab" in names else (),
      numeric=("hourmin", "duration_ms"))
