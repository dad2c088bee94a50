"""An exported function at a few sizes, each compiled once.

Arrays of any size are padded to the smallest bucket that holds them, and rows
beyond the largest are taken in pieces: nothing is compiled for another size. On
a CPU the pieces are small, and larger buckets are not used.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import threading

import jax
from jax import export
import numpy as np

from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import manifest as manifest_lib

# Rows that networks compute at once on a CPU, at most. What they keep of more
# rows on the way is beyond its cache, and beyond 32 MB the allocator of the C
# library gets it anew from the system at every call.
_CPU_ROWS = 1024


class RequestError(schema_lib.DataError):
  """Arrays that an artefact cannot serve; one line."""


def smallest(buckets: Sequence[int], size: int) -> int | None:
  """The smallest bucket that holds a size; None if none does.

  >>> smallest((1, 8, 64), 9), smallest((1, 8, 64), 65)
  (64, None)
  """
  return next((bucket for bucket in buckets if bucket >= size), None)


def used_on(
    backend: str, buckets: tuple[int, ...], rows_each: int = 1
) -> tuple[int, ...]:
  """The buckets that are used on a backend of JAX.

  >>> used_on("tpu", (1, 512, 4096)), used_on("cpu", (1, 512, 4096))
  ((1, 512, 4096), (1, 512))
  >>> used_on("cpu", (1, 8), rows_each=512)
  (1,)
  """
  if backend != "cpu":
    return buckets
  return tuple(
      b for b in buckets if b * rows_each <= _CPU_ROWS) or buckets[:1]


class Buckets:
  """An exported function with its parameters on the device.

  May be called from several threads. `compiled` lists the sizes of the axes
  in the order of compilation.
  """

  def __init__(
      self, signature: manifest_lib.Signature, exported: export.Exported,
      parameters: Mapping[str, jax.Array],
  ):
    """Nothing is compiled before the first call or `warm_up`."""
    self.signature = signature
    self.compiled: list[tuple[int, ...]] = []
    self._call = exported.call
    self._parameters = dict(parameters)
    self._fields = {field.name: field for field in signature.inputs}
    self._executables: dict[tuple[int, ...], jax.stages.Compiled] = {}
    self._lock = threading.Lock()

  def warm_up(self) -> None:
    """Compiles and calls every bucket."""
    buckets = self.signature.buckets
    for rest in itertools.product(
        *(buckets[axis] for axis in buckets if axis != "b")):
      for size in self.batch_sizes(*rest):
        sizes = dict(zip(buckets, (size, *rest), strict=True))
        arrays = {name: np.zeros(_shape(field, sizes), field.dtype)
                  for name, field in self._fields.items()}
        self._run_bucket((size, *rest), arrays)

  def batch_sizes(self, num_candidates: int = 1) -> tuple[int, ...]:
    """The buckets of b that are used here, with a bucket of candidates."""
    # Inputs of the networks in front are named after their stages.
    has_network = any("." in name for name in self._fields)
    return used_on(jax.default_backend(), self.signature.buckets["b"],
                   num_candidates if has_network else 1)

  def __call__(
      self, inputs: Mapping[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Calls the function on arrays of any number of rows b.

    Args:
      inputs: one array of every input, of the dtype and shape that the
        signature says, with the same b and n everywhere.

    Returns:
      One array of every output, of these b and n.

    Raises:
      RequestError: if an array is missing, too many, or of another dtype or
        shape, or n is beyond the largest bucket.
    """
    sizes = self._sizes(inputs)
    buckets = self.signature.buckets
    rest = tuple(
        self._bucket(axis, sizes[axis]) for axis in buckets if axis != "b")
    batch_sizes = self.batch_sizes(*rest)
    parts = []
    for start, stop in _pieces(sizes["b"], batch_sizes[-1]):
      bucket = smallest(batch_sizes, stop - start)
      assert bucket is not None
      padded_sizes = dict(zip(buckets, (bucket, *rest), strict=True))
      padded = {name: _padded(
          inputs[name][start:stop] if field.shape[:1] == ("b",)
          else inputs[name], _shape(field, padded_sizes))
                for name, field in self._fields.items()}
      outputs = self._run_bucket(tuple(padded_sizes.values()), padded)
      parts.append(self._cut(outputs, sizes | {"b": stop - start}))
    if not parts:
      return {field.name: np.zeros(_shape(field, sizes), field.dtype)
              for field in self.signature.outputs}
    if len(parts) == 1:
      return parts[0]
    return {field.name: np.concatenate([part[field.name] for part in parts])
            for field in self.signature.outputs}

  def _sizes(self, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The size of every axis, after a check of all arrays."""
    name = self.signature.name
    if inputs.keys() != self._fields.keys():
      missing = sorted(self._fields.keys() - inputs.keys())
      other = sorted(inputs.keys() - self._fields.keys())
      raise RequestError(
          f"{name}: {'no' if missing else 'unknown'} input "
          f"{', '.join(missing or other)}; the inputs are "
          f"{', '.join(self._fields)}.")
    sizes: dict[str, int] = {}
    for field in self.signature.inputs:
      array = inputs[field.name]
      if array.dtype != field.dtype or array.ndim != len(field.shape) or any(
          found != (sizes.setdefault(wanted, found)
                    if isinstance(wanted, str) else wanted)
          for found, wanted in zip(array.shape, field.shape, strict=True)):
        wanted = ", ".join(
            f"{size} = {sizes[size]}" if size in sizes else str(size)
            for size in field.shape)
        raise RequestError(
            f"{name}: input {field.name} must be {field.dtype} of shape "
            f"({wanted}), got {array.dtype} of shape {array.shape}.")
    return sizes

  def _bucket(self, axis: str, size: int) -> int:
    buckets = self.signature.buckets[axis]
    bucket = smallest(buckets, size)
    if bucket is None:
      raise RequestError(
          f"{self.signature.name}: {size} candidates, and this artefact takes "
          f"{buckets[-1]} at most; send fewer, or export with larger "
          "--candidate_sizes.")
    return bucket

  def _run_bucket(
      self, sizes: tuple[int, ...], arrays: dict[str, np.ndarray]
  ) -> dict[str, jax.Array]:
    executable = self._executables.get(sizes)
    if executable is None:
      with self._lock:  # One thread compiles, and the others wait for it.
        executable = self._executables.get(sizes)
        if executable is None:
          executable = jax.jit(self._call).lower(
              self._parameters, arrays).compile()
          self._executables[sizes] = executable
          self.compiled.append(sizes)
    return executable(self._parameters, arrays)

  def _cut(
      self, outputs: dict[str, jax.Array], sizes: dict[str, int]
  ) -> dict[str, np.ndarray]:
    """Outputs without their padding, in memory of their own."""
    arrays = jax.device_get(outputs)
    return {field.name: np.array(
        arrays[field.name][tuple(map(slice, _shape(field, sizes)))])
            for field in self.signature.outputs}


def _shape(
    field: manifest_lib.Field, sizes: Mapping[str, int]
) -> tuple[int, ...]:
  return tuple(sizes[size] if isinstance(size, str) else size
               for size in field.shape)


def _padded(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """An array with zeros after its end along every axis."""
  if array.shape == shape:
    return array
  result = np.zeros(shape, array.dtype)
  result[tuple(map(slice, array.shape))] = array
  return result


def _pieces(size: int, largest: int) -> Iterator[tuple[int, int]]:
  """The first and last + 1 row of every piece."""
  for start in range(0, size, largest):
    yield start, min(start + largest, size)
