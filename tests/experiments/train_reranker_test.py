"""The binary that trains re-ranking policies."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import train_reranker
from experiments.reranker import judging as page_policies
from experiments.reranker import task as page_task
from experiments.reranker import world as home_page
from experiments.runs import errors

SMALL = train_reranker.Config(
    num_exposures=4000, num_slots=6, num_candidates=20, num_envs=4,
    num_updates=4)
SCALE = train_reranker.Scale(2, 4, 2, 4)


class Killed(BaseException):
  """What a SIGKILL would do to the process, as far as a test can."""


@pytest.mark.parametrize("changes, said", [
    ({"items": "items.parquet"}, "--items needs --data"),
    ({"theta": 1.0}, "--theta=1.0 must be between"),
    ({"diversity": -1.0, "diversity_quantile": 0.5}, "give one"),
    ({"data": "log.parquet", "relevance": "pctcvr"}, "--value_score_column"),
    ({"category_values": ("phone=2",)}, "no category 'phone'.*'phones'"),
    ({"exposure_floors": ("phones=x",)}, "expected a number from 0, got 'x'"),
    ({"exposure_floors": ("phones=0.6", "toys=0.6")}, "shares sum to 1"),
    ({"num_slots": 40}, "more than 30 positions"),
    ({"num_candidates": 2000}, "lower --num_candidates")])
def test_what_does_not_fit_is_said_and_leaves_no_workdir(
    tmp_path, changes, said):
  with pytest.raises(errors.UserError, match=said):
    train_reranker.train(
        dataclasses.replace(SMALL, **changes), tmp_path / "run")
  assert not any((tmp_path / "run").iterdir())


def test_intervals_are_those_of_students_t():
  found = page_policies.interval(np.array([1.0, 2.0, 3.0]))
  half = 4.302653 * 1.0 / 3**0.5
  np.testing.assert_allclose(found, (2.0, 2 - half, 2 + half), rtol=1e-6)
  assert np.isnan(page_policies.interval(np.array([1.0])).low)


def test_days_are_summed_up_as_by_hand():
  ones = np.ones((2, 1, 2, 3))
  days = page_policies.Days(
      clicks=ones * np.array([[[1.0], [2]]])[None], exposures=10 * ones,
      reward=2 * ones, cost=np.array([[[1.0, 4.0]], [[2.0, 3.0]]]),
      counted=np.full((2, 1, 2), 2.0), users=np.full((2, 1, 2), 4.0))
  probe = home_page.Probe(0.0, 10.0, np.zeros(1), 1.0)
  found = page_policies.summarise(days, 1.1, probe)
  assert found.ctr == pytest.approx(0.15)
  assert found.cumulative_reward == pytest.approx(2 * 3 / 4)
  # Costs of 0.5, 2, 1 and 1.5 a slate; 1.1 + 0.02 * 10 is exceeded twice.
  assert found.diversity == pytest.approx(-1.25)
  assert found.violation_rate == pytest.approx(0.5)
  assert found.excess.mean == pytest.approx(0.15)
  np.testing.assert_allclose(found.exposure_share, np.full(3, 1 / 3))
  assert page_policies.paired(days, days) == (0, 0, 0)


def test_thresholds_are_the_mean_or_a_quantile_and_may_be_out_of_reach():
  probe = home_page.Probe(0.4, 1.2, np.array([0.8, 1.0, 1.2]), 0.95)
  assert probe.threshold(None) == 0.95
  assert probe.threshold(0.5) == 1.0
  assert probe.is_feasible(0.5) and not probe.is_feasible(0.3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  log = train_reranker.read_log(SMALL, tmp_path_factory.mktemp("world"))
  return train_reranker.make_world(SMALL, log)


@pytest.fixture
def compiles_fast():
  """What is compiled here runs for a moment only."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.usefixtures("compiles_fast")
