"""What the report of a re-ranking policy shows: figures that are only drawn."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments.reranker import config as config_lib
from experiments.reranker import day as day_lib
from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import pools
from experiments.reranker import world as world_lib
from experiments.runs import metrics
from harmonrank_jax.reranker import fidelity as fidelity_lib

# Bins of a calibration curve; fewer if one had fewer exposures than this.
_BINS, _MIN_OF_BIN = 10, 50


class Lead(NamedTuple):
  """ppo beside the best policy that does not see what users hide.

  Attributes:
    rival: its name: the best of those that keep to the limit, or of all if
      none does; None if there is no other policy.
    ahead: CTR of ppo minus that of the rival.
    rival_keeps: whether the rival keeps to the limit.
    keeps: whether ppo does.
  """

  rival: str | None
  ahead: judging.Interval | None
  rival_keeps: bool
  keeps: bool


class Point(NamedTuple):
  """A policy on the plane of clicks and diversity, with standard errors."""

  name: str
  diversity: float
  diversity_error: float
  ctr: float
  ctr_error: float
  is_privileged: bool
  is_trained: bool


class Curves(NamedTuple):
  """A metric of a training.

  Attributes:
    steps: `[N]` of the updates.
    values: `[N, S]`, a column for each seed.
  """

  steps: np.ndarray
  values: np.ndarray


class Training(NamedTuple):
  """What a training wrote; multiplier and violation are of diversity."""

  ctr: Curves
  multiplier: Curves
  violation: Curves
  reward_variance: Curves
  cost_variance: Curves
  kl: Curves


class Bins(NamedTuple):
  """N exposures of a category in B bins by quantile of the prediction.

  Attributes:
    predicted: `[B]`, mean of the predictions.
    observed: `[B]`, rate of the clicks.
    error: `[B]`, standard error of the rate.
    size: N.
  """

  predicted: np.ndarray
  observed: np.ndarray
  error: np.ndarray
  size: int


class Calibration(NamedTuple):
  """Clicks of the later days against predictions, C categories.

  Attributes:
    before: C, of the predicted clicks as they are.
    after: C, of those calibrated on the first days.
    gap_before: mean distance of `before` from the diagonal.
    gap_after: likewise.
  """

  before: list[Bins]
  after: list[Bins]
  gap_before: float
  gap_after: float


class Record(NamedTuple):
  """Everything that the report shows.

  Attributes:
    categories: names.
    limit: what is asked of diversity.
    results: of all policies.
    lead: of ppo over the best of the others.
    points: of the policies.
    trainings: by name.
    calibration: by the calibration that policies correct.
    day: what ppo does.
    world_theta: theta from which the knob moves; None without a knob.
    floors: `[C]`, least shares of the slots.
    logged_shares: `[C]`, shares of the slots on the later days.
    fidelity: of the response, in NumPy arrays.
    simulated_entropy: nats, of exposures on the uncalibrated page.
    num_worlds: that are not static.
  """

  categories: list[str]
  limit: limits.Limit
  results: judging.Results
  lead: Lead
  points: list[Point]
  trainings: dict[str, Training]
  calibration: Calibration
  day: day_lib.Day
  world_theta: float | None
  floors: np.ndarray
  logged_shares: np.ndarray
  fidelity: fidelity_lib.ResponseFidelity
  simulated_entropy: float
  num_worlds: int


def make_record(
    workdir: pathlib.Path, world: world_lib.World, limit: limits.Limit,
    results: judging.Results, day: day_lib.Day,
) -> Record:
  """Computes what the report shows.

  Args:
    workdir: with a folder for each training.
    world: of the log.
    limit: what is asked of diversity.
    results: of all policies.
    day: what ppo does.
  """
  names, ours = world.log.category_names, results.contenders["ppo"]
  fidelity = jax.tree.map(np.asarray, world.fidelity)
  size = np.asarray(fidelity.by_category.size, np.float64)
  return Record(
      names, limit, results, find_lead(limit, results), _points(results),
      {name: read_training(workdir / name, len(names))
       for name in results.trained},
      _calibration(world, limit.base), day,
      float(ours.params.theta) if ours.simulator.knob else None,
      np.asarray(world.floors), size / max(size.sum(), 1), fidelity,
      float(fidelity_lib.entropy(jnp.asarray(
          results.summaries["uncalibrated"].exposure_share))),
      len(world.responses) - 1)


def find_lead(limit: limits.Limit, results: judging.Results) -> Lead:
  """Compares ppo to the best policy that does not see what users hide."""
  keeps = {name: summary.excess.mean <= limit.probe.tolerance
           for name, summary in results.summaries.items()}
  rivals = [name for name in results.summaries
            if name != "ppo" and name not in results.privileged]
  eligible = [name for name in rivals if keeps[name]] or rivals
  if not eligible:
    return Lead(None, None, False, keeps["ppo"])
  best = max(eligible, key=lambda name: results.summaries[name].ctr)
  return Lead(best, results.paired[best], keeps[best], keeps["ppo"])


def _points(results: judging.Results) -> list[Point]:
  points = []
  for name, summary in results.summaries.items():
    costs = results.days[name].in_worlds(judging.MOVING).mean_cost.mean(
        axis=(1, 2))
    points.append(Point(
        name, summary.diversity, judging.standard_error(costs), summary.ctr,
        summary.ctr_error, name in results.privileged,
        name in results.trained))
  return points


def read_training(workdir: pathlib.Path, num_rewards: int) -> Training:
  """The metrics that a training wrote; null is read as NaN.

  Args:
    workdir: of the training.
    num_rewards: M; the first cost is that of diversity.
  """
  of = functools.partial(_curves, metrics.read_metrics(workdir))
  first = lambda values: values[:, 0]
  return Training(
      of("validation", "ctr", lambda values: values),
      of("train", "multipliers", first),
      of("train", "violation", first),
      of("train", "explained_variance",
         lambda values: _mean(values[:, :num_rewards])),
      of("train", "explained_variance",
         lambda values: values[:, num_rewards]),
      of("train", "approx_kl", lambda values: values))


def _curves(
    lines: list[dict[str, Any]], part: str, name: str,
    of_seed: Callable[[np.ndarray], np.ndarray],
) -> Curves:
  """A metric by update; `of_seed` makes `[S]` of what a line has."""
  chosen = [line for line in lines if name in line.get(part, {})]
  values = [of_seed(np.asarray(line[part][name], np.float64))
            for line in chosen]
  return Curves(np.asarray([line["step"] for line in chosen]),
                np.asarray(values).reshape(len(chosen), -1))


def _mean(values: np.ndarray) -> np.ndarray:
  """`[S, M]` to `[S]`, over what is defined."""
  is_known = np.isfinite(values)
  total = np.where(is_known, values, 0).sum(axis=1)
  count = is_known.sum(axis=1)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _calibration(world: world_lib.World, base: str) -> Calibration:
  """Fits the calibration to the first days and applies it to the later."""
  num_categories = len(world.log.category_names)
  later = pools.exposures(world.held_out)
  scores = jax.jit(functools.partial(
      config_lib.CALIBRATIONS[base], num_categories=num_categories))(
          pools.exposures(world.log), later.log_odds, later.categories)
  later = jax.tree.map(np.asarray, later)
  window = np.clip(later.time.astype(int), 0, pools.NUM_WINDOWS - 1)
  after = np.asarray(scores.base) + np.asarray(scores.shift)[
      window[:, None], later.categories]
  bins = functools.partial(
      bins_by_category, clicks=later.clicks[later.where],
      categories=later.categories[later.where],
      num_categories=num_categories)
  before, calibrated = (bins(special.expit(log_odds[later.where]))
                        for log_odds in (later.log_odds, after))
  return Calibration(before, calibrated, gap(before), gap(calibrated))


def bins_by_category(
    predicted: np.ndarray, *, clicks: np.ndarray, categories: np.ndarray,
    num_categories: int,
) -> list[Bins]:
  """Observed against predicted clicks of N exposures.

  Args:
    predicted: `[N]` probabilities.
    clicks: `[N]` bool.
    categories: `[N]` int in [0, C).
    num_categories: C.
  """
  return [_bins(predicted[categories == k], clicks[categories == k])
          for k in range(num_categories)]


def _bins(predicted: np.ndarray, clicks: np.ndarray) -> Bins:
  size = len(predicted)
  if not size:
    return Bins(np.zeros(0), np.zeros(0), np.zeros(0), 0)
  count = min(max(size // _MIN_OF_BIN, 1), _BINS)
  parts = np.array_split(np.argsort(predicted, kind="stable"), count)
  rate = np.asarray([clicks[part].mean() for part in parts])
  sizes = np.asarray([len(part) for part in parts])
  return Bins(np.asarray([predicted[part].mean() for part in parts]), rate,
              np.sqrt(rate * (1 - rate) / sizes), size)


def gap(bins: Sequence[Bins]) -> float:
  """Mean distance from the diagonal, by exposures; NaN without any."""
  size = sum(each.size for each in bins)
  total = sum(
      each.size * float(np.mean(np.abs(each.predicted - each.observed)))
      for each in bins if each.size)
  return total / size if size else float("nan")
