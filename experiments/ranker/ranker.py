"""The ensemble as the binaries use it: profile encoder and network in one.

Rows go in as they come from a log; what a model needs beside its parameters
(its configuration, schema and features) is one JSON file.
"""

from collections.abc import Callable
import dataclasses
import functools
import json
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy import special
import numpy as np
import optax

from experiments.runs import errors
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import losses
from harmonrank_jax.ensemble import network

LOSSES: dict[str, Callable[..., Any]] = {
    "soft_auc": losses.multi_objective_auc_loss,
    "bce": losses.bce_loss,
    "balanced_bce": losses.balanced_bce_loss,
    "pairwise": losses.pairwise_loss,
    "auc_margin": losses.auc_margin_loss,
}
# Of these, those that take lists.
RANK_LOSSES = ("soft_auc", "pairwise")
# Of its gradient that a rank loss of lists has in the aligned head, but for the
# gains: all of it is too much noise of rare objectives.
_LIST_SHARE = 0.3

MODEL = "model.json"
# Rows scored at once: one shape, whatever the number of rows.
_CHUNK = 8192


class Rows(NamedTuple):
  """Rows on the device; N rows, M objectives, C and Q profile columns."""

  labels: Any  # [N, M] bool or float32
  scores: Any  # [N, M] float32
  has_score: Any  # [N, M] bool
  categorical: Any  # [N, C] int32
  numeric: Any  # [N, Q] float32
  lists: Any | None  # [N] int32, what is ranked together; None = all


def rows_of(
    batch: features_lib.Batch, lists: np.ndarray | None = None
) -> Rows:
  """Rows of a batch; lists are any integers."""
  return jax.tree.map(jnp.asarray, Rows(
      batch.labels, batch.scores, batch.has_score, batch.categorical,
      batch.numeric, None if lists is None else list_numbers(lists)))


def list_numbers(ids: np.ndarray) -> np.ndarray:
  """Ids as int32 from 0, which is what the device holds."""
  return np.unique(ids, return_inverse=True)[1].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Ranker:
  """`ProfileEncoder` and `HarmonRank`; parameters are a dict of both.

  Attributes:
    config: of the network.
    vocabulary_sizes: of the categorical profile columns.
  """

  config: network.HarmonRankConfig
  vocabulary_sizes: tuple[int, ...]

  def init(
      self, key: jax.Array, rows: Rows, platt: calibration.Platt
  ) -> dict[str, Any]:
    """Parameters that start at the Platt calibration."""
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
    """`[N]` scores; the scalar head takes no weights."""
    if self.config.head == "score":
      return self._apply(params, rows)
    return self._apply(params, rows, objective_weights=objective_weights)

  def objective_logits(self, params: dict[str, Any], rows: Rows) -> jax.Array:
    """`[N, M]` corrected log-odds of the aligned head."""
    return self._apply(params, rows, method="objective_logits")

  def gate_weights(self, params: dict[str, Any], rows: Rows) -> jax.Array:
    """`[N, M]` what the gate of the scalar head weighs objectives by."""
    _, found = network.HarmonRank(self.config).apply(
        params["network"], rows.scores, self._profile(params, rows),
        rows.has_score, mutable=["intermediates"])
    weights = found["intermediates"]["relation_agnostic"][
        network.GATE_WEIGHTS][0]
    assert isinstance(weights, jax.Array)
    return weights

  @property
  def _encoder(self) -> network.ProfileEncoder:
    return network.ProfileEncoder(self.vocabulary_sizes)

  def _profile(self, params: dict[str, Any], rows: Rows) -> jax.Array:
    profile = self._encoder.apply(
        params["encoder"], rows.categorical, rows.numeric)
    assert isinstance(profile, jax.Array)  # No mutable collections.
    return profile

  def _apply(self, params: dict[str, Any], rows: Rows, **kwargs) -> jax.Array:
    result = network.HarmonRank(self.config).apply(
        params["network"], rows.scores, self._profile(params, rows),
        rows.has_score, **kwargs)
    assert isinstance(result, jax.Array)
    return result


class Scorer:
  """Scores any number of rows with one compilation, by the mean of members.

  Parameters are stacked: leaves of `[S, ...]`.
  """

  def __init__(self, ranker: Ranker, objective_weights: np.ndarray):
    weights = jnp.asarray(objective_weights)
    self._score = jax.jit(
        lambda params, rows: jnp.mean(jax.vmap(
            lambda member: ranker.score(member, rows, weights))(params),
                                      axis=0))

  def __call__(
      self, params: dict[str, Any], batch: features_lib.Batch
  ) -> np.ndarray:
    """`[N]` float32 scores."""
    num_rows = len(batch.labels)
    parts = []
    for start in range(0, num_rows, _CHUNK):
      part = features_lib.Batch(*(x[start:start + _CHUNK] for x in batch))
      missing = _CHUNK - len(part.labels)
      padded = features_lib.Batch(*(
          np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in part))
      parts.append(self._score(params, rows_of(padded)))
    return np.concatenate([np.asarray(part) for part in parts])[:num_rows]


