"""How slates of every method compare, on requests drawn from all of them."""

from typing import NamedTuple

import jax
import numpy as np

from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.data import chunks as chunks_lib
from harmonrank_jax.diversity import metrics
from harmonrank_jax.serving import selector as selector_lib

# At theta = 1 every method is top-K.
THETAS = np.linspace(0, 1, 21).round(2)
# Metrics of a slate and their names in tables, in the order of the columns.
METRICS = {
    "score": "mean score", "relevance": "mean relevance",
    "distance": "intra-list distance", "log_det": "log det",
    "near_duplicates": "near-duplicates", "num_categories": "categories"}
# The one metric of all slates together.
GINI = "gini"

_MAX_REQUESTS, _MAX_CANDIDATES = 512, 2**18
_NUM_RESAMPLES = 200


class Value(NamedTuple):
  """A mean over requests and its standard error."""

  mean: float
  error: float


class Comparison(NamedTuple):
  """Slates of S requests by every method, and their metrics."""

  chunk: chunks_lib.Chunk
  rows: dict[str, np.ndarray]  # By method `[T, S, K]`, rows of the chunk.
  curves: dict[str, dict[str, list[Value]]]  # By method and metric, T values.
  theta: float  # Of the table and the exposure.
  table: dict[str, dict[str, Value]]  # By method and metric.
  # By method, and of "candidates", the share `[C]` of each category.
  exposure: dict[str, np.ndarray]


def draw(
    facts: candidates_lib.Facts, *, num_selected: int, seed: int
) -> np.ndarray:
  """Places `[S]` of requests to compare methods on, as memory allows."""
  size = int(selector_lib.padded_size(max(facts.largest, num_selected)))
  count = min(facts.num_requests,
              max(1, min(_MAX_REQUESTS, _MAX_CANDIDATES // size)))
  return np.sort(np.random.default_rng(seed).choice(
      facts.num_requests, count, replace=False))


def compare(
    chunk: chunks_lib.Chunk, relevance: np.ndarray, *, num_categories: int,
    rules: selector_lib.Rules, theta: float, seed: int,
) -> Comparison:
  """Selects and measures slates of a chunk, by every method at every theta."""
  slates = _Slates(chunk, relevance, num_categories, rules)
  rows, curves, table = {}, {}, {}
  exposure = {"candidates": np.bincount(
      chunk.categories, minlength=num_categories) / len(chunk.categories)}
  for method in selector_lib.METHODS:
    rows[method] = np.stack([slates.select(method, at) for at in THETAS])
    measured = [slates.measure(at) for at in rows[method]]
    curves[method] = {name: [_mean(values[name]) for values in measured]
                      for name in METRICS}
    at_theta = slates.select(method, theta)
    values, counts = slates.measure(at_theta), slates.counts(at_theta)
    table[method] = {name: _mean(values[name]) for name in METRICS}
    table[method][GINI] = _gini(counts, seed)
    exposure[method] = counts.sum(axis=0) / max(counts.sum(), 1)
  return Comparison(chunk, rows, curves, theta, table, exposure)


class _Slates:
  """Slates of the same requests by any method, and their metrics."""

  def __init__(
      self, chunk: chunks_lib.Chunk, relevance: np.ndarray,
      num_categories: int, rules: selector_lib.Rules,
  ):
    self._chunk, self._relevance = chunk, relevance
    # Requests are padded to one size: one compilation for each method.
    self._size = int(selector_lib.padded_size(np.diff(chunk.starts).max()))
    self._selectors = {method: selector_lib.Selector(method, rules)
                       for method in selector_lib.METHODS}
    self._by_features = jax.jit(lambda features, where: {
        "distance": metrics.intra_list_distance(features, where=where),
        "log_det": metrics.slate_log_det(features, where=where),
        "near_duplicates": metrics.near_duplicate_rate(features, where=where)})
    self._counts = jax.jit(lambda categories: metrics.exposure_counts(
        categories, num_categories=num_categories))

  def select(self, method: str, theta: float) -> np.ndarray:
    """Rows of the chunk, `[S, K]`; -1 in empty slots."""
    selector = self._selectors["top_k" if theta == 1 else method]
    return selector(self._chunk, self._relevance, theta=theta,
                    least_size=self._size).rows

  def measure(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics `[S]` of slates `[S, K]`; NaN where one is undefined."""
    is_item, chunk = rows >= 0, self._chunk
    by_features = jax.device_get(
        self._by_features(chunk.features[rows], is_item))
    return {"score": _slate_mean(chunk.scores[rows], is_item),
            "relevance": _slate_mean(self._relevance[rows], is_item),
            **by_features,
            "num_categories": (self.counts(rows) > 0).sum(axis=1)}

  def counts(self, rows: np.ndarray) -> np.ndarray:
    """Slots of each category, `[S, C]`."""
    return np.asarray(self._counts(
        np.where(rows < 0, -1, self._chunk.categories[rows])))


def _slate_mean(values: np.ndarray, is_item: np.ndarray) -> np.ndarray:
  """Means `[S]` over the items of slates `[S, K]`; NaN for empty slates."""
  num_items = is_item.sum(axis=1)
  sums = np.where(is_item, values, 0).sum(axis=1)
  return np.where(num_items > 0, sums / np.maximum(num_items, 1), np.nan)


def _mean(values: np.ndarray) -> Value:
  """Mean and standard error over the requests where the metric is defined."""
  values = values[np.isfinite(values)]
  if not len(values):
    return Value(np.nan, np.nan)
  error = (float(values.std(ddof=1) / np.sqrt(len(values)))
           if len(values) > 1 else np.nan)
  return Value(float(values.mean()), error)


def _gini(counts: np.ndarray, seed: int) -> Value:
  """Gini coefficient of slots by category `[S, C]`; bootstrap error."""
  num = len(counts)
  weights = np.random.default_rng(seed).multinomial(
      num, np.full(num, 1 / num), _NUM_RESAMPLES)
  weights = np.concatenate([np.ones((1, num), np.int64), weights])
  values = np.asarray(jax.jit(metrics.exposure_gini)(
      (weights @ counts).astype(np.float32)))
  return Value(float(values[0]), float(values[1:].std(ddof=1)))
