"""A day against formulas and frequencies: memory, observation, requests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from scipy import stats

from harmonrank_jax.reranker import simulator
from tests.reranker import rows
from tests.reranker import worlds

ROWS, VALUES = rows.ROWS, rows.VALUES
RULES, PLAIN, BY_SLOT, BOUND = rows.RULES, rows.PLAIN, rows.BY_SLOT, rows.BOUND
CATEGORIES, SLOTS, WINDOWS = worlds.CATEGORIES, worlds.SLOTS, worlds.WINDOWS


def test_the_page_remembers_by_category():
  state = rows.states()
  after, _, pages = rows.step(RULES, state)
  kinds = (pages.categories[..., None] == np.arange(CATEGORIES)
           ) & pages.where[..., None]
  count = lambda weights: np.einsum("brk,brkc->bc", 1.0 * weights, kinds)
  shown, clicks = count(pages.where), count(pages.clicks)
  expected = count(special.expit(pages.log_odds))
  assert shown.sum() == 2 * SLOTS * ROWS
  left = lambda windows: np.exp(-1 / windows)
  for name, new, keeps in (
      ("shown_fast", shown, left(2)), ("shown_slow", shown, left(12)),
      ("shown_today", shown, 1), ("clicks_fast", clicks, left(2)),
      ("clicks_slow", clicks, left(12)), ("clicks_today", clicks, 1),
      ("expected_slow", expected, left(12)), ("liked", clicks, left(4)),
      ("disliked", count(pages.dismissed), left(4))):
    np.testing.assert_allclose(
        getattr(after.memory, name),
        (getattr(state.memory, name) + new) * keeps, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      after.fatigue, (state.fatigue + shown) * 0.9, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(
      after.requests_today, state.requests_today + 2)
  assert (after.since_last == 1).all()
  idle = after._replace(num_requests=after.num_requests * 0)
  later = rows.step(RULES, idle)[0]
  assert (later.since_last == 2).all()
  np.testing.assert_array_equal(later.requests_today, after.requests_today)


def test_the_observation_knows_nothing_hidden():
  assert simulator.Simulator().observation_size == 128
  _, result, _ = rows.step(RULES, rows.states())
  assert result.observation.shape == (ROWS, RULES.observation_size)
  assert result.observation.dtype == np.float32
  assert np.isfinite(result.observation).all()
  assert np.abs(result.observation).max() < 6
  # Nobody clicks or dismisses: what is felt then leaves no trace.
  silent = {"level": np.full(CATEGORIES, -60.0), "dismiss": 0.0}
  one, other = (rows.by_row(rows.world()._replace(response=worlds.make_response(
      seed, **silent, **changes))) for seed, changes in (
          (0, {}), (1, {"fatigue": 1.0, "recovery": 0.5, "scale": 2.0,
                        "redundancy": 0.1, "stop": 0.9})))
  state = rows.states()
  rng = np.random.default_rng(0)
  others = state._replace(fatigue=rng.permuted(state.fatigue, axis=None))
  for page in (RULES, BY_SLOT):
    np.testing.assert_array_equal(
        rows.step(page, state, params=one)[1].observation,
        rows.step(page, others, params=other)[1].observation)
  # Nor while nothing is shown, nor at the beginning.
  idle = lambda state: state._replace(num_requests=state.num_requests * 0)
  np.testing.assert_array_equal(
      rows.step(RULES, idle(state))[1].observation,
      rows.step(RULES, idle(others), params=other)[1].observation)
  keys = jax.random.split(jax.random.key(7), ROWS)
  np.testing.assert_array_equal(
      rows.begun()[1].observation,
      rows.reset(keys, rows.world()._replace(response=worlds.make_response(
          3, fatigue=2.0)))[1].observation)
  # What was clicked is seen.
  assert (rows.step(RULES, state)[1].observation
          != rows.step(RULES, state, params=one)[1].observation
          ).any(axis=1).mean() > 0.9


def test_the_observation_shows_the_next_candidates():
  after, result, _ = rows.step(RULES, rows.states())
  for row in range(0, ROWS, 100):
    _, place, kinds, _ = rows.candidates(after, row, 0, rows.world())
    log_odds = np.asarray(rows.world().pool.log_odds)[place]
    seen = result.observation[row].reshape(-1)
    for kind in range(CATEGORIES):
      own = log_odds[kinds == kind]
      np.testing.assert_allclose(seen[kind], len(own) / 24, rtol=1e-6)
      if len(own):
        np.testing.assert_allclose(
            seen[CATEGORIES + kind], own.mean() / 4, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            seen[2 * CATEGORIES + kind], own.max() / 4, rtol=1e-6)


# --- requests ---


def assert_frequencies(counts, expected):
  """The chi-square statistic is exceeded once in ten thousand tests."""
  expected = expected * counts.sum() / expected.sum()
  assert stats.chisquare(counts, expected).pvalue > 1e-4


@pytest.mark.parametrize("activity", [0.2, 6.0, 60.0])
def test_a_day_begins_as_a_poisson_process_does(activity):
  params = rows.world()._replace(activity=jnp.full(worlds.USERS, activity))
  draws = [worlds.arrays(rows.reset(
      jax.random.split(jax.random.key(seed), ROWS), params))
           for seed in range(10)]
  state, result = jax.tree.map(lambda *x: np.concatenate(x), *draws)
  rates = activity * rows.wide(params.arrivals)
  before = np.exp(-np.cumsum(rates) + rates)
  chance = before * -np.expm1(-rates)
  counts = np.bincount(state.window, minlength=WINDOWS)
  usual = chance * counts.sum() / chance.sum() > 5
  pooled = lambda values: np.append(values[usual], values[~usual].sum() + 1e-9)
  assert_frequencies(pooled(counts), pooled(chance))
  # One request more in that window, or none.
  two = -np.expm1(-rates) - rates * np.exp(-rates)
  rows.assert_mean_zero((state.num_requests == 2) - (
      two / -np.expm1(-rates))[state.window])
  assert set(np.unique(state.num_requests)) <= {1, 2}
  even = np.ones(worlds.USERS)
  assert_frequencies(np.bincount(state.user, minlength=worlds.USERS), even)
  for request in (0, 1):
    assert_frequencies(
        np.bincount(state.start[:, request], minlength=worlds.PLACES),
        np.ones(worlds.PLACES))
  assert result.where.all() and not result.terminated.any()
  assert not (result.reward.any() or result.cost.any() or result.counted.any()
              or result.truncated.any())


def test_requests_come_by_the_curve_of_the_day():
  runs = [rows.step(RULES, rows.states(), seed=seed)[0]
          for seed in range(30, 36)]
  after = jax.tree.map(lambda *x: np.concatenate(x), *runs)
  rates = (rows.wide(rows.world().activity)[after.user]
           * rows.wide(rows.world().arrivals)[after.window])
  none, one = np.exp(-rates), rates * np.exp(-rates)
  # Neither on the whole nor where many are to come.
  rows.assert_mean_zero((after.num_requests == 0) - none)
  rows.assert_mean_zero(
      ((after.num_requests == 0) - none) * (rates - rates.mean()))
  rows.assert_mean_zero((after.num_requests == 2) - (1 - none - one))
  assert set(np.unique(after.num_requests)) == {0, 1, 2}
  for request in (0, 1):
    assert_frequencies(
        np.bincount(after.start[:, request], minlength=worlds.PLACES),
        np.ones(worlds.PLACES))


def test_a_day_ends_once_and_what_is_not_asked_for_counts_nothing():
  state = rows.states()._replace(
      window=(WINDOWS - 1 - np.arange(ROWS) % 5).astype(np.int32))
  state = state._replace(num_requests=(np.arange(ROWS) % 3).astype(np.int32))
  ends = np.zeros(ROWS, int)
  for number in range(7):
    requests, window = state.num_requests, state.window
    state, result, pages = rows.step(
        RULES, state, rows.random_actions(RULES), seed=200 + number)
    np.testing.assert_array_equal(state.window, window + 1)
    np.testing.assert_array_equal(result.terminated, window >= WINDOWS - 1)
    np.testing.assert_array_equal(result.where, state.num_requests > 0)
    ends += result.terminated & (window < WINDOWS)
    assert not result.truncated.any()
    np.testing.assert_array_equal(result.counted[:, 0], requests)
    idle = requests == 0
    for values in (result.reward, result.cost, pages.where, pages.clicks):
      assert not values[idle].any()
    assert not result.where[result.terminated].any()
    assert np.isfinite(result.observation).all()
  assert (ends == 1).all()
