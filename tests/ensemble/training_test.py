"""A step of training: Adam as optax has it, alone and side by side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import objective
from harmonrank_jax.ensemble import training
from tests.ensemble import rankers

NUM_STEPS = 5
SEEDS = jnp.arange(3)
RATES = jnp.array([0.01, 0.05, 0.1])
WEIGHTS = jnp.array([[1.0, 2.0], [1.0, 1.0], [0.0, 1.0]])


@pytest.fixture(scope="module")
def problem():
  ranker, rows = rankers.make_ranker(), rankers.make_rows()
  return ranker, rows, rankers.fit_platt(rows)


def train(problem, seed, learning_rate, weights):
  """The state after all steps, and the losses `[NUM_STEPS]`."""
  ranker, rows, platt = problem
  state = training.init(
      jax.random.key(seed), rows, ranker=ranker, platt=platt)
  step = functools.partial(
      training.update, ranker=ranker, objective=objective.aligned_objective,
      objective_weights=weights, platt=platt, learning_rate=learning_rate,
      num_steps=NUM_STEPS)
  state, measured = jax.lax.scan(
      lambda state, _: step(state, rows), state, length=NUM_STEPS)
  return state, measured["loss"]


def test_training_starts_at_the_closed_form(problem):
  ranker, rows, platt = problem
  state = jax.jit(functools.partial(training.init, ranker=ranker))(
      jax.random.key(0), rows, platt=platt)
  weights = rankers.WEIGHTS
  np.testing.assert_allclose(
      ranker.score(state.params, rows, weights),
      calibration.platt_score(
          platt, rows.scores, weights, where=rows.has_score), rtol=1e-5)


@pytest.fixture(scope="module")
def stacked(problem):
  """Members that differ in seed, learning rate and weights, side by side."""
  return jax.jit(jax.vmap(functools.partial(train, problem)))(
      SEEDS, RATES, WEIGHTS)


@pytest.mark.parametrize("member", range(3))
def test_members_side_by_side_are_members_alone(problem, stacked, member):
  ranker, rows, platt = problem
  rate, weights = float(RATES[member]), WEIGHTS[member]
  # The optimiser as optax has it: nothing of `training` is in the reference.
  params = jax.jit(ranker.init)(jax.random.key(member), rows, platt)
  optimizer = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adam(optax.cosine_decay_schedule(rate, NUM_STEPS)))
  opt_state = optimizer.init(params)
  loss_fn = jax.jit(jax.value_and_grad(lambda params: (
      objective.aligned_objective(
          ranker, params, rows, objective_weights=weights, platt=platt)[0])))
  state, losses = stacked
  for step in range(NUM_STEPS):
    loss, gradient = loss_fn(params)
    assert float(losses[member, step]) == pytest.approx(float(loss), abs=1e-4)
    updates, opt_state = optimizer.update(gradient, opt_state)
    params = optax.apply_updates(params, updates)
  trained = jax.tree.map(lambda x: x[member], state.params)
  # Not leaf by leaf: where a gradient is nearly 0, Adam steps by rounding.
  np.testing.assert_allclose(
      ranker.score(trained, rows, weights), ranker.score(params, rows, weights),
      rtol=1e-3)
  assert state.step[member] == NUM_STEPS


def test_a_warm_start_goes_on_from_the_parameters_with_adam_at_rest(stacked):
  trained = jax.tree.map(lambda x: x[0], stacked[0].params)
  state = training.begin(trained)
  assert state.params is trained and state.step == 0
  assert not any(np.any(x) for x in jax.tree.leaves(state.opt_state))
