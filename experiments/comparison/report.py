"""The report of a comparison of methods."""

from collections.abc import Sequence
import html
import json
import pathlib
from typing import Any

import numpy as np

from experiments.comparison import figures as figures
from experiments.comparison import studies as contenders
from experiments.comparison import tables as comparison
from experiments.comparison import text as tables
from experiments.runs import console
from experiments.runs import html as page


def write_report(
    workdir: pathlib.Path, content: dict[str, Any],
    found: Sequence[comparison.Found],
) -> None:
  """Writes `report.html` of a comparison.

  Args:
    workdir: where it goes.
    content: of `comparison_tables.summary`.
    found: per condition.
  """
  parts = [
      "<h1>Methods in comparison</h1>", _lead(content, found),
      "<h2>How far ahead of the strongest baseline</h2>",
      "<p>Difference of the sums of AUCs, with 95 % intervals by resampling "
      f"{found[0].clusters}, the same for all, and over seeds. "
      f"{_sentence_of_strongest(found)}{_sentence_of_ceiling(found)} What is "
      "far to the left stands at the edge with its value.</p>",
      page.svg(figures.lead_figure(found))]
  if len(found) > 1:
    parts += [
        "<h2>From condition to condition</h2>",
        f"<p>How far networks are ahead of {figures.REFERENCE} of the same "
        "condition; bars are standard errors over seeds. Without a point: what "
        "has too many pairs to train on.</p>",
        page.svg(figures.condition_figure(found))]
  if found[0].within_users:
    parts += [
        "<h2>Among all rows and within users</h2>",
        "<p>To the right, a method ranks all rows better; upwards, the rows of "
        "each user. One may rise while the other falls. Bars are standard "
        "errors over seeds.</p>",
        page.svg(figures.plane_figure(found))]
  if any(np.isfinite(table.calibration_error).any() for table in found):
    parts += [
        "<h2>Calibration</h2>",
        "<p>Expected calibration error, mean over objectives, of the methods "
        "that give probabilities: how far these are from the rates of rows of "
        "similar probability.</p>",
        page.svg(figures.calibration_figure(found))]
  for table in found:
    parts += [f"<h2>Numbers{_in_condition(table, found)}</h2>", _table(table)]
  parts += ["<h2>Configuration</h2>", "<pre>"
            f"{html.escape(json.dumps(content['config'], indent=2))}</pre>"]
  page.write_page(workdir / "report.html", "Methods in comparison", parts)


def _lead(
    content: dict[str, Any], found: Sequence[comparison.Found]
) -> str:
  """Rows, seeds and blocks; whether the default is ahead."""
  rows, config = content["rows"], content["config"]
  counted = lambda count, what: f"{count:,} {what}{'s' if count > 1 else ''}"
  # The last block has all rows before it to train and validate.
  numbers = (
      f"{counted(sum(rows[-1].values()), 'row')}, "
      f"{sum(block['test'] for block in rows):,} of them to test on in "
      f"{counted(len(rows), 'block')}, {len(content['objectives'])} "
      f"objectives, {counted(config['num_seeds'], 'seed')} of each network.")
  verdicts = [
      f"<p class=lead>{html.escape(_titled(table, found))}"
      f"{html.escape(tables.verdict(table))}</p>" for table in found]
  if content["left_out"]:
    numbers += (" Left out, as the data has no column for it: "
                f"{', '.join(content['left_out']).replace('_', ' ')}.")
  return "\n".join([f"<p class=lead>{numbers}</p>", *verdicts])


def _titled(
    table: comparison.Found, found: Sequence[comparison.Found]
) -> str:
  return f"{figures.label(table)}: " if len(found) > 1 else ""


def _in_condition(
    table: comparison.Found, found: Sequence[comparison.Found]
) -> str:
  return f", {html.escape(figures.label(table))}" if len(found) > 1 else ""


def _sentence_of_strongest(found: Sequence[comparison.Found]) -> str:
  names = [_titled(table, found) + table.names[table.overall.strongest]
           for table in found]
  text = f"The strongest baseline: {html.escape(', '.join(names))}."
  known = [_titled(table, found) + table.names[table.by_truth.strongest]
           for table in found if table.by_truth]
  if not known:
    return text
  return (f"{text} These labels are generated: their true probabilities are "
          "known, and with them how likely a row that is drawn positive stands "
          "above one that is not, whatever was drawn; the strongest baseline "
          "by that: "
          f"{html.escape(', '.join(known))}.")


def _sentence_of_ceiling(found: Sequence[comparison.Found]) -> str:
  """The ceiling is too far away for a figure."""
  leads = [
      f"{_titled(table, found)}"
      f"{sums.leads[table.names.index(contenders.CEILING)].mean:+.4f}{how}"
      for table in found if contenders.CEILING in table.names
      for sums, how in ((table.overall, ""), (table.by_truth, " by these"))
      if sums]
  if not leads:
    return ""
  return (" Outside the figure: the ceiling, which knows the true "
          f"probabilities ({html.escape(', '.join(leads))}).")


def _table(table: comparison.Found) -> str:
  rows = []
  for row in tables.table_rows(table):
    k = table.names.index(row[0])
    rate, seconds = table.learning_rate[k], table.seconds[k]
    rows.append([*row, f"{rate:.2g}" if np.isfinite(rate) else "-",
                 console.number(seconds, 1)])
  return page.html_table(
      [*tables.columns(table), "learning rate", "seconds to train"], rows)
