"""KuaiRand's files become what the adapter says, and bad ones are refused."""

import numpy as np
import pyarrow as pa
from pyarrow import csv
import pyarrow.parquet as pq
import pytest

from harmonrank_jax.data import kuairand
from harmonrank_jax.data import kuairand_tables
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

OUTCOMES = ("is_click", "is_like", "is_follow", "is_comment", "is_forward",
            "is_hate", "long_view", "play_time_ms", "profile_stay_time",
            "comment_stay_time", "is_profile_enter")


def official_log(num_rows, seed=0):
  """A log with the columns of the release, in their order."""
  rng = np.random.default_rng(seed)
  columns = {
      "user_id": rng.integers(0, 6, num_rows),
      "video_id": rng.integers(0, 9, num_rows),
      "date": np.full(num_rows, 20220408),
      "hourmin": 100 * rng.integers(0, 24, num_rows),
      # Few values: ties within a user are common.
      "time_ms": 1_649_346_288_000 + rng.integers(0, num_rows, num_rows)}
  for name in OUTCOMES:
    columns[name] = rng.integers(0, 2, num_rows)
  columns["duration_ms"] = 1000 * rng.integers(0, 5, num_rows)
  columns["is_rand"] = rng.integers(0, 2, num_rows)
  columns["tab"] = rng.integers(0, 3, num_rows)
  return pa.table(columns)


USERS = pa.table({
    "user_id": [0, 1, 2, 3],
    "user_active_degree": ["full", None, "low", "full"],
    "register_days": [10, 20, 30, 40],
    "onehot_feat4": pa.array([1, None, 3, 1]),
    "activity": [0.5, 1.5, None, 2.0]})
ITEMS = pa.table({
    "video_id": [8, 7, 6, 5],
    "author_id": [80, 70, 60, 80],
    "video_type": ["NORMAL", "AD", "NORMAL", "NORMAL"],
    "upload_dt": ["2022-04-10"] * 4,
    "upload_type": ["Kmovie", "ShortImport", "Kmovie", None],
    "video_duration": [1.5, 2.0, None, 4.0],
    "music_id": pa.array([1, 2, 3, 4]),
    "tag": ["39", "20,43", None, "2"]})


def write(table, path):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".csv":
    csv.write_csv(table, path)
  else:
    pq.write_table(table, path)
  return path


def rows_of(path):
  return pq.read_table(path).to_pylist()


def six_rows():
  """Two users, two videos; user 1 sees two videos in one millisecond."""
  return pa.table({
      "user_id": [1, 1, 1, 2, 2, 1],
      "video_id": [5, 6, 5, 5, 6, 5],
      "time_ms": [10, 20, 20, 20, 30, 40],
      "hourmin": [0, 900, 900, 959, 1000, 2300],
      "duration_ms": [7, 0, 7, 7, 0, 7],
      "is_click": [1, 0, 1, 1, 1, 0],
      "is_like": [0, 0, 1, 0, 1, 0]})


def test_history_by_hand(tmp_path):
  # Written backwards: the order of the file says nothing.
  log = six_rows().take([5, 4, 3, 2, 1, 0])
  prepared = kuairand.prepare(
      write(log, tmp_path / "log.parquet"), tmp_path / "out")
  assert prepared.evaluation is None
  table = pq.read_table(prepared.train)
  assert table["time_ms"].to_pylist() == [10, 20, 20, 20, 30, 40]
  # Stable: rows of one time stay as they were written.
  assert table["user_id"].to_pylist() == [1, 2, 1, 1, 2, 1]
  assert table["item_id"].to_pylist() == [5, 5, 5, 6, 6, 5]
  expected = {
      "user_rows": np.log([1, 1, 2, 2, 2, 4]),
      "user_rate_click": [0, 0, 1 / 6, 1 / 6, 1 / 6, 2 / 8],
      "user_rate_like": [0, 0, 0, 0, 0, 1 / 8],
      "item_rows": np.log([1, 2, 2, 1, 2, 4]),
      "item_rate_click": [0, 1 / 6, 1 / 6, 0, 0, 3 / 8],
      "item_rate_like": [0, 0, 0, 0, 0, 1 / 8]}
  for name, values in expected.items():
    np.testing.assert_allclose(
        table[name].to_numpy(), values, rtol=1e-6, err_msg=name)
  assert table["hour"].to_pylist() == [0, 9, 9, 9, 10, 23]
  assert table["duration_ms"].to_pylist() == [7, 7, 7, None, None, 7]
  assert table.schema.field("click").type == pa.int8()


