"""Which columns of scores are probabilities: decided by shares of the rows."""

import numpy as np
import pyarrow as pa

from harmonrank_jax.data import encoding
from harmonrank_jax.data import kinds

# A column with a larger share of scores out of [0, 1] is one of any numbers.
MAX_ODD = 0.02


class Tally:
  """Counts of the scores of a column that are no probabilities."""

  def __init__(self) -> None:
    self.num_scores = self.num_odd = 0
    # The first one: its row in the log, and its value.
    self.first: tuple[int, float] | None = None

  def add(self, scores: np.ndarray, first_row: int) -> None:
    """Counts `[N]` scores, missing ones NaN, of rows from this one on."""
    odd = encoding.are_odd(scores)
    if self.first is None and odd.any():
      row = int(np.argmax(odd))
      self.first = first_row + row, float(scores[row])
    self.num_scores += int(np.sum(~np.isnan(scores)))
    self.num_odd += int(np.sum(odd))

  @property
  def are_probabilities(self) -> bool:
    """Whether nearly all scores are probabilities."""
    return self.num_odd <= MAX_ODD * self.num_scores

  def describe(self, column: str, where: str) -> str:
    """How many are odd, and the first one with its place."""
    assert self.first is not None
    are = "is" if self.num_odd == 1 else "are"
    return (f"column {column!r}: {self.num_odd:,} of {self.num_scores:,} "
            f"scores {are} outside [0, 1], the first is {self.first[1]:.6g} "
            f"({where})")


def cleaned(column: pa.ChunkedArray) -> pa.ChunkedArray:
  """Scores with what is no probability missing, and rounding clipped."""
  scores = kinds.numbers_of(column)
  if not ((scores < 0) | (scores > 1)).any():
    return column
  missing = np.isnan(scores) | encoding.are_odd(scores)
  values = pa.array(np.clip(scores, 0, 1), mask=missing)
  return pa.chunked_array([values.cast(column.type)])
