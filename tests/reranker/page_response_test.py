"""Clicks and dismissals on a page against formulas and frequencies."""

import functools

import jax
import numpy as np
from scipy import special

from tests.diversity import reference
from tests.reranker import rows
from tests.reranker import worlds

ROWS, VALUES = rows.ROWS, rows.VALUES
RULES, PLAIN, BY_SLOT, BOUND = rows.RULES, rows.PLAIN, rows.BY_SLOT, rows.BOUND
CATEGORIES, SLOTS, WINDOWS = worlds.CATEGORIES, worlds.SLOTS, worlds.WINDOWS


def chances(page, state, row, params):
  """For each slot of each request: q, and the probability of a click."""
  response = rows.wide(rows.row_of(params, row).response)
  features = reference.unit(params.pool.features)
  window, fatigue = state.window[row], rows.wide(state.fatigue[row]).copy()
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
  one = jax.tree.map(
      lambda leaf: np.repeat(leaf[3:4], ROWS, axis=0), rows.states())
  params = rows.by_row(rows.world()._replace(
      response=worlds.make_response(stop=0.4, dismiss=0.15)))
  runs = [rows.step(RULES, one, params=params, seed=100 + n) for n in range(10)]
  return one, params, jax.tree.map(lambda *x: np.concatenate(x), *runs)


def test_clicks_are_as_frequent_as_their_probability():
  state, params, (_, result, pages) = thrown()
  q, expected = chances(pages, state, 0, params)
  np.testing.assert_allclose(
      pages.click_probability[0], expected, rtol=1e-4, atol=1e-6)
  assert (pages.click_probability[:, 0] == pages.click_probability[:1, 0]).all()
  rows.assert_mean_zero(
      pages.clicks - pages.click_probability.astype(np.float64))
  # Two clicks: the user stayed after the first, and after all between.
  stop = 0.4
  clicks, q = pages.clicks[:, 0], q[0]
  for first in range(SLOTS):
    for second in range(first + 1, SLOTS):
      between = np.prod(1 - stop * q[first + 1:second])
      both = expected[0, first] * (1 - stop) * between * q[second]
      rows.assert_mean_zero(1.0 * clicks[:, first] * clicks[:, second] - both)
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
  state, params = rows.states(), rows.random_thetas()
  _, _, pages = rows.step(RULES, state, params=params)
  for row in range(0, ROWS, 40):
    np.testing.assert_allclose(
        pages.click_probability[row], chances(pages, state, row, params)[1],
        rtol=2e-4, atol=1e-6)
  rows.assert_mean_zero(
      pages.clicks - pages.click_probability.astype(np.float64))


def test_expected_rewards_shares_of_slots_and_the_bound():
  state = rows.states()
  actions = rows.random_actions(BOUND, 0.3)
  runs = [rows.step(BOUND, state, actions, seed=seed) for seed in range(6)]
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
  rows.assert_mean_zero(np.concatenate(sampled) - np.concatenate(rewards))
  # Given the slate they do not depend on the dice.
  np.testing.assert_array_equal(rewards[0], rewards[1])
  assert np.std(sampled[0]) > 1.3 * np.std(rewards[0])
  # A page that sees what is hidden gets more clicks than one with scores.
  none = np.zeros((ROWS, BOUND.action_size))
  first = lambda pages: pages.click_probability[:, 0].sum(-1).mean()
  assert first(rows.step(BOUND, state, none)[2]) > 1.02 * first(
      rows.step(PLAIN, state)[2])
