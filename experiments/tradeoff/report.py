"""The report of a sweep over the weights of objectives."""

from collections.abc import Sequence
import html
import json
import pathlib
from typing import Any

from matplotlib import figure as mpl_figure
import numpy as np

from experiments.runs import claims
from experiments.runs import console
from experiments.runs import html as html_lib
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import front as front_lib
from experiments.tradeoff import results

COLORS = {families_lib.ONE: html_lib.OURS, families_lib.SEPARATE: "#d9742b",
          families_lib.CLOSED_FORM: html_lib.RIVAL, "tuned sum": "#b9a44c",
          "tuned product": "#9a6fb0", families_lib.CEILING: html_lib.TRUTH}
# Panels of two objectives.
_MAX_PANELS = 6


def write_report(
    workdir: pathlib.Path, tradeoff: front_lib.Tradeoff,
    summary: dict[str, Any],
) -> None:
  """Writes `report.html` of a sweep."""
  left_out = summary["left_out"]
  html_lib.write_page(workdir / "report.html", "Trade-off", [
      "<h1>The trade-off between objectives</h1>",
      f"<p class=lead>{html.escape(results.verdict(tradeoff))} To move "
      'along the front, open <a href="tradeoff.html">tradeoff.html</a>.</p>',
      f"<p>{len(tradeoff.weights)} vectors of weights w, for each of which "
      "the sum of w times AUC is maximised; AUCs are of "
      f"{tradeoff.num_rows:,} held-out rows.</p>",
      f"<p>Without an AUC there, and left out: "
      f"{html.escape(', '.join(left_out))}.</p>" if left_out else "",
      *_front_section(tradeoff), *_volume_section(tradeoff),
      *_number_sections(tradeoff),
      "<h2>Configuration</h2>",
      f"<pre>{html.escape(json.dumps(summary['config'], indent=2))}</pre>"])


def _front_section(tradeoff: front_lib.Tradeoff) -> list[str]:
  pairs = front_lib.pairs_in_conflict(tradeoff)
  of_all = "" if len(pairs) <= _MAX_PANELS else (
      f" Of {len(pairs)} pairs of objectives, those that give up most for each "
      "other.")
  return [
      "<h2>Fronts</h2>",
      "<p>A point is what one vector of weights reaches in two of the "
      "objectives; what it reaches in the others is not seen, so few points "
      "stand on the line, the front of the two. Rings are at equal weights."
      f"{of_all}</p>",
      html_lib.svg(_front_figure(tradeoff, pairs[:_MAX_PANELS]))]


def _volume_section(tradeoff: front_lib.Tradeoff) -> list[str]:
  return [
      "<h2>Hypervolume and training time</h2>",
      "<p>The share of the cube of AUCs from "
      f"{front_lib.REFERENCE} to 1 that lies below some point of a front, "
      f"with 95 % intervals over {tradeoff.clusters}. Families are compared "
      "on the same rows: the ratio is better known than the "
      "volumes. Training is that of all networks of a family, with "
      "compilation.</p>",
      html_lib.svg(_volume_figure(tradeoff))]


def _number_sections(tradeoff: front_lib.Tradeoff) -> list[str]:
  return [
      "<h2>Numbers</h2>",
      "<p>The weighted AUC is the mean, over all weights, of what is "
      "maximised.</p>",
      html_lib.html_table(["", *results.HEADER], [
          [name, *results.cells(tradeoff, f)]
          for f, name in enumerate(tradeoff.families)]),
      "<h2>AUC at equal weights</h2>",
      "<p>± standard errors.</p>",
      html_lib.html_table(
          ["", *claims.marked(tradeoff.names, tradeoff.is_known)], [
              [name, *map(console.with_error, tradeoff.auc[f, 0],
                          tradeoff.auc_error[f, 0])]
              for f, name in enumerate(tradeoff.families)]),
      *(f"<p>{html.escape(line)}</p>" for line in claims.positives(
          tradeoff.names, tradeoff.positives, tradeoff.is_known))]


def _front_figure(
    tradeoff: front_lib.Tradeoff, pairs: list[tuple[int, int]]
) -> mpl_figure.Figure:
  columns = min(len(pairs), 3)
  rows = -(-len(pairs) // columns)
  figure = mpl_figure.Figure(figsize=(10, 3.3 * rows + 0.4))
  panels = figure.subplots(rows, columns, squeeze=False)
  for axes in panels.flat[len(pairs):]:
    axes.set_axis_off()
  for axes, pair in zip(panels.flat, pairs, strict=False):
    for f, name in reversed(list(enumerate(tradeoff.families))):
      points = tradeoff.auc[f][:, pair]
      color = COLORS[name]
      axes.plot(*points.T, "o", ms=3, color=color, alpha=0.45, mew=0)
      best = front_lib.front_of_pair(tradeoff, f, pair)
      axes.plot(*best.T, "-o", ms=3.5, lw=1.3, color=color, mew=0, label=name)
      axes.plot(*points[0], "o", ms=9, mfc="none", color=color, mew=1.4)
    axes.set_xlabel(f"AUC of {tradeoff.names[pair[0]]}")
    axes.set_ylabel(f"AUC of {tradeoff.names[pair[1]]}")
    axes.grid(alpha=0.25, lw=0.5)
  handles, labels = panels.flat[0].get_legend_handles_labels()
  figure.legend(handles[::-1], labels[::-1], fontsize=8, frameon=False,
                loc="outside upper center", ncols=len(labels))
  return figure


def _volume_figure(tradeoff: front_lib.Tradeoff) -> mpl_figure.Figure:
  """Volumes, ratios to separate networks, seconds of training."""
  families = tradeoff.families
  figure = mpl_figure.Figure(figsize=(10, 1.1 + 0.3 * len(families)))
  volume, ratio, seconds = figure.subplots(1, 3)
  places = np.arange(len(families))[::-1]
  colors = [COLORS[name] for name in families]
  volume.barh(places, [each.mean for each in tradeoff.volume], color=colors,
              height=0.6, xerr=_whiskers(tradeoff.volume), ecolor="#444")
  volume.set_yticks(places, families)
  volume.set_xlabel("hypervolume")
  for f, place in enumerate(places):
    ratio.errorbar(100 * tradeoff.ratio[f].mean, place, fmt="o", ms=5,
                   xerr=100 * _whiskers(tradeoff.ratio[f:f + 1]),
                   color=colors[f])
  ratio.axvline(100, color=COLORS[families_lib.SEPARATE], lw=1)
  ratio.set_yticks([])
  ratio.set_ylim(volume.get_ylim())
  ratio.set_xlabel("% of that of separate networks")
  trained = [f for f, name in enumerate(families) if name in tradeoff.seconds]
  seconds.barh(places[trained],
               [tradeoff.seconds[families[f]] for f in trained],
               color=[colors[f] for f in trained], height=0.6)
  for f in trained:
    value = tradeoff.seconds[families[f]]
    seconds.text(value, places[f], f" {value:.1f} s", va="center", fontsize=8)
  seconds.set_yticks(places[trained], [families[f] for f in trained])
  seconds.set_xlabel("seconds of training")
  seconds.set_ylim(volume.get_ylim())
  seconds.margins(x=0.25)
  return figure


def _whiskers(intervals: Sequence[claims.Interval]) -> np.ndarray:
  """`[2, F]` lengths of F values with ends; 0 where undefined."""
  value, low, high = np.asarray(intervals).T
  return np.nan_to_num(np.stack([value - low, high - value]))