@pytest.mark.parametrize("num_rows", [0, 1, 300])
def test_earlier_sums_match_the_definition(num_rows):
  rng = np.random.default_rng(num_rows)
  key = rng.integers(-3, 4, num_rows)
  time = rng.integers(0, 50, num_rows)
  values = rng.integers(0, 3, (num_rows, 2))
  counts, sums = kuairand.earlier_sums(key, time, values)
  assert counts.shape == (num_rows,) and sums.shape == (num_rows, 2)
  for row in range(num_rows):
    earlier = (key == key[row]) & (time < time[row])
    assert counts[row] == earlier.sum()
    np.testing.assert_array_equal(sums[row], values[earlier].sum(axis=0))


def test_history_of_every_objective_matches_the_definition(tmp_path):
  prepared = kuairand.prepare(
      write(official_log(200), tmp_path / "log.csv"), tmp_path / "out")
  assert prepared.schema.names == (
      "click", "long_view", "like", "profile_enter", "comment", "forward",
      "follow")
  rows = rows_of(prepared.train)
  for row in rows:
    for who in ("user", "item"):
      earlier = [other for other in rows
                 if other[f"{who}_id"] == row[f"{who}_id"]
                 and other["time_ms"] < row["time_ms"]]
      assert row[f"{who}_rows"] == pytest.approx(np.log1p(len(earlier)))
      for name in prepared.schema.names:
        assert row[f"{who}_rate_{name}"] == pytest.approx(
            sum(other[name] for other in earlier) / (len(earlier) + 5))


def test_labels_come_from_their_columns_and_no_outcome_is_a_feature(tmp_path):
  log = official_log(100)
  prepared = kuairand.prepare(
      write(log, tmp_path / "log.csv"), tmp_path / "out")
  schema = prepared.schema
  order = np.argsort(log["time_ms"].to_numpy(), kind="stable")
  table = pq.read_table(prepared.train)
  for name in schema.names:
    np.testing.assert_array_equal(
        table[name].to_numpy(),
        log[kuairand_tables.OBJECTIVES[name]].to_numpy()[order])
  features = {*schema.categorical, *schema.numeric}
  assert not features & {*OUTCOMES, *schema.names, "is_rand", "date"}
  # Neither under another name: changing a row's outcomes changes nothing of it.
  changed = log
  for name in OUTCOMES:
    values = log[name].to_numpy().copy()
    values[order[60]] = 1 - values[order[60]]
    changed = changed.set_column(
        log.column_names.index(name), name, pa.array(values))
  again = kuairand.prepare(
      write(changed, tmp_path / "changed.csv"), tmp_path / "again")
  columns = sorted(features)
  before = pq.read_table(prepared.train, columns=columns)
  after = pq.read_table(again.train, columns=columns)
  assert before.slice(0, 61).equals(after.slice(0, 61))
  assert not before.equals(after)


