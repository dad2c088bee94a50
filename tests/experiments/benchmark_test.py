"""The benchmark: what it writes, that it compares like with like."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import benchmark
from experiments.benchmarks import policy as policy_benchmark
from experiments.benchmarks import policy_methods
from experiments.benchmarks import slates as slates_benchmark
from experiments.benchmarks import slates_methods
from experiments.benchmarks import soft_rank as soft_rank_benchmark
from experiments.benchmarks import soft_rank_methods as methods_lib
from experiments.benchmarks import timing as benchmarking
from experiments.benchmarks import train_auc as train_benchmark
from experiments.ranker import config as config_lib
from experiments.ranker import inputs as inputs_lib
from experiments.ranker import task as auc_task
from experiments.runs import errors
import harmonrank_jax as hr
from harmonrank_jax import native
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import rollout
from tests import oracles

ROOT = pathlib.Path(__file__).parents[2]
BOTH = soft_rank_benchmark.BOTH


def without_torch(monkeypatch):
  """As where PyTorch is not installed."""
  monkeypatch.setitem(sys.modules, "torch", None)


def with_one_form(monkeypatch):
  """The form used by default, alone: another one takes long to compile."""
  name, trace = next(iter(benchmarking.forms().items()))
  monkeypatch.setattr(benchmarking, "forms", lambda: {name: trace})


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
  """A small run on the soft rank: its workdir and content."""
  workdir = tmp_path_factory.mktemp("benchmark") / "soft_rank"
  config = benchmark.Config(sizes=("1x12", "3x10"), repeats=2)
  with pytest.MonkeyPatch.context() as monkeypatch:
    with_one_form(monkeypatch)
    return workdir, benchmark.measure(config, workdir)


def test_every_sample_and_the_machine_are_written(ranked):
  workdir, content = ranked
  assert json.loads((workdir / "benchmark.json").read_text()) == content
  assert content["suite"] == "soft_rank"
  assert content["config"]["repeats"] == 2
  machine = content["machine"]
  assert machine["cores"] >= 1 and machine["processor"] and machine["jax"]
  assert machine["backend"] == "cpu" and "soft_rank" in machine["forms"]
  for m in content["measurements"]:
    low, high = m["quartiles_seconds"]
    assert 0 < low <= m["median_seconds"] <= high
    assert len(m["samples_seconds"]) == 2 and m["calls_per_sample"] >= 1


def test_every_method_ranks_right_at_every_size(ranked):
  _, content = ranked
  ours = next(iter(benchmarking.forms()))
  found = {(m["method"], m["batch"], m["n"]): m
           for m in content["measurements"] if m["work"] == BOTH}
  for size in ((1, 12), (3, 10)):
    methods = {name for name, *at in found if tuple(at) == size}
    assert methods >= {ours, "sequential loop", "scipy, float64"}
    for method in methods:
      assert found[method, *size]["rank_error"] < 1e-4
      assert found[method, *size]["gradient_error"] < 1e-5
    assert found[ours, *size]["compile_seconds"] > 0
  floors = {m["method"] for m in content["measurements"]
            if "rank_error" not in m}
  assert floors == {"numpy argsort", "jnp.sort"}


def test_forms_are_what_they_are_called():
  problem = methods_lib.make_problem(1, 12, 0)
  forms = benchmarking.forms()
  assert len(forms) == 1 + native.available()
  for name, trace in forms.items():
    with trace():
      text = jax.jit(methods_lib.soft_rank).lower(
          problem.scores, problem.strength).as_text()
    assert ("custom_call @harmonrank" in text) == (
        name == "harmonrank (native)")


def test_the_report_is_one_file_with_every_method(ranked):
  workdir, content = ranked
  page = (workdir / "report.html").read_text()
  assert page.count("<svg") == 2 and page.count("<table") == 5
  assert "src=" not in page and "href=\"http" not in page
  for m in content["measurements"]:
    assert m["method"] in page


def test_the_reference_is_that_of_theory():
  problem = methods_lib.make_problem(2, 40, 0)
  spread = problem.scores.std(axis=1)
  np.testing.assert_allclose(problem.strength[:, 0], 2 * spread / 40, 1e-6)
  ranks, gradient = methods_lib.reference(problem)
  for row in range(2):
    scores, strength = problem.scores[row], problem.strength[row, 0]
    np.testing.assert_allclose(
        ranks[row], oracles.soft_rank(scores, strength), atol=1e-9)
    np.testing.assert_allclose(
        gradient[row], problem.cotangent[row]
        @ oracles.soft_rank_jacobian(scores, strength), atol=1e-9)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_the_sequential_loop_keeps_lists_apart(strength):
  rng = np.random.default_rng(0)
  problem = methods_lib.Problem(
      rng.integers(-8, 8, (5, 13)).astype(np.float32) / 4,
      np.full((5, 1), strength, np.float32),
      rng.standard_normal((5, 13), np.float32))
  prepare = methods_lib.find_methods()[0]["sequential loop"]
  ranks, gradient = prepare(problem).both()
  expected = methods_lib.reference(problem)
  np.testing.assert_allclose(ranks, expected[0], atol=2e-3)
  np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=2e-3)


def test_a_peer_that_is_not_installed_is_left_out_in_words(monkeypatch):
  without_torch(monkeypatch)
  methods, left_out = methods_lib.find_methods()
  assert "torchsort" not in methods and "scipy, float64" in methods
  line, = left_out
  assert "torchsort" in line and "requirements-bench.txt" in line


def test_what_is_too_slow_is_a_dash(monkeypatch):
  without_torch(monkeypatch)
  clock = benchmarking.Clock(1, 0)
  methods = {name: prepare for name, prepare
             in methods_lib.find_methods()[0].items()
             if name in ("scipy, float64", "numpy argsort")}
  monkeypatch.setattr(benchmarking, "LIMIT_SECONDS", 0.0)
  problem = methods_lib.make_problem(1, 50, 0)
  assert not soft_rank_benchmark.measure(problem, methods, clock)
  # Known to be slow by now, it is not even tried.
  monkeypatch.setattr(benchmarking, "LIMIT_SECONDS", 1e-12)
  assert not clock.is_worth_it(("scipy, float64", BOTH), 50)
  assert clock.is_worth_it(("another", BOTH), 50)
  slow = {"batch": 1, "n": 50, "compile_seconds": 0.0, "rank_error": 0.0,
          "median_seconds": 1.0, "quartiles_seconds": [1.0, 1.0]}
  table = soft_rank_benchmark.tables({"peak_memory_bytes": {}, "measurements": [
      {**slow, "method": "a", "work": BOTH},
      {**slow, "method": "b", "work": BOTH},
      {**slow, "method": "b", "work": BOTH, "n": 60}]})[0]
  assert table.header == ["", "1 x 50", "1 x 60"]
  assert table.rows == [["a", "1,000 (0)", "-"],
                        ["b", "1,000 (0)", "1,000 (0)"]]


def test_calls_take_turns(monkeypatch):
  monkeypatch.setattr(benchmarking, "_SAMPLE_SECONDS", 0.0)
  monkeypatch.setattr(benchmarking, "_PAUSE_SECONDS", 0.0)
  called = []
  timings = benchmarking.Clock(20, 0).interleaved(
      {name: lambda name=name: called.append(name) for name in "abc"}, 1)
  assert called[:6] == list("aabbcc")
  rounds = [tuple(called[k:k + 3]) for k in range(6, len(called), 3)]
  assert all(sorted(turn) == list("abc") for turn in rounds)
  assert len(rounds) == 20 and len(set(rounds)) > 1
  assert len(timings["a"].samples) == 20


@pytest.mark.parametrize("text", [
    "", "x", "1x", "x5", "0x5", "-1x3", "1e3x2", "99999x99999", "10"])
def test_a_size_that_is_none_is_refused(tmp_path, text):
  config = benchmark.Config(sizes=(text,))
  with pytest.raises(errors.UserError, match=f"--sizes={text}: expected lists"):
    benchmark.measure(config, tmp_path / "run")
  # Left as it was: with the flag mended, the same workdir will do.
  assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("suite", ["train_auc", "policy"])
@pytest.mark.parametrize("text", ["", "0", "1x10", "-4", "4e3"])
def test_a_batch_size_that_is_none_is_refused(tmp_path, suite, text):
  config = benchmark.Config(suite=suite, sizes=(text,))
  with pytest.raises(errors.UserError, match="expected a batch size"):
    benchmark.measure(config, tmp_path / "run")


# The step of training. Compiling it takes most of the time here.


SMALL = config_lib.Config(
    num_exposures=2000, token_size=4, num_steps=1000, batch_size=64)


@pytest.mark.slow
def test_a_step_of_training_is_timed(tmp_path, monkeypatch):
  with_one_form(monkeypatch)
  # What compiles soon.
  monkeypatch.setattr(benchmark, "_TRAINED", dataclasses.replace(
      SMALL, loss="bce", relation_aware=False))
  without_torch(monkeypatch)
  config = benchmark.Config(suite="train_auc", sizes=("64",), repeats=2)
  content = benchmark.measure(config, tmp_path)
  assert json.loads((tmp_path / "benchmark.json").read_text()) == content
  assert content["agreement"] is None
  assert "PyTorch is left out" in content["left_out"][0]
  assert [m["method"] for m in content["measurements"]] == list(
      benchmarking.forms())
  for m in content["measurements"]:
    assert m["batch_size"] == 64
    assert m["examples_per_second"] == pytest.approx(64 / m["median_seconds"])
  assert (tmp_path / "report.html").read_text().count("<svg") == 1


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """Of a training on a small embedded log."""
  return inputs_lib.read_inputs(SMALL, tmp_path_factory.mktemp("log"))


def test_drawn_rows_are_probabilities_and_no_two_are_the_same(inputs):
  rows = train_benchmark.make_rows(inputs, 5000, 0)
  scores = np.asarray(rows.scores)
  assert rows.labels.shape == scores.shape == (5000, 6)
  assert np.all((scores > 0) & (scores < 1))
  assert len(np.unique(scores, axis=0)) == 5000


@pytest.fixture(scope="module")
def twins(inputs):
  """Training on both sides, and where it begins."""
  pytest.importorskip("torch")
  pytest.importorskip("torchsort")
  recipe = auc_task.Recipe(
      "soft_auc", "batch", SMALL.relative_strength, SMALL.learning_rate, 0, 1,
      None)
  task = auc_task.AucTask(recipe, inputs)
  begun = task.begin(jax.random.key(0))
  return task, begun, train_benchmark.Twins(task, inputs, recipe)


@pytest.fixture(scope="module")
def rows(inputs):
  """An objective without a positive, another with scores missing."""
  rows = train_benchmark.make_rows(inputs, 200, 0)
  return rows._replace(labels=rows.labels.at[:, 2].set(False),
                       has_score=rows.has_score.at[:50, 1].set(False))


def test_the_twin_computes_the_same(twins, rows):
  _, begun, both = twins
  found = both.compare(begun.params, rows, 0)
  assert set(found) == {"logits", "log_score", "loss", "gradient"}
  assert max(found.values()) < 1e-4


def test_unequal_twins_are_not_compared(twins, rows, monkeypatch):
  _, begun, both = twins
  monkeypatch.setattr(
      both, "_recipe", both._recipe._replace(relative_strength=0.1))
  with pytest.raises(errors.UserError, match="the loss of the network in PyT"):
    both.compare(begun.params, rows, 0)


def test_unequal_losses_are_not_timed():
  with pytest.raises(errors.UserError, match=r"the loss of b is 2\.0"):
    train_benchmark._check_losses({"a": lambda: 1.0, "b": lambda: 2.0}, [])


def test_a_network_that_does_not_compile_is_left_out():
  def fails():
    raise RuntimeError("no compiler\nand much more")

  steps = {"harmonrank": lambda: 1.0, train_benchmark.COMPILED: fails}
  left_out = []
  train_benchmark._check_losses(steps, left_out)
  assert set(steps) == {"harmonrank"}
  assert left_out == ["torch.compile is left out: no compiler"]


# Slates.


def on_one_core(monkeypatch):
  """As where there is no other core: nothing needs a process of its own."""
  monkeypatch.setattr(benchmarking, "num_cores", lambda: 1)
  monkeypatch.setattr(slates_benchmark, "_CALLS", 3)
  monkeypatch.setattr(slates_benchmark, "_TURNS", 2)


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
  """A small run on slates: its workdir and content."""
  workdir = tmp_path_factory.mktemp("benchmark") / "slates"
  config = benchmark.Config(
      suite="slates", sizes=("1x24x4", "2x20x3"), repeats=2)
  with pytest.MonkeyPatch.context() as monkeypatch:
    with_one_form(monkeypatch)
    on_one_core(monkeypatch)
    return workdir, benchmark.measure(config, workdir)


def test_every_method_selects_what_float64_does(selected):
  workdir, content = selected
  assert json.loads((workdir / "benchmark.json").read_text()) == content
  assert content["cores"] == 1
  ours = next(iter(benchmarking.forms()))
  tasks = dict.fromkeys(m["task"] for m in content["measurements"])
  assert list(tasks) == ["1 x 24 x 4", "2 x 20 x 3", "2 x 20 x 3, shared pool"]
  for task in tasks:
    found = {m["method"]: m for m in content["measurements"]
             if m["task"] == task}
    floors = {name for name, m in found.items() if "same_slots" not in m}
    assert floors == {"reading, numpy", "reading, jitted"}
    methods = set(found) - floors
    assert methods >= {ours, slates_methods.TEXTBOOK,
                       slates_methods.TEXTBOOK_FLOAT32, "textbook, jitted"}
    for name in methods:
      assert found[name]["same_slots"] == found[name]["same_slates"] == 1
    assert found[ours]["compile_seconds"] > 0
    for m in found.values():
      low, high = m["quartiles_seconds"]
      assert 0 < low <= m["median_seconds"] <= high
      assert m["candidates"] in (20, 24) and m["pool"] in ("own", "shared")


def test_calls_of_one_request_are_timed_one_by_one(selected):
  _, content = selected
  found = {m["method"]: m for m in content["latencies"]}
  ours = next(iter(benchmarking.forms()))
  assert found.keys() >= {ours, slates_methods.TEXTBOOK}
  for m in found.values():
    assert m["size"] == [1, 24, 4] and m["calls"] == 2 * 3
    assert 0 < m["p50_seconds"] <= m["p99_seconds"] <= m["longest_seconds"]


def test_the_report_of_slates_is_one_file_with_every_method(selected):
  workdir, content = selected
  page = (workdir / "report.html").read_text()
  assert page.count("<svg") == 1 and page.count("<table") == 6
  assert "src=" not in page and "href=\"http" not in page
  assert "one core of the CPU" in page
  for m in content["measurements"]:
    assert m["method"] in page and m["task"] in page


def test_a_pick_that_is_not_that_of_float64_is_said(selected):
  _, content = selected
  assert "a defect" not in slates_benchmark.verdict(content)
  ours = next(iter(benchmarking.forms()))
  wrong = [m | {"same_slots": 0.99999} if m["method"] == ours else m
           for m in content["measurements"]]
  table = slates_benchmark.tables(content | {"measurements": wrong})[0]
  assert f"Not all picks of {ours} are those of float64" in table.note
  assert "(99.99 %)" in table.rows[0][1]


def test_the_flow_pool_is_that_of_each_category(monkeypatch):
  with_one_form(monkeypatch)
  problem = slates_methods.make_flow_problem(3, 60, 12, 0)
  sizes = np.bincount(problem.category_ids)
  # 24.6, 19.7 and 15.7; 4.8, 4 and 3.2.
  assert sizes.tolist() == [24, 20, 16]
  assert problem.quotas.tolist() == [5, 4, 3]
  ours = next(iter(benchmarking.forms()))
  padded = slates_methods.padded_name(ours)
  methods = slates_methods.find_methods()[0]
  found = {m["method"]: m for m in slates_benchmark.measure(
      problem, methods, benchmarking.Clock(1, 0))}
  assert found.keys() >= {ours, padded, slates_methods.TEXTBOOK}
  for m in found.values():
    assert m.get("same_slates", 1) == 1
  assert "textbook, jitted" not in found and "reading, jitted" not in found
  assert {name for name, m in found.items() if "same_slots" not in m} == {
      "reading, numpy"}


def test_the_reference_of_slates_adds_most_to_the_log_det():
  problem = slates_methods.make_problem(1, 9, 4, 0)
  request, = slates_methods.requests_of(problem)
  unit = request.features.astype(np.float64)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  weights = np.exp(
      slates_methods._ALPHA * request.relevance.astype(np.float64))
  kernel = weights[:, None] * (unit @ unit.T) * weights
  picks: list[int] = []
  for _ in range(4):
    log_dets = [-np.inf if i in picks else np.linalg.slogdet(
        kernel[np.ix_([*picks, i], [*picks, i])])[1] for i in range(9)]
    picks.append(int(np.argmax(log_dets)))
  assert slates_methods.reference(request).tolist() == picks
  # Two directions, and then nothing but rounding.
  flat = request._replace(features=np.array(
      [[1, 0], [0, 1]] * 5, np.float32)[:9])
  picks = slates_methods.reference(flat)
  assert np.all(picks[:2] >= 0) and np.all(picks[2:] == -1)


def test_the_kernel_of_pyversity_is_ours_times_a_constant():
  pyversity = pytest.importorskip("pyversity")
  problem = slates_methods.make_problem(1, 30, 5, 0)
  request, = slates_methods.requests_of(problem)
  theirs = pyversity.dpp(
      request.features, request.relevance, 5, diversity=0.5,
      scale=slates_methods.pyversity_scale(request.relevance))
  ours = hr.greedy_dpp(request.features, request.relevance, num_selected=5,
                       theta=slates_methods.THETA)
  np.testing.assert_array_equal(theirs.indices, ours.indices)
  np.testing.assert_allclose(
      np.diff(np.log(theirs.selection_scores)), np.diff(ours.gains), atol=1e-5)


def test_what_needs_too_large_a_kernel_is_a_dash(selected):
  _, content = selected
  problem = slates_methods.Problem(
      np.zeros((1, 40_000, 2), np.float32), np.zeros((1, 40_000), np.float32),
      2)
  methods, _ = slates_methods.find_methods()
  for name in (slates_methods.TEXTBOOK, slates_methods.TEXTBOOK_FLOAT32,
               "textbook, jitted"):
    assert methods[name](problem) is None
  left = [m for m in content["measurements"] if not (
      m["method"] == slates_methods.TEXTBOOK and m["requests"] == 1)]
  table = slates_benchmark.tables(content | {"measurements": left})[0]
  row, = (row for row in table.rows if row[0] == slates_methods.TEXTBOOK)
  assert row[1] == "-" and "(100 %)" in row[2]


def test_pyversity_is_left_out_in_words(monkeypatch):
  monkeypatch.setitem(sys.modules, "pyversity", None)
  methods, left_out = slates_methods.find_methods()
  assert slates_methods.PYVERSITY not in methods
  line, = left_out
  assert "pyversity" in line and "requirements-bench.txt" in line


@pytest.mark.parametrize("text", [
    "", "1x2", "0x5x2", "2x5x6", "1x100x65", "1x1x1x1", "-1x3x2", "1x1e3x2",
    "999x99999x9"])
def test_a_slate_size_that_is_none_is_refused(tmp_path, text):
  config = benchmark.Config(suite="slates", sizes=(text,))
  with pytest.raises(errors.UserError, match=f"--sizes={text}: expected req"):
    benchmark.measure(config, tmp_path / "run")


# Simulated days, and updates of PPO, whose compiling is left to slow tests.


TINY = policy_methods.Shape(
    categories=3, slots=2, candidates=6, features=4, users=4, places=8,
    items=16, envs=3, steps=4, observation=6, action=2, rewards=3)


class FakeUpdates:
  """Takes no time."""

  compile_seconds = 1.5

  def __init__(self, *args, **kwargs):
    self.actor_steps = []

  def __call__(self):
    self.actor_steps.append(3)


class FakePeer:
  """Sees what there is to see, and learns nothing."""

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
  nothing = dict.fromkeys(ppo.Trajectory._fields)
  return ppo.Trajectory(**{
      **nothing, "observation": observation, "terminated": terminated,
      "reward": observation[..., :TINY.rewards]})


def seen_by_hand(shown):
  """Advantages by their definition, backwards in each episode."""
  found = trajectory_by_hand(np.asarray(shown, np.float64))
  reward = found.reward.sum(axis=-1)
  value = np.random.default_rng(0).standard_normal(reward.shape)
  advantage = np.zeros_like(reward)
  then_value = then_advantage = np.zeros(len(shown))
  for t in range(len(reward))[::-1]:
    goes_on = 0.95 * ~found.terminated[t]
    advantage[t] = (reward[t] + goes_on * then_value - value[t]
                    + 0.95 * goes_on * then_advantage)
    then_value, then_advantage = value[t], advantage[t]
  return policy_methods.Seen(*(x.astype(np.float32) for x in (
      found.observation, reward, value, advantage)), found.terminated)


@pytest.fixture(scope="module")
def acted(tmp_path_factory):
  """A small run on policies: its workdir and content."""
  workdir = tmp_path_factory.mktemp("benchmark") / "policy"
  config = benchmark.Config(suite="policy", sizes=("3",), repeats=2)
  with pytest.MonkeyPatch.context() as monkeypatch:
    with_one_form(monkeypatch)
    monkeypatch.setattr(benchmark, "_SHAPE", TINY)
    monkeypatch.setattr(policy_benchmark, "_Updates", FakeUpdates)
    monkeypatch.setattr(policy_methods, "Peer", FakePeer)
    monkeypatch.setattr(policy_benchmark, "THREADS", (1,))
    monkeypatch.setattr(
        policy_methods, "collect",
        lambda replay, shown, config: trajectory_by_hand(shown))
    return workdir, benchmark.measure(config, workdir)


def test_slates_and_user_steps_are_counted(acted):
  workdir, content = acted
  assert json.loads((workdir / "benchmark.json").read_text()) == content
  assert content["shape"] == TINY._asdict() and not content["left_out"]
  ours = next(iter(benchmarking.forms()))
  named = {policy_benchmark.named(m): m for m in content["measurements"]}
  assert list(named) == [
      f"simulate, 3 users: {ours}",
      f"train, modern, category and knob: {ours}",
      f"train, document, slot_category: {ours}",
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
    assert policy_benchmark.named(m) in page
  table, days, updates = policy_benchmark.tables(content)
  assert len(table.rows) == 5 and table.rows[-1][-1] == "-"
  assert days.rows[0][-1] == "100 %" and updates.rows[0][-1] == "3 of 16"


def test_what_is_replayed_is_what_was_prepared():
  replay, shown = policy_methods.make_replay(TINY, 0)
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
    ("advantage", "the advantages of"), ("terminated", "the advantages of")])
def test_unequal_updates_are_not_compared(field, said):
  replay, shown = policy_methods.make_replay(TINY, 0)
  config = policy_methods.learner_config(replay, TINY)
  seen, ours = seen_by_hand(shown), trajectory_by_hand(np.asarray(shown))
  policy_methods.compare(seen, ours, config)
  other = getattr(seen, field).copy()
  other[0] = 1 - other[0]
  with pytest.raises(errors.UserError, match=said):
    policy_methods.compare(seen._replace(**{field: other}), ours, config)
  late = ours._replace(terminated=np.roll(ours.terminated, 1, axis=0))
  with pytest.raises(errors.UserError, match="episodes of stable"):
    policy_methods.compare(seen, late, config)


def test_other_days_are_not_compared():
  days = rollout.Outcome(*[np.zeros((8, 2))] * 8)
  nearly = days._replace(clicks=days.clicks + (np.arange(8) == 0)[:, None])
  assert policy_benchmark._same_days({"a": days, "b": nearly}) == {
      "a": 1.0, "b": 0.875}
  with pytest.raises(
      errors.UserError, match="b shows the same as a to only 0%"):
    policy_benchmark._same_days({"a": days, "b": days._replace(
        exposures=days.exposures + 1)})


def test_stable_baselines_is_left_out_in_words(monkeypatch):
  monkeypatch.setitem(sys.modules, "stable_baselines3", None)
  monkeypatch.setattr(policy_benchmark, "_Updates", FakeUpdates)
  left_out = []
  measured, agreement = policy_benchmark._learn(
      TINY, benchmarking.Clock(1, 0), 0, left_out)
  assert [m["method"] for m in measured] == ["harmonrank"]
  assert agreement is None
  line, = left_out
  assert "stable-baselines3" in line and "requirements-bench.txt" in line


def test_a_peer_that_takes_too_long_is_left_out_in_words(monkeypatch):
  monkeypatch.setattr(policy_benchmark, "_Updates", FakeUpdates)
  monkeypatch.setattr(policy_methods, "Peer", FakePeer)
  monkeypatch.setattr(policy_benchmark, "THREADS", (1,))
  monkeypatch.setattr(
      policy_methods, "collect",
      lambda replay, shown, config: trajectory_by_hand(shown))
  monkeypatch.setattr(benchmarking, "LIMIT_SECONDS", 0.0)
  left_out = []
  policy_benchmark._learn(TINY, benchmarking.Clock(1, 0), 0, left_out)
  assert left_out[-1] == ("stable-baselines3, 1 thread is left out: an update "
                          "takes more than 0 s.")


# Slow: other processes, and what compiles long.


@pytest.mark.slow
def test_updates_are_timed_beside_stable_baselines(tmp_path, monkeypatch):
  pytest.importorskip("stable_baselines3")
  with_one_form(monkeypatch)
  monkeypatch.setattr(benchmark, "_SHAPE", TINY)
  monkeypatch.setattr(policy_benchmark, "THREADS", (1,))
  config = benchmark.Config(suite="policy", sizes=("3",), repeats=2)
  content = benchmark.measure(config, tmp_path)
  assert max(content["agreement"].values()) < 1e-5
  methods = [m["method"] for m in content["measurements"]]
  assert methods[-2:] == ["harmonrank", "stable-baselines3, 1 thread"]


@pytest.mark.slow
def test_updates_are_compiled_and_take_their_steps():
  replay, shown = policy_methods.make_replay(TINY, 0)
  config = policy_methods.learner_config(replay, TINY)
  updates = policy_benchmark._Updates(
      replay, config, shown, policy_methods.settings(replay), seed=0,
      params_axes=0)
  updates()
  assert updates.actor_steps == [16] and updates.compile_seconds > 0
  found = policy_methods.collect(replay, shown, config)
  expected = trajectory_by_hand(np.asarray(shown))
  for name in ("observation", "reward", "terminated"):
    np.testing.assert_array_equal(
        getattr(found, name), getattr(expected, name))


@pytest.mark.slow
def test_the_twin_stays_the_same_while_it_is_trained(twins, rows):
  task, state, both = twins
  step = both.steps(state.params, rows)[train_benchmark.EAGER]
  losses = []
  for _ in range(5):
    state, measured = task.update_one(state, rows)
    losses.append(float(measured["loss"]))
    assert float(step()) == pytest.approx(losses[-1], abs=1e-4)
  assert losses[-1] < losses[0] - 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("argument, said", [
    ("--suite=soft_rang", "suite"), ("--sizes=1000", "--sizes=1000"),
    ("--repeats=0", "repeats"), ("--data=log.parquet", "data")])
def test_on_a_wrong_flag_the_binary_says_one_line(tmp_path, argument, said):
  ended = subprocess.run(
      [sys.executable, "-m", "experiments.benchmark",
       f"--workdir={tmp_path / 'run'}", argument], cwd=ROOT, text=True,
      capture_output=True, check=False)
  assert ended.returncode == 2
  assert said in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own():
  for name in benchmarking.forms():
    many = soft_rank_benchmark.peak_memory(name, 1, 4_000_000)
    # At least the results, and a few times that.
    assert 2 * 4 * 4_000_000 < many < 4e9


@pytest.mark.slow
def test_slates_are_measured_on_one_core(tmp_path):
  config = benchmark.Config(suite="slates", repeats=2, sizes=("1x100x5",))
  content = benchmark.measure(config, tmp_path)
  assert content["cores"] == 1
  assert {m["method"] for m in content["latencies"]} >= set(
      benchmarking.forms())


@pytest.mark.slow
def test_pytorch_trains_beside_it(tmp_path):
  pytest.importorskip("torchsort")
  config = benchmark.Config(suite="train_auc", sizes=("512",), repeats=2)
  content = benchmark.measure(config, tmp_path)
  methods = [m["method"] for m in content["measurements"]]
  assert "torch, eager" in methods and content["agreement"]["loss"] < 1e-4
