"""The report of a benchmark."""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Sequence
import html
import json
import pathlib
from typing import Any

from matplotlib import figure as mpl_figure
import numpy as np

from experiments.benchmarks import timing as timing_lib
from experiments.runs import html as html_lib

Measured = Sequence[dict[str, Any]]


def write_report(
    workdir: pathlib.Path, content: dict[str, Any],
    tables: Sequence[timing_lib.Table],
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
      "quartiles.</p>",
      *_FIGURES[content["suite"]](content["measurements"])]
  for table in tables:
    parts += [f"<h2>{html.escape(table.title)}</h2>",
              html_lib.html_table(table.header, table.rows)]
  parts += ["<h2>Machine and configuration</h2>", "<pre>" + html.escape(
      json.dumps({**machine, **content["config"]}, indent=2)) + "</pre>"]
  html_lib.write_page(workdir / "report.html", "Benchmark", parts)


class _Methods:
  """Colours and labels of methods; ours are blue, floors black or grey."""

  def __init__(self, measured: Measured):
    self.names = list(dict.fromkeys(m["method"] for m in measured))
    self._whole = {m["method"] for m in measured
                   if "rank_error" in m or "work" not in m}
    ours = iter((html_lib.OURS, "#7fb2f0"))
    rivals = iter(("#d9742b", "#2a8a4a", "#8a5fbf", "#b8860b"))
    floors = iter(("#222222", "#999999"))
    self.color = {
        name: next(floors if self.is_floor(name) else
                   ours if name.startswith("harmonrank") else rivals)
        for name in self.names}

  def is_floor(self, name: str) -> bool:
    return name not in self._whole

  def shown(self, name: str, measured: Measured) -> list[dict[str, Any]]:
    """Measurements of a method: of all its work, or of a floor."""
    return [m for m in measured if m["method"] == name and (
        self.is_floor(name) or m.get("work") != "forward")]

  def label(self, name: str) -> str:
    return f"{name} (floor)" if self.is_floor(name) else name


def _soft_rank_parts(measured: Measured) -> list[str]:
  single = [m for m in measured if m["batch"] == 1]
  batched = [m for m in measured if m["batch"] > 1]
  parts = []
  if single:
    parts += ["<h2>One list</h2>",
              "<p>Time of forward and backward, and how far the worst rank "
              "is off. Dashed: what does less, to be ranked by.</p>",
              html_lib.svg(_time_figure(single))]
  if batched:
    parts += ["<h2>Many lists</h2>", html_lib.svg(_batch_figure(batched))]
  return parts


