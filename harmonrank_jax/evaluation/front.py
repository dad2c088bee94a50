"""Fronts of a trade-off: which points stand on one, and what it dominates.

A point is what one choice of weights reaches in M objectives, higher is
better in each.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

import harmonrank_jax.arrays as arrays

# Through each face of the box, where not exact: an error below 1e-3 of the
# volume in six dimensions, less of the ratio of two like fronts.
_RAYS_OF_FACE = 16_384


def pareto_mask(points: jax.Array) -> jax.Array:
  """Which points no other point dominates.

  One dominates another if it is nowhere worse and somewhere better: of equal
  points none dominates the other.

  Args:
    points: `[..., K, M]`, any real dtype.

  Returns:
    `[..., K]` bool. False for a point with a NaN, which dominates none.

  Raises:
    ValueError: if there is no axis of objectives, or none of points.

  >>> import jax.numpy as jnp
  >>> pareto_mask(jnp.array([[0.9, 0.6], [0.7, 0.8], [0.7, 0.6]]))
  Array([ True,  True, False], dtype=bool)
  """
  points = _checked(points, matters="order")
  one, other = points[..., :, None, :], points[..., None, :, :]
  dominated = jnp.all(other >= one, axis=-1) & jnp.any(other > one, axis=-1)
  is_known = ~jnp.any(jnp.isnan(points), axis=-1)
  return is_known & ~jnp.any(dominated, axis=-1)


def hypervolume(
    points: jax.Array,
    reference: jax.Array,
    *,
    upper: jax.Array | None = None,
    rays_of_face: int = _RAYS_OF_FACE,
) -> jax.Array:
  """Volume of what a set of points dominates, above a reference point.

  Exact up to M = 2. Beyond, rays go from the reference through points spread
  evenly over the box from there to `upper`. A ray that leaves the dominated
  part at a share s of its way to the end of the box adds s^M: a uniform point
  of the box on this ray is dominated with that probability. The error falls
  about as one over their number; as the rays are always the same, most of it is
  the same for two fronts in one box.

  Args:
    points: `[..., K, M]`, any real dtype. One with a NaN, or not above the
      reference in some objective, dominates nothing.
    reference: `[M]`, finite.
    upper: `[M]`, the corner of the box; what lies beyond it does not count.
      The largest value of each objective in `points`, over all axes, if None.
      Name one for fronts that are compared in several calls.
    rays_of_face: beyond M = 2, through each of M faces; a power of two.

  Returns:
    `[...]` float32 (float64 for float64 points), at least 0 and at most the
    volume of the box.

  Raises:
    ValueError: if the shapes do not fit, or the rays are no power of two.

  References:
    Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative
    case study and the strength Pareto approach", IEEE Trans. Evol. Comput.
    1999, for the measure; Deng and Zhang, "Approximating hypervolume and
    hypervolume contributions using polar coordinate", ibid. 2019, for rays.

  >>> import jax.numpy as jnp
  >>> front = jnp.array([[1.0, 0.5], [0.5, 1.0]])
  >>> hypervolume(front, jnp.zeros(2))
  Array(0.75, dtype=float32)
  """
  dtype = _checked(points).dtype
  points, reference, upper = _near(points, reference, upper)
  points = _checked(points).astype(dtype)
  *lead, num_points, size = points.shape
  reference = arrays.floats(reference, "reference").astype(dtype)
  if upper is None:
    upper = jnp.nanmax(points.reshape(-1, size), axis=0)
  upper = arrays.floats(upper, "upper").astype(dtype)
  for name, corner in (("reference", reference), ("upper", upper)):
    if corner.shape != (size,):
      raise ValueError(f"{name} has shape {corner.shape}; points of shape "
                       f"{points.shape} need ({size},).")
  if rays_of_face < 1 or rays_of_face & (rays_of_face - 1):
    raise ValueError(
        f"rays_of_face must be a power of two, got {rays_of_face}.")
  sides = jnp.maximum(jnp.nan_to_num(upper - reference), 0)
  row = lambda x: x.reshape((1,) * (points.ndim - 1) + x.shape)
  # In units of the box.
  places = (points - row(reference)) / row(
      jnp.where(sides > 0, sides, 1))
  is_known = ~jnp.any(jnp.isnan(places), axis=-1, keepdims=True)
  places = jnp.where(is_known, jnp.clip(places, 0, 1), 0)
  share_of = (_share_of_plane if size <= 2
              else _share_by_rays(size, rays_of_face))
  # One front after the other: all rays of many would not fit into memory.
  shares = lax.map(share_of, places.reshape(-1, num_points, size))
  return shares.reshape(lead) * jnp.prod(sides)


def _near(points: Any, reference: Any, upper: Any) -> tuple[Any, Any, Any]:
  """The same less the reference, in 64 bits, where all are on the host.

  Numbers of 32 bits stay as they are: the cast loses nothing of them.
  """
  points, corner = arrays.read(points), arrays.read(reference)
  arrays.floats(corner, "reference")  # Names it if it is not of numbers.
  if upper is not None:
    upper = arrays.read(upper)
    arrays.floats(upper, "upper")
  is_on_host = not any(
      isinstance(x, jax.Array) for x in (points, corner, upper))
  if not is_on_host or points.dtype.itemsize < 8 or (
      corner.shape != points.shape[-1:]):
    return points, reference, upper
  corner = corner.astype(np.float64)
  return (points - corner, np.zeros_like(corner),
          None if upper is None else upper - corner)


def _share_of_plane(places: jax.Array) -> jax.Array:
  """Exact share of the unit square, or line, dominated by `[K, M]`."""
  if places.shape[1] == 1:
    return jnp.max(places)
  across, up = places[jnp.argsort(-places[:, 0])].T
  # From the right: every point adds what is left of it, higher than so far.
  height = lax.cummax(up)
  return jnp.sum(across * jnp.diff(height, prepend=0))


def _share_by_rays(
    size: int, rays_of_face: int
) -> Callable[[jax.Array], jax.Array]:
  """From `[K, M]` to the share of the unit cube dominated."""
  from scipy.stats import qmc  # Slow to import.

  # In the middle of the cells of the net: 0 is no end of a ray.
  places_of_ends = qmc.Sobol(size - 1, scramble=False).random_base2(
      rays_of_face.bit_length() - 1) + 0.5 / rays_of_face
  slopes_of_rays = 1 / np.concatenate([
      np.insert(places_of_ends, face, 1.0, axis=1) for face in range(size)])

  def share(places):
    slopes = jnp.asarray(slopes_of_rays, places.dtype)
    reached = slopes[:, :1] * places[None, :, 0]
    for m in range(1, size):
      reached = jnp.minimum(reached, slopes[:, m:m + 1] * places[None, :, m])
    return jnp.mean(jnp.max(reached, axis=1)**size)

  return share


def _checked(
    points: jax.Array, *, matters: arrays.Matters = "values"
) -> jax.Array:
  points = arrays.floats(points, "points", matters=matters)
  if points.ndim < 2 or not points.shape[-1] or not points.shape[-2]:
    raise ValueError(
        f"points has shape {points.shape}; expected [..., K, M], neither 0.")
  return points
