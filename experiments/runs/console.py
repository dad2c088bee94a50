"""Numbers and tables as a terminal shows them."""

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Sequence
import math

from rich import cells
from rich import console as rich_console
from rich import table as rich_table

# Standard errors in half a 95 % interval of a normal distribution.
NORMAL_95 = 1.96
_WIDTH_OF_A_FILE = 220


def number(value: float, digits: int = 4, signed: bool = False) -> str:
  """A dash for what is undefined."""
  if not math.isfinite(value):
    return "-"
  return f"{value:{'+' if signed else ''}.{digits}f}"


def with_error(
    value: float, error: float, signed: bool = False, digits: int = 4
) -> str:
  """`value ± standard error`; a dash for what is undefined."""
  if not math.isfinite(value):
    return "-"
  return f"{number(value, digits, signed)} ± {number(error, digits)}"


def width() -> int:
  """Columns of the terminal; many where the output is a file."""
  return _console().width


def show(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], *,
    bold: Collection[int] = (),
) -> None:
  """Prints a table: names on the left, numbers flush right.

  Columns that do not fit beside each other stand in tables below, with the
  names again.
  """
  rows, console = [tuple(row) for row in rows], _console()
  for columns in _bands(header, rows, console.width):
    table = rich_table.Table(
        title=title or None, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(header[0], no_wrap=True)
    for column in columns:
      table.add_column(header[column], justify="right", overflow="fold")
    for place, row in enumerate(rows):
      table.add_row(row[0], *(row[column] for column in columns),
                    style="bold" if place in bold else None)
    console.print(table)
    title = ""


def _bands(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> list[list[int]]:
  """Numbers of the columns but the first, those that fit in one go together."""
  # A head may break between words. Some characters are two columns wide.
  lengths = [1 + max(cells.cell_len(text) for text in (
      *head.split(), *(row[column] for row in rows), ""))
             for column, head in enumerate(header)]
  bands: list[list[int]] = [[]]
  left = width - lengths[0]
  for column, length in enumerate(lengths[1:], 1):
    if length > left and bands[-1]:
      bands.append([])
      left = width - lengths[0]
    bands[-1].append(column)
    left -= length
  return bands


def _console() -> rich_console.Console:
  """The terminal; a file is wide, so that nothing is cut where nobody looks."""
  console = rich_console.Console()
  if console.is_terminal:
    return console
  return rich_console.Console(width=_WIDTH_OF_A_FILE)
