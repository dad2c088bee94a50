"""The report of a trained ranker."""

from collections.abc import Sequence
import html
import json
import pathlib
from typing import Any

from matplotlib import figure as mpl_figure
import numpy as np

from experiments.ranker import results as results_lib
from experiments.runs import claims
from experiments.runs import console
from experiments.runs import html as page
from experiments.runs import metrics as metric_writer

_BINS = 40


def write_report(
    workdir: pathlib.Path, run: results_lib.Run, results: results_lib.Results
) -> None:
  """Writes `report.html` of a trained ranker."""
  comparison, names = results.comparison, run.schema.names
  lines = metric_writer.read_metrics(workdir)
  parts = [
      "<h1>HarmonRank</h1>",
      f"<p class=lead>{len(run.test.labels):,} held-out rows, {len(names)} "
      "objectives, sum of AUCs "
      f"{console.with_error(comparison.auc_sum[0], comparison.sum_error[0])} "
      f"(standard error, over {comparison.clusters}). "
      f"{html.escape(results_lib.verdict(comparison))}</p>",
      "<h2>How far ahead of each baseline</h2>",
      "<p>Difference of the sums of AUCs on the same rows, with 95 % "
      "intervals. Right of the line, the ensemble is ahead.</p>",
      page.svg(_lead_figure(comparison)),
      "<h2>AUC per objective</h2>",
      "<p>With 95 % intervals. Intervals of two methods may overlap although "
      "one is surely ahead: the figure above compares them in pairs.</p>",
      page.svg(_auc_figure(comparison, names)),
      "<h2>Training</h2>",
      f"<p>Exact AUC on validation rows; step 0 is before training, step "
      f"{run.best_step} is used.</p>",
      page.svg(page.training_figure(lines, names, "auc_sum", run.best_step)),
  ]
  if any("pooled_fraction" in line.get("train", {}) for line in lines):
    parts += [
        "<h2>Soft rank</h2>",
        "<p>Pooled items share a block: their soft ranks keep distances, not "
        "places. An item with a dead gradient is not moved by the loss.</p>",
        page.svg(_soft_rank_figure(lines))]
  parts += [
      "<h2>Scores</h2>",
      "<p>Where the positives of each objective stand in the ranking of all "
      "held-out rows (the diagonal would be no information), and the log-odds "
      "of the scores that went in.</p>",
      page.svg(_score_figure(results.curves))]
  if results.slice_by:
    parts += [f"<h2>By {html.escape(results.slice_by)}</h2>",
              "<p>Sum of the AUCs within the rows of each value.</p>",
              _slice_table(results)]
  parts += ["<h2>Numbers</h2>", _auc_table(run, results),
            "<h2>Configuration</h2>",
            f"<pre>{html.escape(json.dumps(run.config, indent=2))}</pre>"]
  page.write_page(workdir / "report.html", "HarmonRank", parts)


def _color(name: str) -> str:
  return {results_lib.ENSEMBLE: page.OURS, results_lib.CEILING: page.TRUTH}.get(
      name, page.RIVAL)


def _lead_figure(comparison: Any) -> mpl_figure.Figure:
  """Ensembles on a scale of their own: they are close, single scores far."""
  ensembles: list[int] = []
  others: list[int] = []
  for k, name in enumerate(comparison.names):
    if k:
      is_ensemble = not name.startswith("own_") and name != results_lib.CEILING
      (ensembles if is_ensemble else others).append(k)
  figure = mpl_figure.Figure(figsize=(
      10, 0.8 + 0.28 * max(len(ensembles), len(others))))
  for axes, rows in zip(figure.subplots(1, 2), (ensembles, others),
                        strict=True):
    places = np.arange(len(rows))[::-1]
    for place, k in zip(places, rows, strict=True):
      axes.errorbar(comparison.lead[k], place, fmt="o", ms=4,
                    xerr=comparison.lead_margin[k],
                    color=_color(comparison.names[k]))
    axes.axvline(0, color=page.OURS, lw=1)
    axes.set_yticks(places, [comparison.names[k] for k in rows])
    axes.set_xlabel("sum of AUCs of harmonrank minus that of the other")
  return figure


