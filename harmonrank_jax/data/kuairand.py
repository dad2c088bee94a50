"""The public KuaiRand logs: from the files as released to one prepared log.

A prepared row is an exposure with its labels and with what was known before
it: who, what, in which context, the tables of users and videos, and how often
the user and the video were seen earlier and with what outcome. Outcomes of a
row are never features of that row.

References:
  Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with
  Randomly Exposed Videos", CIKM 2022.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import hashlib
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv
import pyarrow.compute as pc

from harmonrank_jax.data import checks
from harmonrank_jax.data import features
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

DataError = schema_lib.DataError
PathLike = str | pathlib.Path

# Objective to column. Hate is an outcome too, but nobody ranks for it.
OBJECTIVES = {
    "label": "label", "click": "is_click", "long_view": "long_view",
    "like": "is_like", "profile_enter": "is_profile_enter",
    "comment": "is_comment", "forward": "is_forward", "follow": "is_follow"}
_OUTCOMES = {*OBJECTIVES.values(), "is_hate", *schema_lib.OUTCOMES}
_ITEM_COLUMNS = ("author_id", "video_type", "upload_type", "tag", "music_id")

# Files of a folder, by the first pattern that any file has.
_LOG_FILES = ("log_standard*.csv", "*.parquet")
_USER_FILES = ("user_features*.csv", "user_features*.parquet")
_ITEM_FILES = ("video_features_basic*.csv", "video_features_basic*.parquet")

# A rate of few rows is drawn to 0 as by this many rows without the outcome.
_PRIOR_ROWS = 5

# Columns of a video in the table of candidates.
NUM_FEATURES = 64
NO_TAG = "no tag"
# What stands for a missing value in the table of videos.
_MISSING = (None, "0", "UNKNOWN")


class Prepared(NamedTuple):
  """A prepared log; both files have the same columns, sorted by time.

  Attributes:
    train: Parquet file of the training log.
    evaluation: of the evaluation log, or None.
    schema: roles of the columns; objectives have labels but no scores yet.
    profile: feature columns of the user and the context.
    domain: categorical columns that say in which domain a row is.
    personal: categorical columns that identify user, item and author.
  """

  train: pathlib.Path
  evaluation: pathlib.Path | None
  schema: schema_lib.Schema
  profile: tuple[str, ...]
  domain: tuple[str, ...]
  personal: tuple[str, ...]


def prepare(
    data: PathLike,
    destination: PathLike,
    *,
    evaluation: PathLike | None = None,
    users: PathLike | None = None,
    items: PathLike | None = None,
) -> Prepared:
  """Writes a KuaiRand log with history features as Parquet.

  Labels are named by objective. Features are `user_id`, `item_id`, `hour`,
  `tab` and `duration_ms` (0 becomes null), the columns of the tables, and for
  user and item `<who>_rows`, log(1 + n) of its n earlier rows, and
  `<who>_rate_<objective>`, their number of positives / (n + 5). Earlier is
  strictly earlier in time: rows of one millisecond do not see each other.
  Evaluation rows also see the training rows that are earlier than they are.
  Text, integers, booleans, and floats that are all whole (CSV has no integers
  with gaps) are categorical, other floats numeric.

  Everything is in memory: about 800 bytes a row of both logs with both tables,
  600 without them. That is 1.2 GB for KuaiRand-Pure.

  Args:
    data: a CSV (`.csv`) or Parquet file, or a folder: every
      `log_standard*.csv` in it, or else every `*.parquet`. Columns `user_id`,
      `video_id`, `time_ms`, `hourmin`, `duration_ms`, perhaps `tab`, and at
      least one of `OBJECTIVES`.
    destination: folder of the result, `train.parquet` and `eval.parquet`.
    evaluation: a log that has all columns used of `data`; or None.
    users: table with `user_id`, every other column a feature; a file, or a
      folder with one `user_features*`; or None.
    items: likewise with `video_id`, of which author, type, upload type, tag
      and music are features; or a folder with one `video_features_basic*`.

  Raises:
    DataError: if a file, column or value is not what it should be.
    OSError: if the result cannot be written.
  """
  raw, log = _read_log(data, None)
  num_train = log.num_rows
  if evaluation is not None:
    log = _concat([log, _read_log(evaluation, raw)[1]], evaluation)
  ids = {"user_id": log["user_id"], "item_id": log["video_id"]}
  labels = {o.name: log[o.label] for o in raw.objectives}
  hour = pc.divide(pc.cast(log["hourmin"], pa.int64(), safe=False), 100)
  context = {name: log[name] for name in raw.categorical} | {"hour": hour}
  duration = pc.cast(log["duration_ms"], pa.float32())
  duration = pc.if_else(
      pc.equal(duration, 0), pa.scalar(None, pa.float32()), duration)
  of_user, of_item = {}, {}
  if users is not None:
    of_user = _table_columns(
        users, _USER_FILES, schema_lib.Schema((), user="user_id"),
        ids["user_id"])
  if items is not None:
    of_item = _table_columns(
        items, _ITEM_FILES, schema_lib.Schema((), item="video_id"),
        ids["item_id"], _ITEM_COLUMNS)
  user_history = _history("user", log, "user_id", labels)
  item_history = _history("item", log, "video_id", labels)
  made = {**ids, "time_ms": log["time_ms"], **labels, **context,
          "duration_ms": duration, **of_item, **user_history, **item_history}
  for name in of_user:
    if name in made:
      raise DataError(f"{users}: column {name!r} is also made from the log or "
                      "the table of items; rename it.")
  table = pa.table(made | of_user)
  numeric = [name for name in ("duration_ms", *of_user, *user_history,
                               *item_history)
             if pa.types.is_floating(table.schema.field(name).type)]
  categorical = [name for name in (*ids, *context, *of_user, *of_item)
                 if name not in numeric]
  folder = pathlib.Path(destination)
  train, evaluated = folder / "train.parquet", None
  parquet.write_parquet(table.slice(0, num_train), train)
  if evaluation is not None:
    evaluated = folder / "eval.parquet"
    parquet.write_parquet(table.slice(num_train), evaluated)
  return Prepared(
      train, evaluated,
      schema_lib.Schema(
          tuple(schema_lib.Objective(name, name) for name in labels),
          user="user_id", item="item_id", time="time_ms",
          categorical=tuple(categorical), numeric=tuple(numeric)),
      profile=(*context, *of_user, *user_history),
      domain=tuple(context),
      personal=(*ids, *(name for name in of_item if name == "author_id")))


class Candidates(NamedTuple):
  """Videos to make slates of, with scores that are a demonstration.

  Attributes:
    candidates: Parquet file of `request_id` (the user), `item_id` (the video)
      and `score` (a click rate in (0, 1)), user by user.
    items: Parquet file of `item_id`, `category` (the video's first tag, as in
      "tag 39", or "no tag") and `features` (64 float32 of unit length).
    limits: what is to be said beside results.
  """

  candidates: pathlib.Path
  items: pathlib.Path
  limits: str


def make_candidates(
    data: PathLike,
    videos: PathLike,
    destination: PathLike,
    *,
    num_candidates: int,
    seed: int,
) -> Candidates:
  """Writes candidates of every user of a KuaiRand log, to make slates of.

  They are drawn from all videos of the table. A score is the mean over the
  video's tags of a click rate: that of the user's rows with this tag, drawn
  by five rows to that of all users, which is drawn likewise to the rate of
  all rows. Rows of videos that are not in the table do not count. The
  features are signed hashes of tags, author, type, upload type and music:
  the cosine is the share of them that two videos have in common, give or take
  1/8 where they collide.

  Args:
    data: a log as for `prepare`, of which `user_id`, `video_id` and
      `is_click` are read.
    videos: a table as `items` of `prepare`, with `tag` ("39" or "39,68").
    destination: folder of the result, `candidates.parquet` and
      `items.parquet`.
    num_candidates: videos of each user; all where there are fewer.
    seed: of the draw.

  Raises:
    DataError: if a file, column or value is not what it should be, or no row
      is of a video of the table.
    OSError: if the result cannot be written.
  """
  ids, tags, columns = _read_videos(videos)
  log = _read_clicks(data)
  if log["video_id"].type != ids.type:
    raise DataError(f"{videos}: column 'video_id' has type {ids.type}, in the "
                    f"log it has {log['video_id'].type}.")
  rows = pc.index_in(log["video_id"], value_set=ids)
  joined = log.filter(pc.is_valid(rows))
  if not joined.num_rows:
    raise DataError(f"{data}: no row is of a video of {videos}.")
  users, user = np.unique(log["user_id"].to_numpy(), return_inverse=True)
  of_tag = _tag_shares(tags)
  rates = _tag_rates(
      user[pc.is_valid(rows).to_numpy()], len(users), of_tag,
      rows.drop_null().to_numpy(),
      joined["is_click"].to_numpy().astype(np.float64))
  rng = np.random.default_rng(seed)
  count = min(num_candidates, len(ids))
  drawn = np.stack([rng.choice(len(ids), count, replace=False)
                    for _ in users])
  scores = np.stack([of_tag[videos_of] @ rate
                     for videos_of, rate in zip(drawn, rates, strict=True)])
  folder = pathlib.Path(destination)
  result = Candidates(
      folder / "candidates.parquet", folder / "items.parquet",
      f"Scores are click rates by tag, shrunk, from the {joined.num_rows:,} of "
      f"{log.num_rows:,} rows whose video is in the table, of "
      f"{len(np.unique(joined['user_id'].to_numpy())):,} of {len(users):,} "
      f"users and {len(pc.unique(joined['video_id'])):,} of {len(ids):,} "
      "videos: a demonstration of slates on real tags and authors, not of "
      "relevance. Nobody was shown these slates.")
  parquet.write_parquet(pa.table({
      "request_id": np.repeat(users, count),
      "item_id": ids.take(pa.array(drawn.reshape(-1))),
      "score": scores.reshape(-1).astype(np.float32)}), result.candidates)
  features = _hashed([
      [*of_video, *(f"{name} {texts[row]}" for name, texts in columns.items()
                    if texts[row] not in _MISSING)]
      for row, of_video in enumerate(tags)])
  parquet.write_parquet(pa.table({
      "item_id": ids, "category": [of_video[0] for of_video in tags],
      "features": pa.FixedSizeListArray.from_arrays(
          pa.array(features.reshape(-1)), NUM_FEATURES)}), result.items)
  return result


def earlier_sums(
    key: np.ndarray, time: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Number and sums of the strictly earlier rows with the same key.

  Args:
    key: `[N]` integers.
    time: `[N]` integers; rows in any order.
    values: `[N, M]` integers.

  Returns:
    Counts `[N]` and sums `[N, M]`, int64.

  >>> counts, sums = earlier_sums(
  ...     np.array([7, 7, 7]), np.array([1, 2, 2]), np.array([[1], [1], [0]]))
  >>> counts.tolist(), sums.tolist()
  ([0, 1, 1], [[0], [1], [1]])
  """
  order = np.lexsort((time, key))
  key, time = key[order], time[order]
  opens_key = np.ones(len(key), bool)
  opens_key[1:] = key[1:] != key[:-1]
  opens_tie = opens_key.copy()
  opens_tie[1:] |= time[1:] != time[:-1]
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
    who: str, log: pa.Table, id_column: str, labels: dict[str, pa.ChunkedArray]
) -> dict[str, np.ndarray]:
  counts, sums = earlier_sums(
      features.id_numbers(log, id_column), log["time_ms"].to_numpy(),
      np.stack([column.to_numpy() for column in labels.values()], axis=1))
  columns = {f"{who}_rows": np.log1p(counts).astype(np.float32)}
  for m, name in enumerate(labels):
    columns[f"{who}_rate_{name}"] = (
        sums[:, m] / (counts + _PRIOR_ROWS)).astype(np.float32)
  return columns


