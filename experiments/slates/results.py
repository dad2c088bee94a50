"""The summary of a run of `select_slates`, and what its report shows."""

import dataclasses
from typing import Any
from typing import NamedTuple

import numpy as np

from experiments.runs import console
from experiments.runs import workdir as workdir_lib
from experiments.slates import comparison as comparison_lib
from experiments.slates import config as config_lib
from experiments.slates import selection

HEADER = ("", *comparison_lib.METRICS.values(), "Gini of exposure")
_DIGITS = {"score": 4, "relevance": 4, "num_categories": 2, "log_det": 2}
_MAX_CATEGORIES = 20
# Why slots are empty, and the way out.
_CAUSES = {
    "request": "as the request has no more candidates",
    "pool": "as the pool holds nothing that may fill them (raise --pool_quota, "
            "or --quota)",
    "quota": "as --quota lets no candidate fill them (raise it)",
    "features": "as what is left repeats the slate (--fill=relevance shows it, "
                "--ridge below 1 gives it a gain)"}


class Record(NamedTuple):
  """What the report shows."""

  summary: dict[str, Any]  # Content of `summary.json`.
  rows: list[list[str]]  # The table under `HEADER`, a row for each method.
  # By method and metric `[2, T]`, means and standard errors over theta.
  curves: dict[str, dict[str, np.ndarray]]
  nearest: int  # Place of the theta nearest to that of the run.
  categories: list[str]  # The largest; then one name for all others.
  exposure: dict[str, np.ndarray]  # Shares by method, and of "candidates", %.


def make_record(
    config: config_lib.Config, inputs: selection.Inputs,
    selected: selection.Selected, comparison: comparison_lib.Comparison,
) -> Record:
  """Brings the results of a run into the form in which they are shown."""
  curves = {
      method: {name: np.asarray(values).T for name, values in by_name.items()}
      for method, by_name in comparison.curves.items()}
  names = list(inputs.facts.categories)
  if len(names) > _MAX_CATEGORIES:
    names[_MAX_CATEGORIES:] = [f"{len(names) - _MAX_CATEGORIES} others"]
  return Record(
      summary=_summary(config, inputs, selected, comparison),
      rows=[[method, *(console.with_error(*value, digits=_DIGITS.get(name, 3))
                       for name, value in values.items())]
            for method, values in comparison.table.items()],
      curves=curves,
      nearest=int(np.argmin(np.abs(comparison_lib.THETAS - comparison.theta))),
      categories=names,
      exposure={method: 100 * _with_others(shares)
                for method, shares in comparison.exposure.items()})


def print_counts(summary: dict[str, Any]) -> None:
  """Prints how many slates were selected, and what is to be known of them."""
  if summary["num_repeated"]:
    print(f"{summary['num_repeated']:,} candidates left out: their request has "
          "the item already, with a score that is better or as good")
  sizes = summary["compiled_sizes"]
  print(f"{summary['num_requests']:,} slates in {summary['seconds']:.1f} s, "
        f"{len(sizes)} compiled (requests padded to "
        f"{', '.join(map(str, sizes))})")
  for note in notes(summary):
    print(note)


def notes(summary: dict[str, Any]) -> list[str]:
  """Lines on candidates without features and on slots without a candidate."""
  lines = []
  if summary["num_lone"]:
    lines.append(
        f"{summary['num_lone']:,} candidates have no features (null, empty "
        "or all 0): they count as similar to no other")
  if summary["num_empty_slots"]:
    num_slots = summary["num_empty_slots"] + summary["num_slots"]
    causes = "; ".join(f"{count:,} {_CAUSES[cause]}"
                       for cause, count in summary["empty_slots"].items())
    lines.append(f"{summary['num_empty_slots']:,} of {num_slots:,} slots are "
                 f"empty: {causes}")
  return lines


def print_table(record: Record) -> None:
  """Prints the comparison of methods at the theta of the run."""
  summary = record.summary
  console.show(
      f"{summary['num_compared']:,} requests at theta "
      f"{summary['config']['theta']:g}, ± one standard error", HEADER,
      record.rows)


def _summary(
    config: config_lib.Config, inputs: selection.Inputs,
    selected: selection.Selected, comparison: comparison_lib.Comparison,
) -> dict[str, Any]:
  facts = inputs.facts
  num_slots = facts.num_requests * config.num_selected
  return workdir_lib.finite({
      "num_requests": facts.num_requests, "num_candidates": facts.num_rows,
      "num_repeated": selected.num_repeated, "largest": facts.largest,
      "num_categories": len(facts.categories),
      "num_features": inputs.candidates.num_features,
      "num_slots": selected.num_slots,
      "num_empty_slots": num_slots - selected.num_slots,
      "empty_slots": selected.empty, "num_lone": selected.num_lone,
      "compiled_sizes": selected.compiled,
      "num_compared": len(comparison.chunk.request_ids),
      "thetas": comparison_lib.THETAS,
      "methods": {
          method: {name: value._asdict() for name, value in values.items()}
          for method, values in comparison.table.items()},
      "seconds": selected.seconds, "limits": inputs.limits,
      "config": dataclasses.asdict(config)})


def _with_others(shares: np.ndarray) -> np.ndarray:
  """Shares `[C]` of the largest categories, and of all others."""
  if len(shares) <= _MAX_CATEGORIES:
    return shares
  return np.append(shares[:_MAX_CATEGORIES], shares[_MAX_CATEGORIES:].sum())
