"""Learning theta from data: the likelihood of sets of positives under a DPP.

In `theta` (through alpha) and in the logarithm of the kernel's scale the
process is an exponential family, whose statistics are the sum of the relevance
of a set and its size: the log-likelihood is concave, its maximum is unique, and
there expected relevance and expected size equal the observed ones.
"""

from collections.abc import Callable
import functools
import math
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.diversity import arguments
from harmonrank_jax.diversity import directions
from harmonrank_jax.diversity import metrics

_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)

# The largest number of Newton steps; four to ten are usual.
_MAX_STEPS = 60
# Entries of feature arrays that are processed at a time, which bounds memory.
_CHUNK = 2**22


class ThetaFit(NamedTuple):
  """Maximum likelihood over lists; scalars.

  All but the counts are NaN if the likelihood has no finite maximum: no lists,
  no positives or only positives, relevance that is constant or separates all
  positives from all others, or (without ridge) sets as large as the rank.

  Attributes:
    theta: in [0, 1); 0 if the unbounded maximum is below 0, where less
      relevant items are positive more often.
    error: standard error of theta, if the model is true. At theta = 0 it is
      that of the maximum without the bound, which is too large.
    robust_error: standard error from the spread of the gradients of the lists
      (sandwich): valid for many independent lists, also if the model is wrong.
    log_scale: log-scale of the kernel, for `dpp_log_likelihood`.
    log_likelihood: value at the maximum, summed over lists.
    num_lists: int32, fitted lists, which have a valid item.
    num_skipped: int32, lists left out because the features of the positives
      are linearly dependent: without ridge their probability is 0 at any theta.
  """

  theta: jax.Array
  error: jax.Array
  robust_error: jax.Array
  log_scale: jax.Array
  log_likelihood: jax.Array
  num_lists: jax.Array
  num_skipped: jax.Array


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
      (their directions count). Items whose feature is 0 or not finite are
      masked, as in `greedy_dpp`.
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
  lists = _checked(features, relevance, positives, where)
  rho = _checked_ridge(ridge, lists.relevance.dtype)
  batch, dtype = lists.relevance.shape[:-1], lists.relevance.dtype
  theta = arguments.broadcast(jnp.asarray(theta, dtype), "theta", batch)
  log_scale = arguments.broadcast(
      jnp.asarray(log_scale, dtype), "log_scale", batch)
  # Not by clip, whose derivative at 0 is one half.
  theta = jnp.where(theta < 0, 0, theta)
  theta = jnp.minimum(theta, 1 - jnp.finfo(dtype).epsneg)
  exponents = (theta / (1 - theta))[..., None] * lists.relevance
  density = _density(lists, exponents + log_scale[..., None], rho)
  return density.value + _log_det_positives(lists, rho)


