"""From the raw columns of rows or requests to the inputs of a function."""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import re
from typing import Any
from typing import NamedTuple

import numpy as np

import harmonrank_jax.arrays as arrays_lib
from harmonrank_jax.data import encoding
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import buckets
from harmonrank_jax.serving import manifest as manifest_lib


class Inputs(NamedTuple):
  """Inputs of a function for rows or requests of one shape."""

  arrays: dict[str, np.ndarray]
  shape: tuple[int, ...]  # Of the rows, or [B, N] or [N] of the candidates.
  is_served: np.ndarray  # Of this shape, False = refused or masked.


class Encoder:
  """How the columns of a function of an artefact become its inputs."""

  def __init__(
      self, signature: manifest_lib.Signature, manifest: Mapping[str, Any],
      vocabularies: Mapping[str, Any],
  ):
    """Takes the features of every stage that reads columns."""
    self._name = signature.name
    self._fields = {field.name: field for field in signature.inputs}
    self._request = manifest["request"]
    # All rows of `score` have all columns.
    once = set(self._request.get("columns") or ()
               if signature.name == "select" else ())
    # Per stage its features, and its roles of columns that every row or
    # candidate has, and of those that a request has once.
    self._stages = {}
    for name, schema in schemas_of(manifest, self._fields).items():
      features = encoding.features_from_json(vocabularies[name])
      self._stages[name] = (
          features, _part(schema, lambda column: column not in once),
          dataclasses.replace(
              _part(schema, lambda column: column in once),
              objectives=()))
    self._names = list(self._request.get("categories") or ())
    self._places_of = encoding.Features({"category": self._names}, {}, {})
    # Names of categories that are no text in the log are what Arrow writes.
    self._may_be_numbers = any(
        re.fullmatch(r"-?\d+|true|false", name) for name in self._names)

  def rows(
      self, columns: Mapping[str, Any], arguments: Mapping[str, Any]
  ) -> Inputs:
    """Inputs of `score`: columns are of rows of any shape `[...]`."""
    encoded = {
        name: encoding.encode_columns(features, schema, columns)
        for name, (features, schema, _) in self._stages.items()}
    shape = _common({f"columns of {name}": rows.is_refused
                     for name, rows in encoded.items()})
    arrays: dict[str, np.ndarray] = {}
    refused = np.zeros(shape, bool)
    for name, rows in encoded.items():
      refused |= rows.is_refused
      self._take(arrays, name, rows, shape, 1)
    self._argue(arrays, arguments, 0)
    self._check_whole(arrays)
    return Inputs(arrays, shape, ~refused)

  def candidates(
      self, columns: Mapping[str, Any], arguments: Mapping[str, Any]
  ) -> Inputs:
    """Inputs of `select`: columns are `[B, N, ...]`, or `[N, ...]` of one."""
    arguments = dict(arguments)
    given: dict[str, np.ndarray] = {}
    features = scores = None
    if "features" in self._fields:
      features = self._numbers(columns, "features_column", "features")
      if features.shape[-1:] == (0,):  # A list of no items has no width.
        features = features.reshape(
            *features.shape, int(self._fields["features"].shape[-1]))
      given["features"] = features[..., 0] if features.ndim else features
      features = np.where(np.isfinite(features), features, 0)
    if "scores" in self._fields:
      scores = given["scores"] = self._numbers(
          columns, "score_column", "score",
          np.float64 if "score_top" in self._fields else np.float32)
    encoded = {name: encoding.encode_columns(of, each, columns)
               for name, (of, each, _) in self._stages.items()}
    given |= {f"columns of {name}": rows.is_refused
              for name, rows in encoded.items() if rows.is_refused.ndim}
    category = self._request.get("category_column") or "category"
    if "category_ids" in self._fields:
      given[category] = encoding.as_array(
          category, self._column(columns, category))
    where = arguments.pop("where", None)
    if where is not None:
      where = given["where"] = self._converted("where", where, bool)
    shape = _common(given)
    if len(shape) not in (1, 2):
      raise buckets.RequestError(
          "candidates must be [N] of one request, or [B, N] of several; got "
          f"shape {shape}.")
    served = np.broadcast_to(True if where is None else where, shape).copy()
    batch = (1, shape[0]) if len(shape) == 1 else shape
    arrays: dict[str, np.ndarray] = {}
    for name, rows in encoded.items():
      self._take(arrays, name, rows, shape, 2)
      served &= ~rows.is_refused
      features_of, schema, shared = self._stages[name]
      if "window" in self._fields and f"{name}.scores" in self._fields:
        # A policy corrects one score, and cannot rank what lacks it.
        place = [objective.score for objective in schema.objectives].index(
            self._request["score_column"])
        served &= rows.has_score[..., place]
      once = encoding.encode_columns(features_of, shared, columns)
      if once.is_refused.shape not in ((), shape[:-1]):
        raise buckets.RequestError(
            f"columns of the request must be of shape {shape[:-1]}, got "
            f"{once.is_refused.shape}.")
      for kind in ("categorical", "numeric"):
        array = getattr(once, kind)
        arrays[f"{name}.request_{kind}"] = np.broadcast_to(
            array, (batch[0], array.shape[-1]))
    if scores is not None:
      served &= np.isfinite(scores)
      scores = np.broadcast_to(scores, shape)
      if "score_top" in self._fields:
        # As in training, scores that float32 does not hold are differences.
        below, top = arrays_lib.relative(scores, "score", served)
        scores = np.asarray(below)
        arrays["score_top"] = np.asarray(top).reshape(batch[0])
      arrays["scores"] = np.where(served, scores, 0).reshape(batch)
    if "log_value" in self._fields:
      value = columns.get("log_value", self._request.get("log_value"))
      if value is None:
        self._column(columns, "log_value")
      value = self._converted("log_value", value, np.float32)
      # The policy reads scores as probabilities.
      served &= np.isfinite(value) & ~encoding.are_odd(
          arrays["scores"].reshape(shape))
      arrays["log_value"] = np.broadcast_to(
          np.nan_to_num(value, posinf=0, neginf=0), shape).reshape(batch)
    if features is not None:
      arrays["features"] = np.broadcast_to(
          features, (*shape, features.shape[-1])).reshape(
              *batch, features.shape[-1])
    if "category_ids" in self._fields:
      arrays["category_ids"] = np.broadcast_to(
          self._places(given[category]), shape).reshape(batch)
    arrays["where"] = served.reshape(batch)
    self._argue(arrays, arguments, batch[0])
    self._check_whole(arrays)
    return Inputs(arrays, shape, served)

  def _take(
      self, arrays: dict[str, np.ndarray], name: str, rows: encoding.Encoded,
      shape: tuple[int, ...], num_axes: int,
  ) -> None:
    """Adds the arrays of a stage with one or two leading axes."""
    lead = shape if len(shape) == num_axes else (
        (1, *shape) if num_axes == 2 else (int(np.prod(shape)),))
    for kind in ("categorical", "numeric", "scores", "has_score"):
      if f"{name}.{kind}" in self._fields:
        array = getattr(rows, kind)
        arrays[f"{name}.{kind}"] = np.broadcast_to(
            array, (*shape, array.shape[-1])).reshape(
                *lead, array.shape[-1])

  def _argue(
      self, arrays: dict[str, np.ndarray], arguments: Mapping[str, Any],
      num_requests: int,
  ) -> None:
    """Adds what a request says beside its columns, or its default."""
    for name, value in arguments.items():
      key = "shown_features" if name == "shown" else name
      if value is not None and (key not in self._fields or key in arrays):
        raise buckets.RequestError(
            f"{self._name} of this artefact takes no {name}.")
    num_shown: dict[str, int] = {}
    for name, field in self._fields.items():
      if name in arrays:
        continue
      key = "shown" if name == "shown_features" else name
      value = arguments.get(key)
      if value is None:
        value = self._request.get(name)
      if value is None and name.startswith("shown_"):
        value = np.zeros((0, *field.shape[2:]), field.dtype)
      if value is None:
        raise buckets.RequestError(
            f"{self._name}: {key} must be given; the artefact has no default.")
      if name == "quotas":
        value = self._quotas(value)
      if name == "shown_categories":
        value = self._places(value)
      array = self._converted(key, value, np.dtype(field.dtype))
      self._check_range(key, array)
      shape = tuple(num_requests if isinstance(size, str) else size
                    for size in field.shape)
      if name.startswith("shown_"):
        array, num_shown[name] = _filled(key, array, field)
      try:
        arrays[name] = np.broadcast_to(array, shape)
      except ValueError:
        raise buckets.RequestError(
            f"{key} must be of shape {shape[1:]} or {shape}, got "
            f"{array.shape}.") from None
    if len(set(num_shown.values())) > 1:
      lengths = ", ".join(f"{key} {size}" for key, size in num_shown.items())
      raise buckets.RequestError(
          f"lists of what was shown must be of one length, got {lengths}.")

  def _places(self, names: Any) -> np.ndarray:
    """Places of categories by their names, -1 for none of the known."""
    array = encoding.as_array("category", names)
    values = array.ravel().tolist()
    if self._may_be_numbers:
      values = list(map(_written, values))
    return self._places_of.entries("category", values).reshape(array.shape) - 1

  def _quotas(self, value: Any) -> Any:
    """Quotas by the names of categories as `[C]`; others are the default."""
    if not isinstance(value, Mapping):
      return value
    value = {str(_written(name)): quota for name, quota in value.items()}
    if unknown := sorted(set(value) - set(self._names)):
      raise buckets.RequestError(
          f"quotas: unknown category {unknown[0]!r}"
          f"{schema_lib.nearest(unknown[0], self._names)}.")
    size = self._fields["quotas"].shape[-1]
    result = list(self._request.get("quotas") or [2**31 - 1] * int(size))
    for name, quota in value.items():
      result[self._names.index(name)] = quota
    return result

  def _numbers(
      self, columns: Mapping[str, Any], role: str, default: str,
      dtype: Any = np.float32,
  ) -> np.ndarray:
    name = self._request.get(role) or default
    return self._converted(name, self._column(columns, name), dtype)

  def _column(self, columns: Mapping[str, Any], name: str) -> Any:
    if name not in columns:
      raise buckets.RequestError(
          f"no column {name!r}{schema_lib.nearest(name, columns)}; given are "
          f"{', '.join(columns) or 'none'}.")
    return columns[name]

  def _converted(self, name: str, value: Any, dtype: Any) -> np.ndarray:
    array = encoding.as_array(name, value)
    dtype = np.dtype(dtype)
    kinds = {"b": "b", "i": "iu", "f": "iuf"}[dtype.kind]
    if array.dtype == object and dtype.kind == "f" and all(
        each is None or isinstance(each, (int, float, np.number))
        for each in array.flat):
      array = encoding.as_floats(name, array)
    if array.dtype.kind not in kinds and array.size:
      raise buckets.RequestError(
          f"{name} must hold {'whole ' * (dtype.kind == 'i')}"
          f"{'booleans' if dtype.kind == 'b' else 'numbers'}, got "
          f"{array.dtype}.")
    if dtype.kind == "i":
      array = np.clip(array, -1, 2**31 - 1)
    with np.errstate(over="ignore"):  # What is too large is infinite.
      return array.astype(dtype)

  def _check_range(self, name: str, array: np.ndarray) -> None:
    """Raises if values of an argument are out of their range."""
    if name == "theta":
      wanted, holds = "in [0, 1)", (array >= 0) & (array < 1)
    elif name == "quotas":
      wanted, holds = "at least 0", array >= 0
    elif name == "objective_weights":
      # Scores grow with them, and are float32, too.
      wanted = "from 0 to 1e30 and not all 0"
      holds = (array >= 0) & (array <= 1e30) & (
          np.atleast_1d(array) > 1e-30).any(-1, keepdims=True)
    elif name in ("requests_today", "since_last", "shown_age"):
      wanted, holds = "finite", np.isfinite(array)
    else:
      return
    if not holds.all():
      raise buckets.RequestError(
          f"{name} must be {wanted}, got {array.tolist()!r:.80}.")

  def _check_whole(self, arrays: dict[str, np.ndarray]) -> None:
    """Raises if the function takes what nothing above has made."""
    if missing := sorted(self._fields.keys() - arrays.keys()):
      raise buckets.RequestError(
          f"{self._name}: nothing was given for {', '.join(missing)}.")


