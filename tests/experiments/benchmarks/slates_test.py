"""The suite of slates: its methods select the same, and all are shown."""

import json
import sys

import numpy as np
import pytest

from experiments.benchmarks import slates
from experiments.benchmarks import slates_methods as methods_lib
from experiments.benchmarks import slates_problems as problems
from experiments.benchmarks import timing as timing_lib
from experiments.runs import errors
import harmonrank_jax as hr
from tests.experiments.benchmarks import small


def run_here(sizes, *, repeats, seed, workdir):
  """As where there is one core: nothing needs a process of its own."""
  return slates.run_here(
      sizes, repeats=repeats, seed=seed, forms=small.FORMS, turns=2, calls=3)


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
  """A small run on slates: its workdir and content."""
  workdir = tmp_path_factory.mktemp("benchmark") / "slates"
  return workdir, small.measure(
      workdir, "slates", ("1x24x4", "2x20x3"), run=run_here)


def test_every_method_selects_what_float64_does(selected):
  workdir, content = selected
  assert json.loads((workdir / "benchmark.json").read_text()) == content
  assert content["cores"] == timing_lib.num_cores()
  ours = small.OURS
  tasks = dict.fromkeys(m["task"] for m in content["measurements"])
  assert list(tasks) == ["1 x 24 x 4", "2 x 20 x 3", "2 x 20 x 3, shared pool"]
  for task in tasks:
    results = {m["method"]: m for m in content["measurements"]
               if m["task"] == task}
    floors = {name for name, m in results.items() if "same_slots" not in m}
    assert floors == {"reading, numpy", "reading, jitted"}
    methods = set(results) - floors
    assert methods >= {ours, methods_lib.TEXTBOOK,
                       methods_lib.TEXTBOOK_FLOAT32, "textbook, jitted"}
    for name in methods:
      assert results[name]["same_slots"] == results[name]["same_slates"] == 1
    assert results[ours]["compile_seconds"] > 0
    for m in results.values():
      low, high = m["quartiles_seconds"]
      assert 0 < low <= m["median_seconds"] <= high
      assert m["candidates"] in (20, 24) and m["pool"] in ("own", "shared")


def test_calls_of_one_request_are_timed_one_by_one(selected):
  _, content = selected
  results = {m["method"]: m for m in content["latencies"]}
  ours = small.OURS
  assert results.keys() >= {ours, methods_lib.TEXTBOOK}
  for m in results.values():
    assert m["size"] == [1, 24, 4] and m["calls"] == 2 * 3
    assert 0 < m["p50_seconds"] <= m["p99_seconds"] <= m["longest_seconds"]


def test_the_report_of_slates_is_one_file_with_every_method(selected):
  workdir, content = selected
  page = (workdir / "report.html").read_text()
  assert page.count("<svg") == 1 and page.count("<table") == 6
  assert "src=" not in page and "href=\"http" not in page
  for m in content["measurements"]:
    assert m["method"] in page and m["task"] in page


def test_the_title_tells_the_processors(selected):
  _, content = selected
  title = lambda **changes: slates.tables(content | changes)[0].title
  assert title(cores=1) == "Slates, on one core of the CPU"
  assert title(cores=4, machine={"backend": "gpu", "device": "A"}) == (
      "Slates, on A and 4 cores of the CPU")


def test_a_pick_that_is_not_that_of_float64_is_said(selected):
  _, content = selected
  assert "a defect" not in slates.verdict(content)
  ours = small.OURS
  wrong = [m | {"same_slots": 0.99999} if m["method"] == ours else m
           for m in content["measurements"]]
  table = slates.tables(content | {"measurements": wrong})[0]
  assert f"Not all picks of {ours} are those of float64" in table.note
  assert "(99.99 %)" in table.rows[0][1]


