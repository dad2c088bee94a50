"""From columns to arrays: vocabularies, quantiles and score scales.

Everything is fitted on training rows in one streaming pass, saved as JSON
with the model, and applied to any row afterwards without looking back.
"""

import collections
from collections.abc import Callable
import dataclasses
import hashlib
from typing import Any
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import kinds
from harmonrank_jax.data import parquet
from harmonrank_jax.data import probabilities
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import times as times_lib

# Values seen less often share the entry of the unknown, so that this entry is
# trained before an unseen value needs it.
_MIN_COUNT = 2
_MAX_VOCABULARY = 200_000
_NUM_KNOTS = 33
_SAMPLE_ROWS = 200_000


class Batch(NamedTuple):
  """Rows of a log as arrays; N rows, M objectives, C and Q profile columns."""

  labels: np.ndarray  # [N, M] bool, or float32 where an objective is a value.
  scores: np.ndarray  # [N, M] float32 probabilities in (0, 1).
  has_score: np.ndarray  # [N, M] bool, False where the score is missing.
  categorical: np.ndarray  # [N, C] int32, 0 = unknown or missing.
  numeric: np.ndarray  # [N, Q] float32 in [-1, 1], 0 = missing or the median.
  user: np.ndarray  # [N] int64, equal for the same user; 0 without users.
  request: np.ndarray  # [N] int64, likewise.
  time: np.ndarray  # [N] int64 milliseconds; 0 without times.


@dataclasses.dataclass(frozen=True)
class Features:
  """How the columns of a schema become arrays."""

  # The values of entries 1, 2, ... of each categorical column.
  vocabularies: dict[str, list]
  # Quantiles of each numeric column, mapped to equal steps of [-1, 1].
  knots: dict[str, list[float]]
  # Of each objective None for a score that is a probability, or (mean,
  # standard deviation) of one that is any real number, which then becomes a
  # probability by the sigmoid of its standard score.
  score_scales: dict[str, tuple[float, float] | None]

  @property
  def vocabulary_sizes(self) -> tuple[int, ...]:
    """Entries per categorical column, the unknown included."""
    return tuple(len(values) + 1 for values in self.vocabularies.values())

  def to_json(self) -> dict[str, Any]:
    """As `features_from_json` reads it."""
    return dataclasses.asdict(self)


def features_from_json(content: dict[str, Any]) -> Features:
  """The inverse of `Features.to_json`."""
  scales = {name: None if scale is None else (scale[0], scale[1])
            for name, scale in content["score_scales"].items()}
  return Features(content["vocabularies"], content["knots"], scales)


