"""What a policy would earn, from a log of another policy's rounds.

A round is one decision: a context, an action drawn by the logging policy with
a known probability, and its reward. Weights `w = target_prob / logging_prob`
of the logged actions turn averages over the log into averages under the target
policy. With q the reward that a model predicts for the logged action and v its
mean over the target policy's actions, every estimate is

  mean of v + mean of g(w) (reward - q):

  IPS                           q = v = 0, g(w) = w
  clipped IPS                   weight_fn=lambda w: jnp.minimum(w, limit)
  self-normalised IPS           self_normalise=True
  direct method                 predictions, weight_fn=jnp.zeros_like
  doubly robust (DR)            predictions
  self-normalised DR            predictions, self_normalise=True
  DR with optimistic shrinkage  predictions, weight_fn=lambda w:
                                    shrink_weights(w, limit)

and likewise for slates: independent IPS is `independent_slate_value`,
reward-interaction IPS `cascade_slate_value`, cascade DR the same with
predictions.

What an estimate is worth stands beside it. Weights have mean 1 if the logging
policy can draw whatever the target policy does and the propensities are right:
look at `mean_weight` first, then at `effective_sample_size`. An interval knows
only the rounds that were drawn. Where few of them carry most of the weight,
the rare round that would matter is mostly missing, and the interval is too
short and too low; `value_lower_bound` holds there, too. Clipped and shrunk
estimates are biased, and no interval counts that.
"""

from collections.abc import Callable
import statistics
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting

WeightFn = Callable[[jax.Array], jax.Array]


class OffPolicyValue(NamedTuple):
  """An estimate, and what tells whether to believe it.

  Floats are float32, or float64 if rewards or weights are. Shapes are those
  of one log; with leading axes there is one estimate for each.

  Attributes:
    value: `[]`, or `[M]` for M objectives: the mean reward of a round (of a
      slate: the sum over its slots).
    standard_error: like value. Of a self-normalised estimate by linearisation.
      NaN with fewer than two rounds (or clusters).
    low: like value, lower end of the interval of the normal approximation,
      `value - z standard_error`.
    high: like value, its upper end.
    effective_sample_size: `(sum g)^2 / sum g^2` of the weights as used, g;
      0 if all are 0. `[K]` for slates, as the next three are.
    largest_weight: before `weight_fn`.
    mean_weight: before `weight_fn`; 1 but for chance, or else propensities
      are wrong or the log lacks actions that the target policy takes.
    clipped_share: of the weights, those that `weight_fn` made smaller.
    num_rounds: `[]` int32.
    influence: `[N]` or `[M, N]`, what each round (or cluster, at one of its
      rounds) adds to the error: the squares sum to `standard_error^2`. Of two
      estimates `a` and `b` from one log, of two policies say, the standard
      error of `a.value - b.value` is
      `jnp.linalg.norm(a.influence - b.influence, axis=-1)`.
  """

  value: jax.Array
  standard_error: jax.Array
  low: jax.Array
  high: jax.Array
  effective_sample_size: jax.Array
  largest_weight: jax.Array
  mean_weight: jax.Array
  clipped_share: jax.Array
  num_rounds: jax.Array
  influence: jax.Array


def importance_weights(
    target_prob: jax.Array, logging_prob: jax.Array
) -> jax.Array:
  """`target_prob / logging_prob` of logged actions.

  A logged action of propensity 0 contradicts itself, and one of unknown
  propensity says nothing: both get NaN, and so does every estimate that counts
  them. Leaving them out by `where` estimates the value on the other rounds.

  Args:
    target_prob: `[...]`, probability (or density) of the logged action under
      the target policy, at least 0.
    logging_prob: `[...]`, under the policy that drew it, above 0.

  Returns:
    `[...]`, float32 (float64 if an argument is); NaN where a probability is
    not finite, target_prob negative or logging_prob not positive.

  Raises:
    ValueError: if the shapes do not fit.

  >>> import jax.numpy as jnp
  >>> jax.jit(importance_weights)(
  ...     jnp.array([0.5, 0.0, 0.5]), jnp.array([0.2, 0.2, 0.0]))
  Array([2.5, 0. , nan], dtype=float32)
  """
  target_prob, logging_prob = _floats(target_prob), _floats(logging_prob)
  target_prob = sorting.broadcast(
      target_prob, logging_prob, "target_prob", "logging_prob")
  weights = target_prob / logging_prob
  usable = (target_prob >= 0) & (logging_prob > 0) & jnp.isfinite(logging_prob)
  return jnp.where(usable & jnp.isfinite(weights), weights, jnp.nan)


