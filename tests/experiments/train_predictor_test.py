"""The predictor's binary: what it leaves behind, and what a score knows."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk_metrics

from experiments import train_predictor
from experiments.predictor import inputs as inputs_lib
from experiments.predictor import results
from experiments.predictor import task as task_lib
from experiments.runs import errors
from experiments.runs import logs
from harmonrank_jax.data import generator
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import scored_logs

ROOT = pathlib.Path(__file__).parents[2]
SMALL = train_predictor.Config(
    num_exposures=1500, batch_size=128, num_steps=20, num_folds=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A small run on the embedded log: its workdir and summary."""
  workdir = tmp_path_factory.mktemp("runs") / "small"
  return workdir, train_predictor.train(SMALL, workdir)


@pytest.fixture(scope="module")
def inputs(finished):
  """What that run was trained on."""
  return inputs_lib.read_inputs(SMALL, finished[0])


def scores_of(workdir, name):
  """`[N, M]`."""
  table = pq.read_table(workdir / "scored" / f"{name}.parquet")
  return np.stack([table[f"score_{objective}"].to_numpy()
                   for objective in generator.OBJECTIVES], axis=1)


def test_a_workdir_holds_everything(finished):
  workdir, summary = finished
  assert {p.name for p in workdir.iterdir()} >= {
      "config.json", "metrics.jsonl", "tensorboard", "checkpoints",
      "summary.json"}
  assert {p.name for p in (workdir / "scored").iterdir()} == {
      "train.parquet", "eval.parquet", "schema.json"}
  assert json.loads((workdir / "summary.json").read_text()) == summary
  assert summary["objectives"] == list(generator.OBJECTIVES)
  assert summary["num_steps"] == 20
  assert summary["examples_per_second"] > 0
  assert summary["config"]["num_folds"] == 3


def test_a_scored_log_is_what_the_ensemble_reads(finished):
  workdir, summary = finished
  for name, rows in (("train", summary["train_rows"]),
                     ("eval", summary["test_rows"])):
    log, schema = logs.open_log(workdir / "scored" / f"{name}.parquet", None)
    parquet.check_log(log, schema)
    assert log.num_rows == rows
    assert schema == generator.SCHEMA
    assert schema == schema_lib.read_schema(
        workdir / "scored" / "schema.json")
    assert set(log.arrow_schema.names) == set(schema.columns)
    for objective in generator.OBJECTIVES:
      assert log.arrow_schema.field(f"score_{objective}").type == pa.float32()


def test_rows_go_along_unchanged(finished):
  workdir, _ = finished
  whole = pq.read_table(workdir / "embedded_log.parquet")
  parts = [pq.read_table(workdir / "scored" / f"{name}.parquet")
           for name in ("train", "eval")]
  both = pa.concat_tables(parts)
  # The log is sorted by time and the last part held out.
  for name in ("user_id", "item_id", "request_id", "time_ms", "age", "device",
               "tenure_days", *generator.OBJECTIVES):
    assert both[name].to_pylist() == whole[name].to_pylist()


def test_the_summary_agrees_with_scikit_learn(finished):
  workdir, summary = finished
  for name, measured in (("eval", "auc"), ("train", "out_of_fold_auc")):
    table = pq.read_table(workdir / "scored" / f"{name}.parquet")
    for m, objective in enumerate(generator.OBJECTIVES):
      labels, scores = table[objective].to_numpy(), scores_of(workdir, name)
      if labels.min() == labels.max():
        assert summary[measured][objective] is None
        continue
      assert summary[measured][objective] == pytest.approx(
          sk_metrics.roc_auc_score(labels, scores[:, m]), abs=1e-5)
      if name == "eval":
        assert summary["positives"][objective] == labels.sum()
        assert summary["log_loss"][objective] == pytest.approx(
            sk_metrics.log_loss(labels, scores[:, m].astype(np.float64)),
            abs=1e-5)
        assert summary["log_loss_error"][objective] > 0
  assert (0 < summary["auc_low"]["click"] < summary["auc"]["click"]
          < summary["auc_high"]["click"] < 1)


