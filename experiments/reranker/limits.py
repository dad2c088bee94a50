"""What diversity is asked of policies, and what diversity there can be.

The cost of a slate is `-log det S_Y / K`: the lower, the more varied. A limit
is a threshold of its mean. Theta, the weight of relevance in the DPP, moves
the cost of a page from the least to the largest there can be.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
from scipy import special

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
# Steps of theta's log-odds, down and up, that tell what diversity costs.
_PRICE_STEPS = (-0.25, 0.25)
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
  today: np.ndarray  # `[B]`, days of B users who were shown today's slates
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
  price: float  # Reward that a unit of cost brings the base at this theta.

  @property
  def is_feasible(self) -> bool:
    """Whether the most varied slates meet the threshold."""
    return self.threshold >= self.probe.least

  @property
  def target(self) -> float:
    """The mean cost that policies aim at, a margin below the threshold.

    The margin ends where there is no more diversity.
    """
    return max(self.threshold - _MARGIN * self.probe.tolerance,
               min(self.threshold, self.probe.least))

  @property
  def allowed(self) -> float:
    """The mean cost up to which an evaluation keeps to the constraint."""
    return self.target + self.probe.tolerance

  def is_kept(self, excess: float) -> bool:
    """Whether a mean cost so far above the threshold is tolerated."""
    return excess <= self.probe.tolerance


class Thetas:
  """Mean cost and reward of a page by theta."""

  def __init__(self, simulator: simulator_lib.Simulator, *, seed: int):
    self._key = jax.random.key(seed)
    # Costs are the same, and rewards without the dice.
    simulator = dataclasses.replace(simulator, expected_rewards=True)
    self._outcome = jax.jit(functools.partial(
        rollout.simulate_days, simulator,
        policy_fn=rollout.no_action(simulator), num_users=_PROBE_USERS))

  def probe(self, params: simulator_lib.Params) -> Probe:
    """The feasible range, and today's place in it."""
    least, most = (self.cost(params, theta) for theta in _PROBE_THETAS)
    outcome = self._outcome(params, key=self._key)
    cost, counted = outcome.cost[:, 0], outcome.counted[:, 0]
    # Whoever did not come has no cost, not one of 0.
    today = np.asarray(cost / counted)[np.asarray(counted) > 0]
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


  def price(self, params: simulator_lib.Params, theta: float) -> float:
    """What a unit of cost is worth in reward, at theta; at least 0."""
    log_odds = special.logit(theta)
    fewer, more = (
        self._outcome(world_lib.at_theta(
            params, special.expit(log_odds + step)), key=self._key)
        for step in _PRICE_STEPS)
    reward = float(more.reward.sum() - fewer.reward.sum())
    cost = float(more.cost[:, 0].sum() - fewer.cost[:, 0].sum())
    return max(reward / cost, 0.0) if cost > 0 else 0.0


def make_limit(
    config: config_lib.Config, fitted: world_lib.FittedLog
) -> Limit:
  """Probes what is feasible, how far theta may go, and what that costs."""
  thetas = Thetas(fitted.simulator, seed=config.seed)
  probe = thetas.probe(fitted.params)
  threshold = (-config.diversity if config.diversity is not None
               else probe.threshold(config.diversity_quantile))
  limit = Limit(probe, threshold, config.base, np.nan, np.nan)
  base = world_lib.calibrated(
      fitted.params, fitted.calibrations[config.base])
  theta = thetas.at_budget(base, limit.target)
  return limit._replace(theta=theta, price=thetas.price(base, theta))


def controller(
    rule: str, threshold: jax.Array, multiplier: jax.Array | float
) -> constraints.Controller:
  """The rule by which multipliers move, for thresholds `[Q]` of costs."""
  return constraints.Controller(
      threshold, initial=multiplier, limit=_LARGEST_MULTIPLIER,
      **_GAINS[rule])
