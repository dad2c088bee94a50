"""The summary of a run, and what its report shows."""

import dataclasses

import numpy as np
import pytest

from experiments.slates import comparison as comparison_lib
from experiments.slates import report
from experiments.slates import results
from harmonrank_jax.serving import selector
from tests.data import candidate_files


@pytest.fixture(scope="module")
def record(config, inputs, selected, comparison):
  return results.make_record(config, inputs, selected[1], comparison)


def test_the_summary_has_counts_methods_and_configuration(record, config):
  summary = record.summary
  assert summary["num_requests"] == summary["num_compared"] == 10
  assert summary["num_candidates"] == 193 and summary["largest"] == 40
  assert summary["num_features"] == candidate_files.NUM_FEATURES
  assert summary["num_slots"] == 44 and summary["num_empty_slots"] == 6
  assert set(summary["methods"]) == set(selector.METHODS)
  assert summary["config"] == dataclasses.asdict(config)


def test_curves_are_means_and_errors_over_theta(record, comparison):
  score = record.curves["dpp"]["score"]
  assert score.shape == (2, len(comparison_lib.THETAS))
  assert tuple(score[:, 3]) == comparison.curves["dpp"]["score"][3]
  assert comparison_lib.THETAS[record.nearest] == comparison.theta


def test_the_table_has_a_row_for_each_method(record):
  assert [row[0] for row in record.rows] == list(selector.METHODS)
  for row in record.rows:
    assert len(row) == len(results.HEADER)
    assert all(" ± " in text for text in row[1:])


def test_what_is_undefined_is_a_dash(config, inputs, selected, comparison):
  undefined = comparison_lib.Value(np.nan, np.nan)
  table = {"dpp": {**comparison.table["dpp"], "distance": undefined}}
  record = results.make_record(
      config, inputs, selected[1], comparison._replace(table=table))
  assert record.rows[0][3] == "-"
  assert record.summary["methods"]["dpp"]["distance"] == {
      "mean": None, "error": None}


def test_small_categories_are_shown_together(
    config, inputs, selected, comparison):
  facts = inputs.facts._replace(
      categories={f"c{k}": 1 for k in range(23)})
  shares = np.arange(23)[::-1] / 253
  record = results.make_record(
      config, inputs._replace(facts=facts), selected[1],
      comparison._replace(exposure={"candidates": shares}))
  assert record.categories[-2:] == ["c19", "3 others"]
  assert len(record.categories) == len(record.exposure["candidates"]) == 21
  assert record.exposure["candidates"][-1] == pytest.approx(
      100 * (2 + 1 + 0) / 253)


def test_the_terminal_says_what_was_selected(record, capsys):
  results.print_counts({**record.summary, "num_repeated": 7})
  results.print_table(record)
  said = capsys.readouterr().out
  assert "7 candidates left out" in said
  assert "3 compiled (requests padded to 16, 32, 64)" in said
  assert "6 of 50 slots are empty: 6 as the request has no more" in said
  assert "have no features" not in said
  *_, dpp, mmr, ssd, top_k = said.splitlines()
  for method, line in zip(
      selector.METHODS, (dpp, mmr, ssd, top_k), strict=True):
    assert line.startswith(f"{method} ") and line.count("±") == 7


def test_notes_name_the_way_out(record):
  summary = {**record.summary, "num_lone": 1200, "num_empty_slots": 9,
             "empty_slots": {"quota": 5, "features": 3, "pool": 1}}
  lone, empty = results.notes(summary)
  assert lone.startswith("1,200 candidates have no features")
  assert empty.startswith("9 of 53 slots are empty: 5 as --quota lets")
  for way_out in ("--fill=relevance", "--ridge", "--pool_quota"):
    assert way_out in empty


def test_the_report_is_one_file(record, tmp_path):
  report.write_report(tmp_path / "report.html", record)
  page = (tmp_path / "report.html").read_text()
  assert page.count("<svg") == 2 and page.count("<table") == 1
  assert "src=" not in page and "href=\"http" not in page
  for name in (*selector.METHODS, *candidate_files.CATEGORIES,
               "10 of 10 requests", "6 of 50 slots are empty"):
    assert name in page