def fit_features(
    log: parquet.ParquetLog, schema: schema_lib.Schema,
    row_filter: Callable[[pa.Table], np.ndarray],
) -> Features:
  """Fits vocabularies, quantiles and score scales in one streaming pass.

  Args:
    log: what `check_log` returned.
    schema: its roles.
    row_filter: from a table to the mask of training rows.

  Returns:
    The `Features`. A categorical column keeps the values that occur at least
    twice, the most frequent 200,000 at most.
  """
  counts: dict[str, collections.Counter] = {
      column: collections.Counter() for column in schema.categorical}
  samples: dict[str, list[np.ndarray]] = {
      column: [] for column in schema.numeric}
  scores: dict[str, list[tuple[float, ...]]] = {
      o.name: [] for o in schema.objectives if o.score}
  stride = -(-log.num_rows // _SAMPLE_ROWS)
  for table in log.tables(schema.columns):
    table = table.filter(pa.array(row_filter(table)))
    for column, counter in counts.items():
      values = kinds.plain(table[column]).drop_null()
      for entry in pc.value_counts(values).to_pylist():
        counter[entry["values"]] += entry["counts"]
    for column, parts in samples.items():
      values = kinds.numbers_of(table[column])[::stride]
      parts.append(values[np.isfinite(values)])
    for objective in schema.objectives:
      if objective.score:
        values = kinds.numbers_of(table[objective.score])
        values = values[np.isfinite(values)]
        if len(values):
          scores[objective.name].append(
              (len(values), values.mean(), values.var()))
  vocabularies = {
      column: [value for value, count in sorted(
          counter.items(), key=lambda entry: (-entry[1], str(entry[0])))
               if count >= _MIN_COUNT][:_MAX_VOCABULARY]
      for column, counter in counts.items()}
  knots = {column: _knots(np.concatenate(parts) if parts else np.zeros(0))
           for column, parts in samples.items()}
  # A checked log reads columns of probabilities in a way of its own; of others
  # all rows to train on may be in [0, 1].
  return Features(vocabularies, knots, {
      o.name: None if o.score in log.meanings else _score_scale(scores[o.name])
      for o in schema.objectives if o.score})


def encode(
    features: Features, schema: schema_lib.Schema, table: pa.Table
) -> Batch:
  """The arrays of rows.

  Args:
    features: fitted.
    schema: its roles; its objectives may be fewer than were fitted.
    table: rows as a log that `check_log` returned reads them.

  Returns:
    The `Batch`. Objectives without a score column have `has_score` False.

  Raises:
    DataError: if a categorical column holds text where the fitted one held
      numbers, or the reverse; or a score is no probability where the fitted
      ones were.
  """
  num_rows = table.num_rows
  labels, scores, has_score = [], [], []
  for objective in schema.objectives:
    labels.append(kinds.numbers_of(table[objective.label]))
    if objective.score:
      values = kinds.numbers_of(table[objective.score])
      has_score.append(~np.isnan(values))
      scale = features.score_scales[objective.name]
      odd = probabilities.are_odd(values)
      if scale is None and odd.any():
        raise schema_lib.DataError(
            f"column {objective.score!r}: scores were probabilities in the "
            f"training rows, got {values[np.argmax(odd)]:.6g}; make the score "
            "null, or read the rows from the log that `check_log` returns, "
            "which says where such scores are.")
      scores.append(_probability(np.nan_to_num(values), scale))
    else:
      has_score.append(np.zeros(num_rows, bool))
      scores.append(np.full(num_rows, 0.5))
  is_value = any(o.is_value for o in schema.objectives)
  categorical = []
  for column in schema.categorical:
    try:
      categorical.append(
          index_in(table[column], features.vocabularies[column]))
    except (pa.ArrowException, OverflowError):
      raise schema_lib.DataError(
          f"column {column!r} has type {table[column].type}, which is not "
          "what the features were fitted on.") from None
  numeric = [_steps(kinds.numbers_of(table[column]),
                    features.knots[column]) for column in schema.numeric]
  return Batch(
      labels=_columns(labels, num_rows, np.float32 if is_value else bool),
      scores=_columns(scores, num_rows, np.float32),
      has_score=_columns(has_score, num_rows, bool),
      categorical=_columns(categorical, num_rows, np.int32),
      numeric=_columns(numeric, num_rows, np.float32),
      user=id_numbers(table, schema.user),
      request=id_numbers(table, schema.request),
      time=times(table, schema.time))


def index_in(column: pa.ChunkedArray, vocabulary: list) -> np.ndarray:
  """Position in the vocabulary, from 1; 0 for what is not in it.

  Raises an ArrowException if one holds text and the other numbers, and an
  OverflowError if the numbers are beyond the column's type.
  """
  column = kinds.plain(column)
  if pa.types.is_integer(column.type) and column.type != pa.uint64():
    # The column that was fitted may have been wider than this one.
    column = column.cast(pa.int64())
  values = pa.array(vocabulary, type=column.type)
  indices = pc.index_in(column, value_set=values)
  return pc.fill_null(pc.add(indices, 1), 0).to_numpy().astype(np.int32)


def id_numbers(table: pa.Table, column: str | None) -> np.ndarray:
  """Ids as int64, equal exactly where the ids are.

  Integers are themselves. Texts are hashed to 64 bits: that any two of a
  million different texts share a hash has a chance of one in thirty million.
  """
  if column is None:
    return np.zeros(table.num_rows, np.int64)
  values = kinds.plain(table[column])
  if pa.types.is_integer(values.type):
    return values.to_numpy().astype(np.int64)
  encoded = values.combine_chunks().dictionary_encode()
  hashes = np.asarray([_hash(text) for text in encoded.dictionary.to_pylist()],
                      np.int64)
  return hashes[encoded.indices.to_numpy()]


def times(table: pa.Table, column: str | None) -> np.ndarray:
  """Times as int64 milliseconds, which integers of a checked log are."""
  if column is None:
    return np.zeros(table.num_rows, np.int64)
  return times_lib.integers_of(table[column])


def _hash(text: str) -> int:
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return int.from_bytes(digest, "little", signed=True)


def _columns(columns: list, num_rows: int, dtype: type) -> np.ndarray:
  if not columns:
    return np.zeros((num_rows, 0), dtype)
  return np.stack(columns, axis=1).astype(dtype)


def _knots(sample: np.ndarray) -> list[float]:
  """Quantiles of a sample; at least two, increasing or equal."""
  if not len(sample):
    return [0.0, 0.0]
  return np.quantile(sample, np.linspace(0, 1, _NUM_KNOTS)).tolist()


def _steps(values: np.ndarray, knots: list[float]) -> np.ndarray:
  """Piecewise linear between knots, to [-1, 1]; a missing value is 0."""
  levels = np.linspace(-1, 1, len(knots))
  # Equal knots are one frequent value, which gets the middle of their levels.
  places, group = np.unique(knots, return_inverse=True)
  levels = np.bincount(group, levels) / np.bincount(group)
  return np.where(np.isnan(values), 0, np.interp(values, places, levels))


def _score_scale(
    parts: list[tuple[float, ...]]
) -> tuple[float, float]:
  """Mean and spread of scores; those of no scores are 0 and 1."""
  if not parts:
    return 0.0, 1.0
  count, means, variances = np.asarray(parts).T
  mean = np.average(means, weights=count)
  # The mean square less the squared mean would lose all digits where the mean
  # is large; variances of parts and of their means do not.
  variance = np.average(variances + (means - mean)**2, weights=count)
  return float(mean), float(np.sqrt(max(variance, 1e-12)))


def _probability(
    scores: np.ndarray, scale: tuple[float, float] | None
) -> np.ndarray:
  """Scores as probabilities, away from 0 and 1 by what float32 can hold."""
  if scale is not None:
    scores = (scores - scale[0]) / scale[1]
    scores = 1 / (1 + np.exp(-np.clip(scores, -15, 15)))
  return np.clip(scores, 1e-7, 1 - 1e-7)
