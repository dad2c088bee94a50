"""The main job: what a run leaves behind, and what it refuses."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk_metrics

from experiments import train_auc
from experiments.ranker import inputs as inputs_lib
from experiments.runs import checkpoints as checkpointing
from experiments.runs import errors
from experiments.runs import logs
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import generator
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import splits
import harmonrank_jax.serving as serving
from harmonrank_jax.serving import models

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {"num_exposures": 3000, "batch_size": 512, "num_steps": 20,
         "token_size": 4, "num_members": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A small run on the embedded log: its workdir and summary."""
  workdir = tmp_path_factory.mktemp("runs") / "small"
  config = train_auc.Config(**SMALL, slice_by="age")
  return workdir, train_auc.train(config, workdir)


def test_a_workdir_holds_everything(finished):
  workdir, summary = finished
  assert {p.name for p in workdir.iterdir()} >= {
      "config.json", "metrics.jsonl", "tensorboard", "checkpoints",
      "report.html", "summary.json", "model.json"}
  assert json.loads((workdir / "summary.json").read_text()) == summary
  assert summary["config"]["num_steps"] == summary["num_steps"] == 20
  assert summary["examples_per_second"] > 0


def test_the_summary_agrees_with_scikit_learn(finished):
  workdir, summary = finished
  table = pq.read_table(workdir / "embedded_log.parquet")
  log, schema = logs.open_log(
      workdir / "embedded_log.parquet", generator.SCHEMA)
  split = splits.split_log(
      parquet.check_log(log, schema), schema, hold_out=True)
  test = table.filter(pa.array(split.part(table) == splits.TEST))
  assert test.num_rows == summary["test_rows"]
  sums = {"equal_sum": sum(test[f"score_{name}"].to_numpy()
                           for name in generator.OBJECTIVES)}
  sums["own_click"] = test["score_click"].to_numpy()
  for method, scores in sums.items():
    total = 0.0
    for name in generator.OBJECTIVES:
      labels = test[name].to_numpy()
      known = summary["baselines"][method]["auc"][name]
      if labels.min() == labels.max():
        assert known is None
        continue
      total += known
      assert known == pytest.approx(
          sk_metrics.roc_auc_score(labels, scores), abs=1e-5)
    assert summary["baselines"][method]["auc_sum"] == pytest.approx(total)


def test_every_baseline_and_the_ceiling_stand_beside_it(finished):
  _, summary = finished
  assert set(summary["baselines"]) == {
      *(f"own_{name}" for name in generator.OBJECTIVES), "equal_sum",
      "tuned_sum", "tuned_product", "closed_form"}
  for baseline in summary["baselines"].values():
    assert baseline["lead"] == pytest.approx(
        summary["auc_sum"] - baseline["auc_sum"], abs=1e-6)
    assert baseline["lead_error"] > 0
  # The truth orders the frequent behaviours better than anything else.
  assert summary["ceiling"]["auc"]["click"] > max(
      b["auc"]["click"] for b in summary["baselines"].values())
  assert summary["ceiling"]["auc_sum"] > summary["auc_sum"]
  for method in (summary, summary["ceiling"]):
    assert (0 < method["auc_low"]["click"] < method["auc"]["click"]
            < method["auc_high"]["click"] < 1)


def test_slices_cover_the_rows(finished):
  _, summary = finished
  assert sum(s["rows"] for s in summary["slices"].values()) == (
      summary["test_rows"])


def test_the_report_is_one_file(finished):
  workdir, _ = finished
  page = (workdir / "report.html").read_text()
  assert page.count("<svg") == 5 and "<table" in page
  assert "src=" not in page and "href=\"http" not in page
  assert "closed_form" in page and "By age" in page


def test_the_model_scores_again_as_it_did(finished):
  workdir, summary = finished
  model, _ = models.read_model(workdir)
  config = train_auc.Config(
      **SMALL, init_from=str(workdir), slice_by="age")
  # A warm start stands before its first step where the earlier run ended.
  inputs = inputs_lib.read_inputs(config, workdir)
  task = train_auc.make_task(config, inputs)
  state = task.init()
  _, found = task.evaluate(state, 0)
  lines = [json.loads(line) for line in
           (workdir / "metrics.jsonl").read_text().splitlines()]
  best = next(line for line in lines if "validation" in line
              and line["step"] == summary["best_step"])
  assert found["validation"]["auc_sum"] == pytest.approx(
      best["validation"]["auc_sum"], abs=1e-6)
  assert model.schema.names == generator.OBJECTIVES


