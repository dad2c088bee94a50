"""Slates by a learned policy, trained in a simulator of the home page."""

from harmonrank_jax.reranker.augmentation import Spread
from harmonrank_jax.reranker.augmentation import augment_world
from harmonrank_jax.reranker.constraints import Controller
from harmonrank_jax.reranker.day import History
from harmonrank_jax.reranker.environment import Environment
from harmonrank_jax.reranker.environment import Paired
from harmonrank_jax.reranker.environment import StepResult
from harmonrank_jax.reranker.fidelity import Curve
from harmonrank_jax.reranker.fidelity import ResponseFidelity
from harmonrank_jax.reranker.fidelity import response_fidelity
from harmonrank_jax.reranker.finite import check_finite
from harmonrank_jax.reranker.gae import vector_gae
from harmonrank_jax.reranker.policy import PolicyConfig
from harmonrank_jax.reranker.ppo import Learner
from harmonrank_jax.reranker.ppo import Ppo
from harmonrank_jax.reranker.ppo import mean_action
from harmonrank_jax.reranker.ppo_config import PpoConfig
from harmonrank_jax.reranker.ppo_config import Settings
from harmonrank_jax.reranker.ppo_fit import Diagnostics
from harmonrank_jax.reranker.request import Answer
from harmonrank_jax.reranker.request import Deployed
from harmonrank_jax.reranker.request import Request
from harmonrank_jax.reranker.request import answer
from harmonrank_jax.reranker.response import Exposures
from harmonrank_jax.reranker.response import ResponseModel
from harmonrank_jax.reranker.response_fit import ResponseFit
from harmonrank_jax.reranker.response_fit import fit_response
from harmonrank_jax.reranker.rollout import Outcome
from harmonrank_jax.reranker.rollout import no_action
from harmonrank_jax.reranker.rollout import simulate_days
from harmonrank_jax.reranker.score_calibration import Calibration
from harmonrank_jax.reranker.score_calibration import CalibrationFn
from harmonrank_jax.reranker.score_calibration import calibrated_log_odds
from harmonrank_jax.reranker.score_calibration import intercepts
from harmonrank_jax.reranker.score_calibration import isotonic_by_category
from harmonrank_jax.reranker.score_calibration import platt
from harmonrank_jax.reranker.score_calibration import platt_by_hour
from harmonrank_jax.reranker.score_calibration import uncalibrated
from harmonrank_jax.reranker.search import SearchResult
from harmonrank_jax.reranker.search import cross_entropy_search
from harmonrank_jax.reranker.simulator import Params
from harmonrank_jax.reranker.simulator import Pool
from harmonrank_jax.reranker.simulator import Simulator
from harmonrank_jax.reranker.synthetic import synthetic_world

__all__ = [
    "Answer",
    "Calibration",
    "CalibrationFn",
    "Controller",
    "Curve",
    "Deployed",
    "Diagnostics",
    "Environment",
    "Exposures",
    "History",
    "Learner",
    "Outcome",
    "Paired",
    "Params",
    "PolicyConfig",
    "Pool",
    "Ppo",
    "PpoConfig",
    "Request",
    "ResponseFidelity",
    "ResponseFit",
    "ResponseModel",
    "SearchResult",
    "Settings",
    "Simulator",
    "Spread",
    "StepResult",
    "answer",
    "augment_world",
    "calibrated_log_odds",
    "check_finite",
    "cross_entropy_search",
    "fit_response",
    "intercepts",
    "isotonic_by_category",
    "mean_action",
    "no_action",
    "platt",
    "platt_by_hour",
    "response_fidelity",
    "simulate_days",
    "synthetic_world",
    "uncalibrated",
    "vector_gae",
]
