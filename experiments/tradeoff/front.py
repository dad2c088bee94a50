"""The front of each family: AUCs, dominated volumes, and how sure they are.

The AUCs of a family at all vectors of weights are its front.
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs import claims
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import weights as weights_lib
from harmonrank_jax.evaluation import aucs
from harmonrank_jax.evaluation import front

# The AUC without any information, where the dominated volume begins.
REFERENCE = 0.5
# AUCs that could have been, to see how volumes vary.
_DRAWS = 200
# Vectors of weights at which the one network is evaluated, for each separate
# network: they cost no training.
_ASKED = 10


class Tradeoff(NamedTuple):
  """F families at K vectors of weights for M objectives; errors over users."""

  names: tuple[str, ...]  # of the objectives
  weights: np.ndarray  # [K, M]; the first row is equal weights
  families: tuple[str, ...]
  auc: np.ndarray  # [F, K, M] on test rows
  auc_error: np.ndarray  # [F, K, M] standard errors
  # [F] dominated shares of the cube from REFERENCE to 1, and their ratios to
  # that of separate networks.
  volume: list[claims.Interval]
  ratio: list[claims.Interval]
  # The larger front of the one network, at this many vectors of weights.
  num_asked: int
  asked_volume: claims.Interval
  asked_ratio: claims.Interval
  value: np.ndarray  # [F] mean over the weights of sum_m w_m AUC_m
  lead: list[claims.Interval]  # [F] of values over separate networks
  seconds: dict[str, float]  # of training, by family
  num_rows: int
  positives: np.ndarray  # [M] rows with the event
  is_known: np.ndarray  # [M], whether these are enough for an interval
  clusters: str  # "users" or "rows", what varies as a whole
  # The same by the probabilities that labels are drawn with, where they are
  # known: without the chance of few positives.
  by_truth: "Tradeoff | None" = None


def measure_fronts(
    families: dict[str, families_lib.Family],
    weights: np.ndarray,  # [K, M]
    labels: np.ndarray,  # [N, M], each objective of more than one class
    users: np.ndarray | None,  # [N]; None for independent rows
    *,
    names: Sequence[str],
    truth: np.ndarray | None = None,  # [N, M] chances of the labels
    seed: int,
    are_probabilities: bool = False,  # of the labels themselves
) -> Tradeoff:
  """Measures AUCs and volumes, with errors over users."""
  asked = _asked_scores(families, weights, seed)
  scores = np.concatenate([np.asarray(x, np.float32) for x in (
      *(family.scores for family in families.values()), asked)])
  found = aucs.auc_estimates(
      [aucs.Part(scores, labels, users)],
      are_probabilities=are_probabilities)
  shape = (len(families), *weights.shape)
  auc = found.auc[:-len(asked)]
  worth = np.zeros((len(families), *found.auc.shape))
  for f, of_family in enumerate(worth):
    of_family[f * len(weights):(f + 1) * len(weights)] = weights / len(weights)
  value = np.sum(worth * found.auc, axis=(1, 2))
  errors = [[found.contrast(np.outer(point, objective)).error
             for objective in np.eye(len(names))]
            for point in np.eye(len(scores))[:len(auc)]]
  points = found.auc + np.concatenate(
      [np.zeros((1, *found.auc.shape)), found.draws(_DRAWS, seed=seed)])
  # One box for all fronts.
  upper = points.max(axis=(0, 1))
  rival = list(families).index(families_lib.SEPARATE)
  # A product of sides varies by factors: intervals are those of logarithms.
  with np.errstate(divide="ignore", invalid="ignore"):
    logs = np.log(_volume(
        points[:, :-len(asked)].reshape(-1, *shape), upper))
    asked_logs = np.log(_volume(points[:, None, -len(asked):], upper))
    ratios, asked_ratios = (x - logs[:, rival:rival + 1]
                            for x in (logs, asked_logs))
  intervals = lambda every: [_interval(column, found) for column in every.T]
  (asked_volume,), (asked_ratio,) = map(intervals, (asked_logs, asked_ratios))
  return Tradeoff(
      tuple(names), weights, tuple(families), auc.reshape(shape),
      np.reshape(errors, shape), intervals(logs), intervals(ratios),
      len(asked), asked_volume, asked_ratio, value,
      [_lead(found.contrast(each - worth[rival])) for each in worth],
      {name: family.seconds for name, family in families.items()
       if family.seconds is not None},
      len(labels), found.positives, found.is_known,
      "rows" if users is None else "users",
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


def _volume(points: np.ndarray, upper: np.ndarray) -> np.ndarray:
  """`[1 + R, F]` dominated shares of the cube by points `[1 + R, F, K, M]`."""
  size = points.shape[-1]
  volume = jax.jit(front.hypervolume)(
      points.astype(np.float32), jnp.full(size, REFERENCE),
      upper=jnp.asarray(upper, jnp.float32))
  return np.asarray(volume, np.float64) / (1 - REFERENCE) ** size


def _interval(
    every: np.ndarray, found: aucs.AucEstimates
) -> claims.Interval:
  """What logarithms are of: the first of `[1 + R]`, the others are draws."""
  margin = np.nan
  if np.isfinite(every).all() and found.is_known.all():
    margin = aucs.Estimate(
        every[0], float(np.std(every[1:], ddof=1)),
        1 / float(np.diag(found.spread).max())).margin
  return claims.Interval(*np.exp(
      claims.Interval.around(every[0], margin)).tolist())


def _lead(estimate: aucs.Estimate) -> claims.Interval:
  return claims.Interval.around(estimate.value, estimate.margin)


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
