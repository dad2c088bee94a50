"""Tuned weighted sums: what a learned ensemble has to beat.

Beside the closed form of `calibration`. A weighted product of scores is a
weighted sum of their logarithms: it ranks the same.
"""

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.ensemble import metrics


def tune_weights(
    terms: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    objective_weights: jax.Array | None = None,
    num_candidates: int = 256,
) -> jax.Array:
  """Weights v of the score `sum_m v_m t_m` with the largest `sum_m w_m AUC_m`.

  Random search in two rounds: candidates all over the simplex, its middle
  among them, then as many around the best. They are in units of the spread of
  each term, so that the scores of rare objectives are not drowned.

  Args:
    terms: `[N, M]` of validation rows: scores for a weighted sum, their
      logarithms for a weighted product.
    labels: `[N, M]`, as for `auc`; objectives without an AUC do not count.
    key: consumed once.
    objective_weights: `[M]`, what an AUC is worth; equal if None.
    num_candidates: of each round, at least 2.

  Returns:
    `[M]` float32 weights, not negative.

  Raises:
    ValueError: if the shapes do not fit.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> scores = jnp.array([[0.1, 0.9], [0.2, 0.8], [0.8, 0.1], [0.9, 0.2]])
  >>> clicks = jnp.array([[False], [False], [True], [True]])
  >>> weights = tune_weights(scores, clicks, key=jax.random.key(0))
  >>> bool(weights[0] > weights[1])
  True
  """
  worth = jnp.ones(labels.shape[-1])
  if objective_weights is not None:
    worth = jnp.asarray(objective_weights)
  unit = 1 / jnp.maximum(jnp.std(terms, axis=0), 1e-12)

  def value(weights):
    auc = metrics.auc(terms @ (weights * unit), labels)
    return jnp.sum(jnp.where(jnp.isnan(auc), 0, worth * auc))

  everywhere, around = jax.random.split(key)
  size = terms.shape[-1]
  middle = jnp.full((1, size), 1 / size)
  spread = jax.random.dirichlet(
      everywhere, jnp.ones(size), (num_candidates - 1,))
  candidates = jnp.concatenate([middle, spread])
  factors = jnp.exp(0.5 * jax.random.normal(around, candidates.shape))
  factors = factors.at[0].set(1)  # The best so far stays a candidate.

  def search(number, best):
    tried = jnp.where(number == 0, candidates, best[None] * factors)
    return tried[jnp.argmax(lax.map(value, tried))]

  return unit * lax.fori_loop(0, 2, search, middle[0])
