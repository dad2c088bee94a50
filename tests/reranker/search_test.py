"""The cross-entropy search on hills whose top is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.reranker import search as search_lib

OPTIMUM = np.array([0.4, -0.7, 0.0, 1.0])


@jax.jit
def search(key, noise):
  def score(key, numbers):
    error = jnp.sum((numbers - OPTIMUM) ** 2)
    # The same noise for all samples of a round, as in a simulator.
    common, tilt = jax.random.normal(key), jax.random.normal(key, (4,))
    return -error + noise * (5 * common + 0.2 * tilt @ numbers)
  return search_lib.cross_entropy_search(score, 4, key=key)


def test_a_search_finds_the_top_of_a_noisy_hill():
  for noise, tolerance in ((0.0, 0.05), (1.0, 0.25)):
    result = jax.tree.map(
        np.asarray, search(jax.random.key(0), noise))
    np.testing.assert_allclose(result.mean, OPTIMUM, atol=tolerance)
    assert result.history.shape == (20,)
    assert (result.spread < 0.25).all()
  result = search(jax.random.key(0), 0.0)
  assert result.history[-1] > result.history[0] + 0.5
  assert result.history[-1] > -0.02
  assert np.isfinite(jnp.concatenate(result)).all()
  other = search(jax.random.key(1), 0.0)
  assert (np.asarray(other.mean) != np.asarray(result.mean)).all()


def test_a_search_of_one_round_by_hand():
  key = jax.random.key(3)
  result = jax.jit(lambda key: search_lib.cross_entropy_search(
      lambda _, numbers: numbers[0], 1, key=key, num_rounds=1, population=8,
      elite_share=0.5, initial_spread=2.0))(key)
  draw_key = jax.random.split(jax.random.split(key, 1)[0])[0]
  best = np.sort(2 * np.asarray(jax.random.normal(draw_key, (8, 1))[:, 0]))[4:]
  np.testing.assert_allclose(result.mean, [best.mean()], rtol=1e-5)
  np.testing.assert_allclose(
      result.spread, [best.std() + 0.2 * 2.0], rtol=1e-5)
  np.testing.assert_allclose(result.history, [best.mean()], rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.01, 1.2])
def test_an_elite_of_none_is_an_error(share):
  with pytest.raises(ValueError, match=f"elite_share {share} of 32 samples"):
    search_lib.cross_entropy_search(
        lambda key, numbers: numbers[0], 1, key=jax.random.key(0),
        elite_share=share)
