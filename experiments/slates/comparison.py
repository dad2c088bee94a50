"""How slates of every method compare, on requests drawn from all of them."""

from typing import NamedTuple

import jax
import numpy as np

from experiments.runs import console
from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.diversity import metrics
from harmonrank_jax.serving import selector as slates

# At 1 every method is top-K.
THETAS = np.linspace(0, 1, 21).round(2)
# Of a slate, in the order they are shown; then those of all slates together.
METRICS = {
    "score": "mean score", "relevance": "mean relevance",
    "distance": "intra-list distance", "log_det": "log det",
    "near_duplicates": "near-duplicates", "num_categories": "categories"}
GINI = "gini"
HEADER = ["", *METRICS.values(), "Gini of exposure"]
_DIGITS = {"score": 4, "relevance": 4, "num_categories": 2, "log_det": 2}

_MAX_REQUESTS, _MAX_CANDIDATES = 512, 2**18
_NUM_RESAMPLES = 200


class Value(NamedTuple):
  """A mean over requests and its standard error."""

  mean: float
  error: float


class Comparison(NamedTuple):
  """All methods on the same S requests.

  Attributes:
    chunk: the requests.
    rows: of a method `[T, S, K]`, the slates for each of `THETAS`.
    curves: of a method and a metric, the values for each of `THETAS`.
    theta: at which the methods are compared.
    table: of a method and a metric, the value at `theta`; the Gini
      coefficient of the exposure of categories among them.
    exposure: of a method `[C]`, the share of each category in all slots at
      `theta`; of "candidates" likewise in all candidates.
  """

  chunk: candidates_lib.Chunk
  rows: dict[str, np.ndarray]
  curves: dict[str, dict[str, list[Value]]]
  theta: float
  table: dict[str, dict[str, Value]]
  exposure: dict[str, np.ndarray]


def draw(
    facts: candidates_lib.Facts, num_selected: int, seed: int
) -> np.ndarray:
  """Places of the requests to compare on, in order: as many as memory takes."""
  size = int(slates.padded_size(max(facts.largest, num_selected)))
  count = min(facts.num_requests,
              max(1, min(_MAX_REQUESTS, _MAX_CANDIDATES // size)))
  return np.sort(np.random.default_rng(seed).choice(
      facts.num_requests, count, replace=False))


def compare(
    chunk: candidates_lib.Chunk,
    relevance: np.ndarray,
    num_categories: int,
    rules: slates.Rules,
    theta: float,
    seed: int,
) -> Comparison:
  """Makes slates by every method, over theta, and measures them.

  Args:
    chunk: the S requests to compare on.
    relevance: of its candidates.
    num_categories: C.
    rules: of all methods.
    theta: at which the table and the exposure are.
    seed: of the bootstrap.
  """
  # Of one size: a compile for each method.
  least_size = int(slates.padded_size(np.diff(chunk.starts).max()))
  selectors = {method: slates.Selector(method, rules)
               for method in slates.METHODS}
  measure = _Measure(chunk, relevance, num_categories)

  def made(method: str, at: float) -> np.ndarray:
    limit = "top_k" if at == 1 else method
    return selectors[limit](
        chunk, relevance, at, least_size=least_size).rows

  rows, curves, table = {}, {}, {}
  exposure = {"candidates": np.bincount(
      chunk.categories, minlength=num_categories) / len(chunk.categories)}
  for method in slates.METHODS:
    rows[method] = np.stack([made(method, at) for at in THETAS])
    found = [measure(at) for at in rows[method]]
    curves[method] = {name: [_mean(values[name]) for values in found]
                      for name in METRICS}
    at_theta = made(method, theta)
    counts = measure.counts(at_theta)
    found_at = measure(at_theta)
    table[method] = {name: _mean(found_at[name]) for name in METRICS}
    table[method][GINI] = _gini(counts, seed)
    exposure[method] = counts.sum(axis=0) / max(counts.sum(), 1)
  return Comparison(chunk, rows, curves, theta, table, exposure)


def table_rows(comparison: Comparison) -> list[list[str]]:
  """Texts under `HEADER`, a row for each method."""
  return [[method, *(_text(value, _DIGITS.get(name, 3))
                     for name, value in values.items())]
          for method, values in comparison.table.items()]


def print_table(comparison: Comparison) -> None:
  """The last thing on the terminal."""
  console.show(f"{len(comparison.chunk.request_ids):,} requests at theta "
               f"{comparison.theta:g}, ± one standard error",
               ("", *HEADER[1:]), table_rows(comparison))


def _text(value: Value, digits: int) -> str:
  if not np.isfinite(value.mean):
    return "-"
  return (f"{console.number(value.mean, digits)} ± "
          f"{console.number(value.error, digits)}")


class _Measure:
  """Metrics of slates of the same requests."""

  def __init__(
      self, chunk: candidates_lib.Chunk, relevance: np.ndarray,
      num_categories: int,
  ):
    self._chunk, self._relevance = chunk, relevance
    self._num_categories = num_categories
    self._of_features = jax.jit(lambda features, where: {
        "distance": metrics.intra_list_distance(features, where=where),
        "log_det": metrics.log_det(features, where=where),
        "near_duplicates": metrics.near_duplicate_rate(features, where=where)})
    self._counts = jax.jit(lambda categories: metrics.exposure_counts(
        categories, num_categories=num_categories))

  def __call__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Of slates `[S, K]`, metrics `[S]`; NaN where one is undefined."""
    is_item, chunk = rows >= 0, self._chunk
    num_items = is_item.sum(axis=1)
    mean = lambda values: np.where(
        num_items > 0, np.where(is_item, values[rows], 0).sum(axis=1)
        / np.maximum(num_items, 1), np.nan)
    found = jax.device_get(self._of_features(chunk.features[rows], is_item))
    return {"score": mean(chunk.scores), "relevance": mean(self._relevance),
            **found, "num_categories": (self.counts(rows) > 0).sum(axis=1)}

  def counts(self, rows: np.ndarray) -> np.ndarray:
    """Slots of each category, `[S, C]`."""
    return np.asarray(self._counts(
        np.where(rows < 0, -1, self._chunk.categories[rows])))


def _mean(values: np.ndarray) -> Value:
  """Over the requests where it is defined."""
  values = values[np.isfinite(values)]
  if not len(values):
    return Value(np.nan, np.nan)
  error = np.nan
  if len(values) > 1:
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
  return Value(float(values.mean()), error)


def _gini(counts: np.ndarray, seed: int) -> Value:
  """Of the slots of each category `[S, C]`, the error by resampling."""
  num = len(counts)
  weights = np.random.default_rng(seed).multinomial(
      num, np.full(num, 1 / num), _NUM_RESAMPLES)
  weights = np.concatenate([np.ones((1, num), np.int64), weights])
  values = np.asarray(jax.jit(metrics.exposure_gini)(
      (weights @ counts).astype(np.float32)))
  return Value(float(values[0]), float(values[1:].std(ddof=1)))
