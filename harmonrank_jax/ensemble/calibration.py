"""Platt scaling and the closed form: the baseline to beat.

For a pair (i, j) the expected gain in `sum_m w_m AUC_m` of ranking i above j
is `sum_m w_m (p_m(i) - p_m(j)) / (pi_m (1 - pi_m))`, a difference of one
number per item. So the best score is that number, and with calibrated
probabilities nothing is left to learn.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
from harmonrank_jax.ensemble import items
from harmonrank_jax.ensemble import pairs as pairs_lib
import harmonrank_jax.logistic as logistic


class Calibration(NamedTuple):
  """`p_m = sigmoid(scale_m logit(score_m) + shift_m)`, and base rates; `[M]`.

  Attributes:
    scale: slope of the log-odds.
    shift: offset of the log-odds.
    base_rate: rate of positives in the rows it was fitted on, in (0, 1); for
      values, their mean in units of `unit`.
    unit: the largest label, 1 for labels of 0 and 1: values are calibrated as
      fractions of it, and p_m is the expected one.
    pair_share: `E|y - y'| / 2` over two random rows, divided by
      `pi (1 - pi)`: 1 for classes, less for values.
  """

  scale: jax.Array
  shift: jax.Array
  base_rate: jax.Array
  unit: jax.Array
  pair_share: jax.Array


def log_odds(probabilities: jax.Array) -> jax.Array:
  """`log(p / (1 - p))`, finite for p of 0 and 1 (clipped by 1e-7)."""
  clipped = jnp.clip(probabilities, 1e-7, 1 - 1e-7)
  return jnp.log(clipped) - jnp.log1p(-clipped)


def fit_platt(
    scores: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> Calibration:
  """Fits slope and offset per objective by maximum likelihood.

  Damped Newton steps on the logistic likelihood, with Platt's targets
  `(P + 1) / (P + 2)` and `1 / (N + 2)` in place of 1 and 0: an objective
  with few positives, or none, has finite parameters.

  Args:
    scores: `[N, M]` probabilities.
    labels: `[N, M]` bool, 0 and 1, or non-negative values, which count as
      fractions of the largest.
    where: `[N, M]` bool, True = the row counts for the objective.

  Returns:
    `Calibration`, float32. Without a valid row: slope 1, offset 0, rate 1/2.
    A constant score has slope 0.

  Raises:
    ValueError: if the shapes do not fit.

  References:
    Platt, 1999, with the targets of its section 2.2; Lin, Lin, Weng, 2007,
    for the iteration.

  >>> import jax.numpy as jnp
  >>> scores = jnp.array([[0.1], [0.2], [0.8], [0.9]] * 50)
  >>> labels = jnp.array([[0], [1], [0], [1]] * 50)
  >>> bool(fit_platt(scores, labels).scale[0] < 0.5)
  True
  """
  scores = arrays.floats(scores, "scores")
  labels = arrays.numbers(labels, "labels")
  if where is not None:
    where = arrays.flags(where, "where")
  for name, array in (("labels", labels), ("where", where)):
    if array is not None and array.shape != scores.shape:
      raise ValueError(f"{name} has shape {array.shape}; scores have "
                       f"{scores.shape}.")
  if scores.ndim != 2:
    raise ValueError(f"scores has shape {scores.shape}; expected [N, M].")
  inputs = log_odds(scores.astype(jnp.float32))
  valid = jnp.ones(labels.shape, bool) if where is None else where
  fractions = jnp.where(valid, labels.astype(jnp.float32), 0)
  unit = jnp.max(fractions, axis=0, initial=0)
  unit = jnp.where(unit > 0, unit, 1)
  fractions /= unit[None, :]
  pair_share = jnp.ones(unit.shape)
  if labels.dtype != jnp.bool_:
    pair_share = jax.vmap(_pair_share, in_axes=1)(fractions, valid)
  scale, shift, base_rate = jax.vmap(
      _fit_objective, in_axes=1)(inputs, fractions, valid)
  return Calibration(scale, shift, base_rate, unit, pair_share)


def _fit_objective(
    inputs: jax.Array, fractions: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Slope, offset and base rate of one objective, from rows `[N]`."""
  count = jnp.sum(valid, dtype=jnp.int32).astype(jnp.float32)
  positives = jnp.sum(fractions)
  negatives = count - positives
  targets = (fractions * (positives + 1) / (positives + 2)
             + (1 - fractions) / (negatives + 2))
  rows = jnp.maximum(count, 1)
  inputs, centre, spread = _standardised(inputs, valid, rows)
  rate = (positives + 1.0) / (count + 2.0)
  # From the base rate: a rare objective needs no steps to get there.
  line = logistic.fit_line(
      inputs, targets, weights=valid.astype(jnp.float32), total=rows,
      start=logistic.Line(jnp.float32(0), jnp.log(rate) - jnp.log1p(-rate)))
  scale = line.slope / spread
  return (jnp.where(count > 0, scale, 1.0),
          jnp.where(count > 0, line.offset - scale * centre, 0.0), rate)


