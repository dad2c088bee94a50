"""The suite of policies; learners that compile are left to slow tests."""

import json
import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import policy
from experiments.benchmarks import policy_peer
from experiments.benchmarks import policy_problems as problems
from experiments.benchmarks import timing as timing_lib
from experiments.runs import errors
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import trajectory
from tests.experiments.benchmarks import small

TINY = problems.Shape(
    categories=3, slots=2, candidates=6, features=4, users=4, places=8,
    items=16, envs=3, steps=4, observation=6, action=2, rewards=3)


class FakeUpdates:
  """A learner that takes no time."""

  compile_seconds = 1.5

  def __init__(self, *args, **kwargs):
    self.actor_steps = []

  def __call__(self):
    self.actor_steps.append(3)


class FakePeer:
  """Records what it is shown, and learns nothing."""

  def __init__(self, shown, replay, config, seed):
    self._shown = shown

  def update(self, threads=1):
    assert threads == 1

  def seen(self):
    return seen_by_hand(self._shown)


def trajectory_by_hand(shown):
  """Two episodes, one after the other."""
  observation = np.concatenate([np.swapaxes(shown, 0, 1)] * 2)
  length = len(observation) // 2
  terminated = np.zeros(observation.shape[:2], bool)
  terminated[[length - 1, -1]] = True
  nothing = dict.fromkeys(trajectory.Trajectory._fields)
  return trajectory.Trajectory(**{
      **nothing, "observation": observation, "terminated": terminated,
      "reward": observation[..., :TINY.rewards]})


def seen_by_hand(shown):
  """Advantages by their definition, backwards in each episode."""
  trajectory = trajectory_by_hand(np.asarray(shown, np.float64))
  reward = trajectory.reward.sum(axis=-1)
  value = np.random.default_rng(0).standard_normal(reward.shape)
  advantage = np.zeros_like(reward)
  then_value = then_advantage = np.zeros(len(shown))
  for t in range(len(reward))[::-1]:
    goes_on = 0.95 * ~trajectory.terminated[t]
    advantage[t] = (reward[t] + goes_on * then_value - value[t]
                    + 0.95 * goes_on * then_advantage)
    then_value, then_advantage = value[t], advantage[t]
  return policy_peer.Seen(*(x.astype(np.float32) for x in (
      trajectory.observation, reward, value, advantage)), trajectory.terminated)


LEARNERS = policy.Learners(
    FakeUpdates, FakePeer,
    lambda replay, shown, config: trajectory_by_hand(shown), threads=(1,))


@pytest.fixture(scope="module")
def acted(tmp_path_factory):
  """A small run on policies: its workdir and content."""
  workdir = tmp_path_factory.mktemp("benchmark") / "policy"
  return workdir, small.measure(
      workdir, "policy", ("3",), shape=TINY, forms=small.FORMS,
      learners=LEARNERS)


def test_slates_and_user_steps_are_counted(acted):
  workdir, content = acted
  assert json.loads((workdir / "benchmark.json").read_text()) == content
  assert content["shape"] == TINY._asdict() and not content["left_out"]
  ours = small.OURS
  named = {policy.named(m): m for m in content["measurements"]}
  assert list(named) == [
      f"simulate, 3 users: {ours}",
      f"train, modern, category and knob: {ours}",
      f"train, paper, slot_category: {ours}",
      "learner, 3 x 4 steps: harmonrank",
      "learner, 3 x 4 steps: stable-baselines3, 1 thread"]
  for m in content["measurements"]:
    assert m["steps"] == (3 * 96 if m["part"] == "simulate" else 3 * 4)
    assert m["steps_per_second"] == pytest.approx(
        m["steps"] / m["median_seconds"])
    low, high = m["quartiles_steps_per_second"]
    assert 0 < low <= m["steps_per_second"] <= high
    assert m["median_cpu_seconds"] >= 0
    if m["part"] == "simulate":
      # Windows before the first request are no steps of anybody.
      assert 0 < m["user_steps_per_second"] < m["steps_per_second"]
      assert m["same_days"] == 1 and m["compile_seconds"] > 0
    if m["part"] == "train":
      assert m["compile_seconds"] == 1.5 and m["actor_steps"] == 3
  assert [m["most_actor_steps"] for m in content["measurements"]
          if m["part"] == "train"] == [16, 4]
  assert set(content["agreement"]) == {"observations", "rewards", "advantages"}
  assert max(content["agreement"].values()) < 1e-5


