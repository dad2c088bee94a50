"""Order statistics with exact derivatives: ranks, soft sorts, isotonic fits."""

from harmonrank_jax.ordering.isotonic import isotonic_regression
from harmonrank_jax.ordering.permutahedron import soft_rank
from harmonrank_jax.ordering.soft_sorting import soft_sort
from harmonrank_jax.ordering.sorting import hard_rank

__all__ = [
    "hard_rank",
    "isotonic_regression",
    "soft_rank",
    "soft_sort",
]
