"""Workdirs, metrics and the ends of a binary."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from experiments.runs import errors
from experiments.runs import metrics as metric_writer
from experiments.runs import workdir as workdir_lib


@workdir_lib.alone
def begin(config, workdir, within=lambda workdir: None):
  """A run: whether its workdir was begun before; does something within."""
  was_there = workdir_lib.open_workdir(workdir, config)
  within(workdir)
  return was_there


def test_a_second_run_of_the_same_configuration_finds_its_workdir(tmp_path):
  config = {"seed": 1, "names": ("a", "b"), "data": None}
  assert not begin(config, tmp_path / "deep" / "run")
  assert begin(config, str(tmp_path / "deep" / "run"))
  assert [p.name for p in (tmp_path / "deep" / "run").iterdir()] == [
      "config.json"]


def test_a_second_run_at_once_is_refused_whatever_it_would_do(tmp_path):
  (tmp_path / "link").symlink_to(tmp_path / "run")

  def others(workdir):
    inside = {p.name: p.read_bytes() for p in workdir.iterdir()}
    for config, path in (({"seed": 1}, workdir), ({"seed": 2}, str(workdir)),
                         ({"seed": 1}, tmp_path / "link")):
      with pytest.raises(errors.UserError, match="in use by another run") as no:
        begin(config, path)
      assert str(path) in str(no.value) and "\n" not in str(no.value)
    # Who is refused takes nothing away, the lock least of all.
    assert inside == {p.name: p.read_bytes() for p in workdir.iterdir()}
    assert not begin({"seed": 3}, tmp_path / "elsewhere")

  assert not begin({"seed": 1}, tmp_path / "run", others)
  assert begin({"seed": 1}, tmp_path / "run")


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_run_that_fails_lets_the_next_one_in(tmp_path, end):
  def fail(workdir):
    raise end

  with pytest.raises(end):
    begin({"seed": 1}, tmp_path / "run", fail)
  assert begin({"seed": 1}, tmp_path / "run")


def test_a_killed_run_leaves_no_lock_though_its_child_lives(tmp_path):
  run = subprocess.Popen([sys.executable, "-c", textwrap.dedent("""
      import subprocess, sys, time
      from experiments.runs import workdir
      @workdir.alone
      def run(config, path):
        child = subprocess.Popen(["sleep", "60"])
        print(child.pid, flush=True)
        time.sleep(60)
      run({}, sys.argv[1])"""), str(tmp_path)], stdout=subprocess.PIPE)
  child = int(run.stdout.readline())
  try:
    with pytest.raises(errors.UserError, match="in use by another run"):
      begin({}, tmp_path)
    run.kill()
    run.wait()
    os.kill(child, 0)  # It lives.
    assert not begin({}, tmp_path)
  finally:
    run.kill()
    os.kill(child, signal.SIGKILL)
    run.stdout.close()


def test_a_lock_that_was_removed_while_it_was_opened_locks_nothing(
    tmp_path, monkeypatch):
  path, opened = tmp_path / workdir_lib.LOCK, []

  def flock(lock, operation):
    opened.append(lock)
    if len(opened) == 1:
      path.unlink()  # The run that held it ends just now.
    if len(opened) == 2:
      path.unlink()
      path.touch()  # And a third one is quicker.

  monkeypatch.setattr(fcntl, "flock", flock)
  lock = workdir_lib._try_lock(path)
  assert len(opened) == 3
  assert os.path.samestat(os.fstat(lock), os.stat(path))
  os.close(lock)


def test_without_locks_a_line_says_so(tmp_path, monkeypatch, capsys):
  def flock(lock, operation):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)
  assert not begin({}, tmp_path)
  assert "the file system has no locks" in capsys.readouterr().err


def test_another_configuration_is_refused_flag_by_flag(tmp_path):
  workdir_lib.open_workdir(tmp_path, {"seed": 1, "data": None})
  with pytest.raises(errors.UserError) as caught:
    workdir_lib.open_workdir(tmp_path, {"seed": 2, "data": "x"})
  assert "--seed was 1, now 2" in str(caught.value)
  assert '--data was not set, now "x"' in str(caught.value)
  assert workdir_lib.read_config(tmp_path) == {"seed": 1, "data": None}


@pytest.mark.parametrize("content", [
    {"seed": 1}, {"format_version": workdir_lib.FORMAT + 1, "seed": 1}, [1]],
    ids=["without a format", "a later format", "no configuration"])
def test_a_workdir_of_another_version_is_refused_in_one_line(
    tmp_path, content):
  (tmp_path / "config.json").write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match="another version") as caught:
    workdir_lib.open_workdir(tmp_path, {"seed": 1})
  assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / "thesis.txt").write_text("dear")
  with pytest.raises(errors.UserError, match="not empty"):
    begin({}, tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_while_it_began_leaves_no_obstacle(tmp_path):
  (tmp_path / "config.json.writing").write_text("{")
  assert not workdir_lib.open_workdir(tmp_path, {"seed": 1})


def test_what_fails_on_its_inputs_leaves_the_workdir_as_it_was(tmp_path):
  @workdir_lib.alone
  def read(config, workdir, error):
    with workdir_lib.claimed(workdir, config):
      try:
        (workdir / "log.parquet").write_text("half")
        raise error
      finally:
        assert (workdir / workdir_lib.LOCK).exists()

  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      read({"seed": 1}, tmp_path / "run", KeyboardInterrupt)
    assert not list((tmp_path / "run").iterdir())
  begin({"seed": 1}, tmp_path / "run")
  with pytest.raises(ValueError):
    read({"seed": 1}, tmp_path / "run", ValueError)
  assert (tmp_path / "run" / "config.json").exists()


def test_a_workdir_that_cannot_be_written_to_is_said(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match="cannot be written to"):
    begin({}, tmp_path / "file" / "run")


def test_a_folder_that_may_only_be_read_is_said(tmp_path, monkeypatch):
  def refuse(path, *args):
    raise OSError(errno.EROFS, "Read-only file system", str(path))

  # The superuser, as whom this may run, could write.
  monkeypatch.setattr(os, "open", refuse)
  with pytest.raises(errors.UserError, match=r"written to \(Read-only"):
    begin({}, tmp_path)


def test_other_data_than_a_run_was_begun_with_is_refused(tmp_path):
  arrays = [np.arange(6.0), np.array([True, False])]
  for _ in range(2):
    workdir_lib.check_same_data(tmp_path, arrays)
  for other in ([arrays[0] + 1, arrays[1]], arrays[:1], arrays[::-1]):
    with pytest.raises(errors.UserError, match="the data has changed"):
      workdir_lib.check_same_data(tmp_path, other)
  (tmp_path / "data.json").write_text("{")
  with pytest.raises(errors.UserError, match="is not readable"):
    workdir_lib.check_same_data(tmp_path, arrays)


def test_what_is_undefined_is_null(tmp_path):
  workdir_lib.write_json(tmp_path / "x.json", {
      "a": float("nan"), "b": np.float32("inf"), "c": np.array([1.0, np.nan]),
      "d": (np.int32(3), True, None)})
  assert json.loads((tmp_path / "x.json").read_text()) == {
      "a": None, "b": None, "c": [1.0, None], "d": [3, True, None]}
  assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_metrics_after_the_checkpoint_are_taken_back(tmp_path):
  writer = metric_writer.MetricWriter(tmp_path, -1)
  for step in range(4):
    writer.write(step, {"train": {"loss": np.float32(step)}})
  writer.close()
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 4, "tra')  # Killed while writing.
  writer = metric_writer.MetricWriter(tmp_path, 2)
  writer.write(3, {"train": {"loss": 9.0}})
  writer.close()
  lines = metric_writer.read_metrics(tmp_path)
  assert [line["step"] for line in lines] == [0, 1, 2, 3]
  assert lines[3]["train"]["loss"] == 9.0