def fit_theta(
    features: jax.Array,
    relevance: jax.Array,
    positives: jax.Array,
    *,
    where: jax.Array | None = None,
    ridge: jax.Array | float | None = None,
) -> ThetaFit:
  """Fits theta and the kernel's scale to positives by maximum likelihood.

  Maximises the sum over lists of `dpp_log_likelihood` by Newton steps, under
  `theta >= 0`. The scale is fitted as well: without it theta would have to
  explain the number of positives, and would depend on the zero of r, which
  slates do not. Lists of any size and number of positives count, also those
  without positives (mask lists that were not seen). All lists share the scale:
  fit lists with very different rates of positives separately.

  Args:
    features: `[..., N, D]` or `[N, D]`, as in `dpp_log_likelihood`.
    relevance: `[..., N]`.
    positives: `[..., N]` bool, or 0 and 1.
    where: `[..., N]` bool, True = valid.
    ridge: as in `dpp_log_likelihood`; the same as for selection. Observed
      sets often hold near-copies, or more than D items, which need a ridge.

  Returns:
    `ThetaFit`, over the lists of all leading axes. It has no derivative.

  Raises:
    ValueError: if shapes do not fit, or ridge is static and out of range.

  References:
    Kulesza and Taskar 2012 (arXiv 1207.6083), section 4.2: with the quality of
    items log-linear in parameters the log-likelihood is concave. The error
    comes from the observed information by the delta method; the robust error
    is that of White 1982, "Maximum likelihood estimation of misspecified
    models".

  >>> import jax
  >>> import jax.numpy as jnp
  >>> features = jnp.eye(2)
  >>> relevance = jnp.tile(jnp.array([1.0, 0.0]), (8, 1))
  >>> positives = jnp.arange(8)[:, None] < jnp.array([[6, 2]])
  >>> print(f"{jax.jit(fit_theta)(features, relevance, positives).theta:.3f}")
  0.687
  """
  lists = _checked(features, relevance, positives, where)
  rho = _checked_ridge(ridge, lists.relevance.dtype)
  lists, rho = lax.stop_gradient((_flat(lists), rho))
  constant = _map_lists(lambda one: _log_det_positives(one, rho), lists)
  possible = constant > -jnp.inf
  is_list = jnp.any(lists.valid, axis=-1)
  counted = is_list & possible
  lists = lists._replace(
      positives=lists.positives & counted[:, None],
      valid=lists.valid & counted[:, None])
  num_lists = jnp.sum(counted, dtype=jnp.int32)

  # Standardised, so that the two parameters are nearly uncorrelated.
  dtype = lists.relevance.dtype
  num_items = jnp.sum(lists.valid, dtype=jnp.int32).astype(dtype)
  num_positives = jnp.sum(lists.positives, dtype=jnp.int32).astype(dtype)
  mean = lambda x: (
      jnp.sum(jnp.where(lists.valid, x, 0)) / jnp.maximum(num_items, 1))
  centre = mean(lists.relevance)
  spread = jnp.sqrt(mean((lists.relevance - centre)**2))
  # The spread of a constant relevance is rounding.
  is_constant = spread <= 1e-5 * jnp.abs(centre)
  spread = jnp.where(is_constant, 1, spread)
  lists = lists._replace(relevance=jnp.where(
      lists.valid & ~is_constant, (lists.relevance - centre) / spread, 0))
  log_odds = (jnp.log(num_positives + 1)
              - jnp.log(num_items - num_positives + 1))

  (slope, level), here, converged = _maximise(
      lists, rho, jnp.stack([jnp.zeros_like(log_odds), log_odds]))
  covariance = _inverse(
      jnp.where(converged, here.information, jnp.eye(2, dtype=dtype)))
  centred = jnp.where(
      counted[:, None],
      here.gradients - jnp.sum(here.gradients, axis=0, keepdims=True)
      / jnp.maximum(num_lists, 1), 0)
  scores = _einsum("bi,bj->ij", centred, centred)
  robust = _einsum("ij,jk,kl->il", covariance, scores, covariance)
  # slope = 2 alpha spread, theta = 2 alpha / (1 + 2 alpha).
  twice_alpha = slope / spread
  to_theta = 1 / (spread * (1 + twice_alpha)**2)
  defined = lambda x: jnp.where(converged, x, jnp.nan)
  return ThetaFit(
      theta=defined(twice_alpha / (1 + twice_alpha)),
      error=defined(to_theta * jnp.sqrt(covariance[0, 0])),
      robust_error=defined(
          to_theta * jnp.sqrt(jnp.maximum(robust[0, 0], 0))),
      log_scale=defined(level - twice_alpha * centre),
      log_likelihood=defined(
          here.value + jnp.sum(jnp.where(counted, constant, 0))),
      num_lists=num_lists,
      num_skipped=jnp.sum(is_list & ~possible, dtype=jnp.int32))


class _Lists(NamedTuple):
  """Checked arguments."""

  unit: jax.Array  # [..., N, D]; 1 for the leading axes if shared
  relevance: jax.Array  # [..., N], 0 where not valid
  positives: jax.Array  # [..., N] bool, valid
  valid: jax.Array  # [..., N] bool


