"""Worlds that the log could also have come from."""

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import augmentation
from tests.reranker import worlds

STILL = augmentation.Spread(*[0.0] * len(augmentation.Spread._fields))
REPLICATES = jax.tree.map(
    lambda *leaves: jnp.stack(leaves),
    *[worlds.make_response(seed, fatigue=0.1 * (seed + 1))
      for seed in range(3)])
ARRIVALS = jnp.asarray(
    np.random.default_rng(0).dirichlet(np.ones(worlds.WINDOWS)), jnp.float32)

many = jax.jit(lambda key, spread: jax.vmap(
    lambda key: augmentation.augment_world(
        key, REPLICATES, ARRIVALS, spread=spread))(
            jax.random.split(key, 2000)))


def test_without_spread_a_world_is_one_of_the_replicates():
  result, arrivals = many(jax.random.key(0), STILL)
  chosen = np.round(np.asarray(result.fatigue) / 0.1).astype(int) - 1
  assert (np.bincount(chosen, minlength=3) > 500).all()
  for name in result._fields:
    np.testing.assert_allclose(
        getattr(result, name), np.asarray(getattr(REPLICATES, name))[chosen],
        rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(arrivals, np.tile(ARRIVALS, (2000, 1)), rtol=1e-5)


def test_constants_are_shaken_by_as_much_as_is_asked_for():
  spread = augmentation.Spread(
      fatigue=0.5, fading=0.3, demand=0.4, level=0.2, stop=0.6, clock=0.0)
  result, _ = many(jax.random.key(1), spread)
  still, _ = many(jax.random.key(1), STILL)
  logit = jax.scipy.special.logit
  shaken = {
      "fatigue": jnp.log(result.fatigue / still.fatigue),
      "fading": -jnp.log(jnp.log(result.recovery) / jnp.log(still.recovery)),
      "demand": jnp.log(jnp.std(result.demand, axis=(1, 2))
                        / jnp.std(still.demand, axis=(1, 2))),
      "level": (result.level - still.level).ravel(),
      "stop": logit(result.stop) - logit(still.stop)}
  for name, values in shaken.items():
    wanted, count = getattr(spread, name), values.size
    assert abs(float(jnp.mean(values))) < 4 * wanted / count**0.5, name
    np.testing.assert_allclose(jnp.std(values), wanted, rtol=0.08)
  for name in ("scale", "redundancy", "examination", "dismiss"):
    np.testing.assert_array_equal(getattr(result, name), getattr(still, name))


def test_the_clock_moves_demand_and_arrivals_together():
  later = augmentation._moved(ARRIVALS, jnp.float32(3))
  np.testing.assert_allclose(later, jnp.roll(ARRIVALS, 3), rtol=1e-6)
  between = augmentation._moved(ARRIVALS, jnp.float32(-0.25))
  np.testing.assert_allclose(
      between, 0.75 * ARRIVALS + 0.25 * jnp.roll(ARRIVALS, -1), rtol=1e-4)
  result, arrivals = many(
      jax.random.key(2), STILL._replace(clock=4.0))
  np.testing.assert_allclose(arrivals.sum(axis=1), 1, rtol=1e-4)
  assert (np.asarray(arrivals) >= 0).all()
  # The same move for both: read off the phase of the day's wave.
  wave = np.exp(-2j * np.pi * np.arange(worlds.WINDOWS) / worlds.WINDOWS)
  still, _ = many(jax.random.key(2), STILL)
  turned = lambda moved, kept: np.angle((moved @ wave) / (kept @ wave)) * (
      -worlds.WINDOWS / (2 * np.pi))
  of_arrivals = turned(np.asarray(arrivals), np.asarray(ARRIVALS))
  of_demand = turned(np.asarray(result.demand), np.asarray(still.demand))
  np.testing.assert_allclose(of_demand, np.tile(
      of_arrivals[:, None], worlds.CATEGORIES), atol=0.02)
  np.testing.assert_allclose(of_arrivals.std(), 4.0, rtol=0.08)