def test_objectives_are_those_whose_columns_are_there(tmp_path):
  log = official_log(20).select(
      ["user_id", "video_id", "hourmin", "time_ms", "duration_ms",
       "is_forward", "is_hate", "is_click"])
  log = log.append_column("label", pa.array([True, False] * 10))
  prepared = kuairand.prepare(
      write(log, tmp_path / "log.parquet"), tmp_path / "out")
  assert prepared.schema.names == ("label", "click", "forward")
  assert all(o.score is None for o in prepared.schema.objectives)
  assert prepared.domain == ("hour",)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_roles(tmp_path, suffix):
  prepared = kuairand.prepare(
      write(official_log(50), tmp_path / f"log.{suffix}"), tmp_path / "out",
      users=write(USERS, tmp_path / f"users.{suffix}"),
      items=write(ITEMS, tmp_path / f"items.{suffix}"))
  schema = prepared.schema
  assert schema.ids == {
      "user": "user_id", "item": "item_id", "time": "time_ms"}
  assert schema.categorical == (
      "user_id", "item_id", "tab", "hour", "user_active_degree",
      "register_days", "onehot_feat4", "author_id", "video_type",
      "upload_type", "music_id", "tag")
  assert schema.numeric[:3] == ("duration_ms", "activity", "user_rows")
  assert prepared.domain == ("tab", "hour")
  assert prepared.personal == ("user_id", "item_id", "author_id")
  assert prepared.profile == (
      "tab", "hour", "user_active_degree", "register_days", "onehot_feat4",
      "activity", "user_rows",
      *(f"user_rate_{name}" for name in schema.names))
  assert set(prepared.profile) <= {*schema.categorical, *schema.numeric}
  log = parquet.ParquetLog(prepared.train)
  parquet.check_log(log, schema)
  assert set(log.arrow_schema.names) == set(schema.columns)
  # What is written down can be read as a schema again.
  assert schema_lib.schema_from_json(schema.to_json()) == schema


def test_csv_and_parquet_layouts_give_the_same_rows(tmp_path):
  first, second = official_log(60), official_log(40, seed=1)
  random = official_log(30, seed=2)
  for suffix in ("csv", "parquet"):
    data = tmp_path / suffix / "data"
    write(first, data / f"log_standard_4_08_to_4_21_pure.{suffix}")
    write(second, data / f"log_standard_4_22_to_5_08_pure.{suffix}")
    if suffix == "csv":
      write(random, data / "log_random_4_22_to_5_08_pure.csv")
      write(USERS, data / "user_features_pure.csv")
      write(ITEMS, data / "video_features_basic_pure.csv")
      write(ITEMS, data / "video_features_statistic_pure.csv")
  tables = write(USERS, tmp_path / "tables" / "user_features_pure.parquet")
  write(ITEMS, tables.with_name("video_features_basic_pure.parquet"))
  released = kuairand.prepare(
      tmp_path / "csv", tmp_path / "out1", users=tmp_path / "csv",
      items=tmp_path / "csv")
  other = kuairand.prepare(
      tmp_path / "parquet", tmp_path / "out2", users=tables.parent,
      items=tables.parent)
  rows = rows_of(released.train)
  assert len(rows) == 100
  assert rows == rows_of(other.train)
  assert released.schema == other.schema


def test_integers_with_gaps_are_integers_however_they_are_written(tmp_path):
  # As spreadsheets write them: 1.0, nothing, 3.0.
  (tmp_path / "users.csv").write_text(
      "user_id,onehot_feat4,activity,empty\n0,1.0,0.5,\n1,,1.0,\n2,3.0,,\n")
  prepared = kuairand.prepare(
      write(official_log(50), tmp_path / "log.csv"), tmp_path / "out",
      users=tmp_path / "users.csv")
  assert "onehot_feat4" in prepared.schema.categorical
  assert "activity" in prepared.schema.numeric
  values = {row["user_id"]: row["onehot_feat4"]
            for row in rows_of(prepared.train)}
  assert values == {0: 1, 1: None, 2: 3, 3: None, 4: None, 5: None}


def test_tags_are_text_and_large_floats_stay_floats(tmp_path):
  (tmp_path / "items.csv").write_text(
      "video_id,tag,music_id\n0,39,7\n1,2,8\n")
  users = pa.table({"user_id": [0, 1], "a": [1.0, float("inf")],
                    "b": [1.0, 2.0**60]})
  prepared = kuairand.prepare(
      write(official_log(50), tmp_path / "log.csv"), tmp_path / "out",
      users=write(users, tmp_path / "users.parquet"),
      items=tmp_path / "items.csv")
  assert {row["tag"] for row in rows_of(prepared.train)} == {"39", "2", None}
  assert {"a", "b"} <= set(prepared.schema.numeric)


