"""From features to one score for each objective."""

from harmonrank_jax.predictor import training
from harmonrank_jax.predictor.pepnet import PepNet
from harmonrank_jax.predictor.pepnet import PepNetConfig
from harmonrank_jax.predictor.pepnet import multi_task_loss
from harmonrank_jax.predictor.pepnet import with_base_rates

__all__ = [
    "PepNet",
    "PepNetConfig",
    "multi_task_loss",
    "training",
    "with_base_rates",
]
