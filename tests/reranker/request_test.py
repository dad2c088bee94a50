"""Pages of single requests, against the simulated days that they stand in."""

import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.reranker import day as day_lib
from harmonrank_jax.reranker import policy
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import request as request_lib
from harmonrank_jax.reranker import score_calibration
from harmonrank_jax.reranker import trajectory
from tests.reranker import worlds

CATEGORIES, SLOTS, WINDOWS = worlds.CATEGORIES, worlds.SLOTS, worlds.WINDOWS
CANDIDATES, PLACES = worlds.CANDIDATES, worlds.PLACES
DAYS, PADDING, THETA = 24, 8, 0.6
ONE = dataclasses.replace(worlds.PAGE, max_requests=1, knob=True)
PAGES = {
    "rules": ONE,
    "by_slot": dataclasses.replace(
        ONE, layout="slot_category", knob=False, spread=None,
        feedback_rule=3.0),
    "plain": dataclasses.replace(
        ONE, layout="rank2", spread=1, feedback_rule=0.0)}


@functools.cache
def calibration():
  """Bent curves, and a shift that changes from window to window."""
  rng = np.random.default_rng(5)
  sorted_rows = lambda: np.sort(rng.normal(size=(CATEGORIES, 7)), axis=1)
  return worlds.changed(
      score_calibration.Calibration(*[None] * 4), {
          "slope": rng.uniform(0, 1, CATEGORIES), "knots": sorted_rows(),
          "values": sorted_rows(),
          "shift": rng.normal(size=(WINDOWS, CATEGORIES))})


@functools.cache
def world():
  """A world ranked by the calibration, in which some places are empty."""
  params = worlds.make_params(
      response=worlds.make_response(dismiss=0.3), theta=THETA)
  pool = params.pool
  where = np.random.default_rng(0).random(pool.where.shape) < 0.8
  base = score_calibration.calibrated_log_odds(
      calibration(), pool.log_odds, pool.item_categories[pool.items])
  return params._replace(
      pool=pool._replace(where=jnp.asarray(where)), base=base,
      shift=calibration().shift)


def learner(page, **changes):
  """A policy whose corrections are large."""
  config = dataclasses.replace(ppo_config.PpoConfig.modern(page), **changes)
  size = page.observation_size
  networks = policy.ActorCritic(config.policy).init(
      jax.random.key(1), jnp.zeros(size))["params"]
  actor = jax.tree.map(lambda leaf: 1.5 * leaf, networks["actor"])
  actor["mean"]["kernel"] *= 60
  statistics = trajectory.Statistics(
      jnp.float32(9), 0.1 * jax.random.normal(jax.random.key(2), (size,)),
      jnp.full(size, 0.2))
  return config, request_lib.Deployed(actor, statistics, calibration())


@functools.cache
def day(name):
  """Windows of `DAYS` days: states, observations, actions and pages."""
  page = PAGES[name]
  config, deployed = learner(page)

  @jax.jit
  def simulate(params, key):
    def step(carry, keys):
      state, seen = carry
      action = ppo.mean_action(
          {"params": {"actor": deployed.actor}}, deployed.statistics,
          seen.observation, config=config)
      after = jax.vmap(page.step_with_pages, in_axes=(0, 0, 0, None))(
          keys, state, action, params)
      return after[:2], (state, seen.observation, action, after[2])

    begin, days = jax.random.split(key)
    start = jax.vmap(page.reset, in_axes=(0, None))(
        jax.random.split(begin, DAYS), params)
    return lax.scan(
        step, start, jax.random.split(days, (WINDOWS, DAYS)))[1]

  return worlds.arrays(simulate(world(), jax.random.key(3)))


@functools.cache
def answerer(name):
  config, deployed = learner(PAGES[name])
  return jax.jit(jax.vmap(functools.partial(
      request_lib.answer, PAGES[name], config, deployed, theta=THETA)))


def requests(name, garbage):
  """All requests of the days `[R, ...]`, and what the simulator did."""
  state, observation, action, pages = day(name)
  pages = jax.tree.map(lambda leaf: leaf[:, :, 0], pages)
  made = (state.num_requests > 0) & (state.window < WINDOWS)
  step, row = np.nonzero(made)
  rng = np.random.default_rng(1)
  # Items of the day in any order, whatever was or will be shown.
  order = rng.permutation(WINDOWS * SLOTS)
  flat = lambda leaf: np.moveaxis(leaf, 0, 1).reshape(
      DAYS, -1)[row][:, order]
  of_slots = lambda leaf: np.repeat(leaf[:, :, None], SLOTS, axis=2)
  window = state.window[step, row]
  age = window[:, None] - flat(of_slots(state.window))
  where = flat(pages.where & made[:, :, None]) & (age > 0)
  spoil = lambda values, value: np.where(where, values, value)
  history = day_lib.History(
      categories=spoil(flat(pages.categories), 2), age=spoil(age, garbage),
      log_odds=spoil(flat(pages.log_odds), garbage),
      clicks=spoil(flat(pages.clicks), True),
      dismissed=spoil(flat(pages.dismissed), True), where=where)
  pool = worlds.arrays(world().pool)
  places = (state.start[step, row] + np.arange(CANDIDATES)) % PLACES
  user = state.user[step, row, None]
  pad = lambda values, value: np.pad(
      values, [(0, 0), (0, PADDING)] + [(0, 0)] * (values.ndim - 2),
      constant_values=value)
  valid = pool.where[user, places]
  spoiled = lambda values: pad(np.where(valid, values, garbage), garbage)
  items = pool.items[user, places]
  before = np.cumsum(made, axis=0) - made
  last = np.maximum.accumulate(np.where(made, state.window, -1), axis=0)
  last = np.concatenate([np.full((1, DAYS), -1), last[:-1]])[step, row]
  request = request_lib.Request(
      categories=pad(pool.item_categories[items], 1),
      features=pad(pool.features[items], 1.0),
      log_odds=spoiled(pool.log_odds[user, places]),
      log_value=spoiled(pool.log_value[user, places]),
      where=pad(valid, False), history=history, window=window,
      requests_today=before[step, row].astype(np.float32),
      since_last=np.where(last < 0, garbage, window - last).astype(np.float32))
  return request, items, (
      observation[step, row], action[step, row],
      jax.tree.map(lambda leaf: leaf[step, row], pages))