def test_the_report_of_policies_is_one_file_with_every_measurement(acted):
  workdir, content = acted
  page = (workdir / "report.html").read_text()
  assert page.count("<svg") == 1 and page.count("<table") == 3
  assert "src=" not in page and "href=\"http" not in page
  assert "What differs there" in page and "times as fast as" in page
  for m in content["measurements"]:
    assert policy.named(m) in page
  table, days, updates = policy.tables(content)
  assert len(table.rows) == 5 and table.rows[-1][-1] == "-"
  assert days.rows[0][-1] == "100 %" and updates.rows[0][-1] == "3 of 16"


def test_what_is_replayed_is_what_was_prepared():
  replay, shown = problems.make_replay(TINY, 0)
  assert shown.shape == (3, 2, 6)
  expected = trajectory_by_hand(np.asarray(shown))
  key, action = jax.random.key(0), np.zeros(2)
  state, result = replay.reset(key, shown[0])
  for t in range(2):
    np.testing.assert_array_equal(result.observation, shown[0, t])
    state, result = replay.step(key, state, action, shown[0])
    np.testing.assert_array_equal(result.reward, expected.reward[t, 0])
    np.testing.assert_array_equal(result.cost, shown[0, t, 3:4])
    assert bool(result.terminated) == (t == 1) and not result.truncated


@pytest.mark.parametrize("field, said", [
    ("observation", "the observations of"), ("reward", "the rewards of"),
    ("advantage", "the advantages of"), ("terminated", "the advantages of")],
    ids=lambda value: value.split()[-1])
def test_unequal_updates_are_not_compared(field, said):
  replay, shown = problems.make_replay(TINY, 0)
  config = problems.learner_config(replay, TINY)
  seen, ours = seen_by_hand(shown), trajectory_by_hand(np.asarray(shown))
  policy_peer.check_same_update(seen, ours, config)
  other = getattr(seen, field).copy()
  other[0] = 1 - other[0]
  with pytest.raises(errors.UserError, match=said):
    policy_peer.check_same_update(seen._replace(**{field: other}), ours, config)
  late = ours._replace(terminated=np.roll(ours.terminated, 1, axis=0))
  with pytest.raises(errors.UserError, match="episodes of stable"):
    policy_peer.check_same_update(seen, late, config)


def test_other_days_are_not_compared():
  days = rollout.Outcome(*[np.zeros((8, 2))] * 8)
  nearly = days._replace(clicks=days.clicks + (np.arange(8) == 0)[:, None])
  assert policy.same_days({"a": days, "b": nearly}) == {
      "a": 1.0, "b": 0.875}
  with pytest.raises(
      errors.UserError, match="b shows the same as a to only 0%"):
    policy.same_days({"a": days, "b": days._replace(
        exposures=days.exposures + 1)})


def test_stable_baselines_is_left_out_in_words(monkeypatch):
  monkeypatch.setitem(sys.modules, "stable_baselines3", None)
  learners = LEARNERS._replace(peer=policy_peer.Peer)
  measured, agreement, left_out = policy.time_learners(
      TINY, timing_lib.Clock(1, 0), 0, learners=learners)
  assert [m["method"] for m in measured] == ["harmonrank"]
  assert agreement is None
  line, = left_out
  assert "stable-baselines3" in line and "requirements-bench.txt" in line


def test_a_peer_that_takes_too_long_is_left_out_in_words():
  *_, left_out = policy.time_learners(
      TINY, timing_lib.Clock(1, 0, limit_seconds=0.0), 0, learners=LEARNERS)
  assert left_out[-1] == ("stable-baselines3, 1 thread is left out: an update "
                          "takes more than 0 s.")


# Slow: compiling.


@pytest.mark.slow
def test_updates_are_timed_beside_stable_baselines(tmp_path):
  pytest.importorskip("stable_baselines3")
  content = small.measure(
      tmp_path, "policy", ("3",), shape=TINY, forms=small.FORMS,
      learners=policy.Learners(threads=(1,)))
  assert max(content["agreement"].values()) < 1e-5
  methods = [m["method"] for m in content["measurements"]]
  assert methods[-2:] == ["harmonrank", "stable-baselines3, 1 thread"]


@pytest.mark.slow
def test_updates_are_compiled_and_take_their_steps():
  replay, shown = problems.make_replay(TINY, 0)
  config = problems.learner_config(replay, TINY)
  updates = policy.Updates(
      replay, config, shown, problems.settings(replay), seed=0,
      params_axes=0)
  updates()
  assert updates.actor_steps == [16] and updates.compile_seconds > 0
  collected = policy_peer.collect(replay, shown, config)
  expected = trajectory_by_hand(np.asarray(shown))
  for name in ("observation", "reward", "terminated"):
    np.testing.assert_array_equal(
        getattr(collected, name), getattr(expected, name))
