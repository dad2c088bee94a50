"""The likelihood of sets of positives under a DPP.

In `theta` (through alpha) and in the logarithm of the kernel's scale the
process is an exponential family, whose statistics are the sum of the relevance
of a set and its size: the log-likelihood is concave. `theta.py` maximises it.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
from harmonrank_jax.diversity import arguments
from harmonrank_jax.diversity import directions


class Lists(NamedTuple):
  """Lists of N items, checked; invalid items are masked in every array."""

  unit: jax.Array  # [..., N, D], unit features; leading axes of 1 if shared
  relevance: jax.Array  # [..., N], 0 for invalid items
  positives: jax.Array  # [..., N] bool, False for invalid items
  valid: jax.Array  # [..., N] bool
  # [..., N] bool, without features: similar to no other, so independent.
  alone: jax.Array


class Density(NamedTuple):
  """The likelihood of the positives under a process."""

  value: jax.Array  # [...], log P(Y) - log det S_Y
  diagonal: jax.Array  # [..., N], log of the diagonal factor of I + L
  rows: jax.Array  # [..., N, D], of the other factor
  inverse: jax.Array  # [..., D, D], inverse in the coordinates of the rows


def dpp_log_likelihood(
    features: jax.Array,
    relevance: jax.Array,
    positives: jax.Array,
    *,
    theta: jax.Array | float,
    log_scale: jax.Array | float = 0.0,
    where: jax.Array | None = None,
    ridge: jax.Array | float | None = None,
) -> jax.Array:
  """Log-probability that exactly the given items of a list are positive.

  With unit features F, `S = F F^T` and `alpha = theta / (2 (1 - theta))`,

    L = e^log_scale Diag(e^(alpha r)) S Diag(e^(alpha r))
    log P(Y) = log det L_Y - log det(I + L),

  the process whose most likely set of K items `greedy_dpp` approximates at the
  same theta. Unlike that set the probability depends on the zero of r: a
  constant added to r, like `log_scale`, sets the expected number of positives.
  An item that resembles no other is positive with odds `e^(2 alpha r +
  log_scale)`.

  No N x N matrix is formed: time O(N D^2), memory O(N D).

  Args:
    features: `[..., N, D]`, or `[N, D]` shared by all lists: of any length
      (their directions count). Items whose feature is 0 or not finite have
      none, as in `greedy_dpp`: they resemble no other.
    relevance: `[..., N]`, on a log scale if it comes from a probability. Items
      whose relevance is not finite are masked.
    positives: `[..., N]` bool, or 0 and 1: the set Y.
    theta: in [0, 1), a scalar or `[...]`.
    log_scale: log-scale of the kernel, a scalar or `[...]`.
    where: `[..., N]` bool, True = valid.
    ridge: rho in [0, 1] of `S = rho F F^T + (1 - rho) I`; None is 1. Below 1
      every set is possible; at 0 items are independent.

  Returns:
    `[...]`, float32 (float64 for float64 arguments). A list without positives
    has `-log det(I + L)`, a list without items 0. Without ridge, -inf for sets
    with more items than features have dimensions, or with an item whose
    squared residual beside the others is rounding (1e-5 or less, in float64
    1e-10). Differentiable in theta, log_scale, features and relevance; where
    the value is -inf, the gradient is that of its finite part. Without ridge,
    exponents `2 alpha r + log_scale` are at most 25 (60 in float64).

  Raises:
    ValueError: if shapes do not fit, or theta or ridge are static and out of
      range. Traced ones are clipped.

  References:
    Kulesza and Taskar 2012 (arXiv 1207.6083), section 2.2 for the probability,
    section 3.3 for the D x D dual of the normaliser. The ridge goes into the
    dual by the matrix determinant lemma.

  >>> import jax.numpy as jnp
  >>> log_p = dpp_log_likelihood(
  ...     jnp.eye(2), jnp.zeros(2), jnp.array([True, False]), theta=0.5)
  >>> print(f"{jnp.exp(log_p):.3f}")
  0.250
  """
  if isinstance(theta, (int, float)) and not 0 <= theta < 1:
    raise ValueError(f"theta must be in [0, 1), got {theta}.")
  lists = check_lists(features, relevance, positives, where)
  rho = check_ridge(ridge, lists.relevance.dtype)
  batch, dtype = lists.relevance.shape[:-1], lists.relevance.dtype
  theta = arguments.broadcast(jnp.asarray(theta, dtype), "theta", batch)
  log_scale = arguments.broadcast(
      jnp.asarray(log_scale, dtype), "log_scale", batch)
  # Not by clip, whose derivative at 0 is one half.
  theta = jnp.where(theta < 0, 0, theta)
  theta = jnp.minimum(theta, 1 - jnp.finfo(dtype).epsneg)
  exponents = (theta / (1 - theta))[..., None] * lists.relevance
  density = density_of(lists, exponents + log_scale[..., None], rho)
  return density.value + log_det_positives(lists, rho)


def check_lists(
    features: jax.Array,
    relevance: jax.Array,
    positives: jax.Array,
    where: jax.Array | None,
) -> Lists:
  """Checks arguments as those of `dpp_log_likelihood`, and masks items."""
  features, relevance, dtype = arguments.check_arrays(features, relevance)
  batch, num_items = relevance.shape[:-1], relevance.shape[-1]
  own = (*relevance.shape, *features.shape[-1:])
  if (features.ndim < 2 or features.shape not in (own, own[-2:])
      or not features.shape[-1]):
    raise ValueError(
        f"features has shape {features.shape}; relevance of shape "
        f"{relevance.shape} needs {(*relevance.shape, 'D')} or "
        f"{(num_items, 'D')}, D at least 1.")
  if features.shape != own:
    features = features.reshape((1,) * len(batch) + own[-2:])
  positives = arguments.broadcast(
      arrays.flags(positives, "positives"), "positives", relevance.shape)
  unit = directions.unit_features(features, dtype)
  valid = jnp.isfinite(relevance) & arguments.mask(where, relevance.shape)
  relevance = jnp.where(valid, relevance, 0).astype(dtype)
  return Lists(unit, relevance, positives & valid, valid,
               jnp.broadcast_to(jnp.all(unit == 0, axis=-1), valid.shape))


def check_ridge(
    ridge: jax.Array | float | None, dtype: jnp.dtype
) -> jax.Array | None:
  """The checked ridge as an array, clipped below 1; None for 1."""
  if isinstance(ridge, (int, float)) and not 0 <= ridge <= 1:
    raise ValueError(f"ridge must be in [0, 1], got {ridge}.")
  if ridge is None or (isinstance(ridge, (int, float)) and ridge == 1):
    return None
  return jnp.clip(jnp.asarray(ridge, dtype), 0, 1 - jnp.finfo(dtype).epsneg)


def density_of(
    lists: Lists, exponents: jax.Array, rho: jax.Array | None
) -> Density:
  """The likelihood for exponents x = `2 alpha r + log_scale`, `[..., N]`.

  `I + L = Diag(1 + (1 - rho) e^x) + rho (F e^(x/2)) (F e^(x/2))^T`; factoring
  the diagonal out leaves I plus a matrix of rank D. Items without features are
  on the diagonal alone, by `1 + e^x`.
  """
  if rho is None:
    exponents = jnp.minimum(exponents, largest_exponent(exponents.dtype))
    diagonal, log_weights = jnp.zeros_like(exponents), exponents
  else:
    diagonal = jax.nn.softplus(exponents + jnp.log1p(-rho))
    log_weights = jnp.log(rho) + exponents - diagonal
  diagonal = jnp.where(lists.alone, jax.nn.softplus(exponents), diagonal)
  log_det, rows, inverse = _make_dual(lists.unit, jnp.where(
      lists.valid & ~lists.alone, log_weights, -jnp.inf))
  sums = (jnp.where(lists.positives, exponents, 0)
          - jnp.where(lists.valid, diagonal, 0))
  return Density(jnp.sum(sums, axis=-1) - log_det, diagonal, rows, inverse)


def log_det_positives(lists: Lists, rho: jax.Array | None) -> jax.Array:
  """`log det S_Y`, `[...]`; -inf where the features are dependent."""
  positives = lists.positives & ~lists.alone  # The others' factors are 1.
  if rho is not None:
    # det((1 - rho) I + rho F F^T) of P items, by its dual.
    rest = jnp.log1p(-rho)
    count = jnp.sum(positives, axis=-1, dtype=jnp.int32)
    log_det, *_ = _make_dual(lists.unit, jnp.where(
        positives, jnp.log(rho) - rest, -jnp.inf))
    return count.astype(rest.dtype) * rest + log_det
  # More than D features are dependent: D places are enough for the positives,
  # in a shape that does not depend on their number.
  *_, num_items, num_features = lists.unit.shape
  num_slots = min(num_items, num_features)
  order = jnp.argsort(~positives, axis=-1, stable=True)[..., :num_slots]
  is_one = jnp.take_along_axis(positives, order, axis=-1)
  unit = jnp.broadcast_to(lists.unit, (*positives.shape, num_features))
  packed = jnp.take_along_axis(unit, order[..., None], axis=-2)
  _, left = directions.directions(
      jnp.where(is_one[..., None], packed, 0), None)
  is_left = is_one & (left > directions.tolerance(left.dtype))
  possible = jnp.sum(is_left, axis=-1) == jnp.sum(positives, axis=-1)
  total = jnp.sum(jnp.log(jnp.where(is_left, left, 1)), axis=-1)
  return jnp.where(possible, total, -jnp.inf)


def largest_exponent(dtype: jnp.dtype) -> float:
  """The limit beyond which smaller exponents are lost in rounding."""
  return 60.0 if dtype == jnp.float64 else 25.0


def _make_dual(
    unit: jax.Array, log_weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The determinant of `I + F^T Diag(w) F`, and what its gradient needs.

  From unit features F `[..., N, D]` and log w `[..., N]` (-inf leaves a row
  out) to the log-determinant `[...]`, rows `[..., N, D]`, and the inverse
  `[..., D, D]` in the coordinates of these rows.

  Weights can differ by many orders of magnitude, and rounding of the Gram
  matrix of the rows `sqrt(w) f` hides small ones. Therefore its factor only
  rescales the rows: the determinant is that of the factor times that of the
  Gram matrix of the rescaled rows, which is near I (shifted CholeskyQR2).
  """
  dtype = unit.dtype
  eye = jnp.eye(unit.shape[-1], dtype=dtype)
  eye = eye.reshape((1,) * (log_weights.ndim - 1) + eye.shape)
  rows = unit * jnp.exp(log_weights / 2)[..., None]
  gram = lax.stop_gradient(_gram(rows))
  # Large enough that rounding cannot make the matrix indefinite.
  shift = 4 * sum(unit.shape[-2:]) * jnp.finfo(dtype).eps * jnp.trace(
      gram, axis1=-2, axis2=-1)[..., None, None]
  whitening, log_det = _eliminate(gram + (1 + shift) * eye)
  whitening = jnp.swapaxes(whitening, -2, -1)
  rows = directions.einsum("...nd,...de->...ne", rows, whitening)
  rest, inverse = _log_det_and_inverse(_gram(whitening) + _gram(rows))
  return log_det + rest, rows, inverse


