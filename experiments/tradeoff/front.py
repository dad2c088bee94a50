"""The front of each family: AUCs, dominated volumes, and how sure they are.

The AUCs of a family at all vectors of weights are its front.
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs import console
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import weights as weights_lib
from harmonrank_jax.evaluation import bootstrap
from harmonrank_jax.evaluation import front

# The AUC without any information, where the dominated volume begins.
REFERENCE = 0.5
# Vectors of weights at which the one network is evaluated, for each separate
# network: they cost no training.
_ASKED = 10


class Tradeoff(NamedTuple):
  """F families at K vectors of weights for M objectives; errors by bootstrap.

  An interval is a value with the ends of its 95 % interval.
  """

  names: tuple[str, ...]  # of the objectives
  weights: np.ndarray  # [K, M]; the first row is equal weights
  families: tuple[str, ...]
  auc: np.ndarray  # [F, K, M] on test rows
  auc_error: np.ndarray  # [F, K, M] standard errors
  volume: np.ndarray  # [F, 3] dominated share of the cube from REFERENCE to 1
  ratio: np.ndarray  # [F, 3] of volumes to that of separate networks, paired
  # The larger front of the one network, at this many vectors of weights.
  num_asked: int
  asked_volume: np.ndarray  # [3]
  asked_ratio: np.ndarray  # [3]
  value: np.ndarray  # [F] mean over the weights of sum_m w_m AUC_m
  lead: np.ndarray  # [F, 3] of values over separate networks, paired
  seconds: dict[str, float]  # of training, by family
  num_rows: int
  clusters: str  # "users" or "rows", what is resampled
  # The same by the probabilities that labels are drawn with, where they are
  # known: without the chance of few positives.
  by_truth: "Tradeoff | None" = None


def measure_fronts(
    families: dict[str, families_lib.Family],
    weights: np.ndarray,  # [K, M]
    labels: np.ndarray,  # [N, M], each objective of more than one class
    users: np.ndarray | None,  # [N]; None resamples rows
    *,
    names: Sequence[str],
    truth: np.ndarray | None = None,  # [N, M] chances of the labels
    seed: int,
    are_probabilities: bool = False,  # of the labels themselves
) -> Tradeoff:
  """Measures AUCs and volumes, bootstrapped over users."""
  asked = _asked_scores(families, weights, seed)
  points = _resampled_auc(
      [*(family.scores for family in families.values()), asked], labels, users,
      seed=seed, are_probabilities=are_probabilities)
  every = points[:, :-len(asked)].reshape(-1, len(families), *weights.shape)
  # One box for all fronts.
  upper = points.max(axis=(0, 1))
  rival = list(families).index(families_lib.SEPARATE)
  value = (every * weights).sum(axis=-1).mean(axis=-1)
  # A product of sides varies by factors: intervals are those of logarithms.
  with np.errstate(divide="ignore", invalid="ignore"):
    logs = np.log(_volume(every, upper))
    asked_logs = np.log(_volume(points[:, None, -len(asked):], upper))
    ratios, asked_ratios = (x - logs[:, rival:rival + 1]
                            for x in (logs, asked_logs))
  return Tradeoff(
      tuple(names), weights, tuple(families), every[0], _standard_error(every),
      np.exp(_interval(logs)), np.exp(_interval(ratios)), len(asked),
      np.exp(_interval(asked_logs))[0], np.exp(_interval(asked_ratios))[0],
      value[0], _interval(value - value[:, rival:rival + 1]),
      {name: family.seconds for name, family in families.items()
       if family.seconds is not None},
      len(labels), "rows" if users is None else "users",
      None if truth is None else measure_fronts(
          families, weights, truth, users, names=names, seed=seed,
          are_probabilities=True))


def _asked_scores(
    families: dict[str, families_lib.Family], weights: np.ndarray, seed: int
) -> np.ndarray:
  """`[A, N]` scores of the one network at many more weights."""
  terms = families[families_lib.ONE].terms
  assert terms is not None  # Its score is linear in the weights.
  asked = weights_lib.simplex_weights(
      weights.shape[1], _ASKED * len(weights), seed=seed)
  return asked @ terms.T


def _resampled_auc(
    scores: Sequence[np.ndarray], labels: np.ndarray,
    users: np.ndarray | None, *, seed: int, are_probabilities: bool,
) -> np.ndarray:
  """`[1 + R, S, M]` AUCs of all scores: of all rows, then of R resamples."""
  stacked = np.concatenate([np.asarray(x, np.float32) for x in scores])
  auc, replicates = bootstrap.bootstrap_auc(
      [bootstrap.Part(stacked, labels, users)], seed=seed,
      are_probabilities=are_probabilities)
  # A resample may lack the few positives of an objective.
  is_defined = ~np.isnan(replicates).any(axis=(1, 2))
  return np.concatenate([auc[None], replicates[is_defined]])


def _volume(points: np.ndarray, upper: np.ndarray) -> np.ndarray:
  """`[1 + R, F]` dominated shares of the cube by points `[1 + R, F, K, M]`."""
  size = points.shape[-1]
  volume = jax.jit(front.hypervolume)(
      points.astype(np.float32), jnp.full(size, REFERENCE),
      upper=jnp.asarray(upper, jnp.float32))
  return np.asarray(volume, np.float64) / (1 - REFERENCE) ** size


def _standard_error(every: np.ndarray) -> np.ndarray:
  """Standard deviation over all but the first; NaN where one is undefined."""
  if len(every) < 3:
    return np.full(every.shape[1:], np.nan)
  known = np.isfinite(every).all(axis=0)
  return np.where(
      known, np.std(np.where(known, every, 0)[1:], axis=0, ddof=1), np.nan)


def _interval(every: np.ndarray) -> np.ndarray:
  """`[F, 3]`: the first of `[1 + R, F]`, with the ends of its interval."""
  margin = console.NORMAL_95 * _standard_error(every)
  return np.stack([every[0], every[0] - margin, every[0] + margin], axis=1)


def pairs_in_conflict(tradeoff: Tradeoff) -> list[tuple[int, int]]:
  """All pairs of objectives, those that give up most for each other first."""
  count = len(tradeoff.names)
  # Each objective alone follows equal weights.
  one = tradeoff.families.index(families_lib.ONE)
  alone = tradeoff.auc[one, 1:count + 1]
  given_up = np.diag(alone)[None, :] - alone
  conflict = given_up + given_up.T
  return sorted(itertools.combinations(range(count), 2),
                key=lambda pair: -conflict[pair])


def front_of_pair(
    tradeoff: Tradeoff, family: int, pair: tuple[int, int]
) -> np.ndarray:
  """`[J, 2]` AUCs of a family that no other of its points beats in both."""
  points = tradeoff.auc[family][:, pair]
  best = points[np.asarray(front.pareto_mask(points))]
  return best[np.argsort(best[:, 0])]