def test_a_second_run_changes_nothing(finished):
  workdir, summary = finished
  before = {name: (workdir / name).read_bytes() for name in (
      "scored/train.parquet", "scored/eval.parquet", "metrics.jsonl")}
  assert train_predictor.train(SMALL, workdir) == summary
  for name, content in before.items():
    assert (workdir / name).read_bytes() == content


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(
    finished, tmp_path, monkeypatch):
  update = task_lib.FoldTask.update

  def killed_at_13(task, state, batch):
    if batch.step == 13:
      raise InterruptedError
    return update(task, state, batch)

  with monkeypatch.context() as patched, pytest.raises(InterruptedError):
    patched.setattr(task_lib.FoldTask, "update", killed_at_13)
    train_predictor.train(SMALL, tmp_path / "killed")
  train_predictor.train(SMALL, tmp_path / "killed")
  for name in ("scored/train.parquet", "scored/eval.parquet",
               "metrics.jsonl"):
    assert (tmp_path / "killed" / name).read_bytes() == (
        finished[0] / name).read_bytes()


def test_resuming_on_other_data_is_refused(inputs):
  task = task_lib.make_task(SMALL, inputs)
  rows = inputs.rows._replace(labels=~inputs.rows.labels)
  other = task_lib.make_task(SMALL, inputs._replace(rows=rows))
  cursor = task.batches(None).cursor
  assert task.batches([5, cursor[1]]).cursor == [5, cursor[1]]
  with pytest.raises(errors.UserError, match="the data has changed"):
    other.batches(cursor)


def trained(inputs, num_steps=4):
  """A task and parameters of all models after some steps."""
  task = task_lib.make_task(SMALL, inputs)
  state = task.init()
  batches = task.batches(None)
  for _ in range(num_steps):
    state, _ = task.update(state, next(batches))
  return task, state.train.params


def test_labels_of_a_fold_do_not_change_its_scores(inputs):
  folds = task_lib.deal(
      inputs.is_validation, num_folds=SMALL.num_folds, seed=SMALL.seed)
  task, params = trained(inputs)
  before = task.out_of_fold(params)
  mine = folds.fold == 1
  labels = np.where(mine[:, None], ~inputs.rows.labels, inputs.rows.labels)
  task, params = trained(
      inputs._replace(rows=inputs.rows._replace(labels=labels)))
  after = task.out_of_fold(params)
  np.testing.assert_array_equal(after[mine], before[mine])
  # While every other fold has seen them.
  for fold in (0, 2):
    changed = (after != before)[folds.fold == fold]
    assert changed.mean() > 0.99


def test_the_judged_model_does_not_see_validation_rows(inputs):
  task, params = trained(inputs)
  before, rows = task.judged(params)
  full = task.full(params, inputs.test)
  assert len(rows.labels) == inputs.is_validation.sum()
  labels = np.where(inputs.is_validation[:, None], ~inputs.rows.labels,
                    inputs.rows.labels)
  task, params = trained(
      inputs._replace(rows=inputs.rows._replace(labels=labels)))
  after, _ = task.judged(params)
  np.testing.assert_array_equal(after, before)
  assert (task.full(params, inputs.test) != full).mean() > 0.99


def test_a_value_that_a_model_has_not_met_is_unknown_to_it(inputs):
  task, params = trained(inputs, num_steps=1)
  test = inputs.test
  rows = inputs.rows.categorical.copy()
  gone = rows[0, 0]
  rows[rows[:, 0] == gone, 0] = 0
  other = task_lib.make_task(
      SMALL, inputs._replace(rows=inputs.rows._replace(categorical=rows)))
  unknown = test.categorical.copy()
  unknown[unknown[:, 0] == gone, 0] = 0
  np.testing.assert_array_equal(
      other.full(params, test),
      task.full(params, test._replace(categorical=unknown)))


def test_rows_are_dealt_evenly():
  is_validation = np.arange(23) % 4 == 0
  folds = task_lib.deal(is_validation, num_folds=5, seed=3)
  assert sorted(np.bincount(folds.fold)) == [4, 4, 5, 5, 5]
  for fold in range(5):
    np.testing.assert_array_equal(folds.trains[:, fold], folds.fold != fold)
  assert folds.trains[:, task_lib.FULL].all()
  np.testing.assert_array_equal(
      folds.trains[:, task_lib.JUDGED], ~is_validation)
  again = task_lib.deal(is_validation, num_folds=5, seed=3)
  np.testing.assert_array_equal(again.fold, folds.fold)
  other = task_lib.deal(is_validation, num_folds=5, seed=4)
  assert (other.fold != folds.fold).any()


