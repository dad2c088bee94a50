"""A comparison in words and numbers: for the terminal, Markdown and JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.comparison import studies as contenders
from experiments.comparison import tables as comparison
from experiments.runs import console
from harmonrank_jax.data import schema as schema_lib

# More than so many are counted, not named.
_FEW_NAMES = 3


def summary(
    config: dict[str, Any], schema: schema_lib.Schema,
    found: Sequence[comparison.Found], rows: Sequence[tuple[int, ...]],
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
  """The content of `summary.json`.

  Args:
    config: JSON-able, by flag.
    schema: roles of the columns.
    found: per condition.
    rows: per block, rows to train, validate and test.
    left_out: names of conditions that the data has no column for.
  """
  def method(table: comparison.Found, k: int) -> dict[str, Any]:
    by_objective = lambda values: dict(
        zip(schema.names, values.tolist(), strict=True))
    content = {
        "kind": table.kind(k), "auc": by_objective(table.auc[k]),
        "auc_error": by_objective(table.auc_error[k]),
        "calibration_error": table.calibration_error[k],
        "validation": table.validation[k],
        "learning_rate": table.learning_rate[k], "seconds": table.seconds[k]}
    for kind, sums in _kinds(table).items():
      content[f"{kind}_sum"] = sums.total[k]
      content[f"{kind}_sum_error"] = sums.error[k]
      content[f"{kind}_lead_over_strongest"] = sums.leads[k]._asdict()
    return content

  def condition(table: comparison.Found) -> dict[str, Any]:
    content: dict[str, Any] = {
        "methods": {name: method(table, k)
                    for k, name in enumerate(table.names)},
        "resampled": table.clusters}
    for kind, sums in _kinds(table).items():
      content[f"{kind}_strongest_baseline"] = table.names[sums.strongest]
      content[f"{kind}_leads"] = {
          name: lead._asdict() for name, lead in sums.rivals.items()}
    return content

  return {
      "objectives": schema.names, "default": contenders.DEFAULT,
      "rows": [dict(zip(("train", "validation", "test"), counts, strict=True))
               for counts in rows],
      "conditions": {
          table.condition.name: condition(table) for table in found},
      "left_out": list(left_out), "config": config}


def _kinds(table: comparison.Found) -> dict[str, comparison.Sums]:
  """What there are sums of, by the name in `summary.json`."""
  kinds = {"auc": table.overall, "auc_without": table.without_one,
           "group_auc": table.within_users, "expected_auc": table.by_truth,
           "expected_group_auc": table.within_by_truth}
  return {name: sums for name, sums in kinds.items() if sums is not None}


def columns(table: comparison.Found) -> list[str]:
  """Heads of the columns of a table."""
  return ["", *table.objectives, "sum",
          *([f"without {table.without}"] if table.without_one else []),
          *(["within users"] if table.within_users else []),
          "ECE", "lead over the strongest baseline",
          *(["sum by truth", "lead by truth"] if table.by_truth else []),
          *(["within users by truth"] if table.within_by_truth else [])]


def table_rows(table: comparison.Found) -> list[list[str]]:
  """Cells of a table, the strongest method first, the ceiling last."""
  digits = console.number
  overall = table.overall
  sum_of = lambda sums, k: with_error(sums.total[k], sums.error[k])
  order = sorted(range(len(table.names)), key=lambda k: (
      table.kind(k) == "ceiling", -overall.total[k]))
  rows = []
  for k in order:
    row = [table.names[k], *(digits(value) for value in table.auc[k]),
           sum_of(overall, k)]
    if table.without_one:
      row.append(digits(table.without_one.total[k]))
    if table.within_users:
      row.append(sum_of(table.within_users, k))
    row += [digits(table.calibration_error[k]), _lead_text(overall, k)]
    if table.by_truth:
      row += [sum_of(table.by_truth, k), _lead_text(table.by_truth, k)]
    if table.within_by_truth:
      row.append(sum_of(table.within_by_truth, k))
    rows.append(row)
  return rows


def _lead_text(sums: comparison.Sums, k: int) -> str:
  if k == sums.strongest:
    return "strongest baseline"
  lead = sums.leads[k]
  return f"{lead.mean:+.4f} [{lead.low:+.4f}, {lead.high:+.4f}]"


def with_error(value: float, error: float) -> str:
  """`value ± error`, or the value alone."""
  if np.isfinite(error):
    return console.with_error(value, error)
  return console.number(value)


def verdict(table: comparison.Found) -> str:
  """Whether the default is ahead of every baseline."""
  if not table.overall.rivals:
    return f"{contenders.DEFAULT} is not among the methods."
  text = _verdict(table.overall.rivals, table)
  if table.by_truth:
    text += " By the true probabilities " + _verdict(
        table.by_truth.rivals, table)
  if table.condition.lists == "batch":
    return text
  for sums, how in ((table.within_users, "Within users "),
                    (table.within_by_truth, "The same by truth: ")):
    if sums:
      text += f" {how}{_verdict(sums.rivals, table)}"
  return text


def _verdict(
    rivals: dict[str, comparison.Lead], table: comparison.Found
) -> str:
  unsure = {name: lead for name, lead in rivals.items() if lead.low <= 0}
  name, worst = min(rivals.items(), key=lambda item: item[1].mean)
  if not unsure:
    what = f"{contenders.DEFAULT} is ahead of every baseline"
  elif worst.high < 0:
    what = f"{name} is ahead of {contenders.DEFAULT}"
  else:
    whom = (", ".join(unsure) if len(unsure) <= _FEW_NAMES else
            f"{len(unsure)} of {len(rivals)} baselines")
    what = f"{contenders.DEFAULT} is not surely ahead of {whom}"
  return (f"{what}; the best baseline is {name}: {worst.mean:+.4f}, 95 % "
          f"interval {worst.low:+.4f} to {worst.high:+.4f} ({table.clusters} "
          "resampled, and seeds).")


def markdown(found: Sequence[comparison.Found]) -> str:
  """The tables of all conditions."""
  parts = []
  for table in found:
    if len(found) > 1:
      parts += [f"### {table.condition.name}", ""]
    heads = columns(table)
    parts += ["| " + " | ".join(heads) + " |",
              "|" + "---|" * len(heads)]
    for row in table_rows(table):
      parts.append("| " + " | ".join(row) + " |")
    parts += ["", verdict(table), ""]
  return "\n".join(parts)


def print_tables(found: Sequence[comparison.Found]) -> None:
  """The last thing on the terminal."""
  for table in found:
    rows = table_rows(table)
    console.show(table.condition.name, columns(table), rows, bold={
        place for place, row in enumerate(rows)
        if row[0] == contenders.DEFAULT})
    print(verdict(table))
