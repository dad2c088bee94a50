"""The objectives that --loss names."""

from collections.abc import Callable
from collections.abc import Mapping
import functools
from typing import Any

import numpy as np

from harmonrank_jax.ensemble import losses
from harmonrank_jax.ensemble import objective

LOSSES: dict[str, Callable[..., Any]] = {
    "soft_auc": losses.multi_objective_auc_loss,
    "bce": losses.bce_loss,
    "balanced_bce": losses.balanced_bce_loss,
    "pairwise": losses.pairwise_loss,
    "auc_margin": losses.auc_margin_loss,
}
# The losses that take lists.
RANK_LOSSES = ("soft_auc", "pairwise")
# The share of items without a gradient, and the soft AUC, up to which a rank
# loss trains and has something to train.
_DEAD, _IN_ORDER = 0.9, 0.99


@functools.cache
def objective_of(
    head: str, loss: str, relative_strength: float
) -> objective.Objective:
  """The objective of a head and a loss; the same function for the same ones."""
  loss_fn = LOSSES[loss]
  if loss == "soft_auc":
    loss_fn = functools.partial(loss_fn, relative_strength=relative_strength)
  if head == "score":
    return functools.partial(objective.scalar_objective, loss_fn=loss_fn)
  if loss in RANK_LOSSES:
    return functools.partial(objective.aligned_objective, loss_fn=loss_fn)
  if loss == "bce":
    return objective.cross_entropy_objective
  return functools.partial(objective.pointwise_objective, loss_fn=loss_fn)


def remark(measured: Mapping[str, Any]) -> str | None:
  """What to say of steps whose rank loss teaches (nearly) nothing, if so.

  Of what `update` measures, of one step or the mean of several; `[M]` of the
  objectives, or by their names.
  """
  each = lambda name: np.asarray(
      [*measured[name].values()] if isinstance(measured[name], Mapping)
      else measured[name])
  if "live_objectives" in measured and not each("live_objectives").any():
    return ("no list of a batch has two items of different labels: the rank "
            "loss has no gradient; give longer lists by --lists, or a larger "
            "--batch_size")
  if "dead_gradient_fraction" not in measured:
    return None
  dead = float(measured["dead_gradient_fraction"])
  # Of lists that are in order few items have a gradient, too.
  if dead > _DEAD and np.nanmin(each("soft_auc")) < _IN_ORDER:
    return (f"{dead:.0%} of the items have no gradient of the rank loss; give "
            "a larger --relative_strength")
  return None
