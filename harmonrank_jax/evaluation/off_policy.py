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

`off_policy_slates` has the same for slates, `off_policy_weights` the weights
and their limits.

Every estimate comes with its diagnostics. Weights have mean 1 if the logging
policy can draw whatever the target policy draws and the propensities are
right: check `mean_weight` first, then `effective_sample_size`. An interval
rests on the rounds that were drawn. Where few of them carry most of the
weight, the rare heavy round is mostly missing, and the interval is too short
and too low; `value_lower_bound` holds there as well. Clipped and shrunk
estimates are biased, and no interval accounts for that bias.
"""

from collections.abc import Callable
import statistics
from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmonrank_jax.evaluation import logged_rounds
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sorting

WeightFn = Callable[[jax.Array], jax.Array]


class OffPolicyValue(NamedTuple):
  """An estimate and its diagnostics.

  Floats are float32, or float64 if rewards or weights are. Shapes are those
  of one log; leading axes hold one estimate each. Statistics of weights have
  an axis K for slates; g are the weights as used, after `weight_fn`.
  """

  # [], or [M] for M objectives: the mean reward of a round (of a slate: the
  # sum over its slots).
  value: jax.Array
  # Like value; by linearisation if self-normalised. NaN with fewer than two
  # rounds (or clusters), or fewer than two of weight above 0.
  standard_error: jax.Array
  low: jax.Array  # like value, `value - z standard_error`
  high: jax.Array  # like value, `value + z standard_error`
  effective_sample_size: jax.Array  # (sum g)^2 / sum g^2; 0 if all are 0
  largest_weight: jax.Array  # before `weight_fn`
  # Before `weight_fn`; 1 up to sampling error, unless propensities are wrong
  # or the log lacks actions of the target policy.
  mean_weight: jax.Array
  clipped_share: jax.Array  # share of weights that `weight_fn` made smaller
  num_rounds: jax.Array  # [] int32
  # [N] or [M, N], the contribution of each round (or cluster, at one of its
  # rounds) to the error: the squares sum to `standard_error^2`. For estimates
  # `a` and `b` from one log, the standard error of `a.value - b.value` is
  # `jnp.linalg.norm(a.influence - b.influence, axis=-1)`.
  influence: jax.Array


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
  """Value of the target policy: IPS, or a variant chosen by the options.

    mean of v + mean of g(w) (reward - q)

  Without predictions q = v = 0. The estimate is unbiased if the weights are
  right and g(w) = w, whatever the predictions; or, given weights that are
  functions of context and action, if the predictions are right, whatever the
  weights and g. Fit the predicting model on other rounds than these.

  Self-normalisation divides the second mean by the mean of g(w). The bias is
  then O(1 / N), a constant added to all rewards moves the estimate by that
  constant, and without predictions the estimate stays within the range of the
  rewards.

  The standard error assumes independent rounds, or with `segment_ids`
  independent clusters of rounds (users, days): rounds within a cluster may
  depend on each other in any way, and there should be tens of clusters.

  Args:
    rewards: `[..., N]`, or `[..., N, M]` for M objectives; any real dtype.
    weights: `[..., N]`, at least 0, as of `importance_weights`.
    predicted_rewards: like rewards: q, for the logged action.
    predicted_values: like rewards: v, the mean of the model's predictions over
      the target policy's actions in this context. Both, or neither.
    weight_fn: g, from weights to weights, element by element; None for the
      identity.
    self_normalise: whether to divide by the mean of g(w).
    where: `[..., N]` bool, True = valid. Masked rounds do not count.
    segment_ids: `[..., N]` integers, the cluster of each round, or None.
    confidence: of the interval, in (0, 1).

  Returns:
    `OffPolicyValue`. The estimate is NaN without a valid round, with a valid
    weight that is negative or not finite (unless g ignores it), with a valid
    reward or prediction that is not finite (for that objective), and if all
    g(w) are 0 (for slates: in a slot), unless it is left to predictions: then
    the log has nothing that the target policy does. The standard error and the
    interval are NaN if g(w) is above 0 in fewer than two rounds (or clusters),
    but for the direct method.

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
  log = logged_rounds.check_rounds(
      rewards, weights, predicted_rewards=predicted_rewards,
      predicted_values=predicted_values, where=where, segment_ids=segment_ids,
      slates=False)
  result = estimate(
      log, log.weights, weight_fn=weight_fn, self_normalise=self_normalise,
      confidence=confidence)
  return result._replace(**{
      name: getattr(result, name)[..., 0] for name in (
          "effective_sample_size", "largest_weight", "mean_weight",
          "clipped_share")})


