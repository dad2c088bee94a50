"""The report: which figures and sentences a record has."""

import dataclasses

import pytest

from experiments.comparison import cells as cells_lib
from experiments.comparison import report
from experiments.comparison import studies
from experiments.comparison import tables
from experiments.runs import claims
from tests.experiments import rows as rows_lib
from tests.experiments.comparison import made_up


def page_of(tmp_path, *measured, **changes):
  report.write_report(tmp_path, made_up.record(*measured, **changes))
  return (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_report_of_one_condition(tmp_path, table):
  page = page_of(tmp_path, table)
  assert "Left out" not in page
  assert "20 rows, 6 of them to test on in 2 blocks, 3 objectives" in page
  assert "aligned_soft_auc_average is ahead of every baseline" in page
  assert "The strongest baseline: score_bce" in page
  ceiling = table.overall.leads[-1].mean
  assert f"true probabilities ({ceiling:+.4f})" in page
  # Leads; all rows and users; calibration.
  assert page.count("<svg") == 3 and page.count("<table") == 1
  assert "src=" not in page and "From condition" not in page
  assert "&lt;a&amp;b&gt;.parquet" in page and "<a&b>" not in page
  assert "learning rate" in page and "<td>40.0</td>" in page
  assert "by the true probabilities" not in page
  # In the figures a text is a comment beside its outlines.
  assert "<!-- equal_sum -->" in page and "<!-- ceiling -->" not in page


@pytest.mark.slow
def test_leads_far_behind_stand_at_the_edge(tmp_path, table):
  far = claims.Interval(-2, -2.1, -1.9)
  assert "<!-- ←" not in page_of(tmp_path, table)
  page = page_of(tmp_path, table._replace(overall=table.overall._replace(
      leads=[far, *table.overall.leads[1:]])))
  assert "<!-- ← -2.000 -->" in page
  page = page_of(tmp_path, table._replace(by_truth=table.overall._replace(
      leads=[far, *table.overall.leads[1:]])))
  assert page.count("<svg") == 3 and "<!-- ← -2.000 -->" in page
  assert "<!-- by the true probabilities -->" in page
  assert "true probabilities are known" in page


@pytest.mark.slow
def test_a_report_of_several_conditions(tmp_path, table):
  conditions = studies.STUDIES["lists"].conditions
  # Without lists: one trained method less.
  less = [k for k, name in enumerate(table.names) if name != "score_bce"]
  of_few = lambda sums: tables.Sums(
      sums.total[less], sums.error[less], strongest=1,
      leads=[sums.leads[k] for k in less], rivals=sums.rivals)
  few = table._replace(
      names=tuple(table.names[k] for k in less),
      **{field: getattr(table, field)[less] for field in (
          "auc", "auc_error", "calibration_error", "learning_rate", "seconds",
          "validation")},
      **{field: of_few(getattr(table, field)) for field in (
          "overall", "without_one", "within_users")})
  parts = [part._replace(condition=condition) for part, condition in zip(
      (table, few, few), conditions, strict=True)]
  page = page_of(tmp_path, *parts)
  assert page.count("<svg") == 4 and page.count("<table") == 3
  assert "From condition to condition" in page
  for condition in conditions:
    assert f"Numbers, {condition.name.replace('_', ' ')}" in page


@pytest.mark.slow
def test_a_report_without_users_seeds_or_default(tmp_path, blocks):
  cells, tests = blocks
  some = {name: cells_lib.Cell(cells[0][name].scores[:1])
          for name in ("closed_form", "score_bce")}
  table = made_up.evaluate(
      [some], tests[:1], dataclasses.replace(rows_lib.SCHEMA, user=None),
      without=None)
  page = page_of(
      tmp_path, table, num_seeds=1, left_out=["lists_user", "lists_request"])
  assert "no column for it: lists user, lists request." in page
  assert "1 seed of each network" in page and "within users" not in page
  assert "aligned_soft_auc_average is not among the methods" in page
  assert page.count("<svg") == 1 and "Calibration" not in page
