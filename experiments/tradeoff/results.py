"""What a sweep says: the content of its summary, its verdict, its tables."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.runs import claims
from experiments.runs import console
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import front as front_lib

HEADER = ("hypervolume", "95 %", "ratio to separate", "95 %", "weighted AUC",
          "ahead of separate", "95 %", "training")


def summary(tradeoff: front_lib.Tradeoff) -> dict[str, Any]:
  """The measures as JSON, NaN where undefined; intervals are of 95 %."""
  names = tradeoff.names
  by_truth = None
  if tradeoff.by_truth is not None:
    of_truth = summary(tradeoff.by_truth)
    by_truth = {name: of_truth[name] for name in ("families", "asked")}
    for family in by_truth["families"].values():
      del family["training_seconds"]  # Stands above.
  return {
      "objectives": list(names),
      "weights": [_by_name(names, row) for row in tradeoff.weights],
      "families": {name: {
          "hypervolume": _interval(tradeoff.volume[f]),
          "ratio_to_separate": _interval(tradeoff.ratio[f]),
          "weighted_auc": float(tradeoff.value[f]),
          "ahead_of_separate": _interval(tradeoff.lead[f]),
          "training_seconds": tradeoff.seconds.get(name),
          "auc": [_by_name(names, row) for row in tradeoff.auc[f]]}
          for f, name in enumerate(tradeoff.families)},
      "asked": {"weights": tradeoff.num_asked,
                "hypervolume": _interval(tradeoff.asked_volume),
                "ratio_to_separate": _interval(tradeoff.asked_ratio)},
      "by_truth": by_truth, "reference": front_lib.REFERENCE,
      "test_rows": tradeoff.num_rows, "clusters": tradeoff.clusters,
      "positives": dict(zip(names, tradeoff.positives.tolist(), strict=True)),
      "enough_positives": dict(zip(
          names, tradeoff.is_known.tolist(), strict=True))}


def _by_name(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
  return dict(zip(names, values.tolist(), strict=True))


def _interval(interval: claims.Interval) -> dict[str, float]:
  return {"value": interval.mean, "low": interval.low, "high": interval.high}


def verdict(tradeoff: front_lib.Tradeoff) -> str:
  """What one network costs against separate ones, in a sentence or two."""
  one = tradeoff.families.index(families_lib.ONE)
  seconds = tradeoff.seconds
  text = (f"The front of one network has {_share(tradeoff.ratio[one])} of the "
          f"hypervolume of {len(tradeoff.weights)} separate networks; asked "
          f"for {tradeoff.num_asked} weights, which takes no training, "
          f"{_share(tradeoff.asked_ratio)}. Its weighted AUC, the mean over "
          "all weights, differs from theirs by "
          f"{_difference(tradeoff.lead[one])}. ")
  if truth := tradeoff.by_truth:
    text += (f"By the true probabilities its front has "
             f"{_share(truth.ratio[one])}, asked for more weights "
             f"{_share(truth.asked_ratio)}, and its weighted AUC differs by "
             f"{_difference(truth.lead[one])}. ")
  return (f"{text}It trained {seconds[families_lib.ONE]:.1f} s, they "
          f"{seconds[families_lib.SEPARATE]:.1f} s.")


def _share(ratio: claims.Interval) -> str:
  """A ratio in percent, with its interval where it has one."""
  if not np.isfinite(ratio.mean):
    return "an undefined part"
  return _within(ratio, lambda x: f"{x:.1%}")


def _difference(lead: claims.Interval) -> str:
  if not np.isfinite(lead.mean):
    return "what is undefined"
  return _within(lead, lambda x: f"{x:+.4f}")


def _within(interval: claims.Interval, number: Callable[[float], str]) -> str:
  if interval.standing == claims.UNKNOWN:
    return f"{number(interval.mean)} (no interval: too few positives)"
  value, low, high = map(number, interval)
  return f"{value} (95 % interval {low} to {high})"


def cells(tradeoff: front_lib.Tradeoff, family: int) -> list[str]:
  """The cells of a family, given by its place, below `HEADER`."""
  name = tradeoff.families[family]
  ratio, lead = (
      [""] * 2 if name == families_lib.SEPARATE else shown for shown in (
          _interval_cells(tradeoff.ratio[family]),
          _interval_cells(tradeoff.lead[family], signed=True)))
  seconds = tradeoff.seconds.get(name)
  return [*_interval_cells(tradeoff.volume[family]), *ratio,
          console.number(tradeoff.value[family]), *lead,
          "-" if seconds is None else f"{seconds:.1f} s"]


def _interval_cells(
    values: claims.Interval, *, signed: bool = False
) -> list[str]:
  value, low, high = (console.number(x, signed=signed) for x in values)
  return [value, "-" if low == "-" else f"{low} to {high}"]


def print_table(tradeoff: front_lib.Tradeoff) -> None:
  """Prints two tables that fit into 80 columns, and the verdict."""
  def show(title: str, header: Sequence[str], rows: list[list[str]]) -> None:
    console.show(title, ("", *header), (
        (family, *rows[f]) for f, family in enumerate(tradeoff.families)),
                 bold={0})

  names = tradeoff.names
  each = [cells(tradeoff, f) for f in range(len(tradeoff.families))]
  # The verdict has the lead.
  show(f"{len(tradeoff.weights)} weights of {len(tradeoff.names)} objectives, "
       f"{tradeoff.num_rows:,} held-out rows", (*HEADER[:4], HEADER[-1]),
       [[*row[:4], row[-1]] for row in each])
  show("AUC at equal weights", claims.marked(names, tradeoff.is_known), [
      [console.number(value, 3) for value in auc[0]] for auc in tradeoff.auc])
  print("hypervolume: dominated share of the cube of AUCs from "
        f"{front_lib.REFERENCE} to 1.", verdict(tradeoff),
        *claims.positives(names, tradeoff.positives, tradeoff.is_known),
        sep="\n")
