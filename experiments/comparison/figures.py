"""The figures of the report of a comparison of methods."""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from experiments.comparison import studies
from experiments.comparison import tables as tables_lib
from experiments.runs import html as html_lib

REFERENCE = "closed_form"
_KINDS = {"ours": html_lib.OURS, "baseline": html_lib.RIVAL,
          "ablation": "#d9742b"}
_COLORS = ("#d9742b", "#8a5fbf", "#2a8a4a", "#8a8a8a", "#b03050", "#20a0b0",
           "#a08020", "#404040")
# A value is drawn at the edge of a figure if it lies below the best by more
# than this many times the distance of three quarters of the values, or of the
# half width of a median interval.
_DEEP, _WIDE = 2.0, 1.5
_FONT_SIZE = 8
_Numbers = Sequence[float] | np.ndarray


class _Panel(NamedTuple):
  """A condition, judged by the labels or by the truth."""

  title: str
  how: str  # it is judged; empty where the truth is not known
  table: tables_lib.Table
  overall: tables_lib.Sums
  within_users: tables_lib.Sums | None


def _joined(*texts: str) -> str:
  return ", ".join(filter(None, texts))


def _panels(record: tables_lib.Record) -> list[list[_Panel]]:
  """Rows of a panel for each condition: by labels and, if known, by truth."""
  has_truth = any(table.by_truth for table in record.tables)
  how = "by the labels" if has_truth else ""
  rows = [[_Panel(_joined(record.label(table), how), how, table,
                  table.overall, table.within_users)
           for table in record.tables]]
  if has_truth:
    how = "by the true probabilities"
    rows.append([_Panel(_joined(record.label(table), how), how, table,
                        table.by_truth, table.within_by_truth)
                 for table in record.tables if table.by_truth])
  return rows


def _compared(record: tables_lib.Record) -> list[str]:
  """Names of the methods of all conditions, the best first, no ceiling."""
  leads: dict[str, list[float]] = {}
  for table in record.tables:
    for k, name in enumerate(table.names):
      if table.kind(k) != "ceiling":
        leads.setdefault(name, []).append(table.overall.leads[k].mean)
  return sorted(leads, key=lambda name: -float(np.mean(leads[name])))


def _floor(values: _Numbers, halves: _Numbers) -> float:
  """Where a figure ends below: one far value would squeeze the others."""
  best, quarter = np.quantile(values, [1, 0.25], method="higher")
  known = np.nan_to_num(halves)
  reach = max(_DEEP * (best - quarter), _WIDE * float(np.median(known)))
  lowest = float(np.min(np.subtract(values, known)))
  # A value just below is worth the room.
  wide = float(best - 1.5 * reach)
  floor = wide if np.min(values) >= wide else float(best - reach)
  return max(floor, lowest) if reach > 0 else lowest


def lead_figure(record: tables_lib.Record) -> mpl_figure.Figure:
  """A panel for each condition, by labels and by truth; a line per method."""
  names = _compared(record)
  panels = _panels(record)
  if len(record.tables) == 1:
    panels = [[row[0] for row in panels]]
  known = [panel.overall.leads[panel.table.names.index(name)]
           for row in panels for panel in row for name in names
           if name in panel.table.names]
  low = _floor([lead.mean for lead in known],
               np.nan_to_num([lead.mean - lead.low for lead in known]))
  high = max(np.nanmax([lead.mean, lead.high]) for lead in known)
  margin = 0.04 * (high - low) or 1.0
  figure = mpl_figure.Figure(
      figsize=(10, len(panels) * (1.1 + 0.26 * len(names))))
  grid = figure.subplots(len(panels), len(panels[0]), squeeze=False,
                         sharex=True, sharey=True)
  for axes, panel in zip(
      grid.flat, [panel for row in panels for panel in row], strict=True):
    _draw_leads(axes, names, panel, low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(len(names)), names[::-1])
    axes.xaxis.set_major_locator(ticker.MaxNLocator(
        8 if len(panels[0]) == 1 else 4))
    axes.set_xlabel("lead, sum of AUCs")
    axes.set_title(panel.title, fontsize=10)
  _legend(figure, grid[0, 0], {
      kind: color for kind, color in _KINDS.items()
      if kind in map(studies.kind_of, names)})
  return figure


