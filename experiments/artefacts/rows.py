"""Raw rows like those that a model was trained on, without any of these.

What is drawn comes from the vocabularies and knots of its features: no row of
a user leaves with an artefact.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from harmonrank_jax.data import encoding
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import models

# Shares of values that are unknown, missing or infinite.
_UNKNOWN, _MISSING, _INFINITE = 0.1, 0.1, 0.02


def draw_rows(
    rng: np.random.Generator, trained: Sequence[models.Trained],
    shape: tuple[int, ...], request_columns: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Raw columns with known, unknown, missing and infinite values.

  Args:
    rng: what is drawn with.
    trained: what reads the columns.
    shape: of the columns.
    request_columns: those that have a value for the first axis alone.

  Returns:
    Column to array: texts as objects with None, numbers as float64 with NaN,
    integers beyond 2^53 and booleans as they are, which none is missing of.
  """
  result: dict[str, np.ndarray] = {}
  makes_scores = False
  for each in trained:
    if isinstance(each.model, (models.Predictor, models.Ensemble)):
      schema = each.model.schema
      if makes_scores:
        schema = dataclasses.replace(schema, objectives=())
      drawn = _draw_columns(rng, each.model.features, schema, {
          column: shape[:1] if column in request_columns else shape
          for column in encoding.inputs_of(schema)})
      # A column that two models read has the values of the first.
      result = drawn | result
      makes_scores = isinstance(each.model, models.Predictor)
  return result


def draw_requests(
    rng: np.random.Generator, trained: Sequence[models.Trained],
    request: Mapping[str, Any], signature: manifest_lib.Signature,
    shape: tuple[int, int],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Raw columns and arguments of B requests of N candidates.

  Args:
    rng: what is drawn with.
    trained: the stages.
    request: what the manifest says of requests.
    signature: of `select`.
    shape: (B, N).
  """
  fields = {field.name: field for field in signature.inputs}
  num_requests, num_candidates = shape
  columns = draw_rows(rng, trained, shape, request["columns"])
  names = np.asarray([*request["categories"], "?"])
  # A stage that reads the categories may know them as numbers.
  columns.setdefault(request["category_column"], names[
      rng.integers(len(names), size=shape)])
  features = rng.normal(size=(*shape, int(fields["features"].shape[-1])))
  features[rng.random(shape) < _MISSING] = 0
  columns[request["features_column"]] = features
  if "scores" in fields:
    columns[request["score_column"]] = _scores(rng, None, shape)
  if "log_value" in fields:
    columns["log_value"] = np.log(rng.uniform(0.1, 1, size=shape))
  # Requests of all sizes, one of them without a candidate.
  sizes = np.linspace(0, num_candidates, num_requests).astype(int)
  arguments: dict[str, np.ndarray] = {
      "where": np.arange(num_candidates) < sizes[:, None],
      "theta": rng.uniform(0.5, 0.95, num_requests),
      "quotas": rng.integers(
          1, 5, size=(num_requests, len(request["categories"])))}
  if "objective_weights" in fields:
    arguments["objective_weights"] = rng.uniform(
        0.5, 2, (num_requests, int(fields["objective_weights"].shape[-1])))
  if "shown_features" in fields:
    _, most, width = fields["shown_features"].shape
    arguments["shown"] = rng.normal(
        size=(num_requests, min(int(most), 5), int(width)))
  if "window" in fields:
    arguments |= _draw_day(rng, fields, names, num_requests)
  return columns, arguments


def _draw_day(
    rng: np.random.Generator, fields: Mapping[str, manifest_lib.Field],
    names: np.ndarray, num_requests: int,
) -> dict[str, np.ndarray]:
  """What a policy is told of the day of each user, the first has none yet."""
  shown = num_requests, min(int(fields["shown_where"].shape[-1]), 12)
  is_shown = rng.random(shown) < 0.8
  is_shown[0] = False
  age = rng.integers(1, 20, shown)
  return {
      "window": rng.integers(30, 96, num_requests),
      "requests_today": is_shown.any(axis=1) * rng.integers(1, 5, num_requests),
      "since_last": np.where(is_shown, age, 96).min(axis=1) % 96,
      "shown_where": is_shown,
      "shown_categories": names[rng.integers(len(names), size=shown)],
      "shown_age": age, "shown_scores": _scores(rng, None, shown),
      "shown_clicked": rng.random(shown) < 0.3,
      "shown_dismissed": rng.random(shown) < 0.1}


def _draw_columns(
    rng: np.random.Generator, features: encoding.Features,
    schema: schema_lib.Schema, shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
  """Columns of one model, of these shapes."""
  return {
      **{column: _entries(rng, features.vocabularies[column], shapes[column])
         for column in schema.categorical},
      **{column: _numbers(rng, features.knots[column], shapes[column])
         for column in schema.numeric},
      **{o.score: _scores(rng, features.score_scales[o.name], shapes[o.score])
         for o in schema.objectives if o.score}}


def _entries(
    rng: np.random.Generator, vocabulary: list, shape: tuple[int, ...]
) -> np.ndarray:
  values = vocabulary or ["?"]
  known = np.asarray(values)[rng.integers(len(values), size=shape)]
  is_unknown = rng.random(shape) < _UNKNOWN
  is_missing = rng.random(shape) < _MISSING
  if known.dtype.kind == "b":
    return known
  if known.dtype.kind == "U":
    texts = known.astype(object)
    texts[is_unknown] = _unknown_text(values)
    texts[is_missing] = None
    return texts
  largest = max(map(abs, values)) + 1
  known = np.where(is_unknown, largest, known)
  if largest >= 2**53:
    return known
  return np.where(is_missing, np.nan, known.astype(np.float64))


def _unknown_text(values: Sequence[str]) -> str:
  return max(values, key=len) + "?"


def _numbers(
    rng: np.random.Generator, knots: list[float], shape: tuple[int, ...]
) -> np.ndarray:
  width = max(knots[-1] - knots[0], 1.0)
  values = rng.uniform(
      knots[0] - 0.1 * width, knots[-1] + 0.1 * width, size=shape)
  values[rng.random(shape) < _MISSING] = np.nan
  values[rng.random(shape) < _INFINITE] = np.inf
  values[rng.random(shape) < _INFINITE] = -np.inf
  return values


def _scores(
    rng: np.random.Generator, scale: tuple[float, float] | None,
    shape: tuple[int, ...],
) -> np.ndarray:
  """Probabilities, or any numbers with a scale; some are missing."""
  values = rng.normal(size=shape)
  if scale is None:
    values = 1 / (1 + np.exp(2 - 2 * values))
  else:
    values = scale[0] + scale[1] * values
  values[rng.random(shape) < _MISSING] = np.nan
  return values
