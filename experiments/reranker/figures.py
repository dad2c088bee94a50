"""The figures of the report of a re-ranking policy."""

from collections.abc import Sequence
import itertools
from typing import Any

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from experiments.reranker import record as record_lib
from experiments.runs import claims
from experiments.runs import console
from experiments.runs import html as html_lib
from harmonrank_jax.reranker import fidelity as fidelity_lib

_TRAINED, _PAPER, _DARK = "#d9742b", "#8a5fbf", "#222222"
_OBSERVED: dict[str, Any] = {
    "fmt": "o", "ms": 3, "elinewidth": 0.8, "color": _DARK, "label": "observed"}
# Characters of a category's name at an axis, and above a small panel.
_LONGEST_NAME, _LONGEST_TITLE = 24, 18
# A difference larger than so many times the median is written at the edge.
_FAR = 4.0
# So many times as far below the best as the median, a CTR is at the edge.
_DEEP = 3.0


def plain(name: str, longest: int = _LONGEST_NAME) -> str:
  """A name for a figure: not too long, and no formula."""
  if len(name) > longest:
    # Names of categories differ at the end as often as at the beginning.
    half = longest // 2
    name = f"{name[:half]}…{name[len(name) + half + 1 - longest:]}"
  return name.replace("$", r"\$")


def trade_figure(
    points: Sequence[record_lib.Point], threshold: float, is_feasible: bool
) -> mpl_figure.Figure:
  """Clicks against diversity, best clicks first; privileged ones hollow."""
  figure = mpl_figure.Figure(figsize=(10, 5), layout="constrained")
  axes = figure.subplots()
  points = sorted(points, key=lambda point: -point.ctr)
  # Very few clicks stand at the lower edge, lest they squeeze the others.
  floor, edge = _floor([point.ctr for point in points])
  points = [
      point if point.ctr >= floor else point._replace(
          name=f"{point.name}, {point.ctr:.3f}", ctr=edge, ctr_error=np.nan)
      for point in points]
  colors = [color_of(point.name, point.is_trained, point.is_privileged)
            for point in points]
  # The best is drawn last, over the others.
  for point, color in zip(points[::-1], colors[::-1], strict=True):
    axes.errorbar(
        point.diversity, point.ctr, xerr=point.diversity_error,
        yerr=point.ctr_error, fmt="v" if point.ctr < floor else "o", ms=6,
        color=color, elinewidth=1,
        mfc="none" if point.is_privileged else color)
  axes.margins(0.1, 0.12)
  _draw_threshold(axes, threshold, is_feasible)
  html_lib.numbered_points(
      axes, [point.diversity for point in points],
      [point.ctr for point in points], [point.name for point in points],
      colors=colors, bold="ppo")
  return figure


def _draw_threshold(
    axes: mpl_axes.Axes, threshold: float, is_feasible: bool
) -> None:
  """The diversity asked for, and what the axes are."""
  axes.axvline(threshold, color=_DARK, lw=0.8, ls="--")
  axes.annotate(
      " asked for" if is_feasible else " asked for, out of reach",
      (threshold, 0.01), xycoords=axes.get_xaxis_transform(), fontsize=8)
  axes.set_xlabel("diversity, log det S / K of a slate (more to the right)")
  axes.set_ylabel("CTR")
  axes.grid(alpha=0.25, lw=0.5)


def _floor(ctrs: Sequence[float]) -> tuple[float, float]:
  """CTR below which a point is at the edge, and the edge."""
  best, middle = max(ctrs), float(np.median(ctrs))
  floor = best - (_DEEP * (best - middle) or np.inf)
  least = min(ctr for ctr in ctrs if ctr >= floor)
  return floor, min(least, floor) - 0.05 * (best - floor)


def color_of(name: str, is_trained: bool, is_privileged: bool) -> str:
  """Ours is blue."""
  if name == "ppo":
    return html_lib.OURS
  if is_privileged:
    return html_lib.TRUTH
  return _TRAINED if is_trained else html_lib.RIVAL