def shrink_weights(
    weights: jax.Array, limit: float | jax.Array
) -> jax.Array:
  """Optimistic shrinkage, `limit w / (w^2 + limit)`.

  None is above `sqrt(limit) / 2`, and weights far above `sqrt(limit)` go to 0:
  a round that the logging policy nearly never draws is left to the model.
  Doubly robust estimates become the direct method's as the limit goes to 0.

  Args:
    weights: `[...]`, at least 0.
    limit: lambda of the paper, at least 0, broadcasts; inf changes nothing. A
      traced one below 0 counts as 0.

  Returns:
    `[...]`, float32 (float64 for float64 weights).

  Raises:
    ValueError: if a static limit is negative.

  References:
    Su, Dimakopoulou, Krishnamurthy and Dudik, "Doubly robust off-policy
    evaluation with shrinkage", ICML 2020, section 4.

  >>> import jax.numpy as jnp
  >>> jax.jit(shrink_weights)(jnp.array([0.0, 10.0, 1e20]), 100.0)
  Array([0.e+00, 5.e+00, 1.e-18], dtype=float32)
  """
  if isinstance(limit, (int, float)) and not limit >= 0:
    raise ValueError(f"limit must be at least 0, got {limit}.")
  weights = _floats(weights)
  limit = jnp.asarray(limit, weights.dtype)
  # In this order a large weight does not overflow, and an infinite limit is 1.
  shrunk = weights / (1 + weights * (weights / jnp.where(limit > 0, limit, 1)))
  return jnp.where(limit > 0, shrunk, 0 * weights)


def off_policy_value(
    rewards: jax.Array,
    weights: jax.Array,
    *,
    predicted_rewards: jax.Array | None = None,
    predicted_values: jax.Array | None = None,
    weight_fn: WeightFn | None = None,
    self_normalise: bool = False,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    confidence: float = 0.95,
) -> OffPolicyValue:
  """Value of the target policy: IPS, or what the options make of it.

    mean of v + mean of g(w) (reward - q)

  Without predictions q = v = 0. It is unbiased if the weights are right and
  g(w) = w, whatever the predictions; or, given weights that are functions of
  context and action, if the predictions are right, whatever the weights and g.
  Fit the model that predicts on other rounds than these.

  Self-normalised, the second mean is divided by the mean of g(w): biased by
  O(1 / N), the same when a constant is added to all rewards but for that
  constant, and never outside the range of the rewards if without predictions.

  The standard error takes rounds as independent, or with `segment_ids`
  clusters of rounds (users, days): then rounds within one may depend on each
  other in any way, and there should be tens of clusters.

  Args:
    rewards: `[..., N]`, or `[..., N, M]` for M objectives; any real dtype.
    weights: `[..., N]`, at least 0; see `importance_weights`.
    predicted_rewards: like rewards: q, of the logged action.
    predicted_values: like rewards: v, the mean of the model's predictions over
      the target policy's actions in this context. Both, or neither.
    weight_fn: g, from weights to weights, element by element; None for the
      identity.
    self_normalise: whether to divide by the mean of g(w).
    where: `[..., N]` bool, True = valid. Masked rounds do not exist.
    segment_ids: `[..., N]` integers, the cluster of each round, or None.
    confidence: of the interval, in (0, 1).

  Returns:
    `OffPolicyValue`. The estimate is NaN without a valid round, with a valid
    weight that is negative or not finite (unless g ignores it), with a valid
    reward or prediction that is not finite (for that objective), and
    self-normalised if all weights are 0.

  Raises:
    ValueError: if shapes do not fit, only one kind of prediction is given or
      `confidence` is out of range.

  References:
    Horvitz and Thompson 1952; clipped: Ionides 2008, "Truncated importance
    sampling"; self-normalised: Swaminathan and Joachims, NeurIPS 2015; doubly
    robust: Dudik, Langford and Li, ICML 2011, eq. 2; clusters: Liang and Zeger
    1986, times C / (C - 1) for C clusters.

  >>> import jax.numpy as jnp
  >>> estimate = jax.jit(off_policy_value)(
  ...     jnp.array([1, 0, 1, 0]), jnp.array([2.0, 0.5, 1.0, 0.5]))
  >>> estimate.value, estimate.mean_weight
  (Array(0.75, dtype=float32), Array(1., dtype=float32))
  """
  log = _check_log(rewards, weights, predicted_rewards, predicted_values,
                   where, segment_ids, slates=False)
  estimate = _estimate(
      log, log.weights, None, weight_fn, self_normalise, confidence)
  return estimate._replace(**{
      name: getattr(estimate, name)[..., 0] for name in (
          "effective_sample_size", "largest_weight", "mean_weight",
          "clipped_share")})