def _draw_leads(
    axes: mpl_axes.Axes, names: Sequence[str], panel: _Panel, low: float
) -> None:
  """Leads with intervals from the top down; those below `low` as numbers."""
  axes.axvline(0, color="#222222", lw=0.8)
  for place, name in enumerate(reversed(names)):
    if name not in panel.table.names:
      continue
    lead = panel.overall.leads[panel.table.names.index(name)]
    color = _KINDS[studies.kind_of(name)]
    if lead.mean >= low:
      axes.errorbar(
          lead.mean, place, fmt="o", ms=4, color=color,
          xerr=np.array([[lead.mean - lead.low], [lead.high - lead.mean]]))
    else:
      axes.annotate(
          f"← {lead.mean:+.3f}", (0.01, place), va="center",
          fontsize=_FONT_SIZE, xycoords=axes.get_yaxis_transform(), color=color)


def _legend(
    figure: mpl_figure.Figure, axes: mpl_axes.Axes, colors: dict[str, str]
) -> None:
  handles = [axes.plot([], [], "o", ms=4, color=color, label=label)[0]
             for label, color in colors.items()]
  figure.legend(handles=handles, loc="outside lower center", ncols=5,
                fontsize=_FONT_SIZE, frameon=False)


def condition_figure(record: tables_lib.Record) -> mpl_figure.Figure:
  """A line for each network, among all rows and within users."""
  tables = record.tables
  names = [name for name in _compared(record) if name in studies.METHODS]
  # The default is blue in all figures.
  others = iter(_COLORS * len(names))
  colors = [html_lib.OURS if name == studies.DEFAULT_NETWORK else next(others)
            for name in names]
  panels = _condition_panels(record)
  wide = 2 if tables[0].within_users else 1
  high = len(panels) // wide
  figure = mpl_figure.Figure(figsize=(10, 4.2 * high))
  grid = figure.subplots(high, wide, squeeze=False)
  for axes, (title, sums) in zip(grid.flat, panels, strict=True):
    values, errors = np.stack([
        (table.of(names, each.total) - table.of([REFERENCE], each.total),
         table.of(names, each.error))
        for table, each in zip(tables, sums, strict=True)], axis=-1)
    _draw_lines(axes, values, errors, names, colors)
    ends = [int(np.flatnonzero(np.isfinite(line))[-1]) for line in values]
    html_lib.numbered_points(
        axes, ends, values[range(len(names)), ends].tolist(), names,
        colors=colors, bold=studies.DEFAULT_NETWORK,
        has_key=axes is grid[0, -1])
    axes.set_xticks(range(len(tables)), list(map(record.label, tables)))
    axes.set_xlim(-0.2, len(tables) - 0.8)
    axes.set_title(title, fontsize=10)
  for axes in grid[:, 0]:
    axes.set_ylabel(f"sum of AUCs minus that of {REFERENCE}")
  return figure


def _condition_panels(
    record: tables_lib.Record
) -> list[tuple[str, list[tables_lib.Sums]]]:
  """Title and sums by condition: among all rows, then within users."""
  result = []
  for row in _panels(record):
    within = [panel.within_users for panel in row if panel.within_users]
    for among, sums in (("among all rows", [panel.overall for panel in row]),
                        ("within users", within)):
      if sums:
        result.append((_joined(among, row[0].how), sums))
  return result


def _draw_lines(
    axes: mpl_axes.Axes, values: np.ndarray, errors: np.ndarray,
    names: Sequence[str], colors: Sequence[str],
) -> None:
  """Draws `[K, C]` values and errors; far values below, as numbers."""
  known, errors = np.isfinite(values), np.nan_to_num(errors)
  low = min(_floor(values[known], errors[known]), 0.0)
  high = max(float(np.max((values + errors)[known])), 0.0)
  margin = 0.05 * (high - low) or 1.0
  for k, name in enumerate(names):
    axes.errorbar(
        np.arange(values.shape[1]), values[k], yerr=errors[k], fmt="o-", ms=3.5,
        lw=1.8 if name == studies.DEFAULT_NETWORK else 1.1, elinewidth=0.8,
        color=colors[k])
  is_far = known & (values < low)
  for c, column in enumerate(values.T):
    order = [k for k in np.argsort(column, kind="stable") if is_far[k, c]]
    for place, k in enumerate(order):
      axes.annotate(
          f"{k + 1}: {values[k, c]:+.3f} ↓", (c, 0),
          xytext=(5, 3 + 1.3 * _FONT_SIZE * place),
          xycoords=axes.get_xaxis_transform(), textcoords="offset points",
          fontsize=_FONT_SIZE, color=colors[k])
  axes.axhline(0, color="#222222", lw=0.8)
  # Room for the numbers below.
  axes.set_ylim(low - margin * (1 + is_far.sum(axis=0).max()), high + margin)


