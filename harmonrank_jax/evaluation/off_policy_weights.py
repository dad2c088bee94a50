"""Importance weights, and estimates that stay useful when they are heavy.

Clipping and shrinkage trade variance for bias, and `least_error_limit` chooses
how much. `value_lower_bound` holds whatever the tails of the weights are.
Shapes that do not fit and static numbers out of range raise ValueError.
"""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.evaluation import logged_rounds
from harmonrank_jax.evaluation import off_policy
from harmonrank_jax.ordering import sorting

# Above 1 by what sums of float32 are rounded by.
_LARGEST_PROBABILITY = 1 + 1e-5


def importance_weights(
    target_prob: jax.Array,
    logging_prob: jax.Array,
    *,
    densities: bool = False,
) -> jax.Array:
  """`target_prob / logging_prob` of logged actions.

  An action of propensity 0 cannot have been logged, and an unknown propensity
  gives no weight: both weights are NaN, and so is every estimate over them.
  Masking those rounds estimates the value on the other rounds.

  The ratio is taken in float64. A slate's propensity is a product over its
  slots, of which fifteen of 1e-3 are 0 to float32: pass NumPy's float64 from
  outside of `jit`, which rounds its arguments to float32, or one ratio for each
  slot to `cascade_slate_value`, which multiplies them in float64.

  Args:
    target_prob: `[...]`, probability of the logged action under the target
      policy, in [0, 1].
    logging_prob: `[...]`, the same under the logging policy, in (0, 1].
    densities: whether these are densities of continuous actions, which may be
      above 1.

  Returns:
    `[...]`, float32 (float64 if an argument is, where x64 is on); NaN where a
    probability is not finite, target_prob negative or logging_prob not
    positive, and where a traced probability is above 1.

  Raises:
    ValueError: if shapes do not fit, or a probability outside of `jit` is above
      1 by more than rounding.

  >>> import jax.numpy as jnp
  >>> jax.jit(importance_weights)(
  ...     jnp.array([0.5, 0.0, 0.5]), jnp.array([0.2, 0.2, 0.0]))
  Array([2.5, 0. , nan], dtype=float32)
  """
  given = {"target_prob": target_prob, "logging_prob": logging_prob}
  largest = float("inf") if densities else _LARGEST_PROBABILITY
  for name, values in given.items():
    if not isinstance(values, jax.core.Tracer):
      _check_probabilities(name, np.asarray(values), largest)
  dtype = jnp.result_type(*map(logged_rounds.as_floats, given.values()))
  with jax.enable_x64(True):
    target, logging = (
        jnp.asarray(values).astype(jnp.float64) for values in given.values())
    target = sorting.broadcast(
        target, logging, "target_prob", "logging_prob")
    usable = ((target >= 0) & (target <= largest) & jnp.isfinite(logging)
              & (logging > 0) & (logging <= largest))
    weights = (target / jnp.where(usable, logging, 1)).astype(dtype)
  return jnp.where(usable & jnp.isfinite(weights), weights, jnp.nan)


def _check_probabilities(
    name: str, values: np.ndarray, largest: float
) -> None:
  """Raises ValueError for the first value above the largest."""
  above = np.argwhere(values > largest)
  if len(above):
    place = tuple(above[0].tolist())
    raise ValueError(
        f"{name} is {values[place]} at {list(place)}; a probability is at most "
        "1 (percentages: divide by 100; densities: say densities=True).")


def shrink_weights(
    weights: jax.Array, limit: float | jax.Array
) -> jax.Array:
  """Optimistic shrinkage, `limit w / (w^2 + limit)`.

  No result exceeds `sqrt(limit) / 2`, and weights far above `sqrt(limit)` go
  to 0: the model alone estimates rounds that the logging policy hardly ever
  draws. As the limit goes to 0, a doubly robust estimate becomes that of the
  direct method.

  Args:
    weights: `[...]`, at least 0.
    limit: lambda of the paper, at least 0, broadcasts; inf changes nothing. A
      traced limit below 0 counts as 0.

  Returns:
    `[...]`, float32 (float64 for float64 weights).

  References:
    Su, Dimakopoulou, Krishnamurthy and Dudik, "Doubly robust off-policy
    evaluation with shrinkage", ICML 2020, section 4.

  >>> import jax.numpy as jnp
  >>> jax.jit(shrink_weights)(jnp.array([0.0, 10.0, 1e20]), 100.0)
  Array([0.e+00, 5.e+00, 1.e-18], dtype=float32)
  """
  if isinstance(limit, (int, float)) and not limit >= 0:
    raise ValueError(f"limit must be at least 0, got {limit}.")
  weights = logged_rounds.as_floats(weights, "weights")
  limit = jnp.asarray(limit, weights.dtype)
  # This order keeps large weights finite, and an infinite limit changes none.
  shrunk = weights / (1 + weights * (weights / jnp.where(limit > 0, limit, 1)))
  return jnp.where(limit > 0, shrunk, 0 * weights)


