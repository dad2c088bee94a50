"""The figures of the report of a re-ranking policy."""

from collections.abc import Sequence
import itertools
from typing import Any
from typing import NamedTuple

from matplotlib import figure as mpl_figure
from matplotlib import ticker
from matplotlib import transforms
import numpy as np

from experiments.reranker import judging
from experiments.runs import html as page
from harmonrank_jax.reranker import fidelity as fidelity_lib

_TRAINED, _PAPER = "#d9742b", "#8a5fbf"
# Of a calibration curve, fewer where the bin would have less exposures.
_BINS, _LEAST_OF_BIN = 10, 50
# Characters of a category's name at an axis, and above a small panel.
_LONGEST_NAME, _LONGEST_TITLE = 24, 18
# Differences that are so many times the median are at the edge of a figure.
_FAR = 4.0
# A CTR so many times as far below the best as the median is at the edge.
_DEEP = 3.0
# Of a name from its point, in points.
_DISTANCES = (9, 18, 30, 44, 60)


class Point(NamedTuple):
  """A policy on the plane of clicks and diversity, with standard errors."""

  name: str
  diversity: float
  diversity_error: float
  ctr: float
  ctr_error: float
  is_privileged: bool
  is_trained: bool


class Curves(NamedTuple):
  """Metrics of a training: N lines, S seeds.

  Attributes:
    steps: `[N]` of the updates.
    values: `[N, S]`.
  """

  steps: np.ndarray
  values: np.ndarray


class Training(NamedTuple):
  """What a training wrote."""

  ctr: Curves
  multiplier: Curves
  violation: Curves
  reward_variance: Curves
  cost_variance: Curves
  kl: Curves


class Calibration(NamedTuple):
  """Predictions of N exposures, and what they are of.

  Attributes:
    before: `[N]` probabilities.
    after: `[N]`, likewise.
    clicks: `[N]` bool.
    categories: `[N]` int.
  """

  before: np.ndarray
  after: np.ndarray
  clicks: np.ndarray
  categories: np.ndarray


def plain(name: str, longest: int = _LONGEST_NAME) -> str:
  """A name for a figure: not too long, and no formula."""
  if len(name) > longest:
    # Names of categories differ at the end as often as at the beginning.
    half = longest // 2
    name = f"{name[:half]}…{name[len(name) + half + 1 - longest:]}"
  return name.replace("$", r"\$")


def trade_figure(
    points: Sequence[Point], threshold: float, is_feasible: bool
) -> mpl_figure.Figure:
  """Clicks against diversity; privileged ones hollow.

  A policy of very few clicks stands at the lower edge with a number, so that
  the others are not squeezed.
  """
  figure = mpl_figure.Figure(figsize=(10, 5.6), layout="constrained")
  axes = figure.subplots()
  floor, edge = _floor([point.ctr for point in points])
  for k, point in enumerate(points):
    if point.ctr < floor:
      points = [*points[:k], point._replace(
          name=f"{point.name}, {point.ctr:.3f}", ctr=edge, ctr_error=np.nan),
                *points[k + 1:]]
  for point in points:
    color = color_of(point.name, point.is_trained, point.is_privileged)
    axes.errorbar(
        point.diversity, point.ctr, xerr=point.diversity_error,
        yerr=point.ctr_error, fmt="v" if point.ctr < floor else "o", ms=6,
        color=color, elinewidth=1,
        mfc="none" if point.is_privileged else color)
  axes.axvline(threshold, color="#222222", lw=0.8, ls="--")
  axes.annotate(
      " asked for" if is_feasible else " asked for, out of reach",
      (threshold, 0.01), xycoords=axes.get_xaxis_transform(), fontsize=8)
  axes.margins(0.1, 0.12)
  axes.set_xlabel("diversity, log det S / K of a slate (more to the right)")
  axes.set_ylabel("CTR")
  axes.grid(alpha=0.25, lw=0.5)
  _name_points(figure, points, threshold)
  return figure


def _floor(ctrs: Sequence[float]) -> tuple[float, float]:
  """CTR below which a point is at the edge, and the edge."""
  best, middle = max(ctrs), float(np.median(ctrs))
  floor = best - (_DEEP * (best - middle) or np.inf)
  least = min(ctr for ctr in ctrs if ctr >= floor)
  return floor, min(least, floor) - 0.05 * (best - floor)


def color_of(name: str, is_trained: bool, is_privileged: bool) -> str:
  """Ours is blue."""
  if name == "ppo":
    return page.OURS
  if is_privileged:
    return page.TRUTH
  return _TRAINED if is_trained else page.RIVAL


