"""The report of slates: what diversity costs, and where exposure goes."""

import html
import json
import pathlib

from matplotlib import figure as mpl_figure
import numpy as np

from experiments.runs import html as html_lib
from experiments.slates import results

_COLORS = {"dpp": html_lib.OURS, "mmr": "#d9742b", "ssd": html_lib.TRUTH,
           "top_k": "#222222"}


def write_report(path: pathlib.Path, record: results.Record) -> None:
  """Writes the report of a run."""
  summary = record.summary
  config = summary["config"]
  shown = (f"{summary['num_compared']:,} of {summary['num_requests']:,} "
           "requests, drawn at random")
  parts = [
      "<h1>Slates</h1>",
      f"<p class=lead>{summary['num_requests']:,} requests, "
      f"{config['num_selected']} slots, method {config['method']} at theta "
      f"{config['theta']:g}. Methods are compared on {shown}. To look at "
      'slates, open <a href="slates.html">slates.html</a>.</p>',
      f"<p>{html.escape(summary['limits'])}</p>",
      "<h2>What diversity costs</h2>",
      "<p>Each point is a theta, from 0 (on the right, diversity alone) to 1, "
      "where every method is top-K; rings are nearest the theta of this run. "
      "Bars are two standard errors over requests. The same theta means "
      "something else to each method: compare curves, then choose the theta "
      "whose price is right. MMR works on distances, the DPP on the log "
      "det.</p>",
      html_lib.svg(_tradeoff_figure(record)),
      f"<h2>At theta {config['theta']:g}</h2>",
      "<p>Means over requests ± standard errors; log det counts what is left "
      "of a copy as 1e-5; a near-duplicate has a cosine of 0.95 or more to an "
      "item above it; the Gini coefficient is of the slots of all requests by "
      "category, 0 where all categories have as many.</p>",
      html_lib.html_table(results.HEADER, record.rows),
      "<h2>Exposure by category</h2>",
      "<p>Share of all slots; the bar is the share of all candidates.</p>",
      html_lib.svg(_exposure_figure(record)),
      "<h2>Configuration</h2>",
      f"<pre>{html.escape(json.dumps(config, indent=2))}</pre>"]
  html_lib.write_page(path, "Slates", parts)


def _tradeoff_figure(record: results.Record) -> mpl_figure.Figure:
  """Relevance against diversity, each measured in two ways."""
  figure = mpl_figure.Figure(figsize=(10, 4.4))
  is_log = record.summary["config"]["relevance"] == "log"
  axes_labels = (
      (("distance", "intra-list distance"), ("score", "mean score")),
      (("log_det", "log det"),
       ("relevance", "mean relevance, "
        f"{'log(score)' if is_log else 'the score'}")))
  for axes, ((x, x_label), (y, y_label)) in zip(
      figure.subplots(1, 2), axes_labels, strict=True):
    for method, curves in record.curves.items():
      across, up = curves[x], curves[y]
      style = {"color": _COLORS[method], "lw": 1.2}
      if method == "top_k":
        # Top-K ignores theta: its curve is one point.
        style |= {"fmt": "s", "ms": 6, "zorder": 3}
        across, up = across[:, -1:], up[:, -1:]
      else:
        style |= {"fmt": "o-", "ms": 2.5}
        axes.plot(across[0, record.nearest], up[0, record.nearest], "o",
                  ms=10, mfc="none", color=style["color"])
      axes.errorbar(across[0], up[0], xerr=2 * across[1], yerr=2 * up[1],
                    elinewidth=0.6, label=method, **style)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25, lw=0.5)
  figure.axes[0].legend(fontsize=8, frameon=False, loc="lower left")
  return figure


def _exposure_figure(record: results.Record) -> mpl_figure.Figure:
  """A bar of the candidates and a mark of each method for each category."""
  num_categories = len(record.categories)
  figure = mpl_figure.Figure(figsize=(8, 1.2 + 0.24 * num_categories))
  axes = figure.subplots()
  places = np.arange(num_categories)[::-1]
  axes.barh(places, record.exposure["candidates"], color="#e4e4e4",
            label="candidates")
  for method in record.curves:
    axes.plot(record.exposure[method], places,
              "s" if method == "top_k" else "o", ms=5,
              color=_COLORS[method], label=method, alpha=0.85)
  axes.set_yticks(places, record.categories)
  axes.set_xlabel("share of slots, %")
  axes.legend(fontsize=8, frameon=False, loc="lower right")
  return figure
