"""Rows with the outputs that a trained model gave them, to be replayed."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Golden(NamedTuple):
  """What one function is given and must answer."""

  inputs: dict[str, np.ndarray]
  outputs: dict[str, np.ndarray]


def to_arrays(golden: Mapping[str, Golden]) -> dict[str, np.ndarray]:
  """Golden rows of functions by flat names.

  >>> rows = Golden({"a": np.zeros(1)}, {"b": np.ones(1)})
  >>> list(to_arrays({"score": rows}))
  ['score/inputs/a', 'score/outputs/b']
  >>> from_arrays(to_arrays({"score": rows})) == {"score": rows}
  True
  """
  return {f"{name}/{kind}/{key}": array for name, rows in golden.items()
          for kind, arrays in rows._asdict().items()
          for key, array in arrays.items()}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Golden]:
  """The inverse of `to_arrays`; ValueError if the names are others."""
  result: dict[str, Golden] = {}
  for path, array in arrays.items():
    name, kind, key = path.split("/", 2)
    rows = result.setdefault(name, Golden({}, {}))
    if kind not in Golden._fields:
      raise ValueError(f"unknown array {path}")
    getattr(rows, kind)[key] = array
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
