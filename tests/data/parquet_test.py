"""Logs are opened, checked, read and resumed as documented."""

import decimal
import itertools
import json
import pathlib
import time
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harmonrank_jax.data import naming
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

CLICK = schema_lib.Schema((schema_lib.Objective("click", "click"),), user="u")


class Rows(NamedTuple):
  row: np.ndarray
  user: np.ndarray


def to_rows(table):
  return Rows(table["row"].to_numpy(), table["u"].to_numpy())


def some_rows(table):
  """Two in five users, which leaves some blocks without any row."""
  rows = to_rows(table)
  return Rows(*(array[rows.user % 5 < 2] for array in rows))


def log_table(num_rows, first=0):
  row = np.arange(first, first + num_rows)
  return pa.table({"row": row, "u": row // 3, "click": row % 2})


def write_log(path, *, num_rows=100, group_size=7, first=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(log_table(num_rows, first), path, row_group_size=group_size)
  return path


@pytest.fixture(name="log")
def make_log(tmp_path):
  """100 rows in 15 row groups."""
  return opened(write_log(tmp_path / "log.parquet"))


def opened(path):
  """A log whose row groups are read one by one, however small they are."""
  return parquet.ParquetLog(path, group_rows=1)


def make_reader(log, transform=to_rows, **changes):
  arguments = {"batch_size": 9, "seed": 3, "block_rows": 20} | changes
  return parquet.BatchReader(log, ["row", "u"], transform, **arguments)


def epochs_of(reader, num_rows, count):
  """The first epochs, cut from the batches."""
  rows = np.zeros(0, int)
  while len(rows) < num_rows * count:
    rows = np.append(rows, next(reader).row)
  return rows[:num_rows * count].reshape(count, num_rows)


def refused(message):
  return pytest.raises(schema_lib.DataError, match=message)


def test_a_file(log, tmp_path):
  assert log.files == [tmp_path / "log.parquet"]
  assert log.num_rows == 100 and len(log.row_groups) == 15
  assert log.row_groups[2] == parquet.RowGroup(0, 2, 7, (14,))
  where = log.place(log.row_groups[2]).where(6)
  assert where.endswith("log.parquet, row group 2")
  assert log.arrow_schema.names == ["row", "u", "click"]
  assert log.read(log.row_groups[14], ["row"]).to_pydict() == {
      "row": [98, 99]}
  assert pa.concat_tables(log.tables(["row", "u", "click"])).equals(
      log_table(100))


def test_a_folder_is_one_log(tmp_path):
  write_log(tmp_path / "b.parquet", num_rows=10, first=20)
  # As writers in parts do: a folder that is named as a file.
  write_log(tmp_path / "a.parquet" / "part-0.parquet", num_rows=20)
  pq.write_table(log_table(0), tmp_path / "c.parquet")
  (tmp_path / "notes.txt").write_text("not a log")
  log = opened(str(tmp_path))
  assert [file.name for file in log.files] == [
      "part-0.parquet", "b.parquet", "c.parquet"]
  assert log.num_rows == 30
  assert log.row_groups[-1] == parquet.RowGroup(1, 1, 3, (7,))
  np.testing.assert_array_equal(
      np.concatenate([t["row"] for t in log.tables(["row"])]), np.arange(30))


def test_files_that_are_refused(tmp_path):
  with refused(r"nowhere: no such file or folder\."):
    parquet.ParquetLog(tmp_path / "nowhere")
  with refused(r"the folder has no \*\.parquet file"):
    parquet.ParquetLog(tmp_path)
  good = write_log(tmp_path / "good.parquet").read_bytes()
  bad = tmp_path / "bad" / "log.parquet"
  bad.parent.mkdir()
  for content in (b"", b"user_id,item_id\n1,2\n", good[:-1], good[:-12],
                  good[:len(good) // 2], good[:4], good[20:-8]):
    bad.write_bytes(content)
    for path in (bad, bad.parent):
      with refused(r"log\.parquet: not a Parquet file, or cut off \(") as info:
        parquet.ParquetLog(path)
      assert "\n" not in str(info.value)
  pq.write_table(log_table(0), bad)
  with refused("the log has no rows"):
    parquet.ParquetLog(bad)
  pq.write_table(pa.Table.from_arrays(
      [pa.array([1])] * 3, names=["a", "b", "a"]), bad)
  with refused(r"log\.parquet: column 'a' appears twice"):
    parquet.ParquetLog(bad)


def test_a_hole_in_the_data_is_found_on_reading(tmp_path):
  # The end, where the metadata stand, is whole.
  path = tmp_path / "log.parquet"
  noise = np.random.default_rng(0).random(10_000)
  parquet.write_parquet(pa.table({"row": noise, "u": noise}), path,
                        row_group_size=1000)
  content = path.read_bytes()
  middle = len(content) // 2
  for damaged in (content[:middle] + b"\xff" * 4000 + content[middle + 4000:],
                  content[:middle] + content[middle + 4000:]):
    path.write_bytes(damaged)
    log = opened(path)
    with refused(r"log\.parquet, row group \d: not readable \(") as info:
      list(log.tables(["row", "u"]))
    assert "\n" not in str(info.value)
    with refused("row group .: not readable"):
      next(make_reader(log, block_rows=10_000))
  log = parquet.ParquetLog(path)
  path.unlink()
  with refused(r"log\.parquet: not a Parquet file, or cut off"):
    next(log.tables(["row"]))


@pytest.mark.parametrize(("other", "message"), [
    ({"row": [1], "u": [1]}, "2.parquet: no column 'click', which .*1.parquet"),
    ({"row": [1], "u": [1], "clicks": [1]},
     r"no column 'click' \(did you mean 'clicks'\?\), which"),
    ({"row": [1], "u": ["a"], "click": [1]},
     "2.parquet: column 'u' has type string, in .*1.parquet it has int64"),
    ({"row": [1], "u": [[1]], "click": [1]}, "column 'u' has type list"),
])
def test_a_column_with_a_role_is_in_every_file(tmp_path, other, message):
  write_log(tmp_path / "1.parquet")
  pq.write_table(pa.table(other), tmp_path / "2.parquet")
  log = parquet.ParquetLog(tmp_path)
  with refused(message):
    parquet.check_log(log, CLICK)
  with refused(message):
    list(log.tables(["row", *log.irregular]))
  # The others are read.
  assert next(log.tables(["row"])).num_rows == 100


def test_columns_without_a_role_may_differ(tmp_path):
  one, other = log_table(5), log_table(3, first=5)
  pq.write_table(one.append_column("a", one["u"]).append_column("b", one["u"]),
                 tmp_path / "1.parquet")
  pq.write_table(other.append_column("b", pa.array(["x"] * 3)),
                 tmp_path / "2.parquet")
  # Writers in parts leave files without rows, and with any columns.
  pq.write_table(pa.table({"z": pa.array([], pa.int8())}),
                 tmp_path / "3.parquet")
  log = parquet.ParquetLog(tmp_path)
  parquet.check_log(log, CLICK)
  assert set(log.irregular) == {"a", "b"}
  assert log.arrow_schema.names == ["row", "u", "click", "a", "b"]
  schema = naming.schema_from_names(
      log.arrow_schema.append(pa.field("score_click", pa.float64())), (),
      irregular=log.irregular)
  assert schema.numeric == ("row", "u")
  lines = naming.left_out(schema, log.arrow_schema, log.irregular)
  assert len(lines) == 2 and "'a' is left out: " in lines[0]
  assert "2.parquet: no column 'a', which" in lines[0]


NS = 1_700_000_000_123_456_789


@pytest.mark.parametrize(("one", "other", "values"), [
    (pa.array([1], pa.int8()), pa.array([2**40]), [1, 2**40]),
    (pa.array([1], pa.uint64()), pa.array([-1]), [1, -1]),
    (pa.array([1], pa.uint8()), pa.array([2**63], pa.uint64()), [1, 2**63]),
    (pa.array([1], pa.int8()), pa.array([0.5], pa.float32()), [1.0, 0.5]),
    (pa.array([True]), pa.array([0], pa.int8()), [1, 0]),
    (pa.array(["a"]), pa.array(["b"], pa.large_string()), ["a", "b"]),
    (pa.array(["a"]), pa.array(["b"], pa.string_view()), ["a", "b"]),
    (pa.array(["a"], pa.string_view()), pa.array(["b"], pa.string_view()),
     ["a", "b"]),
    (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), ["a", "b"]),
    (pa.array(["a"]).cast(pa.dictionary(pa.int8(), pa.string())),
     pa.array(["b"]).cast(pa.dictionary(pa.int32(), pa.large_string())),
     ["a", "b"]),
    (pa.array([7]).dictionary_encode(), pa.array([8]), [7, 8]),
    (pa.nulls(1), pa.array(["b"]), [None, "b"]),
    (pa.array([NS // 10**6], pa.timestamp("ms")),
     pa.array([NS // 1000], pa.timestamp("us")), [NS // 10**6] * 2),
    (pa.array([NS // 10**6], pa.timestamp("ms", "Asia/Tokyo")),
     pa.array([NS], pa.timestamp("ns", "UTC")), [NS // 10**6] * 2),
    (pa.array([1], pa.date32()), pa.array([86_400], pa.timestamp("s")),
     [86_400_000] * 2),
    (pa.array([decimal.Decimal("1")], pa.decimal128(5, 0)),
     pa.array([decimal.Decimal("2")], pa.decimal128(38, 0)), [1, 2]),
    (pa.array([decimal.Decimal("1.5")], pa.decimal128(5, 1)), pa.array([2]),
     [1.5, 2.0]),
    (pa.array([[1, 2]]), pa.array([[0.5, 3]], pa.list_(pa.float32(), 2)),
     [[1.0, 2.0], [0.5, 3.0]]),
])
def test_types_that_hold_the_same_are_one(tmp_path, one, other, values):
  for number, column in enumerate((one, other)):
    pq.write_table(pa.table({"c": column}), tmp_path / f"{number}.parquet")
  log = parquet.ParquetLog(tmp_path)
  table = pa.concat_tables(log.tables(["c"]))
  assert table["c"].to_pylist() == values
  assert not log.irregular and table["c"].type == log.kind("c")


@pytest.mark.parametrize(("one", "other"), [
    (pa.array([1]), pa.array(["1"])),
    # One of them is local time.
    (pa.array([1], pa.timestamp("ms")),
     pa.array([1], pa.timestamp("ms", "UTC"))),
    (pa.array([1]), pa.array([1], pa.timestamp("ms"))),
    (pa.array([[1]]), pa.array([1])),
    (pa.array([[1]]), pa.array([["a"]])),
])
def test_types_that_do_not_go_together(tmp_path, one, other):
  for number, column in enumerate((one, other)):
    pq.write_table(pa.table({"c": column}), tmp_path / f"{number}.parquet")
  assert list(parquet.ParquetLog(tmp_path).irregular) == ["c"]


def test_an_integer_that_does_not_fit_is_an_error(tmp_path):
  pq.write_table(pa.table({"c": [-1]}), tmp_path / "0.parquet")
  pq.write_table(pa.table({"c": pa.array([2**63], pa.uint64())}),
                 tmp_path / "1.parquet")
  with refused("1.parquet, row group 0: not readable .*9223372036854775808"):
    list(parquet.ParquetLog(tmp_path).tables(["c"]))


def test_folders_name_columns(tmp_path):
  for day, user, city in (("2024-02-28", "7", "a%20b"),
                          ("2024-02-29", "-3", "__HIVE_DEFAULT_PARTITION__")):
    write_log(tmp_path / f"day={day}" / f"user={user}" / f"city={city}"
              / "0.parquet", num_rows=4)
  log = parquet.ParquetLog(tmp_path)
  assert log.arrow_schema.field("day").type == pa.date32()
  table = pa.concat_tables(log.tables(["user", "row", "day", "city"]))
  assert table["user"].to_pylist() == [7] * 4 + [-3] * 4
  assert table["row"].to_pylist() == [0, 1, 2, 3] * 2
  assert table["city"].to_pylist() == ["a b"] * 4 + [None] * 4
  assert str(table["day"].cast(pa.timestamp("ms"))[7]) == "2024-02-29 00:00:00"
  assert next(log.tables(["city"])).num_rows == 4
  # Read in parts, too.
  parts = list(log.parts(["user", "row"], 3))
  assert [part.num_rows for _, part in parts] == [3, 1, 3, 1]
  assert parts[1][0].row == 3
  assert pa.concat_tables(part for _, part in parts).equals(
      table.select(["user", "row"]))
  # Named alone, a file is in no folder of the log.
  assert "day" not in parquet.ParquetLog(log.files[0]).arrow_schema.names


@pytest.mark.parametrize(("values", "kind"), [
    (("1", "20"), pa.int64()), (("01", "20"), pa.string()),
    (("1", "a"), pa.string()), (("2024-01-01", "x"), pa.string()),
    (("2024-02-31",), pa.string()), (("9" * 30,), pa.string())])
def test_values_of_folders_are_of_one_type(tmp_path, values, kind):
  for value in values:
    write_log(tmp_path / f"c={value}" / "0.parquet", num_rows=2)
  log = parquet.ParquetLog(tmp_path)
  assert log.kind("c") == kind
  read = pa.concat_tables(log.tables(["c"]))["c"].unique().to_pylist()
  assert [str(value) for value in read] == sorted(values)


def test_a_partition_that_files_repeat_or_lack(tmp_path):
  write_log(tmp_path / "u=9" / "0.parquet", num_rows=4)
  write_log(tmp_path / "0.parquet", num_rows=4)
  log = parquet.ParquetLog(tmp_path)
  assert next(log.tables(["u"]))["u"].to_pylist() == [0, 0, 0, 1]
  assert "have a column 'u'; that of the files is read" in log.notes[0]
  write_log(tmp_path / "v=9" / "0.parquet", num_rows=4)
  assert "0.parquet: no column 'v', which" in (
      parquet.ParquetLog(tmp_path).irregular["v"])


def test_hidden_files_are_no_data_and_said(tmp_path):
  write_log(tmp_path / "_day=1" / "part.parquet", num_rows=4)
  for path in (".ipynb_checkpoints/a.parquet", "_temporary/0/b.parquet",
               "_day=1/_delta/c.parquet"):
    write_log(tmp_path / path, num_rows=9)
  (tmp_path / "._part.parquet").write_bytes(b"\0\5\x16\7")
  log = parquet.ParquetLog(tmp_path)
  assert log.num_rows == 4
  assert "4 hidden Parquet files are skipped, as ._part.parquet" in log.notes[0]
  # A hidden folder that is named is read, and nothing is said of good ones.
  assert parquet.ParquetLog(tmp_path / "_temporary").num_rows == 9
  assert not parquet.ParquetLog(tmp_path / "_temporary").notes


def test_small_row_groups_are_read_together(tmp_path, log):
  joined = parquet.ParquetLog(log.files[0], group_rows=20)
  assert [group.num_rows for group in joined.row_groups] == [14] * 6 + [16]
  assert joined.row_groups[1] == parquet.RowGroup(0, 2, 14, (14, 21))
  for columns in (["row"], ["u", "click"]):
    assert pa.concat_tables(joined.tables(columns)).equals(
        pa.concat_tables(log.tables(columns)))
  for row in (0, 13, 14, 20, 21, 99):
    assert joined.place_of(row) == log.place_of(row)
    assert f"row group {row // 7}, row {row}" in log.place_of(row)


def test_a_file_is_opened_once(tmp_path, monkeypatch):
  write_log(tmp_path / "1.parquet", num_rows=4000, group_size=1)
  write_log(tmp_path / "2.parquet", num_rows=40, group_size=1)
  begun, opened_files, open_file = time.monotonic(), [], pq.ParquetFile

  def counted(file, **options):
    # The footer is parsed once.
    opened_files.append((file.name, options["metadata"] is None))
    return open_file(file, **options)

  monkeypatch.setattr(pq, "ParquetFile", counted)
  log = parquet.ParquetLog(tmp_path)
  for _ in range(3):
    assert sum(table.num_rows for table in log.tables(["row"])) == 4040
  assert sorted(opened_files) == [
      (name, parsed) for name in ("1.parquet", "2.parquet")
      for parsed in (False, True)]
  assert time.monotonic() - begun < 5


def test_order_metadata_and_nullability_of_columns_do_not_matter(tmp_path):
  table = log_table(5)
  pq.write_table(table, tmp_path / "1.parquet")
  strict = pa.schema(
      [pa.field(f.name, f.type, nullable=False, metadata={"a": "b"})
       for f in table.schema], metadata={"by": "another"})
  pq.write_table(table.cast(strict).select(["click", "u", "row"]),
                 tmp_path / "2.parquet")
  log = parquet.ParquetLog(tmp_path)
  batch = next(make_reader(log, batch_size=10))
  np.testing.assert_array_equal(np.sort(batch.row), np.repeat(np.arange(5), 2))
  np.testing.assert_array_equal(batch.user, batch.row // 3)


def test_columns_of_few_values(tmp_path):
  num_rows = 3 * (parquet.FEW_VALUES + 1)
  row = np.arange(num_rows)
  path = tmp_path / "log.parquet"
  pq.write_table(
      pa.table({"few": row % parquet.FEW_VALUES, "text": row.astype(str),
                "many": row % (parquet.FEW_VALUES + 1), "real": row % 2.0,
                "flag": (row % 2).astype(np.uint8)}),
      path, row_group_size=100)
  assert parquet.ParquetLog(path).columns_of_few_values() == ["few", "flag"]


def test_every_row_is_checked(tmp_path, log):
  parquet.check_log(log, CLICK)
  with refused(r"log\.parquet: no column 'like'"):
    parquet.check_log(log, schema_lib.Schema(
        (schema_lib.Objective("like", "like"),)))
  # Row 9 of a file of row groups of 7 is the third of row group 1.
  click = log_table(100)["click"].to_numpy().copy()
  click[9] = 2
  bad = tmp_path / "parts" / "2.parquet"
  write_log(tmp_path / "parts" / "1.parquet")
  pq.write_table(log_table(100).set_column(2, "click", pa.array(click)), bad,
                 row_group_size=7)
  with refused(r"2\.parquet, row group 1: column 'click', row 9: labels must "
               "be 0 or 1"):
    parquet.check_log(parquet.ParquetLog(bad.parent), CLICK)


@pytest.mark.parametrize("block_rows", [1, 20, 1000])
@pytest.mark.parametrize("batch_size", [1, 9, 40, 250])
def test_an_epoch_has_every_row_once(log, block_rows, batch_size):
  reader = make_reader(log, batch_size=batch_size, block_rows=block_rows)
  batch = next(reader)
  assert batch.row.shape == batch.user.shape == (batch_size,)
  epochs = epochs_of(make_reader(
      log, batch_size=batch_size, block_rows=block_rows), 100, 3)
  np.testing.assert_array_equal(
      np.sort(epochs), np.tile(np.arange(100), (3, 1)))
  # Neither as written, nor twice in one order.
  orders = [np.arange(100), *epochs]
  for one, other in itertools.combinations(orders, 2):
    assert (one == other).mean() < 0.2


def test_columns_stay_side_by_side(log):
  for batch in itertools.islice(make_reader(log, batch_size=30), 5):
    np.testing.assert_array_equal(batch.user, batch.row // 3)


def test_order_is_a_function_of_the_seed(log):
  one, same, other = (make_reader(log, seed=seed) for seed in (3, 3, 4))
  for a, b in itertools.islice(zip(one, same, strict=True), 30):
    np.testing.assert_array_equal(a.row, b.row)
  assert (epochs_of(other, 100, 1)
          != epochs_of(make_reader(log), 100, 1)).mean() > 0.8


def test_blocks_are_shuffled_independently(tmp_path):
  # As many blocks as rows in a block: each permutation is one of five.
  log = opened(write_log(
      tmp_path / "log.parquet", num_rows=25, group_size=5))
  same = 0
  for seed in range(20):
    orders = []
    for epoch in epochs_of(make_reader(log, seed=seed, block_rows=1), 25, 2):
      rows = epoch.reshape(5, 5)
      orders += [rows[:, 0] // 5, *(rows % 5)]
    same += sum(np.array_equal(a, b)
                for a, b in itertools.combinations(orders, 2))
  # 20 * 66 pairs, each equal with probability 1 / 120: 11 +- 3.3.
  assert same < 20


@pytest.mark.parametrize("transform", [to_rows, some_rows])
@pytest.mark.parametrize("list_of", [None, lambda rows: rows.user])
def test_resumes_at_every_batch(log, transform, list_of):
  reader = make_reader(log, transform, list_of=list_of)
  cursors, batches = [], []
  for _ in range(30):
    cursors.append(json.dumps(reader.cursor))
    batches.append(next(reader))
  assert reader.cursor.epoch > 0
  for step in range(30):
    resumed = make_reader(
        log, transform, list_of=list_of,
        cursor=parquet.Cursor(*json.loads(cursors[step])))
    for expected in batches[step:step + 4]:
      batch = next(resumed)
      np.testing.assert_array_equal(batch.row, expected.row)
      np.testing.assert_array_equal(batch.user, expected.user)


def test_a_filter_leaves_some_rows_of_every_epoch(log):
  kept = np.flatnonzero(np.arange(100) // 3 % 5 < 2)
  epochs = epochs_of(make_reader(log, some_rows, block_rows=1), len(kept), 3)
  np.testing.assert_array_equal(np.sort(epochs), np.tile(kept, (3, 1)))


def test_a_filter_may_leave_one_row_but_not_none(log):

  def only(table, row):
    rows = to_rows(table)
    return Rows(*(array[rows.row == row] for array in rows))

  # A batch then is that row, epoch after epoch, wherever reading starts.
  for cursor in (None, parquet.Cursor(2, 5, 0), parquet.Cursor(0, 3, 0)):
    reader = make_reader(log, lambda t: only(t, 42), cursor=cursor,
                         batch_size=5)
    assert next(reader).row.tolist() == [42] * 5
    assert next(reader).row.tolist() == [42] * 5
    with refused("no row is left to read after filtering"):
      next(make_reader(log, lambda t: only(t, -1), cursor=cursor))


def test_a_cursor_of_another_log_is_refused(log):
  reader = make_reader(log, cursor=parquet.Cursor(0, 6, 0))
  with refused("block 6 of an epoch of 5 is to be read next: the log is not"):
    next(reader)


@pytest.mark.parametrize("block_rows", [20, 1000])
def test_lists_stay_together(tmp_path, block_rows):
  # Row groups of 6 hold two whole users of three rows each.
  log = opened(write_log(
      tmp_path / "log.parquet", num_rows=96, group_size=6))
  reader = make_reader(log, list_of=lambda rows: rows.user, batch_size=12,
                       block_rows=block_rows)
  batches = list(itertools.islice(reader, 16))
  users = np.concatenate([batch.user for batch in batches])
  for epoch in users.reshape(2, 96):
    runs = epoch[np.append(True, np.diff(epoch) != 0)]
    np.testing.assert_array_equal(np.sort(runs), np.arange(32))
    assert (runs != np.arange(32)).mean() > 0.5
  # Within a list, order of the file.
  rows = np.concatenate([batch.row for batch in batches])
  np.testing.assert_array_equal(rows % 3, np.tile([0, 1, 2], 64))
  # At its ends a batch may cut a list: what is missing opens the next one.
  reader = make_reader(log, list_of=lambda rows: rows.user, batch_size=10,
                       block_rows=block_rows)
  batches = list(itertools.islice(reader, 8))
  for one, following in itertools.pairwise(batches):
    users, counts = np.unique(one.user, return_counts=True)
    cut = set(users[counts < 3])
    assert cut <= {one.user[0], one.user[-1]}
    if following.user[0] in cut:
      assert one.user[-1] == following.user[0]


@pytest.mark.parametrize("kept_rows, reads", [(98, 14), (97, 42)])
def test_a_small_log_is_transformed_once_a_large_one_each_epoch(
    tmp_path, monkeypatch, kept_rows, reads):
  monkeypatch.setattr(parquet, "_KEPT_ROWS", kept_rows)
  log = opened(write_log(tmp_path / "log.parquet", num_rows=98))
  loads = []

  def counted(table):
    loads.append(table.num_rows)
    return to_rows(table)

  reader = make_reader(log, counted, batch_size=1, block_rows=15)
  for _ in range(3 * 98):
    next(reader)
  assert loads == [7] * reads


def test_text_of_several_dictionaries_is_read(tmp_path):
  for part in range(2):
    text = pa.array([f"{part}-{row % 3}" for row in range(9)])
    pq.write_table(pa.table({"row": range(9), "u": text.dictionary_encode()}),
                   tmp_path / f"{part}.parquet", row_group_size=4)
  reader = make_reader(parquet.ParquetLog(tmp_path), batch_size=18,
                       transform=lambda t: Rows(
                           t["row"].to_numpy(), t["u"].to_numpy()))
  assert sorted(next(reader).user) == sorted(
      f"{part}-{row % 3}" for part in range(2) for row in range(9))


def test_writes_a_table(tmp_path):
  path = tmp_path / "new" / "folder" / "log.parquet"
  parquet.write_parquet(log_table(10), path, row_group_size=4)
  assert [group.num_rows for group in opened(path).row_groups] == [
      4, 4, 2]
  parquet.write_parquet(log_table(3), path)
  assert pq.read_table(path).equals(log_table(3))
  assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
  path = tmp_path / "log.parquet"
  parquet.write_parquet(log_table(3), path)

  def full_disk(table, where, **_):
    pathlib.Path(where).write_bytes(b"PAR1")
    raise OSError("No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
      parquet.write_parquet(log_table(5), path)
  assert list(tmp_path.iterdir()) == [path]
  assert pq.read_table(path).equals(log_table(3))
  (tmp_path / "taken.parquet").mkdir()
  with pytest.raises(OSError):
    parquet.write_parquet(log_table(5), tmp_path / "taken.parquet")
  assert sorted(tmp_path.iterdir()) == [path, tmp_path / "taken.parquet"]
