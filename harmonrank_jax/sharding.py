"""Lists sharded over devices: the collectives that the library uses.

They run inside `jax.shard_map`, which binds the names of mesh axes. Ask
`jax.make_mesh` for `AxisType.Auto` by name: its default, Explicit, takes only
arrays that already lie as `in_specs` says.
"""

from typing import TypeVar

import jax
from jax import lax
import jax.numpy as jnp

Tree = TypeVar("Tree")
# The mesh axis, or axes, the first the slowest, as in `P(("a", "b"))`.
AxisName = str | tuple[str, ...]


def gather(
    shards: Tree,  # array or tree of arrays of any dtype, which is kept
    axis_name: AxisName | None,  # None: not sharded, returned as they are
    *,
    axis: int,  # of the arrays, that is sharded
) -> Tree:
  """Joins the shards that the devices hold; every device gets the whole.

  For a computation that needs the whole of an array (ranks need the whole
  list) and is cheap beside what made it (a model's scores): every device
  repeats the computation on the whole, and no other collective is needed. The
  derivative goes back to the device that holds the item.

  Gradients of a scalar loss of the gathered array. With parameters that all
  devices share, and `loss(params) = f(gather(model(params, items)))`:

  - `jax.grad` of the `jax.shard_map` of the loss, with `out_specs=P()`, is
    the gradient of the one-device loss.
  - `jax.grad` inside `jax.shard_map` is so too. (Each device's items give a
    part of it, and `shard_map` adds the parts, as the parameters are the same
    on all devices.)
  - `jax.grad` inside `jax.shard_map(check_vma=False)` must be followed by
    `lax.pmean` of the gradient of the parameters, as with any loss there.
    Before that it is the number of devices times the device's part.

  The cost is one all-gather an array on the way there, and none on the way
  back (with `check_vma=False` one reduce-scatter). Shards `[..., n, ...]` of
  one size become `[..., N, ...]`, N the sum of all n; pad with masked items.
  Raises NameError if `axis_name` is not an axis of an enclosing
  `jax.shard_map`.

  >>> import jax.numpy as jnp
  >>> from jax.sharding import AxisType, PartitionSpec as P
  >>> mesh = jax.make_mesh((1,), ("items",), axis_types=(AxisType.Auto,))
  >>> highest = lambda x: jnp.max(gather(x, "items", axis=0))
  >>> jax.jit(jax.shard_map(
  ...     highest, mesh=mesh, in_specs=P("items"), out_specs=P()))(
  ...         jnp.array([0.5, 2.0, 1.0]))
  Array(2., dtype=float32)
  """
  if axis_name is None:
    return shards
  lax.axis_size(axis_name)  # Raises; what follows would only assert.
  # With `check_vma`, types tell which arrays differ between devices, and
  # "invarying" says that these do not: the result may leave through `P()`,
  # and the cotangent is whole on every device, which takes its own slice.
  # Without the check nothing makes the cotangent whole: the reduce-scatter
  # adds the parts of all devices.
  to = "invarying" if _tracks_varying(axis_name) else "varying"
  return lax.all_gather(shards, axis_name, axis=axis, tiled=True, to=to)


def _tracks_varying(axis_name: AxisName) -> bool:
  """Whether the enclosing `shard_map` has `check_vma=True`."""
  same = jnp.zeros((), jnp.int32)
  differing = lax.pcast(same, axis_name, to="varying")
  return jax.typeof(differing) != jax.typeof(same)