def schemas_of(
    manifest: Mapping[str, Any], inputs: Collection[str]
) -> dict[str, schema_lib.Schema]:
  """By stage, what a function of these inputs reads of a row."""
  result = {}
  for stage in manifest["stages"]:
    name = stage["name"]
    if f"{name}.categorical" not in inputs:
      continue
    schema = schema_lib.schema_from_json(stage["schema"])
    if f"{name}.scores" not in inputs:  # Another stage predicts them.
      schema = dataclasses.replace(schema, objectives=tuple(
          dataclasses.replace(o, score=None) for o in schema.objectives))
    result[name] = schema
  return result


def stack(
    requests: Sequence[Mapping[str, Any]], *, once: Collection[str] = (),
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Requests of different numbers of candidates as arrays of one shape.

  Args:
    requests: B requests of the same columns: `[N, ...]` of candidates, or of
      `once` a single value.
    once: columns that a request has once.

  Returns:
    Columns `[B, N, ...]` or `[B]`, and `where` `[B, N]` bool, False in the
    padding.

  >>> columns, where = stack(
  ...     [{"age": 18, "x": [1, 2]}, {"age": 9, "x": [3]}], once=["age"])
  >>> columns["x"].tolist(), where.tolist()
  ([[1, 2], [3, 0]], [[True, True], [True, False]])
  """
  if not requests:
    raise buckets.RequestError("no requests to stack.")
  columns: dict[str, np.ndarray] = {}
  where = None
  for name in requests[0]:
    if any(name not in request for request in requests):
      raise buckets.RequestError(f"column {name!r} is not in every request.")
    arrays = [np.asarray(request[name]) for request in requests]
    if len({array.shape[1:] for array in arrays}) > 1 or len(
        {array.ndim for array in arrays}) > 1:
      raise buckets.RequestError(
          f"column {name!r} has shapes that do not fit each other: "
          f"{[array.shape for array in arrays]!r:.80}.")
    if len({array.dtype.kind in "OU" for array in arrays}) > 1:
      arrays = [array.astype(object) for array in arrays]
    if (arrays[0].ndim == 0) != (name in once):
      wanted = ("one value of the request" if name in once else
                "a list, of a value for each candidate")
      raise buckets.RequestError(f"column {name!r} must be {wanted}.")
    if name in once:
      columns[name] = np.stack(arrays)
      continue
    sizes = np.array([len(array) for array in arrays])
    valid = np.arange(sizes.max()) < sizes[:, None]
    if where is not None and (where.shape != valid.shape
                              or (where != valid).any()):
      raise buckets.RequestError(
          f"column {name!r} has another number of candidates than others of "
          "its request.")
    where = valid
    dtype = np.result_type(*arrays)
    columns[name] = np.full(
        (*valid.shape, *arrays[0].shape[1:]),
        None if dtype.kind == "O" else np.zeros((), dtype), dtype)
    columns[name][valid] = np.concatenate(arrays)
  if where is None:
    raise buckets.RequestError("no column has candidates.")
  return columns, where


def _written(value: Any) -> Any:
  """A number or boolean as Arrow writes it, as names of categories are."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float) and value.is_integer():
    value = int(value)  # As NumPy has whole numbers beside one that is missing.
  return str(value) if isinstance(value, int) else value


def _part(schema: schema_lib.Schema, takes: Any) -> schema_lib.Schema:
  """A schema with some of its profile columns."""
  return dataclasses.replace(
      schema, categorical=tuple(filter(takes, schema.categorical)),
      numeric=tuple(filter(takes, schema.numeric)))


def _common(arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
  try:
    return np.broadcast_shapes(*(array.shape for array in arrays.values()))
  except ValueError:
    shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
    raise buckets.RequestError(
        f"shapes do not fit each other: {shapes}.") from None


def _filled(
    name: str, array: np.ndarray, field: manifest_lib.Field
) -> tuple[np.ndarray, int]:
  """What is said of items shown before, zeros for the rest; their number."""
  _, size, *rest = field.shape
  if rest and array.shape[-1:] == (0,):  # A list of no items has no width.
    array = array.reshape(*array.shape, *map(int, rest))
  axis = array.ndim - len(rest) - 1
  if axis not in (0, 1) or array.shape[axis + 1:] != tuple(rest) or (
      array.shape[axis] > int(size)):
    wanted = ", ".join(map(str, ("S", *rest)))
    raise buckets.RequestError(
        f"{name} must be of shape ({wanted}) or (B, {wanted}) with S at most "
        f"{size}, got {array.shape}.")
  if field.name == "shown_features":
    array = np.where(np.isfinite(array), array, 0)
  missing = [(0, 0)] * array.ndim
  missing[axis] = int(size) - array.shape[axis], 0
  return np.pad(array, missing), array.shape[axis]
