"""Where a raw value becomes a number of the arrays that models read.

Training, batches of files and single requests all encode by these functions.
They need NumPy alone, so that what serves a model needs no more; `features`
fits what is applied here and reads the columns of Arrow.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import numpy as np

from harmonrank_jax.data import schema as schema_lib

# Probabilities are this far from 0 and 1 at least: what float32 can hold.
LEAST_PROBABILITY = 1e-7
# Sums of rounded numbers are this far out of [0, 1], at most.
_ROUNDING = 1e-5
_NUMBERS = (bool, int, float, np.bool_, np.number)


class Encoded(NamedTuple):
  """Rows of any shape `[...]` as arrays, what is missing with a value too."""

  scores: np.ndarray  # [..., M] float32 in (0, 1); 0.5 where missing.
  has_score: np.ndarray  # [..., M] bool, False where the score is missing.
  categorical: np.ndarray  # [..., C] int32, 0 = unknown or missing.
  numeric: np.ndarray  # [..., Q] float32 in [-1, 1], 0 = missing or the median.
  # [...] bool, a score is infinite, or should be a probability and is none.
  is_refused: np.ndarray


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

  def entries(self, column: str, values: Sequence[Any]) -> np.ndarray:
    """`[N]` int32, places of N plain values in a vocabulary, from 1.

    What is not in it is 0, and so is what is missing: None or NaN. Numbers are
    the same in any type: 1, 1.0 and True are equal.

    Raises:
      DataError: if text is given where numbers were fitted, or the reverse.
    """
    table = self._tables[column]
    if not table:
      return np.zeros(len(values), np.int32)
    fitted = str if isinstance(next(iter(table)), str) else _NUMBERS
    for kind in set(map(type, values)) - {type(None)}:
      if not issubclass(kind, fitted) and not (
          # A missing text of pandas.
          kind is float and all(np.isnan(value) for value in values
                                if type(value) is float)):
        raise wrong_kind(
            column, kind.__name__, "text" if fitted is str else "numbers")
    return np.fromiter((table.get(value, 0) for value in values), np.int32,
                       len(values))

  def steps(self, column: str, values: np.ndarray) -> np.ndarray:
    """Float64 numbers `[...]` made piecewise linear, to [-1, 1].

    A missing value, which is NaN, is 0; what is infinite is an end.
    """
    places, levels = self._levels[column]
    return np.where(np.isnan(values), 0, np.interp(values, places, levels))

  def probabilities(self, objective: str, scores: np.ndarray) -> np.ndarray:
    """Float64 scores `[...]` as probabilities in (0, 1); 0.5 where missing."""
    scale = self.score_scales[objective]
    missing = np.isnan(scores)
    if scale is not None:
      scores = (scores - scale[0]) / scale[1]
      scores = 1 / (1 + np.exp(-np.clip(scores, -15, 15)))
    scores = np.clip(scores, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.where(missing, 0.5, scores)

  def are_refused(self, objective: str, scores: np.ndarray) -> np.ndarray:
    """`[...]` bool, of float64 scores that no probability can be made of."""
    if self.score_scales[objective] is None:
      return are_odd(scores)
    return np.isinf(scores)

  @functools.cached_property
  def _tables(self) -> dict[str, dict[Any, int]]:
    """Place of each value of each vocabulary."""
    return {column: {value: place for place, value in enumerate(values, 1)}
            for column, values in self.vocabularies.items()}

  @functools.cached_property
  def _levels(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Knots of each numeric column, each once, and what they become."""
    result = {}
    for column, knots in self.knots.items():
      # Equal knots are one frequent value, which gets the middle of their
      # levels.
      places, group = np.unique(knots, return_inverse=True)
      levels = np.bincount(group, np.linspace(-1, 1, len(knots)))
      result[column] = places, levels / np.bincount(group)
    return result


def features_from_json(content: dict[str, Any]) -> Features:
  """The inverse of `Features.to_json`."""
  scales = {name: None if scale is None else (scale[0], scale[1])
            for name, scale in content["score_scales"].items()}
  return Features(content["vocabularies"], content["knots"], scales)


def with_kinds_of(features: Features, other: Features) -> Features:
  """Features whose vocabularies hold values of the kinds that another's do.

  A log that was made of another one may have its numbers and booleans as text,
  as Arrow writes them; the result reads the columns of the first log.

  >>> read = Features({"page": ["2", "7"], "day": ["mo"]}, {}, {})
  >>> with_kinds_of(read, Features({"page": [7, 1]}, {}, {})).vocabularies
  {'page': [2, 7], 'day': ['mo']}

  Raises:
    DataError: if a text is none that such a value is written as.
  """
  vocabularies = dict(features.vocabularies)
  for column, values in vocabularies.items():
    kind = type(next(iter(other.vocabularies.get(column, ())), ""))
    if kind is not str and values and isinstance(values[0], str):
      try:
        vocabularies[column] = [
            value == "true" if kind is bool else kind(value)
            for value in values]
      except ValueError:
        raise schema_lib.DataError(
            f"column {column!r} held text for one model and numbers for "
            "another; train both on the same log.") from None
  return dataclasses.replace(features, vocabularies=vocabularies)