def least_error_limit(
    estimate_fn: Callable[[jax.Array], off_policy.OffPolicyValue],
    limits: jax.Array,
) -> jax.Array:
  """The limit of clipping or shrinkage with the least estimated error.

  The mean squared error of an estimate is approximated by variance plus
  squared bias,

    standard_error^2 + max(0, (value - value at inf)^2 - e^2),

  with e the standard error of that difference, the amount by which its square
  is too large on average. Without this correction one huge weight makes the
  difference as large as the variance to be saved, and the choice is random.
  Large weights that the log did not draw are not accounted for, and the
  interval at the chosen limit ignores that the limit was chosen.

  Args:
    estimate_fn: maps a scalar limit to an estimate; the estimate at inf is the
      reference for the bias.
    limits: `[L]`, in any order; may hold 0 and inf.

  Returns:
    One of the limits, `[...]` like `value`: with M objectives each has its
    own. NaN where no error is defined.

  References:
    Su et al., ICML 2020, also choose by variance and squared bias, with upper
    bounds of the bias instead of an estimate.

  >>> import jax.numpy as jnp
  >>> rewards, weights = jnp.array([1, 0, 1, 0]), jnp.array([2.0, 1, 1, 4])
  >>> estimate_fn = lambda limit: off_policy.off_policy_value(
  ...     rewards, weights, weight_fn=lambda w: jnp.minimum(w, limit))
  >>> jax.jit(lambda limits: least_error_limit(estimate_fn, limits))(
  ...     jnp.array([1.0, 3.0, 5.0]))
  Array(1., dtype=float32)
  """
  limits = logged_rounds.as_floats(limits, "limits")
  if limits.ndim != 1 or not limits.size:
    raise ValueError(
        f"limits has shape {limits.shape}; expected [L], L at least 1.")
  unbiased = estimate_fn(jnp.full((), jnp.inf, limits.dtype))

  def squared_error(limit):
    estimate = estimate_fn(limit)
    bias = jnp.square(estimate.value - unbiased.value) - jnp.sum(
        jnp.square(estimate.influence - unbiased.influence), axis=-1)
    error = jnp.square(estimate.standard_error) + jnp.maximum(bias, 0)
    # argmin would choose a NaN.
    return jnp.where(jnp.isnan(error), jnp.inf, error)

  errors = lax.map(squared_error, limits)
  return jnp.where(jnp.all(jnp.isinf(errors), axis=0), jnp.nan,
                   limits[jnp.argmin(errors, axis=0)])


def value_lower_bound(
    rewards: jax.Array,
    weights: jax.Array,
    *,
    limit: float | jax.Array,
    where: jax.Array | None = None,
    confidence: float = 0.95,
) -> jax.Array:
  """A lower bound of the target policy's value, however heavy the tails.

  Empirical Bernstein bound on the mean of `y = min(w reward, limit)`, which is
  at most the value:

    mean y - sqrt(2 var(y) log(2 / d) / N) - 7 limit log(2 / d) / (3 (N - 1)),

  d = 1 - confidence, and at least 0. It holds for every N if rewards are not
  negative, rounds are independent, propensities are right and the limit does
  not depend on these rounds. The last term is small only for a `limit` far
  below N times the value. There is no such bound from above.

  Args:
    rewards: `[..., N]` or `[..., N, M]`, at least 0.
    weights: `[..., N]`, at least 0.
    limit: scalar above 0 at which weighted rewards are cut; a traced limit
      below 0 counts as 0, which gives the bound 0.
    where: `[..., N]` bool, True = valid.
    confidence: in (0, 1), one-sided.

  Returns:
    `[...]` or `[..., M]`, at least 0; NaN where a valid reward or weight is
    negative or not finite.

  References:
    Maurer and Pontil, "Empirical Bernstein bounds and sample-variance
    penalization", COLT 2009, theorem 4; Thomas, Theocharous and Ghavamzadeh,
    "High-confidence off-policy evaluation", AAAI 2015, for its use.

  >>> import jax.numpy as jnp
  >>> bound = jax.jit(lambda r, w: value_lower_bound(r, w, limit=1.0))
  >>> print(f"{bound(jnp.ones(200), jnp.ones(200)):.4f}")
  0.9567
  """
  if isinstance(limit, (int, float)) and not limit > 0:
    raise ValueError(f"limit must be positive, got {limit}.")
  logged_rounds.check_confidence(confidence)
  log = logged_rounds.check_rounds(
      rewards, weights, where=where, slates=False)
  terms = (log.rewards * log.weights[..., None])[..., 0, :]
  good = jnp.all((log.rewards >= 0) & jnp.isfinite(terms)[..., None, :],
                 axis=(-3, -2))
  limit = jnp.maximum(jnp.asarray(limit, terms.dtype), 0)
  terms = jnp.clip(terms, 0, limit)
  count = logged_rounds.count(log.valid, terms.dtype)
  mean = jnp.sum(terms, axis=-2) / jnp.maximum(count, 1)
  deviations = jnp.where(log.valid, terms - mean[..., None, :], 0)
  rest = jnp.maximum(count - 1, 1)
  variance = jnp.sum(jnp.square(deviations), axis=-2) / rest
  log_odds = jnp.log(2 / (1 - jnp.asarray(confidence, terms.dtype)))
  bound = (mean - jnp.sqrt(2 * variance * log_odds / jnp.maximum(count, 1))
           - 7 * limit * log_odds / (3 * rest))
  bound = jnp.where(count > 1, jnp.maximum(bound, 0), 0)
  bound = jnp.where(good, bound, jnp.nan)
  return bound[..., 0] if log.squeeze else bound
