"""Random problems for the native forms, against float64 oracles.

`python -m tests.ordering.fuzz_native CASES [LIBRARY]`; the library may be one
that was built with sanitisers.
"""

import sys

import jax
import numpy as np

import harmonrank_jax
from tests import fuzzing
from tests import oracles

# Around the limits at which the native form changes its way, and far from them.
SHAPES = (
    (3, 0), (4, 1), (2000, 3), (9, 63), (200, 64), (9, 65), (40, 300),
    (1, 4095), (2, 4097), (5, 9000), (1, 70_000), (2, 150_000))


def fuzz(rng, shapes=SHAPES):
  shape = rows, size = shapes[rng.integers(len(shapes))]
  dtype = (np.float32, np.float64)[rng.integers(2)]
  scores = make_scores(rng, shape).astype(dtype)
  where = rng.random(shape) < rng.choice([0, 0.5, 1, 1])
  num_lists = int(rng.choice([1, 1, 3, max(1, min(size // 4, 40))]))
  ids_dtype = np.int32 if dtype == np.float32 else np.int64
  names = rng.integers(
      np.iinfo(ids_dtype).min, np.iinfo(ids_dtype).max, num_lists)
  ids = names[rng.integers(0, num_lists, shape)].astype(ids_dtype)
  spread = np.nanstd(np.where(np.isfinite(scores), scores, np.nan)) \
      if np.isfinite(scores).any() else 1.0
  strength = float(rng.choice([0, 0.01, 1, 3, 100])) * spread / max(size, 1)

  weights = np.exp(rng.standard_normal(shape)).astype(dtype)
  cotangent = rng.standard_normal(shape).astype(dtype)
  ranks, gradient, hard, fit, weighted_fit = map(np.asarray, results(
      scores, dtype(strength), where, ids, cotangent, weights))
  taking_part = where & ~np.isnan(scores)
  expected = oracles.per_list(
      lambda s: soft_rank_with_ends(s, strength), scores, taking_part, ids)
  expected[where & np.isnan(scores)] = np.nan
  tolerance = (1e-6 if dtype == np.float32 else 1e-13) * (size + 1)
  # The oracle divides scores by the strength and takes differences after.
  largest = np.abs(scores[np.isfinite(scores)]).max(initial=0)
  doubt = 1e-15 * largest / strength if strength else 0
  np.testing.assert_allclose(
      ranks, expected, rtol=0, atol=10 * (tolerance + doubt))
  assert np.isfinite(gradient).all()
  assert not gradient[~taking_part].any()
  for i in range(rows if strength else 0):
    for name in np.unique(ids[i])[:5]:
      inside = taking_part[i] & (ids[i] == name)
      total = np.sum(gradient[i][inside], dtype=np.float64)
      assert abs(total) * strength <= 1e3 * tolerance, (total, strength)
  if strength == 0:
    assert not gradient.any()

  expected = oracles.per_list(oracles.mid_ranks, scores, taking_part, ids)
  expected[where & np.isnan(scores)] = np.nan
  np.testing.assert_array_equal(hard, expected)

  bounded = where & np.isfinite(scores)
  index = np.arange(rows * size).reshape(shape)
  for actual, weight in ((fit, np.ones(shape)), (weighted_fit, weights)):
    expected = oracles.per_list(lambda i, weight=weight: oracles.isotonic(
        scores.flat[i], np.float64(weight.flat[i])), index, bounded, ids)
    expected[where & ~bounded] = scores[where & ~bounded]
    np.testing.assert_allclose(
        actual, expected, rtol=0,
        atol=(3e-6 if dtype == np.float32 else 1e-12) * largest)


@jax.jit
def results(scores, strength, where, ids, cotangent, weights):
  """Soft ranks and their gradient, hard ranks, fits without and with weights.
  """
  lists = {"where": where, "segment_ids": ids}
  ranks, pull = jax.vjp(lambda s: harmonrank_jax.soft_rank(
      s, strength=strength, **lists), scores)
  return (
      ranks, pull(cotangent)[0], harmonrank_jax.hard_rank(scores, **lists),
      harmonrank_jax.isotonic_regression(scores, **lists),
      harmonrank_jax.isotonic_regression(scores, weights=weights, **lists))


def make_scores(rng, shape):
  """Scores of one of several kinds, some not finite."""
  kinds = (
      lambda: rng.standard_normal(shape),
      lambda: rng.standard_normal(shape).round(1),
      lambda: np.sort(rng.standard_normal(shape), axis=-1),
      lambda: -np.sort(rng.standard_normal(shape), axis=-1),
      lambda: np.exp(5 * rng.standard_normal(shape)),
      lambda: 1e6 + rng.standard_normal(shape),
      lambda: np.zeros(shape))
  scores = kinds[rng.integers(len(kinds))]()
  odd = rng.random(shape) < rng.choice([0, 0, 0.01, 0.3, 1])
  return np.where(odd, rng.choice(
      [np.nan, np.inf, -np.inf, -0.0], shape), scores)


def soft_rank_with_ends(scores, strength):
  """The oracle, with infinite scores ranked hard."""
  hard = oracles.mid_ranks(scores)
  finite = np.isfinite(scores)
  if strength and finite.any():
    below = np.sum(scores == -np.inf)
    hard[finite] = below + oracles.soft_rank(scores[finite], strength)
  return hard


if __name__ == "__main__":
  jax.config.update("jax_enable_x64", True)
  fuzzing.main(fuzz, int(sys.argv[1]), *sys.argv[2:])
