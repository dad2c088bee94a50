"""How good a ranking or a policy is, and how sure that is."""

from harmonrank_jax.evaluation.aucs import AucEstimates
from harmonrank_jax.evaluation.aucs import Comparison
from harmonrank_jax.evaluation.aucs import Estimate
from harmonrank_jax.evaluation.aucs import Part
from harmonrank_jax.evaluation.aucs import auc_estimates
from harmonrank_jax.evaluation.aucs import compare
from harmonrank_jax.evaluation.aucs import group_auc_estimates
from harmonrank_jax.evaluation.calibration_error import (
    expected_calibration_error,
)
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

__all__ = [
    "AucEstimates",
    "Comparison",
    "Estimate",
    "OffPolicyValue",
    "Part",
    "auc_estimates",
    "cascade_slate_value",
    "compare",
    "expected_calibration_error",
    "group_auc_estimates",
    "hypervolume",
    "importance_weights",
    "independent_slate_value",
    "least_error_limit",
    "off_policy_value",
    "pareto_mask",
    "shrink_weights",
    "value_lower_bound",
]
