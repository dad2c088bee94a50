"""The figures of the report of a re-ranking policy."""

import pytest

from experiments.reranker import figures
from experiments.reranker import record as record_lib
from experiments.runs import claims


@pytest.mark.parametrize("name, shown", [
    ("books", "books"), ("a of $5 and $6", r"a of \$5 and \$6")],
    ids=["plain", "dollars"])
def test_names_are_no_formulas(name, shown):
  assert figures.plain(name) == shown


@pytest.mark.parametrize("name", [
    "x" * 80, "word " * 20, "a " + "y" * 60],
    ids=["one word", "words", "two words"])
def test_long_names_keep_both_ends(name):
  short = figures.plain(name)
  assert len(short) == 24
  begin, end = short.split("…")
  assert name.startswith(begin) and name.endswith(end)


def test_policies_are_numbered_from_the_best_clicks_on():
  points = [
      record_lib.Point(name, -1.0, 0.1, ctr, 0.01, False, name == "ppo")
      for name, ctr in [("b", 0.3), ("ppo", 0.4), ("c", 0.35), ("low", 0.01)]]
  figure = figures.trade_figure(points, -1.1, is_feasible=False)
  axes, = figure.axes
  key = [text.get_text() for text in axes.get_legend().get_texts()]
  assert key == ["1  ppo", "2  c", "3  b", "4  low, 0.010"]
  # The numbers stand at the points; the last one at the edge: a little below
  # 0.175, which is below the best by three times the distance of the median.
  heights = [text.xy[1] for text in axes.texts if text.get_text() in "1234"]
  assert heights == pytest.approx(
      [0.4, 0.35, 0.3, 0.175 - 0.05 * (0.4 - 0.175)])
  assert " asked for, out of reach" in [
      text.get_text() for text in axes.texts]


def test_differences_far_out_are_numbers_at_the_edge():
  intervals = {
      name: claims.Interval(mean, mean - 0.001, mean + 0.001)
      for name, mean in [("a", -0.2), ("b", 0.01), ("c", 0.02)]}
  figure = figures.paired_figure(
      {"moving": intervals}, dict.fromkeys(intervals, "red"))
  axes, = figure.axes
  assert [text.get_text() for text in axes.texts] == ["← -0.200"]