def paired_figure(
    panels: dict[str, dict[str, judging.Interval]],
    colors: dict[str, str],
) -> mpl_figure.Figure:
  """Differences of CTR to ppo, a panel for each kind of world."""
  names = list(next(iter(panels.values())))
  figure = mpl_figure.Figure(figsize=(10, 1.1 + 0.28 * max(len(names), 1)))
  places = np.arange(len(names))[::-1]
  for axes, (title, found) in zip(
      figure.subplots(1, len(panels), sharey=True), panels.items(),
      strict=True):
    means = np.asarray([found[name].mean for name in names])
    limit = _FAR * float(np.median(np.abs(means))) if len(means) else 0.0
    for place, name in zip(places, names, strict=True):
      mean, low, high = found[name]
      if abs(mean) <= limit or not limit:
        axes.errorbar(
            mean, place, fmt="o", ms=4, color=colors[name],
            xerr=np.array([[mean - low], [high - mean]]))
      else:
        side = "right" if mean > 0 else "left"
        arrow = "→" if mean > 0 else "←"
        text = f"{mean:+.3f}"
        axes.annotate(
            f"{text} {arrow}" if mean > 0 else f"{arrow} {text}",
            (0.99 if mean > 0 else 0.01, place), ha=side, va="center",
            fontsize=8, xycoords=axes.get_yaxis_transform(),
            color=colors[name])
    axes.axvline(0, color=page.OURS, lw=1)
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("CTR of ppo minus that of the other")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.set_yticks(places, names)
  return figure


def learning_figure(trainings: dict[str, Training]) -> mpl_figure.Figure:
  """Validation clicks, a panel for each training, a line for each seed."""
  figure = mpl_figure.Figure(figsize=(10, 2.9))
  grid = figure.subplots(1, len(trainings), squeeze=False, sharey=True)
  for (name, training), axes in zip(trainings.items(), grid.flat, strict=True):
    axes.plot(training.ctr.steps, training.ctr.values, "o-", ms=2.5, lw=1,
              color=color_of(name, True, False), alpha=0.8)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    axes.grid(alpha=0.25, lw=0.5)
  grid.flat[0].set_ylabel("validation CTR")
  return figure


def training_figure(trainings: dict[str, Training]) -> mpl_figure.Figure:
  """Multiplier, violation, explained variance and KL by update."""
  figure = mpl_figure.Figure(figsize=(10, 5))
  (multiplier, violation), (variance, kl) = figure.subplots(2, 2, sharex=True)
  for name, training in trainings.items():
    # Here `color_of` would not tell the others apart.
    color = _PAPER if name == "ppo_paper" else color_of(
        name, True, False)
    for axes, curves, style in (
        (multiplier, training.multiplier, "-"),
        (violation, training.violation, "-"),
        (variance, training.reward_variance, "-"),
        (variance, training.cost_variance, ":"), (kl, training.kl, "-")):
      lines = axes.plot(curves.steps, curves.values, style, lw=1, color=color,
                        alpha=0.8)
      if lines and axes is multiplier:
        lines[0].set_label(name)
  for axes, title in (
      (multiplier, "multiplier of the constraint"),
      (violation, "mean cost less what is aimed at"),
      (variance, "explained variance (dotted: of the cost)"),
      (kl, "approximate KL of the last minibatch")):
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    axes.grid(alpha=0.25, lw=0.5)
  violation.axhline(0, color="#222222", lw=0.8, ls="--")
  variance.axhline(0, color="#222222", lw=0.8, ls="--")
  # Before the critic knows the scale it may be anything below.
  variance.set_ylim(-1, 1.05)
  kl.set_ylim(0)
  _legend_below(figure, multiplier)
  return figure


