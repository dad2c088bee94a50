"""The figures of the report of a comparison of methods."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
from matplotlib import transforms
import numpy as np
from scipy import optimize

from experiments.comparison import studies as contenders
from experiments.comparison import tables as comparison
from experiments.runs import html as page

REFERENCE = "closed_form"
_KINDS = {"ours": page.OURS, "baseline": page.RIVAL, "ablation": "#d9742b"}
_COLORS = ("#d9742b", "#8a5fbf", "#2a8a4a", "#8a8a8a", "#b03050", "#20a0b0",
           "#a08020", "#404040")
# A value so many times as far below the best as three quarters of them are, or
# as intervals reach, is at the edge of a figure.
_DEEP, _WIDE = 2.0, 1.5
# Of the text of a name, in points.
_SIZE = 8
_Numbers = Sequence[float] | np.ndarray


class _Point(NamedTuple):
  """A method with what it is called, where it is, and standard errors."""

  name: str
  x: float
  y: float
  color: str
  x_error: float = np.nan
  y_error: float = np.nan


class _Panel(NamedTuple):
  """A condition, judged by the labels or by the truth."""

  how: str
  table: comparison.Found
  overall: comparison.Sums
  within_users: comparison.Sums | None

  @property
  def title(self) -> str:
    return ", ".join(filter(None, (label(self.table), self.how)))


def label(table: comparison.Found) -> str:
  """The name of its condition."""
  return table.condition.name.replace("_", " ")


def _compared(found: Sequence[comparison.Found]) -> list[str]:
  """Names of the methods of all conditions, the best first, no ceiling."""
  sums: dict[str, list[float]] = {}
  for table in found:
    for k, name in enumerate(table.names):
      if table.kind(k) != "ceiling":
        sums.setdefault(name, []).append(table.overall.leads[k].mean)
  return sorted(sums, key=lambda name: -float(np.mean(sums[name])))


def _floor(values: _Numbers, halves: _Numbers) -> float:
  """Where a figure ends below: a far value would squeeze the others."""
  best, quarter = np.quantile(values, [1, 0.25], method="higher")
  known = np.nan_to_num(halves)
  reach = max(_DEEP * (best - quarter), _WIDE * float(np.median(known)))
  lowest = float(np.min(np.subtract(values, known)))
  # A value just below is worth the room.
  wide = float(best - 1.5 * reach)
  floor = wide if np.min(values) >= wide else float(best - reach)
  return max(floor, lowest) if reach > 0 else lowest


def lead_figure(found: Sequence[comparison.Found]) -> mpl_figure.Figure:
  """A panel for each condition, by labels and by truth; a line per method."""
  names = _compared(found)
  panels = _panels(found)
  if len(found) == 1:
    panels = [[row[0] for row in panels]]
  known = [panel.overall.leads[panel.table.names.index(name)]
           for row in panels for panel in row for name in names
           if name in panel.table.names]
  low = _floor([lead.mean for lead in known],
               [lead.mean - lead.low for lead in known])
  high = max(lead.high for lead in known)
  figure = mpl_figure.Figure(
      figsize=(10, len(panels) * (1.1 + 0.26 * len(names))))
  grid = figure.subplots(len(panels), len(panels[0]), squeeze=False,
                         sharex=True, sharey=True)
  for axes, panel in zip(
      grid.flat, [panel for row in panels for panel in row], strict=True):
    _draw_leads(axes, names, panel, low)
    margin = 0.04 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(len(names)), names[::-1])
    axes.xaxis.set_major_locator(ticker.MaxNLocator(
        8 if len(panels[0]) == 1 else 4))
    axes.set_xlabel("lead, sum of AUCs")
    axes.set_title(
        panel.title if len(found) > 1 else panel.how, fontsize=10)
  _legend(figure, grid[0, 0], {
      kind: color for kind, color in _KINDS.items()
      if kind in map(contenders.kind_of, names)})
  return figure


def _panels(found: Sequence[comparison.Found]) -> list[list[_Panel]]:
  """A panel for each condition, by the labels and, where known, by truth."""
  by_labels = [_Panel("", table, table.overall, table.within_users)
               for table in found]
  by_truth = [
      _Panel("by the true probabilities", table, table.by_truth,
             table.within_by_truth) for table in found if table.by_truth]
  if not by_truth:
    return [by_labels]
  return [[panel._replace(how="by the labels") for panel in by_labels],
          by_truth]


def _draw_leads(
    axes: mpl_axes.Axes, names: Sequence[str], panel: _Panel, low: float
) -> None:
  """Leads with intervals from the top down; those below `low` as numbers."""
  axes.axvline(0, color="#222222", lw=0.8)
  for place, name in enumerate(reversed(names)):
    if name not in panel.table.names:
      continue
    lead = panel.overall.leads[panel.table.names.index(name)]
    color = _KINDS[contenders.kind_of(name)]
    if lead.mean >= low:
      axes.errorbar(
          lead.mean, place, fmt="o", ms=4, color=color,
          xerr=np.array([[lead.mean - lead.low], [lead.high - lead.mean]]))
    else:
      axes.annotate(
          f"← {lead.mean:+.3f}", (0.01, place), va="center", fontsize=_SIZE,
          xycoords=axes.get_yaxis_transform(), color=color)


def _legend(
    figure: mpl_figure.Figure, axes: mpl_axes.Axes, colors: dict[str, str]
) -> None:
  handles = [axes.plot([], [], "o", ms=4, color=color, label=label)[0]
             for label, color in colors.items()]
  figure.legend(handles=handles, loc="outside lower center", ncols=5,
                fontsize=_SIZE, frameon=False)


def condition_figure(
    found: Sequence[comparison.Found]
) -> mpl_figure.Figure:
  """A line for each network, among all rows and within users."""
  names = [name for name in _compared(found) if name in contenders.METHODS]
  panels = [
      (", ".join(filter(None, (among, row[0].how))), sums)
      for row in _panels(found) for among, sums in (
          ("among all rows", [panel.overall for panel in row]),
          ("within users", [panel.within_users for panel in row
                            if panel.within_users])) if sums]
  # The default first: it is blue in all figures.
  colors = dict(zip(
      sorted(names, key=lambda name: name != contenders.DEFAULT_NETWORK),
      (page.OURS, *_COLORS * len(names)), strict=False))
  wide = 2 if found[0].within_users else 1
  high = len(panels) // wide
  figure = mpl_figure.Figure(
      figsize=(10, 4.2 * high), layout="constrained")
  grid = figure.subplots(high, wide, squeeze=False)
  ends = []
  for axes, (title, values) in zip(grid.flat, panels, strict=True):
    lines = {}
    for name in names:
      lines[name] = np.array([
          (sums.total[table.names.index(name)]
           - sums.total[table.names.index(REFERENCE)],
           sums.error[table.names.index(name)])
          if name in table.names else (np.nan, np.nan)
          for table, sums in zip(found, values, strict=True)])
    ends.append((axes, _draw_lines(axes, lines, colors)))
    axes.set_xticks(range(len(found)), list(map(label, found)))
    axes.set_xlim(-0.2, len(found) - 0.8)
    axes.set_title(title, fontsize=10)
  for axes in grid[:, 0]:
    axes.set_ylabel(f"sum of AUCs minus that of {REFERENCE}")
  for axes, points in ends:
    beside = axes.transData + transforms.ScaledTranslation(
        10 / 72, 0, figure.dpi_scale_trans)
    for x in {point.x for point in points}:
      _name_points(figure, axes, [point for point in points if point.x == x],
                   beside, x)
  return figure


def _draw_lines(
    axes: mpl_axes.Axes, lines: dict[str, np.ndarray], colors: dict[str, str]
) -> list[_Point]:
  """Lines of values and errors `[C, 2]`; what is far below, as numbers.

  Returns:
    The ends of the lines that have no number there.
  """
  every = np.concatenate(list(lines.values()))
  every = every[np.isfinite(every[:, 0])]
  low = min(_floor(every[:, 0], every[:, 1]), 0.0)
  high = max(float(np.max(every[:, 0] + np.nan_to_num(every[:, 1]))), 0.0)
  margin = 0.05 * (high - low) or 1.0
  far: dict[int, list[tuple[float, str, str]]] = {}
  ends = []
  for name, line in lines.items():
    axes.errorbar(
        np.arange(len(line)), line[:, 0], yerr=np.nan_to_num(line[:, 1]),
        fmt="o-", ms=3.5, lw=1.8 if name == contenders.DEFAULT_NETWORK else 1.1,
        elinewidth=0.8, color=colors[name])
    end = int(np.flatnonzero(np.isfinite(line[:, 0]))[-1])
    if line[end, 0] >= low:
      ends.append(_Point(name, end, line[end, 0], colors[name]))
    for c in map(int, np.flatnonzero(line[:, 0] < low)):
      text = f"{f'{name} ' * (c == end)}{line[c, 0]:+.3f} ↓"
      far.setdefault(c, []).append((line[c, 0], text, colors[name]))
  for number, below in far.items():
    for k, (_, text, color) in enumerate(sorted(below)):
      axes.annotate(
          text, (number, 0), xytext=(5, 3 + 1.3 * _SIZE * k),
          xycoords=axes.get_xaxis_transform(), textcoords="offset points",
          fontsize=_SIZE, color=color)
  axes.axhline(0, color="#222222", lw=0.8)
  # Room for the numbers below.
  rows = max(map(len, far.values()), default=0)
  axes.set_ylim(low - margin * (1 + rows), high + margin)
  return ends


def _name_points(
    figure: mpl_figure.Figure, axes: mpl_axes.Axes, points: Sequence[_Point],
    transform: transforms.Transform, x: float,
) -> None:
  """Writes names in a column, as near the height of points as there is room.

  Args:
    figure: whose layout is constrained.
    axes: with limits that do not change any more.
    points: to name.
    transform: of the column; its heights are those of the data.
    x: of the column.
  """
  page.tidy(figure)
  figure.draw_without_rendering()
  bottom, top = axes.get_ylim()
  gap = 1.3 * _SIZE * (top - bottom) * figure.dpi / 72 / axes.bbox.height
  order = np.argsort([point.y for point in points], kind="stable")
  wanted = np.clip([points[k].y for k in order], bottom, top)
  # Less the room that those below need at least, places need only rise.
  room = gap * np.arange(len(order))
  places = optimize.isotonic_regression(wanted - room).x
  places = np.clip(places, bottom, max(bottom, top - room[-1])) + room
  for k, wish, place in zip(order, wanted, places, strict=True):
    point = points[k]
    axes.annotate(
        point.name, (point.x, wish), xytext=(x, place), textcoords=transform,
        fontsize=_SIZE, va="center", color=point.color,
        weight="bold" if point.name == contenders.DEFAULT else "normal",
        annotation_clip=False,
        arrowprops={"arrowstyle": "-", "lw": 0.5, "color": point.color,
                    "alpha": 0.6, "shrinkA": 1, "shrinkB": 4,
                    "relpos": (0, 0.5)})


def plane_figure(found: Sequence[comparison.Found]) -> mpl_figure.Figure:
  """Sums of AUCs among all rows and within users, a point for each method."""
  # Of a condition, what is by the labels and by truth side by side.
  panels = [panel for of in zip(*_panels(found), strict=True) for panel in of
            if panel.within_users]
  wide = min(len(panels), 2)
  high = -(-len(panels) // wide)
  figure = mpl_figure.Figure(
      figsize=(10, 4.6 if wide == 1 else 3.8 * high), layout="constrained")
  grid = figure.subplots(high, wide, squeeze=False).flat
  for axes in grid[len(panels):]:
    axes.set_visible(False)
  for panel, axes in zip(panels, grid, strict=False):
    _draw_plane(figure, axes, _plane_points(panel))
    axes.set_xlabel("sum of AUCs among all rows")
    axes.set_ylabel("sum of AUCs within users")
    axes.set_title(
        panel.title if len(found) > 1 else panel.how, fontsize=10, pad=12)
  return figure


def _plane_points(panel: _Panel) -> list[_Point]:
  table, overall, within = panel.table, panel.overall, panel.within_users
  assert within  # There is no figure without.
  return [
      _Point(name, float(overall.total[k]), float(within.total[k]),
             _KINDS[table.kind(k)], float(overall.error[k]),
             float(within.error[k]))
      for k, name in enumerate(table.names) if table.kind(k) != "ceiling"]


def _draw_plane(
    figure: mpl_figure.Figure, axes: mpl_axes.Axes, points: Sequence[_Point]
) -> None:
  """Points with error bars and names; far ones at the edge with numbers."""
  left = _floor([point.x for point in points],
                [point.x_error for point in points])
  bottom = _floor([point.y for point in points],
                  [point.y_error for point in points])
  right = max(point.x + np.nan_to_num(point.x_error) for point in points)
  top = max(point.y + np.nan_to_num(point.y_error) for point in points)
  named = []
  for point in points:
    is_left, is_low = point.x < left, point.y < bottom
    at = point._replace(x=max(point.x, left), y=max(point.y, bottom))
    if is_left or is_low:
      at = at._replace(name=f"{point.name} ({point.x:.3f}, {point.y:.3f})")
      axes.plot(at.x, at.y, "<" if is_left else "v", ms=6, mfc="none",
                color=point.color)
    else:
      axes.errorbar(
          at.x, at.y, xerr=np.nan_to_num(at.x_error),
          yerr=np.nan_to_num(at.y_error), fmt="o", ms=4.5, elinewidth=0.8,
          color=point.color)
    named.append(at)
  across, up = (0.05 * (right - left) or 0.01), (0.06 * (top - bottom) or 0.01)
  axes.set_xlim(left - across, right + across)
  axes.set_ylim(bottom - up, top + up)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
  axes.grid(alpha=0.25, lw=0.5)
  _name_points(figure, axes, named, axes.get_yaxis_transform(), 1.07)


def calibration_figure(
    found: Sequence[comparison.Found]
) -> mpl_figure.Figure:
  """Bars for each method, one for each condition."""
  errors = {
      name: [table.calibration_error[table.names.index(name)]
             if name in table.names else np.nan for table in found]
      for name in _compared(found)}
  errors = {name: values for name, values in errors.items()
            if np.isfinite(values).any()}
  height = 0.8 / len(found)
  figure = mpl_figure.Figure(figsize=(
      10, 1.0 + len(errors) * (0.14 + 0.16 * len(found))))
  axes = figure.subplots()
  for c in range(len(found)):
    places = np.arange(len(errors))[::-1] + 0.4 - height * (c + 0.5)
    values = [of[c] for of in errors.values()]
    axes.barh(places, values, 0.9 * height, color=_condition_color(c)
              if len(found) > 1 else
              [_KINDS[contenders.kind_of(name)] for name in errors])
    for place, value in zip(places, values, strict=True):
      if np.isfinite(value):
        axes.annotate(f"{value:.4f}", (value, place), xytext=(3, 0),
                      textcoords="offset points", va="center",
                      fontsize=_SIZE - 1)
  axes.set_yticks(np.arange(len(errors))[::-1], list(errors))
  axes.set_xlabel("expected calibration error")
  axes.margins(x=0.08)
  axes.set_xlim(0)
  if len(found) > 1:
    _legend(figure, axes, {label(table): _condition_color(c)
                           for c, table in enumerate(found)})
  return figure


def _condition_color(number: int) -> str:
  return (page.OURS, *_COLORS)[number % (len(_COLORS) + 1)]
