"""The binary that trains re-ranking policies."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import train_reranker
from experiments.reranker import config as config_lib
from experiments.reranker import limits
from experiments.reranker import training
from experiments.reranker import world as world_lib
from experiments.runs import errors
from harmonrank_jax.serving import models


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(config_lib.Config):
  """A configuration of very short judging."""

  @property
  def scale(self):
    return config_lib.Scale(2, 4, 2, 4)


SMALL = Config(
    num_exposures=4000, num_slots=6, num_candidates=20, num_envs=4,
    num_updates=4)


class Killed(BaseException):
  """What a SIGKILL would do to the process, as far as a test can."""


@pytest.mark.parametrize("changes, said", [
    pytest.param({"items": "items.parquet"}, "--items needs --data",
                 id="items alone"),
    pytest.param({"theta": 1.0}, "--theta=1.0 must be between", id="theta"),
    pytest.param({"diversity": -1.0, "diversity_quantile": 0.5}, "give one",
                 id="two limits"),
    pytest.param({"data": "log.parquet", "relevance": "pctcvr"},
                 "--value_score_column", id="no value score"),
    pytest.param({"category_values": ("phone=2",)},
                 "no category 'phone'.*'phones'", id="unknown category"),
    pytest.param({"exposure_floors": ("phones=x",)},
                 "expected a number from 0, got 'x'", id="no number"),
    pytest.param({"exposure_floors": ("phones=0.6", "toys=0.6")},
                 "shares sum to 1", id="too much exposure"),
    pytest.param({"constraint": "fixed", "exposure_floors": ("phones=0.1",)},
                 "needs --multiplier", id="no price"),
    pytest.param({"num_slots": 40}, "more than 30 positions", id="num_slots"),
    pytest.param({"num_candidates": 2000}, "lower --num_candidates",
                 id="num_candidates")])
def test_what_does_not_fit_is_said_and_leaves_no_workdir(
    tmp_path, changes, said):
  with pytest.raises(errors.UserError, match=said):
    train_reranker.train(
        dataclasses.replace(SMALL, **changes), tmp_path / "run")
  assert not any((tmp_path / "run").iterdir())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("log")
  return world_lib.fit_log(SMALL, world_lib.read_log(SMALL, workdir), workdir)


@pytest.fixture
def compiles_fast():
  """What is compiled here runs for a moment only."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.usefixtures("compiles_fast")
def test_a_killed_training_ends_like_one_that_was_not(
    fitted, tmp_path, monkeypatch):
  limit = limits.make_limit(SMALL, fitted)
  recipe = training.recipes(SMALL, fitted, limit)["ppo"]
  task = training.PageTask(
      recipe, fitted.fit, fitted.params, num_seeds=2, seed=0)

  def run(folder, kill_at=None):
    calls = 0
    update = task.update

    def counted(state, batch):
      nonlocal calls
      calls += 1
      if calls == kill_at:
        raise Killed
      return update(state, batch)

    with monkeypatch.context() as patch:
      patch.setattr(task, "update", counted)
      return training.train(task, folder).state

  whole = run(tmp_path / "whole")
  with pytest.raises(Killed):
    run(tmp_path / "killed", kill_at=3)
  resumed = run(tmp_path / "killed")
  jax.tree.map(
      np.testing.assert_array_equal,
      *(jax.tree.map(np.asarray, state._replace(learner=state.learner._replace(
          key=jax.random.key_data(state.learner.key))))
        for state in (whole, resumed)))
  metrics = [(tmp_path / name / "metrics.jsonl").read_bytes()
             for name in ("whole", "killed")]
  assert metrics[0] == metrics[1] and metrics[0].count(b"\n") >= 5


@pytest.mark.slow
@pytest.mark.usefixtures("compiles_fast")
@pytest.mark.parametrize("changes", [
    pytest.param({}, id="defaults"),
    pytest.param(
        {"preset": "paper", "max_requests": 2, "scope": "window",
         "spread": None, "feedback_rule": 0.0, "relevance": "pctcvr",
         "base": "uncalibrated", "layout": "slot_category", "diversity": -0.01,
         "constraint": "pid", "exposure_floors": ("toys=0.1",),
         "category_values": ("phones=2", "toys=0.5")}, id="paper")])
def test_a_run_leaves_what_it_promises(tmp_path, capsys, changes):
  config = dataclasses.replace(SMALL, **changes)
  summary = train_reranker.train(config, tmp_path / "run")
  out, err = capsys.readouterr()
  assert summary == json.loads((tmp_path / "run/summary.json").read_text())
  rows = summary["policies"]
  assert {"ppo", "uncalibrated", "random", "intercepts", "platt", "isotonic",
          "platt_by_hour", "cross_entropy", "privileged"} <= set(rows)
  assert set(summary["paired"]) == set(rows) - {"ppo"}
  for row in rows.values():
    assert 0 < row["ctr"] < 1 and row["cumulative_reward"] > 0
    assert row["diversity"] <= 0 and 0 <= row["violation_rate"] <= 1
    assert sum(row["exposure_share"].values()) == pytest.approx(1)
    assert sum(row["reward_by_category"].values()) == pytest.approx(
        row["cumulative_reward"])
  for name, ahead in summary["paired"].items():
    assert ahead["mean"] == pytest.approx(
        rows["ppo"]["ctr"] - rows[name]["ctr"], abs=1e-6)
    assert ahead["low"] <= ahead["mean"] <= ahead["high"]
  # Every step is evaluated after, and the first after that is not timed.
  assert summary["user_steps_per_second"] is None
  assert (tmp_path / "run/report.html").stat().st_size > 10_000
  for name in rows:
    assert name in out
  assert ("cannot be met" in err) == ("diversity" in changes)
  for line in summary["complaints"]:
    assert f"{line}\n" in out
  if "diversity" in changes:
    assert summary["complaints"][0].startswith("ppo does not keep to what")
  model, parameters = models.read_model(tmp_path / "run")
  assert model.columns.value_score == "score_buy"
  assert parameters["actor/mean/bias"].shape == (model.simulator.action_size,)
  for name in summary["delivered"]:
    assert len(summary["delivered"][name]["update"]) == config.scale.num_seeds


@pytest.mark.slow
@pytest.mark.parametrize("argument, said", [
    ("--layout=rows", "layout"), ("--theta=nan", "theta"),
    ("--theta=0", "theta"), ("--batch_size=3", "batch_size"),
    ("--data=/nowhere", "no such file")], ids=lambda text: text.strip("-"))
def test_on_a_wrong_flag_the_binary_says_one_line(tmp_path, argument, said):
  ended = subprocess.run(
      [sys.executable, "-m", "experiments.train_reranker",
       f"--workdir={tmp_path / 'run'}", argument], text=True,
      capture_output=True, check=False)
  assert ended.returncode == 2, ended.stderr
  assert said in ended.stderr and ended.stderr.count("\n") == 1