def calibration_figure(
    found: Calibration, categories: Sequence[str]
) -> mpl_figure.Figure:
  """Observed against predicted clicks, a panel for each category."""
  columns = min(len(categories), 5)
  rows = -(-len(categories) // columns)
  # One or two panels are no wider than those of many.
  figure = mpl_figure.Figure(figsize=(10, 0.6 + 1.9 * rows))
  grid = figure.subplots(rows, max(columns, 4), squeeze=False, sharex=True,
                         sharey=True)
  used = grid[:, :columns].flat
  for axes in grid.flat:
    axes.set_visible(False)
  most = 0.0
  for number, (name, axes) in enumerate(
      zip(categories, used, strict=False)):
    axes.set_visible(True)
    chosen = found.categories == number
    for values, color, label in (
        (found.before, page.RIVAL, "predicted click as it is"),
        (found.after, page.OURS, "calibrated")):
      predicted, observed, error = _bins(values[chosen], found.clicks[chosen])
      axes.errorbar(predicted, observed, yerr=error, fmt="o-", ms=2.5, lw=1,
                    elinewidth=0.7, color=color, label=label)
      most = max(most, *(predicted + error), *(observed + error), 0)
    axes.set_title(plain(name, _LONGEST_TITLE), fontsize=9)
  most = 1.03 * most or 1.0
  for axes in grid.flat:
    axes.plot([0, most], [0, most], color="#222222", lw=0.6, ls="--")
    axes.set_xlim(0, most)
    axes.set_ylim(0, most)
    axes.tick_params(labelbottom=True)
  for axes in grid[-1]:
    axes.set_xlabel("predicted")
  for axes in grid[:, 0]:
    axes.set_ylabel("observed")
  _legend_below(figure, grid.flat[0])
  return figure


def action_figure(
    corrections: dict[str, np.ndarray | None], categories: Sequence[str]
) -> mpl_figure.Figure:
  """Slot by category, a picture for each time of the day.

  Args:
    corrections: `[K, C]` of log pCTR by the name of the time; None if nobody
      came.
    categories: C names.
  """
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
      num_slots = len(values)
      mesh = axes.pcolormesh(
          np.arange(num_slots + 1) + 0.5, np.arange(len(names) + 1) - 0.5,
          values.T, cmap="RdBu_r", vmin=-most, vmax=most, edgecolors="face",
          linewidth=0.4)
      step = -(-num_slots // 10)
      axes.set_xticks(np.arange(1, num_slots + 1, step))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("slot")
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
  if mesh is not None:
    bar = figure.colorbar(mesh, ax=list(panels), pad=0.01)
    bar.set_label("correction of log pCTR")
  return figure


def exposure_figure(
    shares: dict[str, np.ndarray], logged: np.ndarray, floors: np.ndarray,
    categories: Sequence[str],
) -> mpl_figure.Figure:
  """Share of the slots by category; the log's as a bar, floors as marks."""
  names = list(map(plain, categories))
  figure = mpl_figure.Figure(figsize=(10, 1.3 + 0.24 * len(names)))
  axes = figure.subplots()
  places = np.arange(len(names))[::-1]
  axes.barh(places, 100 * logged, color="#e4e4e4", label="the log, later days")
  for (name, values), color, marker in zip(
      shares.items(), (page.RIVAL, _TRAINED, page.OURS)[-len(shares):], "sDo",
      strict=False):
    axes.plot(100 * values, places, marker, ms=5, color=color, label=name,
              alpha=0.85)
  asked = floors > 0
  if asked.any():
    axes.plot(100 * floors[asked], places[asked], "|", ms=13, mew=2,
              color="#222222", label="floor")
  axes.set_yticks(places, names)
  axes.set_ylim(-0.7, len(names) - 0.3)
  axes.set_xlim(0)
  axes.set_xlabel("share of slots, %")
  _legend_below(figure, axes)
  return figure


def fidelity_figure(found: fidelity_lib.Fidelity) -> mpl_figure.Figure:
  """Observed and predicted clicks by hour, position and fatigue."""
  figure = mpl_figure.Figure(figsize=(10, 3.3))
  panels = figure.subplots(1, 3, sharey=True)
  edges = [f"{edge:g}" for edge in fidelity_lib.FATIGUE_EDGES]
  buckets = [f"< {edges[0]}", *(
      f"{low}-{high}" for low, high in itertools.pairwise(edges)),
      f"≥ {edges[-1]}"]
  for axes, curve, first, label in (
      (panels[0], found.by_hour, 0, "hour"),
      (panels[1], found.by_position, 1, "position"),
      (panels[2], found.by_fatigue, 0,
       "exposures of the category fresh in mind")):
    places = np.arange(len(curve.size)) + first
    axes.plot(places, curve.predicted, color=page.OURS, lw=1.4,
              label="predicted")
    axes.errorbar(places, curve.observed, yerr=1.96 * curve.standard_error,
                  fmt="o", ms=3, elinewidth=0.8, color="#222222",
                  label="observed")
    axes.set_xlabel(label)
    axes.grid(alpha=0.25, lw=0.5)
  panels[0].set_xticks(range(0, fidelity_lib.NUM_HOURS, 4))
  panels[0].set_ylabel("CTR")
  panels[0].set_ylim(0)
  panels[1].xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
  panels[2].set_xticks(range(len(buckets)), buckets)
  _legend_below(figure, panels[0])
  return figure


def category_figure(
    curve: fidelity_lib.Curve, categories: Sequence[str]
) -> mpl_figure.Figure:
  """Observed and predicted clicks by category."""
  figure = mpl_figure.Figure(figsize=(10, 1.2 + 0.22 * len(categories)))
  axes = figure.subplots()
  places = np.arange(len(categories))[::-1]
  axes.plot(curve.predicted, places, "|", ms=11, mew=2, color=page.OURS,
            label="predicted")
  axes.errorbar(curve.observed, places, xerr=1.96 * curve.standard_error,
                fmt="o", ms=3, elinewidth=0.8, color="#222222",
                label="observed")
  axes.set_yticks(places, list(map(plain, categories)))
  axes.set_ylim(-0.7, len(categories) - 0.3)
  axes.set_xlabel("CTR")
  axes.grid(axis="x", alpha=0.25, lw=0.5)
  _legend_below(figure, axes)
  return figure


def gap(
    predicted: np.ndarray, found: Calibration, num_categories: int
) -> float:
  """Mean distance of the points of all categories from the diagonal.

  Weighted by exposures; NaN if there are none.
  """
  total = 0.0
  for number in range(num_categories):
    chosen = found.categories == number
    means, observed, _ = _bins(predicted[chosen], found.clicks[chosen])
    if len(means):
      total += chosen.sum() * float(np.mean(np.abs(means - observed)))
  return total / len(predicted) if len(predicted) else np.nan


def _bins(
    predicted: np.ndarray, clicks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Means of predictions and clicks by quantile, and the error of these."""
  if not len(predicted):
    return np.zeros(0), np.zeros(0), np.zeros(0)
  count = min(max(len(predicted) // _LEAST_OF_BIN, 1), _BINS)
  parts = np.array_split(np.argsort(predicted, kind="stable"), count)
  mean = np.asarray([predicted[part].mean() for part in parts])
  rate = np.asarray([clicks[part].mean() for part in parts])
  size = np.asarray([len(part) for part in parts])
  return mean, rate, np.sqrt(rate * (1 - rate) / size)


def _legend_below(figure: mpl_figure.Figure, axes: Any) -> None:
  handles, labels = axes.get_legend_handles_labels()
  if handles:
    figure.legend(handles, labels, loc="outside lower center", ncols=5,
                  fontsize=8, frameon=False)


def _name_points(
    figure: mpl_figure.Figure, points: Sequence[Point], threshold: float
) -> None:
  """Writes the names where nothing is yet, as near as there is room."""
  axes = figure.axes[0]
  page.tidy(figure)
  figure.draw_without_rendering()
  scale = figure.dpi / 72
  at = axes.transData.transform(
      [(point.diversity, point.ctr) for point in points])
  taken = [transforms.Bbox.from_bounds(x - 4 * scale, y - 4 * scale,
                                       8 * scale, 8 * scale) for x, y in at]
  for point in points:
    for across, up in ((point.diversity_error, 0), (0, point.ctr_error)):
      ends = [(point.diversity + sign * across, point.ctr + sign * up)
              for sign in (-1, 1)]
      if np.isfinite(ends).all():
        taken.append(transforms.Bbox(axes.transData.transform(ends)).padded(
            1.5 * scale))
  inside = axes.bbox
  line_at = axes.transData.transform((threshold, 0))[0]
  taken.append(transforms.Bbox.from_extents(
      line_at - scale, inside.y0, line_at + scale, inside.y1))
  # The crowded ones first: those at the edge have room in any case.
  distance = np.linalg.norm(at[:, None] - at[None, :], axis=-1)
  for k in np.argsort(np.sort(distance, axis=1)[:, :4].sum(axis=1)):
    text = axes.annotate(
        points[k].name, (points[k].diversity, points[k].ctr), fontsize=8,
        textcoords="offset points", xytext=(0, 0), va="center",
        color="#222222", weight="bold" if points[k].name == "ppo" else "normal")
    text.set_in_layout(False)
    size = text.get_window_extent()
    best: tuple[float, Any] | None = None
    for far in _DISTANCES:
      for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False):
        x, y = far * np.cos(angle), 0.8 * far * np.sin(angle)
        # The end of the text that is nearest the point.
        left = x - size.width / scale * (1 - np.cos(angle)) / 2
        box = transforms.Bbox.from_bounds(
            at[k][0] + left * scale, at[k][1] + y * scale - size.height / 2,
            size.width, size.height)
        hidden = sum(_overlap(box, other) for other in taken)
        outside = box.width * box.height - _overlap(box, inside)
        cost = hidden + 2 * outside + far
        if best is None or cost < best[0]:
          best = cost, (left, y, box, far, (x, y))
    assert best is not None
    left, y, box, far, end = best[1]
    text.set_position((left, y))
    taken.append(box)
    if far > _DISTANCES[0]:
      line = axes.annotate(
          "", (points[k].diversity, points[k].ctr), xytext=end,
          textcoords="offset points",
          arrowprops={"arrowstyle": "-", "lw": 0.5, "color": page.RIVAL,
                      "shrinkA": 0, "shrinkB": 4})
      line.set_in_layout(False)


def _overlap(one: transforms.Bbox, other: transforms.Bbox) -> float:
  """The area that two boxes share."""
  across = min(one.x1, other.x1) - max(one.x0, other.x0)
  up = min(one.y1, other.y1) - max(one.y0, other.y0)
  return float(max(across, 0) * max(up, 0))
