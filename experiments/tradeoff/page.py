"""A page on which the weights of objectives are dragged and AUCs move.

The page has a sample of the test rows, with what each objective adds to the
score of a row, and ranks it anew for every position of the sliders; see
page.html.
"""

import base64
import importlib.resources
import json
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np

from experiments.runs import html as html_lib
from experiments.runs import workdir as workdir_lib
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import front as front_lib
from experiments.tradeoff import report

# The most rows in the page, all of which are ranked while a slider moves.
_MAX_ROWS = 6000
_LEVELS = 65_535
# Below this a term adds nothing, whatever the weights.
_LEAST_TERM = 1e-12
_PLACE_OF_DATA = "DATA_OF_THE_PAGE"


class Sample(NamedTuple):
  """Rows drawn from a test."""

  rows: np.ndarray  # [n] places
  weights: np.ndarray  # [n] inverse chances of the rows


def draw(
    scores: np.ndarray, labels: np.ndarray, max_rows: int = _MAX_ROWS
) -> Sample:
  """Draws rows by `[N]` scores and `[N, M]` labels, to estimate AUCs from.

  Every positive of a rare objective is drawn; rows of the same labels evenly
  along the scores, so that the AUC is near that of all rows.
  """
  values = labels.astype(np.float64)
  num_rows = len(values)
  size = min(max_rows, num_rows)
  share = (values / values.sum(axis=0) + 1 / num_rows).sum(axis=1)
  # Bisects the factor with which the chances add up to the size.
  low, high = 0.0, size / share.min()
  for _ in range(60):
    factor = 0.5 * (low + high)
    is_short = np.minimum(factor * share, 1).sum() < size
    low, high = (factor, high) if is_short else (low, factor)
  chance = np.minimum(high * share, 1)
  order = np.lexsort((scores, *(values > 0).T))
  # Systematic sampling that starts at half a row; the small offset keeps
  # rounding from losing a row.
  steps = np.floor(np.cumsum(chance[order]) + 0.5 - 1e-6)
  rows = np.sort(order[np.diff(steps, prepend=0) > 0])
  return Sample(rows, 1 / chance[rows])


def write(
    path: pathlib.Path, tradeoff: front_lib.Tradeoff,
    terms: dict[str, np.ndarray], labels: np.ndarray,
) -> None:
  """Writes the page, one file; terms and labels are `[N, M]`."""
  sample = draw(terms[families_lib.ONE].sum(axis=1), labels)
  rounded = lambda values: np.round(values.astype(np.float64), 4)
  largest = labels.max(axis=0).astype(np.float64)
  content = workdir_lib.finite({
      "names": tradeoff.names, "weights": rounded(tradeoff.weights),
      "num_rows": tradeoff.num_rows,
      "points": [
          {"name": name, "color": report.COLORS[name],
           "auc": rounded(tradeoff.auc[tradeoff.families.index(name)])}
          for name in (families_lib.SEPARATE, families_lib.CLOSED_FORM,
                       families_lib.ONE)],
      "sample": {
          "weights": _base64(sample.weights.astype("<f4")),
          "labels": _base64(np.round(
              _LEVELS * (labels[sample.rows] / largest)).astype("<u2")),
          "terms": [_levels(terms[name][sample.rows]) for name in (
              families_lib.ONE, families_lib.CLOSED_FORM)]}})
  # The data cannot contain the end tag of a script.
  data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
  body = (importlib.resources.files("experiments.tradeoff") / "page.html"
          ).read_text().rstrip("\n")
  html_lib.write_page(path, "Trade-off", [body.replace(_PLACE_OF_DATA, data)])


def _levels(terms: np.ndarray) -> dict[str, Any]:
  """Terms `[n, M]` on a logarithmic scale of 2^16 levels."""
  logs = np.log(np.maximum(terms.astype(np.float64), _LEAST_TERM))
  low, step = logs.min(), max(np.ptp(logs) / _LEVELS, 1e-12)
  return {"low": low, "step": step,
          "levels": _base64(np.round((logs - low) / step).astype("<u2"))}


def _base64(values: np.ndarray) -> str:
  return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
