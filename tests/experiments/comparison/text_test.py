"""A comparison in words: Markdown, verdicts, JSON."""

import json

from experiments.comparison import studies
from experiments.comparison import text
from experiments.runs import claims
from experiments.runs import workdir as workdir_lib
from tests.experiments import rows as rows_lib
from tests.experiments.comparison import made_up


def test_the_table_is_markdown(table):
  other = table._replace(condition=studies.Condition("other"))
  said = text.markdown(made_up.record(table, other))
  assert "### all" in said and "### other" in said
  assert "###" not in text.markdown(made_up.record(table))
  lines = [line for line in said.splitlines() if line.startswith("|")]
  heads = ["", *rows_lib.SCHEMA.names, "sum", "without like", "within users",
           "ECE", "lead over the strongest baseline"]
  assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == heads
  assert lines[1] == "|" + "---|" * len(heads)
  assert len(lines) == 2 * (2 + len(made_up.SEEDS))
  assert {line.count("|") for line in lines} == {len(heads) + 1}
  names = [line.split("|")[1].strip()
           for line in lines[2:len(made_up.SEEDS) + 2]]
  # By their sums; the ceiling at the end, though it is the best.
  assert names == ["aligned_soft_auc_average", "score_bce", "closed_form",
                   "equal_sum", "ceiling"]
  row = lines[2 + names.index("score_bce")]
  assert "strongest baseline" in row and "±" in row
  assert "strongest" not in lines[2]
  assert "aligned_soft_auc_average is ahead of every baseline" in said


def test_the_verdict_names_baselines_that_may_be_ahead(table):
  rivals = {"equal_sum": claims.Interval(0.3, 0.2, 0.4),
            "score_bce": claims.Interval(0.05, -0.01, 0.11)}
  with_rivals = lambda sums: table._replace(
      overall=table.overall._replace(rivals=rivals), by_truth=sums)
  said = text.verdict(with_rivals(None))
  assert "ahead of score_bce; the best baseline is score_bce: +0.05" in said
  assert "not surely" in said and "equal_sum" not in said
  rivals["score_bce"] = claims.Interval(0.05, 0.01, 0.09)
  said = text.verdict(with_rivals(table.overall._replace(
      rivals={"equal_sum": claims.Interval(-0.2, -0.3, -0.1)})))
  first, second = said.split(" By the true probabilities ")
  assert "ahead of every baseline; the best baseline is score_bce" in first
  assert second.startswith(
      "ahead of aligned_soft_auc_average: equal_sum; the best")
  assert "(over users and seeds)" in second


def test_the_verdict_counts_many_baselines_and_speaks_of_users(table):
  unsure = {f"baseline_{k}": claims.Interval(0.1 * k, -1, 1) for k in range(4)}
  of = lambda rivals: table.overall._replace(rivals=rivals)
  sure = {"score_bce": claims.Interval(0.2, 0.1, 0.3)}
  lists = table._replace(
      condition=studies.Condition("lists_user", lists="user"),
      overall=of({**unsure, **sure}), within_users=of(sure),
      within_by_truth=of(unsure))
  said = text.verdict(lists)
  assert "not surely ahead of 4 of 5 baselines; the best baseline is" in said
  assert "Within users aligned_soft_auc_average is ahead of every" in said
  assert "The same by truth: aligned_soft_auc_average is not surely" in said
  assert "Within" not in text.verdict(table)
  assert "within" not in text.verdict(lists._replace(
      within_users=None, within_by_truth=None)).lower()


def test_the_summary_is_json(blocks, table):
  content = json.loads(json.dumps(workdir_lib.finite(
      text.summary(made_up.record(table)))))
  assert content["rows"][1] == {"train": 14, "validation": 3, "test": 3}
  condition = content["conditions"]["all"]
  assert condition["auc_strongest_baseline"] == "score_bce"
  ours = condition["methods"]["aligned_soft_auc_average"]
  k = table.names.index("aligned_soft_auc_average")
  assert ours["auc"]["like"] == table.auc[k, 1]
  assert ours["auc_without_sum"] == table.without_one.total[k]
  assert condition["methods"]["closed_form"]["auc_sum_error"] is None
  assert condition["auc_leads"]["closed_form"]["low"] == (
      table.overall.rivals["closed_form"].low)
