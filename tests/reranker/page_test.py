"""Slates against brute force: selected, diverse, arranged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from harmonrank_jax.reranker import page as page_lib
from tests.diversity import reference
from tests.reranker import rows
from tests.reranker import worlds

ROWS, VALUES = rows.ROWS, rows.VALUES
RULES, PLAIN, BY_SLOT, BOUND = rows.RULES, rows.PLAIN, rows.BY_SLOT, rows.BOUND
CATEGORIES, SLOTS, WINDOWS = worlds.CATEGORIES, worlds.SLOTS, worlds.WINDOWS


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
  params, state = rows.random_thetas(), rows.states()
  actions = rows.random_actions(page)
  _, _, pages = rows.step(page, state, actions, params)
  base, shift = rows.wide(params.base), rows.wide(params.shift)
  features = rows.wide(params.pool.features)
  for row in range(0, ROWS, ROWS // 24):
    response, theta = rows.wide(rows.row_of(params, row).response), float(
        params.theta[row])
    bias, theta = decoded(page, actions[row], theta)
    shown = np.zeros((0, worlds.WIDTH))
    for request in range(page.max_requests):
      items, place, kinds, _ = rows.candidates(state, row, request, params)
      odds = base[place] + shift[state.window[row], kinds]
      if page.privileged:
        odds = (response.scale * rows.wide(params.pool.log_odds)[place]
                + response.level[kinds]
                + response.demand[kinds, state.window[row]]
                - response.fatigue * state.fatigue[row, kinds])
      relevance = log_sigmoid(odds) + rows.wide(params.pool.log_value)[place]
      expected = greedy_items(
          items, features[items], relevance, kinds, bias, theta, shown)
      np.testing.assert_array_equal(pages.items[row, request], expected)
      if page.scope == "window":
        shown = np.concatenate([shown, features[expected]])


def test_the_second_slate_of_a_window_avoids_the_first():
  state = rows.states()
  same = state._replace(start=np.repeat(state.start[:, :1], 2, axis=1))
  first, second = (rows.step(BY_SLOT, same)[2].items[:, n] for n in (0, 1))
  assert not (first[:, :, None] == second[:, None, :]).any()
  first, second = (rows.step(PLAIN, same)[2].items[:, n] for n in (0, 1))
  np.testing.assert_array_equal(first, second)


def test_a_constant_for_all_categories_changes_nothing():
  state = rows.states()
  constants = np.random.default_rng(4).normal(size=(ROWS, 6))
  for page in (PLAIN, BY_SLOT, BOUND):
    action = rows.random_actions(page)
    added = np.repeat(
        constants[:, :page.action_size // CATEGORIES], CATEGORIES, axis=1)
    moved = action.copy()
    moved[:, :added.shape[1]] += added
    items, others = (
        rows.step(page, state, numbers)[2].items for numbers in (action, moved))
    # Rounding decides between what is equally good.
    assert (items == others).mean() > 0.999
    assert (rows.step(page, state)[2].items != items).mean() > 0.2


def log_volume(items, features, size):
  """`log det S_Y / K`, 1e-5 for each slot that is empty."""
  shown = reference.unit(features[items[items >= 0]])
  volume = np.linalg.slogdet(shown @ shown.T)[1] if len(shown) else 0.0
  return (volume + (size - len(shown)) * np.log(1e-5)) / size


def test_the_cost_is_the_diversity_of_what_is_shown_whatever_the_rules():
  state, params = rows.states(), rows.random_thetas()
  requests = np.random.default_rng(3).integers(0, 3, ROWS).astype(np.int32)
  state = state._replace(num_requests=requests)
  features = rows.wide(params.pool.features)
  actions = rows.random_actions(RULES, 0.5)
  _, result, pages = rows.step(RULES, state, actions, params)
  _, other, plain = rows.step(PLAIN, state, actions, params)
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
  params, state = rows.random_thetas(), rows.states()
  features = rows.wide(params.pool.features)
  _, result, pages = rows.step(
      BY_SLOT, state, rows.random_actions(BY_SLOT), params)
  for row in range(0, ROWS, 32):
    first = log_volume(pages.items[row, 0], features, SLOTS)
    both = 2 * log_volume(pages.items[row].reshape(-1), features, 2 * SLOTS)
    np.testing.assert_allclose(
        pages.diversity[row], [first, both - first], atol=1e-3)
    np.testing.assert_allclose(result.cost[row], [-both], atol=1e-3)


def test_of_an_almost_empty_pool_all_is_shown_and_diversity_has_a_floor():
  params, state = rows.world(), rows.states()
  few = np.arange(worlds.USERS) % 3  # Users of no, three and four items.
  left = np.array([0, 3, 4])[few]
  where = np.zeros((worlds.USERS, worlds.PLACES), bool)
  where[:, :worlds.CANDIDATES] = (
      np.arange(worlds.CANDIDATES) < left[:, None])
  state = state._replace(start=np.zeros_like(state.start))
  pool = params.pool._replace(where=jnp.asarray(where))
  features = rows.wide(pool.features)
  shown_pages = []
  for page in (RULES, BY_SLOT):
    after, result, pages = rows.step(
        page, state, params=rows.by_row(params._replace(pool=pool)))
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
    shown_pages.append(pages)
  # The second slate of a window has nothing new to show.
  assert not shown_pages[1].where[:, 1].any()
  np.testing.assert_allclose(
      shown_pages[1].diversity[:, 1], np.log(1e-5), rtol=1e-6)
  garbage = lambda values, what: jnp.where(where, values, what)
  spoiled = params._replace(
      base=garbage(params.base, jnp.nan), pool=pool._replace(
          items=garbage(pool.items, -1),
          log_odds=garbage(pool.log_odds, jnp.nan),
          log_value=garbage(pool.log_value, jnp.nan)))
  after = [rows.step(RULES, state, params=rows.by_row(given)) for given in (
      params._replace(pool=pool), spoiled)]
  for one, other in zip(after[0][:2], after[1][:2], strict=True):
    jax.tree.map(np.testing.assert_array_equal, one, other)
  shown = after[0][2].where
  for name in ("items", "clicks", "click_probability"):
    np.testing.assert_array_equal(
        *(getattr(run[2], name)[shown] for run in after))


def test_the_knob_at_its_ends():
  state = rows.states()
  for value in (-40.0, 40.0):
    actions = np.zeros((ROWS, BY_SLOT.action_size))
    actions[:, -1] = value
    _, result, pages = rows.step(BY_SLOT, state, actions)
    assert np.isfinite(result.cost).all() and pages.where[:, 0].all()
    assert (result.cost < 2 * np.log(1e5)).all()


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
  state, params = rows.states(), rows.random_thetas()
  _, _, pages = rows.step(RULES, state, params=params)
  _, _, plain = rows.step(PLAIN, state, params=params)
  forced = 0
  for row in range(0, ROWS, 8):
    mood = state.memory.disliked[row] - state.memory.liked[row]
    for request in (0, 1):
      kinds = plain.categories[row, request]
      order = arranged(kinds, mood)
      np.testing.assert_array_equal(
          pages.items[row, request], plain.items[row, request][order])
      result = pages.categories[row, request]
      for slot in range(2, SLOTS):
        if len(set(result[slot - 2:slot + 1])) == 1:
          assert len(set(result[slot:])) == 1
          forced += 1
      page = jax.tree.map(lambda x, at=(row, request): x[at], pages)
      np.add.at(mood, result, page.dismissed * 1.0 - page.clicks * 1.0)
  assert forced > 0


def test_feedback_moves_a_category():
  state = rows.states()
  nothing = jax.tree.map(np.zeros_like, state.memory)
  places = lambda memory: rows.step(
      RULES, state._replace(memory=memory))[2].categories[:, 0]
  mean_place = lambda kinds: (
      (kinds == 2) * np.arange(SLOTS)).sum() / (kinds == 2).sum()
  calm = mean_place(places(nothing))
  felt = np.where(np.arange(CATEGORIES) == 2, 2.0, 0) * np.ones((ROWS, 1))
  felt = felt.astype(np.float32)
  assert mean_place(places(nothing._replace(disliked=felt))) > calm + 0.4
  assert mean_place(places(nothing._replace(liked=felt))) < calm - 0.4


@pytest.mark.parametrize("kinds, expected", [
    ([-1, -1, 2, 2, 0], [0, 1, 2, 4, 3]),
    ([2, 2, -1, -1, -1], [0, 2, 1, 3, 4])])
def test_rules_know_nothing_of_items_in_no_category(kinds, expected):
  order = page_lib.arrange(
      jnp.array(kinds), jnp.ones(5, bool), jnp.zeros(3), feedback_rule=2.0,
      spread=1)
  np.testing.assert_array_equal(order, expected)
  # A dismissal of the last category does not push them.
  order = page_lib.arrange(
      jnp.array([-1, 0, -1]), jnp.ones(3, bool), jnp.array([0.0, 0, 9]),
      feedback_rule=2.0, spread=None)
  np.testing.assert_array_equal(order, range(3))