def independent_slate_value(
    rewards: jax.Array,
    weights: jax.Array,
    *,
    predicted_rewards: jax.Array | None = None,
    predicted_values: jax.Array | None = None,
    weight_fn: WeightFn | None = None,
    self_normalise: bool = False,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    confidence: float = 0.95,
) -> OffPolicyValue:
  """Value of a slate whose slots do not influence each other.

  `off_policy_value` slot by slot, summed: unbiased if the reward of a slot
  depends on the context and on the item in that slot alone. Users who stop, or
  who tire of the same, bias it; in return its weights are the smallest.

  Args:
    rewards: `[..., N, K]`, or `[..., N, K, M]`: of each slot.
    weights: `[..., N, K]`: ratio of the probabilities that the target and the
      logging policy put that item into that slot, whatever is in the others.
    predicted_rewards: like rewards: of the logged item in its slot.
    predicted_values: like rewards: mean over the target policy's items there.
    weight_fn: as for `off_policy_value`.
    self_normalise: as for `off_policy_value`, slot by slot.
    where: `[..., N, K]` bool (or `[..., N, 1]`), True = valid. Masked slots
      have no reward and no weight; a round without a valid slot does not
      exist. Which slots there are must not depend on the actions: a slot that
      the user did not reach is valid and has reward 0.
    segment_ids: `[..., N]` integers, as for `off_policy_value`.
    confidence: as for `off_policy_value`.

  Returns:
    `OffPolicyValue`, with weights' statistics `[..., K]`, over valid slots.

  Raises:
    ValueError: as for `off_policy_value`.

  References:
    Li et al., "Offline evaluation of ranking policies with click models",
    KDD 2018, the item-position estimator.

  >>> import jax.numpy as jnp
  >>> jax.jit(independent_slate_value)(
  ...     jnp.array([[1, 0], [1, 1]]), jnp.array([[0.5, 2.0], [1.5, 0.5]])
  ... ).value
  Array(1.25, dtype=float32)
  """
  log = _check_log(rewards, weights, predicted_rewards, predicted_values,
                   where, segment_ids, slates=True)
  return _estimate(
      log, log.weights, None, weight_fn, self_normalise, confidence)