def test_tables_keep_nulls_and_rows_without_a_match(tmp_path):
  prepared = kuairand.prepare(
      write(official_log(200), tmp_path / "log.csv"), tmp_path / "out",
      users=write(USERS, tmp_path / "users.csv"),
      items=write(ITEMS, tmp_path / "items.csv"))
  known_users = {row["user_id"]: row for row in USERS.to_pylist()}
  known_items = {row["video_id"]: row for row in ITEMS.to_pylist()}
  rows = rows_of(prepared.train)
  assert {row["user_id"] for row in rows} == set(range(6))
  for row in rows:
    user = known_users.get(row["user_id"], {})
    for name in USERS.column_names[1:]:
      assert row[name] == user.get(name)
    item = known_items.get(row["item_id"], {})
    for name in ("author_id", "video_type", "upload_type", "music_id", "tag"):
      assert row[name] == item.get(name)
    assert "upload_dt" not in row and "video_duration" not in row
  text = pq.read_schema(prepared.train).field("user_active_degree").type
  assert text == pa.string()


def test_text_ids_are_ids(tmp_path):
  log = official_log(80)
  named = log.set_column(
      0, "user_id", pa.array([f"u{u}" for u in log["user_id"].to_pylist()])
      .dictionary_encode())
  names = pa.array([f"u{u}" for u in USERS["user_id"].to_pylist()])
  plain = kuairand.prepare(
      write(log, tmp_path / "a.parquet"), tmp_path / "out1",
      users=write(USERS, tmp_path / "a_users.parquet"))
  text = kuairand.prepare(
      write(named, tmp_path / "b.parquet"), tmp_path / "out2",
      users=write(USERS.set_column(0, "user_id", names),
                  tmp_path / "b_users.parquet"))
  for row, other in zip(rows_of(plain.train), rows_of(text.train),
                        strict=True):
    assert other == row | {"user_id": f"u{row['user_id']}"}


def test_timestamps_are_milliseconds(tmp_path):
  log = official_log(30)
  stamps = log["time_ms"].cast(pa.timestamp("ms")).cast(pa.timestamp("us"))
  stamped = log.set_column(
      log.column_names.index("time_ms"), "time_ms", stamps)
  plain = kuairand.prepare(
      write(log, tmp_path / "a.parquet"), tmp_path / "out1")
  other = kuairand.prepare(
      write(stamped, tmp_path / "b.parquet"), tmp_path / "out2")
  assert rows_of(plain.train) == rows_of(other.train)


def test_dates_of_users_are_categories(tmp_path):
  days = pa.array(["2022-04-08", None, "2022-04-09", "2022-04-08"])
  prepared = kuairand.prepare(
      write(official_log(40), tmp_path / "log.csv"), tmp_path / "out",
      users=write(USERS.append_column("since", days), tmp_path / "users.csv"))
  assert "since" in prepared.schema.categorical
  table = pq.read_table(prepared.train)
  by_user = dict(zip(table["user_id"].to_pylist(), table["since"].to_pylist(),
                     strict=True))
  assert by_user[0] == by_user[3] == 19_090 * 86_400_000
  assert by_user[2] == 19_091 * 86_400_000 and by_user[1] is None


@pytest.mark.parametrize(("unit", "per_ms"), [
    ("seconds", 0.001), ("microseconds", 1000), ("nanoseconds", 10**6)])
def test_times_of_another_unit_become_milliseconds(tmp_path, unit, per_ms):
  log = official_log(20)
  first = log["time_ms"].to_numpy().min()
  time = first // 1000 * 1000 + 1000 * (log["time_ms"].to_numpy() - first)
  place = log.column_names.index("time_ms")
  prepared = kuairand.prepare(write(
      log.set_column(place, "time_ms", pa.array(
          (time * per_ms).astype(np.int64))), tmp_path / "log.csv"),
                              tmp_path / "out")
  table = pq.read_table(prepared.train)
  assert table["time_ms"].to_pylist() == sorted(time)
  note, = prepared.notes
  assert f"log.csv: column 'time_ms': integers are read as {unit}" in note


