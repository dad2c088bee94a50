"""Ranking-aligned multi-objective ensembles in JAX."""

from harmonrank_jax.diversity.flow_pool import FlowPool
from harmonrank_jax.diversity.flow_pool import allocate_quotas
from harmonrank_jax.diversity.flow_pool import flow_pool
from harmonrank_jax.diversity.greedy import Slate
from harmonrank_jax.diversity.greedy import greedy_dpp
from harmonrank_jax.diversity.greedy import greedy_mmr
from harmonrank_jax.diversity.greedy import greedy_ssd
from harmonrank_jax.diversity.greedy import greedy_top_k
from harmonrank_jax.diversity.likelihood import ThetaFit
from harmonrank_jax.diversity.likelihood import dpp_log_likelihood
from harmonrank_jax.diversity.likelihood import fit_theta
from harmonrank_jax.diversity.metrics import alpha_ndcg
from harmonrank_jax.diversity.metrics import category_coverage
from harmonrank_jax.diversity.metrics import category_entropy
from harmonrank_jax.diversity.metrics import exposure_counts
from harmonrank_jax.diversity.metrics import exposure_gini
from harmonrank_jax.diversity.metrics import intra_list_distance
from harmonrank_jax.diversity.metrics import near_duplicate_rate
from harmonrank_jax.diversity.metrics import slate_log_det
from harmonrank_jax.diversity.metrics import take_slate
from harmonrank_jax.ensemble.baselines import tune_weights
from harmonrank_jax.ensemble.calibration import Platt
from harmonrank_jax.ensemble.calibration import calibrate
from harmonrank_jax.ensemble.calibration import closed_form_score
from harmonrank_jax.ensemble.calibration import fit_platt
from harmonrank_jax.ensemble.calibration import platt_score
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
from harmonrank_jax.evaluation.front import hypervolume
from harmonrank_jax.evaluation.front import pareto_mask
from harmonrank_jax.evaluation.off_policy import OffPolicyValue
from harmonrank_jax.evaluation.off_policy import off_policy_value
from harmonrank_jax.evaluation.off_policy_slates import cascade_slate_value
from harmonrank_jax.evaluation.off_policy_slates import independent_slate_value
from harmonrank_jax.evaluation.off_policy_weights import importance_weights
from harmonrank_jax.evaluation.off_policy_weights import least_error_limit
from harmonrank_jax.evaluation.off_policy_weights import shrink_weights
from harmonrank_jax.evaluation.off_policy_weights import value_lower_bound
from harmonrank_jax.native import backends
from harmonrank_jax.ordering.isotonic import isotonic_regression
from harmonrank_jax.ordering.permutahedron import soft_rank
from harmonrank_jax.ordering.permutahedron import soft_sort
from harmonrank_jax.ordering.sorting import hard_rank
from harmonrank_jax.predictor.pepnet import PepNet
from harmonrank_jax.predictor.pepnet import PepNetConfig
from harmonrank_jax.reranker.augmentation import augment_world
from harmonrank_jax.reranker.fidelity import ResponseFidelity
from harmonrank_jax.reranker.fidelity import response_fidelity
from harmonrank_jax.reranker.response import Exposures
from harmonrank_jax.reranker.response import ResponseModel
from harmonrank_jax.reranker.response_fit import ResponseFit
from harmonrank_jax.reranker.response_fit import fit_response
from harmonrank_jax.reranker.rollout import simulate_days
from harmonrank_jax.reranker.search import cross_entropy_search
from harmonrank_jax.reranker.simulator import Simulator

__all__ = [
    "Exposures",
    "FlowPool",
    "GroupAuc",
    "HarmonRank",
    "HarmonRankConfig",
    "LossDiagnostics",
    "OffPolicyValue",
    "PepNet",
    "PepNetConfig",
    "Platt",
    "ProfileEncoder",
    "ResponseFidelity",
    "ResponseFit",
    "ResponseModel",
    "Simulator",
    "Slate",
    "SoftAucDiagnostics",
    "ThetaFit",
    "allocate_quotas",
    "alpha_ndcg",
    "auc",
    "auc_margin_loss",
    "augment_world",
    "backends",
    "balanced_bce_loss",
    "bce_loss",
    "calibrate",
    "cascade_slate_value",
    "category_coverage",
    "category_entropy",
    "closed_form_score",
    "cross_entropy_search",
    "dpp_log_likelihood",
    "exposure_counts",
    "exposure_gini",
    "fit_platt",
    "fit_response",
    "fit_theta",
    "flow_pool",
    "greedy_dpp",
    "greedy_mmr",
    "greedy_ssd",
    "greedy_top_k",
    "group_auc",
    "hard_rank",
    "hypervolume",
    "importance_weights",
    "independent_slate_value",
    "intra_list_distance",
    "isotonic_regression",
    "least_error_limit",
    "multi_objective_auc_loss",
    "near_duplicate_rate",
    "off_policy_value",
    "pairwise_loss",
    "pareto_mask",
    "platt_score",
    "response_fidelity",
    "shrink_weights",
    "simulate_days",
    "slate_log_det",
    "soft_rank",
    "soft_sort",
    "take_slate",
    "tune_weights",
    "value_lower_bound",
    "with_platt",
]
