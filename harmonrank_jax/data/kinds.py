"""Types of columns: what files of one log have in common, and what is read.

Files by different writers hold the same column in different types. Where one
type holds all their values, the log has that one.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def is_text(kind: pa.DataType) -> bool:
  """Whether a column holds text, dictionary-encoded or not."""
  kind = _value_type(kind)
  return (pa.types.is_string(kind) or pa.types.is_large_string(kind)
          or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
  """Whether a column holds integers or floats."""
  return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def is_whole(kind: pa.DataType) -> bool:
  """Whether a column holds integers, decimals without a fraction included."""
  return pa.types.is_integer(kind) or (
      pa.types.is_decimal(kind) and kind.scale == 0)


def is_moment(kind: pa.DataType) -> bool:
  """Whether a column holds dates, with or without a time of the day."""
  return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def is_list(kind: pa.DataType) -> bool:
  """Whether a column holds lists."""
  return (pa.types.is_list(kind) or pa.types.is_large_list(kind)
          or pa.types.is_fixed_size_list(kind))


def common(kinds: list[pa.DataType]) -> pa.DataType | None:
  """The type that holds the values of all, or None if there is none.

  Integers meet in 64 bits, numbers of any kind in float64, texts as plain
  text, moments in milliseconds, and lists by what they hold; a column of
  missing values alone has any type.

  >>> common([pa.int8(), pa.uint32()]), common([pa.float32(), pa.int64()])
  (DataType(int64), DataType(double))
  >>> common([pa.int64(), pa.string()]) is None
  True
  """
  known = {kind for kind in kinds if not pa.types.is_null(kind)}
  if len(known) <= 1:
    return next(iter(known), pa.null())
  known = {_value_type(kind) for kind in known}
  if len(known) == 1:
    return known.pop()
  every = lambda *accepted: all(
      any(accepts(kind) for accepts in accepted) for kind in known)
  if every(is_text):
    return (pa.string() if every(pa.types.is_string) else pa.large_string())
  if every(pa.types.is_decimal):
    return pa.decimal256(76, max(kind.scale for kind in known))
  if every(pa.types.is_unsigned_integer):
    return pa.uint64()
  if every(is_whole, pa.types.is_boolean):
    return pa.int64()
  if every(is_number, pa.types.is_decimal, pa.types.is_boolean):
    return pa.float64()
  if every(is_moment):
    zones = {getattr(kind, "tz", None) is not None for kind in known}
    if len(zones) == 1:
      return pa.timestamp("ms", tz="UTC" if zones.pop() else None)
  if every(is_list):
    inner = common([kind.value_type for kind in known])
    return None if inner is None else pa.large_list(inner)
  return None


def read_as(kind: pa.DataType) -> pa.DataType:
  """The type of a column as it is read.

  Decimals are read as integers or float64, moments as milliseconds since 1970;
  dictionaries of anything but text, and views, as what they stand for.
  """
  if is_moment(kind):
    return pa.int64()
  if pa.types.is_decimal(kind):
    return pa.int64() if kind.scale == 0 else pa.float64()
  if pa.types.is_dictionary(kind) and (
      kind.value_type not in (pa.string(), pa.large_string())):
    return read_as(kind.value_type)
  if pa.types.is_string_view(kind):
    return pa.large_string()
  return kind


def convert(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
  """The column in a type of `common` or `read_as`.

  Raises an ArrowException where an integer does not fit.
  """
  if column.type == kind:
    return column
  column = plain(column)
  if is_moment(column.type):
    # What is finer than a millisecond is cut off.
    column = pc.cast(
        pc.cast(column, pa.timestamp("ms"), safe=False), pa.int64())
  # Floats lose digits.
  return pc.cast(column, kind, safe=pa.types.is_integer(kind))


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
  """The column without dictionary encoding."""
  if pa.types.is_dictionary(column.type):
    return column.cast(column.type.value_type)
  return column


def numbers_of(column: pa.ChunkedArray) -> np.ndarray:
  """A column as float64, missing as NaN; integers beyond 2^53 are rounded."""
  return pc.cast(column, pa.float64(), safe=False).to_numpy()


def named(values: list[str | None]) -> pa.DataType:
  """The type of values that names of folders spell: whole, a day, or text."""
  known = [value for value in values if value is not None]
  spelled = lambda form: known and all(
      re.fullmatch(form, value) for value in known)
  # What begins with a zero is a code, and would not be spelled so again.
  if spelled(r"0|-?[1-9]\d{0,17}"):
    return pa.int64()
  if spelled(r"\d{4}-\d\d-\d\d"):
    try:
      pa.array(known).cast(pa.date32())
      return pa.date32()
    except pa.ArrowException:
      pass  # As the 31st of February.
  return pa.string()


def _value_type(kind: pa.DataType) -> pa.DataType:
  return kind.value_type if pa.types.is_dictionary(kind) else kind
