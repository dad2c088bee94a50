"""Weighted sums and products of objective scores, and a search for weights.

What a learned ensemble has to beat, beside the closed form of `calibration`.
"""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ensemble import metrics

EnsembleFn = Callable[[jax.Array, jax.Array], jax.Array]


def weighted_sum(scores: jax.Array, weights: jax.Array) -> jax.Array:
  """`sum_m w_m s_m`.

  Args:
    scores: `[..., M]`.
    weights: `[M]`.

  Returns:
    `[...]`.

  >>> import jax.numpy as jnp
  >>> weighted_sum(jnp.array([[0.5, 0.25]]), jnp.array([1.0, 2.0]))
  Array([1.], dtype=float32)
  """
  return scores @ weights


def weighted_product(scores: jax.Array, weights: jax.Array) -> jax.Array:
  """`sum_m w_m log s_m`, in the order of `prod_m s_m ** w_m`.

  Args:
    scores: `[..., M]`, positive.
    weights: `[M]` exponents.

  Returns:
    `[...]`.

  >>> import jax.numpy as jnp
  >>> weighted_product(jnp.array([[1.0, 1.0]]), jnp.array([1.0, 2.0]))
  Array([0.], dtype=float32)
  """
  return jnp.log(scores) @ weights


def tune_weights(
    ensemble_fn: EnsembleFn,
    scores: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    objective_weights: jax.Array | None = None,
    num_candidates: int = 256,
) -> jax.Array:
  """Weights of the largest `sum_m w_m AUC_m`, by random search.

  Two rounds: candidates all over the simplex, the middle of it among them,
  then as many around the best. Both are in units of the spread of each term,
  so rare objectives are not drowned.

  Args:
    ensemble_fn: `weighted_sum` or `weighted_product`.
    scores: `[N, M]` of validation rows.
    labels: `[N, M]`, as for `auc`; objectives without an AUC do not count.
    key: consumed once.
    objective_weights: `[M]`, what an AUC is worth; equal if None.
    num_candidates: of each round.

  Returns:
    `[M]` float32 weights, not negative.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> scores = jnp.array([[0.1, 0.9], [0.2, 0.1], [0.8, 0.5], [0.9, 0.4]])
  >>> labels = jnp.array([[0], [0], [1], [1]], bool) & jnp.ones((4, 2), bool)
  >>> weights = tune_weights(
  ...     weighted_sum, scores, labels, key=jax.random.key(0))
  >>> bool(weights[0] > weights[1])
  True
  """
  num_objectives = scores.shape[-1]
  worth = jnp.ones(labels.shape[-1])
  if objective_weights is not None:
    worth = jnp.asarray(objective_weights)
  # The terms of the ensemble, one by one.
  terms = jax.vmap(ensemble_fn, (None, 0), 1)(scores, jnp.eye(num_objectives))
  unit = 1 / jnp.maximum(jnp.std(terms, axis=0), 1e-12)

  def value(weights):
    auc = metrics.auc(ensemble_fn(scores, weights * unit), labels)
    return jnp.sum(jnp.where(jnp.isnan(auc), 0, worth * auc))

  def best_of(candidates):
    return candidates[jnp.argmax(lax.map(value, candidates))]

  everywhere, around = jax.random.split(key)
  shape = (num_candidates - 1, num_objectives)
  spread = jax.random.dirichlet(
      everywhere, jnp.ones(num_objectives), shape[:1])
  middle = jnp.full((1, num_objectives), 1 / num_objectives)
  best = best_of(jnp.concatenate([middle, spread]))
  factors = jnp.exp(0.5 * jax.random.normal(around, shape))
  return unit * best_of(jnp.concatenate([best[None], best[None] * factors]))
