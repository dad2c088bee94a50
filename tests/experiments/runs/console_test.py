"""Tables as a terminal shows them."""

import io

import pytest
from rich import console as rich_console

from experiments.runs import console


@pytest.fixture
def shown(monkeypatch):
  """From the arguments of `show` and a width to the lines on a terminal."""
  def lines(width, *args, **kwargs):
    said = io.StringIO()
    monkeypatch.setattr(console, "_console", lambda: rich_console.Console(
        file=said, width=width))
    console.show(*args, **kwargs)
    return [line.rstrip() for line in said.getvalue().splitlines()]

  return lines


NAMES = [f"objective_{k}" for k in range(40)]


@pytest.mark.parametrize("width", [80, 47, 24])
def test_many_columns_stand_in_several_tables(shown, width):
  rows = [["ours", *(f"0.{k:04}" for k in range(40)), "20.1234"],
          ["equal_sum", *(f"0.{k:04}" for k in range(40)), "19.1234"]]
  lines = shown(width, "AUC", ["", *NAMES, "sum"], rows)
  words = " ".join(lines).split()
  # Every head and number is whole, and stands once for each row.
  for k, name in enumerate(NAMES):
    assert words.count(name) == 1 and words.count(f"0.{k:04}") == 2
  assert words.count("sum") == 1 and words.count("AUC") == 1
  assert {"20.1234", "19.1234"} <= set(words[-6:])
  assert max(map(len, lines)) <= width
  assert words.count("ours") == words.count("equal_sum") > 40 // (width // 12)


def test_wide_characters_take_two_columns(shown):
  names = [f"\u70b9\u51fb\u7387\u76ee\u6807{k}" for k in range(8)]
  lines = shown(60, "AUC", ["", *names], [["ours", *"12345678"]])
  assert [" ".join(lines).split().count(name) for name in names] == [1] * 8
  assert sum("ours" in line for line in lines) == 2


def test_what_fits_is_one_table(shown):
  lines = shown(80, "AUC", ["", *NAMES[:4], "lead over the strongest baseline"],
                [["ours", "1", "2", "3", "4", "strongest baseline"]])
  assert sum("ours" in line for line in lines) == 1
  assert shown(80, "AUC", ["", "a"], [])[-1].split() == ["a"]


def test_a_column_wider_than_the_terminal_is_folded(shown):
  lines = shown(20, "AUC", ["", "a", "b"], [["ours", "x" * 50, "1"]])
  assert "".join(lines).count("x") == 50 and lines[-1].split() == ["ours", "1"]
