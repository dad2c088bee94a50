"""A page on which theta is dragged and slates change; see slates.html.

The slates are those of the library, made beforehand for every method and
every step of the knob: the page shows them and computes nothing.
"""

from collections.abc import Sequence
import importlib.resources
import json
import pathlib
from typing import Any

import numpy as np

from experiments.runs import workdir as workdir_lib
from experiments.slates import comparison as slate_comparison
from harmonrank_jax.data import candidates as candidates_lib

_NUM_REQUESTS = 4
_PLACE_OF_DATA = "DATA_OF_THE_PAGE"
# Name, and what it does, in a sentence.
_METHODS = {
    "dpp": ("DPP", "Determinantal point process: an item counts by what it "
            "adds to all items above it together."),
    "mmr": ("MMR", "Maximal marginal relevance: an item loses by its "
            "similarity to the nearest item above it."),
    "ssd": ("SSD", "Sliding spectrum decomposition: an item gains by the "
            "volume it spans with the items above it."),
    "top_k": ("Top-K", "The highest scores, whatever they look like: the knob "
              "does nothing.")}


def write(
    path: pathlib.Path,
    comparison: slate_comparison.Comparison,
    categories: Sequence[str],
    method: str,
    limits: str,
) -> None:
  """Writes the page, one file.

  Args:
    path: where.
    comparison: slates of some requests, of which the first that have enough
      candidates are shown.
    categories: names.
    method: the one that is shown first.
    limits: what is said below the slates.
  """
  sizes = np.diff(comparison.chunk.starts)
  num_slots = comparison.rows[method].shape[-1]
  enough = np.argsort(sizes < 2 * num_slots, kind="stable")
  shown = np.sort(enough[:_NUM_REQUESTS])
  content = workdir_lib.finite({
      "thetas": slate_comparison.THETAS, "theta": comparison.theta,
      "method": method, "limits": limits, "num_slots": num_slots,
      "num_requests": len(sizes),
      "methods": [
          {"id": name, "name": _METHODS[name][0], "about": _METHODS[name][1],
           "curve": _curve(comparison.curves[name])}
          for name in comparison.rows],
      "requests": [_request(comparison, categories, place)
                   for place in shown]})
  page = (importlib.resources.files("experiments.slates") / "page.html"
          ).read_text()
  # No end of the script can stand in the data.
  data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
  workdir_lib.write_text(path, page.replace(_PLACE_OF_DATA, data))


def _curve(
    curves: dict[str, list[slate_comparison.Value]]
) -> list[tuple[float, float]]:
  """Intra-list distance and mean score for each theta."""
  return [(distance.mean, score.mean) for distance, score in zip(
      curves["distance"], curves["score"], strict=True)]


def _request(
    comparison: slate_comparison.Comparison, categories: Sequence[str],
    place: int,
) -> dict[str, Any]:
  """A request: the items that any slate has, and the slates of them."""
  chunk = comparison.chunk
  slates = {method: rows[:, place] for method, rows in comparison.rows.items()}
  items = np.unique(np.concatenate(
      [rows[rows >= 0] for rows in slates.values()]))
  return {
      "id": str(chunk.request_ids[int(place)].as_py()),
      "num_candidates": int(np.diff(chunk.starts)[place]),
      "items": [{"id": str(chunk.item_ids[int(row)].as_py()),
                 "category": categories[chunk.categories[row]],
                 "score": float(f"{chunk.scores[row]:.4g}")} for row in items],
      "slates": {method: [_slate(chunk, items, at) for at in rows]
                 for method, rows in slates.items()}}


def _slate(
    chunk: candidates_lib.Chunk, items: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
  """Places of the slate's items, and how near each is to those above it."""
  rows = rows[rows >= 0]
  features = chunk.features[rows].astype(np.float64)
  features /= np.linalg.norm(features, axis=1, keepdims=True)
  cosines = features @ features.T
  nearest = [cosines[k, :k].max() if k else None for k in range(len(rows))]
  pairs = cosines[np.triu_indices(len(rows), 1)]
  return {"items": np.searchsorted(items, rows),
          "nearest": [None if n is None else round(float(n), 3)
                      for n in nearest],
          "distance": round(float(1 - pairs.mean()), 4) if len(pairs) else None}
