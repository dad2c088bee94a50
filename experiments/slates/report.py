"""The pages of a run: a report, and slates that change as theta is dragged.

The report shows what diversity costs, and where exposure goes. The slates of
page.html are selected beforehand, for every method and every step of theta.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import html
import importlib.resources
import json
import pathlib
from typing import Any

from matplotlib import figure as mpl_figure
import numpy as np
import pyarrow as pa

from experiments.runs import html as html_lib
from experiments.runs import workdir as workdir_lib
from experiments.slates import comparison as comparison_lib
from experiments.slates import results
from harmonrank_jax.data import chunks as chunks_lib

_COLORS = {"dpp": html_lib.OURS, "mmr": "#d9742b", "ssd": html_lib.TRUTH,
           "top_k": "#222222"}
_NUM_REQUESTS = 4
# Of all requests that methods are compared on, as in the report.
_PAGE_METRICS = ("score", "distance", "num_categories")
_PLACE_OF_DATA = "DATA_OF_THE_PAGE"
# Name and description of each method.
_METHODS = {
    "dpp": ("DPP", "Determinantal point process: an item counts by what it "
            "adds to all items before it together."),
    "mmr": ("MMR", "Maximal marginal relevance: an item loses by its "
            "similarity to the nearest item before it."),
    "ssd": ("SSD", "Sliding spectrum decomposition: an item gains by the "
            "volume it spans with the items before it."),
    "top_k": ("Top-K", "The highest scores, whatever they look like: the knob "
              "does nothing.")}


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
      *(f"<p>{html.escape(note)}.</p>" for note in results.notes(
          record.summary)),
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


def shown_requests(comparison: comparison_lib.Comparison) -> np.ndarray:
  """Places of the requests of the page; first those that leave a choice."""
  sizes = np.diff(comparison.chunk.starts)
  num_slots = comparison.rows["top_k"].shape[-1]
  by_choice = np.argsort(sizes < 2 * num_slots, kind="stable")
  return np.sort(by_choice[:_NUM_REQUESTS])


def shown_items(
    comparison: comparison_lib.Comparison, shown: np.ndarray
) -> pa.Array:
  """Ids of all items in slates of the requests at these places."""
  rows = np.unique(np.concatenate(
      [rows[:, shown].ravel() for rows in comparison.rows.values()]))
  return comparison.chunk.item_ids.take(pa.array(rows[rows >= 0]))


def make_content(
    comparison: comparison_lib.Comparison, shown: np.ndarray,
    categories: Sequence[str], *, method: str, limits: str,
    titles: Mapping[Any, str],
) -> dict[str, Any]:
  """What the page shows, as JSON; titles of items are by id."""
  num_slots = comparison.rows[method].shape[-1]
  return workdir_lib.finite({
      "thetas": comparison_lib.THETAS, "theta": comparison.theta,
      "method": method, "limits": limits, "num_slots": num_slots,
      "num_requests": len(comparison.chunk.request_ids),
      "methods": [
          {"id": name, "name": _METHODS[name][0], "about": _METHODS[name][1],
           "means": {key: [value.mean for value in curves[key]]
                     for key in _PAGE_METRICS}}
          for name, curves in comparison.curves.items()],
      "requests": [_request(comparison, categories, titles, place)
                   for place in shown]})


def write_slates_page(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes the page, one file that needs no other."""
  text = (importlib.resources.files("experiments.slates") / "page.html"
          ).read_text()
  # Escaped, so that no text of the data can end the script element.
  data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
  workdir_lib.write_text(path, text.replace(_PLACE_OF_DATA, data))


def _request(
    comparison: comparison_lib.Comparison, categories: Sequence[str],
    titles: Mapping[Any, str], place: int,
) -> dict[str, Any]:
  """A request: the items of its slates, and the slates as places of items."""
  chunk = comparison.chunk
  slates = {method: rows[:, place] for method, rows in comparison.rows.items()}
  items = np.unique(np.concatenate(
      [rows[rows >= 0] for rows in slates.values()]))
  return {
      "id": str(chunk.request_ids[int(place)].as_py()),
      "num_candidates": int(np.diff(chunk.starts)[place]),
      "items": [{"id": str(chunk.item_ids[int(row)].as_py()),
                 "title": titles.get(chunk.item_ids[int(row)].as_py()),
                 "category": categories[chunk.categories[row]],
                 "score": float(f"{chunk.scores[row]:.4g}")} for row in items],
      "slates": {method: [_slate(chunk, items, at) for at in rows]
                 for method, rows in slates.items()}}


def _slate(
    chunk: chunks_lib.Chunk, items: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
  """A slate: places of its items, their nearest item above, the distance."""
  rows = rows[rows >= 0]
  features = chunk.features[rows].astype(np.float64)
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  # What has no features is similar to nothing.
  features /= np.where(norms > 0, norms, 1)
  cosines = features @ features.T
  nearest = [cosines[k, :k].max() if k else None for k in range(len(rows))]
  pairs = cosines[np.triu_indices(len(rows), 1)]
  return {"items": np.searchsorted(items, rows),
          "nearest": [None if n is None else round(float(n), 3)
                      for n in nearest],
          "distance": round(float(1 - pairs.mean()), 4) if len(pairs) else None}