def paired_figure(
    panels: dict[str, dict[str, claims.Interval]], colors: dict[str, str]
) -> mpl_figure.Figure:
  """Differences of CTR to ppo by kind of world, in the order of the first."""
  names = list(next(iter(panels.values())))
  height = max(len(names), 1)
  figure = mpl_figure.Figure(figsize=(10, 1.1 + 0.28 * height))
  for axes, (title, intervals) in zip(
      figure.subplots(1, len(panels), sharey=True, squeeze=False).flat,
      panels.items(), strict=True):
    _draw_intervals(axes, [intervals[name] for name in names],
                    [colors[name] for name in names])
    axes.axvline(0, color=html_lib.OURS, lw=1)
    axes.set_ylim(height - 0.4, -0.6)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("CTR of ppo minus that of the other")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.set_yticks(np.arange(len(names)), names)
  return figure


def _draw_intervals(
    axes: mpl_axes.Axes, intervals: Sequence[claims.Interval],
    colors: Sequence[str],
) -> None:
  """Intervals from the top down; those far out as numbers at the edge."""
  means = np.asarray([interval.mean for interval in intervals])
  limit = _FAR * float(np.median(np.abs(means))) if len(means) else 0.0
  for place, ((mean, low, high), color) in enumerate(
      zip(intervals, colors, strict=True)):
    if abs(mean) <= limit or not limit:
      axes.errorbar(mean, place, fmt="o", ms=4, color=color,
                    xerr=np.array([[mean - low], [high - mean]]))
    else:
      is_ahead = mean > 0
      axes.annotate(
          f"{mean:+.3f} →" if is_ahead else f"← {mean:+.3f}",
          (0.99 if is_ahead else 0.01, place),
          ha="right" if is_ahead else "left", va="center", fontsize=8,
          xycoords=axes.get_yaxis_transform(), color=color)


def learning_figure(
    trainings: dict[str, record_lib.Training]
) -> mpl_figure.Figure:
  """Validation clicks, a panel for each training, a line for each seed."""
  figure = mpl_figure.Figure(figsize=(10, 2.9))
  grid = figure.subplots(1, len(trainings), squeeze=False, sharey=True)
  for (name, training), axes in zip(trainings.items(), grid.flat, strict=True):
    axes.plot(training.ctr.steps, training.ctr.values, "o-", ms=2.5, lw=1,
              color=color_of(name, True, False), alpha=0.8)
    _title_updates(axes, name)
  grid.flat[0].set_ylabel("validation CTR")
  return figure


def training_figure(
    trainings: dict[str, record_lib.Training]
) -> mpl_figure.Figure:
  """Multiplier, violation, explained variance and KL by update."""
  figure = mpl_figure.Figure(figsize=(10, 5))
  (multiplier, violation), (variance, kl) = figure.subplots(2, 2, sharex=True)
  for name, training in trainings.items():
    # `color_of` has one colour for all trainings but ppo.
    color = _PAPER if name == "ppo_paper" else color_of(name, True, False)
    for axes, curves, style in (
        (multiplier, training.multiplier, "-"),
        (violation, training.violation, "-"),
        (variance, training.reward_variance, "-"),
        (variance, training.cost_variance, ":"), (kl, training.kl, "-")):
      lines = axes.plot(curves.steps, curves.values, style, lw=1, color=color,
                        alpha=0.8)
      if lines and axes is multiplier:
        lines[0].set_label(name)
  _title_updates(multiplier, "multiplier of the constraint")
  _title_updates(violation, "mean cost minus the target")
  _title_updates(variance, "explained variance (dotted: of the cost)")
  _title_updates(kl, "approximate KL of the last minibatch")
  for axes in (violation, variance):
    axes.axhline(0, color=_DARK, lw=0.8, ls="--")
  # It has no lower bound before the critic knows the scale of the returns.
  variance.set_ylim(-1, 1.05)
  kl.set_ylim(0)
  _legend_below(figure, multiplier)
  return figure


