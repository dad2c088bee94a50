"""The vectors of weights of a sweep, and the objectives that they weigh."""

from collections.abc import Sequence

import numpy as np

from experiments.runs import errors
from harmonrank_jax.data import schema as schema_lib


def simplex_weights(
    num_objectives: int, num_weights: int, *, seed: int
) -> np.ndarray:
  """Draws weights `[K, M]` that sum to 1 and cover the simplex.

  Equal ones, each objective alone, halves of two, then uniform draws.
  """
  rng = np.random.default_rng(seed)
  alone = np.eye(num_objectives)
  # With two objectives the half of both is the vector of equal weights.
  pairs = np.triu_indices(num_objectives, 1 if num_objectives > 2 else 2)
  halves = rng.permutation(0.5 * (alone[pairs[0]] + alone[pairs[1]]))
  draws = rng.dirichlet(np.ones(num_objectives), num_weights)
  weights = np.concatenate(
      [alone.mean(axis=0, keepdims=True), alone, halves, draws])
  return weights[:num_weights].astype(np.float32)


def swept_objectives(
    schema: schema_lib.Schema, labels: np.ndarray
) -> list[int]:
  """Places of the objectives that have an AUC on test rows."""
  swept = [m for m, column in enumerate(labels.T)
           if (column != column[0]).any()]
  left_out = [name for m, name in enumerate(schema.names) if m not in swept]
  if left_out:
    errors.warn(f"the sweep leaves out {', '.join(left_out)}.")
  if len(swept) < 2:
    raise errors.UserError(
        "a trade-off needs at least two objectives with an AUC on test rows, "
        f"there is {', '.join(schema.names[m] for m in swept) or 'none'}.")
  return swept


def swept_weights(
    swept: Sequence[int], *, num_objectives: int, num_weights: int, seed: int
) -> np.ndarray:
  """`simplex_weights` of the swept objectives, 0 for the others."""
  if num_weights <= len(swept):
    raise errors.UserError(
        f"--num_weights={num_weights}: {len(swept)} objectives need at "
        f"least {len(swept) + 1}, each of them alone and all equal.")
  weights = np.zeros((num_weights, num_objectives), np.float32)
  weights[:, list(swept)] = simplex_weights(len(swept), num_weights, seed=seed)
  return weights
