"""Likelihoods under N x N kernels, and samples of their processes."""

import itertools

import numpy as np

NUM_ITEMS, NUM_FEATURES = 5, 3
SUBSETS = np.array(list(itertools.product([False, True], repeat=NUM_ITEMS)))
NUM_LISTS = len(SUBSETS)
SHAPE = (NUM_LISTS, NUM_ITEMS)
POSSIBLE = SUBSETS.sum(axis=1) <= NUM_FEATURES
WEIGHTS = 1.0 + np.arange(NUM_LISTS)
RIDGES = (None, 0.8)


def sample(seed=0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(NUM_ITEMS, NUM_FEATURES)),
          rng.normal(size=NUM_ITEMS))


def kernels(features, relevance, *, theta, log_scale=0.3, ridge=None):
  """`[B, N, N]` kernels L of `[B, N, D]` or `[N, D]` features."""
  unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
  rho = 1 if ridge is None else ridge
  similarity = (rho * unit @ np.swapaxes(unit, -2, -1)
                + (1 - rho) * np.eye(NUM_ITEMS))
  theta, log_scale = (
      np.broadcast_to(x, len(relevance))[:, None] for x in (theta, log_scale))
  quality = np.exp(theta / (2 * (1 - theta)) * relevance + log_scale / 2)
  return quality[..., :, None] * similarity * quality[..., None, :]


def log_probabilities(kernel, positives, where):
  """Log-probabilities under `[B, N, N]` kernels, by their determinants."""
  log_det = lambda matrix: np.linalg.slogdet(matrix)[1]
  both = lambda flags: flags[:, :, None] & flags[:, None, :]
  eye = np.eye(NUM_ITEMS)
  return (log_det(np.where(both(positives & where), kernel, eye))
          - log_det(eye + np.where(both(where), kernel, 0)))


def draw(kernel, rng):
  """One exact sample of each of `[B, N, N]` kernels, by all their subsets."""
  both = SUBSETS[:, :, None] & SUBSETS[:, None, :]
  weights = np.linalg.det(np.where(both, kernel[:, None], np.eye(NUM_ITEMS)))
  # A determinant of 0 is rounding, and so is its root.
  weights = np.cumsum(np.where(weights > 1e-12, weights, 0), axis=1)
  uniform = rng.random((len(kernel), 1)) * weights[:, -1:]
  return SUBSETS[(weights <= uniform).sum(axis=1)]


def draw_lists(num_lists, seed, **options):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(num_lists, NUM_ITEMS, NUM_FEATURES))
  relevance = rng.normal(size=(num_lists, NUM_ITEMS)) - 2
  positives = draw(kernels(features, relevance, **options), rng)
  return features, relevance, positives, rng.random(positives.shape) < 0.8