class Model(NamedTuple):
  """What a trained ranker needs beside its parameters."""

  config: network.HarmonRankConfig
  schema: schema_lib.Schema
  features: features_lib.Features

  @property
  def ranker(self) -> Ranker:
    return Ranker(self.config, self.features.vocabulary_sizes)


def write_model(workdir: pathlib.Path, model: Model) -> None:
  """Writes `model.json`."""
  workdir_lib.write_json(workdir / MODEL, {
      "network": dataclasses.asdict(model.config),
      "schema": model.schema.to_json(),
      "features": model.features.to_json()})


def read_model(workdir: pathlib.Path) -> Model:
  """Reads `model.json`.

  Raises:
    UserError: if there is none that can be read.
  """
  path = workdir / MODEL
  try:
    content = json.loads(path.read_text())
    return Model(network.HarmonRankConfig(**content["network"]),
                 schema_lib.schema_from_json(content["schema"]),
                 features_lib.features_from_json(content["features"]))
  except FileNotFoundError:
    raise errors.UserError(
        f"{workdir}: no {MODEL}; expected the workdir of a training "
        "run.") from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.UserError(f"{path}: not a model ({error}).") from None


def make_loss(
    ranker: Ranker, name: str, objective_weights: np.ndarray,
    platt: calibration.Platt, *, relative_strength: float,
) -> Callable[[dict[str, Any], Rows], tuple[jax.Array, dict[str, jax.Array]]]:
  """The loss of a batch, and its diagnostics by name.

  The scalar head's score is a logit: every loss takes it as it is. In the
  aligned head each loss trains what it can tell. A rank loss has few positives
  of a rare objective to go by, each of large weight: it trains the gains of
  the objectives, and cross-entropy the probabilities, which it estimates far
  better (with everything trained on the rank loss, the validation AUC of the
  embedded log is worse, and falls after the first epochs). Within lists it
  trains both. The rank loss takes
  the logarithm of the score: of the same order, but without its heavy tail,
  in which a soft rank would see little but the rarest objective. Pointwise
  losses take the log-odds of each objective instead of one score. Values are
  probabilities of a kind: fractions of the largest.

  Args:
    ranker: the model.
    name: one of `LOSSES`.
    objective_weights: `[M]`.
    platt: fitted on training rows.
    relative_strength: of the soft rank.
  """
  loss_fn, weights = LOSSES[name], jnp.asarray(objective_weights)
  if name == "soft_auc":
    loss_fn = functools.partial(loss_fn, relative_strength=relative_strength)

  def of_score(params, rows, transform=lambda score: score):
    score = transform(ranker.score(params, rows, weights))
    loss, diagnostics = loss_fn(
        score, rows.labels, objective_weights=weights,
        segment_ids=rows.lists)
    return loss, diagnostics._asdict()

  def entropy(params, rows):
    each = jnp.mean(optax.sigmoid_binary_cross_entropy(
        ranker.objective_logits(params, rows),
        rows.labels / platt.unit[None, :]), axis=0)
    return jnp.mean(each), {"cross_entropy": each}

  def of_objectives(params, rows):
    # Both classes weigh the same here: what is learned is the odds beside
    # those of the base rate.
    odds = special.logit(platt.base_rate)[None, :]
    each = jax.vmap(lambda x, y: loss_fn(x, y)[0], (1, 1))(
        ranker.objective_logits(params, rows) - odds, rows.labels)
    return jnp.mean(each), {"objective_loss": each}

  def of_both(params, rows):
    # What tells users apart lowers cross-entropy most, and no list asks for
    # it: of lists, the rank loss trains the probabilities as well.
    ranked = _gain_first(params, 0 if rows.lists is None else _LIST_SHARE)
    loss, diagnostics = of_score(ranked, rows, jnp.log)
    likelihood, parts = entropy(params, rows)
    return loss + likelihood, {**diagnostics, **parts}

  if ranker.config.head == "score":
    return of_score
  if name in RANK_LOSSES:
    return of_both
  return entropy if name == "bce" else of_objectives


def _gain_first(params: dict[str, Any], share: float) -> dict[str, Any]:
  """The parameters, of which all but the gains have a share of the gradient."""
  def scaled(path, x):
    if path[-1].key == network.GAIN:
      return x
    still = jax.lax.stop_gradient(x)
    return still + share * (x - still) if share else still

  return jax.tree.map_with_path(scaled, params)
