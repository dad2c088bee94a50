"""Stacks: rankers trained side by side are rankers trained one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.ranker import objectives
from experiments.ranker import stacks
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib
from tests.experiments import rows as rows_lib

# Two steps between looks at the validation rows.
TRAINING = stacks.Training(
    "soft_auc", batch_size=32, num_steps=2 * stacks._NUM_LOOKS)


TINY = ranker_lib.Ranker(
    network.HarmonRankConfig(3, token_size=2, relation_aware=False,
                             self_attention=False), (3,))


@pytest.fixture(scope="module")
def problem():
  """Rows to train on and to validate, and their calibration."""
  rng = np.random.default_rng(0)
  rows, validation = (
      rows_lib.made_up_rows(rng, count) for count in (120, 90))
  return rows, validation, calibration.fit_platt(rows.scores, rows.labels)


def fit(problem, seeds, rates, worth=1.0, training=TRAINING):
  return stacks.fit(TINY, training, stacks.Members(
      np.array(seeds), np.array(rates, np.float32),
      np.full((3, 3), worth, np.float32)), *problem)


def plain_fit(problem, seeds, rates, lists):
  """Rankers one by one, a loop over their steps: parameters, value, step."""
  rows, validation, platt = problem
  held, checked = (
      ranker_lib.rows_of(part, part.user if lists == "user" else None)
      for part in (rows, validation))
  objective = objectives.objective_of(
      "aligned", TRAINING.loss, TRAINING.relative_strength)
  gradient = jax.jit(jax.grad(lambda params, rows: objective(
      TINY, params, rows, objective_weights=jnp.ones(3), platt=platt)[0]))
  score = jax.jit(lambda params: TINY.score(params, checked, jnp.ones(3)))

  def value(params):
    scores = np.asarray(score(params))
    return np.nansum([
        rows_lib.auc_within(validation.user, column, scores)
        if lists == "user" else rows_lib.auc(column, scores)
        for column in validation.labels.T])

  for seed, rate in zip(seeds, rates, strict=True):
    params = TINY.init(
        jax.random.key(seed), jax.tree.map(lambda x: x[:2], held), platt)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(rate, TRAINING.num_steps)))
    state, best = optimizer.init(params), (params, value(params), 0)
    order = stacks._order(rows, lists, seed)
    for step in range(TRAINING.num_steps):
      index = order(step * 32, step * 32 + 32)
      chosen = ranker_lib.Rows(*(
          None if part is None else part[index] for part in held))
      updates, state = optimizer.update(gradient(params, chosen), state)
      params = optax.apply_updates(params, updates)
      # Within lists the last one, whatever the validation rows say.
      if step % 2 and (lists == "user" or value(params) > best[1] + 1e-6):
        best = params, value(params), step + 1
    yield best


@pytest.mark.parametrize("lists", ["batch", "user", "request"])
def test_every_pass_deals_every_row_once(lists):
  rows = rows_lib.made_up_rows(np.random.default_rng(0), 50)
  order = stacks._order(rows, lists, 3)
  whole = order(0, 200)
  passes = whole.reshape(4, 50)
  for dealt in passes:
    np.testing.assert_array_equal(np.sort(dealt), np.arange(50))
    if lists != "batch":
      ids = getattr(rows, lists)[dealt]
      assert 1 + (ids[1:] != ids[:-1]).sum() == len(np.unique(ids))
  # Anew every time, and for every seed.
  assert (passes[0] != passes[1]).any()
  assert (stacks._order(rows, lists, 4)(0, 50) != passes[0]).any()
  # The same stream, whatever it is cut into.
  pieces = [order(first, first + 7) for first in range(0, 196, 7)]
  np.testing.assert_array_equal(np.concatenate(pieces), whole[:196])


@pytest.mark.slow
@pytest.mark.parametrize("lists", ["batch", "user"])
def test_a_stack_is_rankers_trained_one_by_one(problem, lists):
  seeds, rates = (5, 6, 5), (0.05, 0.1, 0.2)
  stack = fit(problem, seeds, rates,
              training=dataclasses.replace(TRAINING, lists=lists))
  assert stack.value.shape == stack.step.shape == (3,) and stack.seconds > 0
  # Of batches, not all stand where they began, nor do all stand at the end.
  assert (len(set(stack.step.tolist())) > 1) == (lists == "batch")
  for k, (params, value, step) in enumerate(
      plain_fit(problem, seeds, rates, lists)):
    assert stack.value[k] == pytest.approx(value, abs=1e-5)
    assert stack.step[k] == step
    one = stacks.take(stack.params, k)
    for leaf, known in zip(*map(jax.tree.leaves, (one, params)), strict=True):
      np.testing.assert_allclose(leaf, known, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_what_a_stack_gives(problem):
  _, validation, _ = problem
  stack = fit(problem, (1, 2, 1), (0.05, 0.05, 0.05))
  weights = np.array([1, 2, 0.5], np.float32)
  scores = stacks.score(TINY, stack.params, weights, validation)
  probabilities = stacks.probabilities(TINY, stack.params, validation)
  assert scores.shape == (3, 90)
  assert probabilities.shape == (3, 90, 3)
  given = ranker_lib.rows_of(validation)
  one = stacks.take(stack.params, 1)
  for result, expected in (
      (scores, TINY.score(one, given, weights)),
      (probabilities, jax.nn.sigmoid(TINY.objective_logits(one, given)))):
    np.testing.assert_allclose(result[1], expected, rtol=1e-4)
    # The same seed and rate: the same ranker. Another seed: another one.
    np.testing.assert_allclose(result[0], result[2], rtol=1e-5)
  assert (scores[0] != scores[1]).any()


@pytest.mark.slow
def test_a_member_that_diverges_leaves_the_others_as_they_are(problem):
  stack = fit(problem, (5, 6, 5), (0.05, np.inf, 0.2))
  alone = fit(problem, (5, 6, 5), (0.05, 0.1, 0.2))
  assert stack.value[1] == -np.inf and np.isfinite(alone.value).all()
  np.testing.assert_array_equal(stack.value[[0, 2]], alone.value[[0, 2]])
  for leaf in jax.tree.leaves(stack.params):
    assert np.isfinite(leaf).all()
