"""Candidates of a KuaiRand log: scores by hand, draws and features."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harmonrank_jax.data import kuairand_candidates
from harmonrank_jax.data import schema as schema_lib


def write(table, path):
  pq.write_table(table, path)
  return path


def rows_of(path):
  return pq.read_table(path).to_pylist()


def videos(*tags):
  """A table of videos 10, 11, ... with these tags, nothing else known."""
  count = len(tags)
  return pa.table({
      "video_id": np.arange(10, 10 + count), "tag": pa.array(tags, pa.string()),
      "author_id": pa.array([None] * count, pa.int64()),
      "video_type": ["UNKNOWN"] * count, "music_id": np.zeros(count, int)})


def made(tmp_path, log, table, num_candidates=100, seed=0):
  """Candidates and items, as lists of rows, and the limits."""
  result = kuairand_candidates.make_candidates(
      write(log, tmp_path / "log.parquet"),
      write(table, tmp_path / "videos.parquet"), tmp_path / "out",
      num_candidates=num_candidates, seed=seed)
  return rows_of(result.candidates), rows_of(result.items), result.limits


def clicks(*rows):
  return pa.table(dict(zip(
      ("user_id", "video_id", "is_click"), zip(*rows, strict=True),
      strict=True)))


def test_scores_of_candidates_by_hand(tmp_path):
  log = clicks((7, 10, 1), (7, 11, 0), (3, 11, 1), (3, 99, 1), (5, 99, 0))
  candidates, _, limits = made(tmp_path, log, videos("1", "1,2", None))
  of_all = 3 / 5
  one, two = (2 + 5 * of_all) / 8, (1 + 5 * of_all) / 7
  expected = {}
  for user, of_one, of_two in (
      (3, (1 + 5 * one) / 6, (1 + 5 * two) / 6), (5, one, two),
      (7, (1 + 5 * one) / 7, (0 + 5 * two) / 6)):
    expected |= {(user, 10): of_one, (user, 11): (of_one + of_two) / 2,
                 (user, 12): of_all}
  scores = {(row["request_id"], row["item_id"]): row["score"]
            for row in candidates}
  assert scores == pytest.approx(expected)
  assert "the 3 of 5 rows" in limits and "2 of 3 users" in limits


def test_candidates_are_drawn_for_every_user(tmp_path):
  log = clicks((2, 10, 1), (1, 10, 0), (2, 11, 1))
  table = videos(*["1", "2"] * 20)
  candidates, items, _ = made(tmp_path, log, table, num_candidates=15)
  assert [row["request_id"] for row in candidates] == [1] * 15 + [2] * 15
  drawn = [[row["item_id"] for row in candidates[k:k + 15]] for k in (0, 15)]
  assert all(len(set(d)) == 15 and set(d) <= set(range(10, 50)) for d in drawn)
  assert drawn[0] != drawn[1]
  assert [row["item_id"] for row in items] == list(range(10, 50))
  again, *_ = made(tmp_path, log, table, num_candidates=15)
  other, *_ = made(tmp_path, log, table, num_candidates=15, seed=1)
  assert again == candidates and other != candidates


def test_the_cosine_says_what_videos_share(tmp_path):
  table = pa.table({
      "video_id": [10, 11, 12, 13], "tag": ["5", "5", "5,6", None],
      "author_id": [1, 1, 2, 3], "video_type": ["NORMAL", "NORMAL", "AD", None],
      "upload_type": ["Web", "Web", "Web", "UNKNOWN"],
      "music_id": [4, 4, 0, 9]})
  _, items, _ = made(tmp_path, clicks((1, 10, 1)), table)
  assert [row["category"] for row in items] == [
      "tag 5", "tag 5", "tag 5", "no tag"]
  features = np.asarray([row["features"] for row in items])
  assert features.shape == (4, kuairand_candidates.NUM_FEATURES)
  cosines = features @ features.T
  np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-6)
  assert cosines[0, 1] == pytest.approx(1, abs=1e-6)
  # Two of five; collisions are as large as what they share at most.
  assert cosines[0, 2] == pytest.approx(2 / 5, abs=0.35)
  assert cosines[0, 3] == pytest.approx(0, abs=0.35)


def test_hashes_collide_as_said():
  vectors = kuairand_candidates._hashed([[f"author {k}"] for k in range(400)])
  cosines = (vectors @ vectors.T)[np.triu_indices(400, 1)]
  assert cosines.std() == pytest.approx(1 / 8, rel=0.05)
  assert abs(cosines.mean()) < 0.01


def test_bad_files_make_no_candidates(tmp_path):
  log, two = clicks((1, 10, 1), (2, 11, 0)), videos("1", "2")
  for table, rows, message in (
      (two.drop_columns(["tag"]), log, "no column 'tag'"),
      (two.take([0, 1, 0]), log, "row 2: 10 stands in row 0 too"),
      (two, log.drop_columns(["is_click"]), "no column 'is_click'"),
      (two, clicks((1, 10, 2)), "labels must be 0 or 1"),
      (two, clicks((1, 99, 1)), "no row is of a video of"),
      (two, clicks((1, "10", 1)), "has type int64, in the log it has string")):
    with pytest.raises(schema_lib.DataError, match=message):
      made(tmp_path, rows, table)
    assert not (tmp_path / "out").exists()