def _gram(rows: jax.Array) -> jax.Array:
  return directions.einsum("...nd,...ne->...de", rows, rows)


@jax.custom_jvp
def _log_det_and_inverse(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Of a positive definite matrix `[..., D, D]`; differentiable repeatedly."""
  whitening, log_det = _eliminate(matrix)
  return log_det, _gram(whitening)


@_log_det_and_inverse.defjvp
def _log_det_and_inverse_jvp(primals, tangents):
  (matrix,), (change,) = primals, tangents
  log_det, inverse = _log_det_and_inverse(matrix)
  return (log_det, inverse), (
      jnp.sum(inverse * change, axis=(-2, -1)),
      -directions.einsum("...ij,...jk,...kl->...il", inverse, change, inverse))


def _eliminate(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """W with `W A W^T = I` for A positive definite, and `log det A`.

  Gaussian elimination of A beside I, in matrix operations of the whole batch:
  two batched calls of LAPACK in one program can deadlock.
  """
  size = matrix.shape[-1]
  rows = jnp.arange(size).reshape((1,) * (matrix.ndim - 2) + (size,))
  eye = jnp.broadcast_to(jnp.eye(size, dtype=matrix.dtype), matrix.shape)

  def step(k, both):
    row = lax.dynamic_index_in_dim(both, k, both.ndim - 2)
    column = lax.dynamic_index_in_dim(both, k, both.ndim - 1)
    pivot = lax.dynamic_index_in_dim(row, k, both.ndim - 1)
    return both - jnp.where(rows[..., None] > k, column / pivot, 0) * row

  both = lax.fori_loop(
      0, size, step, jnp.concatenate([matrix, eye], axis=-1))
  pivots = jnp.diagonal(both, axis1=-2, axis2=-1)
  whitening = both[..., size:] / jnp.sqrt(pivots)[..., None]
  return whitening, jnp.sum(jnp.log(pivots), axis=-1)