def plane_figure(record: tables_lib.Record) -> mpl_figure.Figure:
  """Sums of AUCs among all rows and within users, a point for each method."""
  # By the labels and by truth side by side, for each condition.
  panels = [panel for pair in zip(*_panels(record), strict=True)
            for panel in pair if panel.within_users]
  names = _compared(record)
  wide = min(len(panels), 2)
  high = -(-len(panels) // wide)
  figure = mpl_figure.Figure(
      figsize=(10, high * (0.8 + max(3.0, 0.19 * len(names)))))
  grid = figure.subplots(high, wide, squeeze=False).flat
  for axes in grid[len(panels):]:
    axes.set_visible(False)
  for panel, axes in zip(panels, grid, strict=False):
    _draw_plane(axes, panel, names)
    axes.set_xlabel("sum of AUCs among all rows")
    axes.set_ylabel("sum of AUCs within users")
    axes.set_title(panel.title, fontsize=10, pad=12)
  return figure


def _draw_plane(
    axes: mpl_axes.Axes, panel: _Panel, names: Sequence[str]
) -> None:
  """Numbered points with error bars; far ones at the edge, told by the key."""
  assert panel.within_users  # There is no figure without.
  sums = (panel.overall, panel.within_users)
  values = np.stack([panel.table.of(names, x.total) for x in sums], axis=1)
  errors = np.nan_to_num(np.stack(
      [panel.table.of(names, x.error) for x in sums], axis=1))
  known = np.isfinite(values[:, 0])
  low = np.array([_floor(values[known, side], errors[known, side])
                  for side in range(2)])
  high = np.max((values + errors)[known], axis=0)
  drawn = np.maximum(values, low)
  colors = [_KINDS[studies.kind_of(name)] for name in names]
  texts = dict(zip(names, names, strict=True))
  for k in map(int, np.flatnonzero(known)):
    (x, y), color = drawn[k], colors[k]
    if (values[k] < low).any():
      texts[names[k]] += f" ({values[k, 0]:.3f}, {values[k, 1]:.3f})"
      axes.plot(x, y, "<" if values[k, 0] < low[0] else "v", ms=6, mfc="none",
                color=color)
    else:
      axes.errorbar(x, y, xerr=errors[k, 0], yerr=errors[k, 1], fmt="o",
                    ms=4.5, elinewidth=0.8, color=color)
  margin = 0.05 * (high - low)
  margin[margin == 0] = 0.01
  axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
  axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
  axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
  axes.grid(alpha=0.25, lw=0.5)
  html_lib.numbered_points(
      axes, drawn[:, 0].tolist(), drawn[:, 1].tolist(), list(texts.values()),
      colors=colors, bold=texts.get(studies.DEFAULT))


def calibration_figure(record: tables_lib.Record) -> mpl_figure.Figure:
  """Bars for each method, one for each condition."""
  tables = record.tables
  names = _compared(record)
  errors = np.stack(
      [table.of(names, table.calibration_error) for table in tables])
  is_known = np.isfinite(errors).any(axis=0)
  names, errors = list(itertools.compress(names, is_known)), errors[:, is_known]
  height = 0.8 / len(tables)
  figure = mpl_figure.Figure(figsize=(
      10, 1.0 + len(names) * (0.14 + 0.16 * len(tables))))
  axes = figure.subplots()
  middles = np.arange(len(names))[::-1]
  for c, values in enumerate(errors):
    color = (_condition_color(c) if len(tables) > 1 else
             [_KINDS[studies.kind_of(name)] for name in names])
    places = middles + 0.4 - height * (c + 0.5)
    axes.barh(places, values, 0.9 * height, color=color)
    for place, value in zip(places, values, strict=True):
      if np.isfinite(value):
        axes.annotate(f"{value:.4f}", (value, place), xytext=(3, 0),
                      textcoords="offset points", va="center",
                      fontsize=_FONT_SIZE - 1)
  axes.set_yticks(middles, names)
  axes.set_xlabel("expected calibration error")
  axes.margins(x=0.08)
  axes.set_xlim(0)
  if len(tables) > 1:
    _legend(figure, axes, {record.label(table): _condition_color(c)
                           for c, table in enumerate(tables)})
  return figure


def _condition_color(number: int) -> str:
  return (html_lib.OURS, *_COLORS)[number % (len(_COLORS) + 1)]
