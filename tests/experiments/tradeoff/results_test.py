"""The summary of a sweep, its verdict and its tables."""

import json

import numpy as np

from experiments.runs import claims
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import results


def test_the_summary_and_the_words_for_it(measured):
  _, _, tradeoff = measured
  summary = results.summary(tradeoff)
  assert json.loads(json.dumps(summary)) == summary
  ours = summary["families"][families_lib.ONE]
  assert ours["hypervolume"]["value"] == tradeoff.volume[0].mean
  assert ours["training_seconds"] == 2
  assert summary["families"]["closed form"]["training_seconds"] is None
  assert len(ours["auc"]) == len(summary["weights"]) == 8
  assert "8 separate networks" in results.verdict(tradeoff)
  assert "trained 2.0 s, they 40.0 s" in results.verdict(tradeoff)
  assert "true probabilities" not in results.verdict(tradeoff)


def test_a_volume_that_is_undefined_is_a_dash(measured):
  _, _, tradeoff = measured
  undefined = claims.Interval(np.nan, np.nan, np.nan)
  nothing = tradeoff._replace(volume=[undefined] * 3, ratio=[undefined] * 3,
                              asked_ratio=undefined)
  assert results.cells(nothing, 0)[:4] == ["-"] * 4
  assert "an undefined part" in results.verdict(nothing)


def test_the_true_probabilities_are_told_beside(measured):
  _, _, tradeoff = measured
  truth = tradeoff._replace(ratio=[claims.Interval(*(x / 2 for x in each))
                                   for each in tradeoff.ratio])
  both = tradeoff._replace(by_truth=truth)
  content = results.summary(both)["by_truth"]
  ours = content["families"][families_lib.ONE]
  assert ours["ratio_to_separate"]["value"] == truth.ratio[0].mean
  assert "training_seconds" not in ours
  assert (f"true probabilities its front has {truth.ratio[0].mean:.1%}"
          in results.verdict(both))


def test_the_tables_fit_into_a_terminal(measured, capsys):
  _, _, tradeoff = measured
  results.print_table(tradeoff)
  lines = capsys.readouterr().out.splitlines()
  assert any("ratio to separate" in line for line in lines)
  assert any(line.startswith("separate networks") for line in lines)
