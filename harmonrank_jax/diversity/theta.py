"""Learning theta from data by maximum likelihood.

The log-likelihood is concave in `2 alpha = theta / (1 - theta)` and in the
logarithm of the kernel's scale (see `likelihood.py`): its maximum is unique,
and there expected relevance and expected size of the sets equal the observed
ones.
"""

from collections.abc import Callable
import math
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.diversity import directions
from harmonrank_jax.diversity import likelihood

# The largest number of Newton steps; four to ten are usual.
_MAX_STEPS = 60
# Entries of feature arrays that are processed at a time, which bounds memory.
_CHUNK = 2**22


class ThetaFit(NamedTuple):
  """Maximum likelihood over lists; scalars.

  All but the counts are NaN if the likelihood has no finite maximum: no lists,
  no positives or only positives, relevance that is constant or separates all
  positives from all others, or (without ridge) sets as large as the rank.

  Theta is 0 if the unbounded maximum is below 0, where less relevant items are
  positive more often; the error is then that of the maximum without the bound,
  which is too large. Lists are skipped if the features of the positives are
  linearly dependent: without ridge their probability is 0 at any theta.
  """

  theta: jax.Array  # in [0, 1)
  error: jax.Array  # standard error of theta, if the model is true
  # From the spread of the gradients of the lists (sandwich): valid for many
  # independent lists, also if the model is wrong.
  robust_error: jax.Array
  log_scale: jax.Array  # of the kernel, for `dpp_log_likelihood`
  log_likelihood: jax.Array  # value at the maximum, summed over lists
  num_lists: jax.Array  # int32, fitted lists, which have a valid item
  num_skipped: jax.Array  # int32


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

  Arguments are those of `dpp_log_likelihood`. The ridge should be the same as
  for selection: observed sets often hold near-copies, or more than D items,
  which need one. The `ThetaFit` is over the lists of all leading axes, and has
  no derivative.

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
  lists = likelihood.check_lists(features, relevance, positives, where)
  rho = likelihood.check_ridge(ridge, lists.relevance.dtype)
  lists, rho = lax.stop_gradient((_flat(lists), rho))
  constant = _map_lists(
      lambda one: likelihood.log_det_positives(one, rho), lists)
  possible = constant > -jnp.inf
  is_list = jnp.any(lists.valid, axis=-1)
  counted = is_list & possible
  lists = lists._replace(
      positives=lists.positives & counted[:, None],
      valid=lists.valid & counted[:, None])
  num_lists = jnp.sum(counted, dtype=jnp.int32)
  lists, centre, spread, start = _standardise(lists)
  (slope, level), here, converged = _maximise(lists, rho, start)
  covariance = _inverse(
      jnp.where(converged, here.information, jnp.eye(2, dtype=start.dtype)))
  centred = jnp.where(
      counted[:, None],
      here.gradients - jnp.sum(here.gradients, axis=0, keepdims=True)
      / jnp.maximum(num_lists, 1).astype(here.gradients.dtype), 0)
  scores = directions.einsum("bi,bj->ij", centred, centred)
  robust = directions.einsum("ij,jk,kl->il", covariance, scores, covariance)
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


def _standardise(
    lists: likelihood.Lists,
) -> tuple[likelihood.Lists, jax.Array, jax.Array, jax.Array]:
  """Lists, centre and spread of their relevance, and slope and level `[2]`.

  The two parameters of standardised relevance are nearly uncorrelated.
  """
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
  level = jnp.log(num_positives + 1) - jnp.log(num_items - num_positives + 1)
  return lists, centre, spread, jnp.stack([jnp.zeros_like(level), level])


def _flat(lists: likelihood.Lists) -> likelihood.Lists:
  """The lists with one leading axis: `[B, N]`, and `[B or 1, N, D]`."""
  flat = lambda x, rank: x.reshape(
      math.prod(x.shape[:-rank]), *x.shape[-rank:])
  return likelihood.Lists(flat(lists.unit, 2), *(flat(x, 1) for x in lists[1:]))


def _map_lists(
    of_list: Callable[[likelihood.Lists], Any], lists: likelihood.Lists
) -> Any:
  """Maps a function over `_flat` lists, as many at once as memory allows."""
  num_features = math.prod(lists.unit.shape[1:])
  chunk = max(_CHUNK // max(num_features, 1), 1)
  if lists.unit.shape[0] == 1:
    shared = lists.unit[0]
    return lax.map(lambda rows: of_list(likelihood.Lists(shared, *rows)),
                   lists[1:], batch_size=chunk)
  return lax.map(of_list, lists, batch_size=chunk)


class _Place(NamedTuple):
  """The likelihood and its derivatives at a point."""

  value: jax.Array
  gradients: jax.Array  # [B, 2], of each list
  information: jax.Array  # [2, 2], minus the second derivatives
  step: jax.Array  # [2], the Newton step
  gain: jax.Array  # twice the gain that the step predicts


def _maximise(
    lists: likelihood.Lists, rho: jax.Array | None, start: jax.Array
) -> tuple[jax.Array, _Place, jax.Array]:
  """Maximises over exponents `slope r + level`, with a slope of at least 0.

  The function is concave: Newton steps, shortened where the value falls,
  converge to the maximum if there is one. Returns slope and level `[2]`, the
  likelihood there, and whether it is the maximum.
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
    point: jax.Array, one: likelihood.Lists, rho: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Value, gradient `[2]` and information `[2, 2]` of a list.

  The gradient is the observed less the expected statistics: `sum_i (y_i - p_i)
  x_i` with p the marginal probabilities and `x_i = (r_i, 1)`. The information
  is the covariance of `sum_i y_i x_i`.
  """
  exponents = point[0] * one.relevance + point[1]
  value, diagonal, rows, inverse = likelihood.density_of(
      one, exponents, rho)
  # The probability that the diagonal part alone leaves an item out, which is 1
  # without ridge.
  rest = jnp.exp(-diagonal)
  by_rows = directions.einsum("nd,de,ne->n", rows, inverse, rows)
  marginal = 1 - rest + rest * by_rows
  counts = one.valid
  if rho is None:
    counts &= exponents < likelihood.largest_exponent(exponents.dtype)
  positives = one.positives.astype(marginal.dtype)
  x = jnp.stack([one.relevance, jnp.ones_like(exponents)], axis=1)
  x = jnp.where(counts[:, None], x, 0)
  gradient = directions.einsum("n,na->a", positives - marginal, x)
  moved = directions.einsum("na,n,nd,ne->ade", x, rest, rows, rows)
  moved = directions.einsum("ade,ef->adf", moved, inverse)
  own = rest * (1 - rest) + rest * (2 * rest - 1) * by_rows
  information = (directions.einsum("na,n,nb->ab", x, own, x)
                 - directions.einsum("ade,bed->ab", moved, moved))
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