def _auc_figure(
    comparison: Any, names: Sequence[str]
) -> mpl_figure.Figure:
  """A panel for each objective, a line in it for each method."""
  columns = min(len(names), 4)
  panels = -(-len(names) // columns)
  # Other objectives' own scores say little in a panel.
  shared = [k for k, name in enumerate(comparison.names)
            if not name.startswith("own_")]
  figure = mpl_figure.Figure(figsize=(
      2.6 * columns + 1, panels * (0.8 + 0.24 * (len(shared) + 1))))
  grid = figure.subplots(panels, columns, squeeze=False, sharey=True)
  for panel in grid.flat[len(names):]:
    panel.set_axis_off()
  for m, (name, axes) in enumerate(zip(names, grid.flat, strict=False)):
    own = comparison.names.index(f"own_{name}")
    rows = [*shared[:1], own, *shared[1:]]
    places = np.arange(len(rows))[::-1]
    for place, k in zip(places, rows, strict=True):
      auc = comparison.auc[k, m]
      axes.errorbar(auc, place, xerr=[[auc - comparison.auc_low[k, m]],
                                      [comparison.auc_high[k, m] - auc]],
                    fmt="o", ms=4, color=_color(comparison.names[k]))
    axes.axvline(comparison.auc[0, m], color=page.OURS, lw=0.6, alpha=0.5)
    axes.set_yticks(places, ["own score" if k == own else comparison.names[k]
                             for k in rows])
    axes.set_title(name, fontsize=10)
  return figure


def _soft_rank_figure(lines: list[dict[str, Any]]) -> mpl_figure.Figure:
  trained = [line for line in lines if "train" in line]
  steps = [line["step"] for line in trained]
  figure = mpl_figure.Figure(figsize=(10, 2.8))
  panels = figure.subplots(1, 3)
  for axes, name in zip(
      panels, ("pooled_fraction", "dead_gradient_fraction", "num_blocks"),
      strict=True):
    axes.plot(steps, [line["train"][name] for line in trained], color=page.OURS,
              lw=1)
    axes.set_title(name.replace("_", " "), fontsize=10)
    axes.set_xlabel("step")
    axes.set_ylim(0, None if name == "num_blocks" else 1)
  return figure


def _score_figure(curves: results_lib.Curves) -> mpl_figure.Figure:
  figure = mpl_figure.Figure(figsize=(10, 3.4))
  ranked, entered = figure.subplots(1, 2)
  for name, positives in curves.positives.items():
    ranked.plot(curves.place, positives, lw=1.2, label=name)
  for name, log_odds in curves.log_odds.items():
    entered.hist(log_odds, bins=_BINS, density=True, histtype="step", lw=1.2,
                 label=name)
  ranked.set_xlabel("place in the ranking, % from the bottom")
  ranked.plot([0, 100], [0, 100], color=page.RIVAL, lw=0.8, ls="--")
  ranked.set_ylabel("positives up to there, %")
  ranked.legend(fontsize=7, loc="upper left")
  entered.set_xlabel("log-odds of the objective scores")
  entered.set_ylabel("density")
  return figure


def _auc_table(run: results_lib.Run, results: results_lib.Results) -> str:
  comparison = results.comparison
  digits = console.number
  rows = []
  for k, name in enumerate(comparison.names):
    rows.append([
        name, *(console.with_error(value, error) for value, error in zip(
            comparison.auc[k], comparison.auc_error[k], strict=True)),
        digits(comparison.auc_sum[k]),
        console.with_error(comparison.lead[k], comparison.lead_error[k],
                               signed=True) if k else ""])
  if results.group_auc is not None:
    values = np.asarray(results.group_auc.value)
    rows.append([f"harmonrank, AUC within each {results.group_by}",
                 *(digits(value) for value in values),
                 digits(np.nansum(values)), ""])
  names = run.schema.names
  few = comparison.positives, comparison.is_known
  return page.html_table(
      ["", *claims.marked(names, comparison.is_known), "sum",
       "lead of harmonrank"], rows) + "".join(
           f"<p>{html.escape(line)}</p>" for line in claims.positives(
               names, *few))


def _slice_table(results: results_lib.Results) -> str:
  names = [name for name in results.comparison.names
           if not name.startswith("own_")]
  chosen = [results.comparison.names.index(name) for name in names]
  rows = [[value, f"{count:,}", *(console.number(sums[k]) for k in chosen)]
          for value, (count, sums) in results.slices.items()]
  return page.html_table(["", "rows", *names], rows)
