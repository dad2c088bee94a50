"""The report of a trained predictor."""

from collections.abc import Sequence
import html
import json
import pathlib
from typing import Any

from matplotlib import figure as mpl_figure
import numpy as np

from experiments.predictor import results as scored
from experiments.runs import claims
from experiments.runs import console
from experiments.runs import html as page
from experiments.runs import metrics as metric_writer


def write_report(
    workdir: pathlib.Path,
    names: Sequence[str],
    measures: scored.Measures,
    num_rows: int,
    config: dict[str, Any],
) -> None:
  """Writes `report.html` of a trained predictor."""
  page.write_page(workdir / "report.html", "Predictor", [
      "<h1>Predictor</h1>",
      f"<p class=lead>{num_rows:,} held-out rows, {len(names)} objectives.</p>",
      "<h2>Each objective by its own score</h2>",
      "<p>With 95 % intervals. The share of the base rate's log-loss that is "
      "left says how much the score knows: 1 is nothing.</p>",
      page.svg(_own_figure(names, measures)),
      "<h2>Training</h2>",
      "<p>Validation rows choose the step whose parameters are kept.</p>",
      page.svg(page.training_figure(metric_writer.read_metrics(workdir), names,
                            "relative_log_loss")),
      "<h2>Numbers</h2>",
      page.html_table(scored.COLUMNS, scored.table_rows(names, measures)),
      *([] if np.isfinite(measures.auc_error).all() else
        [f"<p>{claims.NOTE}</p>"]),
      "<h2>Configuration</h2>",
      f"<pre>{html.escape(json.dumps(config, indent=2))}</pre>"])


def _own_figure(
    names: Sequence[str], measures: scored.Measures
) -> mpl_figure.Figure:
  figure = mpl_figure.Figure(figsize=(9, 0.8 + 0.3 * len(names)))
  auc, loss = figure.subplots(1, 2, sharey=True)
  places = np.arange(len(names))[::-1]
  share = 1 / measures.base_log_loss
  for axes, values, margins, label in (
      (auc, measures.auc, (measures.auc - measures.auc_low,
                           measures.auc_high - measures.auc), "AUC"),
      (loss, measures.log_loss * share,
       console.NORMAL_95 * measures.log_loss_error * share,
       "log-loss, of that of the base rate")):
    axes.errorbar(values, places, xerr=margins, fmt="o", ms=4,
                  color=page.OURS)
    axes.set_xlabel(label)
  auc.set_yticks(places, names)
  loss.axvline(1, color=page.RIVAL, lw=0.8, ls="--")
  return figure
