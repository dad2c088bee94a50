"""Days of many users against a plain loop over users and windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.reranker import rollout
from tests.reranker import worlds

PAGE, USERS = worlds.PAGE, worlds.DAYS
KEY = jax.random.key(5)
traces = []


def policy_fn(observations):
  """Something that depends on everything that is observed."""
  weights = jnp.sin(jnp.arange(
      PAGE.observation_size * PAGE.action_size, dtype=jnp.float32)).reshape(
          PAGE.observation_size, PAGE.action_size)
  return jnp.tanh(observations @ weights)


@jax.jit
def simulate(params, key):
  traces.append(1)
  return rollout.simulate_days(
      PAGE, params, policy_fn, key=key, num_users=USERS)


@functools.cache
def world():
  # Users of few and of many requests; none at night.
  shares = np.where(np.arange(worlds.WINDOWS) < 12, 0.0, 1 / 84)
  return worlds.make_params(
      arrivals=shares,
      activity=np.where(np.arange(worlds.USERS) % 2, 1.0, 90.0),
      values=np.array([1.0, 0.5, 2.0, 0.0]))


@functools.cache
def by_loop():
  """Step by step: `[user][window]` of state, action, result and page."""
  reset_key, step_key = jax.random.split(KEY)
  resets = jax.random.split(reset_key, USERS)
  keys = jax.random.split(step_key, (worlds.WINDOWS, USERS))
  act = jax.jit(lambda observation: policy_fn(observation[None])[0])
  days = []
  for user in range(USERS):
    state, result = worlds.reset_one(resets[user], world())
    day = []
    while not result.terminated:
      action = act(result.observation)
      after, result, page = worlds.step_one(
          keys[len(day), user], state, action, world())
      day.append(worlds.arrays((state, action, result, page)))
      state = after
    days.append(day)
  return days


@pytest.mark.slow
def test_simulate_is_the_loop_over_users_and_windows():
  outcome = worlds.arrays(simulate(world(), KEY))
  actions = np.zeros((worlds.WINDOWS, PAGE.action_size))
  acted = np.zeros(worlds.WINDOWS)
  for user, day in enumerate(by_loop()):
    clicks, exposures = np.zeros((2, worlds.CATEGORIES))
    for state, action, _, page in day:
      for slot in zip(*np.nonzero(page.where), strict=True):
        exposures[page.categories[slot]] += 1
        clicks[page.categories[slot]] += page.clicks[slot]
      if state.num_requests:
        acted[state.window] += 1
        actions[state.window] += action
    np.testing.assert_array_equal(outcome.clicks[user], clicks)
    np.testing.assert_array_equal(outcome.exposures[user], exposures)
    np.testing.assert_allclose(
        outcome.reward[user], clicks * [1.0, 0.5, 2.0, 0.0], rtol=1e-6)
    for name in ("cost", "counted"):
      np.testing.assert_allclose(
          getattr(outcome, name)[user],
          sum(getattr(result, name) for _, _, result, _ in day), rtol=1e-5)
    assert outcome.windows[user] == len(day)
    assert len(day) == worlds.WINDOWS - day[0][0].window
  np.testing.assert_array_equal(outcome.acted, acted)
  np.testing.assert_allclose(
      outcome.action, actions / np.maximum(acted, 1)[:, None], atol=1e-5)
  assert (outcome.action[acted == 0] == 0).all() and (acted == 0).any()
  # They differ in when they came; nobody's day is over before it began.
  assert len(set(outcome.windows)) > 4 and outcome.windows.min() >= 1


def test_the_log_of_visits_has_the_promised_order():
  visits, exposures = worlds.arrays(worlds.visits(world(), KEY))
  requests = PAGE.max_requests
  assert exposures.where.shape == (
      USERS * worlds.WINDOWS * requests, worlds.SLOTS)
  row = 0
  for user in range(USERS):
    for step in range(worlds.WINDOWS):
      for request in range(requests):
        page = jax.tree.map(
            lambda x, at=(step, user, request): x[at], visits.pages)
        shown = page.where & visits.where[step, user, request]
        assert exposures.day_ids[row] == user
        np.testing.assert_array_equal(exposures.where[row], shown)
        for name in ("log_odds", "categories", "similarity", "clicks",
                     "dismissed"):
          np.testing.assert_array_equal(
              getattr(exposures, name)[row][shown],
              getattr(page, name)[shown])
        assert exposures.time[row] == visits.window[step, user] + 0.5
        assert not (exposures.clicks | exposures.dismissed)[row][~shown].any()
        row += 1


def test_visits_show_what_was_asked_for_until_the_day_ends():
  visits = worlds.arrays(worlds.visits(world(), KEY)[0])
  # Users and requests do not depend on the policy: those of the loop.
  for user, day in enumerate(by_loop()):
    steps = len(day)
    np.testing.assert_array_equal(
        visits.window[:steps, user], [state.window for state, *_ in day])
    np.testing.assert_array_equal(
        visits.where[:steps, user].sum(axis=1),
        [state.num_requests for state, *_ in day])
    assert not visits.where[steps:, user].any()
    assert (visits.window[steps:, user] >= worlds.WINDOWS).all()
  np.testing.assert_array_equal(
      visits.pages.where.any(axis=-1), visits.where)
  assert (visits.action == 0).all()
  assert visits.action.shape == (worlds.WINDOWS, USERS, PAGE.action_size)


def test_another_policy_meets_the_same_users():
  # Clicks differ, and with the same key all else is paired.
  result = simulate(world(), KEY)
  again = simulate(world(), KEY)
  other = simulate(world(), jax.random.key(6))
  jax.tree.map(np.testing.assert_array_equal, result, again)
  assert (np.asarray(result.windows) != np.asarray(other.windows)).any()
  visits = worlds.arrays(worlds.visits(world(), KEY)[0])
  np.testing.assert_array_equal(
      result.acted, np.bincount(
          visits.window[visits.where.any(-1)], minlength=worlds.WINDOWS))
  assert visits.pages.clicks.sum() != np.sum(result.clicks)
  assert len(traces) == 1


def test_errors_of_the_world_name_the_argument():
  with pytest.raises(ValueError, match=r"params\.activity has shape"):
    jax.eval_shape(simulate, world()._replace(activity=jnp.ones(3)), KEY)
