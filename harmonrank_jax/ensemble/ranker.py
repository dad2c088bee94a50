"""A ranker: profile encoder and ensemble network as one pure function.

Rows go in as arrays of a log; parameters are a dict of both networks. Members,
networks that differ in initialisation and batches alone, are parameters with a
leading axis, and their mean score ranks.
"""

import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.ensemble import calibration as calibration_lib
from harmonrank_jax.ensemble import network


class Rows(NamedTuple):
  """Rows of a log; N rows, M objectives, C and Q profile columns."""

  labels: Any  # [N, M] bool, or float32 where an objective is a value
  scores: Any  # [N, M] float32 predicted scores
  has_score: Any  # [N, M] bool, False = the score is missing
  categorical: Any  # [N, C] int32 entries of the vocabularies; 0 is unknown
  numeric: Any  # [N, Q] float32
  # [N] int32, the list of each row in a rank loss; None = all rows are one
  # list.
  lists: Any | None = None


def rows_of(batch: Any, lists: Any | None = None) -> Rows:
  """Rows on the device.

  Args:
    batch: NumPy arrays by the names of `Rows`, as `data.features.encode` makes
      them; other attributes are left behind.
    lists: `[N]` ids of any integers, or None.

  Returns:
    The rows, with lists numbered from 0.
  """
  return jax.tree.map(jnp.asarray, Rows(
      batch.labels, batch.scores, batch.has_score, batch.categorical,
      batch.numeric, None if lists is None else list_numbers(lists)))


def list_numbers(ids: Any) -> np.ndarray:
  """`[N]` ids of lists as int32 from 0, which is what the device holds."""
  return np.unique(np.asarray(ids), return_inverse=True)[1].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Ranker:
  """`ProfileEncoder` and `HarmonRank`; parameters are a dict of both.

  Attributes:
    config: of the network.
    vocabulary_sizes: of the categorical profile columns.

  `training.update` has an example.
  """

  config: network.HarmonRankConfig
  vocabulary_sizes: tuple[int, ...]

  def init(
      self, key: jax.Array, rows: Rows, platt: calibration_lib.Calibration
  ) -> dict[str, Any]:
    """Parameters of one member, which start at the Platt calibration.

    The key is consumed once; some rows give the shapes.
    """
    for_encoder, for_network = jax.random.split(key)
    encoder = self._encoder.init(for_encoder, rows.categorical, rows.numeric)
    profile = self._encoder.apply(encoder, rows.categorical, rows.numeric)
    ensemble = network.HarmonRank(self.config).init(
        for_network, rows.scores, profile)
    return {"encoder": encoder,
            "network": network.with_platt(dict(ensemble), platt)}

  def score(
      self, params: dict[str, Any], rows: Rows,
      objective_weights: jax.Array | None,
  ) -> jax.Array:
    """`[N]` scores of one member; labels and lists are not read.

    Weights `[M]` are what the AUC of each objective is worth. The scalar head
    leaves them out: it knows those that it was trained with.
    """
    if self.config.head == "score":
      return self._apply(params, rows)
    return self._apply(params, rows, objective_weights=objective_weights)

  def mean_score(
      self, params: dict[str, Any], rows: Rows,
      objective_weights: jax.Array | None,
  ) -> jax.Array:
    """`[N]` mean score of S members; leaves of `params` are `[S, ...]`."""
    scores = jax.vmap(
        lambda member: self.score(member, rows, objective_weights))(params)
    return jnp.mean(scores, axis=0)

  def objective_logits(self, params: dict[str, Any], rows: Rows) -> jax.Array:
    """`[N, M]` corrected log-odds of one member with the aligned head."""
    return self._apply(params, rows, method="objective_logits")

  @property
  def _encoder(self) -> network.ProfileEncoder:
    return network.ProfileEncoder(self.vocabulary_sizes)

  def _apply(self, params: dict[str, Any], rows: Rows, **kwargs) -> jax.Array:
    profile = self._encoder.apply(
        params["encoder"], rows.categorical, rows.numeric)
    result = network.HarmonRank(self.config).apply(
        params["network"], rows.scores, profile, rows.has_score, **kwargs)
    assert isinstance(result, jax.Array)  # No mutable collections.
    return result