def encode_columns(
    features: Features, schema: schema_lib.Schema, columns: Mapping[str, Any],
) -> Encoded:
  """The arrays of raw columns, as `encode` makes them of the same in a log.

  Args:
    features: fitted.
    schema: its roles; its objectives and profile columns may be fewer than
      were fitted. Labels, ids and the time are not read.
    columns: arrays by the names of the log, of shapes that broadcast against
      each other: numbers, booleans, texts or `datetime64`. None, NaN and NaT
      are missing. Columns that the schema does not name are not read.

  Raises:
    DataError: if a column is missing, holds text where numbers were fitted or
      the reverse, or does not fit the shape of the others.
  """

  arrays = {}
  for column in inputs_of(schema):
    if column not in columns:
      raise schema_lib.DataError(
          f"no column {column!r}{schema_lib.nearest(column, columns)}; given "
          f"are {', '.join(columns) or 'none'}.")
    arrays[column] = as_array(column, columns[column])
  try:
    shape = np.broadcast_shapes(*(x.shape for x in arrays.values()))
  except ValueError:
    shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
    raise schema_lib.DataError(
        f"the shapes of columns do not fit each other: {shapes}.") from None

  def entries_of(column: str) -> np.ndarray:
    values = arrays[column]
    if values.dtype.kind == "M":
      values = _milliseconds(values)
    return features.entries(column, values.ravel().tolist()).reshape(
        values.shape)

  return encode_with(features, schema, shape, entries_of,
                     lambda column: _numbers(column, arrays[column]))


def as_array(name: str, values: Any) -> np.ndarray:
  """What is given by a name as an array; raises if it is none."""
  try:
    return np.asarray(values)
  except ValueError:
    raise schema_lib.DataError(
        f"{name!r} is no array: its lists differ in length.") from None


def as_floats(name: str, objects: np.ndarray) -> np.ndarray:
  """Python's numbers in float64, None as NaN; raises if one does not fit."""
  try:
    return objects.astype(np.float64)
  except OverflowError:
    raise schema_lib.DataError(
        f"{name!r} holds a number that is too large for a float.") from None


def encode_with(
    features: Features, schema: schema_lib.Schema, shape: tuple[int, ...],
    entries_of: Callable[[str], np.ndarray],
    numbers_of: Callable[[str], np.ndarray],
) -> Encoded:
  """The arrays of columns that are read by functions of their names.

  Args:
    features: fitted.
    schema: its roles.
    shape: of the rows, which the shape of every column broadcasts to.
    entries_of: entries of a categorical column, as `Features.entries`.
    numbers_of: float64 values of any other column, missing as NaN.
  """
  empty = lambda columns, dtype: np.empty((*shape, len(columns)), dtype)
  result = Encoded(
      empty(schema.objectives, np.float32), empty(schema.objectives, bool),
      empty(schema.categorical, np.int32), empty(schema.numeric, np.float32),
      np.zeros(shape, bool))
  for m, objective in enumerate(schema.objectives):
    if objective.score:
      values = numbers_of(objective.score)
      result.scores[..., m] = features.probabilities(objective.name, values)
      result.has_score[..., m] = ~np.isnan(values)
      result.is_refused[...] |= features.are_refused(objective.name, values)
    else:
      result.scores[..., m], result.has_score[..., m] = 0.5, False
  for c, column in enumerate(schema.categorical):
    result.categorical[..., c] = entries_of(column)
  for q, column in enumerate(schema.numeric):
    result.numeric[..., q] = features.steps(column, numbers_of(column))
  return result


def why_refused(
    features: Features, schema: schema_lib.Schema, row: Mapping[str, Any]
) -> str | None:
  """What is wrong with a row, in words; None if it is not refused.

  The row has the raw value of each column, None or NaN where it is missing;
  scores alone are read.
  """
  for objective in schema.objectives:
    if objective.score and row[objective.score] is not None:
      score = float(row[objective.score])
      if features.are_refused(objective.name, np.asarray(score)):
        rule = ("must be finite" if np.isinf(score) else
                "were probabilities in the training rows")
        return f"column {objective.score!r}: scores {rule}, got {score:.6g}"
  return None


def inputs_of(schema: schema_lib.Schema) -> tuple[str, ...]:
  """Every column that is encoded, each once."""
  scores = [o.score for o in schema.objectives if o.score]
  return tuple(dict.fromkeys([*scores, *schema.categorical, *schema.numeric]))


def are_odd(scores: np.ndarray) -> np.ndarray:
  """`[N]` bool, True outside [0, 1] by more than rounding; a NaN is not."""
  return (scores < -_ROUNDING) | (scores > 1 + _ROUNDING)


def _numbers(column: str, values: np.ndarray) -> np.ndarray:
  """Any numbers as float64, missing ones as NaN."""
  if values.dtype.kind == "M":
    return _milliseconds(values)
  if values.dtype.kind in "biuf":
    return values.astype(np.float64)
  if values.dtype.kind == "O":
    for kind in set(map(type, values.flat)) - {type(None)}:
      if not issubclass(kind, _NUMBERS):
        raise wrong_kind(column, kind.__name__, "numbers")
    return as_floats(column, values)
  raise wrong_kind(column, str(values.dtype), "numbers")


def _milliseconds(dates: np.ndarray) -> np.ndarray:
  """Dates `[...]` as float64 milliseconds since 1970, missing ones NaN."""
  whole = dates.astype("datetime64[ms]")
  # What is finer is cut off, as Arrow does, also before 1970.
  is_cut = (whole < dates) & (dates < np.datetime64(0, "ms"))
  return np.where(np.isnat(dates), np.nan, whole.astype(np.int64) + is_cut)


def wrong_kind(column: str, got: str, fitted: str) -> schema_lib.DataError:
  return schema_lib.DataError(
      f"column {column!r} holds {got}, which is not what the features were "
      f"fitted on: {fitted}.")
