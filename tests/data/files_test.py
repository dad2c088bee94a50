"""Files are whole or not there."""

import io
import pathlib

import numpy as np
import pytest

from harmonrank_jax.data import files
from harmonrank_jax.data import schema as schema_lib


def refused(message):
  return pytest.raises(schema_lib.DataError, match=message)


@pytest.mark.parametrize(("path", "hint"), [
    ("s3://bucket/log.parquet", "only local paths are read"),
    ("gs://bucket/log", "only local paths are read"),
    (pathlib.Path("hdfs://host/log"), "only local paths are read"),
    ("file:///tmp/nowhere", "only local paths are read"),
    ("logs/*.parquet", "patterns of names are not expanded"),
    (pathlib.Path("logs/day-0[12]"), "patterns of names are not expanded"),
    ("~/log.parquet", "~ is not expanded"),
    ("nowhere.parquet", r"no such file or folder\.")])
def test_a_path_that_is_not_there_is_explained(path, hint):
  with refused(hint) as error:
    files.find(path, "*.parquet")
  assert "\n" not in str(error.value)
  # With both slashes, which a path loses.
  assert str(error.value).startswith(
      str(path).replace("hdfs:/", "hdfs://") + ": no such file")


@pytest.mark.parametrize(("kind", "mark"), [
    ("a Delta", "_delta_log/00.json"), ("a Hudi", ".hoodie/hoodie.properties"),
    ("an Iceberg", "metadata/v1.metadata.json")])
def test_tables_with_versions_are_refused(tmp_path, kind, mark):
  data = tmp_path / "table" / "data" / "0.parquet"
  for file in (data, tmp_path / "table" / mark):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
  for folder in (tmp_path, tmp_path / "table", data.parent):
    with refused(f"belongs to {kind} table, .* as plain Parquet"):
      files.find(folder, "*.parquet")
  # Who names a file knows which.
  assert files.find(data, "*.parquet") == [data]


def test_what_is_hidden_is_skipped(tmp_path):
  for name in ("b.csv", "a/c.csv", ".x/d.csv", "_e.csv", "a/_f/g.csv",
               "_h=1/i.csv", ".j.parquet"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  found = files.search(tmp_path, "*.parquet", "*.csv")
  named = lambda paths: [str(path.relative_to(tmp_path)) for path in paths]
  assert named(found.files) == ["_h=1/i.csv", "a/c.csv", "b.csv"]
  assert named(found.skipped) == [".x/d.csv", "_e.csv", "a/_f/g.csv"]
  with refused(r"no \*\.parquet file but hidden ones, as \.j\.parquet"):
    files.find(tmp_path, "*.parquet")


def test_names_are_matched_in_any_case(tmp_path):
  for name in ("p0.parquet", "p1.PARQUET", "a/p2.Parquet", "p3.parquet.crc"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  assert [file.name for file in files.find(tmp_path, "*.parquet")] == [
      "p2.Parquet", "p0.parquet", "p1.PARQUET"]


def test_a_file_is_written_whole_and_its_folder_made(tmp_path):
  path = tmp_path / "a" / "b.txt"
  with files.atomic(path) as temporary:
    temporary.write_text("whole")
    assert not path.exists()
  assert path.read_text() == "whole"
  assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


def test_an_error_leaves_what_was_there(tmp_path):
  path = tmp_path / "b.txt"
  path.write_text("before")
  with pytest.raises(KeyboardInterrupt), files.atomic(path) as temporary:
    temporary.write_text("half")
    raise KeyboardInterrupt
  assert path.read_text() == "before"
  assert [entry.name for entry in tmp_path.iterdir()] == ["b.txt"]


def test_nothing_written_is_nothing_renamed(tmp_path):
  with files.atomic(tmp_path / "b.txt"):
    pass
  assert not list(tmp_path.iterdir())


def test_compressed_arrays_are_not_unpacked():
  content = io.BytesIO()
  np.savez_compressed(content, zeros=np.zeros(10**6))
  with pytest.raises(ValueError, match="it is compressed"):
    files.arrays_from_bytes(content.getvalue())