def test_an_epoch_takes_every_row_once(inputs):
  task = task_lib.make_task(SMALL, inputs)
  num_rows = len(inputs.is_validation)
  steps = -(-2 * num_rows // SMALL.batch_size)
  batches = task.batches(None)
  drawn = np.concatenate([next(batches).indices for _ in range(steps)])
  for epoch in range(2):
    np.testing.assert_array_equal(
        np.sort(drawn[epoch * num_rows:(epoch + 1) * num_rows]),
        np.arange(num_rows))
  # A function of the step alone.
  later = task.batches([3, task.batches(None).cursor[1]])
  np.testing.assert_array_equal(
      next(later).indices, drawn[3 * SMALL.batch_size:4 * SMALL.batch_size])


@pytest.fixture(scope="module")
def own_log(tmp_path_factory):
  """A log with names of its own, in a folder with its schema."""
  folder = tmp_path_factory.mktemp("own")
  rng = np.random.default_rng(0)
  size = 400
  tier = pa.array(rng.choice(["a", "b"], size))
  missing = np.arange(size) % 7 == 0
  table = pa.table({
      "who": rng.integers(20, size=size).astype(str),
      "what": rng.integers(30, size=size),
      "when": pa.array(np.sort(rng.integers(10**6, size=size)) * 1000,
                       pa.timestamp("ms")),
      "tier": pa.array(tier.to_pylist(), mask=missing),
      "is_new": rng.random(size) < 0.5,
      "age": pa.array(rng.integers(90, size=size), mask=missing),
      "bought": rng.random(size) < 0.3,
      "seconds": rng.exponential(9.0, size),
      "secret": rng.random(size)})
  pq.write_table(table, folder / "log.parquet")
  (folder / "roles.json").write_text(json.dumps({
      "objectives": {"buy": {"label": "bought"},
                     "watch": {"label": "seconds", "value": True}},
      "user": "who", "item": "what", "time": "when",
      "categorical": ["who", "tier", "is_new"], "numeric": ["age"]}))
  return folder


def test_a_log_with_a_schema_is_scored_under_the_names_of_roles(
    own_log, tmp_path):
  config = train_predictor.Config(
      data=str(own_log / "log.parquet"), schema=str(own_log / "roles.json"))
  inputs = inputs_lib.read_inputs(config, tmp_path)
  source = inputs.source
  assert source.profile == ("tier", "is_new", "age")
  assert source.personal == ("who",)
  scores = np.full((inputs.table.num_rows, 2), 0.25, np.float32)
  table = scored_logs.scored_table(
      inputs.table, source.schema, source.profile, scores)
  assert table.column_names == [
      "user_id", "item_id", "time_ms", "buy", "score_buy", "watch",
      "score_watch", "tier", "is_new", "age"]
  path = tmp_path / "scored.parquet"
  parquet.write_parquet(table, path)
  log, by_name = logs.open_log(path, None)
  assert by_name.categorical == ("tier", "is_new")
  assert by_name.numeric == ("age",)
  # Values are no labels of 0 and 1, which is for a schema to say.
  schema = scored_logs.scored_schema(source.schema, source.profile)
  parquet.check_log(log, schema)
  for name in ("tier", "age"):
    assert table[name].null_count == inputs.table[name].null_count > 0
  assert set(table["is_new"].to_pylist()) == {"true", "false"}
  # Values as they are, however many digits they have.
  assert table["watch"].type == pa.float64()
  np.testing.assert_array_equal(
      table["time_ms"], inputs.table["when"].to_numpy().astype(np.int64))


def kuairand_log(folder, size=300):
  """A tiny log and table of users as released."""
  rng = np.random.default_rng(1)
  columns = {name: rng.integers(2, size=size) for name in (
      "is_click", "is_like", "long_view")}
  table = pa.table({
      "user_id": rng.integers(9, size=size),
      "video_id": rng.integers(20, size=size),
      "time_ms": np.sort(rng.integers(10**9, size=size)),
      "hourmin": rng.integers(24, size=size) * 100,
      "duration_ms": rng.integers(2, size=size) * 5000, **columns,
      "play_time_ms": rng.integers(9000, size=size)})
  pq.write_table(table, folder / "log.parquet")
  pq.write_table(pa.table({
      "user_id": np.arange(9), "degree": ["full", None, "high"] * 3}),
                 folder / "users.parquet")


def test_the_public_log_is_prepared(tmp_path):
  kuairand_log(tmp_path)
  config = train_predictor.Config(
      format="kuairand", data=str(tmp_path / "log.parquet"),
      users=str(tmp_path / "users.parquet"))
  inputs = inputs_lib.read_inputs(config, tmp_path / "work")
  source = inputs.source
  scores = np.full((inputs.table.num_rows, 3), 0.25, np.float32)
  table = scored_logs.scored_table(
      inputs.table, source.schema, source.profile, scores)
  # Nothing of the item, and no outcome but the labels.
  assert table.column_names == [
      "user_id", "item_id", "time_ms", "click", "score_click", "long_view",
      "score_long_view", "like", "score_like", "hour", "degree", "user_rows",
      "user_rate_click", "user_rate_long_view", "user_rate_like"]
  assert table["degree"].null_count
  assert source.domain == ("hour",)
  # A log to evaluate on that was once prepared is not taken for one now.
  with_evaluation = dataclasses.replace(config, eval_data=config.data)
  assert inputs_lib.read_inputs(
      with_evaluation, tmp_path / "work").test.labels.shape == (300, 3)
  assert len(inputs_lib.read_inputs(
      config, tmp_path / "work").test.labels) < 300


@pytest.mark.parametrize(("change", "message"), [
    ({"data": "missing.parquet"}, "no such file"),
    ({"data": "missing.parquet", "format": "kuairand"}, "no such file"),
    ({"format": "kuairand"}, "--format=kuairand needs --data"),
    ({"users": "users.parquet"}, "need --format"),
    ({"schema": "roles.json"}, "--schema needs --data"),
    ({"data": "x", "format": "kuairand", "schema": "y"}, "exclude each other"),
    ({"objectives": ("clik",)}, "did you mean 'click'"),
    ({"domain": ("ages",)}, "did you mean 'age'"),
    ({"domain": ("tenure_days",)}, "no categorical column"),
    ({"batch_size": 1400}, "--batch_size=1400 is larger than the data")])
def test_bad_input_is_one_line_and_leaves_nothing(change, message, tmp_path):
  config = dataclasses.replace(SMALL, **change)
  with pytest.raises((errors.UserError, schema_lib.DataError),
                     match=message) as caught:
    train_predictor.train(config, tmp_path / "run")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run" / "config.json").exists()


def test_another_configuration_is_refused(finished):
  config = dataclasses.replace(SMALL, eval_data="other.parquet")
  with pytest.raises(errors.UserError, match="--eval_data was not set"):
    train_predictor.train(config, finished[0])


@pytest.mark.parametrize(("profile", "message"), [
    (("score_of_trust",), "would be taken for a score"),
    (("click",), "in two roles"), (("time_ms",), "in two roles")])
def test_names_that_would_be_misread_are_refused(profile, message):
  schema = schema_lib.Schema(
      (schema_lib.Objective("click", "is_click"),), user="who",
      numeric=profile)
  with pytest.raises(schema_lib.DataError, match=message):
    scored_logs.check_names(schema, profile)


def test_errors_of_log_loss_are_those_of_the_mean():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(500, 2)), rng.random((500, 2)) < 0.3
  users = np.arange(500) // 5
  found = results.measure(logits, labels, None, np.asarray([0.3, 0.3]))
  losses = np.where(labels, np.logaddexp(0, -logits), np.logaddexp(0, logits))
  np.testing.assert_allclose(found.log_loss, losses.mean(axis=0))
  np.testing.assert_allclose(
      found.log_loss_error, losses.std(axis=0) / np.sqrt(500))
  by_user = losses.reshape(100, 5, 2).mean(axis=1)
  np.testing.assert_allclose(
      results.measure(logits, labels, users, np.asarray([0.3, 0.3]))
      .log_loss_error, by_user.std(axis=0) / 10)
  np.testing.assert_allclose(found.base_log_loss, -(
      labels.mean(axis=0) * np.log(0.3)
      + (1 - labels.mean(axis=0)) * np.log(0.7)))


@pytest.mark.slow
def test_help_is_fast_and_bad_flags_end_with_one_line():
  run = lambda *arguments: subprocess.run(
      [sys.executable, "-m", "experiments.train_predictor", *arguments],
      cwd=ROOT, capture_output=True, text=True, timeout=60)
  shown = run("--help")
  assert shown.returncode == 0
  for name in ("--data", "--users", "--format", "--num_folds", "--workdir"):
    assert name in shown.stdout
  refused = run("--format=movielens")
  assert refused.returncode == 2
  assert refused.stderr.count("\n") == 1 and "kuairand" in refused.stderr


@pytest.mark.slow
def test_learns_more_than_base_rates(tmp_path):
  config = train_predictor.Config(num_exposures=40_000, num_steps=150)
  summary = train_predictor.train(config, tmp_path / "run")
  for name in ("click", "long_view"):
    assert summary["log_loss"][name] < summary["base_log_loss"][name]
    assert summary["auc"][name] > 0.5 + 3 * summary["auc_error"][name]
    assert summary["out_of_fold_auc"][name] > 0.55
