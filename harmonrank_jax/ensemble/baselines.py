"""Formulas of the scores: what a learned ensemble has to beat.

The equal sum, the tuned weighted sum and product, and the closed form of
`calibration`. A weighted product of scores is a weighted sum of their
logarithms: it ranks the same.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import metrics

# Validation rows that weights are tuned on, at most.
_TUNING_ROWS = 50_000


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
    num_candidates: candidates of each round, at least 2.

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


def formula_scores(
    platt: calibration.Calibration,
    objective_weights: np.ndarray,
    train: Any,
    validation: Any,
    test: Any,
    *,
    seed: int,
) -> dict[str, np.ndarray]:
  """Scores of held-out rows by every formula.

  Rows are NumPy arrays `[N, M]` by the names `scores`, `has_score` and
  `labels`, as `data.features.encode` makes them.

  Args:
    platt: fitted on training rows.
    objective_weights: `[M]`, what the AUC of each objective is worth.
    train: training rows, whose mean stands where a score is missing.
    validation: rows that weights are tuned on.
    test: rows to score.
    seed: of the tuning.

  Returns:
    `[N]` scores by name: `equal_sum`, `tuned_sum`, `tuned_product` and
    `closed_form`.
  """
  means = mean_scores(train)
  tested, tuned_on = fill_scores(test, means), fill_scores(validation, means)
  stride = -(-len(tuned_on) // _TUNING_ROWS)

  def tuned(function):
    weights = _tuned_weights(
        function(tuned_on[::stride]), validation.labels[::stride],
        key=jax.random.key(seed),
        objective_weights=jnp.asarray(objective_weights))
    return function(tested) @ np.asarray(weights)

  return {
      "equal_sum": tested.sum(axis=1),
      "tuned_sum": tuned(lambda scores: scores),
      "tuned_product": tuned(np.log),
      "closed_form": np.asarray(calibration.platt_score(
          platt, jnp.asarray(test.scores), jnp.asarray(objective_weights),
          where=jnp.asarray(test.has_score)))}


def mean_scores(rows: Any) -> np.ndarray:
  """`[M]` means of the scores that are there, inside (0, 1)."""
  count = np.maximum(rows.has_score.sum(axis=0), 1)
  mean = np.where(rows.has_score, rows.scores, 0).sum(axis=0)
  return (mean / count).clip(1e-7, 1 - 1e-7)


def fill_scores(rows: Any, means: np.ndarray) -> np.ndarray:
  """`[N, M]` float32 scores, with a mean `[M]` where one is missing."""
  return np.where(rows.has_score, rows.scores, means).astype(np.float32)


_tuned_weights = jax.jit(tune_weights)
