"""Logs of slates: the embedded one, and files with something wrong."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import special

from harmonrank_jax.data import generator
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import slate_logs
from harmonrank_jax.data import slate_rows

EMBEDDED = slate_rows.SlateColumns(dismissed="dismissed")
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
  return slate_logs.read_slate_log(
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
          np.arange(requests) // 4 * slate_logs.DAY_MS
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
  return slate_logs.read_slate_log(
      write(columns, folder / "log.parquet"), items,
      names or slate_rows.SlateColumns(), **options)


# --- what is read ---


def test_requests_are_what_a_look_at_the_rows_says(log, week):
  columns = {name: np.asarray(week.log[name].to_pylist())
             for name in week.log.column_names}
  features = np.asarray(week.items["features"].to_pylist())
  own = np.asarray(week.items["category"].to_pylist())
  requests = np.unique(columns["request_id"])
  assert log.where.shape == (
      len(requests), columns["position"].max() + 1)
  assert log.where.sum() == len(columns["item_id"])
  start = columns["time_ms"].min() // slate_logs.DAY_MS
  users = np.unique(columns["user_id"])
  seen = set()
  for request in requests[::9]:
    rows = np.flatnonzero(columns["request_id"] == request)
    rows = rows[np.argsort(columns["position"][rows])]
    time = columns["time_ms"][rows[0]]
    user = int(np.searchsorted(users, columns["user_id"][rows[0]]))
    place = np.flatnonzero(
        (log.user == user) & (log.day == time // slate_logs.DAY_MS - start)
        & (log.time_ms == time % slate_logs.DAY_MS))
    assert len(place) == 1
    row, size = int(place[0]), len(rows)
    seen.add(row)
    np.testing.assert_array_equal(
        log.where[row], np.arange(log.where.shape[1]) < size)
    take = lambda values, at=row, size=size: values[at, :size]
    items = columns["item_id"][rows]
    np.testing.assert_array_equal(take(log.items), items)
    np.testing.assert_array_equal(
        [log.category_names[k] for k in take(log.categories)],
        own[items])
    np.testing.assert_array_equal(
        take(log.clicks), columns["click"][rows])
    np.testing.assert_array_equal(
        take(log.dismissed), columns["dismissed"][rows])
    np.testing.assert_allclose(
        take(log.log_odds),
        special.logit(np.clip(columns["score_click"][rows], 1e-4, 1 - 1e-4)),
        rtol=1e-5, atol=1e-5)
    nearest = [max([0, *(features[items[:k]] @ features[items[k]])])
               for k in range(size)]
    np.testing.assert_allclose(
        take(log.similarity), nearest, atol=1e-5)
    assert not log.clicks[row, size:].any()
    assert not log.is_random[row].any() and not log.log_value[row].any()
  assert len(seen) == len(requests[::9])
  np.testing.assert_array_equal(log.item_features, features.astype(np.float32))
  np.testing.assert_array_equal(
      [log.category_names[k] for k in log.item_categories], own)


def test_slates_stand_by_user_day_and_time(log):
  order = np.lexsort((log.time_ms, log.day, log.user))
  np.testing.assert_array_equal(order, np.arange(len(order)))
  days = np.stack([log.user, log.day], axis=1)
  changes = (np.diff(days, axis=0) != 0).any(axis=1)
  np.testing.assert_array_equal(np.diff(log.day_ids) != 0, changes)
  assert len(np.unique(log.day_ids)) == changes.sum() + 1
  assert log.time_ms.min() >= 0 and log.time_ms.max() < slate_logs.DAY_MS


def test_categories_are_counted_by_what_was_shown(log, week):
  shown = week.log["category"].to_pylist()
  counts = [shown.count(name) for name in log.category_names]
  assert counts == sorted(counts, reverse=True) and len(counts) == 10
  place = log.categories[log.where]
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
  assert own.category_names == other.category_names
  for name in slate_logs.SlateLog._fields:
    if name not in ("items", "item_categories", "item_features"):
      np.testing.assert_array_equal(getattr(own, name), getattr(other, name))
  where = own.where
  np.testing.assert_array_equal(
      own.item_features[own.items][where], other.item_features[other.items][
          where])
  assert own.similarity.max() > 0.3
  assert len(own.item_features) == len(ids)


def test_features_as_numbered_columns_of_the_log(tmp_path):
  columns = frame()
  wide = {**columns, **{
      f"embedding_{k}": np.asarray(columns["features"])[:, k]
      for k in range(3)}}
  del wide["features"]
  np.testing.assert_array_equal(
      read(wide, tmp_path).similarity,
      read(columns, tmp_path).similarity)


def test_by_hand_with_every_column(tmp_path):
  columns = {
      "user_id": [7, 7, 7], "request_id": ["b", "b", "a"],
      "item_id": ["x", "y", "x"],
      "time_ms": [slate_logs.DAY_MS + 30 * MINUTE_MS] * 2 + [5 * MINUTE_MS],
      "position": [11, 10, 10], "click": [True, False, False],
      "score_click": [0.75, 0.0, 1.0], "joint": [0.25, 0.0, 0.5],
      "hidden": [0, 1, 0], "by_chance": [1, 0, 1],
      "category": ["p", "q", "p"],
      "features": [[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]]}
  log = read(columns, tmp_path, names=slate_rows.SlateColumns(
      dismissed="hidden", value_score="joint", random="by_chance"))
  odds = lambda p: np.log(p / (1 - p))
  np.testing.assert_allclose(log.log_odds, [
      [odds(1 - 1e-4), 0], [odds(1e-4), odds(0.75)]], rtol=1e-4)
  np.testing.assert_array_equal(log.where, [[1, 0], [1, 1]])
  np.testing.assert_array_equal(log.categories, [[0, 0], [1, 0]])
  np.testing.assert_array_equal(log.clicks, [[0, 0], [0, 1]])
  np.testing.assert_array_equal(log.dismissed, [[0, 0], [1, 0]])
  np.testing.assert_allclose(log.similarity, [[0, 0], [0, 0.6]])
  np.testing.assert_array_equal(
      log.time_ms, [5 * MINUTE_MS, 30 * MINUTE_MS])
  np.testing.assert_array_equal(log.day_ids, [0, 1])
  np.testing.assert_array_equal(log.day, [0, 1])
  np.testing.assert_array_equal(log.user, [0, 0])
  np.testing.assert_array_equal(log.is_random, [[1, 0], [0, 1]])
  np.testing.assert_allclose(log.log_value, [
      [np.log(0.5), 0], [np.log(1e-7 / 1e-4), np.log(1 / 3)]], rtol=1e-5)
  assert log.category_names == ["p", "q"]


def test_an_offset_moves_the_windows(tmp_path):
  columns = frame()
  utc, moved = (read(columns, tmp_path, utc_offset_hours=hours)
                for hours in (0.0, -5.5))
  times = lambda log: np.sort(
      log.day * slate_logs.DAY_MS + log.time_ms)
  early = times(utc) - 330 * MINUTE_MS
  np.testing.assert_array_equal(
      times(moved), early + (0 if early.min() >= 0 else slate_logs.DAY_MS))
  assert (moved.time_ms < slate_logs.DAY_MS).all()
  assert (moved.time_ms >= 0).all()


def test_a_request_that_was_shown_alone_and_negative_cosines(tmp_path):
  columns = frame()
  columns["features"] = [
      [1.0, 0.0, 0.0] if item % 2 else [-1.0, 0.0, 0.0]
      for item in columns["item_id"]]
  similarity = read(columns, tmp_path).similarity
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
    pytest.param(*case, id=f"{case[0]}={case[2]}") for case in [
        ("position", 6, 1, "column 'position', row [46]: its request has "
         "another item there"),
        ("position", 3, 900, "row 3: positions must be whole numbers"),
        ("position", 3, -1, "row 3: positions must be.*at least 0.*got -1"),
        ("position", 0, -999, "row 0: positions must be.*got -999"),
        ("position", 3, 2.5, "row 3: positions must be whole.*got 2.5"),
        ("position", 3, None, "row 3: positions must be.*got a missing value"),
        ("score_click", 8, 1.5, "column 'score_click', row 8: the predicted "
         "click must be a probability, got 1.5"),
        ("score_click", 8, -0.1, "row 8: .*got -0.1"),
        ("score_click", 8, None, "row 8: .*got a missing value"),
        ("click", 5, 2, "column 'click', row 5: labels must be 0 or 1"),
        ("click", 5, None, "row 5: every row needs a label"),
        ("user_id", 1, "u9", "column 'user_id', row 1: its request has another "
         "user in an earlier row .*, got 'u9'"),
        ("time_ms", 2, None, "row 2: every row needs its time"),
        ("category", 2, None, "column 'category', row 2: every item needs its"),
        ("features", 2, [0.0, 0.0, 0.0], "row 2: every item of a log of slates "
         "needs features"),
        ("features", 11, [1.0], "row 11: expected 3 features"),
        ("features", 2, [np.nan, 0.0, 1.0], "row 2: features must be finite")]])
def test_a_bad_value(tmp_path, name, row, value, message):
  columns = frame()
  spoil(columns, name, row, value)
  with pytest.raises(schema_lib.DataError, match=message) as error:
    read(columns, tmp_path)
  assert "\n" not in str(error.value) and "log.parquet" in str(error.value)


@pytest.mark.parametrize("values", [
    np.full(48, -1), -np.tile(np.arange(1, 5), 12)], ids=["all", "descending"])
def test_positions_are_not_negative(tmp_path, values):
  with pytest.raises(schema_lib.DataError, match="row 0: positions must be"):
    read({**frame(), "position": values}, tmp_path)


def test_positions_may_begin_late(tmp_path):
  log, late = (read({**frame(), "position": frame()["position"] + first},
                    tmp_path) for first in (-1, 10**6))
  np.testing.assert_array_equal(log.items, late.items)


@pytest.mark.parametrize("click", [0, 1])
def test_a_log_of_one_class_of_clicks_is_refused(tmp_path, click):
  with pytest.raises(schema_lib.DataError, match=(
      f"log.parquet: column 'click' is {click} in all 48 rows")):
    read({**frame(), "click": np.full(48, click)}, tmp_path)


def test_what_speaks_first_names_the_cause(tmp_path):
  # Requests of four rows; their users take turns, four requests are a day.
  request = np.repeat(np.arange(12), 4)
  for ids, said in (
      (request // 2, "column 'user_id', row 4: .*start again for each user"),
      (request % 4, "column 'position', row .*another time .*start again"),
      (request * 0, "column 'user_id', row 4: .*start again for each user")):
    with pytest.raises(schema_lib.DataError, match=said):
      read({**frame(), "request_id": ids}, tmp_path)
  twice = [*range(48), 5, 6]
  with pytest.raises(schema_lib.DataError, match=(
      r"'position', row (48|5): the same row stands there twice")):
    read({name: np.asarray(values)[twice].tolist()
          for name, values in frame().items()}, tmp_path)


def test_a_bad_value_score(tmp_path):
  columns = {**frame(), "joint": np.full(48, 0.1)}
  columns["joint"][20] = 2.0
  with pytest.raises(schema_lib.DataError, match=r"'joint', row 20: .*got 2.0"):
    read(columns, tmp_path, names=slate_rows.SlateColumns(value_score="joint"))


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


# --- days ---


def test_days_are_held_out_at_the_end(log, tmp_path):
  np.testing.assert_array_equal(
      slate_logs.held_out_days(log), np.arange(7) >= 5)
  days = frame(num_days=2)
  np.testing.assert_array_equal(
      slate_logs.held_out_days(read(days, tmp_path)), [False, True])
  with pytest.raises(schema_lib.DataError, match="of one day"):
    slate_logs.held_out_days(read(frame(num_days=1), tmp_path))


@pytest.mark.parametrize(("days", "first"), [
    # As days divide them, also where these differ in size.
    pytest.param(np.repeat(np.arange(8), 5), 6, id="even"),
    pytest.param([0] * 4 + [1] * 2 + [2] * 2 + [3] * 4, 3, id="uneven"),
    # As slates divide them.
    pytest.param([0, *range(20_000, 20_008)], 20_006, id="one of 1970"),
    pytest.param([0] * 3 + [20_000 + k // 10 for k in range(97)], 20_007,
                 id="some of 1970"),
    pytest.param([*range(8), 26_000], 7, id="one of 2096")])
def test_far_days_do_not_divide_a_log(log, days, first):
  chosen = slate_logs.held_out_days(log._replace(day=np.asarray(days)))
  begin = int(np.argmax(chosen))
  assert chosen[begin:].all() and not chosen[:begin].any()
  assert begin == first


def test_nearly_one_day_is_not_divided(log):
  with pytest.raises(schema_lib.DataError, match=r"99\.0% .*of one day"):
    slate_logs.held_out_days(log._replace(day=np.repeat([0, 9], [1, 99])))


def test_some_days_of_a_log(log):
  chosen = slate_logs.held_out_days(log)
  first, last = log.of_days(~chosen), log.of_days(chosen)
  assert len(first.user) + len(last.user) == len(log.user)
  assert last.day.min() == 5 and first.day.max() == 4
  rows = log.day >= 5
  fields = slate_logs.SlateLog._fields
  for name in fields[:fields.index("item_categories")]:
    np.testing.assert_array_equal(
        getattr(last, name), getattr(log, name)[rows])
  assert last.category_names == log.category_names


@pytest.mark.parametrize("unit, per_ms", [
    ("seconds", 0.001), ("microseconds", 1000), ("nanoseconds", 10**6)])
def test_times_of_any_unit_are_the_same_days_and_hours(tmp_path, unit, per_ms):
  columns = frame()
  columns["time_ms"] = columns["time_ms"] + 19_000 * slate_logs.DAY_MS
  plain = read(columns, tmp_path)
  assert plain.notes == ()
  columns["time_ms"] = (columns["time_ms"] * per_ms).astype(np.int64)
  log = read(columns, tmp_path)
  for name in ("day", "day_ids", "time_ms", "user", "clicks"):
    np.testing.assert_array_equal(getattr(log, name), getattr(plain, name))
  note, = log.notes
  assert f"'time_ms': integers are read as {unit} since 1970" in note


def test_a_rounded_probability_is_clipped_another_number_refused(tmp_path):
  columns = frame()
  columns["score_click"][2] = 1 + 1e-7
  assert np.isfinite(read(columns, tmp_path).log_odds).all()
  columns["score_click"][2] = -1
  with pytest.raises(schema_lib.DataError, match=r"row 2: .*got -1\.0"):
    read(columns, tmp_path)


@pytest.mark.parametrize("as_text", [False, True])
def test_ids_of_any_width_or_kind_are_the_same_slates(tmp_path, as_text):
  columns = frame()
  columns["user_id"] = [int(name[1:]) for name in columns["user_id"]]
  plain = read(columns, tmp_path)
  wide = lambda ids: (np.asarray(ids) << 32).astype(str if as_text else int)
  columns |= {"item_id": wide(columns["item_id"]),
              "request_id": wide(columns["request_id"]),
              "user_id": wide(columns["user_id"])}
  log = read(columns, tmp_path)
  if as_text:  # Texts are in another order.
    assert sorted(log.clicks.sum(axis=1)) == sorted(plain.clicks.sum(axis=1))
    assert len(np.unique(log.day_ids)) == len(np.unique(plain.day_ids))
    return
  for one, other in zip(log, plain, strict=True):
    np.testing.assert_array_equal(one, other)