def answered(name, request):
  return worlds.arrays(answerer(name)(request))


@pytest.mark.parametrize("name", [
    "rules", *(pytest.param(name, marks=pytest.mark.slow)
               for name in PAGES if name != "rules")])
def test_a_simulated_day_is_answered_request_by_request(name):
  request, items, (observation, action, pages) = requests(name, np.nan)
  answer = answered(name, request)
  assert len(items) > 200 and pages.dismissed.any() and pages.clicks.any()
  assert request.requests_today.max() > 10
  np.testing.assert_allclose(answer.observation, observation, atol=1e-5)
  np.testing.assert_allclose(answer.action, action, atol=1e-3)
  assert np.abs(action).std(axis=0).min() > 0.05
  shown = np.where(answer.indices < 0, -1, np.take_along_axis(
      items, np.maximum(answer.indices, 0), axis=1))
  np.testing.assert_array_equal(shown, pages.items)
  np.testing.assert_allclose(answer.diversity, pages.diversity, atol=1e-3)
  assert (answer.gains[answer.indices < 0] == 0).all()


def test_what_is_masked_may_hold_anything():
  jax.tree.map(
      np.testing.assert_array_equal,
      *(answered("rules", requests("rules", garbage)[0])
        for garbage in (np.nan, -7.0)))


def test_a_request_in_the_same_window_is_answered_as_in_the_next():
  request, _, _ = requests("rules", 0)
  first = request.requests_today == 0
  later = lambda age: request._replace(
      history=request.history._replace(
          age=np.full_like(request.history.age, age)),
      since_last=np.full_like(request.since_last, age))
  now, then, long_ago = (
      answered("rules", later(age)) for age in (0, 1, 9))
  jax.tree.map(np.testing.assert_array_equal, now, then)
  same = (then.observation == long_ago.observation).all(axis=1)
  np.testing.assert_array_equal(same, first)


@pytest.mark.slow
def test_items_in_none_of_the_categories_are_shown_by_their_predictions():
  page = dataclasses.replace(ONE, knob=False, spread=1, feedback_rule=3.0)
  config, deployed = learner(page)
  scores = jnp.linspace(1, 0, CANDIDATES)
  history = day_lib.History(*(
      jnp.ones(SLOTS, kind) for kind in (
          jnp.int32, jnp.float32, jnp.float32, bool, bool, bool)))

  @functools.partial(jax.jit, static_argnames="page")
  def answer(kinds, quotas, page=page):
    return request_lib.answer(
        page, config, deployed, request_lib.Request(
            categories=kinds, features=jnp.eye(CANDIDATES), log_odds=scores,
            log_value=jnp.zeros(CANDIDATES), where=scores < 2,
            history=history, window=jnp.int32(3),
            requests_today=jnp.float32(1), since_last=jnp.float32(1)),
        theta=THETA, quotas=quotas)

  none, open_quotas = jnp.full(CANDIDATES, -1), jnp.full(CATEGORIES, SLOTS)
  unknown = answer(none, open_quotas)
  # Neither corrections nor rules: the order is that of the predictions.
  np.testing.assert_array_equal(unknown.indices, np.arange(SLOTS))
  weight = THETA / (1 - THETA)
  np.testing.assert_allclose(
      unknown.gains, weight * jax.nn.log_sigmoid(scores[:SLOTS]), rtol=1e-4)
  kinds = jnp.arange(CANDIDATES) % CATEGORIES
  quotas = jnp.array([0, 1, SLOTS, 2])
  chosen = answer(kinds, quotas)
  counts = np.bincount(kinds[chosen.indices], minlength=CATEGORIES)
  assert (counts <= quotas).all() and counts.sum() == SLOTS
  assert (np.bincount(kinds[answer(kinds, open_quotas).indices],
                      minlength=CATEGORIES) > quotas).any()
  # Rules move items, and their gains with them.
  plain = dataclasses.replace(page, spread=None, feedback_rule=0.0)
  as_selected = answer(kinds, open_quotas, page=plain)
  arranged = answer(kinds, open_quotas)
  assert (as_selected.indices != arranged.indices).any()
  gains_of = lambda one: dict(zip(
      one.indices.tolist(), one.gains.tolist(), strict=True))
  assert gains_of(as_selected) == pytest.approx(gains_of(arranged))
  # A policy sees of items in no category nothing at all.
  np.testing.assert_array_equal(
      unknown.observation.reshape(-1)[:2 * CATEGORIES], 0)


def test_pages_that_no_request_can_make_are_refused():
  for changes, message in (
      ({"max_requests": 2}, "max_requests"), ({"privileged": True}, "sees")):
    page = dataclasses.replace(ONE, **changes)
    with pytest.raises(ValueError, match=message):
      request_lib.answer(page, None, None, None, theta=0.5)