def cascade_slate_value(
    rewards: jax.Array,
    weights: jax.Array,
    *,
    predicted_rewards: jax.Array | None = None,
    predicted_values: jax.Array | None = None,
    weight_fn: WeightFn | None = None,
    self_normalise: bool = False,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    confidence: float = 0.95,
) -> OffPolicyValue:
  """Value of a slate that users read from the top.

  With `w_1..k` the product of the weights of the slots up to k,

    sum over k of  g(w_1..k) (reward_k - q_k) + g(w_1..k-1) v_k,

  reward-interaction IPS without predictions, cascade doubly robust with them.
  Unbiased if the reward of a slot depends on the context and on the items in
  that slot and before; the variance grows with the products.

  Arguments and results as for `independent_slate_value`, but for these.

  Args:
    rewards: `[..., N, K]`, or `[..., N, K, M]`: of each slot.
    weights: `[..., N, K]`: ratio of the probabilities of the item in the slot
      given those before; multiplied here, masked slots counting as 1. Products
      that overflow make the estimate NaN.
    predicted_rewards: like rewards: q, the reward of this slot and all after,
      given the items up to it, if the target policy fills those after.
    predicted_values: like rewards: v, the mean of q over the target policy's
      items in this slot, given the logged items before.
    weight_fn: g, applied to the products.
    self_normalise: whether to divide by the mean product, slot by slot.
    where: `[..., N, K]` bool (or `[..., N, 1]`), True = valid.
    segment_ids: `[..., N]` integers, the cluster of each round.
    confidence: of the interval, in (0, 1).

  Returns:
    `OffPolicyValue`, with the products' statistics `[..., K]`.

  Raises:
    ValueError: as for `off_policy_value`.

  References:
    McInerney et al., "Counterfactual evaluation of slate recommendations with
    sequential reward interactions", KDD 2020 (theirs is self-normalised);
    Kiyohara et al., "Doubly robust off-policy evaluation for ranking policies
    under the cascade behavior model", WSDM 2022, eq. 8.

  >>> import jax.numpy as jnp
  >>> jax.jit(cascade_slate_value)(
  ...     jnp.array([[1, 0], [1, 1]]), jnp.array([[0.5, 2.0], [1.5, 0.5]])
  ... ).value
  Array(1.375, dtype=float32)
  """
  log = _check_log(rewards, weights, predicted_rewards, predicted_values,
                   where, segment_ids, slates=True)
  products = jnp.cumprod(jnp.where(log.valid, log.weights, 1), axis=-1)
  products = jnp.where(jnp.isfinite(products), products, jnp.nan)
  before = jnp.concatenate(
      [jnp.ones_like(products[..., :1]), products[..., :-1]], axis=-1)
  return _estimate(
      log, products, before, weight_fn, self_normalise, confidence)