def test_evaluation_sees_earlier_training_rows_only(tmp_path):
  log = six_rows()
  # Training rows at 10, 20, 20, 30; one evaluation row lies among them.
  train, evaluation = log.take([0, 1, 3, 4]), log.take([5, 2])
  prepared = kuairand.prepare(
      write(train, tmp_path / "train.parquet"), tmp_path / "out",
      evaluation=write(evaluation, tmp_path / "evaluation.csv"))
  table = pq.read_table(prepared.evaluation)
  assert table["time_ms"].to_pylist() == [20, 40]
  np.testing.assert_allclose(
      table["user_rows"].to_numpy(), np.log([2, 4]), rtol=1e-6)
  np.testing.assert_allclose(
      table["user_rate_click"].to_numpy(), [1 / 6, 2 / 8], rtol=1e-6)
  np.testing.assert_allclose(
      table["item_rate_click"].to_numpy(), [1 / 6, 3 / 8], rtol=1e-6)
  assert table.schema.equals(pq.read_schema(prepared.train))
  for path in (prepared.train, prepared.evaluation):
    parquet.check_log(parquet.ParquetLog(path), prepared.schema)
  # In time order the training rows do not see what comes after them.
  alone = kuairand.prepare(tmp_path / "train.parquet", tmp_path / "alone")
  late = kuairand.prepare(
      tmp_path / "train.parquet", tmp_path / "late",
      evaluation=write(log.slice(5), tmp_path / "late.parquet"))
  assert rows_of(alone.train) == rows_of(late.train)


def with_value(table, column, row, value):
  values = table[column].to_pylist()
  values[row] = value
  return table.set_column(
      table.column_names.index(column), column, pa.array(values))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.rename_columns(
        ["user" if n == "user_id" else n for n in t.column_names]),
     r"log\.\w+: no column 'user_id' \(did you mean 'user'\?\); it has user, "),
    (lambda t: t.drop_columns(["hourmin"]), "no column 'hourmin'"),
    (lambda t: t.select(["user_id", "video_id", "time_ms", "hourmin",
                         "duration_ms", "is_hate"]),
     r"log\.\w+: no objective; expected at least one of the columns label, "
     "is_click, .* got user_id, "),
    (lambda t: with_value(t, "is_like", 7, 2),
     r"log\.\w+: column 'is_like', row 7: labels must be 0 or 1.* got 2\."),
    (lambda t: with_value(t, "is_click", 3, None),
     "column 'is_click', row 3: every row needs a label, got a missing"),
    (lambda t: with_value(t, "user_id", 5, None),
     "column 'user_id', row 5: every row needs its user, got a missing"),
    (lambda t: with_value(t, "video_id", 6, None),
     "column 'video_id', row 6: every row needs its item"),
    (lambda t: with_value(t, "time_ms", 9, None),
     "column 'time_ms', row 9: every row needs its time"),
    (lambda t: t.set_column(4, "time_ms", pa.array(["soon"] * 10)),
     "column 'time_ms' has type string; accepted: integers since 1970, dates"),
    (lambda t: t.set_column(3, "hourmin", pa.array(["noon"] * 10)),
     "column 'hourmin' has type string; accepted: numbers"),
    (lambda t: t.set_column(5, "is_click", pa.array(["no"] * 10)),
     "column 'is_click' has type string; accepted: booleans or numbers"),
    (lambda t: t.set_column(0, "user_id", pa.array([0.5] * 10)),
     "column 'user_id' has type double; accepted: integers or text"),
    (lambda t: t.append_column("tab", t["tab"]), "column 'tab' appears twice"),
    (lambda t: t.slice(0, 0), r"log\.\w+: the (file|log) has no rows"),
])
def test_bad_logs_are_refused(tmp_path, suffix, change, message):
  path = write(change(official_log(10)), tmp_path / f"log.{suffix}")
  with pytest.raises(schema_lib.DataError, match=message) as error:
    kuairand.prepare(path, tmp_path / "out")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.drop_columns(["user_id"]),
     r"users\.csv: no column 'user_id'; it has user_active_degree, "),
    (lambda t: t.take([0, 1, 2, 1]),
     r"users\.csv: column 'user_id', row 3: 1 stands in row 1 too"),
    (lambda t: with_value(t, "user_id", 2, None),
     r"users\.csv: column 'user_id', row 2: every row needs its user"),
    (lambda t: t.set_column(0, "user_id", pa.array(["a", "b", "c", "d"])),
     r"users\.csv: column 'user_id' has type string, in the log .* int64"),
    (lambda t: t.append_column("is_click", t["user_id"]),
     r"users\.csv: column 'is_click' is an outcome and no feature"),
    (lambda t: t.append_column("hour", t["user_id"]),
     r"users\.csv: column 'hour' is also made from the log"),
    (lambda t: t.append_column("when", pa.array(["08:30:00"] * 4)),
     r"users\.csv: column 'when' has type time32.*; accepted: text, integers"),
])
def test_bad_tables_are_refused(tmp_path, change, message):
  path = write(change(USERS), tmp_path / "users.csv")
  with pytest.raises(schema_lib.DataError, match=message):
    kuairand.prepare(
        write(official_log(10), tmp_path / "log.csv"), tmp_path / "out",
        users=path)


