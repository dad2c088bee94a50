"""The report of slates."""

from collections.abc import Sequence
import html
import json
import pathlib
from typing import Any

from matplotlib import figure as mpl_figure
import numpy as np

from experiments.runs import html as page
from experiments.slates import comparison as slate_comparison

_COLORS = {"dpp": page.OURS, "mmr": "#d9742b", "ssd": page.TRUTH,
           "top_k": "#222222"}
_MAX_CATEGORIES = 20


def write_report(
    workdir: pathlib.Path,
    comparison: slate_comparison.Comparison,
    categories: Sequence[str],
    summary: dict[str, Any],
) -> None:
  """Writes `report.html` of slates."""
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
      page.svg(_slate_figure(comparison, config["relevance"])),
      f"<h2>At theta {config['theta']:g}</h2>",
      "<p>Means over requests ± standard errors; log det counts what is left "
      "of a copy as 1e-5; a near-duplicate has a cosine of 0.95 or more to an "
      "item above it; the Gini coefficient is of the slots of all requests by "
      "category, 0 where all categories have as many.</p>",
      page.html_table(slate_comparison.HEADER,
                 slate_comparison.table_rows(comparison)),
      "<h2>Exposure by category</h2>",
      "<p>Share of all slots; the bar is the share of all candidates.</p>",
      page.svg(_exposure_figure(comparison, categories)),
      "<h2>Configuration</h2>",
      f"<pre>{html.escape(json.dumps(config, indent=2))}</pre>"]
  page.write_page(workdir / "report.html", "Slates", parts)


def _slate_figure(
    comparison: slate_comparison.Comparison, relevance: str
) -> mpl_figure.Figure:
  """Relevance against diversity, by what people and by what DPPs mean."""
  figure = mpl_figure.Figure(figsize=(10, 4.4))
  at = int(np.argmin(np.abs(slate_comparison.THETAS - comparison.theta)))
  for axes, (x, x_label), (y, y_label) in zip(
      figure.subplots(1, 2),
      (("distance", "intra-list distance"), ("log_det", "log det")),
      (("score", "mean score"),
       ("relevance", "mean relevance, log(score)" if relevance == "log"
        else "mean relevance, the score")), strict=True):
    for method, curves in comparison.curves.items():
      across, up = np.asarray(curves[x]).T, np.asarray(curves[y]).T
      style = {"color": _COLORS[method], "lw": 1.2}
      if method == "top_k":
        style |= {"fmt": "s", "ms": 6, "zorder": 3}
        across, up = across[:, -1:], up[:, -1:]
      else:
        style |= {"fmt": "o-", "ms": 2.5}
        axes.plot(across[0, at], up[0, at], "o", ms=10, mfc="none",
                  color=style["color"])
      axes.errorbar(across[0], up[0], xerr=2 * across[1], yerr=2 * up[1],
                    elinewidth=0.6, label=method, **style)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25, lw=0.5)
  figure.axes[0].legend(fontsize=8, frameon=False, loc="lower left")
  return figure


def _exposure_figure(
    comparison: slate_comparison.Comparison, categories: Sequence[str]
) -> mpl_figure.Figure:
  """A row for each of the largest categories, the others together."""
  def gathered(shares: np.ndarray) -> np.ndarray:
    if len(shares) <= _MAX_CATEGORIES:
      return shares
    return np.append(shares[:_MAX_CATEGORIES], shares[_MAX_CATEGORIES:].sum())

  exposure = {name: 100 * gathered(shares)
              for name, shares in comparison.exposure.items()}
  offered = exposure.pop("candidates")
  names = [*categories[:_MAX_CATEGORIES],
           *([f"{len(categories) - _MAX_CATEGORIES} others"]
             * (len(offered) > _MAX_CATEGORIES))]
  figure = mpl_figure.Figure(figsize=(8, 1.2 + 0.24 * len(names)))
  axes = figure.subplots()
  places = np.arange(len(names))[::-1]
  axes.barh(places, offered, color="#e4e4e4", label="candidates")
  for method, shares in exposure.items():
    axes.plot(shares, places, "s" if method == "top_k" else "o", ms=5,
              color=_COLORS[method], label=method, alpha=0.85)
  axes.set_yticks(places, names)
  axes.set_xlabel("share of slots, %")
  axes.legend(fontsize=8, frameon=False, loc="lower right")
  return figure
