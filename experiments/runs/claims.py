"""What intervals let one say: the one place for the words of a comparison."""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from experiments.runs import console

AHEAD, LEVEL, BEHIND, UNKNOWN = "ahead", "level", "behind", "unknown"
# Stands at objectives that nothing can be claimed of.
MARK = "*"
NOTE = (f"{MARK} too few users or rows with positives (or without) for an "
        "interval: nothing is claimed of what rests on it.")
# A sentence names this many methods; more are counted.
_FEW_NAMES = 3


class Interval(NamedTuple):
  """A value and the ends of its 95 % interval; NaN ends where unknown."""

  mean: float
  low: float
  high: float

  @classmethod
  def around(cls, mean: float, margin: float) -> "Interval":
    """As far to both sides; a margin of NaN is not known."""
    return cls(mean, mean - margin, mean + margin)

  @property
  def standing(self) -> str:
    """Of a difference: one of the words above, by the ends as they are shown.

    What rounds to -0.0000 is no lead.
    """
    if not (math.isfinite(self.low) and math.isfinite(self.high)):
      return UNKNOWN
    if float(console.number(self.low)) > 0:
      return AHEAD
    return BEHIND if float(console.number(self.high)) < 0 else LEVEL

  def against(self, rival: str) -> str:
    """Of a difference to a rival: where that leaves one, with the numbers."""
    words = {AHEAD: "ahead of", LEVEL: "level with", BEHIND: "behind",
             UNKNOWN: "against"}[self.standing]
    return f"{words} {rival} ({self})"

  def __str__(self) -> str:
    """With signs, and dashes for what is undefined."""
    mean, low, high = (console.number(x, signed=True) for x in self)
    return f"{mean} [{low}, {high}]"


def verdict(ours: str, leads: Mapping[str, Interval]) -> str:
  """Whether a method is ahead of all rivals, by its leads over them."""
  named = lambda standing: _listed([
      name for name, lead in leads.items() if lead.standing == standing],
      len(leads))
  best, lead = min(leads.items(), key=lambda item: item[1].mean)
  standings = {each.standing for each in leads.values()}
  if standings == {AHEAD}:
    what = f"{ours} is ahead of every baseline"
  elif BEHIND in standings:
    what = f"ahead of {ours}: {named(BEHIND)}"
  elif UNKNOWN in standings:
    what = (f"nothing can be claimed of {ours} and {named(UNKNOWN)}: an "
            "objective has too few positives")
  else:
    what = f"{ours} is not surely ahead of {named(LEVEL)}"
  mean, low, high = (console.number(x, signed=True) for x in lead)
  interval = ("without a 95 % interval" if lead.standing == UNKNOWN
              else f"95 % interval {low} to {high}")
  return f"{what}; the best baseline is {best}: {mean}, {interval}"


def _listed(names: Sequence[str], among: int) -> str:
  if len(names) <= _FEW_NAMES:
    return ", ".join(names)
  return f"{len(names)} of {among} baselines"


def marked(names: Sequence[str], is_known: np.ndarray) -> list[str]:
  """Names of objectives, with a mark at those nothing is claimed of."""
  return [name if known else name + MARK
          for name, known in zip(names, is_known, strict=True)]


def positives(
    names: Sequence[str], counts: np.ndarray, is_known: np.ndarray
) -> list[str]:
  """Lines for below a table: positives of each objective, what a mark means."""
  each = ", ".join(f"{name} {count:,}" for name, count in zip(
      marked(names, is_known), counts, strict=True))
  return [f"Positives: {each}.", *([] if np.all(is_known) else [NOTE])]
