"""Greedy slates by brute force: float64, determinants of whole sets."""

import numpy as np

TOLERANCE = 1e-5


def unit(features):
  features = np.asarray(features, np.float64)
  with np.errstate(all="ignore"):
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def pools(num_items, num_features, seed=0):
  """Features `[4, N, D]` and relevance: four kinds of pools, one a row."""
  rng = np.random.default_rng(seed)
  random = rng.normal(size=(num_items, num_features))
  centres = rng.normal(size=(4, num_features))
  clustered = (centres[rng.integers(0, 4, num_items)]
               + 0.2 * rng.normal(size=random.shape))
  copies = rng.normal(size=(5, num_features))[rng.integers(0, 5, num_items)]
  copies *= rng.uniform(0.1, 10, (num_items, 1))
  deficient = rng.normal(size=(num_items, 3)) @ rng.normal(
      size=(3, num_features))
  features = np.stack([random, clustered, copies, deficient])
  return (features.astype(np.float32),
          rng.normal(size=(4, num_items)).astype(np.float32))


def volume(features, ridge=None):
  """The determinant of the kernel of unit features `[P, D]`."""
  if not len(features):
    return 1.0
  rho = 1.0 if ridge is None else ridge
  kernel = rho * features @ features.T + (1 - rho) * np.eye(len(features))
  return max(np.linalg.det(kernel), 0.0)


def greedy(
    method, features, relevance, num_selected, theta, *, where=None,
    shown_features=(), category_ids=None, quotas=None, window=None,
    slot_bias=None, ridge=None, fill="relevance"):
  """Indices and gains `[K]` of one list `[N, D]`, `[N]`, and `num_valid`."""
  features, relevance = unit(features), np.asarray(relevance, np.float64)
  width = features.shape[1]
  # Without features an item has an axis of its own.
  lone = ~np.isfinite(features).all(axis=1)
  own_axes = np.diag(lone.astype(float))
  features = np.concatenate(
      [np.where(lone[:, None], 0, features), own_axes], axis=1)
  usable = np.isfinite(relevance)
  if where is not None:
    usable &= where
  weight = theta / (1 - theta) if method == "dpp" else theta
  before = [np.append(f, np.zeros(len(features)))
            for f in unit(shown_features).reshape(-1, width)
            if np.isfinite(f).all()]
  taken, indices, gains, num_valid = [], [], [], 0
  for slot in range(num_selected):
    seen = before + [features[j] for j in taken]
    if window is not None:
      seen = seen[len(seen) - min(window - 1, len(seen)):]
    seen = np.asarray(seen).reshape(-1, features.shape[1])
    keys, others = {}, {}
    for i in np.flatnonzero(usable):
      bias, category = 0.0, None
      if category_ids is not None and category_ids[i] >= 0:
        category = category_ids[i]
        if slot_bias is not None:
          bias = slot_bias[slot, category]
      same = [j for j in taken if category is not None
              and category_ids[j] == category]
      if i in taken or not np.isfinite(bias) or (
          quotas is not None and category is not None
          and len(same) >= quotas[category]):
        continue
      base = weight * (relevance[i] + bias)
      together = np.concatenate([seen, features[i:i + 1]])
      if method == "mmr":
        nearest = (seen @ features[i]).max() if len(seen) else 0
        keys[i] = base - (1 - theta) * nearest
      elif method == "ssd":
        size = np.sqrt(volume(together))
        left = residual(seen, features[i])
        keys[i] = base + (1 - theta) * (size if left > TOLERANCE else 0)
      else:
        left = (residual(seen, features[i]) if ridge is None else
                volume(together, ridge) / volume(seen, ridge))
        others[i] = base + np.log(TOLERANCE)
        if left > TOLERANCE:
          keys[i] = base + np.log(left)
    num_valid += bool(keys)
    if not keys and method == "dpp" and fill == "relevance":
      keys = others
    if not keys:
      indices.append(-1)
      gains.append(0.0)
      continue
    # Of equal keys, to what float32 resolves, the lowest index.
    best = max(keys.values())
    chosen = min(i for i, key in keys.items() if key > best - 1e-5)
    indices.append(chosen)
    gains.append(keys[chosen])
    taken.append(chosen)
  return np.asarray(indices, int), np.asarray(gains), num_valid


def residual(seen, feature):
  """The squared part of a unit feature outside a span."""
  if not len(seen):
    return 1.0
  _, values, basis = np.linalg.svd(seen, full_matrices=False)
  basis = basis[values > np.sqrt(TOLERANCE)]
  return ((feature - basis.T @ (basis @ feature))**2).sum()


def case_id(value):
  """The id of a case of errors: the message, and the arguments changed."""
  return value if isinstance(value, str) else ", ".join(value)
