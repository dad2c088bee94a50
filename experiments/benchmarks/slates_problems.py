"""What slates are selected from, and the selection in float64."""

from typing import Any
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import harmonrank_jax as hr

NUM_FEATURES = 64
THETA = 0.5
# Weight of the relevance in the kernel `exp(alpha r) S exp(alpha r)`.
ALPHA = THETA / (2 * (1 - THETA))
_NUM_TOPICS = 32
# Size of a category, as a share of the one before.
_SHRINKAGE = 0.8


class SlateProblem(NamedTuple):
  """B requests that select K of N candidates each."""

  features: np.ndarray  # [B, N, D] of any norm; [N, D] for a shared pool
  relevance: np.ndarray  # [B, N], on a log scale
  num_selected: int  # K


class FlowProblem(NamedTuple):
  """Candidates of C categories that each select their quota."""

  features: np.ndarray  # [N, D]
  relevance: np.ndarray  # [N]
  category_ids: np.ndarray  # [N] int32, in no order
  quotas: np.ndarray  # [C]


class Request(NamedTuple):
  """One selection, for methods that take no batch."""

  features: np.ndarray  # [N, D]
  relevance: np.ndarray  # [N]
  num_selected: int  # K
  items: np.ndarray  # [N] ids of the candidates


AnyProblem = SlateProblem | FlowProblem


def make_problem(
    num_requests: int, num_candidates: int, num_selected: int, seed: int,
    *, shared: bool = False,
) -> SlateProblem:
  """Draws candidates in clusters, with normal relevance."""
  rng = np.random.default_rng(seed)
  relevance = rng.standard_normal((num_requests, num_candidates), np.float32)
  lists = () if shared else (num_requests,)
  return SlateProblem(_features((*lists, num_candidates), rng), relevance,
                 num_selected)


def make_flow_problem(
    num_categories: int, num_candidates: int, num_selected: int, seed: int
) -> FlowProblem:
  """Draws categories, each a fifth smaller than the one before, and quotas."""
  rng = np.random.default_rng(seed)
  sizes = hr.diversity.allocate_quotas(
      _SHRINKAGE ** jnp.arange(num_categories), total=num_candidates)
  quotas = hr.diversity.allocate_quotas(sizes, total=num_selected, stock=sizes)
  ids = np.repeat(np.arange(num_categories, dtype=np.int32), sizes)
  return FlowProblem(
      _features((num_candidates,), rng),
      rng.standard_normal(num_candidates, np.float32),
      rng.permutation(ids), np.asarray(quotas))


def _features(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  topics = rng.standard_normal((_NUM_TOPICS, NUM_FEATURES), np.float32)
  features = rng.standard_normal((*shape, NUM_FEATURES), np.float32)
  features += topics[rng.integers(_NUM_TOPICS, size=shape)]
  return features


def requests_of(problem: AnyProblem) -> list[Request]:
  """The selections of a problem, one by one."""
  if isinstance(problem, FlowProblem):
    chosen = [np.flatnonzero(problem.category_ids == category)
              for category in range(len(problem.quotas))]
    return [Request(problem.features[items], problem.relevance[items],
                    int(quota), items)
            for items, quota in zip(chosen, problem.quotas, strict=True)]
  items = np.arange(problem.relevance.shape[1])
  return [Request(problem.features if problem.features.ndim == 2
                  else problem.features[row], relevance,
                  problem.num_selected, items)
          for row, relevance in enumerate(problem.relevance)]


def reference(request: Request) -> np.ndarray:
  """The picks in float64, in logarithms and without a kernel; -1 for none."""
  unit = unit_features(request.features, np.float64)
  left = np.ones(len(unit))
  relevance = 2 * ALPHA * request.relevance.astype(np.float64)
  factors = np.zeros((request.num_selected, len(unit)))
  picks = np.full(request.num_selected, -1)
  for slot in range(request.num_selected):
    positive = left > 1e-10
    if not np.any(positive):
      break
    keys = np.where(positive, relevance + np.log(np.where(positive, left, 1)),
                    -np.inf)
    best = np.argmax(keys)
    picks[slot] = request.items[best]
    factors[slot] = (unit @ unit[best] - factors[:slot, best] @ factors[:slot]
                     ) / np.sqrt(left[best])
    left -= factors[slot]**2
    left[best] = 0
  return picks


def unit_features(features: np.ndarray, dtype: Any) -> np.ndarray:
  """The features scaled to norm 1."""
  features = features.astype(dtype)
  return features / np.linalg.norm(features, axis=1, keepdims=True)