def test_the_flow_pool_is_that_of_each_category():
  problem = problems.make_flow_problem(3, 60, 12, 0)
  sizes = np.bincount(problem.category_ids)
  # 24.6, 19.7 and 15.7; 4.8, 4 and 3.2.
  assert sizes.tolist() == [24, 20, 16]
  assert problem.quotas.tolist() == [5, 4, 3]
  ours = small.OURS
  padded = methods_lib.padded_name(ours)
  methods = methods_lib.find_methods(small.FORMS)[0]
  results = {m["method"]: m for m in slates.time_methods(
      problem, methods, timing_lib.Clock(1, 0))}
  assert results.keys() >= {ours, padded, methods_lib.TEXTBOOK}
  for m in results.values():
    assert m.get("same_slates", 1) == 1
  assert "textbook, jitted" not in results and "reading, jitted" not in results
  assert {name for name, m in results.items() if "same_slots" not in m} == {
      "reading, numpy"}


def test_the_reference_of_slates_adds_most_to_the_log_det():
  problem = problems.make_problem(1, 9, 4, 0)
  request, = problems.requests_of(problem)
  unit = request.features.astype(np.float64)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  weights = np.exp(problems.ALPHA * request.relevance.astype(np.float64))
  kernel = weights[:, None] * (unit @ unit.T) * weights
  picks: list[int] = []
  for _ in range(4):
    log_dets = [-np.inf if i in picks else np.linalg.slogdet(
        kernel[np.ix_([*picks, i], [*picks, i])])[1] for i in range(9)]
    picks.append(int(np.argmax(log_dets)))
  assert problems.reference(request).tolist() == picks
  # Two directions, and then nothing but rounding.
  flat = request._replace(features=np.array(
      [[1, 0], [0, 1]] * 5, np.float32)[:9])
  picks = problems.reference(flat)
  assert np.all(picks[:2] >= 0) and np.all(picks[2:] == -1)


def test_the_kernel_of_pyversity_is_ours_times_a_constant():
  pyversity = pytest.importorskip("pyversity")
  problem = problems.make_problem(1, 30, 5, 0)
  request, = problems.requests_of(problem)
  theirs = pyversity.dpp(
      request.features, request.relevance, 5, diversity=0.5,
      scale=methods_lib.pyversity_scale(request.relevance))
  ours = hr.greedy_dpp(request.features, request.relevance, num_selected=5,
                       theta=problems.THETA)
  np.testing.assert_array_equal(theirs.indices, ours.indices)
  np.testing.assert_allclose(
      np.diff(np.log(theirs.selection_scores)), np.diff(ours.gains), atol=1e-5)


def test_what_needs_too_large_a_kernel_is_a_dash(selected):
  _, content = selected
  problem = problems.SlateProblem(
      np.zeros((1, 40_000, 2), np.float32), np.zeros((1, 40_000), np.float32),
      2)
  methods, _ = methods_lib.find_methods(small.FORMS)
  for name in (methods_lib.TEXTBOOK, methods_lib.TEXTBOOK_FLOAT32,
               "textbook, jitted"):
    assert methods[name](problem) is None
  left = [m for m in content["measurements"] if not (
      m["method"] == methods_lib.TEXTBOOK and m["requests"] == 1)]
  table = slates.tables(content | {"measurements": left})[0]
  row, = (row for row in table.rows if row[0] == methods_lib.TEXTBOOK)
  assert row[1] == "-" and "(100 %)" in row[2]


def test_pyversity_is_left_out_in_words(monkeypatch):
  monkeypatch.setitem(sys.modules, "pyversity", None)
  methods, left_out = methods_lib.find_methods(small.FORMS)
  assert methods_lib.PYVERSITY not in methods
  line, = left_out
  assert "pyversity" in line and "requirements-bench.txt" in line


@pytest.mark.parametrize("text", [
    "", "1x2", "0x5x2", "2x5x6", "1x100x65", "1x1x1x1", "-1x3x2", "1x1e3x2",
    "999x99999x9"], ids=repr)
def test_a_size_that_is_none_is_refused(text):
  with pytest.raises(errors.UserError, match=f"--sizes={text}: expected req"):
    slates.parse_size(text)


def test_sizes_are_requests_candidates_and_picks():
  assert slates.parse_size("256x500x20") == (256, 500, 20)


# Slow: other processes.


@pytest.mark.slow
def test_slates_are_measured_on_one_core():
  content = slates.run([(1, 100, 5)], repeats=2, seed=0)
  assert content["cores"] == 1
  assert {m["method"] for m in content["latencies"]} >= set(
      timing_lib.forms())
