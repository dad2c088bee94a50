"""Rows with the outputs that a trained model gave them, to be replayed."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Golden(NamedTuple):
  """What one function is asked and must answer."""

  # Raw columns and further arguments, as `Bundle.score` and `Bundle.select`
  # take them; texts that are missing are None.
  columns: dict[str, np.ndarray]
  arguments: dict[str, np.ndarray]
  outputs: dict[str, np.ndarray]  # Of the exported function.


def to_arrays(golden: Mapping[str, Golden]) -> dict[str, np.ndarray]:
  """Golden rows of functions by flat names, without arrays of objects.

  >>> rows = Golden({"age": np.array(["18-24", None])}, {}, {})
  >>> list(to_arrays({"score": rows}))
  ['score/missing/columns/age', 'score/columns/age']
  >>> from_arrays(to_arrays({"score": rows}))["score"].columns["age"]
  array(['18-24', None], dtype=object)
  """
  result = {}
  for name, rows in golden.items():
    for kind, arrays in rows._asdict().items():
      for key, array in arrays.items():
        if array.dtype.kind == "O":
          missing = np.vectorize(lambda x: x is None, otypes=[bool])(array)
          result[f"{name}/missing/{kind}/{key}"] = missing
          array = np.where(missing, "", array).astype(str)
        result[f"{name}/{kind}/{key}"] = array
  return result


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Golden]:
  """The inverse of `to_arrays`; ValueError if the names are others."""
  result: dict[str, Golden] = {}
  for path in sorted(arrays):  # Texts before what is missing in them.
    name, kind, key = path.split("/", 2)
    rows = result.setdefault(name, Golden({}, {}, {}))
    if kind == "missing":
      kind, key = key.split("/", 1)
      texts = getattr(rows, kind)[key].astype(object)
      texts[arrays[path]] = None
      getattr(rows, kind)[key] = texts
    elif kind in Golden._fields:
      getattr(rows, kind)[key] = arrays[path]
    else:
      raise ValueError(f"unknown array {path}")
  return result


def difference(
    wanted: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], *,
    relative: float, absolute: float,
) -> str | None:
  """What differs by more than a tolerance, in words; None if nothing does.

  Whole numbers and missing values (NaN) must be the same.
  """
  if wanted.keys() != got.keys():
    return f"outputs {sorted(got)}, and {sorted(wanted)} were expected"
  for name, array in wanted.items():
    found = got[name]
    if (array.shape, array.dtype) != (found.shape, found.dtype):
      return (f"{name} is {found.dtype} of shape {found.shape}, and "
              f"{array.dtype} of shape {array.shape} was expected")
    if array.dtype.kind == "f":
      same = np.isclose(found, array, rtol=relative, atol=absolute,
                        equal_nan=True)
    else:
      same = found == array
    if not same.all():
      place = tuple(map(int, np.argwhere(~same)[0]))
      return (f"{name}{list(place)} is {found[place]}, and {array[place]} was "
              "expected")
  return None