def _read_videos(
    path: PathLike
) -> tuple[pa.Array, list[list[str]], dict[str, list[str | None]]]:
  """Ids, tags and other columns of a table of videos."""
  file = _files(path, _ITEM_FILES)[0]
  ids = _read(file, ["video_id", "tag"])["video_id"]
  columns = _table_columns(
      path, _ITEM_FILES, schema_lib.Schema((), item="video_id"), ids,
      _ITEM_COLUMNS)
  texts = {name: pc.cast(column, pa.string()).to_pylist()
           for name, column in columns.items()}
  tags = [[f"tag {part}" for part in dict.fromkeys(text.split(","))]
          if text else [NO_TAG] for text in texts.pop("tag")]
  return ids.combine_chunks(), tags, texts


def _read_clicks(path: PathLike) -> pa.Table:
  """The checked columns of a log that candidates are scored by."""
  roles = schema_lib.Schema(
      (schema_lib.Objective("click", OBJECTIVES["click"]),), user="user_id",
      item="video_id")
  tables = []
  for file in _files(path, _LOG_FILES):
    tables.append(_read(file, roles.columns))
    checks.check_types(roles, tables[-1].schema, str(file))
    checks.check_rows(roles, tables[-1], str(file), 0)
  return _concat(tables, path)


def _tag_shares(tags: list[list[str]]) -> np.ndarray:
  """`[V, T]`, the share of each of T tags in each video: its rows sum to 1."""
  places = {tag: place for place, tag in enumerate(
      dict.fromkeys(tag for of_video in tags for tag in of_video))}
  shares = np.zeros((len(tags), len(places)))
  for row, of_video in enumerate(tags):
    shares[row, [places[tag] for tag in of_video]] = 1 / len(of_video)
  return shares


