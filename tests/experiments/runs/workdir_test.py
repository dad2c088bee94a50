"""Workdirs, metrics and the ends of a binary."""

import json

import numpy as np
import pytest

from experiments.runs import errors
from experiments.runs import metrics as metric_writer
from experiments.runs import workdir as workdir_lib


def test_a_second_run_of_the_same_configuration_finds_its_workdir(tmp_path):
  config = {"seed": 1, "names": ("a", "b"), "data": None}
  assert not workdir_lib.open_workdir(tmp_path / "run", config)
  assert workdir_lib.open_workdir(tmp_path / "run", config)


def test_another_configuration_is_refused_flag_by_flag(tmp_path):
  workdir_lib.open_workdir(tmp_path / "run", {"seed": 1, "data": None})
  with pytest.raises(errors.UserError) as caught:
    workdir_lib.open_workdir(tmp_path / "run", {"seed": 2, "data": "x"})
  assert "--seed was 1, now 2" in str(caught.value)
  assert '--data was not set, now "x"' in str(caught.value)
  assert workdir_lib.read_config(tmp_path / "run") == {
      "seed": 1, "data": None}


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
    workdir_lib.open_workdir(tmp_path, {})
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_while_it_began_leaves_no_obstacle(tmp_path):
  (tmp_path / "config.json.writing").write_text("{")
  assert not workdir_lib.open_workdir(tmp_path, {"seed": 1})


def test_what_fails_on_its_inputs_leaves_the_workdir_as_it_was(tmp_path):
  for _ in range(2):
    with (pytest.raises(KeyboardInterrupt),
          workdir_lib.claimed(tmp_path / "run", {"seed": 1})):
      (tmp_path / "run" / "log.parquet").write_text("half")
      raise KeyboardInterrupt
    assert not list((tmp_path / "run").iterdir())
  workdir_lib.open_workdir(tmp_path / "run", {"seed": 1})
  with (pytest.raises(ValueError),
        workdir_lib.claimed(tmp_path / "run", {"seed": 1})):
    raise ValueError
  assert (tmp_path / "run" / "config.json").exists()


def test_a_workdir_that_cannot_be_written_to_is_said(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match="cannot be written to"):
    workdir_lib.open_workdir(tmp_path / "file" / "run", {})


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