def _standardised(
    inputs: jax.Array, valid: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Inputs `[N]` with mean 0 and spread 1, and what they had before.

  The curvature of the likelihood is then well conditioned in float32.
  """
  inputs = jnp.where(valid, inputs, 0)
  centre = jnp.sum(inputs) / rows
  inputs = jnp.where(valid, inputs - centre, 0)
  spread = jnp.sqrt(jnp.sum(inputs**2) / rows)
  # What is left of a constant score is rounding: it says nothing.
  is_constant = spread <= 1e-5 * (1 + jnp.abs(centre))
  spread = jnp.where(is_constant, 1, spread)
  return jnp.where(is_constant, 0, inputs / spread), centre, spread


def _pair_share(fractions: jax.Array, valid: jax.Array) -> jax.Array:
  """`Calibration.pair_share` of one objective, from rows `[N]`."""
  pairs = pairs_lib.pair_counts(
      fractions[:, None], jnp.dtype(jnp.float32), valid, None)
  positives = jnp.sum(fractions)
  of_classes = positives * (
      jnp.sum(valid, dtype=jnp.int32).astype(jnp.float32) - positives)
  result = jnp.max(pairs, initial=0) / jnp.where(of_classes > 0, of_classes, 1)
  return jnp.where(result > 0, result, 1)


def calibrate(platt: Calibration, scores: jax.Array) -> jax.Array:
  """`[..., M]` calibrated probabilities of `[..., M]` scores."""
  rows = lambda x: items.with_axes(x, scores.ndim)
  return jax.nn.sigmoid(
      rows(platt.scale) * log_odds(scores) + rows(platt.shift))


def platt_score(
    platt: Calibration,
    scores: jax.Array,
    objective_weights: jax.Array,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  """The closed form on Platt-calibrated scores: the baseline to beat.

  Args:
    platt: fitted.
    scores: `[..., M]` probabilities.
    objective_weights: `[M]`, not negative.
    where: `[..., M]` bool, True = there is a score; the rest counts as the
      base rate.

  Returns:
    `[...]` scores, higher first.

  >>> import jax.numpy as jnp
  >>> one = jnp.ones(1)
  >>> platt = Calibration(one, 0 * one, 0.5 * one, one, one)
  >>> platt_score(platt, jnp.array([[0.25]]), one)
  Array([1.], dtype=float32)
  """
  p = calibrate(platt, scores)
  if where is not None:
    p = jnp.where(where, p, items.with_axes(platt.base_rate, p.ndim))
  return closed_form_score(
      p, platt.base_rate, objective_weights / platt.pair_share)


def closed_form_score(
    probabilities: jax.Array,
    base_rate: jax.Array,
    objective_weights: jax.Array,
) -> jax.Array:
  """`sum_m w_m p_m / (pi_m (1 - pi_m))`, the best score there is.

  Args:
    probabilities: `[..., M]`, true or calibrated.
    base_rate: `[M]` in (0, 1), the rate of positives in the list.
    objective_weights: `[M]` or `[..., M]`, not negative. For values, p_m is an
      expected fraction, and the weight is divided by its `pair_share`.

  Returns:
    `[...]`; with true probabilities their order maximises the expected
    `sum_m w_m AUC_m` over the list.

  >>> import jax.numpy as jnp
  >>> closed_form_score(jnp.array([[0.5, 0.125]]), jnp.array([0.5, 0.25]),
  ...                   jnp.array([1.0, 3.0]))
  Array([4.], dtype=float32)
  """
  rows = lambda x: items.with_axes(x, probabilities.ndim)
  share = rows(objective_weights) / rows(base_rate * (1 - base_rate))
  return jnp.sum(share * probabilities, axis=-1)
