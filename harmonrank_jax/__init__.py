"""Ranking-aligned multi-objective ensembles in JAX."""

from harmonrank_jax.ensemble.losses import auc_margin_loss
from harmonrank_jax.ensemble.losses import balanced_bce_loss
from harmonrank_jax.ensemble.losses import bce_loss
from harmonrank_jax.ensemble.losses import multi_objective_auc_loss
from harmonrank_jax.ensemble.losses import pairwise_loss
from harmonrank_jax.ensemble.metrics import GroupAuc
from harmonrank_jax.ensemble.metrics import auc
from harmonrank_jax.ensemble.metrics import group_auc
from harmonrank_jax.ordering.isotonic import isotonic_regression
from harmonrank_jax.ordering.permutahedron import soft_rank
from harmonrank_jax.ordering.permutahedron import soft_sort
from harmonrank_jax.ordering.sorting import hard_rank

__all__ = [
    "GroupAuc",
    "auc",
    "auc_margin_loss",
    "balanced_bce_loss",
    "bce_loss",
    "group_auc",
    "hard_rank",
    "isotonic_regression",
    "multi_objective_auc_loss",
    "pairwise_loss",
    "soft_rank",
    "soft_sort",
]
