"""Figures: titles, numbers and keys of their panels, before they are drawn."""

import numpy as np
import pytest

from experiments.comparison import figures
from experiments.comparison import studies
from tests.experiments.comparison import made_up


def keys_of(figure):
  return [[text.get_text() for text in axes.get_legend().get_texts()]
          for axes in figure.axes]


def titles_of(figure):
  return [axes.get_title() for axes in figure.axes]


@pytest.fixture
def pair(table):
  """Two conditions."""
  return made_up.record(table, table._replace(
      condition=studies.Condition("lists_user", lists="user")))


def test_one_condition_has_no_title(table):
  one = made_up.record(table)
  for draw in (figures.lead_figure, figures.plane_figure):
    assert titles_of(draw(one)) == [""]


def test_several_conditions_and_ways_to_judge_are_in_titles(pair):
  first, second = pair.tables
  known = pair._replace(tables=[
      part._replace(by_truth=part.overall, within_by_truth=part.within_users)
      for part in (first, second)])
  assert titles_of(figures.lead_figure(pair)) == ["all", "lists user"]
  assert titles_of(figures.plane_figure(known)) == [
      "all, by the labels", "all, by the true probabilities",
      "lists user, by the labels", "lists user, by the true probabilities"]
  assert titles_of(figures.condition_figure(known)) == [
      f"{among}, {how}"
      for how in ("by the labels", "by the true probabilities")
      for among in ("among all rows", "within users")]


def test_the_key_of_a_plane_has_the_values_of_far_methods(table):
  far = table.overall.total.copy()
  far[table.names.index("equal_sum")] = -1
  figure = figures.plane_figure(made_up.record(
      table._replace(overall=table.overall._replace(total=far))))
  ((*near, last),) = keys_of(figure)
  assert near == ["1  aligned_soft_auc_average", "2  score_bce",
                  "3  closed_form"]
  assert last.startswith("4  equal_sum (-1.000, ")


def test_a_method_that_a_panel_lacks_keeps_its_number(pair):
  first, second = pair.tables
  less = [k for k, name in enumerate(second.names) if name != "score_bce"]
  few = lambda sums: sums._replace(
      total=sums.total[less], error=sums.error[less],
      leads=[sums.leads[k] for k in less],
      strongest=less.index(second.names.index("closed_form")))
  lacking = second._replace(
      names=tuple(second.names[k] for k in less),
      overall=few(second.overall), within_users=few(second.within_users))
  figure = figures.plane_figure(pair._replace(tables=[first, lacking]))
  whole, lacks = figure.axes
  assert keys_of(figure)[0] == keys_of(figure)[1]
  number = next(text for text in lacks.texts if text.get_text() == "2")
  assert np.isnan(number.xy).all()
  assert len(whole.texts) == len(lacks.texts) == 4


def test_lines_end_with_the_numbers_of_the_key(pair):
  figure = figures.condition_figure(pair)
  keys = [axes.get_legend() for axes in figure.axes]
  # One key, beside the panel at the right.
  assert keys[0] is None
  assert [text.get_text() for text in keys[1].get_texts()] == ["1  score_bce"]
  for axes in figure.axes:
    (number,) = axes.texts
    assert number.get_text() == "1" and number.xy[0] == 1