def _title_updates(axes: mpl_axes.Axes, title: str) -> None:
  """The looks of a panel over updates."""
  axes.set_title(title, fontsize=10)
  axes.set_xlabel("update")
  axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
  axes.grid(alpha=0.25, lw=0.5)


def calibration_figure(
    calibration: record_lib.Calibration, categories: Sequence[str]
) -> mpl_figure.Figure:
  """Observed against predicted clicks, a panel for each category."""
  columns = min(len(categories), 5)
  rows = -(-len(categories) // columns)
  figure = mpl_figure.Figure(figsize=(10, 0.6 + 1.9 * rows))
  # One or two panels are no wider than those of many.
  grid = figure.subplots(rows, max(columns, 4), squeeze=False, sharex=True,
                         sharey=True)
  for axes in grid.flat:
    axes.set_visible(False)
  for axes, name, before, after in zip(
      grid[:, :columns].flat, categories, calibration.before,
      calibration.after, strict=False):
    axes.set_visible(True)
    axes.set_title(plain(name, _LONGEST_TITLE), fontsize=9)
    for bins, color, label in (
        (before, html_lib.RIVAL, "predicted click as it is"),
        (after, html_lib.OURS, "calibrated")):
      axes.errorbar(
          bins.predicted, bins.observed, yerr=bins.error, fmt="o-", ms=2.5,
          lw=1, elinewidth=0.7, color=color, label=label)
  most = max((rates + bins.error).max(initial=0)
             for bins in (*calibration.before, *calibration.after)
             for rates in (bins.predicted, bins.observed))
  _draw_diagonals(grid, 1.03 * most or 1.0)
  _legend_below(figure, grid.flat[0])
  return figure


def _draw_diagonals(grid: np.ndarray, most: float) -> None:
  """A diagonal in every panel, and the names of the outer axes."""
  for axes in grid.flat:
    axes.plot([0, most], [0, most], color=_DARK, lw=0.6, ls="--")
    axes.set_xlim(0, most)
    axes.set_ylim(0, most)
    axes.tick_params(labelbottom=True)
  for axes in grid[-1]:
    axes.set_xlabel("predicted")
  for axes in grid[:, 0]:
    axes.set_ylabel("observed")


def action_figure(
    corrections: dict[str, np.ndarray | None], categories: Sequence[str]
) -> mpl_figure.Figure:
  """Slot by category, a picture for each time of the day."""
  names = list(map(plain, categories))
  figure = mpl_figure.Figure(figsize=(10, max(1.1 + 0.22 * len(names), 2.4)))
  panels = figure.subplots(1, len(corrections), sharey=True)
  known = [values for values in corrections.values() if values is not None]
  most = max([1e-3, *(float(np.abs(values).max()) for values in known)])
  mesh = None
  for axes, (title, values) in zip(panels, corrections.items(), strict=True):
    if values is None:
      title = f"{title}: nobody came"
      axes.set_xticks([])
    else:
      mesh = _draw_mesh(axes, values, most)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("slot")
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
  if mesh is not None:
    bar = figure.colorbar(mesh, ax=list(panels), pad=0.01)
    bar.set_label("correction of log pCTR")
  return figure


def _draw_mesh(axes: mpl_axes.Axes, values: np.ndarray, most: float) -> Any:
  """A picture of `[K, C]`, red above 0 and blue below."""
  num_slots, num_categories = values.shape
  axes.set_xticks(np.arange(1, num_slots + 1, -(-num_slots // 10)))
  return axes.pcolormesh(
      np.arange(num_slots + 1) + 0.5, np.arange(num_categories + 1) - 0.5,
      values.T, cmap="RdBu_r", vmin=-most, vmax=most, edgecolors="face",
      linewidth=0.4)


def exposure_figure(
    shares: dict[str, np.ndarray], logged: np.ndarray, floors: np.ndarray,
    categories: Sequence[str],
) -> mpl_figure.Figure:
  """Share of the slots by category; the log's as a bar, floors as marks."""
  figure = mpl_figure.Figure(figsize=(10, 1.3 + 0.24 * len(categories)))
  axes = figure.subplots()
  places = np.arange(len(categories))
  axes.barh(places, 100 * logged, color="#e4e4e4", label="the log, later days")
  for (name, values), color, marker in zip(
      shares.items(), (html_lib.RIVAL, _TRAINED, html_lib.OURS)[-len(shares):],
      "sDo", strict=False):
    axes.plot(100 * values, places, marker, ms=5, color=color, label=name,
              alpha=0.85)
  has_floor = floors > 0
  if has_floor.any():
    axes.plot(100 * floors[has_floor], places[has_floor], "|", ms=13, mew=2,
              color=_DARK, label="floor")
  _name_categories(axes, categories)
  axes.set_xlim(0)
  axes.set_xlabel("share of slots, %")
  _legend_below(figure, axes)
  return figure


def _name_categories(axes: mpl_axes.Axes, categories: Sequence[str]) -> None:
  """Categories from the top down."""
  axes.set_yticks(np.arange(len(categories)), list(map(plain, categories)))
  axes.set_ylim(len(categories) - 0.3, -0.7)


def fidelity_figure(
    fidelity: fidelity_lib.ResponseFidelity
) -> mpl_figure.Figure:
  """Observed and predicted clicks by hour, position and fatigue."""
  figure = mpl_figure.Figure(figsize=(10, 3.3))
  hour, position, fatigue = figure.subplots(1, 3, sharey=True)
  _draw_curve(hour, fidelity.by_hour, 0, "hour")
  _draw_curve(position, fidelity.by_position, 1, "position")
  _draw_curve(fatigue, fidelity.by_fatigue, 0,
              "exposures of the category fresh in mind")
  edges = [f"{edge:g}" for edge in fidelity_lib.FATIGUE_EDGES]
  buckets = [f"< {edges[0]}", *(
      f"{low}-{high}" for low, high in itertools.pairwise(edges)),
      f"≥ {edges[-1]}"]
  hour.set_xticks(range(0, fidelity_lib.NUM_HOURS, 4))
  hour.set_ylabel("CTR")
  hour.set_ylim(0)
  position.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
  fatigue.set_xticks(range(len(buckets)), buckets)
  _legend_below(figure, hour)
  return figure


def _draw_curve(
    axes: mpl_axes.Axes, curve: fidelity_lib.Curve, first: int, label: str
) -> None:
  """Observed and predicted clicks at whole numbers from the first."""
  places = np.arange(len(curve.size)) + first
  axes.plot(places, curve.predicted, color=html_lib.OURS, lw=1.4,
            label="predicted")
  axes.errorbar(places, curve.observed, **_OBSERVED,
                yerr=console.NORMAL_95 * curve.standard_error)
  axes.set_xlabel(label)
  axes.grid(alpha=0.25, lw=0.5)


def category_figure(
    curve: fidelity_lib.Curve, categories: Sequence[str]
) -> mpl_figure.Figure:
  """Observed and predicted clicks by category."""
  figure = mpl_figure.Figure(figsize=(10, 1.2 + 0.22 * len(categories)))
  axes = figure.subplots()
  places = np.arange(len(categories))
  axes.plot(curve.predicted, places, "|", ms=11, mew=2, color=html_lib.OURS,
            label="predicted")
  axes.errorbar(curve.observed, places, **_OBSERVED,
                xerr=console.NORMAL_95 * curve.standard_error)
  _name_categories(axes, categories)
  axes.set_xlabel("CTR")
  axes.grid(axis="x", alpha=0.25, lw=0.5)
  _legend_below(figure, axes)
  return figure


def _legend_below(figure: mpl_figure.Figure, axes: Any) -> None:
  handles, labels = axes.get_legend_handles_labels()
  if handles:
    figure.legend(handles, labels, loc="outside lower center", ncols=5,
                  fontsize=8, frameon=False)
