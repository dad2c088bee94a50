"""The CPU's own forms of this room, where they are built, and their choice.

Every operation of this room has a pure form, made of JAX operations, that
serves all platforms. `kernel.cc` holds faster forms for the CPU. Which one
runs is decided when a computation is lowered: on a CPU the kernel if it is
built, elsewhere and in exported artefacts the pure form.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import ctypes
import functools
import importlib.util
import math
from typing import Any
import warnings

import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir
import jax.numpy as jnp

# A jit cache keeps what was traced inside `disabled()` apart from the rest.
_disabled = jax.make_user_context(False)
_OPERATIONS: list[str] = []


def backends() -> dict[str, str]:
  """Which form of each operation is active on the default backend.

  Returns:
    From the name of an operation to "kernel" (the C++ form of the CPU) or
    "pure" (made of JAX operations).

  >>> sorted(backends())
  ['deviation', 'isotonic', 'soft_rank', 'sort_lists']
  """
  form = "pure"
  if jax.default_backend() == "cpu" and available() and not _disabled.value:
    form = "kernel"
  return dict.fromkeys(_OPERATIONS, form)


@contextlib.contextmanager
def disabled() -> Iterator[None]:
  """What is traced inside uses the pure forms on every platform."""
  with _disabled(True):
    yield


def library_path() -> str | None:
  """The built kernel, beside this file."""
  found = importlib.util.find_spec("harmonrank_jax.ordering._kernel")
  return None if found is None else found.origin


@functools.cache
def available() -> bool:
  """Whether the CPU kernel is built and fits; loads it."""
  path = library_path()
  if path is None:
    return False
  try:
    library = ctypes.CDLL(path)
    for operation in _OPERATIONS:
      jax.ffi.register_ffi_target(
          _target(operation),
          jax.ffi.pycapsule(getattr(library, _target(operation))),
          platform="cpu")
  except (OSError, AttributeError, RuntimeError) as error:
    warnings.warn(
        f"The CPU kernel {path} cannot be used ({error}): build it anew with "
        "`make kernel`.", stacklevel=2)
    return False
  return True


def form_of(
    operation: str,
    *,
    results: tuple[Any, ...],
    linear: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """Makes a pure function an operation that also has a kernel.

  The function takes arrays, and keyword-only static values that the kernel
  does not need; it returns a tuple of arrays, all of the shape of its largest
  argument. The entries of int32 arrays are flat positions in arrays of that
  shape: `vmap` makes longer arrays, with positions moved on.

  Args:
    operation: its name; the kernel's symbol is `harmonrank_<operation>`.
    results: the dtype of each result; None for that of the first argument.
    linear: the result is linear in the first argument, by a symmetric matrix.
  """
  primitive = core.Primitive(_target(operation))
  primitive.multiple_results = True
  _OPERATIONS.append(operation)

  def decorate(pure):

    @functools.wraps(pure)
    def call(*args, **static):
      if _disabled.value or not available():
        return pure(*args, **static)
      return tuple(primitive.bind(*_vary_alike(args), **static))

    def abstract(*avals, **_):
      like = max(avals, key=lambda x: x.size)
      return [like.update(dtype=jnp.dtype(dtype or avals[0].dtype))
              for dtype in results]

    def batch(args, axes, **static):
      pairs = list(zip(args, axes, strict=True))
      size, = {x.shape[axis] for x, axis in pairs if axis is not None}
      args = [
          jnp.broadcast_to(x, (size, *x.shape)) if axis is None
          else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
      outputs = call(*(fold(x) for x in args), **static)
      return ([unfold(x, size) for x in outputs], [0] * len(outputs))

    def fold(x):
      x = x + offset(x) if x.dtype == jnp.int32 else x
      return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    def unfold(x, size):
      x = x.reshape(size, x.shape[0] // size, *x.shape[1:])
      return x - offset(x) if x.dtype == jnp.int32 else x

    def offset(x):
      step = math.prod(x.shape[1:])
      offsets = step * jnp.arange(x.shape[0], dtype=jnp.int32)
      return offsets.reshape(-1, *(1 for _ in x.shape[1:]))

    lower_pure = mlir.lower_fun(pure, multiple_results=True)
    lower_kernel = jax.ffi.ffi_lowering(_target(operation))

    def lower_on_cpu(ctx, *args, **static):
      if ctx.module_context.lowering_parameters.for_export:
        return lower_pure(ctx, *args, **static)
      return lower_kernel(ctx, *args)

    primitive.def_impl(
        lambda *args, **static: _jitted(primitive, **static)(*args))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, lower_pure)
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    if linear:

      def jvp(primals, tangents, **static):
        # The other arguments are integers, so this one has a tangent.
        tangent = ad.instantiate_zeros(tangents[0])
        return (primitive.bind(*primals, **static),
                list(call(tangent, *primals[1:], **static)))

      def transpose(cotangents, _, *others, **static):
        cotangent, = cotangents
        if isinstance(cotangent, ad.Zero):
          return [None] * (1 + len(others))
        return [*call(cotangent, *others, **static), *[None] * len(others)]

      ad.primitive_jvps[primitive] = jvp
      ad.primitive_transposes[primitive] = transpose
    return call

  return decorate


@functools.cache
def _jitted(primitive: core.Primitive, **static):
  return jax.jit(functools.partial(primitive.bind, **static))


def _vary_alike(args: tuple[jax.Array, ...]) -> list[jax.Array]:
  """Under `shard_map`, arrays that vary over the same axes of the mesh."""
  axes = [jax.typeof(x).mat.varying for x in args]
  every = frozenset().union(*axes)
  return [
      lax.pcast(x, tuple(every - own), to="varying") if every - own else x
      for x, own in zip(args, axes, strict=True)]


def _target(operation: str) -> str:
  return f"harmonrank_{operation}"
