"""Policies of the home page side by side: the same days for each.

A contender is a page (its simulator and the scores it goes by) and a function
from observations to actions. All see the same users, requests, candidates and
dice, so that differences between two are paired.
"""

from collections.abc import Callable
from collections.abc import Iterable
import functools
import statistics
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.reranker import world as home_page
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator as simulator_lib

# Days above the threshold by more than this share of the feasible range count
# as violations.
TOLERANCE = 0.02


class Contender(NamedTuple):
  """One policy, or one of each seed.

  Attributes:
    simulator: the page.
    params: the scores it goes by; the response is the world's.
    action_fn: from weights and observations `[B, O]` to actions `[B, A]`.
    weights: a tree of arrays; with a leading axis S if `by_seed`.
    by_seed: whether there is one of each seed.
  """

  simulator: simulator_lib.Simulator
  params: simulator_lib.Params
  action_fn: Callable[[Any, jax.Array], jax.Array]
  weights: Any
  by_seed: bool = False


class Days(NamedTuple):
  """Sums of simulated days: S seeds, worlds, D days, C categories.

  Attributes:
    clicks: `[S, worlds, D, C]`.
    exposures: `[S, worlds, D, C]`.
    reward: `[S, worlds, D, C]`.
    cost: `[S, worlds, D]`, of diversity.
    counted: `[S, worlds, D]`, slates.
    users: `[S, worlds, D]`.
  """

  clicks: np.ndarray
  exposures: np.ndarray
  reward: np.ndarray
  cost: np.ndarray
  counted: np.ndarray
  users: np.ndarray

  @property
  def ctr(self) -> np.ndarray:
    """`[S, worlds, D]` clicks by exposures."""
    return self.clicks.sum(-1) / np.maximum(self.exposures.sum(-1), 1)

  @property
  def mean_cost(self) -> np.ndarray:
    """`[S, worlds, D]`, of a slate."""
    return self.cost / np.maximum(self.counted, 1)

  def in_worlds(self, chosen: slice) -> "Days":
    """Some of the worlds."""
    return Days(*(values[:, chosen] for values in self))


class Interval(NamedTuple):
  """A mean and its 95 % interval over seeds (t distribution)."""

  mean: float
  low: float
  high: float


class Judge:
  """Simulates contenders, each page and kind of policy compiled once."""

  def __init__(
      self, worlds: Iterable[Any], *, num_seeds: int, num_days: int,
      users_per_day: int, seed: int,
  ):
    self._worlds = list(worlds)
    self._num_seeds, self._num_days = num_seeds, num_days
    self._users_per_day, self._seed = users_per_day, seed
    self._compiled: dict[Any, Any] = {}

  def __call__(self, contender: Contender) -> Days:
    """All days of a contender."""
    run = self._run(contender.simulator, contender.action_fn)
    found = []
    for seed in range(self._num_seeds):
      weights = contender.weights
      if contender.by_seed:
        weights = ppo.take_one(weights, seed)
      # Each seed has days of its own, the same ones in all worlds.
      key = jax.random.fold_in(jax.random.key(self._seed), seed)
      found.append([
          run(weights, contender.params._replace(response=response), key)
          for response in self._worlds])
    return jax.tree.map(
        lambda *leaves: np.stack(leaves).reshape(
            self._num_seeds, len(self._worlds), *leaves[0].shape),
        *[Days(*map(np.asarray, days)) for row in found for days in row])

  def _run(self, simulator, action_fn):
    if (simulator, action_fn) not in self._compiled:
      num_users = self._num_days * self._users_per_day

      def run(weights, params, key):
        outcome = rollout.simulate(
            simulator, params, functools.partial(action_fn, weights), key=key,
            num_users=num_users)
        of_day = lambda values: jnp.sum(values.reshape(
            self._num_days, self._users_per_day, -1), axis=1)
        return Days._make((
            of_day(outcome.clicks), of_day(outcome.exposures),
            of_day(outcome.reward), of_day(outcome.cost)[:, 0],
            of_day(outcome.counted)[:, 0],
            jnp.full(self._num_days, self._users_per_day)))

      self._compiled[simulator, action_fn] = jax.jit(run)
    return self._compiled[simulator, action_fn]


def constant_action(weights: jax.Array, observations: jax.Array) -> jax.Array:
  """The same action for all: `[A]` to `[B, A]`."""
  return jnp.broadcast_to(weights, (len(observations), len(weights)))


def interval(by_seed: np.ndarray) -> Interval:
  """Of the mean of independent `[S]`; NaN ends for one seed."""
  mean = float(np.mean(by_seed))
  if len(by_seed) < 2:
    return Interval(mean, float("nan"), float("nan"))
  half = float(stats.t.ppf(0.975, len(by_seed) - 1)) * statistics.stdev(
      map(float, by_seed)) / len(by_seed) ** 0.5
  return Interval(mean, mean - half, mean + half)


def paired(one: Days, other: Days) -> Interval:
  """Difference of CTR, one minus other, on the same days."""
  return interval((one.ctr - other.ctr).mean(axis=(1, 2)))


class Summary(NamedTuple):
  """Of one policy, over seeds, worlds and days.

  Attributes:
    ctr: clicks by exposures.
    ctr_error: standard error over seeds.
    cumulative_reward: of a user's day.
    reward_by_category: `[C]`, likewise.
    diversity: `log det S_Y / K`, of a slate.
    violation_rate: share of days beyond the threshold by more than
      `TOLERANCE` of the feasible range.
    excess: mean cost above the threshold, with its interval.
    exposure_share: `[C]`.
  """

  ctr: float
  ctr_error: float
  cumulative_reward: float
  reward_by_category: np.ndarray
  diversity: float
  violation_rate: float
  excess: Interval
  exposure_share: np.ndarray


def summarise(
    days: Days, threshold: float, probe: home_page.Probe
) -> Summary:
  """The figures of a table's row."""
  by_seed = days.ctr.mean(axis=(1, 2))
  count = len(by_seed)
  error = float(np.std(by_seed, ddof=1) / count**0.5) if count > 1 else np.nan
  per_user = (days.reward.sum(axis=(0, 1, 2)) / days.users.sum())
  shares = days.exposures.sum(axis=(0, 1, 2))
  excess = days.mean_cost - threshold
  allowed = TOLERANCE * (probe.most - probe.least)
  return Summary(
      float(by_seed.mean()), error, float(per_user.sum()), per_user,
      -float(days.mean_cost.mean()), float((excess > allowed).mean()),
      interval(excess.mean(axis=(1, 2))), shares / shares.sum())