def test_the_score_is_the_mean_of_the_members(finished):
  workdir, _ = finished
  config = train_auc.Config(**SMALL, slice_by="age")
  inputs = inputs_lib.read_inputs(config, workdir)
  task = train_auc.make_task(config, inputs)
  params = best_params(workdir).best_params
  rows = inputs.validation._replace(**{
      name: getattr(inputs.validation, name)[:64]
      for name in inputs.validation._fields})
  each = [task.score(jax.tree.map(lambda x, s=s: x[s:s + 1], params), rows)
          for s in range(2)]
  assert np.abs(each[0] - each[1]).max() > 1e-3
  np.testing.assert_allclose(
      task.score(params, rows), np.mean(each, axis=0), rtol=1e-5)


def test_a_second_call_shows_the_same_again_and_may_export_it(
    finished, tmp_path, capsys):
  workdir, summary = finished
  again = train_auc.train(train_auc.Config(
      **SMALL, slice_by="age", export=str(tmp_path / "exported")), workdir)
  assert again == summary
  out = capsys.readouterr().out
  assert "resuming from step 20" in out
  assert "harmonrank" in out and "closed_form" in out
  stage, = serving.load(tmp_path / "exported", warm=False).manifest["stages"]
  assert stage["results"]["auc_sum"] == summary["auc_sum"]


def test_an_export_is_tried_before_the_first_step(tmp_path, capsys):
  (tmp_path / "file").touch()
  with pytest.raises(errors.UserError, match="cannot be written to"):
    train_auc.train(train_auc.Config(
        **SMALL, export=str(tmp_path / "file" / "out")), tmp_path / "run")
  assert not (tmp_path / "run" / "checkpoints").exists()


def test_rows_of_ones_own_to_test_on_need_no_truth(finished, tmp_path):
  workdir, _ = finished
  table = pq.read_table(workdir / "embedded_log.parquet")
  keep = [name for name in table.column_names if not name.startswith("true_")]
  pq.write_table(table.select(keep), tmp_path / "eval.parquet")
  config = train_auc.Config(**SMALL, eval_data=str(tmp_path / "eval.parquet"))
  test = inputs_lib.read_test(
      config, inputs_lib.read_inputs(config, tmp_path), tmp_path)
  assert test.truth is None and len(test.batch.labels) == table.num_rows


def test_another_configuration_is_refused(finished):
  workdir, _ = finished
  with pytest.raises(errors.UserError, match="--num_steps was 20, now 21"):
    train_auc.train(train_auc.Config(
        **{**SMALL, "num_steps": 21}, slice_by="age"), workdir)


# Bad input. Everything is checked before the first step: no test trains.