def least_error_limit(
    estimate_fn: Callable[[jax.Array], OffPolicyValue],
    limits: jax.Array,
) -> jax.Array:
  """The limit of clipping or shrinkage with the least estimated error.

  The mean squared error of an estimate is taken to be variance and squared
  bias,

    standard_error^2 + max(0, (value - value at inf)^2 - e^2),

  with e the standard error of that difference, by which its square is too
  large on average: without it, one huge weight makes the difference as large
  as the variance that is to be saved, and the choice a coin flip. Weights
  that were not drawn are not seen, and the interval at the limit chosen does
  not count that it was chosen.

  Args:
    estimate_fn: from a limit, a scalar, to the estimate; at inf the one that
      others are compared with.
    limits: `[L]`, in any order; may hold 0 and inf.

  Returns:
    One of the limits, `[...]` like `value`: with M objectives each has its
    own. NaN where no error is defined.

  Raises:
    ValueError: if limits is not `[L]` with L at least 1.

  References:
    Su et al., ICML 2020, choose by variance and squared bias, too, with upper
    bounds of the bias in place of an estimate.

  >>> import jax.numpy as jnp
  >>> rewards, weights = jnp.array([1, 0, 1, 0]), jnp.array([2.0, 1, 1, 4])
  >>> estimate_fn = lambda limit: off_policy_value(
  ...     rewards, weights, weight_fn=lambda w: jnp.minimum(w, limit))
  >>> jax.jit(lambda limits: least_error_limit(estimate_fn, limits))(
  ...     jnp.array([1.0, 3.0, 5.0]))
  Array(1., dtype=float32)
  """
  limits = _floats(limits)
  if limits.ndim != 1 or not limits.size:
    raise ValueError(
        f"limits has shape {limits.shape}; expected [L], L at least 1.")
  unbiased = estimate_fn(jnp.full((), jnp.inf, limits.dtype))

  def squared_error(limit):
    estimate = estimate_fn(limit)
    bias = jnp.square(estimate.value - unbiased.value) - jnp.sum(
        jnp.square(estimate.influence - unbiased.influence), axis=-1)
    error = jnp.square(estimate.standard_error) + jnp.maximum(bias, 0)
    # argmin would choose NaN.
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
  """A value that the target policy's exceeds, however heavy the tails.

  Empirical Bernstein bound of `y = min(w reward, limit)`, whose mean is at most
  the value:

    mean y - sqrt(2 var(y) log(2 / d) / N) - 7 limit log(2 / d) / (3 (N - 1)),

  d = 1 - confidence, and at least 0. It holds for every N, if rewards are not
  negative, rounds are independent, propensities right and the limit was chosen
  without a look at these rounds. The last term wants `limit` far below
  N times the value; there is no such bound from above.

  Args:
    rewards: `[..., N]` or `[..., N, M]`, at least 0.
    weights: `[..., N]`, at least 0.
    limit: of a round's weighted reward, above 0, scalar; a traced one below 0
      counts as 0, which bounds nothing.
    where: `[..., N]` bool, True = valid.
    confidence: in (0, 1), one-sided.

  Returns:
    `[...]` or `[..., M]`, at least 0; NaN where a valid reward or weight is
    negative or not finite.

  Raises:
    ValueError: if shapes do not fit, a static limit is not positive or
      `confidence` is out of range.

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
  _check_confidence(confidence)
  log = _check_log(rewards, weights, None, None, where, None, slates=False)
  terms = (log.rewards * log.weights[..., None])[..., 0, :]
  good = jnp.all((log.rewards >= 0) & jnp.isfinite(terms)[..., None, :],
                 axis=(-3, -2))
  limit = jnp.maximum(jnp.asarray(limit, terms.dtype), 0)
  terms = jnp.clip(terms, 0, limit)
  valid = log.valid
  count = _count(valid, terms.dtype)
  mean = jnp.sum(terms, axis=-2) / jnp.maximum(count, 1)
  deviations = jnp.where(valid, terms - mean[..., None, :], 0)
  rest = jnp.maximum(count - 1, 1)
  variance = jnp.sum(jnp.square(deviations), axis=-2) / rest
  log_odds = jnp.log(2 / (1 - jnp.asarray(confidence, terms.dtype)))
  bound = (mean - jnp.sqrt(2 * variance * log_odds / jnp.maximum(count, 1))
           - 7 * limit * log_odds / (3 * rest))
  bound = jnp.where(count > 1, jnp.maximum(bound, 0), 0)
  bound = jnp.where(good, bound, jnp.nan)
  return bound[..., 0] if log.squeeze else bound


class _Log(NamedTuple):
  """Checked arguments; rounds without slots have K = 1."""

  rewards: jax.Array  # [..., N, K, M], 0 where masked
  predicted_rewards: jax.Array | None  # like rewards
  predicted_values: jax.Array | None  # like rewards
  weights: jax.Array  # [..., N, K], 0 where masked, NaN where bad
  valid: jax.Array  # [..., N, K] bool
  segment_ids: jax.Array | None  # [..., N]
  squeeze: bool  # Whether rewards came without M.


def _check_log(
    rewards: jax.Array,
    weights: jax.Array,
    predicted_rewards: jax.Array | None,
    predicted_values: jax.Array | None,
    where: jax.Array | None,
    segment_ids: jax.Array | None,
    *,
    slates: bool,
) -> _Log:
  """Checks shapes and brings all arguments to those of `_Log`."""
  if (predicted_rewards is None) != (predicted_values is None):
    missing = "values" if predicted_values is None else "rewards"
    raise ValueError(
        f"predicted_{missing} is missing: predictions come in pairs.")
  weights, rewards = _floats(weights), _floats(rewards)
  dtype = jnp.promote_types(weights.dtype, rewards.dtype)
  if weights.ndim < 1 + slates:
    expected = "[..., N, K]" if slates else "[..., N]"
    raise ValueError(
        f"weights has shape {weights.shape}; expected {expected}.")
  shape = weights.shape
  squeeze = rewards.shape == shape
  if not squeeze and (rewards.ndim == weights.ndim
                      or rewards.shape[:-1] != shape):
    raise ValueError(
        f"rewards has shape {rewards.shape}; weights of shape {shape} need "
        f"{shape} or {(*shape, 'M')}.")
  valid = jnp.ones(shape, bool) if where is None else sorting.broadcast(
      jnp.asarray(where, bool), weights, "where", "weights")

  if not slates:
    weights, valid = weights[..., None], valid[..., None]
  objectives = (1,) if squeeze else rewards.shape[-1:]

  def of_valid(values, name):
    if values is None:
      return None
    values = sorting.broadcast(
        jnp.asarray(values, dtype), rewards, name, "rewards")
    values = values.reshape((*valid.shape, *objectives))
    return jnp.where(valid[..., None], values, 0)

  usable = (weights >= 0) & jnp.isfinite(weights)
  weights = jnp.where(usable, weights.astype(dtype), jnp.nan)
  if segment_ids is not None:
    segment_ids = jnp.asarray(segment_ids)
    if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
      raise ValueError(
          f"segment_ids must be integers, got {segment_ids.dtype}.")
    segment_ids = sorting.broadcast(
        segment_ids, weights[..., 0], "segment_ids", "the rounds")
  return _Log(
      of_valid(rewards, "rewards"),
      of_valid(predicted_rewards, "predicted_rewards"),
      of_valid(predicted_values, "predicted_values"),
      jnp.where(valid, weights, 0), valid, segment_ids, squeeze)


def _estimate(
    log: _Log,
    weights: jax.Array,
    weights_before: jax.Array | None,
    weight_fn: WeightFn | None,
    self_normalise: bool,
    confidence: float,
) -> OffPolicyValue:
  """The estimate whose residuals have weights `[..., N, K]`.

  Args:
    log: checked arguments.
    weights: `[..., N, K]`.
    weights_before: `[..., N, K]`, of the predicted values; None for ones.
    weight_fn: of the weights, or None.
    self_normalise: whether to divide by mean weights.
    confidence: of the interval.
  """
  _check_confidence(confidence)
  change = weight_fn or (lambda weights: weights)
  used = change(weights)
  if used.shape != weights.shape:
    raise ValueError(f"weight_fn made weights of shape {used.shape} from "
                     f"{weights.shape}; it must keep the shape.")
  terms = log.rewards
  if log.predicted_rewards is not None:
    terms = terms - log.predicted_rewards
  terms = _weigh(terms, used, log.valid, self_normalise)
  if log.predicted_values is not None:
    if weights_before is None:
      base = log.predicted_values
    else:
      # Nothing is before the first slot, and no limit lowers that.
      base = change(weights_before).at[..., 0].set(1)
      base = _weigh(log.predicted_values, base, log.valid, self_normalise)
    terms = terms + base
  terms = jnp.sum(terms, axis=-2)
  is_round = jnp.any(log.valid, axis=-1)
  num_rounds = jnp.sum(is_round, axis=-1, dtype=jnp.int32)
  count = num_rounds.astype(terms.dtype)[..., None]
  value = jnp.sum(terms, axis=-2) / count
  influence = _influence(terms - value[..., None, :], is_round,
                         log.segment_ids, count)
  if log.squeeze:
    value, influence = value[..., 0], influence[..., 0, :]
  error = jnp.sqrt(jnp.sum(jnp.square(influence), axis=-1))
  # An empty sum is 0, but of no round nothing is known.
  error = jnp.where(jnp.isnan(value), jnp.nan, error)
  spread = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * error
  return OffPolicyValue(
      value, error, value - spread, value + spread,
      *_weight_statistics(weights, used, log.valid), num_rounds, influence)


def _weigh(
    values: jax.Array, weights: jax.Array, valid: jax.Array,
    self_normalise: bool,
) -> jax.Array:
  """Terms `[..., N, K, M]` whose mean over valid is the weighted mean.

  Self-normalised, they are also its linearisation: their spread over rounds
  is that of the ratio.
  """
  if self_normalise:
    count = _count(valid, weights.dtype)
    total = jnp.sum(jnp.where(valid, weights, 0), axis=-2)
    # All weights 0: 0 / 0, no estimate.
    weights = weights / (total / jnp.maximum(count, 1))[..., None, :]
  terms = jnp.where(valid[..., None], weights[..., None] * values, 0)
  if self_normalise:
    ratio = (jnp.sum(terms, axis=-3) / jnp.maximum(count, 1)[..., None])
    ratio = ratio[..., None, :, :]
    terms = jnp.where(
        valid[..., None], weights[..., None] * (values - ratio) + ratio, 0)
  return terms


def _influence(
    deviations: jax.Array,
    is_round: jax.Array,
    segment_ids: jax.Array | None,
    count: jax.Array,
) -> jax.Array:
  """`[..., M, N]` of `OffPolicyValue`, from deviations `[..., N, M]`."""
  deviations = jnp.where(is_round[..., None], deviations, 0)
  num_clusters = count
  if segment_ids is not None:
    shape = deviations.shape
    laid_out = sorting.sort_lists(
        None, is_round, segment_ids, shape=shape[:-1])
    slots = segments.permute(
        deviations.reshape(-1, shape[-1]), laid_out.order)
    sums = segments.block_sum(slots, laid_out.lists)
    first = laid_out.valid & (
        laid_out.lists.start == jnp.arange(len(slots), dtype=jnp.int32))
    deviations = segments.unpermute(
        jnp.where(first[:, None], sums, 0), laid_out.order).reshape(shape)
    # The slots of a row are those of its rounds, in another order.
    num_clusters = _count(first.reshape(*shape[:-1], 1), count.dtype)
  several = num_clusters > 1
  correction = num_clusters / jnp.where(several, num_clusters - 1, 1)
  scale = jnp.where(several, jnp.sqrt(correction) / count, jnp.nan)
  return jnp.swapaxes(deviations * scale[..., None, :], -1, -2)


def _weight_statistics(
    weights: jax.Array, used: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """`[..., K]`: effective sample size, largest, mean and share clipped."""
  weights, used = jnp.where(valid, weights, 0), jnp.where(valid, used, 0)
  count = _count(valid, weights.dtype)
  # Shares, since squares of weights may overflow.
  total = jnp.sum(used, axis=-2)
  shares = used / jnp.where(total == 0, 1, total)[..., None, :]
  squares = jnp.sum(jnp.square(shares), axis=-2)
  size = jnp.where(
      total == 0, 0, 1 / jnp.where(squares == 0, 1, squares))
  return (size, jnp.max(weights, axis=-2, initial=0),
          jnp.sum(weights, axis=-2) / count,
          _count(used < weights, weights.dtype) / count)


def _count(flags: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """`[..., K]`, how many of the rounds are True."""
  return jnp.sum(flags, axis=-2, dtype=jnp.int32).astype(dtype)


def _check_confidence(confidence: float) -> None:
  if not 0 < confidence < 1:
    raise ValueError(f"confidence must be in (0, 1), got {confidence}.")


def _floats(array: jax.Array) -> jax.Array:
  array = jnp.asarray(array)
  return array.astype(sorting.rank_dtype(array))