def estimate(
    log: logged_rounds.LoggedRounds,
    weights: jax.Array,
    *,
    weights_before: jax.Array | None = None,
    weight_fn: WeightFn | None,
    self_normalise: bool,
    confidence: float,
) -> OffPolicyValue:
  """The estimate of `[..., N, K]` weights of the residuals `reward - q`.

  `weights_before` are those of the predicted values; None stands for ones.
  """
  logged_rounds.check_confidence(confidence)
  weight_fn = weight_fn or (lambda weights: weights)
  used = weight_fn(weights)
  if used.shape != weights.shape:
    raise ValueError(f"weight_fn made weights of shape {used.shape} from "
                     f"{weights.shape}; it must keep the shape.")
  terms = log.rewards
  if log.predicted_rewards is not None:
    terms = terms - log.predicted_rewards
  terms = _weigh(terms, used, log.valid, self_normalise)
  if log.predicted_values is not None:
    values = log.predicted_values
    if weights_before is not None:
      # No item stands above the first slot, and no limit lowers its weight.
      before = weight_fn(weights_before).at[..., 0].set(1)
      values = _weigh(values, before, log.valid, self_normalise)
    terms = terms + values
  terms = jnp.sum(terms, axis=-2)
  is_round = jnp.any(log.valid, axis=-1)
  num_rounds = jnp.sum(is_round, axis=-1, dtype=jnp.int32)
  count = num_rounds.astype(terms.dtype)[..., None]
  value = jnp.sum(terms, axis=-2) / count
  deviations = jnp.where(is_round[..., None], terms - value[..., None, :], 0)
  num_clusters = count
  needs = log.predicted_rewards is None or self_normalise
  drawn = log.valid & (used != 0)
  if not needs:
    # The direct method's g is 0 everywhere: it asks nothing of the weights.
    drawn = drawn | (log.valid & (weight_fn(jnp.ones_like(weights)) == 0))
  if log.segment_ids is not None:
    num_objectives = deviations.shape[-1]
    sums, num_clusters = _cluster_sums(
        jnp.concatenate([deviations, drawn.astype(terms.dtype)], axis=-1),
        is_round, log.segment_ids)
    deviations, drawn = jnp.split(sums, [num_objectives], axis=-1)
    drawn = drawn > 0
  num_drawn = logged_rounds.count(drawn, terms.dtype)
  # In any slot: a mean needs a round of some weight, an error two.
  lacks = lambda least: jnp.any(
      jnp.any(log.valid, axis=-2) & (num_drawn < least), axis=-1)[..., None]
  if needs:
    value = jnp.where(lacks(1), jnp.nan, value)
  influence = _influence(
      jnp.where(lacks(2)[..., None], jnp.nan, deviations), num_clusters, count)
  if log.squeeze:
    value, influence = value[..., 0], influence[..., 0, :]
  error = jnp.sqrt(jnp.sum(jnp.square(influence), axis=-1))
  # An empty sum is 0, but without a round no error is known.
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

  With `self_normalise` they are also its linearisation: their spread over
  rounds is that of the ratio.
  """
  weigh = lambda weights, values: jnp.where(
      valid[..., None], weights[..., None] * values, 0)
  if not self_normalise:
    return weigh(weights, values)
  count = jnp.maximum(logged_rounds.count(valid, weights.dtype), 1)
  total = jnp.sum(jnp.where(valid, weights, 0), axis=-2)
  # With all weights 0 this is 0 / 0: there is no estimate.
  weights = weights / (total / count)[..., None, :]
  ratio = jnp.sum(weigh(weights, values), axis=-3) / count[..., None]
  ratio = ratio[..., None, :, :]
  return jnp.where(
      valid[..., None], weights[..., None] * (values - ratio) + ratio, 0)


def _influence(
    deviations: jax.Array, num_clusters: jax.Array, count: jax.Array
) -> jax.Array:
  """`[..., M, N]` of `OffPolicyValue`, from deviations `[..., N, M]`.

  Those of a cluster are together at one of its rounds.
  """
  several = num_clusters > 1
  correction = num_clusters / jnp.where(several, num_clusters - 1, 1)
  scale = jnp.where(several, jnp.sqrt(correction) / count, jnp.nan)
  return jnp.swapaxes(deviations * scale[..., None, :], -1, -2)


def _cluster_sums(
    deviations: jax.Array, is_round: jax.Array, segment_ids: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Sums `[..., N, M]`, each at one round of its cluster, and their number."""
  shape = deviations.shape
  laid_out = sorting.sort_lists(None, is_round, segment_ids, shape=shape[:-1])
  slots = segments.permute(deviations.reshape(-1, shape[-1]), laid_out.order)
  sums = segments.block_sum(slots, laid_out.lists)
  first = laid_out.valid & (
      laid_out.lists.start == jnp.arange(len(slots), dtype=jnp.int32))
  sums = segments.unpermute(
      jnp.where(first[:, None], sums, 0), laid_out.order).reshape(shape)
  # The slots of a row are those of its rounds, in another order.
  return sums, logged_rounds.count(
      first.reshape(*shape[:-1], 1), deviations.dtype)


def _weight_statistics(
    weights: jax.Array, used: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """`[..., K]`: effective sample size, largest, mean and share clipped."""
  weights, used = jnp.where(valid, weights, 0), jnp.where(valid, used, 0)
  count = logged_rounds.count(valid, weights.dtype)
  # Shares are squared, since squares of weights may overflow.
  total = jnp.sum(used, axis=-2)
  shares = used / jnp.where(total == 0, 1, total)[..., None, :]
  squares = jnp.sum(jnp.square(shares), axis=-2)
  size = jnp.where(
      total == 0, 0, 1 / jnp.where(squares == 0, 1, squares))
  return (size, jnp.max(weights, axis=-2, initial=0),
          jnp.sum(weights, axis=-2) / count,
          logged_rounds.count(used < weights, weights.dtype) / count)