@pytest.fixture
def frame():
  """Columns of a good log; a test spoils them."""
  rng = np.random.default_rng(0)
  rows = 60
  return {"user_id": rng.integers(0, 20, rows),
          "time_ms": np.arange(rows),
          "click": rng.integers(0, 2, rows).astype(np.int8),
          "score_click": rng.random(rows), "age": ["a", "b"] * (rows // 2)}


def refusal(tmp_path, frame, **config):
  """The message with which a log is refused."""
  if frame is not None:
    pq.write_table(pa.table(frame), tmp_path / "log.parquet",
                   row_group_size=25)
    config.setdefault("data", str(tmp_path / "log.parquet"))
  config = {"batch_size": 4, **config}
  with pytest.raises((errors.UserError, schema_lib.DataError)) as caught:
    train_auc.train(train_auc.Config(**config), tmp_path / "run")
  # Left as it was: with the flag mended, the same workdir will do.
  assert not list((tmp_path / "run").iterdir())
  return str(caught.value)


def spoiled(frame, column, row, value):
  values = np.array(frame[column], dtype=object)
  values[row] = value
  return {**frame, column: values.tolist()}


def test_missing_empty_and_no_parquet(tmp_path):
  assert "no such file" in refusal(tmp_path, None, data="/nowhere.parquet")
  (tmp_path / "empty").mkdir()
  assert "no *.parquet" in refusal(tmp_path, None, data=str(tmp_path / "empty"))
  (tmp_path / "text.parquet").write_text("dear diary")
  assert "not a Parquet file" in refusal(
      tmp_path, None, data=str(tmp_path / "text.parquet"))


def test_cut_off_and_mixed_files(tmp_path, frame):
  folder = tmp_path / "parts"
  folder.mkdir()
  pq.write_table(pa.table(frame), folder / "0.parquet")
  content = (folder / "0.parquet").read_bytes()
  (folder / "1.parquet").write_bytes(content[:len(content) // 2])
  assert "1.parquet" in refusal(tmp_path, None, data=str(folder))
  other = {**frame, "click": [str(click) for click in frame["click"]]}
  pq.write_table(pa.table(other), folder / "1.parquet")
  said = refusal(tmp_path, None, data=str(folder))
  assert "'click'" in said and "string" in said and "int8" in said


@pytest.mark.parametrize("column, row, value, said", [
    ("click", 31, 2, "row 31: labels must be 0 or 1"),
    ("click", 3, None, "row 3: every row needs a label"),
    ("score_click", 52, float("nan"), "row 52: scores must be finite"),
    ("score_click", 0, float("inf"), "row 0: scores must be finite"),
    ("user_id", 26, None, "row 26: every row needs its user"),
    ("time_ms", 59, None, "row 59: every row needs its time")])
def test_the_first_bad_row_is_named(tmp_path, frame, column, row, value, said):
  message = refusal(tmp_path, spoiled(frame, column, row, value))
  assert said in message and repr(column) in message
  assert f"row group {row // 25}" in message
  assert "\n" not in message


def test_columns_that_are_not_there(tmp_path, frame):
  frame["score_clik"] = frame.pop("score_click")
  assert "'score_clik' has no column 'clik'" in refusal(tmp_path, frame)
  assert "did you mean 'click'" in refusal(tmp_path, frame)
  del frame["score_clik"]
  assert "no objective found" in refusal(tmp_path, frame)


def test_a_misspelt_score_does_not_make_its_label_a_feature(tmp_path, frame):
  frame |= {"like": frame["click"], "scor_like": frame["score_click"]}
  assert "did you mean 'score_like'" in refusal(tmp_path, frame)
  del frame["scor_like"], frame["like"]
  frame["true_click"] = frame["score_click"]
  assert "looks like the truth" in refusal(tmp_path, frame)


def test_zero_rows_and_wrong_types(tmp_path, frame):
  assert "no rows" in refusal(
      tmp_path, {name: values[:0] for name, values in frame.items()})
  frame["score_click"] = [str(value) for value in frame["score_click"]]
  assert "has type string; accepted: numbers" in refusal(tmp_path, frame)


@pytest.mark.parametrize("config, said", [
    ({"batch_size": 1000}, "--batch_size=1000 is larger than the data"),
    ({"objectives": ("clik",)}, "did you mean 'click'"),
    ({"lists": "request"}, "--lists=request needs a column"),
    ({"objective_weights": (1.0, 2.0)}, "--objective_weights has 2 values"),
    ({"slice_by": "agee"}, "did you mean 'age'"),
    ({"token_size": 3}, "token_size must be"),
    ({"relation_aware": False, "relation_agnostic": False}, "cannot both"),
    ({"init_from": "/nowhere"}, "no such folder"),
    ({"schema": "/nowhere.json"}, "no such file"),
    ({"eval_data": "/nowhere.parquet"}, "no such file")])
def test_flags_that_do_not_fit_the_data(tmp_path, frame, config, said):
  assert said in refusal(tmp_path, frame, **config)


def test_a_warm_start_says_what_is_new(tmp_path, frame, capsys):
  path = str(tmp_path / "log.parquet")
  pq.write_table(pa.table(frame), path)
  cold = inputs_lib.read_inputs(
      train_auc.Config(data=path, batch_size=4), tmp_path)
  assert "--init_from" not in " ".join(workdir_lib.notes(tmp_path))
  earlier = tmp_path / "earlier"
  earlier.mkdir()
  models.write_model(earlier, cold.model, {"scale": np.ones((4, 1))})
  warm = train_auc.Config(data=path, batch_size=4, init_from=str(earlier))
  for ages, said in ((["a", "b"], "0 of 2 of age"), (["a", "c"], "1 of 2"),
                     (["c", "d"], "2 of 2"), (["b", "b"], "0 of 1")):
    pq.write_table(pa.table({**frame, "age": ages * 30}), path)
    capsys.readouterr()
    inputs = inputs_lib.read_inputs(warm, tmp_path)
    line = workdir_lib.notes(tmp_path)[-1]
    assert said in line and str(earlier) in line
    assert line in capsys.readouterr().err
    # Read as unknown, the first entry.
    assert (inputs.sample.categorical[:, 0] == 0).any() == (said[0] != "0")


def test_evaluation_rows_are_checked_too(tmp_path, frame):
  pq.write_table(pa.table(spoiled(frame, "click", 2, 3)),
                 tmp_path / "eval.parquet")
  message = refusal(tmp_path, frame, eval_data=str(tmp_path / "eval.parquet"))
  assert "eval.parquet" in message and "row 2" in message


@pytest.mark.parametrize("column, value, said", [
    ("age", 3, "'age' holds int, which is not what"),
    ("score_click", 2.5, "outside [0, 1], the first is 2.5")])
def test_evaluation_rows_are_of_the_same_kind(
    tmp_path, frame, column, value, said):
  pq.write_table(pa.table({**frame, column: [value] * 60}),
                 tmp_path / "eval.parquet")
  assert said in refusal(
      tmp_path, frame, eval_data=str(tmp_path / "eval.parquet"))


def test_what_is_odd_is_said_and_does_not_decide(tmp_path, frame, capsys):
  rows = 400
  frame = {name: np.resize(values, rows) for name, values in frame.items()}
  frame["time_ms"] = 1_700_000_000 + np.arange(rows)
  frame["score_click"] = np.random.default_rng(1).random(rows)
  dwell = pa.array(np.where(frame["click"], 5.5, 0))
  log = pa.table(frame | {"dwell": dwell, "__index_level_0__": range(rows),
                          "price": pa.array([1] * rows).cast(
                              pa.decimal128(21, 2))})

  def read(table, name):
    pq.write_table(table, tmp_path / name)
    config = train_auc.Config(data=str(tmp_path / name))
    return inputs_lib.read_inputs(config, tmp_path)

  good = read(log, "log.parquet")
  assert good.model.schema.numeric == ("dwell",)
  said = capsys.readouterr().err
  for words in ("integers are read as seconds", "'dwell' tells 'click'",
                "'__index_level_0__' is left out", "price (decimal128(21, 2))"):
    assert said.count(words) == 1
  assert workdir_lib.notes(tmp_path) == [
      line.removeprefix("warning: ") for line in said.splitlines()
      if "one class" not in line]
  frame["time_ms"][0], frame["score_click"][1] = 0, -1
  odd = read(pa.table(frame | {"dwell": dwell}), "odd.parquet")
  said = capsys.readouterr().err
  assert "1 of 400 times is far" in said and "row 0)" in said
  assert "1 of 400 scores is outside [0, 1]" in said and "row 1)" in said
  assert odd.model.features.score_scales == {"click": None}
  np.testing.assert_allclose(odd.split.num_rows, good.split.num_rows, atol=3)
  assert not odd.sample.has_score[1, 0] and odd.sample.has_score[0, 0]


def test_a_schema_without_data_is_refused(tmp_path):
  assert "--schema needs --data" in refusal(tmp_path, None, schema="x.json")


# Of 60 rows, 39 are trained on, 9 validated and 12 tested on.
@pytest.mark.parametrize("part, rows", [
    ("train", slice(0, 39)), ("validate", slice(39, 48)),
    ("test", slice(48, 60))])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_in_a_part_is_said_before_the_training(
    tmp_path, frame, capsys, part, rows, label):
  frame = {**frame, "like": 1 - frame["click"],
           "score_like": frame["score_click"]}
  frame["click"][rows] = label
  path = tmp_path / "log.parquet"
  pq.write_table(pa.table(frame), path)
  config = train_auc.Config(data=str(path), batch_size=4)
  inputs_lib.read_test(
      config, inputs_lib.read_inputs(config, tmp_path), tmp_path)
  err = capsys.readouterr().err
  assert f"'click' has one class only in the rows to {part} on" in err
  assert err.count("one class") == 1
  # With nothing else to rank by, there is nothing to train.
  said = refusal(tmp_path, {name: values for name, values in frame.items()
                            if "like" not in name})
  assert (f"no objective has two classes in the {rows.stop - rows.start} rows "
          f"to {part} on (click)") in said


def test_other_data_under_the_same_name_is_refused(tmp_path, frame):
  config = train_auc.Config(data=str(tmp_path / "log.parquet"), batch_size=4)

  def begin():
    pq.write_table(pa.table(frame), tmp_path / "log.parquet")
    inputs = inputs_lib.read_inputs(config, tmp_path)
    inputs_lib.check_same_data(
        tmp_path, inputs, inputs_lib.read_test(config, inputs, tmp_path))

  begin()
  begin()
  frame["age"] = ["x", "y"] * 30
  with pytest.raises(errors.UserError, match="the data has changed"):
    begin()


def test_weights_are_not_all_0(tmp_path):
  config = train_auc.Config(**SMALL, objective_weights=(0.0,) * 6)
  with pytest.raises(errors.UserError, match="objective_weights are all 0"):
    inputs_lib.read_inputs(config, tmp_path)


# Slow: other heads, losses and lists; other processes.


@pytest.mark.slow
@pytest.mark.parametrize("config", [
    {"head": "score", "lists": "user", "objectives": ("like", "click")},
    {"head": "score", "loss": "pairwise", "lists": "request"},
    {"loss": "pairwise", "relation_aware": False},
    {"loss": "bce", "self_attention": False},
    {"loss": "auc_margin", "relation_agnostic": False},
    {"head": "score", "loss": "balanced_bce"}])
def test_every_way_to_train_runs(tmp_path, config):
  summary = train_auc.train(
      train_auc.Config(**{**SMALL, **config}), tmp_path / "run")
  assert 0.5 < summary["auc"]["click"] < 1
  if "lists" in config:
    assert summary["best_step"] == summary["num_steps"]


@pytest.mark.slow
@pytest.mark.parametrize("config, said", [
    ({"lists": "request"}, "no list of a batch has two items"),
    ({"relative_strength": 1e-4}, "of the items have no gradient")])
def test_a_training_that_teaches_nothing_says_so(
    tmp_path, capsys, frame, config, said):
  frame["request_id"] = np.arange(60)
  pq.write_table(pa.table(frame), tmp_path / "log.parquet")
  train_auc.train(train_auc.Config(
      data=str(tmp_path / "log.parquet"), batch_size=8, num_steps=4,
      num_members=1, **config), tmp_path / "run")
  warning, = (line for line in capsys.readouterr().err.splitlines()
              if "step" in line)
  assert said in warning


@pytest.mark.slow
def test_values_rank_by_their_size_and_a_profile_may_be_empty(tmp_path):
  rng = np.random.default_rng(0)
  rows = 6000
  liking, patience = rng.normal(size=(2, rows))
  seconds = np.exp(1 + patience + 0.3 * rng.normal(size=rows))
  pq.write_table(pa.table({
      "user": rng.integers(0, 500, rows), "time": np.arange(rows),
      "click": rng.random(rows) < 1 / (1 + np.exp(-liking)),
      "pclick": 1 / (1 + np.exp(-liking)), "seconds": seconds,
      "pwatch": patience}), tmp_path / "log.parquet")
  (tmp_path / "roles.json").write_text(json.dumps({
      "user": "user", "time": "time", "objectives": {
          "click": {"label": "click", "score": "pclick"},
          "watch": {"label": "seconds", "score": "pwatch", "value": True}}}))
  summary = train_auc.train(train_auc.Config(
      data=str(tmp_path / "log.parquet"), schema=str(tmp_path / "roles.json"),
      batch_size=1024), tmp_path / "run")
  own = summary["baselines"]["own_watch"]["auc"]["watch"]
  assert own > 0.9
  # Two independent wishes: each keeps most of what its own score knows.
  for ranked in (summary, summary["baselines"]["closed_form"]):
    assert ranked["auc"]["watch"] > 0.5 + 0.6 * (own - 0.5)
    assert ranked["auc_sum"] > summary["baselines"]["equal_sum"]["auc_sum"]


def command(workdir, **config):
  values = {**SMALL, "num_steps": 60, "workdir": workdir, **config}
  return [sys.executable, "-m", "experiments.train_auc",
          *(f"--{name}={value}" for name, value in values.items())]


def run(*args, **config):
  return subprocess.run(command(*args, **config), cwd=ROOT, text=True,
                        capture_output=True, check=False)


def assert_same_run(one, other):
  assert (one / "metrics.jsonl").read_bytes() == (
      other / "metrics.jsonl").read_bytes()
  summaries = [json.loads((w / "summary.json").read_text())
               for w in (one, other)]
  for summary in summaries:
    del summary["examples_per_second"]
  assert summaries[0] == summaries[1]
  states = [best_params(w) for w in (one, other)]
  for a, b in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_array_equal(a, b)


def best_params(workdir):
  config = workdir_lib.read_config(workdir)
  config = train_auc.Config(**config)
  task = train_auc.make_task(config, inputs_lib.read_inputs(config, workdir))
  checkpoints = checkpointing.Checkpoints(workdir / "checkpoints")
  state = checkpoints.restore(task.init())[1]
  checkpoints.close()
  return state


@pytest.mark.slow
def test_killed_and_started_again_it_ends_bit_identical(tmp_path):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  assert run(whole).returncode == 0
  for wait_for in ("checkpoints/12", "checkpoints/36"):
    process = subprocess.Popen(
        command(killed), cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / wait_for).exists() and process.poll() is None:
      assert time.monotonic() < deadline
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert run(killed).returncode == 0
  assert_same_run(whole, killed)


@pytest.mark.slow
def test_a_signal_and_a_full_disk_damage_nothing(tmp_path):
  workdir = tmp_path / "run"
  process = subprocess.Popen(
      command(workdir, num_steps=5000), cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  deadline = time.monotonic() + 120
  while not (workdir / "checkpoints" / "0").exists():
    assert time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 143
  assert "everything is saved" in err and "Traceback" not in err
  # Files cannot grow any more: as on a full disk.
  limited = subprocess.run(
      ["bash", "-c", "ulimit -f 4; exec \"$@\"", "bash",
       *command(tmp_path / "other")], cwd=ROOT, text=True,
      capture_output=True, check=False,
      env={**os.environ, "TENSORSTORE_LOCK_DISABLE": "1"})
  assert limited.returncode == 2, limited.stderr
  assert "Traceback" not in limited.stderr


@pytest.mark.slow
def test_on_a_wrong_flag_the_binary_says_one_line(tmp_path):
  for arguments, said in ((["--lossy=1"], "lossy"),
                          (["--num_steps=-3"], "num_steps"),
                          (["--relative_strength=nan"], "relative_strength"),
                          (["--seed=99999999999999999999"], "seed"),
                          (["--data=/nowhere"], "no such file")):
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.train_auc",
         f"--workdir={tmp_path / 'run'}", *arguments], cwd=ROOT, text=True,
        capture_output=True, check=False)
    assert ended.returncode == 2
    assert said in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("world", ["independent", "perfect"])
def test_where_no_method_should_win_none_does(tmp_path, world):
  summary = train_auc.train(train_auc.Config(
      num_exposures=40_000, world=world, num_steps=60), tmp_path / "run")
  closed_form = summary["baselines"]["closed_form"]
  assert abs(closed_form["lead"]) < 2 * closed_form["lead_error"] + 0.01
