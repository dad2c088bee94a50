"""The home page against brute force, formulas and frequencies."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from scipy import stats

from harmonrank_jax.reranker import simulator
from tests.diversity import reference
from tests.reranker import worlds

ROWS = 2048
CATEGORIES, SLOTS, WINDOWS = worlds.CATEGORIES, worlds.SLOTS, worlds.WINDOWS
# Those of a world that differ between rows: what users are, and theta.
AXES = simulator.Params(
    pool=None, response=0, arrivals=None, activity=None, base=None,
    shift=None, theta=0, values=None)
VALUES = np.array([1.0, 0.5, 2.0, 0.25])
traces = []

RULES = worlds.PAGE
PLAIN = dataclasses.replace(RULES, spread=None, feedback_rule=0.0)
BY_SLOT = dataclasses.replace(
    PLAIN, layout="slot_category", knob=True, scope="window")
BOUND = dataclasses.replace(
    PLAIN, layout="rank2", knob=True, max_requests=1, privileged=True,
    expected_rewards=True, exposure_costs=True)


@functools.cache
def stepper(page):
  def run(keys, states, actions, params):
    traces.append(page)
    return jax.vmap(page.step_with_pages, in_axes=(0, 0, 0, AXES))(
        keys, states, actions, params)
  return jax.jit(run)


reset = jax.jit(jax.vmap(RULES.reset, in_axes=(0, None)))


@functools.cache
def world():
  return worlds.make_params(values=VALUES)


def by_row(params):
  """The same response and theta in every row."""
  repeat = lambda leaf: jnp.broadcast_to(leaf, (ROWS, *leaf.shape))
  return params._replace(response=jax.tree.map(repeat, params.response),
                         theta=repeat(params.theta))


def row_of(params, row):
  one = lambda leaf: leaf[row]
  return params._replace(response=jax.tree.map(one, params.response),
                         theta=params.theta[row])


def step(page, states, actions=None, params=None, seed=0):
  """States, results and pages of all rows, as NumPy."""
  if actions is None:
    actions = jnp.zeros((ROWS, page.action_size))
  if page.max_requests == 1:
    states = states._replace(start=states.start[:, :1])
  keys = jax.random.split(jax.random.key(seed), ROWS)
  return worlds.arrays(stepper(page)(
      keys, states, jnp.asarray(actions, jnp.float32),
      by_row(world()) if params is None else params))


@functools.cache
def begun():
  return reset(jax.random.split(jax.random.key(7), ROWS), world())


@functools.cache
def states():
  """In the middle of a day, two requests to come; something to remember."""
  rng = np.random.default_rng(0)
  state = worlds.arrays(begun()[0])._replace(
      window=rng.integers(0, WINDOWS - 3, ROWS).astype(np.int32))
  for seed in (20, 21):
    state = state._replace(
        num_requests=np.full(ROWS, 2, np.int32))
    state = step(RULES, state, seed=seed)[0]
  return state._replace(num_requests=np.full(ROWS, 2, np.int32))


def random_actions(page, size=1.0):
  return size * np.random.default_rng(1).normal(size=(ROWS, page.action_size))


def random_thetas():
  thetas = np.random.default_rng(2).uniform(0.1, 0.9, ROWS)
  return by_row(world())._replace(theta=jnp.asarray(thetas, jnp.float32))


def wide(tree):
  return jax.tree.map(
      lambda x: np.asarray(x, np.float64)
      if np.issubdtype(np.asarray(x).dtype, np.floating) else np.asarray(x),
      tree)


def candidates(state, row, request, params):
  """Items, places, categories and where of a request."""
  pool = wide(params.pool)
  user = state.user[row]
  places = (state.start[row, request] + np.arange(worlds.CANDIDATES)
            ) % worlds.PLACES
  items = pool.items[user, places]
  return items, (user, places), pool.item_categories[items], pool.where[
      user, places]


def log_sigmoid(odds):
  return -np.logaddexp(0, -odds)


def greedy_items(items, features, relevance, categories, bias, theta, shown):
  """Slot by slot the largest determinant of that slot's own kernel."""
  alpha = theta / (2 * (1 - theta))
  every = reference.unit(np.concatenate([shown, features]))
  before, taken = len(shown), []
  for slot in range(SLOTS):
    score = np.concatenate([np.zeros(before), relevance + bias[slot, categories]
                            ])
    # Times a constant, so that powers stay within float64.
    score[before:] -= score[before:].max()
    weight = np.exp(alpha * score)
    kernel = weight[:, None] * (every @ every.T) * weight[None, :]
    chosen = [*range(before), *(before + place for place in taken)]
    base = np.linalg.det(kernel[np.ix_(chosen, chosen)]) if chosen else 1.0
    ratios = [0.0 if place in taken else np.linalg.det(
        kernel[np.ix_([*chosen, before + place], [*chosen, before + place])]
    ) / base for place in range(len(items))]
    taken.append(int(np.argmax(ratios)))
  return items[taken]


