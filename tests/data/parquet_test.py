"""Logs are opened, checked, read and resumed as documented."""

import itertools
import json
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
  return parquet.ParquetLog(write_log(tmp_path / "log.parquet"))


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
  assert log.row_groups[2] == parquet.RowGroup(0, 2, 7, 14)
  where = log.place(log.row_groups[2]).where
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
  log = parquet.ParquetLog(str(tmp_path))
  assert [file.name for file in log.files] == [
      "part-0.parquet", "b.parquet", "c.parquet"]
  assert log.num_rows == 30
  assert log.row_groups[-1] == parquet.RowGroup(1, 1, 3, 7)
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
    log = parquet.ParquetLog(path)
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
    ({"row": [1], "u": [1], "click": [1], "like": [1]},
     "2.parquet: column 'like' is not in .*1.parquet"),
])
def test_files_of_a_log_have_the_same_columns(tmp_path, other, message):
  write_log(tmp_path / "1.parquet")
  pq.write_table(pa.table(other), tmp_path / "2.parquet")
  with refused(message):
    parquet.ParquetLog(tmp_path)


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
  log = parquet.ParquetLog(write_log(
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
  log = parquet.ParquetLog(write_log(
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
  log = parquet.ParquetLog(write_log(tmp_path / "log.parquet", num_rows=98))
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
  assert [group.num_rows for group in parquet.ParquetLog(path).row_groups] == [
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
