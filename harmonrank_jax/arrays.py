"""The door by which arrays enter the library: none loses what it says.

JAX keeps 32 bits of what NumPy hands over (64 with x64 on): wider integers wrap
without a word, and large floats that are close become equal. So every public
function takes its arrays in by one of these, each with the argument's name for
the errors:

  numbers     labels and whatever may be bool, integer or float
  floats      what is computed with; `matters` says what the function uses
  relative    floats and the largest of each list, of which they are differences
  ids         lists, users, clusters: only equality matters
  integers    positions, categories and counts
  flags       masks

What is not a JAX array (NumPy, lists) is read on the host in all its bits:
checked, factorised, or subtracted in 64 bits before it is cast. A JAX array has
its bits already, and passes by its dtype alone. So does an argument of a
function under `jax.jit`: JAX has cast it before the library sees it. Wide ids
and scores are brought in outside of `jit`, by the caller; the relevance of
slates as the pair that `relative` makes:

  >>> import numpy as np
  >>> users = np.array([1, 1, 2**32 + 1])
  >>> ids(users, "users")
  Array([0, 0, 1], dtype=int32)
  >>> floats(10**12 + np.array([3, 1, 2]), "times", matters="differences")
  Array([ 0., -2., -1.], dtype=float32)
"""

from typing import Any
from typing import Literal
from typing import NamedTuple

import jax
from jax import dtypes
import jax.numpy as jnp
import numpy as np

# What a function uses of its floats: the numbers, their differences within a
# list (ranks that are soft), or their order and ties (ranks).
Matters = Literal["values", "differences", "order"]
_NUMBERING = ", as by np.unique(values, return_inverse=True)[1]"


class Relative(NamedTuple):
  """Floats `top + below`: what is near the largest keeps its digits."""

  below: jax.Array  # [..., N]
  top: jax.Array  # [..., 1]


def float_dtype(*given: Any) -> Any:
  """The dtype to compute in: float64 if any dtype has 64 bits, else float32."""
  is_wide = any(jnp.dtype(dtype).itemsize >= 8 for dtype in given)
  return jnp.dtype(dtypes.canonicalize_dtype(
      jnp.float64 if is_wide else jnp.float32))


def numbers(values: Any, name: str, *, exact: bool = False) -> jax.Array:
  """Real numbers in their dtype; integers that JAX would wrap become floats.

  With `exact` these raise a ValueError instead, for what may be ids.
  """
  array = _real(read(values), name)
  if isinstance(array, jax.Array):
    return array
  if array.dtype.kind in "iu" and not _is_within(
      array, np.iinfo(dtypes.canonicalize_dtype(array.dtype))):
    if exact:
      raise ValueError(
          f"{name} has integers of more than 32 bits: number them{_NUMBERING}, "
          "or turn on jax_enable_x64.")
    array = array.astype(np.float64)
  return _to_jax(array)


def floats(
    values: Any, name: str, *, matters: Matters = "values", where: Any = None
) -> jax.Array:
  """Real numbers as float32, or float64 for 64 bits with x64 on.

  Args:
    values: `[..., N]`.
    name: of the argument.
    matters: "values"; or "differences": if the cast would lose digits, the
      largest valid number of each list is subtracted before; or "order": if it
      would, the numbers are replaced by others of the same order and ties.
    where: a mask that broadcasts to the values, for "differences".

  Raises:
    ValueError: if values are not real numbers.
  """
  if matters == "differences":
    return relative(values, name, where).below
  array = _real(read(values), name)
  dtype = float_dtype(array.dtype)
  if isinstance(array, jax.Array):
    return array.astype(dtype)
  if matters == "order" and not _is_exact(array, dtype):
    array, dtype = _same_order(array), np.float32
  return _to_jax(array, dtype)


def relative(values: Any, name: str, where: Any = None) -> Relative:
  """Differences to the largest valid number of each list, and that number.

  Where the cast loses nothing, and for JAX arrays, these are the values and 0.
  What is finite stays finite. A `Relative` is returned as it is.
  """
  if isinstance(values, Relative):
    return values
  array = _real(read(values), name)
  dtype = float_dtype(array.dtype)
  if isinstance(array, jax.Array) or not array.ndim or _is_exact(array, dtype):
    result = floats(array, name)
    return Relative(result, jnp.zeros((*result.shape[:-1], 1), dtype))
  is_number = valid = np.isfinite(array)
  # A mask of a traced function has no values yet.
  if where is not None and not isinstance(where, jax.core.Tracer):
    valid = valid & _mask(where, array.shape)
  below, top = _below_top(array, valid)
  largest = float(jnp.finfo(dtype).max)
  below = np.where(is_number, np.clip(below, -largest, largest), array)
  return Relative(_to_jax(below, dtype),
                  _to_jax(np.clip(top, -largest, largest), dtype))


