"""The suite of single requests: what is asked, and which parts are timed."""

import json

import numpy as np
import pytest

from experiments.benchmarks import served
from experiments.benchmarks import serving
from harmonrank_jax.data import generator
from tests.experiments.benchmarks import small

SMALL = generator.LogConfig(num_exposures=2000)


def test_a_request_has_rows_of_the_log_and_features_of_their_items():
  week = generator.generate_log(SMALL)
  request = serving.request_of(
      week, 30, ("user_id", "age"), np.random.default_rng(0))
  assert np.ndim(request["user_id"]) == np.ndim(request["age"]) == 0
  rows = {row["item_id"]: row for row in week.items.to_pylist()}
  for item, category, features in zip(
      request["item_id"], request["category"], request["features"],
      strict=True):
    assert category == rows[item]["category"]
    np.testing.assert_array_equal(features, rows[item]["features"])


def test_the_parts_of_every_call_are_timed(tmp_path, monkeypatch):
  monkeypatch.setattr(served, "LOG", SMALL)
  served.publish(tmp_path, [served.slates()])
  content = serving.run_here(
      [str(tmp_path)], [20, 30], repeats=2, seed=0, calls=3)
  assert [(m["candidates"], m["part"]) for m in content["measurements"]] == [
      (size, part) for size in (20, 30) for part in serving.PARTS]
  for m in content["measurements"]:
    assert m["method"] == "slates" and m["calls"] == 6
    low, high = m["quartiles_seconds"]
    assert 0 < low <= m["median_seconds"] <= high <= m["p99_seconds"]
    assert m["p99_seconds"] <= m["longest_seconds"]
  summary, parts = serving.tables(content)
  assert summary.header == ["", "20 candidates", "30 candidates"]
  assert [row[0] for row in summary.rows] == ["slates"]
  assert [row[0] for row in parts.rows] == list(serving.PARTS)
  whole = parts.rows[-1]
  assert whole[1:] == summary.rows[0][1:]


# Slow: exports of all funnels, the predictor's among them.


@pytest.mark.slow
def test_all_funnels_answer(tmp_path):
  content = small.measure(tmp_path, "serving", ("20",))
  assert json.loads((tmp_path / "benchmark.json").read_text()) == content
  methods = dict.fromkeys(m["method"] for m in content["measurements"])
  assert list(methods) == [" + ".join(funnel) for funnel in serving.FUNNELS]
  assert (tmp_path / "report.html").read_text().count("<svg") == 1
