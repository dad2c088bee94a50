"""The report of a comparison of methods: what was measured, drawn."""

import html
import json
import pathlib

import numpy as np

from experiments.comparison import figures
from experiments.comparison import studies
from experiments.comparison import tables as tables_lib
from experiments.comparison import text
from experiments.runs import console
from experiments.runs import html as html_lib


def write_report(workdir: pathlib.Path, record: tables_lib.Record) -> None:
  """Writes `report.html` of a comparison."""
  html_lib.write_page(workdir / "report.html", "Methods in comparison", [
      "<h1>Methods in comparison</h1>", *_lead(record),
      *_figure_sections(record), *_number_sections(record),
      "<h2>Configuration</h2>",
      f"<pre>{html.escape(json.dumps(record.config, indent=2))}</pre>"])


def _lead(record: tables_lib.Record) -> list[str]:
  """Rows, seeds and blocks; whether the default is ahead."""
  counted = lambda count, what: f"{count:,} {what}{'s' if count > 1 else ''}"
  # The last block has all rows before it to train and validate.
  numbers = (
      f"{counted(sum(record.rows[-1]), 'row')}, "
      f"{sum(test for _, _, test in record.rows):,} of them to test on in "
      f"{counted(len(record.rows), 'block')}, {len(record.objectives)} "
      f"objectives, {counted(record.config['num_seeds'], 'seed')} of each "
      "network.")
  if record.left_out:
    numbers += (" Left out, as the data has no column for it: "
                f"{', '.join(record.left_out).replace('_', ' ')}.")
  return [f"<p class=lead>{numbers}</p>", *(
      f"<p class=lead>{html.escape(_titled(record, table))}"
      f"{html.escape(text.verdict(table))}</p>" for table in record.tables)]


def _titled(record: tables_lib.Record, table: tables_lib.Table) -> str:
  """The condition with a colon, where there are several."""
  label = record.label(table)
  return f"{label}: " if label else ""


def _figure_sections(record: tables_lib.Record) -> list[str]:
  """The figures that the record has something for, each below its title."""
  sections = (
      (figures.lead_figure, True, "How far ahead of the strongest baseline",
       "Difference of the sums of AUCs, with 95 % intervals over "
       f"{record.tables[0].clusters}, the same for all, and over seeds. "
       f"{_sentence_of_strongest(record)}{_sentence_of_ceiling(record)} Values "
       "far to the left stand at the edge as numbers."),
      (figures.condition_figure, len(record.tables) > 1,
       "From condition to condition",
       f"How far networks are ahead of {figures.REFERENCE} of the same "
       "condition; bars are standard errors over seeds. A network without a "
       "point has too many pairs to train on."),
      (figures.plane_figure, record.tables[0].within_users,
       "Among all rows and within users",
       "To the right, a method ranks all rows better; upwards, the rows of "
       "each user. One may rise while the other falls. Bars are standard "
       "errors over seeds; methods far from the others stand at the edge, with "
       "their values in the key."),
      (figures.calibration_figure,
       any(np.isfinite(table.calibration_error).any()
           for table in record.tables), "Calibration",
       "Expected calibration error, mean over objectives, of the methods "
       "that give probabilities: how far these are from the rates of rows of "
       "similar probability."))
  parts = []
  for draw, is_known, title, words in sections:
    if is_known:
      parts += [f"<h2>{title}</h2>", f"<p>{words}</p>",
                html_lib.svg(draw(record))]
  return parts


def _number_sections(record: tables_lib.Record) -> list[str]:
  parts = []
  for table in record.tables:
    title = ", ".join(filter(None, ("Numbers", record.label(table))))
    parts += [f"<h2>{html.escape(title)}</h2>", _table(table), *(
        f"<p>{html.escape(line)}</p>" for line in text.positives(table))]
  return parts


def _table(table: tables_lib.Table) -> str:
  rows = []
  for row in text.table_rows(table):
    k = table.names.index(row[0])
    rate, seconds = table.learning_rate[k], table.seconds[k]
    rows.append([*row, f"{rate:.2g}" if np.isfinite(rate) else "-",
                 console.number(seconds, 1)])
  return html_lib.html_table(
      [*text.columns(table), "learning rate", "seconds to train"], rows)


def _sentence_of_strongest(record: tables_lib.Record) -> str:
  names = [_titled(record, table) + table.names[table.overall.strongest]
           for table in record.tables]
  sentence = f"The strongest baseline: {html.escape(', '.join(names))}."
  known = [_titled(record, table) + table.names[table.by_truth.strongest]
           for table in record.tables if table.by_truth]
  if not known:
    return sentence
  return (f"{sentence} These labels are generated: their true probabilities "
          "are known, and with them how likely a row that is drawn positive "
          "stands above one that is not, whatever was drawn; the strongest "
          f"baseline by that: {html.escape(', '.join(known))}.")


def _sentence_of_ceiling(record: tables_lib.Record) -> str:
  """The leads of the ceiling, which is too far away for the figure."""
  leads = [
      f"{_titled(record, table)}"
      f"{sums.leads[table.names.index(studies.CEILING)].mean:+.4f}{how}"
      for table in record.tables if studies.CEILING in table.names
      for sums, how in ((table.overall, ""), (table.by_truth, " by these"))
      if sums]
  if not leads:
    return ""
  return (" Outside the figure: the ceiling, which knows the true "
          f"probabilities ({html.escape(', '.join(leads))}).")
