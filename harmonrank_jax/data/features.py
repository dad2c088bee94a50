"""From columns to arrays: vocabularies, quantiles and score scales.

Everything is fitted on training rows in one streaming pass, saved as JSON
with the model, and applied to any row afterwards without looking back.
"""

import collections
from collections.abc import Callable
import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import checks
from harmonrank_jax.data import encoding
from harmonrank_jax.data import kinds
from harmonrank_jax.data import parquet
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


def fit_features(
    log: parquet.ParquetLog, schema: schema_lib.Schema,
    row_filter: Callable[[pa.Table], np.ndarray],
) -> encoding.Features:
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
  return encoding.Features(vocabularies, knots, {
      o.name: None if o.score in log.meanings else _score_scale(scores[o.name])
      for o in schema.objectives if o.score})


def encode(
    features: encoding.Features, schema: schema_lib.Schema, table: pa.Table
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
  encoded = encode_inputs(features, schema, table)
  if encoded.is_refused.any():
    row, = table.slice(np.argmax(encoded.is_refused), 1).to_pylist()
    raise schema_lib.DataError(
        f"{encoding.why_refused(features, schema, row)}; make the score null, "
        "or read the rows from the log that `check_log` returns, which says "
        "where such scores are.")
  is_value = any(o.is_value for o in schema.objectives)
  labels = np.empty((table.num_rows, len(schema.objectives)),
                    np.float32 if is_value else bool)
  for m, objective in enumerate(schema.objectives):
    labels[:, m] = kinds.numbers_of(table[objective.label])
  return Batch(
      labels, encoded.scores, encoded.has_score, encoded.categorical,
      encoded.numeric, user=id_numbers(table, schema.user),
      request=id_numbers(table, schema.request),
      time=times(table, schema.time))


def encode_inputs(
    features: encoding.Features, schema: schema_lib.Schema, table: pa.Table
) -> encoding.Encoded:
  """The arrays of what a model reads of rows, which need no labels.

  Args:
    features: fitted.
    schema: its roles; its objectives may be fewer than were fitted.
    table: rows, from a log or as they are in a file.

  Raises:
    DataError: if a column is missing, or holds text where the fitted one held
      numbers, or the reverse.
  """
  checks.check_names(encoding.inputs_of(schema), table.column_names, "table")
  return encoding.encode_with(
      features, schema, (table.num_rows,),
      lambda column: _entries(features, table, column),
      lambda column: _numbers(table, column))


def _numbers(table: pa.Table, column: str) -> np.ndarray:
  """A column of a file as float64, missing as NaN."""
  values = _as_read(table, column)
  if kinds.is_text(values.type):
    raise encoding.wrong_kind(column, str(values.type), "numbers")
  return kinds.numbers_of(values)


def _entries(
    features: encoding.Features, table: pa.Table, column: str
) -> np.ndarray:
  """`[N]` int32 entries of a categorical column of a file."""
  parts = [np.zeros(0, np.int32)]
  for chunk in _as_read(table, column).chunks:
    if pa.types.is_null(chunk.type):
      parts.append(np.zeros(len(chunk), np.int32))
      continue
    # Distinct values are looked up, of which there are few most often.
    encoded = chunk.dictionary_encode()
    known = features.entries(
        column, encoded.dictionary.to_numpy(zero_copy_only=False).tolist())
    places = encoded.indices.fill_null(len(known)).to_numpy()
    parts.append(np.append(known, np.int32(0))[places])
  return np.concatenate(parts)


def _as_read(table: pa.Table, column: str) -> pa.ChunkedArray:
  """A column in the type that a log reads it in."""
  values = table[column]
  kind = kinds.read_as(values.type)
  if not (kinds.is_text(kind) or kinds.is_number(kind)
          or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
    raise schema_lib.DataError(
        f"column {column!r} has type {kind}; accepted: text, numbers, booleans "
        "or dates.")
  try:
    return kinds.convert(values, kind)
  except pa.ArrowException as error:
    raise schema_lib.DataError(
        f"column {column!r} of type {values.type} cannot be read as {kind}: "
        f"{str(error).splitlines()[0]}.") from None


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


def _knots(sample: np.ndarray) -> list[float]:
  """Quantiles of a sample; at least two, increasing or equal."""
  if not len(sample):
    return [0.0, 0.0]
  return np.quantile(sample, np.linspace(0, 1, _NUM_KNOTS)).tolist()


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
