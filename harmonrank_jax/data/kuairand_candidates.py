"""Candidates to make slates of, from a KuaiRand log.

The log says what was shown, not what could have been. Here every user gets
videos drawn from all, with click rates by tag as scores: a demonstration.
"""

import hashlib
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import files
from harmonrank_jax.data import kuairand_tables as tables_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

PathLike = tables_lib.PathLike
# Length of the feature vector of a video, and the category of one without tag.
NUM_FEATURES = 64
NO_TAG = "no tag"
# What stands for a missing value in the table of videos.
_MISSING = (None, "0", "UNKNOWN")


class Candidates(NamedTuple):
  """Videos to make slates of, with scores that are a demonstration."""

  # Parquet of `request_id` (the user), `item_id` (the video) and `score` (a
  # click rate in (0, 1)), user by user.
  candidates: pathlib.Path
  # Parquet of `item_id`, `category` (the video's first tag, as in "tag 39", or
  # "no tag") and `features` (64 float32 of unit length).
  items: pathlib.Path
  limits: str  # What is to be said beside results.


def make_candidates(
    data: PathLike, videos: PathLike, destination: PathLike, *,
    num_candidates: int, seed: int,
) -> Candidates:
  """Writes candidates of every user of a KuaiRand log, to make slates of.

  They are drawn from all videos of the table. A score is the mean over the
  video's tags of a click rate: that of the user's rows with this tag, shrunk
  by five rows to that of all users, which is shrunk likewise to the rate of
  all rows. Rows of videos that are not in the table do not count. The
  features are signed hashes of tags, author, type, upload type and music:
  the cosine is the share of them that two videos have in common, give or take
  1/8 where they collide.

  Of a log as for `prepare`, `user_id`, `video_id` and `is_click` are read; the
  table of videos is as `items` of `prepare`, with `tag` ("39" or "39,68").
  Users get all videos where there are fewer than `num_candidates`.
  """
  ids, tags, columns = _read_videos(videos)
  log = _read_clicks(data)
  if log["video_id"].type != ids.type:
    raise schema_lib.DataError(
        f"{videos}: column 'video_id' has type {ids.type}, in the log it has "
        f"{log['video_id'].type}.")
  rows = pc.index_in(log["video_id"], value_set=ids)
  joined = log.filter(pc.is_valid(rows))
  if not joined.num_rows:
    raise schema_lib.DataError(f"{data}: no row is of a video of {videos}.")
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


def _read_videos(
    path: PathLike
) -> tuple[pa.Array, list[list[str]], dict[str, list[str | None]]]:
  """Ids, tags and other columns of a table of videos."""
  file = files.find(path, *tables_lib.ITEM_FILES)[0]
  ids = tables_lib.read_columns(file, ["video_id", "tag"])["video_id"]
  columns = tables_lib.table_columns(path, "item", ids)
  texts = {name: pc.cast(column, pa.string()).to_pylist()
           for name, column in columns.items()}
  tags = [[f"tag {part}" for part in dict.fromkeys(text.split(","))]
          if text else [NO_TAG] for text in texts.pop("tag")]
  return ids.combine_chunks(), tags, texts


def _read_clicks(path: PathLike) -> pa.Table:
  """The checked columns of a log that candidates are scored by."""
  roles = schema_lib.Schema(
      (schema_lib.Objective("click", tables_lib.OBJECTIVES["click"]),),
      user="user_id", item="video_id")
  return tables_lib.join(
      [tables_lib.read_checked(file, roles)
       for file in files.find(path, *tables_lib.LOG_FILES)], path)


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
  prior = tables_lib.PRIOR_ROWS
  # A rate of 0 would have no logarithm.
  of_all = (clicked.sum() + 1) / (len(clicked) + 2)
  by_tag = (clicks.sum(axis=0) + prior * of_all) / (counts.sum(axis=0) + prior)
  return (clicks + prior * by_tag) / (counts + prior)


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