def test_bad_files_are_refused(tmp_path):
  log = write(official_log(50), tmp_path / "good.csv")

  def refused(message, data, **tables):
    with pytest.raises(schema_lib.DataError, match=message) as error:
      kuairand.prepare(data, tmp_path / "out", **tables)
    assert "\n" not in str(error.value)

  missing = tmp_path / "missing.csv"
  refused(r"missing\.csv: no such file or folder", missing)
  for name in ("evaluation", "users", "items"):
    refused(r"missing\.csv: no such file or folder", log, **{name: missing})
  (tmp_path / "empty").mkdir()
  refused(r"empty: the folder has no log_standard\*\.csv and no \*\.parquet",
          tmp_path / "empty")
  refused(r"empty: the folder has no user_features\*\.csv", log,
          users=tmp_path / "empty")
  for name in ("pure", "1k"):
    write(USERS, tmp_path / "two" / f"user_features_{name}.csv")
  refused(r"two: the folder has user_features_1k\.csv and user_features_pure",
          log, users=tmp_path / "two")

  (tmp_path / "nothing.csv").write_text("")
  refused(r"nothing\.csv: not readable \(Empty CSV file\)",
          tmp_path / "nothing.csv")
  cut = tmp_path / "cut.csv"
  cut.write_bytes(log.read_bytes()[:-25])
  refused(r"cut\.csv: not readable \(CSV parse error: .*Expected 19 columns",
          cut)
  whole = write(official_log(50), tmp_path / "good.parquet")
  cut = tmp_path / "cut.parquet"
  cut.write_bytes(whole.read_bytes()[:-25])
  refused(r"cut\.parquet: not a Parquet file, or cut off", cut)
  cut.write_text("user_id,video_id\n1,2\n")
  refused(r"cut\.parquet: not a Parquet file, or cut off", cut)


def test_files_of_a_log_must_agree(tmp_path):
  log = official_log(20)
  train = write(log, tmp_path / "train.csv")
  lacking = write(log.drop_columns(["is_like"]), tmp_path / "lacking.csv")
  with pytest.raises(schema_lib.DataError,
                     match=r"lacking\.csv: no column 'is_like'"):
    kuairand.prepare(train, tmp_path / "out", evaluation=lacking)
  text = log.set_column(0, "user_id", pa.array(["u"] * 20))
  with pytest.raises(schema_lib.DataError,
                     match=r"text\.csv: .*user_id has incompatible types"):
    kuairand.prepare(train, tmp_path / "out",
                     evaluation=write(text, tmp_path / "text.csv"))
  assert not (tmp_path / "out").exists()
  # A column more does no harm.
  more = write(log.append_column("label", log["is_like"]),
               tmp_path / "more.csv")
  prepared = kuairand.prepare(train, tmp_path / "out", evaluation=more)
  assert "label" not in prepared.schema.names
