"""The objectives that --loss names."""

from collections.abc import Callable
import functools
from typing import Any

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
