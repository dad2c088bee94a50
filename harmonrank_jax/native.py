"""The CPU's own forms of operations, where they are built, and their choice.

Every operation of a room has a pure form, made of JAX operations, that serves
all platforms. The `native.cc` of the room holds faster forms for the CPU.
Which one runs is decided when a computation is lowered: on a CPU the native
form if it is built, elsewhere and in exported artefacts the pure form.

An operation is a primitive of its own, because `jax.ffi.ffi_call` lowers to
the foreign call on every platform, exports included. Of JAX this needs more
than its documented interface: the rule tables of `jax.interpreters` (`ad`,
`batching`, `mlir`), `for_export` among the parameters of a lowering, and
`mat.varying` of an array type. `form_of` registers the rules, each made by
one function below; a new release of JAX that moves any of these breaks the
import or the tests of this module, not a result.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import ctypes
import functools
import importlib.util
import math
from typing import Any
from typing import NamedTuple
import warnings

import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir
import jax.numpy as jnp

# A user context is a part of the key of jit caches: what was traced inside
# `disabled()` is not run outside of it.
_disabled = jax.make_user_context(False)
# What the library has, of all rooms: it is loaded once, when the first of them
# is needed, and a room may be imported later.
_OPERATIONS = ("sort_lists", "soft_rank", "deviation", "isotonic", "greedy")


def backends() -> dict[str, str]:
  """Which form of each operation is active on the default backend.

  Returns:
    From the name of an operation to "native" (the C++ form of the CPU) or
    "pure" (made of JAX operations).

  >>> sorted(backends())
  ['deviation', 'greedy', 'isotonic', 'soft_rank', 'sort_lists']
  """
  form = "pure"
  if jax.default_backend() == "cpu" and available() and not _disabled.value:
    form = "native"
  return dict.fromkeys(_OPERATIONS, form)


@contextlib.contextmanager
def disabled() -> Iterator[None]:
  """What is traced inside uses the pure forms on every platform."""
  with _disabled(True):
    yield


def library_path() -> str | None:
  """The built library of native forms, beside this file."""
  spec = importlib.util.find_spec("harmonrank_jax._native")
  return None if spec is None else spec.origin


@functools.cache
def available() -> bool:
  """Loads the native library once; False if it is missing or does not match."""
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
        f"The native library {path} cannot be used ({error}): build it anew "
        "with `make native`.", stacklevel=2)
    return False
  return True


def slots(*dtypes: Any) -> "Layout":
  """Arguments and results are flat arrays of one size, or empty.

  Results have the shape of the first argument that is not empty, and dtypes as
  given (None for that of the first argument). The entries of int32 arrays are
  positions in arrays of that shape: `vmap` makes longer arrays, with positions
  moved on.
  """
  def results(*avals, **_):
    like = next((x for x in avals if x.shape != (0,)), avals[0])
    return [(like.shape, dtype or avals[0].dtype) for dtype in dtypes]

  def offset(x):
    step = math.prod(x.shape[1:])
    offsets = step * jnp.arange(x.shape[0], dtype=jnp.int32)
    return offsets.reshape(-1, *(1 for _ in x.shape[1:]))

  def fold(args, is_mapped, size):
    args = [x if mapped else jnp.broadcast_to(x, (size, *x.shape))
            for x, mapped in zip(args, is_mapped, strict=True)]
    return [_merged(x + offset(x) if x.dtype == jnp.int32 else x)
            for x in args]

  def unfold(x, size):
    x = x.reshape(size, x.shape[0] // size, *x.shape[1:])
    return x - offset(x) if x.dtype == jnp.int32 else x

  return Layout(results, fold, unfold)


def rows(results: Callable[..., list[tuple[tuple[int, ...], Any]]]) -> "Layout":
  """The first axis of arguments and results is rows that know no other.

  An argument of one row is shared by all; `vmap` makes more rows, and keeps
  what it does not map shared.
  """
  def fold(args, is_mapped, size):
    pairs = list(zip(args, is_mapped, strict=True))
    count = max(x.shape[1 if mapped else 0] for x, mapped in pairs)

    def folded(x, mapped):
      if not mapped and x.shape[0] == 1:
        return x
      shape = x.shape[2 if mapped else 1:]
      return _merged(jnp.broadcast_to(x, (size, count, *shape)))

    return [folded(x, mapped) for x, mapped in pairs]

  def unfold(x, size):
    return x.reshape(size, x.shape[0] // size, *x.shape[1:])

  return Layout(results, fold, unfold)


class Layout(NamedTuple):
  """How arguments and results of an operation lie; how `vmap` folds them."""

  # From avals and static values to the shape and dtype of each result.
  results: Callable[..., list[tuple[tuple[int, ...], Any]]]
  # From arguments, which of them are mapped (along their first axis) and the
  # size of the map, to the arguments of one call.
  fold: Callable[..., list[jax.Array]]
  # From a result of that call, and the size, to that of the map.
  unfold: Callable[[jax.Array, int], jax.Array]


def _merged(x: jax.Array) -> jax.Array:
  return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def form_of(
    operation: str,  # the native form is `harmonrank_<operation>`
    *,
    layout: Layout,
    linear: bool = False,  # in the first argument, by a symmetric matrix
    attributes: Callable[..., dict[str, Any]] = lambda **_: {},
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """Makes a pure function an operation that also has a native form.

  The function takes arrays, and keyword-only static values, which `attributes`
  turns into what the native form needs; it returns a tuple of arrays.
  """
  primitive = core.Primitive(_target(operation))
  primitive.multiple_results = True
  assert operation in _OPERATIONS, operation

  def decorate(pure):

    @functools.wraps(pure)
    def call(*args, **static):
      if _disabled.value or not available():
        return pure(*args, **static)
      return tuple(primitive.bind(*_vary_alike(args), **static))

    lower, lower_on_cpu = _lowerings(operation, pure, attributes)
    mlir.register_lowering(primitive, lower)
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    primitive.def_impl(functools.partial(_run, primitive))
    primitive.def_abstract_eval(functools.partial(_abstract, layout))
    batching.primitive_batchers[primitive] = functools.partial(
        _batch, call, layout)
    if linear:
      ad.primitive_jvps[primitive] = functools.partial(_jvp, primitive, call)
      ad.primitive_transposes[primitive] = functools.partial(_transpose, call)
    return call

  return decorate


def _lowerings(
    operation: str, pure: Callable[..., Any],
    attributes: Callable[..., dict[str, Any]],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """What stands in a compiled program of any platform, and of the CPU."""
  lower_pure = mlir.lower_fun(pure, multiple_results=True)
  lower_native = jax.ffi.ffi_lowering(_target(operation))

  def lower_on_cpu(ctx, *args, **static):
    # An artefact may run where the library of native forms is not.
    if ctx.module_context.lowering_parameters.for_export:
      return lower_pure(ctx, *args, **static)
    return lower_native(ctx, *args, **attributes(**static))

  return lower_pure, lower_on_cpu


def _abstract(layout: Layout, *avals, **static) -> list[Any]:
  """Shapes and dtypes of the results; the rest is as of the first argument."""
  return [avals[0].update(shape=shape, dtype=jnp.dtype(dtype))
          for shape, dtype in layout.results(*avals, **static)]


def _batch(
    call: Callable[..., Any], layout: Layout, args, axes, **static
) -> tuple[list[jax.Array], list[int]]:
  """`vmap` as one call of more slots or rows; results map their first axis."""
  is_mapped = [axis is not None for axis in axes]
  args = [jnp.moveaxis(x, axis, 0) if mapped else x
          for x, axis, mapped in zip(args, axes, is_mapped, strict=True)]
  size, = {x.shape[0]
           for x, mapped in zip(args, is_mapped, strict=True) if mapped}
  if size:
    outputs = call(*layout.fold(args, is_mapped, size), **static)
    results = [layout.unfold(x, size) for x in outputs]
  else:
    # Nothing can be folded or unfolded, but shapes must still be right.
    one = (jax.ShapeDtypeStruct(x.shape[1:] if mapped else x.shape, x.dtype)
           for x, mapped in zip(args, is_mapped, strict=True))
    results = [jnp.zeros((0, *shape), dtype)
               for shape, dtype in layout.results(*one, **static)]
  return results, [0] * len(results)


def _jvp(
    primitive: core.Primitive, call: Callable[..., Any], primals, tangents,
    **static,
) -> tuple[list[jax.Array], list[jax.Array]]:
  """Derivative of what is linear in argument 0."""
  # The other arguments are integers, so this one has a tangent.
  tangent = ad.instantiate_zeros(tangents[0])
  return (primitive.bind(*primals, **static),
          list(call(tangent, *primals[1:], **static)))


def _transpose(call: Callable[..., Any], cotangents, _, *others, **static):
  """Transpose of what is its own transpose in argument 0."""
  cotangent, = cotangents
  if isinstance(cotangent, ad.Zero):
    return [None] * (1 + len(others))
  return [*call(cotangent, *others, **static), *[None] * len(others)]


def _run(primitive: core.Primitive, *args, **static):
  """The operation on arrays that are there, compiled."""
  # Without jit the compiled call would come back here, for ever.
  with jax.disable_jit(False):
    return _jitted(primitive, **static)(*args)


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
