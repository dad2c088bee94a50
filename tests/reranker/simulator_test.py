"""The simulator: common random numbers, one row as many, sizes, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.reranker import simulator
from tests.reranker import rows
from tests.reranker import worlds

ROWS, VALUES = rows.ROWS, rows.VALUES
RULES, PLAIN, BY_SLOT, BOUND = rows.RULES, rows.PLAIN, rows.BY_SLOT, rows.BOUND
CATEGORIES, SLOTS, WINDOWS = worlds.CATEGORIES, worlds.SLOTS, worlds.WINDOWS


def test_actions_change_pages_and_not_the_dice():
  state = rows.states()
  one, result, pages = rows.step(RULES, state)
  action = rows.random_actions(RULES, 0.05)
  other, _, others = rows.step(RULES, state, action)
  for name in ("user", "window", "num_requests", "start", "requests_today"):
    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
  assert (pages.items != others.items).any(axis=(1, 2)).mean() > 0.2
  # The same page is met with the same clicks.
  same = (pages.items == others.items).all(axis=(1, 2))
  np.testing.assert_array_equal(pages.clicks[same], others.clicks[same])
  assert same.mean() > 0.1
  again, _, _ = rows.step(RULES, state, seed=1)
  assert (again.start != one.start).mean() > 0.9
  # Where nobody asks, an action does nothing at all.
  idle = state._replace(num_requests=np.zeros(ROWS, np.int32))
  quiet, loud = rows.step(RULES, idle), rows.step(RULES, idle, action)
  jax.tree.map(np.testing.assert_array_equal, quiet[:2], loud[:2])
  assert result.where.any()


def test_rows_are_users_and_worlds_one_by_one():
  params, state = rows.random_thetas(), rows.states()
  several = [worlds.make_response(seed, stop=0.1 + 0.2 * seed)
             for seed in range(4)]
  params = params._replace(response=jax.tree.map(
      lambda *leaves: jnp.tile(
          jnp.stack(leaves), (ROWS // 4, *[1] * leaves[0].ndim)), *several))
  actions = rows.random_actions(RULES)
  together = rows.step(RULES, state, actions, params, seed=9)
  keys = jax.random.split(jax.random.key(9), ROWS)
  for row in (0, 1, 2, 3, 700):
    one = lambda leaf, row=row: leaf[row]
    alone = worlds.step_one(
        keys[row], jax.tree.map(one, state),
        jnp.asarray(actions[row], jnp.float32), rows.row_of(params, row))
    for result, expected in zip(
        jax.tree.leaves(alone), jax.tree.leaves(jax.tree.map(one, together)),
        strict=True):
      np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
  key = jax.random.split(jax.random.key(7), ROWS)[5]
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y[5], rtol=1e-6, atol=1e-6),
      worlds.reset_one(key, rows.world()), rows.begun())


def test_one_trace_of_each_page():
  rows.step(RULES, rows.states())
  rows.step(RULES, rows.states(), seed=1)
  assert len(rows.traces) == len(set(rows.traces))


def test_sizes_follow_the_configuration():
  page = simulator.Simulator()
  assert (page.action_size, page.num_rewards, page.num_costs) == (10, 10, 1)
  sizes = [dataclasses.replace(page, layout=layout, knob=True).action_size
           for layout in simulator.LAYOUTS]
  assert sizes == [101, 11, 21]
  assert dataclasses.replace(page, exposure_costs=True).num_costs == 11
  result = jax.eval_shape(BOUND.reset, jax.random.key(0), rows.world())[1]
  assert result.reward.shape == (CATEGORIES,)
  assert result.cost.shape == result.counted.shape == (1 + CATEGORIES,)


@pytest.mark.parametrize("change, message", [
    ({"num_categories": 0}, "num_categories must be at least 1, got 0"),
    ({"num_slots": 0}, "num_slots"), ({"num_candidates": 0}, "num_candidates"),
    ({"max_requests": 0}, "max_requests"),
    ({"layout": "slot"}, "layout must be one of slot_category, .*'slot'"),
    ({"scope": "day"}, "scope must be one of request, window, got 'day'"),
    ({"spread": 0}, "spread must be at least 1, got 0"),
    ({"feedback_rule": -1.0}, "feedback_rule must be at least 0"),
    ({"feedback_rule": np.nan}, "feedback_rule must be at least 0, got nan")],
    ids=["categories", "slots", "candidates", "requests", "layout", "scope",
         "spread", "rule", "rule_nan"])
def test_errors_of_the_configuration_name_the_field(change, message):
  with pytest.raises(ValueError, match=message):
    simulator.Simulator(**change)


@pytest.mark.parametrize("change, message", [
    ({"arrivals": np.ones(95)}, r"params.arrivals has shape \(95,\)"),
    ({"activity": np.ones(3)}, r"params.activity .*expected \(12,\)"),
    ({"base": np.ones((12, 39))}, "params.base"),
    ({"shift": np.ones((4, 96))}, "params.shift"),
    ({"theta": np.ones(1)}, "params.theta"),
    ({"values": np.ones(5)}, "params.values")],
    ids=["arrivals", "activity", "base", "shift", "theta", "values"])
def test_errors_of_the_world_name_the_argument(change, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(RULES.reset, jax.random.key(0),
                   rows.world()._replace(**change))


@pytest.mark.parametrize("change, message", [
    ({"level": np.zeros(5)}, "params.response.level"),
    ({"examination": np.ones(5)}, "knows 5 positions; slates have 6")],
    ids=["level", "examination"])
def test_errors_of_the_response_name_the_argument(change, message):
  response = worlds.make_response(**change)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(RULES.reset, jax.random.key(0),
                   rows.world()._replace(response=response))


def test_a_pool_of_too_few_places_is_refused():
  large = dataclasses.replace(RULES, num_candidates=41)
  with pytest.raises(ValueError, match="40 places; requests have 41"):
    jax.eval_shape(large.reset, jax.random.key(0), rows.world())