def _time_figure(measured: Measured) -> mpl_figure.Figure:
  """Time, and error in ranks, against the length of the list."""
  methods = _Methods(measured)
  figure = mpl_figure.Figure(figsize=(10, 4.6))
  times, errors = figure.subplots(1, 2)
  for name in methods.names:
    lines = sorted(methods.shown(name, measured), key=lambda m: m["n"])
    sizes = [m["n"] for m in lines]
    line = {"color": methods.color[name], "label": methods.label(name),
            "ls": "--" if methods.is_floor(name) else "-"}
    times.plot(sizes, [1e3 * m["median_seconds"] for m in lines], "o", ms=3,
               lw=1.4, **line)
    low, high = 1e3 * np.asarray([m["quartiles_seconds"] for m in lines]).T
    times.fill_between(sizes, low, high, color=line["color"], alpha=0.2, lw=0)
    if not methods.is_floor(name):
      # A logarithmic axis has no place for 0.
      errors.plot(sizes, [m["rank_error"] or np.nan for m in lines], "o",
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


def _batch_figure(measured: Measured) -> mpl_figure.Figure:
  """A panel for each size, a line in it for each method."""
  methods = _Methods(measured)
  sizes = list(dict.fromkeys((m["batch"], m["n"]) for m in measured))
  figure = mpl_figure.Figure(figsize=(10, 1.0 + 0.26 * len(methods.names)))
  grid = figure.subplots(1, len(sizes), squeeze=False, sharey=True)
  places = np.arange(len(methods.names))[::-1]
  for (batch, size), axes in zip(sizes, grid.flat, strict=True):
    for place, name in zip(places, methods.names, strict=True):
      for m in methods.shown(name, measured):
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


def _tasks_figure(
    measured: Measured, floors: Collection[str] = ()
) -> mpl_figure.Figure:
  """A panel for each task, a line in it for each method; floors are hollow."""
  names = list(dict.fromkeys(m["method"] for m in measured))
  tasks = list(dict.fromkeys(m["task"] for m in measured))
  rivals = {name for name in names if not name.startswith("harmonrank")}
  if rivals == set(names):  # All are of this library.
    rivals = set()
  names.sort(key=lambda name: (
      name in floors, not name.startswith("harmonrank")))
  columns = min(4, len(tasks))
  count = -(-len(tasks) // columns)
  figure = mpl_figure.Figure(figsize=(10, count * (0.9 + 0.22 * len(names))))
  grid = figure.subplots(count, columns, squeeze=False, sharey=True)
  places = np.arange(len(names))[::-1]
  for axes in grid.flat[len(tasks):]:
    axes.set_visible(False)
  for task, axes in zip(tasks, grid.flat, strict=False):
    for place, name in zip(places, names, strict=True):
      color = "#222222" if name in floors else (
          html_lib.RIVAL if name in rivals else html_lib.OURS)
      for m in measured:
        if (m["task"], m["method"]) == (task, name):
          low, high = 1e3 * np.asarray(m["quartiles_seconds"])
          axes.plot([low, high], [place, place], color=color)
          axes.plot(1e3 * m["median_seconds"], place, "o", ms=4, color=color,
                    mfc="none" if name in floors else color)
    axes.set_xscale("log")
    # Limits are powers of ten, so that at least two ticks have labels.
    low, high = np.log10(axes.get_xlim())
    axes.set_xlim(10**np.floor(low), 10**np.ceil(high))
    axes.xaxis.set_minor_formatter("")
    axes.set_title(task, fontsize=9)
    axes.set_xlabel("milliseconds")
    axes.grid(axis="x", which="both", alpha=0.25, lw=0.5)
    axes.set_yticks(places, names)
  return figure


def _throughput_figure(measured: Measured) -> mpl_figure.Figure:
  """Examples per second against the batch size."""
  methods = _Methods(measured)
  figure = mpl_figure.Figure(figsize=(8, 4))
  axes = figure.subplots()
  for name in methods.names:
    lines = methods.shown(name, measured)
    sizes = [m["batch_size"] for m in lines]
    axes.plot(sizes, [m["examples_per_second"] for m in lines], "o-", ms=4,
              color=methods.color[name], label=name)
    low, high = np.asarray(
        [m["quartiles_examples_per_second"] for m in lines]).T
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


def _rates_figure(measured: Measured) -> mpl_figure.Figure:
  """A panel for each part of the suite, a line in it for each measurement."""
  labels = {"simulate": "slates per second", "train": "user-steps per second",
            "learner": "steps per second"}
  parts = list(dict.fromkeys(m["part"] for m in measured))
  counts = [sum(m["part"] == part for m in measured) for part in parts]
  figure = mpl_figure.Figure(figsize=(
      9, 0.9 * len(parts) + 0.26 * sum(counts)))
  grid = figure.subplots(
      len(parts), 1, squeeze=False, height_ratios=[1 + x for x in counts])
  for part, axes in zip(parts, grid.flat, strict=True):
    lines = [m for m in measured if m["part"] == part]
    places = np.arange(len(lines))[::-1]
    for m, place in zip(lines, places, strict=True):
      is_ours = m["method"].startswith("harmonrank")
      color = html_lib.OURS if is_ours else html_lib.RIVAL
      axes.plot(m["quartiles_steps_per_second"], [place, place], color=color)
      axes.plot(m["steps_per_second"], place, "o", ms=4, color=color)
    axes.set_xlim(0)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_yticks(places, [f"{m['task']}: {m['method']}" for m in lines])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel(labels[part])
    axes.grid(axis="x", alpha=0.25, lw=0.5)
  return figure


# The figures of each suite, with their titles.
_FIGURES: dict[str, Callable[[Measured], list[str]]] = {
    "soft_rank": _soft_rank_parts,
    "train_auc": lambda measured: [html_lib.svg(_throughput_figure(measured))],
    "slates": lambda measured: [html_lib.svg(_tasks_figure(
        measured, {m["method"] for m in measured if "same_slots" not in m}))],
    "policy": lambda measured: [html_lib.svg(_rates_figure(measured))],
    "scoring": lambda measured: [html_lib.svg(_tasks_figure(
        measured, {m["method"] for m in measured if m["times_plain"] == 1}))],
    "serving": lambda measured: [html_lib.svg(_tasks_figure(
        [m for m in measured if m["part"] == "whole"]))]}
