"""Policies side by side on days of the same users, candidates and dice."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import statistics
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.reranker import config as config_lib
from experiments.reranker import limits
from experiments.reranker import policies
from experiments.reranker import training
from experiments.reranker import world as world_lib
from experiments.runs import claims
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import rollout

# The static world is the last of those that are judged in.
MOVING, STATIC = slice(0, -1), slice(-1, None)


class Days(NamedTuple):
  """Sums of simulated days: S seeds, worlds, D days, C categories."""

  clicks: np.ndarray  # `[S, worlds, D, C]`
  exposures: np.ndarray  # `[S, worlds, D, C]`
  reward: np.ndarray  # `[S, worlds, D, C]`
  cost: np.ndarray  # `[S, worlds, D]`, of diversity
  counted: np.ndarray  # `[S, worlds, D]`, slates
  users: np.ndarray  # `[S, worlds, D]`

  @property
  def ctr(self) -> np.ndarray:
    """`[S, worlds, D]` clicks by exposures, NaN on days without any."""
    return _ratio(self.clicks.sum(-1), self.exposures.sum(-1))

  @property
  def mean_cost(self) -> np.ndarray:
    """`[S, worlds, D]`, of a slate; NaN on days without any."""
    return _ratio(self.cost, self.counted)

  def in_worlds(self, chosen: slice) -> "Days":
    """Some of the worlds."""
    return Days(*(values[:, chosen] for values in self))


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
  return np.divide(
      total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


class Summary(NamedTuple):
  """Figures of one policy, over seeds, worlds and days."""

  ctr: float
  ctr_error: float  # Standard error over seeds.
  cumulative_reward: float  # A user's day.
  reward_by_category: np.ndarray  # `[C]`, a user's day
  diversity: float  # `log det S_Y / K` of a slate
  violation_rate: float  # Share of days with an excess beyond the tolerance.
  excess: claims.Interval  # Mean cost above the threshold.
  exposure_share: np.ndarray  # `[C]`


class Results(NamedTuple):
  """What came of all policies."""

  days: dict[str, Days]
  summaries: dict[str, Summary]  # Over the worlds with fatigue and hours.
  static: dict[str, Summary]  # In the static world.
  paired: dict[str, claims.Interval]  # CTR of ppo minus that of the other.
  paired_static: dict[str, claims.Interval]
  trained: dict[str, training.Trained]
  contenders: dict[str, policies.Contender]

  @property
  def privileged(self) -> list[str]:
    """Names of the policies that see what users hide."""
    return [name for name, contender in self.contenders.items()
            if contender.simulator.privileged]


def judge(
    config: config_lib.Config, fitted: world_lib.FittedLog,
    limit: limits.Limit, contenders: dict[str, policies.Contender],
    trained: dict[str, training.Trained],
) -> Results:
  """Simulates the same days for all contenders, and compares ppo to each."""
  scale = config.scale
  print(f"judging {len(contenders)} policies on {scale.num_days} days of "
        f"{scale.users_per_day} users in {len(fitted.responses)} worlds, "
        f"{scale.num_seeds} seeds", flush=True)
  # Each page and kind of policy is compiled once.
  simulation = functools.cache(lambda simulator, action_fn: jax.jit(
      functools.partial(
          _simulated_days, simulator, action_fn, num_days=scale.num_days,
          users_per_day=scale.users_per_day)))
  # Each seed has days of its own, the same ones in all worlds.
  keys = [jax.random.fold_in(jax.random.key(config.seed + 1), seed)
          for seed in range(scale.num_seeds)]
  days = {
      name: _all_days(simulation(each.simulator, each.action_fn), each, keys,
                      list(fitted.responses.values()))
      for name, each in contenders.items()}
  return compare(days, limit, contenders, trained)


def _all_days(
    simulation: Callable[..., Days], contender: policies.Contender,
    keys: Sequence[jax.Array], responses: Sequence[Any],
) -> Days:
  """The days of a contender, by seed and world."""
  days = []
  for seed, key in enumerate(keys):
    weights = (ppo.take_one(contender.weights, seed) if contender.by_seed
               else contender.weights)
    days += [
        simulation(weights, contender.params._replace(response=response), key)
        for response in responses]
  return jax.tree.map(
      lambda *leaves: np.stack(leaves).reshape(
          len(keys), len(responses), *leaves[0].shape),
      *[Days(*map(np.asarray, each)) for each in days])


def _simulated_days(
    simulator, action_fn, weights, params, key, *, num_days, users_per_day
) -> Days:
  """`Days` without the axes of seeds and worlds."""
  outcome = rollout.simulate_days(
      simulator, params, functools.partial(action_fn, weights), key=key,
      num_users=num_days * users_per_day)
  by_day = lambda values: jnp.sum(
      values.reshape(num_days, users_per_day, -1), axis=1)
  return Days._make((
      by_day(outcome.clicks), by_day(outcome.exposures),
      by_day(outcome.reward), by_day(outcome.cost)[:, 0],
      by_day(outcome.counted)[:, 0], jnp.full(num_days, users_per_day)))


def compare(
    days: dict[str, Days], limit: limits.Limit,
    contenders: dict[str, policies.Contender],
    trained: dict[str, training.Trained],
) -> Results:
  """The results of simulated days, by the name of the policy."""

  def compared(worlds):
    chosen = {name: each.in_worlds(worlds) for name, each in days.items()}
    return ({name: summarise(each, limit) for name, each in chosen.items()},
            {name: paired(chosen["ppo"], each)
             for name, each in chosen.items() if name != "ppo"})

  summaries, differences = compared(MOVING)
  static, static_differences = compared(STATIC)
  return Results(days, summaries, static, differences, static_differences,
                 trained, contenders)


def interval(by_seed: np.ndarray) -> claims.Interval:
  """The mean of values `[S]` of seeds, by Student's t; NaN ends for one."""
  mean = float(np.mean(by_seed))
  if len(by_seed) < 2:
    return claims.Interval.around(mean, float("nan"))
  half = float(stats.t.ppf(0.975, len(by_seed) - 1)) * statistics.stdev(
      map(float, by_seed)) / len(by_seed) ** 0.5
  return claims.Interval.around(mean, half)


def standard_error(by_seed: np.ndarray) -> float:
  """Standard error of the mean of independent `[S]`; NaN for one seed."""
  if len(by_seed) < 2:
    return float("nan")
  return float(np.std(by_seed, ddof=1) / len(by_seed) ** 0.5)


def paired(one: Days, other: Days) -> claims.Interval:
  """Difference of CTR, one minus other, on the same days."""
  return interval(np.nanmean(one.ctr - other.ctr, axis=(1, 2)))


def summarise(days: Days, limit: limits.Limit) -> Summary:
  """The figures of a table's row."""
  by_seed = np.nanmean(days.ctr, axis=(1, 2))
  per_user = days.reward.sum(axis=(0, 1, 2)) / days.users.sum()
  shares = days.exposures.sum(axis=(0, 1, 2))
  excess = days.mean_cost - limit.threshold
  is_known = np.isfinite(excess)
  return Summary(
      ctr=float(by_seed.mean()), ctr_error=standard_error(by_seed),
      cumulative_reward=float(per_user.sum()), reward_by_category=per_user,
      diversity=-float(np.nanmean(days.mean_cost)),
      violation_rate=float(
          (excess[is_known] > limit.probe.tolerance).mean()),
      excess=interval(np.nanmean(excess, axis=(1, 2))),
      exposure_share=shares / shares.sum())
