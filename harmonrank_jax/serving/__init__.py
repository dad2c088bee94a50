"""A trained run as something that scores and selects elsewhere."""

from typing import TYPE_CHECKING

import harmonrank_jax.lazy as lazy

if TYPE_CHECKING:
  from harmonrank_jax.serving.buckets import RequestError
  from harmonrank_jax.serving.bundle import Bundle
  from harmonrank_jax.serving.bundle import Page
  from harmonrank_jax.serving.bundle import load
  from harmonrank_jax.serving.golden import Golden
  from harmonrank_jax.serving.manifest import ArtefactError
  from harmonrank_jax.serving.manifest import current_version
  from harmonrank_jax.serving.models import Ensemble
  from harmonrank_jax.serving.models import Predictor
  from harmonrank_jax.serving.models import Slates
  from harmonrank_jax.serving.models import Trained
  from harmonrank_jax.serving.models import read_model
  from harmonrank_jax.serving.models import write_model
  from harmonrank_jax.serving.policy import Policy
  from harmonrank_jax.serving.publishing import publish
  from harmonrank_jax.serving.requests import stack
  from harmonrank_jax.serving.scorer import Scorer
  from harmonrank_jax.serving.selector import Picks
  from harmonrank_jax.serving.selector import Rules
  from harmonrank_jax.serving.selector import Selector
  from harmonrank_jax.serving.selector import select_slates
else:
  __getattr__, __dir__ = lazy.attach(__name__, {
      "buckets": ("RequestError",),
      "bundle": ("Bundle", "Page", "load"),
      "golden": ("Golden",),
      "manifest": ("ArtefactError", "current_version"),
      "models": (
          "Ensemble", "Predictor", "Slates", "Trained", "read_model",
          "write_model"),
      "policy": ("Policy",),
      "publishing": ("publish",),
      "requests": ("stack",),
      "scorer": ("Scorer",),
      "selector": ("Picks", "Rules", "Selector", "select_slates"),
  })

__all__ = [
    "ArtefactError",
    "Bundle",
    "Ensemble",
    "Golden",
    "Page",
    "Picks",
    "Policy",
    "Predictor",
    "RequestError",
    "Rules",
    "Scorer",
    "Selector",
    "Slates",
    "Trained",
    "current_version",
    "load",
    "publish",
    "read_model",
    "select_slates",
    "stack",
    "write_model",
]
