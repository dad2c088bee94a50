"""What a ranker minimises: one function for each way to train a head.

Every objective has the signature `Objective` and is passed to
`training.update`, with other losses by
`functools.partial(aligned_objective, loss_fn=...)`.
"""

from collections.abc import Callable
from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.scipy import special
import optax

from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import losses
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib

# Share of the gradient of a rank loss of lists that reaches the probabilities
# of the aligned head: the whole of it is too noisy for rare objectives.
_LIST_SHARE = 0.3


class Objective(Protocol):
  """The signature of every objective."""

  def __call__(
      self,
      ranker: ranker_lib.Ranker,
      params: dict[str, Any],
      rows: ranker_lib.Rows,
      *,
      objective_weights: jax.Array,
      platt: calibration.Calibration,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Value and what was measured.

    Args:
      ranker: with the aligned head, where nothing else is said.
      params: of one member.
      rows: a batch; `rows.lists` are the lists of a rank loss.
      objective_weights: `[M]`, what the AUC of each objective is worth.
      platt: fitted on training rows.

    Returns:
      The loss, and scalars and `[M]` vectors to watch, by name.
    """


def scalar_objective(
    ranker: ranker_lib.Ranker, params: dict[str, Any], rows: ranker_lib.Rows,
    *, objective_weights: jax.Array, platt: calibration.Calibration,
    loss_fn: Callable[..., Any] = losses.multi_objective_auc_loss,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """A loss of the one score, which is a logit: the paper's objective.

  Arguments as in `Objective`, with either head; `platt` is not read: this loss
  needs no calibration. `loss_fn` is one of `losses`, for all objectives at
  once; what is measured is its diagnostics.
  """
  del platt
  score = ranker.score(params, rows, objective_weights)
  loss, diagnostics = loss_fn(
      score, rows.labels, objective_weights=objective_weights,
      segment_ids=rows.lists)
  return loss, diagnostics._asdict()


def aligned_objective(
    ranker: ranker_lib.Ranker, params: dict[str, Any], rows: ranker_lib.Rows,
    *, objective_weights: jax.Array, platt: calibration.Calibration,
    loss_fn: Callable[..., Any] = losses.multi_objective_auc_loss,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """A rank loss for the gains plus cross-entropy for the probabilities.

  Each loss trains what it estimates well. A rank loss sees few positives of a
  rare objective, each of large weight: it trains the gains alone. Trained on
  everything it overfits, and the validation AUC falls after the first passes.
  Within lists it trains the probabilities as well, by a share of its gradient:
  cross-entropy is lowered most by what tells users apart, which no list asks
  for.

  The rank loss takes the logarithm of the score: the same order without the
  heavy tail, in which a soft rank would see little but the rarest objective.

  Arguments as in `Objective`; `loss_fn` is a rank loss of `losses`. Measures
  its diagnostics, and the `cross_entropy` `[M]`.
  """
  share = 0.0 if rows.lists is None else _LIST_SHARE
  score = ranker.score(_damped(params, share), rows, objective_weights)
  loss, diagnostics = loss_fn(
      jnp.log(score), rows.labels, objective_weights=objective_weights,
      segment_ids=rows.lists)
  likelihood, measured = cross_entropy_objective(
      ranker, params, rows, objective_weights=objective_weights, platt=platt)
  return loss + likelihood, {**diagnostics._asdict(), **measured}


def cross_entropy_objective(
    ranker: ranker_lib.Ranker, params: dict[str, Any], rows: ranker_lib.Rows,
    *, objective_weights: jax.Array, platt: calibration.Calibration,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Cross-entropy of the corrected probabilities of the aligned head.

  The mean over objectives; measures `cross_entropy` `[M]`. Arguments as in
  `Objective`; `objective_weights` are not read: probabilities do not depend on
  them. Values are fractions of `platt.unit`, and are fitted like probabilities.
  """
  del objective_weights
  each = jnp.mean(optax.sigmoid_binary_cross_entropy(
      ranker.objective_logits(params, rows),
      rows.labels / platt.unit[None, :]), axis=0)
  return jnp.mean(each), {"cross_entropy": each}


def pointwise_objective(
    ranker: ranker_lib.Ranker, params: dict[str, Any], rows: ranker_lib.Rows,
    *, objective_weights: jax.Array, platt: calibration.Calibration,
    loss_fn: Callable[..., Any] = losses.balanced_bce_loss,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """A loss of each objective's own log-odds in the aligned head.

  For losses in which both classes weigh the same: what they estimate is the
  odds relative to those of the base rate, which are subtracted. The mean over
  objectives; measures `objective_loss` `[M]`. Arguments as in `Objective`;
  `objective_weights` are not read. `loss_fn` takes one score and one objective.
  """
  del objective_weights
  base = special.logit(platt.base_rate)[None, :]
  each = jax.vmap(lambda scores, labels: loss_fn(scores, labels)[0], (1, 1))(
      ranker.objective_logits(params, rows) - base, rows.labels)
  return jnp.mean(each), {"objective_loss": each}


def _damped(params: dict[str, Any], share: float) -> dict[str, Any]:
  """The parameters; all but the gains pass only a share of the gradient."""
  def damp(path, x):
    if path[-1].key == network.GAIN:
      return x
    still = jax.lax.stop_gradient(x)
    return still + share * (x - still) if share else still

  return jax.tree.map_with_path(damp, params)
