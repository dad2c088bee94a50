"""What a policy over slates would earn, from a log of another policy.

The rewards of a slate's slots are summed. The two estimates differ in what the
reward of a slot may depend on: the item in that slot alone
(`independent_slate_value`), or that item and those above it
(`cascade_slate_value`). The weaker assumption has the larger weights.
"""

import jax
import jax.numpy as jnp

from harmonrank_jax.evaluation import logged_rounds
from harmonrank_jax.evaluation import off_policy


def independent_slate_value(
    rewards: jax.Array,
    weights: jax.Array,
    *,
    predicted_rewards: jax.Array | None = None,
    predicted_values: jax.Array | None = None,
    weight_fn: off_policy.WeightFn | None = None,
    self_normalise: bool = False,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    confidence: float = 0.95,
) -> off_policy.OffPolicyValue:
  """Value of a slate whose slots do not influence each other.

  The sum of `off_policy_value` over slots: unbiased if the reward of a slot
  depends on the context and on the item in that slot alone. Users that stop
  reading, or tire of a category, bias it; in return its weights are the
  smallest.

  Args not listed, and errors, are those of `off_policy_value`.

  Args:
    rewards: `[..., N, K]`, or `[..., N, K, M]`, slot by slot.
    weights: `[..., N, K]`, ratio of the probabilities that the target and the
      logging policy put that item into that slot, whatever the other slots
      show.
    predicted_rewards: like rewards, for the logged item in its slot.
    predicted_values: like rewards, mean over the target policy's items in that
      slot.
    where: `[..., N, K]` bool (or `[..., N, 1]`), True = valid. Masked slots
      have no reward and no weight; a round without a valid slot does not
      count. The mask must not depend on the actions: a slot that the user did
      not reach is valid and has reward 0.

  Returns:
    `OffPolicyValue`; the statistics of the weights are `[..., K]`, over valid
    slots.

  References:
    Li et al., "Offline evaluation of ranking policies with click models",
    KDD 2018, the item-position estimator.

  >>> import jax.numpy as jnp
  >>> jax.jit(independent_slate_value)(
  ...     jnp.array([[1, 0], [1, 1]]), jnp.array([[0.5, 2.0], [1.5, 0.5]])
  ... ).value
  Array(1.25, dtype=float32)
  """
  log = logged_rounds.check_rounds(
      rewards, weights, predicted_rewards=predicted_rewards,
      predicted_values=predicted_values, where=where, segment_ids=segment_ids,
      slates=True)
  return off_policy.estimate(
      log, log.weights, weight_fn=weight_fn, self_normalise=self_normalise,
      confidence=confidence)


def cascade_slate_value(
    rewards: jax.Array,
    weights: jax.Array,
    *,
    predicted_rewards: jax.Array | None = None,
    predicted_values: jax.Array | None = None,
    weight_fn: off_policy.WeightFn | None = None,
    self_normalise: bool = False,
    where: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    confidence: float = 0.95,
) -> off_policy.OffPolicyValue:
  """Value of a slate that users read from the top.

  With `w_1..k` the product of the weights of the slots up to k,

    sum over k of  g(w_1..k) (reward_k - q_k) + g(w_1..k-1) v_k,

  reward-interaction IPS without predictions, cascade doubly robust with them.
  Unbiased if the reward of a slot depends on the context and on the items in
  that slot and above; the variance grows with the products.

  Args not listed, and errors, are those of `independent_slate_value`.

  Args:
    rewards: `[..., N, K]`, or `[..., N, K, M]`, slot by slot.
    weights: `[..., N, K]`, ratio of the probabilities of the item in the slot
      given the items above; multiplied here, in float64, masked slots
      counting as 1. A product beyond float32 makes the estimate NaN.
    predicted_rewards: like rewards: q, the reward of this slot and all below,
      given the items up to it, if the target policy fills the slots below.
    predicted_values: like rewards: v, the mean of q over the target policy's
      items in this slot, given the logged items above.
    weight_fn: g, applied to the products.
    self_normalise: whether to divide by the mean product, slot by slot.

  Returns:
    `OffPolicyValue`; the statistics are those of the products, `[..., K]`.

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
  log = logged_rounds.check_rounds(
      rewards, weights, predicted_rewards=predicted_rewards,
      predicted_values=predicted_values, where=where, segment_ids=segment_ids,
      slates=True)
  products = _cumulative_products(jnp.where(log.valid, log.weights, 1))
  products = jnp.where(jnp.isfinite(products), products, jnp.nan)
  before = jnp.concatenate(
      [jnp.ones_like(products[..., :1]), products[..., :-1]], axis=-1)
  return off_policy.estimate(
      log, products, weights_before=before, weight_fn=weight_fn,
      self_normalise=self_normalise, confidence=confidence)


def _cumulative_products(weights: jax.Array) -> jax.Array:
  """Products of `[..., K]` up to each slot.

  In float64: one that is below float32 on the way may be 1 at the end. The loop
  keeps all but factors in the caller's precision, as derivatives need it.
  """
  products = []
  with jax.enable_x64(True):
    product = jnp.ones(weights.shape[:-1], jnp.float64)
    for slot in range(weights.shape[-1]):
      product = product * weights[..., slot].astype(jnp.float64)
      products.append(product.astype(weights.dtype))
  return jnp.stack(products, axis=-1) if products else weights
