"""The Newton fit of a logistic model.

It minimises the mean negative log-likelihood of targets t in [0, 1], with
coefficients b of inputs X, `z = offsets + X b` and `p = sigmoid(z)`,

    L = sum_i w_i (softplus(z_i) - t_i z_i) / T + c |b|^2 / (2 T),

whose gradient and curvature in b are

    g = X' (w (p - t)) / T + c b / T,
    H = X' diag(w p (1 - p)) X / T + c I / T.

A line has the columns x and 1, no offsets and c = 0. H is kept invertible by
`_RIDGE` on its diagonal, and `_CURVE_FLOOR` is added to each
`w p (1 - p) / T`; L and g are not penalised but by c.

A step `b - length * H^-1 g` that does not lower L is taken back, and its
length is divided by 4; one that does doubles the next length, up to 1. The
number of steps is static: a fit can be jitted, mapped and exported.
"""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

# Keeps H invertible where all probabilities are 0 or 1 to float32, and where
# all inputs are the same; far below the rounding of H everywhere else.
_CURVE_FLOOR = 1e-12
_RIDGE = 1e-10


class Line(NamedTuple):
  """`p = sigmoid(slope * input + offset)`; scalars."""

  slope: jax.Array
  offset: jax.Array


def fit_line(
    inputs: jax.Array,  # [N]; must be finite, where `weights` is 0 too
    targets: jax.Array,  # [N] in [0, 1]: labels, or fractions
    *,
    weights: jax.Array | None = None,  # [N], 0 leaves a row out; None for 1
    total: jax.Array | float | None = None,  # T; None for the sum of weights
    start: Line | None = None,  # None for slope and offset 0
    num_steps: int = 40,
) -> Line:
  """Slope and offset of one input by maximum likelihood.

  The inverse of the 2 x 2 curvature is written out: mapped over many lines it
  stays element-wise, where a solver would be a library call for each. Inputs
  that are centred and of unit spread make the curvature well conditioned.

  T has no effect on the optimum, but float32 results depend on it in their
  last digits. Targets that a threshold on the input separates have no finite
  optimum: the slope is then as steep as `num_steps` allow.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
  >>> line = fit_line(x, jnp.array([0, 0, 0, 1, 0, 1, 1, 1]))
  >>> [round(float(value / jnp.log(3.0)), 4) for value in line]
  [2.0, -1.0]
  """
  if weights is None:
    weights = jnp.ones_like(inputs)
  if total is None:
    total = jnp.sum(weights)
  if start is None:
    start = Line(jnp.zeros((), inputs.dtype), jnp.zeros((), inputs.dtype))

  def measure(line):
    loss, error, curve = _likelihood(
        line.slope * inputs + line.offset, targets, weights, total)
    g0, g1 = jnp.sum(error * inputs), jnp.sum(error)
    h00 = jnp.sum(curve * inputs**2) + _RIDGE
    h01, h11 = jnp.sum(curve * inputs), jnp.sum(curve) + _RIDGE
    determinant = h00 * h11 - h01**2
    return loss, Line((h11 * g0 - h01 * g1) / determinant,
                      (h00 * g1 - h01 * g0) / determinant)

  return _newton(measure, start, num_steps)


def fit_coefficients(
    inputs: jax.Array,  # [N, P]; must be finite, where `weights` is 0 too
    targets: jax.Array,  # [N] in [0, 1]: labels, or fractions
    *,
    offsets: jax.Array,  # [N] log-odds, finite likewise
    weights: jax.Array,  # [N], 0 leaves a row out
    precision: float,  # c, of a normal prior around 0
    num_steps: int = 40,
) -> jax.Array:
  """Coefficients `[P]` of several inputs at the maximum of the posterior.

  A row of weight w is w rows; without any row all coefficients are 0.

  >>> import jax.numpy as jnp
  >>> rate = jnp.array([0.0, 0, 0, 1])
  >>> fitted = fit_coefficients(
  ...     jnp.ones((4, 1)), rate, offsets=jnp.zeros(4), weights=jnp.ones(4),
  ...     precision=0.0)
  >>> round(float(fitted[0] / jnp.log(3.0)), 4)
  -1.0
  """
  total = jnp.maximum(jnp.sum(weights), 1)
  penalty = precision / total

  def measure(coefficients):
    loss, error, curve = _likelihood(
        offsets + inputs @ coefficients, targets, weights, total)
    loss += penalty / 2 * jnp.sum(jnp.square(coefficients))
    gradient = inputs.T @ error + penalty * coefficients
    curvature = (inputs.T * curve[None, :]) @ inputs + (
        penalty + _RIDGE) * jnp.eye(inputs.shape[1])
    return loss, jnp.linalg.solve(curvature, gradient)

  return _newton(
      measure, jnp.zeros(inputs.shape[1], inputs.dtype), num_steps)


def _likelihood(
    logits: jax.Array, targets: jax.Array, weights: jax.Array,
    total: jax.Array | float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The loss, and its first two derivatives `[N]` in the log-odds."""
  p = jax.nn.sigmoid(logits)
  loss = jnp.sum(
      weights * (jax.nn.softplus(logits) - targets * logits)) / total
  return (loss, weights * (p - targets) / total,
          weights * p * (1 - p) / total + _CURVE_FLOOR)


def _newton(
    measure: Callable[[Any], tuple[jax.Array, Any]], start: Any,
    num_steps: int,
) -> Any:
  """Damped Newton: `measure` gives the loss at a point and the full step."""

  def step(_, carry):
    point, loss, move, length = carry
    tried = jax.tree.map(lambda x, dx: x - length * dx, point, move)
    tried_loss, tried_move = measure(tried)
    # A step too long for the quadratic model is taken back and shortened, but
    # not for a difference that is rounding: that would stop the last digits.
    better = tried_loss <= loss * (1 + 1e-6)
    point, loss, move = jax.tree.map(
        lambda new, old: jnp.where(better, new, old),
        (tried, tried_loss, tried_move), (point, loss, move))
    return (point, loss, move,
            jnp.where(better, jnp.minimum(2 * length, 1), length / 4))

  carry = (start, *measure(start), jnp.ones((), jnp.float32))
  return lax.fori_loop(0, num_steps, step, carry)[0]
