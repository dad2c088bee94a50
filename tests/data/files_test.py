"""Files are whole or not there."""

import pytest

from harmonrank_jax.data import files


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
