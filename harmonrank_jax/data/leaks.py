"""Profile columns that tell the labels of their rows: known afterwards only."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import kinds
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import times as times_lib

# An AUC this near to 0 or 1 is not that of a feature.
_NEAR = 0.02
# Rows of a class without which an AUC is chance.
_MIN_ROWS = 10
_ADVICE = ("what is known only afterwards is no feature; a schema leaves it "
           "out.")
# An expiry is later than its row, too.
_ADVICE_LATER = (
    "it may be known only afterwards, and is no feature then; a schema leaves "
    "it out.")


def describe(
    schema: schema_lib.Schema, table: pa.Table, time_ms: np.ndarray | None
) -> list[str]:
  """What is to be said of the profile columns of N rows, a line each.

  A column tells an objective if it alone ranks the rows nearly right: by
  where it is missing, by its values, or by the rate of each category in other
  rows. A time may be known afterwards if it is later than that of its row, of
  which `time_ms` `[N]` are the milliseconds.
  """
  labels = np.zeros((table.num_rows, 0), bool)
  if schema.objectives:
    labels = np.stack([kinds.numbers_of(table[o.label]) > 0
                       for o in schema.objectives], axis=1)
  lines = []
  for name in (*schema.categorical, *schema.numeric):
    column = kinds.plain(table[name])
    line = None
    if name in schema.numeric:
      values = kinds.numbers_of(column)
      known = np.isfinite(values)
      by_values = _auc(values[known], labels[known])
      if time_ms is not None:
        line = _say_later(
            name, values[known].astype(np.int64), time_ms[known])
    else:
      known = pc.is_valid(column).to_numpy()
      by_values = _auc_of_rates(column, labels)
    line = line or _say(
        name, "where it is missing", _auc(~known, labels), schema) or _say(
            name, "its values", by_values, schema)
    if line:
      lines.append(line)
  return lines


def _say(
    column: str, what: str, auc: np.ndarray, schema: schema_lib.Schema
) -> str | None:
  """A line for the objective of `[M]` AUCs that is told best, if any is."""
  told = np.nan_to_num(np.abs(auc - 0.5))
  if not told.any() or told.max() < 0.5 - _NEAR:
    return None
  best = int(told.argmax())
  return (f"column {column!r} tells {schema.names[best]!r} by {what}, alone it "
          f"has an AUC of {auc[best]:.4f}: {_ADVICE}")


def _say_later(
    column: str, times: np.ndarray, time_ms: np.ndarray
) -> str | None:
  """A line if `[N]` integers are times after `[N]` ones of their rows."""
  unit = times_lib.unit_of(times)
  if unit is None:
    return None
  later = times_lib.in_ms(times, unit) > time_ms
  if later.mean() < 0.5:
    return None
  return (f"column {column!r} holds {unit} since 1970 after the row's own time "
          f"in {later.sum():,} of {len(later):,} rows: {_ADVICE_LATER}")


def _auc(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`[M]` AUCs of `[N]` values for `[N, M]` labels; NaN where rows are few."""
  _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
  rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
  positives = labels.sum(axis=0)
  negatives = len(labels) - positives
  auc = (rank @ labels - positives * (positives + 1) / 2) / np.maximum(
      positives * negatives, 1)
  return np.where(np.minimum(positives, negatives) < _MIN_ROWS, np.nan, auc)


def _auc_of_rates(column: pa.ChunkedArray, labels: np.ndarray) -> np.ndarray:
  """`[M]` AUCs in half of the rows of the rates by value in the other half."""
  encoded = pa.concat_arrays(column.chunks).dictionary_encode("encode")
  codes = encoded.indices.to_numpy()
  learns = np.random.default_rng(0).random(len(codes)) < 0.5
  counts = np.bincount(codes[learns], minlength=len(encoded.dictionary))
  result = np.full(labels.shape[1], np.nan)
  for m, label in enumerate(labels.T):
    sums = np.bincount(codes[learns], label[learns], len(counts))
    # A value that is seen once says little.
    rate = (sums + label.mean()) / (counts + 1)
    result[m] = _auc(rate[codes[~learns]], label[~learns, None])[0]
  return result