def test_a_killed_training_ends_like_one_that_was_not(
    world, tmp_path, monkeypatch):
  monkeypatch.setitem(train_reranker.SCALES, "quick", SCALE)
  limit = train_reranker.make_limit(SMALL, world)
  recipe = train_reranker.recipes(SMALL, world, limit)["ppo"]
  task = page_task.PageTask(
      recipe, world.fit, world.params, num_seeds=2, seed=0)

  def run(folder, kill_at=None):
    calls = 0
    step = task.step

    def counted(state):
      nonlocal calls
      calls += 1
      if calls == kill_at:
        raise Killed
      return step(state)

    with monkeypatch.context() as patch:
      patch.setattr(task, "step", counted)
      return page_task.train(task, folder, recipe, 2).learner

  whole = run(tmp_path / "whole")
  with pytest.raises(Killed):
    run(tmp_path / "killed", kill_at=3)
  resumed = run(tmp_path / "killed")
  jax.tree.map(
      np.testing.assert_array_equal,
      *(jax.tree.map(np.asarray, learner._replace(
          key=jax.random.key_data(learner.key)))
        for learner in (whole, resumed)))
  metrics = [(tmp_path / name / "metrics.jsonl").read_bytes()
             for name in ("whole", "killed")]
  assert metrics[0] == metrics[1] and metrics[0].count(b"\n") >= 5


@pytest.mark.slow
@pytest.mark.usefixtures("compiles_fast")
@pytest.mark.parametrize("changes", [
    {},
    {"preset": "document", "max_requests": 2, "scope": "window",
     "spread": None, "feedback_rule": 0.0, "relevance": "pctcvr",
     "base": "uncalibrated", "layout": "slot_category", "diversity": -0.01,
     "constraint": "pid", "exposure_floors": ("toys=0.1",),
     "category_values": ("phones=2", "toys=0.5")}])
def test_a_run_leaves_what_it_promises(
    tmp_path, monkeypatch, capsys, changes):
  monkeypatch.setitem(train_reranker.SCALES, "quick", SCALE)
  config = dataclasses.replace(SMALL, **changes)
  summary = train_reranker.train(config, tmp_path / "run")
  out, err = capsys.readouterr()
  assert summary == json.loads((tmp_path / "run/summary.json").read_text())
  policies = summary["policies"]
  assert {"ppo", "uncalibrated", "random", "intercepts", "platt", "isotonic",
          "platt_by_hour", "cross_entropy", "privileged"} <= set(policies)
  assert set(summary["paired"]) == set(policies) - {"ppo"}
  for found in policies.values():
    assert 0 < found["ctr"] < 1 and found["cumulative_reward"] > 0
    assert found["diversity"] <= 0 and 0 <= found["violation_rate"] <= 1
    assert sum(found["exposure_share"].values()) == pytest.approx(1)
    assert sum(found["reward_by_category"].values()) == pytest.approx(
        found["cumulative_reward"])
  for name, found in summary["paired"].items():
    assert found["mean"] == pytest.approx(
        policies["ppo"]["ctr"] - policies[name]["ctr"], abs=1e-6)
    assert found["low"] <= found["mean"] <= found["high"]
  # Every step is evaluated after, and the first after that is not timed.
  assert summary["user_steps_per_second"] is None
  assert (tmp_path / "run/report.html").stat().st_size > 10_000
  for name in policies:
    assert name in out
  assert ("cannot be met" in err) == ("diversity" in changes)


@pytest.mark.slow
def test_on_a_wrong_flag_the_binary_says_one_line(tmp_path):
  for arguments, said in ((["--layout=rows"], "layout"),
                          (["--theta=nan"], "theta"),
                          (["--theta=0"], "theta"),
                          (["--batch_size=3"], "batch_size"),
                          (["--data=/nowhere"], "no such file")):
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.train_reranker",
         f"--workdir={tmp_path / 'run'}", *arguments], text=True,
        capture_output=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr and ended.stderr.count("\n") == 1