def decoded(page, action, theta):
  """Bias `[K, C]` and theta."""
  if page.knob:
    theta = special.expit(special.logit(theta) + action[-1])
    action = action[:-1]
  numbers = action.reshape(-1, CATEGORIES)
  if page.layout == "rank2":
    slope = -1 + 2 * np.arange(SLOTS) / (SLOTS - 1)
    numbers = numbers[0] + slope[:, None] * numbers[1]
  bias = np.broadcast_to(numbers, (SLOTS, CATEGORIES))
  return bias - bias.mean(axis=1, keepdims=True), theta


@pytest.mark.parametrize(
    "page", [PLAIN, BY_SLOT, BOUND], ids=lambda page: page.layout)
def test_slates_are_greedy_on_the_kernel_of_each_slot(page):
  params, state = random_thetas(), states()
  actions = random_actions(page)
  _, _, pages = step(page, state, actions, params)
  base, shift = wide(params.base), wide(params.shift)
  features = wide(params.pool.features)
  for row in range(0, ROWS, ROWS // 24):
    response, theta = wide(row_of(params, row).response), float(
        params.theta[row])
    bias, theta = decoded(page, actions[row], theta)
    shown = np.zeros((0, worlds.WIDTH))
    for request in range(page.max_requests):
      items, place, kinds, _ = candidates(state, row, request, params)
      odds = base[place] + shift[state.window[row], kinds]
      if page.privileged:
        odds = (response.scale * wide(params.pool.log_odds)[place]
                + response.level[kinds]
                + response.demand[kinds, state.window[row]]
                - response.fatigue * state.fatigue[row, kinds])
      relevance = log_sigmoid(odds) + wide(params.pool.log_value)[place]
      expected = greedy_items(
          items, features[items], relevance, kinds, bias, theta, shown)
      np.testing.assert_array_equal(pages.items[row, request], expected)
      if page.scope == "window":
        shown = np.concatenate([shown, features[expected]])


def test_the_second_slate_of_a_window_avoids_the_first():
  state = states()
  same = state._replace(start=np.repeat(state.start[:, :1], 2, axis=1))
  first, second = (step(BY_SLOT, same)[2].items[:, n] for n in (0, 1))
  assert not (first[:, :, None] == second[:, None, :]).any()
  first, second = (step(PLAIN, same)[2].items[:, n] for n in (0, 1))
  np.testing.assert_array_equal(first, second)


def test_a_constant_for_all_categories_changes_nothing():
  state, constants = states(), np.random.default_rng(4).normal(size=(ROWS, 6))
  for page in (PLAIN, BY_SLOT, BOUND):
    action = random_actions(page)
    added = np.repeat(
        constants[:, :page.action_size // CATEGORIES], CATEGORIES, axis=1)
    moved = action.copy()
    moved[:, :added.shape[1]] += added
    items, others = (
        step(page, state, numbers)[2].items for numbers in (action, moved))
    # Rounding decides between what is equally good.
    assert (items == others).mean() > 0.999
    assert (step(page, state)[2].items != items).mean() > 0.2


def log_volume(items, features, size):
  """`log det S_Y / K`, 1e-5 for each slot that is empty."""
  shown = reference.unit(features[items[items >= 0]])
  volume = np.linalg.slogdet(shown @ shown.T)[1] if len(shown) else 0.0
  return (volume + (size - len(shown)) * np.log(1e-5)) / size


def test_the_cost_is_the_diversity_of_what_is_shown_whatever_the_rules():
  state, params = states(), random_thetas()
  requests = np.random.default_rng(3).integers(0, 3, ROWS).astype(np.int32)
  state = state._replace(num_requests=requests)
  features, actions = wide(params.pool.features), random_actions(RULES, 0.5)
  _, result, pages = step(RULES, state, actions, params)
  _, other, plain = step(PLAIN, state, actions, params)
  for row in range(0, ROWS, 16):
    expected = -sum(log_volume(pages.items[row, n], features, SLOTS)
                    for n in range(requests[row]))
    np.testing.assert_allclose(result.cost[row], [expected], atol=3e-4)
  np.testing.assert_array_equal(result.counted[:, 0], requests)
  np.testing.assert_array_equal(result.cost, other.cost)
  np.testing.assert_array_equal(pages.diversity, plain.diversity)
  assert (pages.items != plain.items).any(axis=-1).mean() > 0.2
  # Nobody is shown a slate that was not asked for.
  shown = pages.where.all(axis=-1)
  np.testing.assert_array_equal(shown, np.arange(2) < requests[:, None])
  assert (pages.items[~shown] == -1).all() and not pages.clicks[~shown].any()


def test_the_diversity_of_a_window_is_that_beside_what_was_shown_before():
  params, state = random_thetas(), states()
  features = wide(params.pool.features)
  _, result, pages = step(BY_SLOT, state, random_actions(BY_SLOT), params)
  for row in range(0, ROWS, 32):
    first = log_volume(pages.items[row, 0], features, SLOTS)
    both = 2 * log_volume(pages.items[row].reshape(-1), features, 2 * SLOTS)
    np.testing.assert_allclose(
        pages.diversity[row], [first, both - first], atol=1e-3)
    np.testing.assert_allclose(result.cost[row], [-both], atol=1e-3)


def test_of_an_almost_empty_pool_all_is_shown_and_diversity_has_a_floor():
  params, state = world(), states()
  few = np.arange(worlds.USERS) % 3  # Users of no, three and four items.
  left = np.array([0, 3, 4])[few]
  where = np.zeros((worlds.USERS, worlds.PLACES), bool)
  where[:, :worlds.CANDIDATES] = (
      np.arange(worlds.CANDIDATES) < left[:, None])
  state = state._replace(start=np.zeros_like(state.start))
  pool = params.pool._replace(where=jnp.asarray(where))
  features = wide(pool.features)
  found = []
  for page in (RULES, BY_SLOT):
    after, result, pages = step(
        page, state, params=by_row(params._replace(pool=pool)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(
        (after, result, pages)))
    if page is RULES:
      np.testing.assert_array_equal(
          pages.where.sum(-1), np.repeat(left[state.user][:, None], 2, axis=1))
    for row in range(0, 48):
      for request in (0, 1):
        items = pages.items[row, request]
        size = left[state.user[row]]
        known = set(np.asarray(pool.items)[state.user[row], :size])
        assert set(items[items >= 0]) <= known
        if page is RULES or not request:
          assert set(items[items >= 0]) == known
          np.testing.assert_allclose(
              pages.diversity[row, request],
              log_volume(items, features, SLOTS), atol=3e-4)
    found.append(pages)
  # Of a window, the second slate has nothing new to show.
  assert not found[1].where[:, 1].any()
  np.testing.assert_allclose(
      found[1].diversity[:, 1], np.log(1e-5), rtol=1e-6)
  garbage = lambda values, what: jnp.where(where, values, what)
  spoiled = params._replace(
      base=garbage(params.base, jnp.nan), pool=pool._replace(
          items=garbage(pool.items, -1),
          log_odds=garbage(pool.log_odds, jnp.nan),
          log_value=garbage(pool.log_value, jnp.nan)))
  after = [step(RULES, state, params=by_row(given)) for given in (
      params._replace(pool=pool), spoiled)]
  for one, other in zip(after[0][:2], after[1][:2], strict=True):
    jax.tree.map(np.testing.assert_array_equal, one, other)
  shown = after[0][2].where
  for name in ("items", "clicks", "click_probability"):
    np.testing.assert_array_equal(
        *(getattr(run[2], name)[shown] for run in after))


def test_the_knob_at_its_ends():
  state = states()
  for value in (-40.0, 40.0):
    actions = np.zeros((ROWS, BY_SLOT.action_size))
    actions[:, -1] = value
    _, result, pages = step(BY_SLOT, state, actions)
    assert np.isfinite(result.cost).all() and pages.where[:, 0].all()
    assert (result.cost < 2 * np.log(1e5)).all()


def chances(page, state, row, params):
  """Of each slot of each request: q, and the chance of a click."""
  response = wide(row_of(params, row).response)
  features = reference.unit(params.pool.features)
  window, fatigue = state.window[row], wide(state.fatigue[row]).copy()
  q = np.zeros(page.where[row].shape)
  for request, items in enumerate(page.items[row]):
    kinds = page.categories[row, request]
    for slot, item in enumerate(items):
      above = features[items[:slot]] @ features[item]
      odds = (response.scale * page.log_odds[row, request, slot]
              + response.level[kinds[slot]]
              + response.demand[kinds[slot], window]
              - response.fatigue * fatigue[kinds[slot]]
              - response.redundancy * max([0, *above]))
      q[request, slot] = response.examination[slot] * special.expit(odds)
    np.add.at(fatigue, kinds, 1)
  stays = np.cumprod(1 - response.stop * q, axis=1)
  return q, q * np.concatenate([np.ones((len(q), 1)), stays[:, :-1]], axis=1)


@functools.cache
def thrown():
  """The pages of one state under 20,480 dice, and their parameters."""
  one = jax.tree.map(lambda leaf: np.repeat(leaf[3:4], ROWS, axis=0), states())
  params = by_row(world()._replace(
      response=worlds.make_response(stop=0.4, dismiss=0.15)))
  runs = [step(RULES, one, params=params, seed=100 + n) for n in range(10)]
  return one, params, jax.tree.map(lambda *x: np.concatenate(x), *runs)


def assert_mean_zero(values):
  """Of independent rows, to four and a half standard errors."""
  error = values.std(axis=0) / np.sqrt(len(values))
  assert (np.abs(values.mean(axis=0)) < 4.5 * error + 1e-9).all(), (
      values.mean(axis=0) / error)


def test_clicks_are_as_frequent_as_their_probability():
  state, params, (_, result, pages) = thrown()
  q, expected = chances(pages, state, 0, params)
  np.testing.assert_allclose(
      pages.click_probability[0], expected, rtol=1e-4, atol=1e-6)
  assert (pages.click_probability[:, 0] == pages.click_probability[:1, 0]).all()
  assert_mean_zero(pages.clicks - pages.click_probability.astype(np.float64))
  # Two clicks: the user stayed after the first, and after all between.
  stop = 0.4
  clicks, q = pages.clicks[:, 0], q[0]
  for first in range(SLOTS):
    for second in range(first + 1, SLOTS):
      between = np.prod(1 - stop * q[first + 1:second])
      both = expected[0, first] * (1 - stop) * between * q[second]
      assert_mean_zero(1.0 * clicks[:, first] * clicks[:, second] - both)
  assert not (pages.dismissed & pages.clicks).any()
  could = pages.where & ~pages.clicks
  rate = pages.dismissed.sum() / could.sum()
  assert abs(rate - 0.15) < 4.5 * np.sqrt(0.15 * 0.85 / could.sum())
  # Reward is the value of clicks, by category.
  kinds = pages.categories[..., None] == np.arange(CATEGORIES)
  np.testing.assert_allclose(
      result.reward, VALUES * (kinds & pages.clicks[..., None]).sum((1, 2)),
      rtol=1e-6)


def test_click_probabilities_of_many_states():
  state, params = states(), random_thetas()
  _, _, pages = step(RULES, state, params=params)
  for row in range(0, ROWS, 40):
    np.testing.assert_allclose(
        pages.click_probability[row], chances(pages, state, row, params)[1],
        rtol=2e-4, atol=1e-6)
  assert_mean_zero(pages.clicks - pages.click_probability.astype(np.float64))


def test_expected_rewards_shares_of_slots_and_the_bound():
  state = states()
  actions = random_actions(BOUND, 0.3)
  runs = [step(BOUND, state, actions, seed=seed) for seed in range(6)]
  rewards, sampled = [], []
  for _, result, pages in runs:
    kinds = (pages.categories[..., None] == np.arange(CATEGORIES)
             ) & pages.where[..., None]
    of = lambda chosen, kinds=kinds: VALUES * np.einsum(
        "brk,brkc->bc", 1.0 * chosen, kinds)
    np.testing.assert_allclose(
        result.reward, of(pages.click_probability), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        result.cost[:, 1:], -kinds.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(
        result.counted, np.repeat(state.num_requests[:, None], 5, axis=1))
    rewards.append(result.reward.astype(np.float64))
    sampled.append(of(pages.clicks))
  assert_mean_zero(np.concatenate(sampled) - np.concatenate(rewards))
  # Given the slate they do not depend on the dice.
  np.testing.assert_array_equal(rewards[0], rewards[1])
  assert np.std(sampled[0]) > 1.3 * np.std(rewards[0])
  # Who sees what is hidden has more clicks than who goes by the scores.
  none = np.zeros((ROWS, BOUND.action_size))
  first = lambda pages: pages.click_probability[:, 0].sum(-1).mean()
  assert first(step(BOUND, state, none)[2]) > 1.02 * first(
      step(PLAIN, state)[2])


# --- the page's rules ---


def arranged(kinds, mood):
  """Order of a slate by both rules, of categories that feel like `mood`."""
  places = np.arange(SLOTS) + 1.5 * np.tanh(mood)[kinds]
  left = list(np.argsort(places, kind="stable"))
  order = []
  while left:
    last = [kinds[place] for place in order[-2:]]
    free = [place for place in left
            if len(last) < 2 or set(last) != {kinds[place]}]
    order.append((free or left)[0])
    left.remove(order[-1])
  return np.array(order)


def test_rules_arrange_what_the_greedy_has_selected():
  state, params = states(), random_thetas()
  _, _, pages = step(RULES, state, params=params)
  _, _, plain = step(PLAIN, state, params=params)
  forced = 0
  for row in range(0, ROWS, 8):
    mood = state.memory.disliked[row] - state.memory.liked[row]
    for request in (0, 1):
      kinds = plain.categories[row, request]
      order = arranged(kinds, mood)
      np.testing.assert_array_equal(
          pages.items[row, request], plain.items[row, request][order])
      found = pages.categories[row, request]
      for slot in range(2, SLOTS):
        if len(set(found[slot - 2:slot + 1])) == 1:
          assert len(set(found[slot:])) == 1
          forced += 1
      page = jax.tree.map(lambda x, at=(row, request): x[at], pages)
      np.add.at(mood, found, page.dismissed * 1.0 - page.clicks * 1.0)
  assert forced > 0


def test_feedback_moves_a_category():
  state = states()
  nothing = jax.tree.map(np.zeros_like, state.memory)
  places = lambda memory: step(
      RULES, state._replace(memory=memory))[2].categories[:, 0]
  mean_place = lambda kinds: (
      (kinds == 2) * np.arange(SLOTS)).sum() / (kinds == 2).sum()
  calm = mean_place(places(nothing))
  felt = np.where(np.arange(CATEGORIES) == 2, 2.0, 0) * np.ones((ROWS, 1))
  felt = felt.astype(np.float32)
  assert mean_place(places(nothing._replace(disliked=felt))) > calm + 0.4
  assert mean_place(places(nothing._replace(liked=felt))) < calm - 0.4


# --- what is seen and remembered ---


def test_the_page_remembers_by_category():
  state = states()
  after, _, pages = step(RULES, state)
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
  later = step(RULES, after._replace(num_requests=after.num_requests * 0))[0]
  assert (later.since_last == 2).all()
  np.testing.assert_array_equal(later.requests_today, after.requests_today)


def test_the_observation_knows_nothing_hidden():
  assert simulator.Simulator().observation_size == 128
  _, result, _ = step(RULES, states())
  assert result.observation.shape == (ROWS, RULES.observation_size)
  assert result.observation.dtype == np.float32
  assert np.isfinite(result.observation).all()
  assert np.abs(result.observation).max() < 6
  # Nobody clicks or dismisses: what is felt then leaves no trace.
  silent = {"level": np.full(CATEGORIES, -60.0), "dismiss": 0.0}
  one, other = (by_row(world()._replace(response=worlds.make_response(
      seed, **silent, **changes))) for seed, changes in (
          (0, {}), (1, {"fatigue": 1.0, "recovery": 0.5, "scale": 2.0,
                        "redundancy": 0.1, "stop": 0.9})))
  state = states()
  rng = np.random.default_rng(0)
  others = state._replace(fatigue=rng.permuted(state.fatigue, axis=None))
  for page in (RULES, BY_SLOT):
    np.testing.assert_array_equal(
        step(page, state, params=one)[1].observation,
        step(page, others, params=other)[1].observation)
  # Nor while nothing is shown, nor at the beginning.
  idle = lambda state: state._replace(num_requests=state.num_requests * 0)
  np.testing.assert_array_equal(
      step(RULES, idle(state))[1].observation,
      step(RULES, idle(others), params=other)[1].observation)
  keys = jax.random.split(jax.random.key(7), ROWS)
  np.testing.assert_array_equal(
      begun()[1].observation,
      reset(keys, world()._replace(response=worlds.make_response(
          3, fatigue=2.0)))[1].observation)
  # What was clicked is seen.
  assert (step(RULES, state)[1].observation
          != step(RULES, state, params=one)[1].observation
          ).any(axis=1).mean() > 0.9


def test_the_observation_shows_the_next_candidates():
  after, result, _ = step(RULES, states())
  for row in range(0, ROWS, 100):
    _, place, kinds, _ = candidates(after, row, 0, world())
    log_odds = np.asarray(world().pool.log_odds)[place]
    seen = result.observation[row].reshape(-1)
    for kind in range(CATEGORIES):
      own = log_odds[kinds == kind]
      np.testing.assert_allclose(seen[kind], len(own) / 24, rtol=1e-6)
      if len(own):
        np.testing.assert_allclose(
            seen[CATEGORIES + kind], own.mean() / 4, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            seen[2 * CATEGORIES + kind], own.max() / 4, rtol=1e-6)


# --- the day ---


def assert_frequencies(counts, expected):
  """By the chi-square statistic, at one in ten thousand."""
  expected = expected * counts.sum() / expected.sum()
  assert stats.chisquare(counts, expected).pvalue > 1e-4


@pytest.mark.parametrize("activity", [0.2, 6.0, 60.0])
def test_a_day_begins_as_a_poisson_process_does(activity):
  params = world()._replace(activity=jnp.full(worlds.USERS, activity))
  draws = [worlds.arrays(reset(
      jax.random.split(jax.random.key(seed), ROWS), params))
           for seed in range(10)]
  state, result = jax.tree.map(lambda *x: np.concatenate(x), *draws)
  rates = activity * wide(params.arrivals)
  before = np.exp(-np.cumsum(rates) + rates)
  chance = before * -np.expm1(-rates)
  counts = np.bincount(state.window, minlength=WINDOWS)
  usual = chance * counts.sum() / chance.sum() > 5
  pooled = lambda values: np.append(values[usual], values[~usual].sum() + 1e-9)
  assert_frequencies(pooled(counts), pooled(chance))
  # One request more in that window, or none.
  two = -np.expm1(-rates) - rates * np.exp(-rates)
  assert_mean_zero((state.num_requests == 2) - (
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
  runs = [step(RULES, states(), seed=seed)[0] for seed in range(30, 36)]
  after = jax.tree.map(lambda *x: np.concatenate(x), *runs)
  rates = (wide(world().activity)[after.user]
           * wide(world().arrivals)[after.window])
  none, one = np.exp(-rates), rates * np.exp(-rates)
  # Neither on the whole nor where many are to come.
  assert_mean_zero((after.num_requests == 0) - none)
  assert_mean_zero(
      ((after.num_requests == 0) - none) * (rates - rates.mean()))
  assert_mean_zero((after.num_requests == 2) - (1 - none - one))
  assert set(np.unique(after.num_requests)) == {0, 1, 2}
  for request in (0, 1):
    assert_frequencies(
        np.bincount(after.start[:, request], minlength=worlds.PLACES),
        np.ones(worlds.PLACES))


def test_a_day_ends_once_and_what_is_not_asked_for_counts_nothing():
  state = states()._replace(
      window=(WINDOWS - 1 - np.arange(ROWS) % 5).astype(np.int32))
  state = state._replace(num_requests=(np.arange(ROWS) % 3).astype(np.int32))
  ends = np.zeros(ROWS, int)
  for number in range(7):
    requests, window = state.num_requests, state.window
    state, result, pages = step(
        RULES, state, random_actions(RULES), seed=200 + number)
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


def test_actions_change_pages_and_not_the_dice():
  state = states()
  one, result, pages = step(RULES, state)
  action = random_actions(RULES, 0.05)
  other, _, others = step(RULES, state, action)
  for name in ("user", "window", "num_requests", "start", "requests_today"):
    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
  assert (pages.items != others.items).any(axis=(1, 2)).mean() > 0.2
  # The same page is met with the same clicks.
  same = (pages.items == others.items).all(axis=(1, 2))
  np.testing.assert_array_equal(pages.clicks[same], others.clicks[same])
  assert same.mean() > 0.1
  again, _, _ = step(RULES, state, seed=1)
  assert (again.start != one.start).mean() > 0.9
  # Where nobody asks, an action does nothing at all.
  idle = state._replace(num_requests=np.zeros(ROWS, np.int32))
  quiet, loud = step(RULES, idle), step(RULES, idle, action)
  jax.tree.map(np.testing.assert_array_equal, quiet[:2], loud[:2])
  assert result.where.any()


# --- pure functions ---


def test_rows_are_users_and_worlds_one_by_one():
  params, state = random_thetas(), states()
  several = [worlds.make_response(seed, stop=0.1 + 0.2 * seed)
             for seed in range(4)]
  params = params._replace(response=jax.tree.map(
      lambda *leaves: jnp.tile(
          jnp.stack(leaves), (ROWS // 4, *[1] * leaves[0].ndim)), *several))
  actions = random_actions(RULES)
  together = step(RULES, state, actions, params, seed=9)
  keys = jax.random.split(jax.random.key(9), ROWS)
  for row in (0, 1, 2, 3, 700):
    one = lambda leaf, row=row: leaf[row]
    alone = worlds.step_one(
        keys[row], jax.tree.map(one, state),
        jnp.asarray(actions[row], jnp.float32), row_of(params, row))
    for found, expected in zip(
        jax.tree.leaves(alone), jax.tree.leaves(jax.tree.map(one, together)),
        strict=True):
      np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  key = jax.random.split(jax.random.key(7), ROWS)[5]
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y[5], rtol=1e-6, atol=1e-6),
      worlds.reset_one(key, world()), begun())


def test_one_trace_of_each_page():
  step(RULES, states())
  step(RULES, states(), seed=1)
  assert len(traces) == len(set(traces))


def test_sizes_follow_the_configuration():
  page = simulator.Simulator()
  assert (page.action_size, page.num_rewards, page.num_costs) == (10, 10, 1)
  sizes = [dataclasses.replace(page, layout=layout, knob=True).action_size
           for layout in simulator.LAYOUTS]
  assert sizes == [101, 11, 21]
  assert dataclasses.replace(page, exposure_costs=True).num_costs == 11
  found = jax.eval_shape(BOUND.reset, jax.random.key(0), world())[1]
  assert found.reward.shape == (CATEGORIES,)
  assert found.cost.shape == found.counted.shape == (1 + CATEGORIES,)


@pytest.mark.parametrize("change, message", [
    ({"num_categories": 0}, "num_categories must be at least 1, got 0"),
    ({"num_slots": 0}, "num_slots"), ({"num_candidates": 0}, "num_candidates"),
    ({"max_requests": 0}, "max_requests"),
    ({"layout": "slot"}, "layout must be one of slot_category, .*'slot'"),
    ({"scope": "day"}, "scope must be one of request, window, got 'day'"),
    ({"spread": 0}, "spread must be at least 1, got 0"),
    ({"feedback_rule": -1.0}, "feedback_rule must be at least 0"),
    ({"feedback_rule": np.nan}, "feedback_rule must be at least 0, got nan")])
def test_errors_of_the_configuration_name_the_field(change, message):
  with pytest.raises(ValueError, match=message):
    simulator.Simulator(**change)


def test_errors_of_the_world_name_the_argument():
  params = world()
  for change, message in (
      ({"arrivals": jnp.ones(95)}, r"params.arrivals has shape \(95,\)"),
      ({"activity": jnp.ones(3)}, r"params.activity .*expected \(12,\)"),
      ({"base": jnp.ones((12, 39))}, "params.base"),
      ({"shift": jnp.ones((4, 96))}, "params.shift"),
      ({"theta": jnp.ones(1)}, "params.theta"),
      ({"values": jnp.ones(5)}, "params.values"),
      ({"response": worlds.make_response(level=np.zeros(5))},
       "params.response.level"),
      ({"response": worlds.make_response(examination=np.ones(5))},
       "knows 5 positions; slates have 6")):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(RULES.reset, jax.random.key(0), params._replace(**change))
  large = dataclasses.replace(RULES, num_candidates=41)
  with pytest.raises(ValueError, match="40 places; requests have 41"):
    jax.eval_shape(large.reset, jax.random.key(0), params)
