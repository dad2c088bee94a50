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

from experiments.reranker import day as day_lib
from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import pools
from experiments.reranker import results as results_lib
from experiments.reranker import world as world_lib
from experiments.runs import claims
from experiments.runs import metrics
from harmonrank_jax.reranker import fidelity as fidelity_lib
from harmonrank_jax.reranker import score_calibration

# Bins of a calibration curve; fewer if one had fewer exposures than this.
_BINS, _MIN_OF_BIN = 10, 50


class Lead(NamedTuple):
  """ppo beside the best policy that does not see what users hide."""

  # The best of those that keep to the limit, or of all if none does.
  rival: str | None
  ahead: claims.Interval | None  # CTR of ppo minus that of the rival.
  rival_keeps: bool  # Whether the rival keeps to the limit.
  keeps: bool  # Whether ppo does.


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
  """A metric of a training."""

  steps: np.ndarray  # `[N]` updates
  values: np.ndarray  # `[N, S]`, a column for each seed


class Training(NamedTuple):
  """What a training wrote; multiplier and violation are of diversity."""

  ctr: Curves
  multiplier: Curves
  violation: Curves
  reward_variance: Curves
  cost_variance: Curves
  kl: Curves


class Bins(NamedTuple):
  """N exposures of a category in B bins by quantile of the prediction."""

  predicted: np.ndarray  # `[B]` means
  observed: np.ndarray  # `[B]` click rates
  error: np.ndarray  # `[B]` standard errors of the rates
  size: int  # N


class Calibration(NamedTuple):
  """Clicks of the later days against predictions, C categories."""

  before: list[Bins]  # C, of the predicted clicks as they are
  after: list[Bins]  # C, of those calibrated on the first days


class Record(NamedTuple):
  """Everything that the report shows."""

  categories: list[str]
  limit: limits.Limit
  results: judging.Results
  complaints: list[str]  # Of trained policies that miss what was asked.
  lead: Lead
  points: list[Point]
  trainings: dict[str, Training]
  calibration: Calibration
  day: day_lib.Day
  world_theta: float | None  # From which the knob moves; None without one.
  floors: np.ndarray  # `[C]`, least shares of the slots
  logged_shares: np.ndarray  # `[C]`, shares of the slots on the later days
  fidelity: fidelity_lib.ResponseFidelity  # In NumPy arrays.
  simulated_entropy: float  # Nats, on the uncalibrated page.
  num_worlds: int  # Without the static one.


def make_record(
    workdir: pathlib.Path, fitted: world_lib.FittedLog, limit: limits.Limit,
    results: judging.Results, day: day_lib.Day,
) -> Record:
  """Computes what the report shows."""
  names, ours = fitted.log.category_names, results.contenders["ppo"]
  fidelity = jax.tree.map(np.asarray, fitted.fidelity)
  size = np.asarray(fidelity.by_category.size, np.float64)
  return Record(
      names, limit, results, results_lib.complaints(limit, results, fitted),
      find_lead(limit, results), _points(results),
      {name: read_training(workdir / name, len(names))
       for name in results.trained},
      _calibration(fitted, limit.base), day,
      float(ours.params.theta) if ours.simulator.knob else None,
      np.asarray(fitted.floors), size / max(size.sum(), 1), fidelity,
      float(fidelity_lib.entropy(jnp.asarray(
          results.summaries["uncalibrated"].exposure_share))),
      len(fitted.responses) - 1)


def find_lead(limit: limits.Limit, results: judging.Results) -> Lead:
  """Compares ppo to the best policy that does not see what users hide."""
  keeps = {name: limit.is_kept(summary.excess.mean)
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
    costs = np.nanmean(
        results.days[name].in_worlds(judging.MOVING).mean_cost, axis=(1, 2))
    points.append(Point(
        name, summary.diversity, judging.standard_error(costs), summary.ctr,
        summary.ctr_error, name in results.privileged,
        name in results.trained))
  return points


def read_training(workdir: pathlib.Path, num_rewards: int) -> Training:
  """The metrics that a training wrote; null is read as NaN."""
  of = functools.partial(_curves, metrics.read_metrics(workdir))
  first = lambda values: values[:, 0]
  return Training(
      of("validation", "ctr"), of("train", "multipliers", first),
      of("train", "violation", first),
      of("train", "explained_variance",
         lambda values: _mean(values[:, :num_rewards])),
      of("train", "explained_variance",
         lambda values: values[:, num_rewards]),
      of("train", "approx_kl"))


def _curves(
    lines: list[dict[str, Any]], part: str, name: str,
    of_seed: Callable[[np.ndarray], np.ndarray] = np.asarray,
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


def _calibration(fitted: world_lib.FittedLog, base: str) -> Calibration:
  """The calibration of the first days, on the later ones."""
  num_categories = len(fitted.log.category_names)
  calibration = fitted.calibrations[base]
  later = jax.tree.map(np.asarray, pools.exposures(fitted.held_out))
  window = np.clip(later.time.astype(int), 0, pools.NUM_WINDOWS - 1)
  scores = jax.jit(score_calibration.calibrated_log_odds)(
      calibration, later.log_odds, later.categories)
  after = np.asarray(scores) + np.asarray(calibration.shift)[
      window[:, None], later.categories]
  bins = functools.partial(
      bins_by_category, clicks=later.clicks[later.where],
      categories=later.categories[later.where],
      num_categories=num_categories)
  before, calibrated = (bins(special.expit(log_odds[later.where]))
                        for log_odds in (later.log_odds, after))
  return Calibration(before, calibrated)


def bins_by_category(
    predicted: np.ndarray, *, clicks: np.ndarray, categories: np.ndarray,
    num_categories: int,
) -> list[Bins]:
  """Observed against predicted clicks of N exposures."""
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
