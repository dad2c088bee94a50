"""What every suite of the benchmark has, and how one reads its sizes."""

from collections.abc import Sequence
import pathlib
from typing import Any
from typing import Protocol

from experiments.benchmarks import timing as timing_lib
from experiments.runs import errors

# Items are counted in int32.
MAX_ITEMS = 2**31 - 1


class Suite(Protocol):
  """A module that measures something at some sizes."""

  SIZES: tuple[Any, ...]  # measured by default

  def parse_size(self, text: str) -> Any:
    """A size from the text of a flag; raises UserError if it is none."""

  def run(
      self, sizes: Sequence[Any] | None, *, repeats: int, seed: int,
      workdir: pathlib.Path,
  ) -> dict[str, Any]:
    """Measures; what it returns goes into `benchmark.json`."""

  def tables(self, content: dict[str, Any]) -> list[timing_lib.Table]:
    """The content of `benchmark.json` as tables; the first is the summary."""


def parse_counts(text: str, num_counts: int, expected: str) -> tuple[int, ...]:
  """Reads positive integers that an `x` separates.

  Example:
    >>> parse_counts("128x1000", 2, "lists x items")
    (128, 1000)
  """
  parts = text.split("x")
  if len(parts) == num_counts and all(part.isdecimal() for part in parts):
    counts = tuple(map(int, parts))
    if min(counts) >= 1 and max(counts) <= MAX_ITEMS:
      return counts
  raise size_error(text, expected)


def parse_batch_size(text: str) -> int:
  """Reads the rows, or the users, of one batch."""
  return parse_counts(text, 1, "a batch size, as in 4096")[0]


def size_error(text: str, expected: str) -> errors.UserError:
  """The error of a size that is not what is expected."""
  return errors.UserError(f"--sizes={text}: expected {expected}.")
