"""Updates of a learner: what they depend on, and what they learn."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.reranker import policy
from harmonrank_jax.reranker import ppo
from tests.reranker import toys

# --- updates ---


def test_masked_steps_do_not_reach_the_policy():
  learner, steps = toys.collected()
  expected = toys.improve(learner, steps)
  for garbage in (np.nan, np.inf, 1e30):
    spoil = lambda x, garbage=garbage: np.where(
        np.reshape(steps.where, steps.where.shape + (1,) * (x.ndim - 2)), x,
        np.float32(garbage))
    toys.assert_equal(expected, toys.improve(learner, steps._replace(
        action=spoil(steps.action), log_prob=spoil(steps.log_prob))))
  assert expected[1].num_where == steps.where.sum()


def test_nobody_asks():
  learner, steps = toys.collected()
  after, diagnostics = toys.improve(
      learner, steps._replace(where=np.zeros(steps.where.shape, bool)))
  assert diagnostics.num_where == diagnostics.actor_gradient_norm == 0
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(
      (after.params, after.constraint, diagnostics)))
  # Time passes for the critic.
  assert diagnostics.critic_gradient_norm > 0


def within(threshold, settings=toys.SETTINGS, **changes):
  """The settings with another controller."""
  return settings._replace(controller=settings.controller._replace(
      threshold=np.float32([threshold]), **changes))


# Tighter than what the toy costs at first.
TIGHT = 0.2


def test_diagnostics_by_hand():
  learner, steps = toys.collected()
  after, diagnostics = toys.improve(learner, steps, within(TIGHT))
  steps = toys.raw(steps)
  np.testing.assert_allclose(
      diagnostics.mean_reward,
      steps.reward.sum((0, 1)) / steps.where.sum(), rtol=1e-5)
  ratio = steps.cost.sum((0, 1)) / steps.counted.sum((0, 1))
  np.testing.assert_allclose(diagnostics.cost_ratio, ratio, rtol=1e-5)
  np.testing.assert_allclose(
      diagnostics.violation, ratio - TIGHT, rtol=1e-5)
  # A gain of 0.5 standard deviations of reward by those of cost, squared.
  reward, cost = np.split(np.sqrt(after.returns.variance), [2])
  unit = np.linalg.norm(toys.SETTINGS.reward_weights * reward) / cost**2
  assert diagnostics.multipliers > 0
  np.testing.assert_allclose(
      diagnostics.multipliers,
      learner.constraint.integral + 0.5 * unit * (ratio - TIGHT),
      rtol=1e-4)
  np.testing.assert_array_equal(
      diagnostics.multipliers, after.constraint.multiplier)
  np.testing.assert_allclose(
      diagnostics.entropy,
      policy.entropy(learner.params["params"]["actor"]["log_std"]), rtol=0.05)
  assert (diagnostics.explained_variance < 1).all()
  assert after.num_updates == learner.num_updates + 1 == 4


def test_constraint_without_anything_counted_stays():
  learner, steps = toys.collected()
  nothing = np.zeros(steps.counted.shape, np.float32)
  after, diagnostics = toys.improve(learner, steps._replace(counted=nothing))
  assert np.isnan(diagnostics.cost_ratio).all()
  toys.assert_equal(after.constraint, learner.constraint)


def test_at_the_threshold_a_cost_is_worth_nothing():
  # Whatever is counted: its critic sees cost less what was allowed.
  learner, steps = toys.collected()
  learner = learner._replace(constraint=learner.constraint._replace(
      integral=np.full(1, 2, np.float32)))
  counted = np.array(steps.counted)
  counted[::2] = 3
  allowed = np.float32(toys.THRESHOLD)
  steps = steps._replace(counted=counted, cost=allowed * counted)
  same = steps._replace(counted=2 * counted, cost=2 * allowed * counted)
  one, other = toys.improve(learner, steps)[0], toys.improve(learner, same)[0]
  toys.assert_close(one.params, other.params, rtol=1e-4, atol=1e-6)


def trained_in_units(rewards, cost):
  """Three updates with rewards `[2]` and costs multiplied by these units."""
  settings = toys.settings_of(
      np.float32([1.0, 0.5]) / rewards, integral=0.5, initial=0.1 / cost)
  settings = within(TIGHT * cost, settings)
  learner = toys.start(jax.random.key(0), settings=settings)
  for _ in range(3):
    learner, steps = toys.collect(learner)
    learner, diagnostics = toys.improve(learner, steps._replace(
        reward=steps.reward * rewards[None, None], cost=steps.cost * cost),
                                        settings)
  return learner.params, diagnostics.multipliers * cost


@pytest.mark.parametrize("rewards, cost", [
    pytest.param([1e-3, 1e-3], 1.0, id="small rewards"),
    pytest.param([1e3, 1e3], 1.0, id="large rewards"),
    pytest.param([1e4, 1e-4], 1.0, id="unlike rewards"),
    pytest.param([1.0, 1.0], 1e4, id="large costs"),
    pytest.param([1e-6, 1e3], 1e-5, id="all")])
def test_units_do_not_matter(rewards, cost):
  expected = in_the_units_of_the_toy()
  assert expected[1] > 0.1
  toys.assert_close(
      trained_in_units(np.float32(rewards), np.float32(cost)), expected,
      rtol=1e-3, atol=1e-4)


@functools.cache
def in_the_units_of_the_toy():
  return trained_in_units(np.ones(2, np.float32), np.float32(1))


def improve_within(threshold, config=toys.MODERN):
  learner, steps = toys.collected()
  after, diagnostics = toys.improve(
      learner, steps, within(threshold, proportional=1.0, derivative=1.0),
      config=config)
  return after.params, after.returns, diagnostics


def test_a_constraint_that_nothing_can_break_changes_nothing():
  _, steps = toys.collected()
  idle = np.float32(1.01 * np.max(steps.cost))
  expected = improve_within(idle)
  assert expected[-1].multipliers == 0
  for threshold in (100.0, 1e30, np.inf):
    params, returns, diagnostics = improve_within(threshold)
    toys.assert_equal((params, returns), expected[:2])
    assert diagnostics.multipliers == 0


@pytest.mark.parametrize("threshold", [-np.inf, -1e30, np.inf])
@pytest.mark.parametrize("config", [
    toys.MODERN, dataclasses.replace(toys.MODERN, normalise_returns=False)],
    ids=["in units", "as they are"])
def test_thresholds_out_of_reach_leave_weights_finite(config, threshold):
  params, returns, _ = improve_within(threshold, config)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, returns)))


def test_actor_stops_before_it_is_too_far():
  learner, steps = toys.collected()
  full, diagnostics = toys.improve(learner, steps)
  assert diagnostics.num_actor_steps == 6
  assert diagnostics.approx_kl < toys.MODERN.target_kl
  # As if another policy had acted: all ratios are r at the first step.
  near, far = 0.3, 0.35
  assert math.expm1(near) - near < toys.MODERN.target_kl < math.expm1(far) - far
  shifted = lambda shift: steps._replace(
      log_prob=steps.log_prob - np.float32(shift))
  after, diagnostics = toys.improve(learner, shifted(far))
  assert diagnostics.num_actor_steps == 0
  np.testing.assert_allclose(
      diagnostics.approx_kl, math.expm1(far) - far, rtol=1e-4)
  toys.assert_equal([after.params["params"]["actor"], after.opt_state.actor],
               [learner.params["params"]["actor"], learner.opt_state.actor])
  # The critic goes on.
  toys.assert_equal(
      after.params["params"]["critic"], full.params["params"]["critic"])
  _, diagnostics = toys.improve(learner, shifted(near))
  assert 1 <= diagnostics.num_actor_steps < 6
  assert diagnostics.approx_kl >= toys.MODERN.target_kl


def test_statistics_are_those_of_all_observations():
  learner = toys.start(jax.random.key(3))
  seen = []
  for _ in range(3):
    seen.append(np.asarray(toys.collect(learner)[1].observation))
    learner, _ = toys.step(learner)
  seen = np.concatenate(seen).reshape(-1, 3)
  assert learner.statistics.num_seen == len(seen)
  np.testing.assert_allclose(
      learner.statistics.mean, seen.mean(0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(learner.statistics.variance, seen.var(0),
                             rtol=1e-4)


# --- many learners, many updates ---


def test_learning_rates_fall_to_0_over_the_updates():
  learner, steps = toys.collected()
  moved = lambda number, config: toys.improve(
      learner._replace(num_updates=jnp.int32(number)), steps, config=config)[0]
  annealed = dataclasses.replace(
      toys.MODERN, num_epochs=1, num_critic_epochs=1, num_minibatches=1,
      num_updates=4)
  change = lambda number: np.concatenate([
      np.ravel(new - old) for new, old in zip(
          jax.tree.leaves(moved(number, annealed).params),
          jax.tree.leaves(learner.params), strict=True)])
  whole = change(0)
  assert np.abs(whole).max() > 1e-4
  for number, share in ((1, 0.75), (3, 0.25), (4, 0), (7, 0)):
    np.testing.assert_allclose(change(number), share * whole, atol=2e-7)


@functools.cache
def many_trained():
  """Other seeds, other weights; after one update."""
  learners = [toys.start(jax.random.key(seed))
              for seed in range(len(toys.WEIGHTS))]
  return toys.step_all(toys.stack(*learners), toys.MANY_SETTINGS)


def test_learners_vmapped_are_learners_looped():
  together = toys.raw(many_trained())
  for i, weights in enumerate(toys.WEIGHTS):
    alone = toys.step(toys.start(jax.random.key(i)),
                 toys.SETTINGS._replace(reward_weights=weights))
    toys.assert_close(ppo.take_one(together, i), alone, rtol=2e-3, atol=2e-4)


def test_weights_decide_what_is_learned():
  learner, steps = toys.collected()
  updated = [
      toys.improve(learner, steps, toys.SETTINGS._replace(
          reward_weights=weights))[0] for weights in toys.WEIGHTS]
  heads = [one.params["params"]["actor"]["mean"]["bias"] for one in updated]
  assert np.abs(heads[1] - heads[2]).max() > 1e-3


@functools.cache
def long_training():
  """A whole training as one scan, from where `trained` begins."""
  return toys.jit(toys.train_scan(toys.LEARNING, 150))(
      toys.start(jax.random.key(0)), toys.TARGET, toys.SETTINGS)


def test_one_scan_is_the_loop_of_updates():
  after, diagnostics = long_training()
  assert after.num_updates == 150
  toys.assert_close(
      ppo.take_one(toys.raw(diagnostics), 2), toys.trained()[1], rtol=2e-3,
      atol=1e-4)


def test_learns_to_hit_its_targets_within_the_constraint():
  after, diagnostics = long_training()
  first, last = (jax.tree.map(lambda x, part=part: np.mean(x[part], axis=0),
                              toys.raw(diagnostics))
                 for part in (slice(0, 5), slice(-40, None)))
  # At first 0.5^2 for the target, 1 for the context, and the noise.
  assert (first.mean_reward < -1.2).all()
  assert last.mean_reward[1] > -0.5
  # The first coordinate would be of size 0.9, and must not be.
  assert first.multipliers < last.multipliers
  np.testing.assert_allclose(last.cost_ratio, toys.THRESHOLD, atol=0.05)
  # Rewards are mostly noise by now, but not what is over the threshold.
  assert last.explained_variance[2] > 0.5
  context = jnp.array([[0.0, 0.7], [0.0, -0.7]])
  action = ppo.mean_action(
      after.params, after.statistics,
      jnp.concatenate([jnp.full((2, 1), 2.0), context], axis=-1),
      config=toys.MODERN)
  np.testing.assert_allclose(action[:, 1], context[:, 1] - 0.5, atol=0.35)


def test_resumed_training_is_the_same_bit_by_bit():
  learners, _ = many_trained()
  saved = toys.raw(learners)
  restored = jax.tree.map(
      lambda like, x: (jax.random.wrap_key_data(x) if jnp.issubdtype(
          like.dtype, jax.dtypes.prng_key) else jnp.array(x)),
      learners, saved)
  # A copy goes on, since learners are donated.
  one, other = (toys.raw(toys.step_all(x, toys.MANY_SETTINGS))
                for x in (restored, jax.tree.map(jnp.array, learners)))
  toys.assert_equal(one, other)
  np.testing.assert_array_equal(one[0].num_updates, 2)


def test_a_fresh_learner_may_be_donated():
  # No two of its leaves are one buffer.
  learner = toys.start(jax.random.key(0))
  donated = toys.jit(lambda x: x, donate_argnums=0)(learner)
  toys.assert_equal(donated, toys.start(jax.random.key(0)))


def test_one_trace_for_all_updates():
  learners, _ = many_trained()
  learners = jax.tree.map(jnp.array, learners)
  for weights in (toys.WEIGHTS[::-1], 2 * toys.WEIGHTS):
    learners, _ = toys.step_all(
        learners, toys.MANY_SETTINGS._replace(reward_weights=weights))
  assert len(toys.traces) == 1
