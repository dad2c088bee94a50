"""Determinants of `I + F^T Diag(w) F`, without a matrix of size N x N."""

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.diversity import directions


def make_dual(
    unit: jax.Array, log_weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The determinant, and the arrays that its gradient needs.

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
