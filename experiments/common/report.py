"""Reports: one self-contained HTML file, figures first, then tables.

The only module that imports matplotlib.
"""

from collections.abc import Sequence
import html
import io
import json
import pathlib
from typing import Any

import matplotlib
from matplotlib import figure as mpl_figure
import numpy as np

from experiments.common import benchmarking
from experiments.common import metric_writer
from experiments.common import results as results_lib
from experiments.common import scored
from experiments.common import slate_comparison
from experiments.common import workdir as workdir_lib

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px;
       margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.15em;
     margin-top: 2em; } p { max-width: 46em; } figure { margin: 0; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
        font-size: 13px; }
td, th { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
tr.first td { font-weight: bold; } .lead { font-size: 1.1em; }
pre { background: #f5f5f5; padding: 1em; overflow-x: auto; font-size: 12px; }
"""
_OURS, _RIVAL, _TRUTH = "#1f5fbf", "#8a8a8a", "#2a8a4a"
_SLATES = {"dpp": _OURS, "mmr": "#d9742b", "ssd": _TRUTH, "top_k": "#222222"}
_MAX_CATEGORIES = 20
_BINS = 40


def write_ranker_report(
    workdir: pathlib.Path, run: results_lib.Run, results: results_lib.Results
) -> None:
  """Writes `report.html` of a trained ranker."""
  comparison, names = results.comparison, run.schema.names
  lines = metric_writer.read_metrics(workdir)
  parts = [
      "<h1>HarmonRank</h1>",
      f"<p class=lead>{len(run.test.labels):,} held-out rows, {len(names)} "
      f"objectives, sum of AUCs {comparison.auc_sum[0]:.4f} ± "
      f"{comparison.sum_error[0]:.4f} (standard error, {comparison.clusters} "
      f"resampled). {html.escape(results_lib.verdict(comparison))}</p>",
      "<h2>How far ahead of each baseline</h2>",
      "<p>Difference of the sums of AUCs on the same resamples, with 95 % "
      "intervals. Right of the line, the ensemble is ahead.</p>",
      _svg(_lead_figure(comparison)),
      "<h2>AUC per objective</h2>",
      "<p>With 95 % intervals. Intervals of two methods may overlap although "
      "one is surely ahead: the figure above compares them in pairs.</p>",
      _svg(_auc_figure(comparison, names)),
      "<h2>Training</h2>",
      f"<p>Exact AUC on validation rows; step 0 is before training, step "
      f"{run.best_step} is used.</p>",
      _svg(_training_figure(lines, names, "auc_sum", run.best_step)),
  ]
  if any("pooled_fraction" in line.get("train", {}) for line in lines):
    parts += [
        "<h2>Soft rank</h2>",
        "<p>Pooled items share a block: their soft ranks keep distances, not "
        "places. An item with a dead gradient is not moved by the loss.</p>",
        _svg(_soft_rank_figure(lines))]
  parts += [
      "<h2>Scores</h2>",
      "<p>Where the positives of each objective stand in the ranking of all "
      "held-out rows (the diagonal would be no information), and the log-odds "
      "of the scores that went in.</p>",
      _svg(_score_figure(run, results.methods[results_lib.ENSEMBLE]))]
  if results.slice_by:
    parts += [f"<h2>By {html.escape(results.slice_by)}</h2>",
              "<p>Sum of the AUCs within the rows of each value.</p>",
              _slice_table(results)]
  parts += ["<h2>Numbers</h2>", _auc_table(run, results),
            "<h2>Configuration</h2>",
            f"<pre>{html.escape(json.dumps(run.config, indent=2))}</pre>"]
  write_page(workdir / "report.html", "HarmonRank", parts)


def write_predictor_report(
    workdir: pathlib.Path,
    names: Sequence[str],
    measures: scored.Measures,
    num_rows: int,
    config: dict[str, Any],
) -> None:
  """Writes `report.html` of a trained predictor."""
  write_page(workdir / "report.html", "Predictor", [
      "<h1>Predictor</h1>",
      f"<p class=lead>{num_rows:,} held-out rows, {len(names)} objectives.</p>",
      "<h2>Each objective by its own score</h2>",
      "<p>With 95 % intervals. The share of the base rate's log-loss that is "
      "left says how much the score knows: 1 is nothing.</p>",
      _svg(_own_figure(names, measures)),
      "<h2>Training</h2>",
      "<p>Validation rows choose the step whose parameters are kept.</p>",
      _svg(_training_figure(metric_writer.read_metrics(workdir), names,
                            "relative_log_loss")),
      "<h2>Numbers</h2>",
      html_table(scored.COLUMNS, scored.table_rows(names, measures)),
      "<h2>Configuration</h2>",
      f"<pre>{html.escape(json.dumps(config, indent=2))}</pre>"])


def write_benchmark_report(
    workdir: pathlib.Path, content: dict[str, Any],
    tables: Sequence[benchmarking.Table],
) -> None:
  """Writes `report.html` of a benchmark; the first table's note leads."""
  machine = content["machine"]
  left_out = "".join(
      f"<p>{html.escape(line)}</p>" for line in content["left_out"])
  parts = [
      f"<h1>Benchmark: {html.escape(content['suite'])}</h1>",
      f"<p class=lead>{html.escape(tables[0].note)}</p>{left_out}",
      f"<p>{html.escape(machine['processor'])}, {machine['cores']} cores, on "
      f"{html.escape(machine['device'])}; load average "
      f"{machine['load_average']:.1f} when it began. Bands and bars are "
      "quartiles.</p>"]
  measured = content["measurements"]
  if content["suite"] == "train_auc":
    parts.append(_svg(_throughput_figure(measured)))
  elif content["suite"] == "slates":
    parts.append(_svg(_selection_figure(measured)))
  else:
    single = [m for m in measured if m["batch"] == 1]
    batched = [m for m in measured if m["batch"] > 1]
    if single:
      parts += ["<h2>One list</h2>",
                "<p>Time of forward and backward, and how far the worst rank "
                "is off. Dashed: what does less, to be ranked by.</p>",
                _svg(_time_figure(single))]
    if batched:
      parts += ["<h2>Many lists</h2>", _svg(_batch_figure(batched))]
  for table in tables:
    parts += [f"<h2>{html.escape(table.title)}</h2>",
              html_table(table.header, table.rows)]
  parts += ["<h2>Machine and configuration</h2>", "<pre>" + html.escape(
      json.dumps({**machine, **content["config"]}, indent=2)) + "</pre>"]
  write_page(workdir / "report.html", "Benchmark", parts)


def write_slates_report(
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
      _svg(_slate_figure(comparison, config["relevance"])),
      f"<h2>At theta {config['theta']:g}</h2>",
      "<p>Means over requests ± standard errors; log det counts what is left "
      "of a copy as 1e-5; a near-duplicate has a cosine of 0.95 or more to an "
      "item above it; the Gini coefficient is of the slots of all requests by "
      "category, 0 where all categories have as many.</p>",
      html_table(slate_comparison.HEADER,
                 slate_comparison.table_rows(comparison)),
      "<h2>Exposure by category</h2>",
      "<p>Share of all slots; the bar is the share of all candidates.</p>",
      _svg(_exposure_figure(comparison, categories)),
      "<h2>Configuration</h2>",
      f"<pre>{html.escape(json.dumps(config, indent=2))}</pre>"]
  write_page(workdir / "report.html", "Slates", parts)


def write_page(path: pathlib.Path, title: str, parts: Sequence[str]) -> None:
  """Writes a page of HTML parts."""
  workdir_lib.write_text(path, "\n".join([
      "<!doctype html>", '<html lang="en">', '<meta charset="utf-8">',
      f"<title>{html.escape(title)}</title>", f"<style>{_STYLE}</style>",
      *parts, "</html>", ""]))


def html_table(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
  """A table of texts; the first row stands out."""
  cells = lambda tag, row: "".join(
      f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
  body = "\n".join(
      f"<tr{' class=first' if not k else ''}>{cells('td', row)}</tr>"
      for k, row in enumerate(rows))
  return (f"<table><thead><tr>{cells('th', header)}</tr></thead>"
          f"<tbody>{body}</tbody></table>")


def _color(name: str) -> str:
  return {results_lib.ENSEMBLE: _OURS, results_lib.CEILING: _TRUTH}.get(
      name, _RIVAL)


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
                    xerr=1.96 * comparison.lead_error[k],
                    color=_color(comparison.names[k]))
    axes.axvline(0, color=_OURS, lw=1)
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
      axes.errorbar(comparison.auc[k, m], place,
                    xerr=1.96 * comparison.auc_error[k, m], fmt="o", ms=4,
                    color=_color(comparison.names[k]))
    axes.axvline(comparison.auc[0, m], color=_OURS, lw=0.6, alpha=0.5)
    axes.set_yticks(places, ["own score" if k == own else comparison.names[k]
                             for k in rows])
    axes.set_title(name, fontsize=10)
  return figure


def _training_figure(
    lines: list[dict[str, Any]], names: Sequence[str], judge: str,
    best_step: int | None = None,
) -> mpl_figure.Figure:
  """Loss; what validation rows judge by; AUC of each objective."""
  figure = mpl_figure.Figure(figsize=(10, 3.2))
  loss, judged, each = figure.subplots(1, 3)
  trained = [line for line in lines if "train" in line]
  loss.plot([line["step"] for line in trained],
            [line["train"]["loss"] for line in trained], color=_OURS, lw=1)
  loss.set_title("training loss", fontsize=10)
  found = [line for line in lines if "validation" in line]
  steps = [line["step"] for line in found]
  judged.plot(steps, [line["validation"][judge] for line in found], "o-",
              color=_OURS, ms=3)
  judged.set_title(f"validation, {judge.replace('_', ' ')}", fontsize=10)
  if best_step is not None:
    judged.axvline(best_step, color=_TRUTH, lw=0.8, ls="--")
  for name in names:
    values = np.asarray([line["validation"]["auc"][name] for line in found],
                        np.float64)
    each.plot(steps, values - values[0], "o-", ms=2, lw=1, label=name)
  each.set_title("validation, AUC since step 0", fontsize=10)
  each.legend(fontsize=7)
  for axes in (loss, judged, each):
    axes.set_xlabel("step")
  return figure


def _own_figure(
    names: Sequence[str], measures: scored.Measures
) -> mpl_figure.Figure:
  figure = mpl_figure.Figure(figsize=(9, 0.8 + 0.3 * len(names)))
  auc, loss = figure.subplots(1, 2, sharey=True)
  places = np.arange(len(names))[::-1]
  share = 1 / measures.base_log_loss
  for axes, values, errors, label in (
      (auc, measures.auc, measures.auc_error, "AUC"),
      (loss, measures.log_loss * share, measures.log_loss_error * share,
       "log-loss, of that of the base rate")):
    axes.errorbar(values, places, xerr=1.96 * errors, fmt="o", ms=4,
                  color=_OURS)
    axes.set_xlabel(label)
  auc.set_yticks(places, names)
  loss.axvline(1, color=_RIVAL, lw=0.8, ls="--")
  return figure


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
      style = {"color": _SLATES[method], "lw": 1.2}
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
              color=_SLATES[method], label=method, alpha=0.85)
  axes.set_yticks(places, names)
  axes.set_xlabel("share of slots, %")
  axes.legend(fontsize=8, frameon=False, loc="lower right")
  return figure


def _soft_rank_figure(lines: list[dict[str, Any]]) -> mpl_figure.Figure:
  trained = [line for line in lines if "train" in line]
  steps = [line["step"] for line in trained]
  figure = mpl_figure.Figure(figsize=(10, 2.8))
  panels = figure.subplots(1, 3)
  for axes, name in zip(
      panels, ("pooled_fraction", "dead_gradient_fraction", "num_blocks"),
      strict=True):
    axes.plot(steps, [line["train"][name] for line in trained], color=_OURS,
              lw=1)
    axes.set_title(name.replace("_", " "), fontsize=10)
    axes.set_xlabel("step")
    axes.set_ylim(0, None if name == "num_blocks" else 1)
  return figure


def _score_figure(
    run: results_lib.Run, scores: np.ndarray
) -> mpl_figure.Figure:
  figure = mpl_figure.Figure(figsize=(10, 3.4))
  ranked, entered = figure.subplots(1, 2)
  order = np.argsort(scores, kind="stable")
  share = 100 * (np.arange(len(scores)) + 0.5) / len(scores)
  for m, name in enumerate(run.schema.names):
    found = np.cumsum(run.test.labels[order, m], dtype=np.float64)
    if found[-1]:
      ranked.plot(share, 100 * found / found[-1], lw=1.2, label=name)
    present = run.test.has_score[:, m]
    odds = run.test.scores[present, m].astype(np.float64)
    if len(odds):
      entered.hist(np.log(odds) - np.log1p(-odds), bins=_BINS, density=True,
                   histtype="step", lw=1.2, label=name)
  ranked.set_xlabel("place in the ranking, % from the bottom")
  ranked.plot([0, 100], [0, 100], color=_RIVAL, lw=0.8, ls="--")
  ranked.set_ylabel("positives up to there, %")
  ranked.legend(fontsize=7, loc="upper left")
  entered.set_xlabel("log-odds of the objective scores")
  entered.set_ylabel("density")
  return figure


def _auc_table(run: results_lib.Run, results: results_lib.Results) -> str:
  comparison = results.comparison
  digits = results_lib.number
  rows = []
  for k, name in enumerate(comparison.names):
    rows.append([
        name, *(results_lib.with_error(value, error) for value, error in zip(
            comparison.auc[k], comparison.auc_error[k], strict=True)),
        digits(comparison.auc_sum[k]),
        results_lib.with_error(comparison.lead[k], comparison.lead_error[k],
                               signed=True) if k else ""])
  if results.group_auc is not None:
    values = np.asarray(results.group_auc.value)
    rows.append([f"harmonrank, AUC within each {results.group_by}",
                 *(digits(value) for value in values),
                 digits(np.nansum(values)), ""])
  return html_table(
      ["", *run.schema.names, "sum", "lead of harmonrank"], rows)


def _slice_table(results: results_lib.Results) -> str:
  names = [name for name in results.comparison.names
           if not name.startswith("own_")]
  chosen = [results.comparison.names.index(name) for name in names]
  rows = [[value, f"{count:,}", *(results_lib.number(sums[k]) for k in chosen)]
          for value, (count, sums) in results.slices.items()]
  return html_table(["", "rows", *names], rows)


class _Methods:
  """A colour and a line for each method; ours are blue, floors dashed."""

  def __init__(self, measured: Sequence[dict[str, Any]]):
    self.names = list(dict.fromkeys(m["method"] for m in measured))
    self._whole = {m["method"] for m in measured
                   if "rank_error" in m or "work" not in m}
    ours = iter((_OURS, "#7fb2f0"))
    rivals = iter(("#d9742b", "#2a8a4a", "#8a5fbf", "#b8860b"))
    floors = iter(("#222222", "#999999"))
    self.color = {
        name: next(floors if self.is_floor(name) else
                   ours if name.startswith("harmonrank") else rivals)
        for name in self.names}

  def is_floor(self, name: str) -> bool:
    return name not in self._whole

  def of(
      self, name: str, measured: Sequence[dict[str, Any]]
  ) -> list[dict[str, Any]]:
    """What to show of a method: all of its work, of a floor what it does."""
    return [m for m in measured if m["method"] == name and (
        self.is_floor(name) or m.get("work") != "forward")]

  def label(self, name: str) -> str:
    return f"{name} (floor)" if self.is_floor(name) else name


def _time_figure(measured: Sequence[dict[str, Any]]) -> mpl_figure.Figure:
  """Time, and error in ranks, against the length of the list."""
  methods = _Methods(measured)
  figure = mpl_figure.Figure(figsize=(10, 4.6))
  times, errors = figure.subplots(1, 2)
  for name in methods.names:
    found = sorted(methods.of(name, measured), key=lambda m: m["n"])
    sizes = [m["n"] for m in found]
    line = {"color": methods.color[name], "label": methods.label(name),
            "ls": "--" if methods.is_floor(name) else "-"}
    times.plot(sizes, [1e3 * m["median_seconds"] for m in found], "o", ms=3,
               lw=1.4, **line)
    low, high = 1e3 * np.asarray([m["quartiles_seconds"] for m in found]).T
    times.fill_between(sizes, low, high, color=line["color"], alpha=0.2, lw=0)
    if not methods.is_floor(name):
      # An error of 0 has no place on the axis.
      errors.plot(sizes, [m["rank_error"] or np.nan for m in found], "o",
                  ms=3, lw=1.4, **line)
  for axes, label in ((times, "milliseconds"),
                      (errors, "largest error, in ranks")):
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("items n")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25, lw=0.5)
  figure.legend(*times.get_legend_handles_labels(), loc="outside lower center",
                ncols=4, fontsize=8, frameon=False)
  return figure


def _batch_figure(measured: Sequence[dict[str, Any]]) -> mpl_figure.Figure:
  """A panel for each size, a line in it for each method."""
  methods = _Methods(measured)
  sizes = list(dict.fromkeys((m["batch"], m["n"]) for m in measured))
  figure = mpl_figure.Figure(figsize=(
      10, 1.0 + 0.26 * len(methods.names)))
  grid = figure.subplots(1, len(sizes), squeeze=False, sharey=True)
  places = np.arange(len(methods.names))[::-1]
  for (batch, size), axes in zip(sizes, grid.flat, strict=True):
    for place, name in zip(places, methods.names, strict=True):
      for m in methods.of(name, measured):
        if (m["batch"], m["n"]) == (batch, size):
          low, high = 1e3 * np.asarray(m["quartiles_seconds"])
          axes.plot([low, high], [place, place], color=methods.color[name])
          axes.plot(1e3 * m["median_seconds"], place, "o", ms=4,
                    color=methods.color[name])
    axes.set_xscale("log")
    axes.set_title(f"{batch:,} lists of {size:,}", fontsize=10)
    axes.set_xlabel("milliseconds, forward and backward")
    axes.grid(axis="x", which="both", alpha=0.25, lw=0.5)
  grid.flat[0].set_yticks(places, [methods.label(x) for x in methods.names])
  return figure


def _selection_figure(measured: Sequence[dict[str, Any]]) -> mpl_figure.Figure:
  """A panel for each task, a line in it for each method."""
  names = list(dict.fromkeys(m["method"] for m in measured))
  tasks = list(dict.fromkeys(m["task"] for m in measured))
  reading = {m["method"] for m in measured if "same_slots" not in m}
  names.sort(key=lambda name: (
      name in reading, not name.startswith("harmonrank")))
  columns = min(4, len(tasks))
  count = -(-len(tasks) // columns)
  figure = mpl_figure.Figure(figsize=(
      10, count * (0.9 + 0.22 * len(names))))
  grid = figure.subplots(count, columns, squeeze=False, sharey=True)
  places = np.arange(len(names))[::-1]
  for axes in grid.flat[len(tasks):]:
    axes.set_visible(False)
  for task, axes in zip(tasks, grid.flat, strict=False):
    for place, name in zip(places, names, strict=True):
      color = "#222222" if name in reading else (
          _OURS if name.startswith("harmonrank") else _RIVAL)
      for m in measured:
        if (m["task"], m["method"]) == (task, name):
          low, high = 1e3 * np.asarray(m["quartiles_seconds"])
          axes.plot([low, high], [place, place], color=color)
          axes.plot(1e3 * m["median_seconds"], place, "o", ms=4, color=color,
                    mfc="none" if name in reading else color)
    axes.set_xscale("log")
    # From a power of ten to another: two of them are labelled at least.
    low, high = np.log10(axes.get_xlim())
    axes.set_xlim(10**np.floor(low), 10**np.ceil(high))
    axes.xaxis.set_minor_formatter("")
    axes.set_title(task, fontsize=9)
    axes.set_xlabel("milliseconds")
    axes.grid(axis="x", which="both", alpha=0.25, lw=0.5)
    axes.set_yticks(places, names)
  return figure


def _throughput_figure(measured: Sequence[dict[str, Any]]) -> mpl_figure.Figure:
  """Examples per second against the batch size."""
  methods = _Methods(measured)
  figure = mpl_figure.Figure(figsize=(8, 4))
  axes = figure.subplots()
  for name in methods.names:
    found = methods.of(name, measured)
    sizes = [m["batch_size"] for m in found]
    axes.plot(sizes, [m["examples_per_second"] for m in found], "o-", ms=4,
              color=methods.color[name], label=name)
    low, high = np.asarray(
        [m["quartiles_examples_per_second"] for m in found]).T
    axes.fill_between(sizes, low, high, color=methods.color[name], alpha=0.2,
                      lw=0)
  axes.set_xscale("log", base=2)
  ticks = sorted({m["batch_size"] for m in measured})
  axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
  axes.set_ylim(0)
  axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
  axes.set_xlabel("batch size")
  axes.set_ylabel("examples per second")
  axes.legend(fontsize=8, frameon=False)
  return figure


def _svg(figure: mpl_figure.Figure) -> str:
  """The figure as a part of a page."""
  for axes in figure.axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
  figure.set_layout_engine("constrained")
  buffer = io.StringIO()
  # Ids that do not change from run to run; no date.
  with matplotlib.rc_context({"svg.hashsalt": "report"}):
    figure.savefig(buffer, format="svg", metadata={"Date": None})
  text = buffer.getvalue()
  return f"<figure>{text[text.index('<svg'):]}</figure>"