def ids(values: Any, name: str) -> jax.Array:
  """Integers of which only equality matters, at most 32 bits (64 with x64 on).

  Wide ones are numbered by their rank.
  """
  array = _whole(read(values), name)
  if isinstance(array, jax.Array):
    return array
  if not _is_within(array, np.iinfo(np.int32)):
    array = np.unique(array, return_inverse=True)[1].reshape(array.shape)
    array = array.astype(np.int32)
  return _to_jax(array)


def integers(values: Any, name: str) -> jax.Array:
  """Integers as int32; those beyond its range become its ends."""
  array = _whole(read(values), name)
  host: Any = jnp if isinstance(array, jax.Array) else np
  ends, own = np.iinfo(np.int32), np.iinfo(array.dtype)
  if own.max > ends.max:
    array = host.minimum(array, array.dtype.type(ends.max))
  if own.min < ends.min:
    array = host.maximum(array, array.dtype.type(ends.min))
  return jnp.asarray(array, jnp.int32)


def flags(values: Any, name: str) -> jax.Array:
  """A mask as bool: numbers other than 0 are True."""
  return jnp.asarray(_real(read(values), name).astype(bool))


def read(values: Any) -> Any:
  """A JAX array as it is; anything else as a NumPy array, in all its bits."""
  if isinstance(values, jax.Array):
    return values
  holds_some = isinstance(values, list | tuple) and any(
      isinstance(x, jax.Array) for x in jax.tree.leaves(values))
  if holds_some or hasattr(values, "__jax_array__"):
    return jnp.asarray(values)
  return np.asarray(values)


def _real(array: Any, name: str) -> Any:
  """The array, if it holds real numbers or bool."""
  if jnp.issubdtype(array.dtype, jnp.complexfloating):
    raise ValueError(f"{name} must be real, got {array.dtype}.")
  if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == np.bool_):
    raise ValueError(f"{name} must be numbers, got {array.dtype}.")
  return array


def _whole(array: Any, name: str) -> Any:
  """The array, if it holds integers."""
  if isinstance(array, np.ndarray) and array.dtype == np.float64 and (
      not array.size):
    return array.astype(np.int32)  # As NumPy reads an empty list.
  if not jnp.issubdtype(array.dtype, jnp.integer):
    is_number = array.dtype == np.bool_ or jnp.issubdtype(
        array.dtype, jnp.number)
    hint = "" if is_number else f": number them{_NUMBERING}"
    raise ValueError(f"{name} must be integers, got {array.dtype}{hint}.")
  return array


def _mask(where: Any, shape: tuple[int, ...]) -> np.ndarray:
  """The mask on the host, in a shape."""
  mask = np.asarray(flags(where, "where"))
  try:
    return np.broadcast_to(mask, shape)
  except ValueError:
    raise ValueError(f"where has shape {mask.shape}, which does not broadcast "
                     f"to {shape}.") from None


def _to_jax(array: np.ndarray, dtype: Any = None) -> jax.Array:
  with np.errstate(over="ignore"):
    return jnp.asarray(array, dtypes.canonicalize_dtype(dtype or array.dtype))


def _is_within(array: np.ndarray, ends: Any) -> bool:
  return not array.size or bool(
      ends.min <= array.min() and array.max() <= ends.max)


def _is_exact(array: np.ndarray, dtype: Any) -> bool:
  """Whether a float dtype holds every number."""
  if np.can_cast(array.dtype, dtype) or not array.size:
    return True
  if array.dtype.kind in "iu":
    most = 2 ** (jnp.finfo(dtype).nmant + 1)
    return bool(-most <= array.min() and array.max() <= most)
  with np.errstate(over="ignore"):
    cast = array.astype(dtype).astype(array.dtype)
  return np.array_equal(cast, array, equal_nan=True)


def _same_order(array: np.ndarray) -> np.ndarray:
  """Float32 numbers of the same order and ties; NaN stays NaN."""
  places = np.unique(array, return_inverse=True)[1].reshape(array.shape)
  # Consecutive float32 numbers have consecutive bits: from the smallest that
  # is normal there are more than an array can have items.
  first = np.finfo(np.float32).tiny.view(np.int32)
  codes = (places.astype(np.int32) + first).view(np.float32)
  return np.where(np.isnan(array), np.float32(np.nan), codes)


def _below_top(
    array: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Differences `[..., N]` to the top `[..., 1]` of each list, in 64 bits."""
  is_integer = array.dtype.kind in "iu"
  least = np.iinfo(array.dtype).min if is_integer else -np.inf
  top = np.max(array, axis=-1, keepdims=True, initial=least, where=valid)
  top = np.where(valid.any(axis=-1, keepdims=True), top, array.dtype.type(0))
  if not is_integer:
    with np.errstate(invalid="ignore", over="ignore"):
      return array - top, top
  # The difference of 64-bit integers may need 65 bits; its size has its own 64.
  above, below = np.maximum(array, top), np.minimum(array, top)
  size = above.astype(np.uint64) - below.astype(np.uint64)
  return np.where(array < top, -1.0, 1.0) * size, top
