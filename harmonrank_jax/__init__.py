"""Ranking-aligned multi-objective ensembles, slates and policies in JAX.

These are the names of the first hour. Every room lists all of its own:
`data`, `ordering`, `predictor`, `ensemble`, `diversity`, `reranker`,
`evaluation` and `serving`. What is not asked for is not imported.
"""

from typing import TYPE_CHECKING

import harmonrank_jax.lazy as lazy

if TYPE_CHECKING:
  from harmonrank_jax.diversity import flow_pool
  from harmonrank_jax.diversity import greedy_dpp
  from harmonrank_jax.diversity import greedy_mmr
  from harmonrank_jax.diversity import greedy_ssd
  from harmonrank_jax.diversity import greedy_top_k
  from harmonrank_jax.ensemble import HarmonRank
  from harmonrank_jax.ensemble import HarmonRankConfig
  from harmonrank_jax.ensemble import Ranker
  from harmonrank_jax.ensemble import auc
  from harmonrank_jax.ensemble import closed_form_score
  from harmonrank_jax.ensemble import fit_platt
  from harmonrank_jax.ensemble import group_auc
  from harmonrank_jax.ensemble import multi_objective_auc_loss
  from harmonrank_jax.ensemble import platt_score
  from harmonrank_jax.evaluation import off_policy_value
  from harmonrank_jax.native import backends
  from harmonrank_jax.ordering import hard_rank
  from harmonrank_jax.ordering import isotonic_regression
  from harmonrank_jax.ordering import soft_rank
  from harmonrank_jax.ordering import soft_sort
  from harmonrank_jax.predictor import PepNet
  from harmonrank_jax.predictor import PepNetConfig
  from harmonrank_jax.reranker import Simulator
  from harmonrank_jax.reranker import fit_response
  from harmonrank_jax.reranker import simulate_days
else:
  __getattr__, __dir__ = lazy.attach(__name__, {
      "diversity": (
          "flow_pool", "greedy_dpp", "greedy_mmr", "greedy_ssd",
          "greedy_top_k"),
      "ensemble": (
          "HarmonRank", "HarmonRankConfig", "Ranker", "auc",
          "closed_form_score", "fit_platt", "group_auc",
          "multi_objective_auc_loss", "platt_score"),
      "evaluation": ("off_policy_value",),
      "native": ("backends",),
      "ordering": (
          "hard_rank", "isotonic_regression", "soft_rank", "soft_sort"),
      "predictor": ("PepNet", "PepNetConfig"),
      "reranker": ("Simulator", "fit_response", "simulate_days"),
  }, modules=(
      "arrays", "data", "diversity", "ensemble", "evaluation", "logistic",
      "native", "ordering", "predictor", "reranker", "serving", "sharding"))

__all__ = [
    "HarmonRank",
    "HarmonRankConfig",
    "PepNet",
    "PepNetConfig",
    "Ranker",
    "Simulator",
    "auc",
    "backends",
    "closed_form_score",
    "fit_platt",
    "fit_response",
    "flow_pool",
    "greedy_dpp",
    "greedy_mmr",
    "greedy_ssd",
    "greedy_top_k",
    "group_auc",
    "hard_rank",
    "isotonic_regression",
    "multi_objective_auc_loss",
    "off_policy_value",
    "platt_score",
    "simulate_days",
    "soft_rank",
    "soft_sort",
]
