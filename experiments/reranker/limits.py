"""What diversity is asked of policies, and what diversity there can be.

The cost of a slate is `-log det S_Y / K`: the lower, the more varied. A limit
is a threshold of its mean. Theta, the weight of relevance in the DPP, moves
the cost of a page from the least to the largest there can be.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reranker import config as config_lib
from experiments.reranker import world as world_lib
from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator as simulator_lib

# Share of the feasible range; a cost further above the threshold violates it.
TOLERANCE = 0.02
# Policies aim so many tolerances below the threshold: with a mean cost at it,
# half of the days would be above it, and days differ by about one tolerance.
_MARGIN = 3
_PROBE_USERS = 256
# Nearly all diversity, and nearly all relevance.
_PROBE_THETAS = (0.02, 0.995)
_BISECTIONS = 10
# Gains by the name of the rule, and the largest multiplier: in units of
# returns.
_GAINS: dict[str, dict[str, float]] = {
    "fixed": {}, "ascent": {"integral": 0.05},
    "pi": {"integral": 0.05, "proportional": 0.2},
    "pid": {"integral": 0.05, "proportional": 0.2, "derivative": 0.1}}
_LARGEST_MULTIPLIER = 100.0


class Probe(NamedTuple):
  """What mean cost a page can have."""

  least: float  # Cost of the most varied slates.
  most: float  # Cost of the most relevant ones.
  today: np.ndarray  # `[B]`, days of B users with uncalibrated slates
  mean: float  # Mean of all of today's slates.

  @property
  def tolerance(self) -> float:
    """Cost above a threshold that is tolerated."""
    return TOLERANCE * (self.most - self.least)

  def threshold(self, quantile: float | None) -> float:
    """The cost allowed: the mean of today's slates, or a quantile of days."""
    return (self.mean if quantile is None
            else float(np.quantile(self.today, quantile)))


class Limit(NamedTuple):
  """What is asked of diversity."""

  probe: Probe
  threshold: float  # Bound of the mean cost.
  base: str  # The calibration that policies correct.
  theta: float  # The largest with which the base meets the target.

  @property
  def is_feasible(self) -> bool:
    """Whether the most varied slates meet the threshold."""
    return self.threshold >= self.probe.least

  @property
  def target(self) -> float:
    """The mean cost that policies aim at, a margin below the threshold."""
    return self.threshold - _MARGIN * self.probe.tolerance


class Thetas:
  """Mean cost of a page by theta."""

  def __init__(self, simulator: simulator_lib.Simulator, *, seed: int):
    self._key = jax.random.key(seed)
    self._outcome = jax.jit(functools.partial(
        rollout.simulate_days, simulator,
        policy_fn=rollout.no_action(simulator), num_users=_PROBE_USERS))

  def probe(self, params: simulator_lib.Params) -> Probe:
    """The feasible range, and today's place in it."""
    least, most = (self.cost(params, theta) for theta in _PROBE_THETAS)
    outcome = self._outcome(params, key=self._key)
    cost, counted = outcome.cost[:, 0], outcome.counted[:, 0]
    today = np.asarray(cost / jnp.maximum(counted, 1))
    return Probe(least, most, today, float(cost.sum() / counted.sum()))

  def cost(self, params: simulator_lib.Params, theta: float) -> float:
    """Mean cost of slates."""
    outcome = self._outcome(world_lib.at_theta(params, theta), key=self._key)
    return float(outcome.cost[:, 0].sum() / outcome.counted[:, 0].sum())

  def at_budget(self, params: simulator_lib.Params, threshold: float) -> float:
    """The largest theta with which the mean cost meets a threshold."""
    low, high = _PROBE_THETAS
    if self.cost(params, high) <= threshold:
      return high
    for _ in range(_BISECTIONS):
      middle = (low + high) / 2
      if self.cost(params, middle) <= threshold:
        low = middle
      else:
        high = middle
    return low


def make_limit(
    config: config_lib.Config, fitted: world_lib.FittedLog
) -> Limit:
  """Probes what is feasible, and how far theta may go."""
  thetas = Thetas(fitted.simulator, seed=config.seed)
  probe = thetas.probe(fitted.params)
  threshold = (-config.diversity if config.diversity is not None
               else probe.threshold(config.diversity_quantile))
  limit = Limit(probe, threshold, config.base, np.nan)
  base = world_lib.calibrated(
      fitted.params, fitted.log, config_lib.CALIBRATIONS[config.base])
  return limit._replace(theta=thetas.at_budget(base, limit.target))


def controller(
    rule: str, threshold: jax.Array, multiplier: float
) -> constraints.Controller:
  """The rule by which multipliers move, for thresholds `[Q]` of costs."""
  return constraints.Controller(
      threshold, initial=multiplier, limit=_LARGEST_MULTIPLIER,
      **_GAINS[rule])
