"""Multipliers: arithmetic by hand, and a game whose solution is known."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.reranker import constraints

# Two actions: reward 1 and cost 1, or neither. At most 0.3 of the first one.
# With temperature TAU the best share of it is sigmoid((1 - lambda) / TAU).
TAU, THRESHOLD = 0.5, 0.3
SOLUTION = 1 - TAU * np.log(THRESHOLD / (1 - THRESHOLD))
RULES = {
    "ascent": {"integral": 0.3},
    "PI": {"integral": 0.3, "proportional": 2.0},
    "PID": {"integral": 0.3, "proportional": 2.0, "derivative": 1.0},
}


def play(controller, *, reward=1.0, steps=400):
  """A policy that lags behind its best answer; `[steps]` of all."""
  def body(carry, _):
    logit, state = carry
    share = jax.nn.sigmoid(logit)
    state = constraints.update(state, share[None], controller)
    best = (reward - state.multiplier[0]) / TAU
    logit += 0.1 * (best - logit)
    return (logit, state), (share, state.multiplier[0])
  start = jnp.array(2.0), constraints.init(controller)
  return jax.jit(lambda: lax.scan(body, start, length=steps)[1])()


def controller_of(**gains):
  return constraints.Controller(jnp.array([THRESHOLD]), **gains)


@pytest.mark.parametrize("rule", RULES)
def test_multiplier_finds_the_solution(rule):
  share, multiplier = play(controller_of(**RULES[rule]))
  np.testing.assert_allclose(multiplier[-1], SOLUTION, rtol=1e-3)
  np.testing.assert_allclose(share[-1], THRESHOLD, rtol=1e-3)


def test_proportional_gain_damps():
  # How far below the threshold the share swings after it was met.
  swing = {rule: THRESHOLD - play(controller_of(**gains))[0].min()
           for rule, gains in RULES.items()}
  assert swing["ascent"] > 0.1
  assert swing["PI"] < 0.2 * swing["ascent"]
  assert swing["PID"] < 0.2 * swing["ascent"]


def test_slack_constraint_costs_nothing():
  # The first action is bad: without any multiplier its share is 0.12.
  share, multiplier = play(controller_of(**RULES["PID"]), reward=-1.0)
  assert multiplier[0] > 0 and multiplier.min() == multiplier[-1] == 0
  np.testing.assert_allclose(share[-1], 1 / (1 + np.exp(1 / TAU)), rtol=1e-4)


def test_fixed_multiplier_stays():
  _, multiplier = play(controller_of(initial=0.7), steps=20)
  np.testing.assert_array_equal(multiplier, np.float32(0.7))


def test_gains_by_hand(x64):
  controller = constraints.Controller(
      jnp.array([1.0, 1.0]), initial=jnp.array([0.5, 0.0]), proportional=2.0,
      integral=jnp.array([0.5, 1.0]), derivative=10.0, limit=4.0)
  state = constraints.init(controller)
  state = constraints.update(state, jnp.array([1.2, 0.6]), controller)
  # No derivative at first; below zero, the integral stays at zero.
  np.testing.assert_allclose(state.integral, [0.5 + 0.5 * 0.2, 0])
  np.testing.assert_allclose(state.multiplier, [0.6 + 2 * 0.2, 0])
  state = constraints.update(state, jnp.array([1.3, 0.8]), controller)
  np.testing.assert_allclose(state.integral, [0.6 + 0.5 * 0.3, 0])
  np.testing.assert_allclose(
      state.multiplier, [0.75 + 2 * 0.3 + 10 * 0.1, -2 * 0.2 + 10 * 0.2])
  # A falling cost is not paid for; limits hold for integral and multiplier.
  state = constraints.update(state, jnp.array([1.1, 9.0]), controller)
  np.testing.assert_allclose(state.integral, [0.75 + 0.5 * 0.1, 4])
  np.testing.assert_allclose(state.multiplier, [0.8 + 2 * 0.1, 4])


def test_what_was_not_measured_moves_nothing():
  controller = constraints.Controller(jnp.zeros(2), integral=1.0)
  before = constraints.update(
      constraints.init(controller), jnp.array([1.0, 2.0]), controller)
  after = constraints.update(before, jnp.array([jnp.nan, 1.0]), controller)
  np.testing.assert_array_equal(after.multiplier, [1, 3])
  np.testing.assert_array_equal(after.error, [1, 1])


def test_saturated_multiplier_is_back_at_once():
  controller = constraints.Controller(jnp.zeros(1), integral=1.0, limit=5.0)
  state = constraints.init(controller)
  for _ in range(20):
    state = constraints.update(state, jnp.ones(1), controller)
  np.testing.assert_array_equal(state.multiplier, 5)
  state = constraints.update(state, -jnp.ones(1), controller)
  np.testing.assert_array_equal(state.multiplier, 4)


def test_gains_may_be_vmapped():
  def last(gain):
    controller = controller_of(integral=gain)
    state = constraints.init(controller)
    return constraints.update(state, jnp.ones(1), controller).multiplier
  gains = jnp.array([0.0, 1.0, 2.0])
  np.testing.assert_allclose(
      jax.jit(jax.vmap(last))(gains), [[0], [0.7], [1.4]], rtol=1e-6)


@pytest.mark.parametrize("rule", ["fixed", *RULES])
def test_an_infinite_threshold_is_no_constraint(rule):
  controller = constraints.Controller(
      jnp.array([jnp.inf, THRESHOLD]), initial=0.5, **RULES.get(rule, {}))
  alone = controller._replace(threshold=controller.threshold[1:])
  state, other = constraints.init(controller), constraints.init(alone)
  for cost in (0.4, 0.6):
    state = constraints.update(state, jnp.full(2, cost), controller)
    other = constraints.update(other, jnp.full(1, cost), alone)
    assert state.multiplier[0] == state.integral[0] == 0
    np.testing.assert_array_equal(state.multiplier[1:], other.multiplier)


def test_gains_and_limit_are_in_units():
  controller = controller_of(
      initial=2.0, proportional=2.0, integral=0.5, derivative=1.0, limit=4.0)
  units = constraints.Units(reward=3.0, cost=jnp.array([0.5]))
  state = constraints.init(controller)
  # An error of 0.1 is 0.2 units; a multiplier of 1 is 6.
  state = constraints.update(
      state, jnp.array([THRESHOLD + 0.1]), controller, units=units)
  np.testing.assert_allclose(state.integral, 2 + 6 * 0.5 * 0.2, rtol=1e-5)
  np.testing.assert_allclose(
      state.multiplier, 2.6 + 6 * 2.0 * 0.2, rtol=1e-5)
  state = constraints.update(
      state, jnp.array([THRESHOLD + 0.2]), controller, units=units)
  np.testing.assert_allclose(
      state.multiplier, 3.8 + 6 * (2.0 * 0.4 + 1.0 * 0.2), rtol=1e-5)
  state = constraints.update(state, jnp.array([1e9]), controller, units=units)
  np.testing.assert_array_equal(state.multiplier, 6 * 4)


@pytest.mark.parametrize("units, moves", [
    pytest.param(constraints.Units(cost=jnp.zeros(1)), False, id="cost"),
    pytest.param(constraints.Units(reward=jnp.zeros(())), True, id="reward")])
def test_units_that_are_not_known(units, moves):
  controller = controller_of(initial=0.5, integral=1.0)
  before = constraints.init(controller)
  after = constraints.update(
      before, jnp.array([THRESHOLD + 0.25]), controller, units=units)
  # Without any reward, a price in any unit will do.
  np.testing.assert_allclose(after.multiplier, 0.5 + 0.25 * moves)


def test_no_constraint_is_a_vector_of_none():
  controller = constraints.Controller(jnp.zeros(0))
  state = constraints.init(controller)
  assert constraints.update(state, jnp.zeros(0), controller)[0].shape == (0,)


def test_a_threshold_that_is_nan_is_refused_where_it_has_a_value():
  for kind in (np.array, jnp.array):
    with pytest.raises(ValueError, match=r"threshold has a NaN: \[0.5 *nan\]"):
      constraints.init(constraints.Controller(kind([0.5, np.nan])))
  traced = jax.eval_shape(
      lambda threshold: constraints.init(constraints.Controller(threshold)),
      jnp.array([np.nan]))
  assert traced.multiplier.shape == (1,)


def test_errors_name_the_argument():
  one, two = jnp.zeros(1), jnp.zeros(2)
  for call, message in (
      (lambda: constraints.init(constraints.Controller(0.5)),
       r"threshold has shape \(\)"),
      (lambda: constraints.init(constraints.Controller(one, integral=two)),
       r"integral has shape \(2,\)"),
      (lambda: constraints.update(
          constraints.init(constraints.Controller(one)), two,
          constraints.Controller(one)), r"cost has shape \(2,\)")):
    with pytest.raises(ValueError, match=message):
      call()
