"""The vectors of weights of a sweep."""

import numpy as np
import pytest

from experiments.tradeoff import weights as weights_lib


@pytest.mark.parametrize(
    "size, count", [(2, 3), (2, 24), (3, 4), (6, 24), (8, 24)],
    ids=lambda value: str(value))
def test_weights_are_all_over_the_simplex(size, count):
  weights = weights_lib.simplex_weights(size, count, seed=0)
  assert weights.shape == (count, size) and (weights >= 0).all()
  np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(weights[0], 1 / size, rtol=1e-6)
  np.testing.assert_array_equal(weights[1:size + 1], np.eye(size))
  assert len(np.unique(weights, axis=0)) == count
  np.testing.assert_array_equal(
      weights, weights_lib.simplex_weights(size, count, seed=0))
  if (size, count) == (6, 24):
    # All 15 halves have a place, and two draws.
    assert (np.sort(weights, axis=1)[7:22, -2:] == 0.5).all()
