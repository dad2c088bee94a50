"""From the scores of M objectives and a profile to one score that ranks."""

from harmonrank_jax.ensemble import training
from harmonrank_jax.ensemble.baselines import formula_scores
from harmonrank_jax.ensemble.baselines import tune_weights
from harmonrank_jax.ensemble.calibration import Calibration
from harmonrank_jax.ensemble.calibration import calibrate
from harmonrank_jax.ensemble.calibration import closed_form_score
from harmonrank_jax.ensemble.calibration import fit_platt
from harmonrank_jax.ensemble.calibration import platt_score
from harmonrank_jax.ensemble.losses import Loss
from harmonrank_jax.ensemble.losses import LossDiagnostics
from harmonrank_jax.ensemble.losses import SoftAucDiagnostics
from harmonrank_jax.ensemble.losses import auc_margin_loss
from harmonrank_jax.ensemble.losses import balanced_bce_loss
from harmonrank_jax.ensemble.losses import bce_loss
from harmonrank_jax.ensemble.losses import multi_objective_auc_loss
from harmonrank_jax.ensemble.losses import pairwise_loss
from harmonrank_jax.ensemble.metrics import GroupAuc
from harmonrank_jax.ensemble.metrics import auc
from harmonrank_jax.ensemble.metrics import group_auc
from harmonrank_jax.ensemble.network import HarmonRank
from harmonrank_jax.ensemble.network import HarmonRankConfig
from harmonrank_jax.ensemble.network import ProfileEncoder
from harmonrank_jax.ensemble.network import with_platt
from harmonrank_jax.ensemble.objective import Objective
from harmonrank_jax.ensemble.objective import aligned_objective
from harmonrank_jax.ensemble.objective import cross_entropy_objective
from harmonrank_jax.ensemble.objective import pointwise_objective
from harmonrank_jax.ensemble.objective import scalar_objective
from harmonrank_jax.ensemble.ranker import Ranker
from harmonrank_jax.ensemble.ranker import Rows
from harmonrank_jax.ensemble.ranker import rows_of

__all__ = [
    "Calibration",
    "GroupAuc",
    "HarmonRank",
    "HarmonRankConfig",
    "Loss",
    "LossDiagnostics",
    "Objective",
    "ProfileEncoder",
    "Ranker",
    "Rows",
    "SoftAucDiagnostics",
    "aligned_objective",
    "auc",
    "auc_margin_loss",
    "balanced_bce_loss",
    "bce_loss",
    "calibrate",
    "closed_form_score",
    "cross_entropy_objective",
    "fit_platt",
    "formula_scores",
    "group_auc",
    "multi_objective_auc_loss",
    "pairwise_loss",
    "platt_score",
    "pointwise_objective",
    "rows_of",
    "scalar_objective",
    "training",
    "tune_weights",
    "with_platt",
]
