"""From scored candidates to slates that are relevant and varied."""

from harmonrank_jax.diversity.greedy import Slate
from harmonrank_jax.diversity.greedy import greedy_dpp
from harmonrank_jax.diversity.greedy import greedy_mmr
from harmonrank_jax.diversity.greedy import greedy_ssd
from harmonrank_jax.diversity.greedy import greedy_top_k
from harmonrank_jax.diversity.likelihood import dpp_log_likelihood
from harmonrank_jax.diversity.metrics import alpha_ndcg
from harmonrank_jax.diversity.metrics import category_coverage
from harmonrank_jax.diversity.metrics import category_entropy
from harmonrank_jax.diversity.metrics import exposure_counts
from harmonrank_jax.diversity.metrics import exposure_gini
from harmonrank_jax.diversity.metrics import intra_list_distance
from harmonrank_jax.diversity.metrics import near_duplicate_rate
from harmonrank_jax.diversity.metrics import slate_log_det
from harmonrank_jax.diversity.metrics import take_slate
from harmonrank_jax.diversity.pooling import FlowPool
from harmonrank_jax.diversity.pooling import allocate_quotas
from harmonrank_jax.diversity.pooling import flow_pool
from harmonrank_jax.diversity.theta import ThetaFit
from harmonrank_jax.diversity.theta import fit_theta

__all__ = [
    "FlowPool",
    "Slate",
    "ThetaFit",
    "allocate_quotas",
    "alpha_ndcg",
    "category_coverage",
    "category_entropy",
    "dpp_log_likelihood",
    "exposure_counts",
    "exposure_gini",
    "fit_theta",
    "flow_pool",
    "greedy_dpp",
    "greedy_mmr",
    "greedy_ssd",
    "greedy_top_k",
    "intra_list_distance",
    "near_duplicate_rate",
    "slate_log_det",
    "take_slate",
]
