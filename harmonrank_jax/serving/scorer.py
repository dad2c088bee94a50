"""Scores of any number of rows by a trained ranker."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.data import features as features_lib
from harmonrank_jax.ensemble import ranker as ranker_lib

# Rows scored at once: one shape, whatever the number of rows.
_CHUNK = 8192


class Scorer:
  """The mean score of the members of a ranker, with one compilation.

  Rows are scored in chunks of one size; the last one is padded.
  """

  def __init__(
      self,
      ranker: ranker_lib.Ranker,
      objective_weights: np.ndarray,  # [M], what each AUC is worth.
  ):
    """Prepares the compiled function."""
    weights = jnp.asarray(objective_weights)
    self._score = jax.jit(
        lambda params, rows: ranker.mean_score(params, rows, weights))

  def __call__(
      self, params: dict[str, Any], batch: features_lib.Batch
  ) -> np.ndarray:
    """Scores rows.

    Args:
      params: of S members, leaves of `[S, ...]`.
      batch: N rows, encoded by the features that the ranker was trained with.

    Returns:
      `[N]` float32 scores, in the order of the rows.
    """
    num_rows = len(batch.labels)
    parts = []
    for start in range(0, num_rows, _CHUNK):
      missing = max(0, start + _CHUNK - num_rows)
      padded = features_lib.Batch(*(
          np.pad(x[start:start + _CHUNK],
                 [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in batch))
      parts.append(self._score(params, ranker_lib.rows_of(padded)))
    return np.concatenate([np.asarray(part) for part in parts])[:num_rows]
