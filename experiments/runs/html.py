"""A page, and what the figures of all reports share."""

from collections.abc import Sequence
import functools
import html
import io
import pathlib
from typing import Any
import warnings

import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import font_manager
from matplotlib import lines as mpl_lines
from matplotlib import patheffects
from matplotlib import text as mpl_text
import numpy as np

from experiments.runs import workdir as workdir_lib

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px;
       margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.15em;
     margin-top: 2em; } p { max-width: 46em; } figure { margin: 0; }
svg { width: 100%; height: auto; }
table { display: block; overflow-x: auto; border-collapse: collapse;
        font-variant-numeric: tabular-nums;
        font-size: 13px; }
td, th { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
tr.first td { font-weight: bold; } .lead { font-size: 1.1em; }
pre { background: #f5f5f5; padding: 1em; overflow-x: auto; font-size: 12px; }
.chip { display: inline-block; min-width: 2.4em; margin: 1px; padding: 0 .2em;
        border-radius: 3px; text-align: center; border: 2px solid transparent; }
.clicked { border-color: #222; font-weight: bold; }
.day td, .day th { text-align: left; } .day tr.first td { font-weight: normal; }
"""
OURS, RIVAL, TRUTH = "#1f5fbf", "#8a8a8a", "#2a8a4a"
# Where a number stands about its point: offset in points, and alignment.
_SIDES = (((5, 3), "left", "bottom"), ((-5, -3), "right", "top"),
          ((5, -3), "left", "top"), ((-5, 3), "right", "bottom"))


def write_page(path: pathlib.Path, title: str, parts: Sequence[str]) -> None:
  """Writes a page of HTML parts, and of what its workdir has to be noted."""
  notes = workdir_lib.notes(path.parent)
  if notes:
    parts = [*parts, "<h2>To be noted</h2>", "<ul>", *(
        f"<li>{html.escape(line)}</li>" for line in notes), "</ul>"]
  workdir_lib.write_text(path, "\n".join([
      "<!doctype html>", '<html lang="en">', '<meta charset="utf-8">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
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


def svg(figure: mpl_figure.Figure) -> str:
  """The figure as a part of a page."""
  tidy(figure)
  figure.set_layout_engine("constrained")
  buffer = io.StringIO()
  with warnings.catch_warnings():
    # Of letters that no font here has: the browser draws these.
    warnings.filterwarnings("ignore", message=r"(?s).*Glyph \d+")
    kind = "path" if _find_letters(figure) else "none"
    # Ids that do not change from run to run; no date.
    with matplotlib.rc_context({"svg.hashsalt": "report",
                                "svg.fonttype": kind}):
      figure.savefig(buffer, format="svg", metadata={"Date": None})
  text = buffer.getvalue()
  return f"<figure>{text[text.index('<svg'):]}</figure>"


def _find_letters(figure: mpl_figure.Figure) -> bool:
  """Takes further fonts for letters of other scripts; whether all are found."""
  figure.draw_without_rendering()  # Labels of ticks are made now.
  texts = [text for text in figure.findobj(mpl_text.Text)
           if not text.get_text().isascii()]
  letters = {ord(letter) for text in texts for letter in text.get_text()
             if not letter.isspace()}
  left = letters - _letters(
      font_manager.findfont(font_manager.FontProperties()))
  if not left:
    return True
  families = list(matplotlib.rcParams["font.family"])
  # Plain ones first; the list that matplotlib keeps may be older than a font.
  for path in sorted(font_manager.findSystemFonts(), key=lambda path: (
      "Regular" not in path, path)):
    if found := left & _letters(path):
      font_manager.fontManager.addfont(path)
      families.append(font_manager.get_font(path).family_name)
      left -= found
  for text in texts:
    text.set_fontfamily(families)
  return not left


@functools.cache
def _letters(path: str) -> frozenset[int]:
  """The letters that a font can draw; none if it cannot be read."""
  try:
    return frozenset(font_manager.get_font(path).get_charmap())
  except (OSError, RuntimeError):
    return frozenset()


def tidy(figure: mpl_figure.Figure) -> None:
  """The looks of all figures; `svg` sees to it."""
  for axes in figure.axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)


def numbered_points(
    axes: mpl_axes.Axes, x: Sequence[float], y: Sequence[float],
    names: Sequence[str], *, colors: Sequence[str], bold: str | None = None,
    has_key: bool = True,
) -> None:
  """Writes 1, 2, ... at points and, beside the axes, which name each is.

  Points `[N]` are drawn before; numbers of close ones on different sides.
  """
  ranks = np.argsort(np.argsort(y, kind="stable"))
  # Error bars and other points do not cross out a number.
  halo = [patheffects.withStroke(linewidth=2, foreground="white")]
  for k, (rank, color) in enumerate(zip(ranks, colors, strict=True)):
    offset, across, along = _SIDES[rank % len(_SIDES)]
    axes.annotate(
        str(k + 1), (x[k], y[k]), xytext=offset, textcoords="offset points",
        ha=across, va=along, fontsize=8, color=color, path_effects=halo)
  if has_key:
    key = axes.legend(
        [mpl_lines.Line2D([], [], ls="none") for _ in names],
        [f"{k + 1}  {name}" for k, name in enumerate(names)],
        labelcolor=list(colors), loc="upper left", bbox_to_anchor=(1, 1),
        fontsize=8, frameon=False, handlelength=0, handletextpad=0)
    for name, text in zip(names, key.get_texts(), strict=True):
      text.set_fontweight("bold" if name == bold else "normal")


def training_figure(
    lines: list[dict[str, Any]], names: Sequence[str], judge: str,
    best_step: int | None = None,
) -> mpl_figure.Figure:
  """Loss; what validation rows judge by; AUC of each objective."""
  figure = mpl_figure.Figure(figsize=(10, 3.2))
  loss, judged, each = figure.subplots(1, 3)
  trained = [line for line in lines if "train" in line]
  loss.plot([line["step"] for line in trained],
            [line["train"]["loss"] for line in trained], color=OURS, lw=1)
  loss.set_title("training loss", fontsize=10)
  validated = [line for line in lines if "validation" in line]
  steps = [line["step"] for line in validated]
  judged.plot(steps, [line["validation"][judge] for line in validated], "o-",
              color=OURS, ms=3)
  judged.set_title(f"validation, {judge.replace('_', ' ')}", fontsize=10)
  if best_step is not None:
    judged.axvline(best_step, color=TRUTH, lw=0.8, ls="--")
  for name in names:
    values = np.asarray([line["validation"]["auc"][name] for line in validated],
                        np.float64)
    each.plot(steps, values - values[0], "o-", ms=2, lw=1, label=name)
  each.set_title("validation, AUC since step 0", fontsize=10)
  each.legend(fontsize=7)
  for axes in (loss, judged, each):
    axes.set_xlabel("step")
  return figure
