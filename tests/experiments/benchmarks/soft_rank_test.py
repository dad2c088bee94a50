"""The suite of the soft rank: its methods are right, and all are shown."""

import json
import sys

import numpy as np
import pytest

from experiments.benchmarks import soft_rank
from experiments.benchmarks import soft_rank_methods as methods_lib
from experiments.benchmarks import timing as timing_lib
from experiments.runs import errors
from tests import oracles
from tests.experiments.benchmarks import small

BOTH = soft_rank.BOTH


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
  """A small run on the soft rank: its workdir and content."""
  workdir = tmp_path_factory.mktemp("benchmark") / "soft_rank"
  return workdir, small.measure(
      workdir, "soft_rank", ("1x12", "3x10"), forms=small.FORMS)


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
  by_cell = {(m["method"], m["batch"], m["n"]): m
             for m in content["measurements"] if m["work"] == BOTH}
  for size in ((1, 12), (3, 10)):
    methods = {name for name, *at in by_cell if tuple(at) == size}
    assert methods >= {small.OURS, "sequential loop", "scipy, float64"}
    for method in methods:
      assert by_cell[method, *size]["rank_error"] < 1e-4
      assert by_cell[method, *size]["gradient_error"] < 1e-5
    assert by_cell[small.OURS, *size]["compile_seconds"] > 0
  floors = {m["method"] for m in content["measurements"]
            if "rank_error" not in m}
  assert floors == {"numpy argsort", "jnp.sort"}


def test_the_report_is_one_file_with_every_method(ranked):
  workdir, content = ranked
  page = (workdir / "report.html").read_text()
  assert page.count("<svg") == 2 and page.count("<table") == 5
  assert "src=" not in page and "href=\"http" not in page
  for m in content["measurements"]:
    assert m["method"] in page


def test_the_reference_is_that_of_theory():
  lists = methods_lib.make_lists(2, 40, 0)
  spread = lists.scores.std(axis=1)
  np.testing.assert_allclose(lists.strength[:, 0], 2 * spread / 40, 1e-6)
  ranks, gradient = methods_lib.reference(lists)
  for row in range(2):
    scores, strength = lists.scores[row], lists.strength[row, 0]
    np.testing.assert_allclose(
        ranks[row], oracles.soft_rank(scores, strength), atol=1e-9)
    np.testing.assert_allclose(
        gradient[row], lists.cotangent[row]
        @ oracles.soft_rank_jacobian(scores, strength), atol=1e-9)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_the_sequential_loop_keeps_lists_apart(strength):
  rng = np.random.default_rng(0)
  lists = methods_lib.Lists(
      rng.integers(-8, 8, (5, 13)).astype(np.float32) / 4,
      np.full((5, 1), strength, np.float32),
      rng.standard_normal((5, 13), np.float32))
  prepare = methods_lib.find_methods(small.FORMS)[0]["sequential loop"]
  ranks, gradient = prepare(lists).both()
  expected = methods_lib.reference(lists)
  np.testing.assert_allclose(ranks, expected[0], atol=2e-3)
  np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=2e-3)


def test_a_peer_that_is_not_installed_is_left_out_in_words(monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  methods, left_out = methods_lib.find_methods(small.FORMS)
  assert "torchsort" not in methods and "scipy, float64" in methods
  line, = left_out
  assert "torchsort" in line and "requirements-bench.txt" in line


def test_methods_that_are_too_slow_are_skipped():
  methods = {name: prepare for name, prepare
             in methods_lib.find_methods(small.FORMS)[0].items()
             if name in ("scipy, float64", "numpy argsort")}
  clock = timing_lib.Clock(1, 0, limit_seconds=0.0)
  lists = methods_lib.make_lists(1, 50, 0)
  assert not soft_rank.time_methods(lists, methods, clock)
  # Once a method is known to be slow, it is not prepared.
  nothing = dict.fromkeys(methods)
  assert not soft_rank.time_methods(lists, nothing, clock)


def test_what_was_too_slow_is_a_dash():
  slow = {"batch": 1, "n": 50, "compile_seconds": 0.0, "rank_error": 0.0,
          "median_seconds": 1.0, "quartiles_seconds": [1.0, 1.0]}
  table = soft_rank.tables({"peak_memory_bytes": {}, "measurements": [
      {**slow, "method": "a", "work": BOTH},
      {**slow, "method": "b", "work": BOTH},
      {**slow, "method": "b", "work": BOTH, "n": 60}]})[0]
  assert table.header == ["", "1 x 50", "1 x 60"]
  assert table.rows == [["a", "1,000 (0)", "-"],
                        ["b", "1,000 (0)", "1,000 (0)"]]


@pytest.mark.parametrize("text", [
    "", "x", "1x", "x5", "0x5", "-1x3", "1e3x2", "99999x99999", "10", "1x2x3"],
    ids=repr)
def test_a_size_that_is_none_is_refused(text):
  with pytest.raises(errors.UserError, match=f"--sizes={text}: expected lists"):
    soft_rank.parse_size(text)


def test_sizes_are_lists_and_items():
  assert soft_rank.parse_size("128x1000") == (128, 1000)


# Slow: other processes.


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own():
  for name in timing_lib.forms():
    many = soft_rank.peak_memory(name, 1, 4_000_000)
    # At least the results, and a few times that.
    assert 2 * 4 * 4_000_000 < many < 4e9
