"""Logs of slates: the embedded one, and files with something wrong."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import special

from experiments.reranker import slate_logs as home_log
from experiments.runs import errors
from harmonrank_jax.data import generator
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

EMBEDDED = home_log.Columns(dismissed="dismissed")
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def week():
  return generator.generate_log(
      generator.LogConfig(num_exposures=4000, world="regulars"))


@pytest.fixture(scope="module")
def log(week, tmp_path_factory):
  folder = tmp_path_factory.mktemp("embedded")
  # Rows in no order, in several row groups.
  rows = np.random.default_rng(0).permutation(week.log.num_rows)
  parquet.write_parquet(
      week.log.take(rows), folder / "log.parquet", row_group_size=900)
  parquet.write_parquet(week.items, folder / "items.parquet")
  return home_log.read_log(
      folder / "log.parquet", folder / "items.parquet", EMBEDDED)


def frame(num_days=3, num_items=9):
  """Columns of a small good log: two users, requests of four items."""
  rng = np.random.default_rng(0)
  requests, size = 4 * num_days, 4
  rows = requests * size
  of_request = lambda values: np.repeat(values, size)
  items = np.concatenate([
      rng.choice(num_items, size, replace=False) for _ in range(requests)])
  centres = rng.normal(size=(num_items, 3))
  return {
      "user_id": of_request([f"u{k % 2}" for k in range(requests)]).tolist(),
      "request_id": of_request(rng.permutation(requests)),
      "item_id": items,
      "time_ms": of_request(
          np.arange(requests) // 4 * home_log.DAY_MS
          + rng.integers(0, 96, requests) * 15 * MINUTE_MS),
      "position": np.tile(np.arange(1, size + 1), requests),
      "click": rng.integers(0, 2, rows), "score_click": rng.random(rows),
      "category": [("books", "toys", "audio")[item % 3] for item in items],
      "features": centres[items].tolist()}


def write(columns, path):
  parquet.write_parquet(pa.table(columns), path, row_group_size=10)
  return path


def write_items(path, **columns):
  rng = np.random.default_rng(1)
  return write({
      "item_id": np.arange(9), "category": list("abcabcabc"),
      "features": rng.normal(size=(9, 3)).tolist(), **columns}, path)


def read(columns, folder, items=None, names=None, **options):
  return home_log.read_log(
      write(columns, folder / "log.parquet"), items,
      names or home_log.Columns(), **options)


# --- what is read ---


def test_requests_are_what_a_look_at_the_rows_says(log, week):
  columns = {name: np.asarray(week.log[name].to_pylist())
             for name in week.log.column_names}
  features = np.asarray(week.items["features"].to_pylist())
  own = np.asarray(week.items["category"].to_pylist())
  exposures = log.exposures
  requests = np.unique(columns["request_id"])
  assert exposures.where.shape == (
      len(requests), columns["position"].max() + 1)
  assert exposures.where.sum() == len(columns["item_id"])
  start = columns["time_ms"].min() // home_log.DAY_MS
  users = np.unique(columns["user_id"])
  seen = set()
  for request in requests[::9]:
    rows = np.flatnonzero(columns["request_id"] == request)
    rows = rows[np.argsort(columns["position"][rows])]
    time = columns["time_ms"][rows[0]]
    user = int(np.searchsorted(users, columns["user_id"][rows[0]]))
    place = np.flatnonzero(
        (log.user == user) & (log.day == time // home_log.DAY_MS - start)
        & np.isclose(exposures.time, time % home_log.DAY_MS / (
            15 * MINUTE_MS), atol=1e-4))
    assert len(place) == 1
    row, size = int(place[0]), len(rows)
    seen.add(row)
    np.testing.assert_array_equal(
        exposures.where[row], np.arange(exposures.where.shape[1]) < size)
    take = lambda values, at=row, size=size: values[at, :size]
    items = columns["item_id"][rows]
    np.testing.assert_array_equal(take(log.items), items)
    np.testing.assert_array_equal(
        [log.categories[k] for k in take(exposures.categories)], own[items])
    np.testing.assert_array_equal(
        take(exposures.clicks), columns["click"][rows])
    np.testing.assert_array_equal(
        take(exposures.dismissed), columns["dismissed"][rows])
    np.testing.assert_allclose(
        take(exposures.log_odds),
        special.logit(np.clip(columns["score_click"][rows], 1e-4, 1 - 1e-4)),
        rtol=1e-5, atol=1e-5)
    nearest = [max([0, *(features[items[:k]] @ features[items[k]])])
               for k in range(size)]
    np.testing.assert_allclose(
        take(exposures.similarity), nearest, atol=1e-5)
    assert not exposures.clicks[row, size:].any()
    assert not log.is_random[row].any() and not log.log_value[row].any()
  assert len(seen) == len(requests[::9])
  np.testing.assert_array_equal(log.item_features, features.astype(np.float32))
  np.testing.assert_array_equal(
      [log.categories[k] for k in log.item_categories], own)


def test_slates_stand_by_user_day_and_time(log):
  order = np.lexsort((log.exposures.time, log.day, log.user))
  np.testing.assert_array_equal(order, np.arange(len(order)))
  days = np.stack([log.user, log.day], axis=1)
  changes = (np.diff(days, axis=0) != 0).any(axis=1)
  np.testing.assert_array_equal(np.diff(log.exposures.day_ids) != 0, changes)
  assert len(np.unique(log.exposures.day_ids)) == changes.sum() + 1
  assert log.exposures.time.min() >= 0 and log.exposures.time.max() < 96


def test_categories_are_counted_by_what_was_shown(log, week):
  shown = week.log["category"].to_pylist()
  counts = [shown.count(name) for name in log.categories]
  assert counts == sorted(counts, reverse=True) and len(counts) == 10
  place = log.exposures.categories[log.exposures.where]
  np.testing.assert_array_equal(np.bincount(place, minlength=10), counts)


def test_category_and_features_from_the_log_itself(tmp_path):
  columns = frame(num_items=25)
  own = read(columns, tmp_path)
  ids, first = np.unique(columns["item_id"], return_index=True)
  (tmp_path / "items").mkdir()
  table = write({
      "item_id": ids[::-1], "category": [
          columns["category"][k] for k in first[::-1]],
      "features": [columns["features"][k] for k in first[::-1]]},
                tmp_path / "items" / "items.parquet")
  bare = {name: values for name, values in columns.items()
          if name not in ("category", "features")}
  other = read(bare, tmp_path, items=table)
  assert own.categories == other.categories
  for one, two in zip(own.exposures, other.exposures, strict=True):
    np.testing.assert_array_equal(one, two)
  where = own.exposures.where
  np.testing.assert_array_equal(
      own.item_features[own.items][where], other.item_features[other.items][
          where])
  assert own.exposures.similarity.max() > 0.3
  assert len(own.item_features) == len(ids)


def test_features_as_numbered_columns_of_the_log(tmp_path):
  columns = frame()
  wide = {**columns, **{
      f"embedding_{k}": np.asarray(columns["features"])[:, k]
      for k in range(3)}}
  del wide["features"]
  np.testing.assert_array_equal(
      read(wide, tmp_path).exposures.similarity,
      read(columns, tmp_path).exposures.similarity)


def test_by_hand_with_every_column(tmp_path):
  columns = {
      "user_id": [7, 7, 7], "request_id": ["b", "b", "a"],
      "item_id": ["x", "y", "x"],
      "time_ms": [home_log.DAY_MS + 30 * MINUTE_MS] * 2 + [5 * MINUTE_MS],
      "position": [11, 10, 10], "click": [True, False, False],
      "score_click": [0.75, 0.0, 1.0], "joint": [0.25, 0.0, 0.5],
      "hidden": [0, 1, 0], "by_chance": [1, 0, 1],
      "category": ["p", "q", "p"],
      "features": [[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]]}
  found = read(columns, tmp_path, names=home_log.Columns(
      dismissed="hidden", value_score="joint", random="by_chance"))
  odds = lambda p: np.log(p / (1 - p))
  exposures = found.exposures
  np.testing.assert_allclose(exposures.log_odds, [
      [odds(1 - 1e-4), 0], [odds(1e-4), odds(0.75)]], rtol=1e-4)
  np.testing.assert_array_equal(exposures.where, [[1, 0], [1, 1]])
  np.testing.assert_array_equal(exposures.categories, [[0, 0], [1, 0]])
  np.testing.assert_array_equal(exposures.clicks, [[0, 0], [0, 1]])
  np.testing.assert_array_equal(exposures.dismissed, [[0, 0], [1, 0]])
  np.testing.assert_allclose(exposures.similarity, [[0, 0], [0, 0.6]])
  np.testing.assert_allclose(exposures.time, [1 / 3, 2])
  np.testing.assert_array_equal(exposures.day_ids, [0, 1])
  np.testing.assert_array_equal(found.day, [0, 1])
  np.testing.assert_array_equal(found.user, [0, 0])
  np.testing.assert_array_equal(found.is_random, [[1, 0], [0, 1]])
  np.testing.assert_allclose(found.log_value, [
      [np.log(0.5), 0], [np.log(1e-7 / 1e-4), np.log(1 / 3)]], rtol=1e-5)
  assert found.categories == ["p", "q"]


def test_an_offset_moves_the_windows(tmp_path):
  columns = frame()
  utc, moved = (read(columns, tmp_path, utc_offset_hours=hours)
                for hours in (0.0, -5.5))
  times = lambda log: np.sort((log.day * 96 + log.exposures.time) * 15)
  early = times(utc) - 5.5 * 60
  np.testing.assert_allclose(
      times(moved), early + (0 if early.min() >= 0 else 24 * 60), atol=1e-2)
  assert (moved.exposures.time < 96).all() and (moved.exposures.time >= 0).all()


def test_a_request_that_was_shown_alone_and_negative_cosines(tmp_path):
  columns = frame()
  columns["features"] = [
      [1.0, 0.0, 0.0] if item % 2 else [-1.0, 0.0, 0.0]
      for item in columns["item_id"]]
  similarity = read(columns, tmp_path).exposures.similarity
  assert set(np.unique(similarity)) == {0.0, 1.0}
  assert (similarity[:, 0] == 0).all() and similarity.dtype == np.float32


# --- what is wrong ---


def spoil(columns, name, row, value):
  columns[name] = list(columns[name])
  columns[name][row] = value


@pytest.mark.parametrize("name", [
    "user_id", "request_id", "item_id", "time_ms", "position", "click",
    "score_click", "category", "features"])
def test_a_missing_column(tmp_path, name):
  columns = frame()
  del columns[name]
  with pytest.raises(schema_lib.DataError, match=f"no column '{name}'") as e:
    read(columns, tmp_path)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("name, row, value, message", [
    ("position", 6, 1, "column 'position', row [46]: its request has another "
     "item there"),
    ("position", 3, 900, "row 3: positions must be whole numbers"),
    ("position", 3, 2.5, "row 3: positions must be whole numbers.*got 2.5"),
    ("position", 3, None, "row 3: positions must be.*got a missing value"),
    ("score_click", 8, 1.5, "column 'score_click', row 8: the predicted click "
     "must be a probability, got 1.5"),
    ("score_click", 8, -0.1, "row 8: .*got -0.1"),
    ("score_click", 8, None, "row 8: .*got a missing value"),
    ("click", 5, 2, "column 'click', row 5: labels must be 0 or 1"),
    ("click", 5, None, "row 5: every row needs a label"),
    ("user_id", 1, "u9", "column 'user_id', row 1: its request has another "
     "user in an earlier row, got 'u9'"),
    ("time_ms", 2, None, "row 2: every row needs its time"),
    ("category", 2, None, "column 'category', row 2: every item needs its"),
    ("features", 2, [0.0, 0.0, 0.0], "row 2: features must not all be 0"),
    ("features", 11, [1.0], "row 11: expected 3 features"),
    ("features", 2, [np.nan, 0.0, 1.0], "row 2: features must be finite")])
def test_a_bad_value(tmp_path, name, row, value, message):
  columns = frame()
  spoil(columns, name, row, value)
  with pytest.raises(schema_lib.DataError, match=message) as error:
    read(columns, tmp_path)
  assert "\n" not in str(error.value) and "log.parquet" in str(error.value)


def test_a_bad_value_score(tmp_path):
  columns = {**frame(), "joint": np.full(48, 0.1)}
  columns["joint"][20] = 2.0
  with pytest.raises(schema_lib.DataError, match=r"'joint', row 20: .*got 2.0"):
    read(columns, tmp_path, names=home_log.Columns(value_score="joint"))


def test_an_item_that_the_table_does_not_have(tmp_path):
  columns = frame()
  (tmp_path / "items").mkdir()
  items = write_items(tmp_path / "items" / "items.parquet")
  assert read(columns, tmp_path, items=items).item_features.shape == (9, 3)
  spoil(columns, "item_id", 7, 99)
  with pytest.raises(
      schema_lib.DataError, match="'item_id', row 7: the table of items does "
      "not have it, got 99"):
    read(columns, tmp_path, items=items)


def test_a_table_of_items_without_a_category(tmp_path):
  (tmp_path / "items").mkdir()
  items = write({"item_id": np.arange(9), "features": [[1.0]] * 9},
                tmp_path / "items" / "items.parquet")
  with pytest.raises(schema_lib.DataError, match="no column 'category'"):
    read(frame(), tmp_path, items=items)


# --- what is made of it ---


def test_days_are_held_out_at_the_end(log, tmp_path):
  np.testing.assert_array_equal(
      home_log.held_out_days(log), np.arange(7) >= 5)
  days = frame(num_days=2)
  np.testing.assert_array_equal(
      home_log.held_out_days(read(days, tmp_path)), [False, True])
  with pytest.raises(errors.UserError, match="of one day"):
    home_log.held_out_days(read(frame(num_days=1), tmp_path))


def test_some_days_of_a_log(log):
  chosen = home_log.held_out_days(log)
  first, last = log.of_days(~chosen), log.of_days(chosen)
  assert len(first.user) + len(last.user) == len(log.user)
  assert last.day.min() == 5 and first.day.max() == 4
  rows = log.day >= 5
  for part, whole in zip(last.exposures, log.exposures, strict=True):
    np.testing.assert_array_equal(part, whole[rows])
  for name in ("user", "items", "log_value", "is_random"):
    np.testing.assert_array_equal(
        getattr(last, name), getattr(log, name)[rows])
  assert last.categories == log.categories


def shown_to(log, user):
  """Items, each with the log-odds it was last shown with."""
  newest = {}
  for row in np.flatnonzero(log.user == user):
    for slot in np.flatnonzero(log.exposures.where[row]):
      newest[int(log.items[row, slot])] = log.exposures.log_odds[row, slot]
  return newest


@pytest.mark.parametrize("num_candidates", [20, 60, 200])
def test_a_pool_is_what_users_were_shown(log, num_candidates):
  pool, users = home_log.make_pool(
      log, num_candidates=num_candidates, seed=0)
  items, where = np.asarray(pool.items), np.asarray(pool.where)
  assert items.shape == where.shape and len(items) == len(users)
  places = items.shape[1]
  assert num_candidates <= places
  enough = 0
  for row, user in enumerate(users):
    newest = shown_to(log, user)
    assert len(newest) >= num_candidates // 2
    assert set(items[row][where[row]]) <= set(newest)
    for item, odds in zip(items[row][where[row]],
                          np.asarray(pool.log_odds)[row][where[row]],
                          strict=True):
      assert odds == newest[int(item)]
    full = min(num_candidates, len(newest))
    enough += full == num_candidates
    for start in range(places):
      run = (start + np.arange(num_candidates)) % places
      drawn = items[row, run][where[row, run]]
      # As many as a request needs, or all there are; none of them twice.
      assert len(drawn) == len(set(drawn)) == full
  others = set(range(log.user.max() + 1)) - set(users)
  assert all(len(shown_to(log, user)) < num_candidates // 2 for user in others)
  assert enough > 0
  np.testing.assert_array_equal(pool.item_categories, log.item_categories)
  again, _ = home_log.make_pool(log, num_candidates=num_candidates, seed=1)
  assert (np.asarray(again.items) != items).any()


def test_a_pool_of_many_users_and_places(log, monkeypatch):
  monkeypatch.setattr(home_log, "_MOST_USERS", 5)
  monkeypatch.setattr(home_log, "_MOST_PLACES", 50)
  pool, users = home_log.make_pool(log, num_candidates=20, seed=0)
  assert len(users) == 5 and (np.diff(users) > 0).all()
  assert 20 <= pool.items.shape[1] <= 50
  # A request is never larger than its pool.
  assert home_log.make_pool(
      log, num_candidates=60, seed=0)[0].items.shape[1] >= 60


def test_a_pool_of_nobody(log):
  with pytest.raises(errors.UserError, match="no user has been shown 5000"):
    home_log.make_pool(log, num_candidates=10_000, seed=0)


def made_of(user, day, time=None):
  """A log of which only users, days and times matter."""
  user, day = np.asarray(user), np.asarray(day)
  time = np.zeros(len(user)) if time is None else np.asarray(time)
  exposures = home_log.response_lib.Exposures(
      *[None] * 6, time=time, day_ids=None)
  return home_log.HomeLog(exposures, user, day, *[None] * 6)


def test_activity_inverts_the_mean_of_days_with_a_request():
  # Users of 1, 1.05, 1.5, 4 and 30 requests a day that they come on.
  user = np.repeat([0, 1, 2, 3, 5], [3, 21, 3, 8, 30])
  day = np.concatenate([
      [0, 1, 2], [*range(20), 19], [0, 0, 1], [0] * 3 + [4] * 5, [6] * 30])
  found = home_log.activity(made_of(user, day), np.array([5, 3, 2, 1, 0]))
  mean = found[:4] / -np.expm1(-found[:4].astype(float))
  np.testing.assert_allclose(mean, [30, 4, 1.5, 1.05], rtol=2e-3)
  # Never twice: the rate is known to be small only.
  np.testing.assert_allclose(found[4], 0.05, rtol=1e-4)
  rng = np.random.default_rng(0)
  for rate in (0.4, 3.0):
    counts = rng.poisson(rate, 40_000)
    days = np.repeat(np.arange(40_000), counts)
    estimate = home_log.activity(made_of(0 * days, days), np.array([0]))
    np.testing.assert_allclose(estimate, [rate], rtol=0.08)


def test_arrivals_are_shares_by_the_window():
  rng = np.random.default_rng(0)
  time = np.clip(rng.normal(40, 4, 20_000), 0, 95.9)
  shares = home_log.arrivals(made_of(0 * time.astype(int),
                                     0 * time.astype(int), time))
  assert shares.shape == (96,) and shares.dtype == np.float32
  np.testing.assert_allclose(shares.sum(), 1, rtol=1e-5)
  assert (shares > 0).all() and abs(shares.argmax() - 40) <= 2
  np.testing.assert_allclose(
      shares[36:44].sum(), (np.abs(time - 40) < 4).mean(), atol=0.05)