class _Dual(NamedTuple):
  """The log-determinant of `I + F^T Diag(w) F`, and arrays for its gradient."""

  log_det: jax.Array  # [...]
  rows: jax.Array  # [..., N, D]
  inverse: jax.Array  # [..., D, D], inverse in the coordinates of the rows


class _Density(NamedTuple):
  """The likelihood of the positives under a process."""

  value: jax.Array  # [...], log P(Y) - log det S_Y
  diagonal: jax.Array  # [..., N], log of the diagonal factor of I + L
  dual: _Dual


def _checked(
    features: jax.Array,
    relevance: jax.Array,
    positives: jax.Array,
    where: jax.Array | None,
) -> _Lists:
  features, relevance = jnp.asarray(features), jnp.asarray(relevance)
  for name, array in (("features", features), ("relevance", relevance)):
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
      raise ValueError(f"{name} must be real, got {array.dtype}.")
  if not relevance.ndim:
    raise ValueError("relevance must have shape [..., N], got a scalar.")
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
      jnp.asarray(positives).astype(bool), "positives", relevance.shape)
  valid = jnp.isfinite(relevance)
  if where is not None:
    valid &= arguments.broadcast(
        jnp.asarray(where, bool), "where", relevance.shape)
  dtype = jnp.promote_types(
      jnp.promote_types(relevance.dtype, features.dtype), jnp.float32)
  unit = metrics.unit_features(features, dtype)
  valid &= jnp.any(unit != 0, axis=-1)
  relevance = jnp.where(valid, relevance, 0).astype(dtype)
  return _Lists(unit, relevance, positives & valid, valid)


def _checked_ridge(
    ridge: jax.Array | float | None, dtype: jnp.dtype
) -> jax.Array | None:
  """The ridge, clipped below 1 if traced; None for 1."""
  if isinstance(ridge, (int, float)) and not 0 <= ridge <= 1:
    raise ValueError(f"ridge must be in [0, 1], got {ridge}.")
  if ridge is None or (isinstance(ridge, (int, float)) and ridge == 1):
    return None
  return jnp.clip(jnp.asarray(ridge, dtype), 0, 1 - jnp.finfo(dtype).epsneg)


def _flat(lists: _Lists) -> _Lists:
  """The lists with one leading axis: `[B, N]`, and `[B or 1, N, D]`."""
  flat = lambda x, rank: x.reshape(
      math.prod(x.shape[:-rank]), *x.shape[-rank:])
  return _Lists(flat(lists.unit, 2), *(flat(x, 1) for x in lists[1:]))


