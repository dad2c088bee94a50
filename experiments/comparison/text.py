"""A comparison in words and numbers: for the terminal, Markdown and JSON."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments.comparison import studies
from experiments.comparison import tables as tables_lib
from experiments.runs import claims
from experiments.runs import console


def summary(record: tables_lib.Record) -> dict[str, Any]:
  """The content of `summary.json`."""
  return {
      "objectives": record.objectives, "default": studies.DEFAULT,
      "rows": [dict(zip(("train", "validation", "test"), counts, strict=True))
               for counts in record.rows],
      "conditions": {table.condition.name: _condition(table)
                     for table in record.tables},
      "left_out": list(record.left_out), "config": record.config}


def _condition(table: tables_lib.Table) -> dict[str, Any]:
  content: dict[str, Any] = {
      "methods": {name: _method(table, k)
                  for k, name in enumerate(table.names)},
      "positives": dict(zip(
          table.objectives, table.positives.tolist(), strict=True)),
      "enough_positives": dict(zip(
          table.objectives, table.is_known.tolist(), strict=True)),
      "clusters": table.clusters}
  for kind, sums in _kinds(table).items():
    content[f"{kind}_strongest_baseline"] = table.names[sums.strongest]
    content[f"{kind}_leads"] = {
        name: lead._asdict() for name, lead in sums.rivals.items()}
  return content


def _method(table: tables_lib.Table, k: int) -> dict[str, Any]:
  by_objective = lambda values: dict(
      zip(table.objectives, values.tolist(), strict=True))
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


def _kinds(table: tables_lib.Table) -> dict[str, tables_lib.Sums]:
  """Sums of AUCs by their name in `summary.json`."""
  kinds = {"auc": table.overall, "auc_without": table.without_one,
           "group_auc": table.within_users, "expected_auc": table.by_truth,
           "expected_group_auc": table.within_by_truth}
  return {name: sums for name, sums in kinds.items() if sums is not None}


def columns(table: tables_lib.Table) -> list[str]:
  """Heads of the columns of a table."""
  return [head for head, _ in _columns(table)]


def table_rows(table: tables_lib.Table) -> list[list[str]]:
  """Cells of a table, the strongest method first, the ceiling last."""
  rows = list(zip(*(cells for _, cells in _columns(table)), strict=True))
  order = sorted(range(len(rows)), key=lambda k: (
      table.kind(k) == "ceiling", -table.overall.total[k]))
  return [list(rows[k]) for k in order]


def _columns(table: tables_lib.Table) -> list[tuple[str, Iterable[str]]]:
  """Heads, and the cells of all methods below."""
  every = range(len(table.names))
  numbers = lambda values: map(console.number, values)
  totals = lambda sums: [_sum_text(sums, k) for k in every]
  leads = lambda sums: [_lead_text(sums, k) for k in every]
  result = [("", table.names),
            *zip(claims.marked(table.objectives, table.is_known),
                 map(numbers, table.auc.T), strict=True),
            ("sum", totals(table.overall))]
  if table.without_one:
    result.append((f"without {table.without}",
                   numbers(table.without_one.total)))
  if table.within_users:
    result.append(("within users", totals(table.within_users)))
  result += [("ECE", numbers(table.calibration_error)),
             ("lead over the strongest baseline", leads(table.overall))]
  if table.by_truth:
    result += [("sum by truth", totals(table.by_truth)),
               ("lead by truth", leads(table.by_truth))]
  if table.within_by_truth:
    result.append(("within users by truth", totals(table.within_by_truth)))
  return result


def _sum_text(sums: tables_lib.Sums, k: int) -> str:
  """`value ± error`, or the value alone."""
  if np.isfinite(sums.error[k]):
    return console.with_error(sums.total[k], sums.error[k])
  return console.number(sums.total[k])


def _lead_text(sums: tables_lib.Sums, k: int) -> str:
  if k == sums.strongest:
    return "strongest baseline"
  return str(sums.leads[k])


def verdict(table: tables_lib.Table) -> str:
  """Whether the default is ahead of every baseline."""
  if not table.overall.rivals:
    return f"{studies.DEFAULT} is not among the methods."
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
    rivals: dict[str, claims.Interval], table: tables_lib.Table
) -> str:
  return (f"{claims.verdict(studies.DEFAULT, rivals)} (over {table.clusters} "
          "and seeds).")


def positives(table: tables_lib.Table) -> list[str]:
  """Lines of the positives of each objective."""
  return claims.positives(table.objectives, table.positives, table.is_known)


def markdown(record: tables_lib.Record) -> str:
  """The tables of all conditions."""
  parts = []
  for table in record.tables:
    if record.label(table):
      parts += [f"### {table.condition.name}", ""]
    heads = columns(table)
    parts += ["| " + " | ".join(heads) + " |",
              "|" + "---|" * len(heads)]
    for row in table_rows(table):
      parts.append("| " + " | ".join(row) + " |")
    parts += ["", verdict(table), "", *positives(table), ""]
  return "\n".join(parts)


def print_tables(record: tables_lib.Record) -> None:
  """Shows the tables on the terminal."""
  for table in record.tables:
    rows = table_rows(table)
    console.show(table.condition.name, columns(table), rows, bold={
        place for place, row in enumerate(rows) if row[0] == studies.DEFAULT})
    print(verdict(table), *positives(table), sep="\n")