def _tag_rates(
    user: np.ndarray, num_users: int, of_tag: np.ndarray, video: np.ndarray,
    clicked: np.ndarray,
) -> np.ndarray:
  """Shrunk click rates `[U, T]`, by the tags `[V, T]` of the videos clicked."""
  counts = np.zeros((num_users, of_tag.shape[1]))
  clicks = np.zeros_like(counts)
  for tag in range(of_tag.shape[1]):
    has_tag = of_tag[video, tag] > 0
    counts[:, tag] = np.bincount(user[has_tag], minlength=num_users)
    clicks[:, tag] = np.bincount(
        user[has_tag], clicked[has_tag], minlength=num_users)
  # A rate of 0 would have no logarithm.
  of_all = (clicked.sum() + 1) / (len(clicked) + 2)
  by_tag = (clicks.sum(axis=0) + _PRIOR_ROWS * of_all) / (
      counts.sum(axis=0) + _PRIOR_ROWS)
  return (clicks + _PRIOR_ROWS * by_tag) / (counts + _PRIOR_ROWS)


def _hashed(texts: list[list[str]]) -> np.ndarray:
  """Sums of the signs each text hashes to, as unit vectors `[V, 64]`."""
  signs: dict[str, np.ndarray] = {}
  for text in {text for of_video in texts for text in of_video}:
    digest = hashlib.blake2b(
        text.encode(), digest_size=NUM_FEATURES // 8).digest()
    signs[text] = 2.0 * np.unpackbits(np.frombuffer(digest, np.uint8)) - 1
  sums = np.stack([sum(map(signs.__getitem__, of_video))
                   for of_video in texts])
  return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(
      np.float32)


def _read_log(
    path: PathLike, raw: schema_lib.Schema | None
) -> tuple[schema_lib.Schema, pa.Table]:
  """The checked rows by time, and the roles of the columns as released.

  The first file of all says which objectives there are; the others need them.
  """
  tables = []
  for file in _files(path, _LOG_FILES):
    if raw is None:
      raw = _roles(file)
    table = _read(file, raw.columns)
    checks.check_types(raw, table.schema, str(file))
    checks.check_rows(raw, table, str(file), 0)
    narrow = {o.label: pc.cast(table[o.label], pa.int8())
              for o in raw.objectives}
    narrow["time_ms"] = pa.array(features.times(table, "time_ms"))
    tables.append(pa.table(
        {name: narrow.get(name, table[name]) for name in raw.columns}))
  assert raw is not None
  log = _concat(tables, path)
  order = np.argsort(log["time_ms"].to_numpy(), kind="stable")
  return raw, log.take(pa.array(order))


def _roles(file: pathlib.Path) -> schema_lib.Schema:
  names = _names(file)
  objectives = tuple(
      schema_lib.Objective(name, column)
      for name, column in OBJECTIVES.items() if column in names)
  if not objectives:
    raise DataError(
        f"{file}: no objective; expected at least one of the columns "
        f"{', '.join(OBJECTIVES.values())}, got {', '.join(names)}.")
  return schema_lib.Schema(
      objectives, user="user_id", item="video_id", time="time_ms",
      categorical=("tab",) if "tab" in names else (),
      numeric=("hourmin", "duration_ms"))


def _table_columns(
    path: PathLike, patterns: tuple[str, ...], roles: schema_lib.Schema,
    ids: pa.ChunkedArray, wanted: tuple[str, ...] | None = None,
) -> dict[str, pa.ChunkedArray]:
  """Columns of a table of users or items, a row for each of `ids`."""
  files = _files(path, patterns)
  if len(files) > 1:
    raise DataError(f"{path}: the folder has {files[0].name} and "
                    f"{files[1].name}; name one file.")
  file, (id_column,) = files[0], roles.ids.values()
  names = [name for name in _names(file)
           if name != id_column and (wanted is None or name in wanted)]
  for name in names:
    if name in _OUTCOMES:
      raise DataError(f"{file}: column {name!r} is an outcome and no feature; "
                      "leave it out.")
  table = _read(file, [id_column, *names])
  numeric = [name for name in names if wanted is None
             and pa.types.is_floating(table.schema.field(name).type)]
  categorical = [name for name in names if name not in numeric]
  schema = schema_lib.Schema(
      (), roles.user, roles.item, categorical=tuple(categorical),
      numeric=tuple(numeric))
  checks.check_types(schema, table.schema, str(file))
  checks.check_rows(schema, table, str(file), 0)
  known = table[id_column].combine_chunks()
  if known.type != ids.type:
    raise DataError(f"{file}: column {id_column!r} has type {known.type}, in "
                    f"the log it has {ids.type}.")
  places = pc.index_in(known, value_set=known).to_numpy()
  again = places != np.arange(len(places))
  if again.any():
    row = int(np.argmax(again))
    raise DataError(f"{file}: column {id_column!r}, row {row}: "
                    f"{known[row].as_py()!r} stands in row {places[row]} too.")
  rows = pc.index_in(ids, value_set=known).combine_chunks()
  return {name: table[name].combine_chunks().take(rows) for name in names}


def _files(path: PathLike, patterns: tuple[str, ...]) -> list[pathlib.Path]:
  path = pathlib.Path(path)
  if not path.exists():
    raise DataError(f"{path}: no such file or folder.")
  if not path.is_dir():
    return [path]
  for pattern in patterns:
    files = sorted(file for file in path.rglob(pattern) if file.is_file())
    if files:
      return files
  raise DataError(f"{path}: the folder has no {' and no '.join(patterns)}.")


def _names(file: pathlib.Path) -> list[str]:
  """The columns of a file, from its head."""
  if file.suffix != ".csv":
    return parquet.ParquetLog(file).arrow_schema.names
  with _reading(file):
    names = csv.open_csv(file).schema.names
  for name in names:
    if names.count(name) > 1:
      raise DataError(f"{file}: column {name!r} appears twice.")
  return names


def _read(file: pathlib.Path, columns: Sequence[str]) -> pa.Table:
  """Some columns; texts as strings, whole numbers as int64."""
  names = _names(file)
  for name in columns:
    if name not in names:
      raise DataError(
          f"{file}: no column {name!r}{schema_lib.nearest(name, names)}; it "
          f"has {', '.join(names)}.")
  with _reading(file):
    if file.suffix == ".csv":
      # Tags are lists in text ("20,43"), even where each has one number.
      table = csv.read_csv(file, convert_options=csv.ConvertOptions(
          include_columns=columns, column_types={"tag": pa.string()},
          strings_can_be_null=True))
    else:
      table = pa.concat_tables(parquet.ParquetLog(file).tables(columns))
    if not table.num_rows:
      raise DataError(f"{file}: the file has no rows.")
    return pa.table({name: _canonical(table[name]) for name in columns})


def _canonical(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
  """One type for what files of two kinds call text and integers."""
  column = features.plain(column)
  if schema_lib.is_text(column.type):
    return pc.cast(column, pa.string())
  if pa.types.is_integer(column.type) or pa.types.is_null(column.type):
    return pc.cast(column, pa.int64())
  if pa.types.is_floating(column.type):
    values = schema_lib.numbers_of(column)
    known = values[~np.isnan(values)]
    if (known == np.floor(known)).all() and (np.abs(known) < 2**53).all():
      return pc.cast(pa.array(values, from_pandas=True), pa.int64())
  return column


def _concat(tables: list[pa.Table], path: PathLike) -> pa.Table:
  with _reading(path):
    return pa.concat_tables(tables, promote_options="permissive")


@contextlib.contextmanager
def _reading(path: PathLike) -> Iterator[None]:
  """What goes wrong inside, in one line."""
  try:
    yield
  except (OSError, pa.ArrowException) as error:
    raise DataError(f"{path}: not readable "
                    f"({' '.join(str(error).split())[:200]}).") from None
