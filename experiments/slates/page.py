"""A page on which the user drags theta and the slates change; see page.html.

The slates are selected beforehand, for every method and every step of theta:
the page only shows them.
"""

from collections.abc import Sequence
import importlib.resources
import json
import pathlib
from typing import Any

import numpy as np

from experiments.runs import workdir as workdir_lib
from experiments.slates import comparison as comparison_lib
from harmonrank_jax.data import chunks as chunks_lib

_NUM_REQUESTS = 4
_PLACE_OF_DATA = "DATA_OF_THE_PAGE"
# Name and description of each method.
_METHODS = {
    "dpp": ("DPP", "Determinantal point process: an item counts by what it "
            "adds to all items above it together."),
    "mmr": ("MMR", "Maximal marginal relevance: an item loses by its "
            "similarity to the nearest item above it."),
    "ssd": ("SSD", "Sliding spectrum decomposition: an item gains by the "
            "volume it spans with the items above it."),
    "top_k": ("Top-K", "The highest scores, whatever they look like: the knob "
              "does nothing.")}


def make_content(
    comparison: comparison_lib.Comparison, categories: Sequence[str], *,
    method: str, limits: str,
) -> dict[str, Any]:
  """What the page shows, as JSON; first requests that leave a choice."""
  sizes = np.diff(comparison.chunk.starts)
  num_slots = comparison.rows[method].shape[-1]
  by_choice = np.argsort(sizes < 2 * num_slots, kind="stable")
  shown = np.sort(by_choice[:_NUM_REQUESTS])
  return workdir_lib.finite({
      "thetas": comparison_lib.THETAS, "theta": comparison.theta,
      "method": method, "limits": limits, "num_slots": num_slots,
      "num_requests": len(sizes),
      "methods": [
          {"id": name, "name": _METHODS[name][0], "about": _METHODS[name][1],
           "curve": [(distance.mean, score.mean) for distance, score in zip(
               curves["distance"], curves["score"], strict=True)]}
          for name, curves in comparison.curves.items()],
      "requests": [_request(comparison, categories, place)
                   for place in shown]})


def write_page(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes the page, one file that needs no other."""
  text = (importlib.resources.files("experiments.slates") / "page.html"
          ).read_text()
  # Escaped, so that no text of the data can end the script element.
  data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
  workdir_lib.write_text(path, text.replace(_PLACE_OF_DATA, data))


def _request(
    comparison: comparison_lib.Comparison, categories: Sequence[str],
    place: int,
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
  features /= np.linalg.norm(features, axis=1, keepdims=True)
  cosines = features @ features.T
  nearest = [cosines[k, :k].max() if k else None for k in range(len(rows))]
  pairs = cosines[np.triu_indices(len(rows), 1)]
  return {"items": np.searchsorted(items, rows),
          "nearest": [None if n is None else round(float(n), 3)
                      for n in nearest],
          "distance": round(float(1 - pairs.mean()), 4) if len(pairs) else None}
