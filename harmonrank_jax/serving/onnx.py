"""A scoring function as an ONNX model, for servers that do not run JAX.

The function is traced to its jaxpr, and each operation becomes the ONNX nodes
of the same meaning; what depends on parameters alone is computed here. That
covers the networks of this library (dense layers, embeddings, gates, attention
over few tokens), row by row; anything else is refused by name.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.data import schema as schema_lib

_OPSET = 18  # Of 2022: older servers read it.
_BATCH = "b"

# One operation of JAX, one node of ONNX.
_ALIKE = {
    "abs": "Abs", "add": "Add", "add_any": "Add", "and": "And",
    "ceil": "Ceil", "copy": "Identity", "div": "Div", "eq": "Equal",
    "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual",
    "gt": "Greater", "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid",
    "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg",
    "not": "Not", "or": "Or", "pow": "Pow", "sign": "Sign", "sqrt": "Sqrt",
    "stop_gradient": "Identity", "sub": "Sub", "tanh": "Tanh",
}
_REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin",
               "reduce_sum": "ReduceSum"}
# Functions inside the function, and where their jaxpr is.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr",
          "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def convert(
    function: Callable[[Mapping[str, Any], Mapping[str, Any]],
                       Mapping[str, jax.Array]],
    parameters: Mapping[str, Any],
    inputs: Sequence[Any],
) -> bytes:
  """The bytes of an ONNX model with the parameters inside.

  The same function and parameters give the same bytes.

  Args:
    function: of parameters and inputs, both by name; gives outputs by name.
    parameters: arrays by name; constants of the model.
    inputs: fields with `name`, `dtype` and `shape`; a size "b" is the number of
      rows, which stays open. One input at least has rows.

  Raises:
    DataError: if the package onnx is not installed, or the function has an
      operation for which no ONNX is known here.
  """
  try:
    import onnx
  except ModuleNotFoundError:
    raise schema_lib.DataError(
        "ONNX needs the package onnx: pip install 'harmonrank_jax[onnx]'."
    ) from None
  (batch,) = export.symbolic_shape(_BATCH)
  shapes = {
      field.name: jax.ShapeDtypeStruct(
          tuple(batch if size == _BATCH else size for size in field.shape),
          jnp.dtype(field.dtype)) for field in inputs}
  closed, outputs = jax.make_jaxpr(function, return_shape=True)(
      parameters, shapes)
  graph = _Graph(onnx, batch)
  names = sorted(shapes)  # The order in which JAX flattens a dict.
  graph.batch_from(shapes)
  constants = [np.asarray(array) for array in jax.tree.leaves(parameters)]
  results = graph.inline(closed, [*constants, *names])
  nodes = [*graph.nodes, *(
      onnx.helper.make_node("Identity", [graph.named(result)], [name])
      for name, result in zip(sorted(outputs), results, strict=True))]
  info = lambda name, array: onnx.helper.make_tensor_value_info(
      name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(array.dtype)),
      [size if isinstance(size, int) else str(size) for size in array.shape])
  model = onnx.helper.make_model(
      onnx.helper.make_graph(
          nodes, "score", [info(*entry) for entry in shapes.items()],
          [info(*entry) for entry in sorted(outputs.items())],
          graph.constants),
      producer_name="harmonrank_jax", ir_version=9,
      opset_imports=[onnx.helper.make_opsetid("", _OPSET)])
  onnx.checker.check_model(model)
  return model.SerializeToString(deterministic=True)


class _Graph:
  """Nodes and constants of a model that is being made.

  A value is an array, if it is known already, or else the name of one.
  """

  def __init__(self, onnx: Any, batch: Any):
    """Starts an empty graph; `batch` is the symbol of the number of rows."""
    self._onnx = onnx
    self._batch = batch
    self._count = 0
    self._num_rows = ""
    self.nodes: list[Any] = []
    self.constants: list[Any] = []

  def batch_from(self, inputs: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Reads the number of rows, `[1]` int64, from the first input with any."""
    name, place = next(
        (name, place) for name in sorted(inputs)
        for place, size in enumerate(inputs[name].shape)
        if not isinstance(size, int))
    self._num_rows = self.node("Shape", name, start=place, end=place + 1)

  def node(self, kind: str, *values: Any, **attributes: Any) -> str:
    """Adds a node of one result and gives its name."""
    self._count += 1
    result = f"{kind}_{self._count}"
    self.nodes.append(self._onnx.helper.make_node(
        kind, [self.named(value) for value in values], [result],
        name=result, **attributes))
    return result

  def named(self, value: Any) -> str:
    """The name of a value; an array becomes a constant."""
    if isinstance(value, str):
      return value
    self._count += 1
    name = f"constant_{self._count}"
    self.constants.append(
        self._onnx.numpy_helper.from_array(np.asarray(value), name))
    return name

  def inline(self, closed: Any, values: Sequence[Any]) -> list[Any]:
    """Adds the operations of a jaxpr; values of its results."""
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, map(np.asarray, closed.consts),
                     strict=True))
    known.update(zip(jaxpr.invars, values, strict=True))
    read = lambda atom: (
        np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val")
        else known[atom])
    for equation in jaxpr.eqns:
      given = [read(atom) for atom in equation.invars]
      known.update(zip(equation.outvars, self._results(equation, given),
                       strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  def _results(self, equation: Any, values: list[Any]) -> list[Any]:
    kind = equation.primitive.name
    if kind in _CALLS:
      inner = equation.params[_CALLS[kind]]
      return self.inline(inner, values)
    is_open = any(not isinstance(size, int) for variable in equation.outvars
                  for size in variable.aval.shape)
    is_known = not any(isinstance(value, str) for value in values)
    if is_known and not is_open and kind != "dim_as_value":
      found = equation.primitive.bind(
          *map(jnp.asarray, values), **equation.params)
      return [np.asarray(array) for array in (
          found if equation.primitive.multiple_results else [found])]
    if kind in _ALIKE:
      return [self.node(_ALIKE[kind], *values)]
    if kind in _REDUCTIONS:
      axes = np.asarray(equation.params["axes"], np.int64)
      return [self.node(_REDUCTIONS[kind], values[0], axes, keepdims=0)]
    rule = getattr(self, f"_{kind}", None)
    if rule is None:
      raise schema_lib.DataError(
          f"the function has an operation {kind}, which is not turned into "
          "ONNX; export it without --to=onnx.")
    return [rule(equation, *values)]

  # Rules: an equation and its values in, a value out.

  def _convert_element_type(self, equation, value):
    dtype = np.dtype(equation.params["new_dtype"])
    return self.node(
        "Cast", value, to=self._onnx.helper.np_dtype_to_tensor_dtype(dtype))

  def _ne(self, equation, *values):
    return self.node("Not", self.node("Equal", *values))

  def _select_n(self, equation, which, *cases):
    return self.node("Where", which, cases[1], cases[0])

  def _log1p(self, equation, value):
    return self.node("Log", self.node("Add", value, np.float32(1)))

  def _expm1(self, equation, value):
    return self.node("Sub", self.node("Exp", value), np.float32(1))

  def _rsqrt(self, equation, value):
    return self.node("Reciprocal", self.node("Sqrt", value))

  def _square(self, equation, value):
    return self.node("Mul", value, value)

  def _integer_pow(self, equation, value):
    return self.node("Pow", value, np.float32(equation.params["y"]))

  def _is_finite(self, equation, value):
    return self.node("Not", self.node(
        "Or", self.node("IsNaN", value), self.node("IsInf", value)))

  def _clamp(self, equation, low, value, high):
    return self.node("Min", self.node("Max", value, low), high)

  def _concatenate(self, equation, *values):
    return self.node("Concat", *values, axis=equation.params["dimension"])

  def _stack(self, equation, *values):
    axis = equation.params["axis"]
    place = np.asarray([axis], np.int64)
    return self.node("Concat", *(
        self.node("Unsqueeze", value, place) for value in values), axis=axis)

  def _transpose(self, equation, value):
    return self._permuted(value, equation.params["permutation"])

  def _reshape(self, equation, value, *_):
    return self._reshaped(value, equation.outvars[0].aval.shape)

  _squeeze = _expand_dims = _reshape

  def _broadcast_in_dim(self, equation, value, *_):
    shape = equation.outvars[0].aval.shape
    before = equation.invars[0].aval.shape
    ones: list[Any] = [1] * len(shape)
    for place, size in zip(
        equation.params["broadcast_dimensions"], before, strict=True):
      ones[place] = size
    if tuple(ones) != tuple(before):
      value = self._reshaped(value, ones)
    if tuple(ones) == tuple(shape):
      return value
    # 1 keeps an axis of any size.
    return self.node("Expand", value, self._sizes(
        [1 if size == had else size
         for size, had in zip(shape, ones, strict=True)]))

  def _gather(self, equation, operand, places):
    numbers = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    depth = equation.invars[1].aval.ndim - 1
    taken = tuple(numbers.start_index_map)
    sizes = [1 if axis in taken else size for axis, size in enumerate(shape)]
    if (len(taken) != 1 or tuple(numbers.collapsed_slice_dims) != taken
        or numbers.operand_batching_dims
        or list(equation.params["slice_sizes"]) != sizes):
      raise schema_lib.DataError(
          "the function takes elements by more than one index, which is not "
          "turned into ONNX; export it without --to=onnx.")
    axis = taken[0]
    places = self._reshaped(places, equation.invars[1].aval.shape[:-1])
    result = self.node("Gather", operand, places, axis=axis)
    # ONNX puts what was taken in the place of the axis; JAX says where the
    # others go.
    rank = len(shape) - 1 + depth
    others = [*range(axis), *range(axis + depth, rank)]
    inner = list(range(axis, axis + depth))
    offsets = dict(zip(numbers.offset_dims, others, strict=True))
    order = [offsets[i] if i in offsets else inner.pop(0) for i in range(rank)]
    return self._permuted(result, order)

  def _dot_general(self, equation, left, right):
    (contracted, batched) = equation.params["dimension_numbers"]
    shapes = [variable.aval.shape for variable in equation.invars]
    free = [[axis for axis in range(len(shape))
             if axis not in inner and axis not in outer]
            for shape, inner, outer in zip(
                shapes, contracted, batched, strict=True)]
    orders = ([*batched[0], *free[0], *contracted[0]],
              [*batched[1], *contracted[1], *free[1]])
    one_each = all(len(axes) == 1 for axes in (*contracted, *free))
    plain = not batched[0] and len(contracted[0]) == 1
    if one_each or plain:
      left, right = map(self._permuted, (left, right), orders)
      if not one_each:  # One matrix, for any number of free axes.
        width = math.prod(shapes[1][axis] for axis in free[1])
        right = self._reshaped(
            right, (shapes[1][contracted[1][0]], width))
        if not free[0]:
          left = self._reshaped(left, (1, shapes[0][contracted[0][0]]))
      result = self.node("MatMul", left, right)
      return result if one_each else self._reshaped(
          result, equation.outvars[0].aval.shape)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    spelt: list[dict[int, str]] = [{}, {}]
    for axes in (batched, contracted):
      for pair in zip(*axes, strict=True):
        letter = next(letters)
        for names, axis in zip(spelt, pair, strict=True):
          names[axis] = letter
    for names, axes in zip(spelt, free, strict=True):
      names.update((axis, next(letters)) for axis in axes)
    terms = ["".join(names[axis] for axis in range(len(shape)))
             for names, shape in zip(spelt, shapes, strict=True)]
    result = "".join([*(spelt[0][axis] for axis in (*batched[0], *free[0])),
                      *(spelt[1][axis] for axis in free[1])])
    return self.node(
        "Einsum", left, right, equation=f"{','.join(terms)}->{result}")

  # What the rules share.

  def _sizes(self, shape: Sequence[Any]) -> Any:
    """A shape as int64, some of it known when rows are there."""
    parts = [np.asarray([size], np.int64) if isinstance(size, int)
             else self._rows_times(size) for size in shape]
    return (self.node("Concat", *parts, axis=0)
            if any(isinstance(part, str) for part in parts)
            else np.concatenate(parts))

  def _rows_times(self, size: Any) -> str:
    """`[1]` int64, a size that is a multiple of the number of rows."""
    share = size // self._batch
    if not isinstance(share, int) or size != share * self._batch:
      raise schema_lib.DataError(
          f"the function has an axis of size {size}, which is no multiple of "
          "the number of rows; export it without --to=onnx.")
    return self.node("Mul", self._num_rows, np.asarray([share], np.int64))

  def _permuted(self, value: Any, order: Sequence[int]) -> Any:
    if list(order) == list(range(len(order))):
      return value
    if not isinstance(value, str):
      return np.transpose(value, order)
    return self.node("Transpose", value, perm=list(order))

  def _reshaped(self, value: Any, shape: Sequence[Any]) -> Any:
    if not isinstance(value, str):
      return np.reshape(value, shape)
    if 0 in shape:  # Nothing is left to tell the rows by.
      return self.node("Reshape", value, self._sizes(shape), allowzero=1)
    # -1 is what is left: the axis of the rows.
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return self.node("Reshape", value, np.asarray(sizes, np.int64))
