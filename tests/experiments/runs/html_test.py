"""The parts that the reports share."""

import pathlib
import re
import warnings

import matplotlib
from matplotlib import colors
from matplotlib import figure as mpl_figure
from matplotlib import font_manager
import pytest

from experiments.runs import html
from experiments.runs import workdir


@pytest.fixture
def axes():
  return mpl_figure.Figure(layout="constrained").subplots()


def draw(axes, **changes):
  html.numbered_points(
      axes, [0.1, 0.2, 0.3], [3.0, 1.0, 2.0], ["ours", "b", "c"],
      colors=["red", "blue", "blue"], bold="ours", **changes)


def test_points_are_numbered_in_the_order_of_the_names(axes):
  draw(axes)
  assert [(text.get_text(), text.xy, text.get_color())
          for text in axes.texts] == [
              ("1", (0.1, 3.0), "red"), ("2", (0.2, 1.0), "blue"),
              ("3", (0.3, 2.0), "blue")]


def test_numbers_of_neighbours_in_height_are_on_different_sides(axes):
  draw(axes)
  assert len({text.xyann for text in axes.texts}) == 3


def test_the_key_says_which_name_a_number_is(axes):
  draw(axes)
  texts = axes.get_legend().get_texts()
  assert [text.get_text() for text in texts] == ["1  ours", "2  b", "3  c"]
  assert [text.get_weight() for text in texts] == ["bold", "normal", "normal"]
  assert [colors.same_color(text.get_color(), color) for text, color in zip(
      texts, ["red", "blue", "blue"], strict=True)] == [True] * 3


def test_the_key_stands_beside_the_axes_and_inside_the_figure(axes):
  draw(axes)
  figure = axes.figure
  figure.draw_without_rendering()
  key = axes.get_legend().get_window_extent()
  assert key.x0 >= axes.bbox.x1 and key.x1 <= figure.bbox.x1


def test_a_panel_may_go_without_a_key(axes):
  draw(axes, has_key=False)
  assert axes.get_legend() is None and len(axes.texts) == 3


def test_a_page_says_what_its_workdir_notes(tmp_path, capsys):
  path = tmp_path / "report.html"
  workdir.open_workdir(tmp_path, {})
  html.write_page(path, "T", ["<h1>T</h1>"])
  assert "noted" not in path.read_text()
  workdir.say(tmp_path, ["2 of 9 scores < 0"])
  workdir.say(tmp_path, ["again", "again"])
  assert capsys.readouterr().err == (
      "warning: 2 of 9 scores < 0\nwarning: again\n")
  html.write_page(path, "T", ["<h1>T</h1>"])
  assert path.read_text().count("<li>") == 2
  assert "<li>2 of 9 scores &lt; 0</li>" in path.read_text()
  # A later run in the same workdir may find nothing.
  workdir.open_workdir(tmp_path, {})
  html.write_page(path, "T", ["<h1>T</h1>"])
  assert "<li>" not in path.read_text()


STIX = str(pathlib.Path(
    matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf"))


def svg_with(name, monkeypatch, fonts):
  """A figure with a name as title, tick and legend, where warnings fail."""
  monkeypatch.setattr(font_manager, "findSystemFonts", lambda: fonts)
  figure = mpl_figure.Figure(figsize=(3, 2))
  axes = figure.subplots()
  axes.plot([0, 1], label=name)
  axes.legend()
  axes.set_title(name)
  axes.set_yticks([0, 1], [name, "b"])
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    return html.svg(figure), axes.get_yticklabels()[0].get_fontfamily()


@pytest.mark.parametrize("name", ["点击", "コメント", "좋아요", "a 点"])
def test_letters_without_a_font_are_left_to_the_browser(monkeypatch, name):
  svg, _ = svg_with(name, monkeypatch, [])
  assert len(re.findall(f"<text[^>]*>{name}</text>", svg)) == 3


def test_a_font_that_has_the_letters_draws_them(monkeypatch, tmp_path):
  plain = html._letters(font_manager.findfont(font_manager.FontProperties()))
  name = chr(max(html._letters(STIX) - plain))
  (tmp_path / "broken.ttf").write_text("no font")
  svg, families = svg_with(
      name, monkeypatch, [str(tmp_path / "broken.ttf"), STIX])
  assert "<text" not in svg and families[-1] == "STIXGeneral"
  # Nothing is looked for where there is no need.
  svg, families = svg_with("café", monkeypatch, None)
  assert "<text" not in svg and "STIXGeneral" not in families