def _map_lists(of_list: Callable[[_Lists], Any], lists: _Lists) -> Any:
  """Maps a function over `_flat` lists, as many at once as memory allows."""
  num_features = math.prod(lists.unit.shape[1:])
  chunk = max(_CHUNK // max(num_features, 1), 1)
  if lists.unit.shape[0] == 1:
    shared = lists.unit[0]
    return lax.map(lambda rows: of_list(_Lists(shared, *rows)), lists[1:],
                   batch_size=chunk)
  return lax.map(of_list, lists, batch_size=chunk)


def _density(
    lists: _Lists, exponents: jax.Array, rho: jax.Array | None
) -> _Density:
  """The likelihood for exponents x = `2 alpha r + log_scale`, `[..., N]`.

  `I + L = Diag(1 + (1 - rho) e^x) + rho (F e^(x/2)) (F e^(x/2))^T`; factoring
  the diagonal out leaves I plus a matrix of rank D.
  """
  if rho is None:
    exponents = jnp.minimum(exponents, _largest_exponent(exponents.dtype))
    diagonal, log_weights = jnp.zeros_like(exponents), exponents
  else:
    diagonal = jax.nn.softplus(exponents + jnp.log1p(-rho))
    log_weights = jnp.log(rho) + exponents - diagonal
  dual = _make_dual(lists.unit, jnp.where(lists.valid, log_weights, -jnp.inf))
  sums = (jnp.where(lists.positives, exponents, 0)
          - jnp.where(lists.valid, diagonal, 0))
  return _Density(jnp.sum(sums, axis=-1) - dual.log_det, diagonal, dual)


def _largest_exponent(dtype: jnp.dtype) -> float:
  """The limit beyond which smaller exponents are lost in rounding."""
  return 60.0 if dtype == jnp.float64 else 25.0


def _log_det_positives(lists: _Lists, rho: jax.Array | None) -> jax.Array:
  """`log det S_Y`, `[...]`; -inf where the features are dependent."""
  if rho is not None:
    # det((1 - rho) I + rho F F^T) of P items, by its dual.
    rest = jnp.log1p(-rho)
    count = jnp.sum(lists.positives, axis=-1, dtype=jnp.int32)
    dual = _make_dual(lists.unit, jnp.where(
        lists.positives, jnp.log(rho) - rest, -jnp.inf))
    return count.astype(rest.dtype) * rest + dual.log_det
  # More than D features are dependent: D places are enough for the positives,
  # in a shape that does not depend on their number.
  *_, num_items, num_features = lists.unit.shape
  num_slots = min(num_items, num_features)
  order = jnp.argsort(~lists.positives, axis=-1, stable=True)[..., :num_slots]
  is_one = jnp.take_along_axis(lists.positives, order, axis=-1)
  unit = jnp.broadcast_to(
      lists.unit, (*lists.positives.shape, num_features))
  packed = metrics.take_slate(unit, jnp.where(is_one, order, -1))
  left = metrics.squared_residuals(packed)
  is_left = is_one & (left > directions.tolerance(left.dtype))
  possible = jnp.sum(is_left, axis=-1) == jnp.sum(lists.positives, axis=-1)
  total = jnp.sum(jnp.log(jnp.where(is_left, left, 1)), axis=-1)
  return jnp.where(possible, total, -jnp.inf)


def _make_dual(unit: jax.Array, log_weights: jax.Array) -> _Dual:
  """`I + F^T Diag(w) F` of F `[..., N, D]` and log w `[..., N]`.

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
  rows = _einsum("...nd,...de->...ne", rows, whitening)
  rest, inverse = _log_det_and_inverse(
      _einsum("...dk,...dl->...kl", whitening, whitening) + _gram(rows))
  return _Dual(log_det + rest, rows, inverse)


def _gram(rows: jax.Array) -> jax.Array:
  return _einsum("...nd,...ne->...de", rows, rows)


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
      -_einsum("...ij,...jk,...kl->...il", inverse, change, inverse))


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


class _Place(NamedTuple):
  """The likelihood and its derivatives at a point."""

  value: jax.Array
  gradients: jax.Array  # [B, 2], of each list
  information: jax.Array  # [2, 2], minus the second derivatives
  step: jax.Array  # [2], the Newton step
  gain: jax.Array  # twice the gain that the step predicts


def _maximise(
    lists: _Lists, rho: jax.Array | None, start: jax.Array
) -> tuple[jax.Array, _Place, jax.Array]:
  """Maximises over exponents `slope r + level`, with a slope of at least 0.

  The function is concave: Newton steps, shortened where the value falls,
  converge to the maximum if there is one.

  Returns:
    Slope and level `[2]`; the likelihood there; whether it is the maximum.
  """
  eps = jnp.finfo(start.dtype).eps
  # A gain of a thousandth of a standard error, or the rounding of the value.
  num_lists = lists.relevance.shape[0]
  enough = max(1e-6, num_lists * (30 * float(eps))**2)

  def measured(point):
    values, gradients, informations = _map_lists(
        lambda one: _measured_list(point, one, rho), lists)
    gradient = jnp.sum(gradients, axis=0)
    information = jnp.sum(informations, axis=0)
    step = _newton_step(point, gradient, information)
    return _Place(jnp.sum(values), gradients, information, step,
                  jnp.sum(gradient * step))

  def going(carry):
    _, here, _, count = carry
    return (here.gain > enough) & (count < _MAX_STEPS)

  def body(carry):
    point, here, length, count = carry
    tried = (point + length * here.step).at[0].max(0)
    there = measured(tried)
    # A fall within rounding does not shorten the step.
    better = there.value >= here.value - 10 * eps * jnp.abs(here.value)
    point, here = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), (tried, there),
        (point, here))
    length = jnp.where(better, jnp.minimum(2 * length, 1), length / 4)
    return point, here, length, count + 1

  # The first iteration measures at the start, and accepts it.
  one = jnp.ones_like(start[0])
  nowhere = _Place(-jnp.inf * one, jnp.zeros((num_lists, 2), start.dtype),
                   jnp.eye(2, dtype=start.dtype), 0 * start, jnp.inf * one)
  point, here, *_ = lax.while_loop(
      going, body, (start, nowhere, one, jnp.int32(0)))
  # There is no maximum along a direction without information.
  (a, b), (_, c) = here.information
  is_known = (a * c - b * b > 1e-4 * (a + c)) & (a + c > 0)
  return point, here, (here.gain <= enough) & is_known


def _measured_list(
    point: jax.Array, one: _Lists, rho: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Value, gradient `[2]` and information `[2, 2]` of a list.

  The gradient is the observed less the expected statistics: `sum_i (y_i - p_i)
  x_i` with p the marginal probabilities and `x_i = (r_i, 1)`. The information
  is the covariance of `sum_i y_i x_i`.
  """
  exponents = point[0] * one.relevance + point[1]
  value, diagonal, (_, rows, inverse) = _density(one, exponents, rho)
  # The probability that the diagonal part alone leaves an item out, which is 1
  # without ridge.
  rest = jnp.exp(-diagonal)
  by_rows = _einsum("nd,de,ne->n", rows, inverse, rows)
  marginal = 1 - rest + rest * by_rows
  counts = one.valid
  if rho is None:
    counts &= exponents < _largest_exponent(exponents.dtype)
  x = jnp.stack([one.relevance, jnp.ones_like(exponents)], axis=1)
  x = jnp.where(counts[:, None], x, 0)
  gradient = _einsum("n,na->a", one.positives - marginal, x)
  moved = _einsum("na,n,nd,ne->ade", x, rest, rows, rows)
  moved = _einsum("ade,ef->adf", moved, inverse)
  own = rest * (1 - rest) + rest * (2 * rest - 1) * by_rows
  information = (_einsum("na,n,nb->ab", x, own, x)
                 - _einsum("ade,bed->ab", moved, moved))
  return value, gradient, information


def _newton_step(
    point: jax.Array, gradient: jax.Array, information: jax.Array
) -> jax.Array:
  """The Newton step; along the level alone where the slope is held at 0."""
  # Regularised, so that it is solvable without information on a parameter.
  scale = 1e-6 * jnp.trace(information) + jnp.finfo(point.dtype).tiny
  information += scale * jnp.eye(2, dtype=point.dtype)
  both = jnp.sum(_inverse(information) * gradient[None, :], axis=1)
  level = jnp.stack([0 * gradient[0], gradient[1] / information[1, 1]])
  step = jnp.where((point[0] <= 0) & (both[0] <= 0), level, both)
  # Limited, because the step is too long where curvature is small.
  return step * jnp.minimum(1, 4 / jnp.max(jnp.abs(step)))


def _inverse(matrix: jax.Array) -> jax.Array:
  """The inverse of a symmetric matrix `[2, 2]`."""
  (a, b), (_, c) = matrix
  return jnp.stack([jnp.stack([c, -b]), jnp.stack([-b, a])]) / (a * c - b * b)
