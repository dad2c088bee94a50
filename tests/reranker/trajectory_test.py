"""The steps that a learner collects, environment by environment."""

import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import policy
from harmonrank_jax.reranker import ppo
from tests.reranker import toys


def test_stored_log_probs_are_the_old_networks():
  learner, _ = toys.trained()
  _, steps = toys.collected()
  mean, log_std, _ = toys.look(learner, steps.observation)
  np.testing.assert_allclose(
      steps.log_prob, policy.log_prob(steps.action, mean, log_std), rtol=1e-4)
  noise = (steps.action - mean) / jnp.exp(log_std)
  assert np.abs(np.mean(noise)) < 0.2 and abs(np.std(noise) - 1) < 0.15
  np.testing.assert_allclose(
      mean, ppo.mean_action(learner.params, learner.statistics,
                            steps.observation, config=toys.MODERN),
      rtol=1e-4, atol=1e-5)


def test_environments_go_on_between_updates_and_start_anew_where_they_end():
  learner, _ = toys.trained()
  after, steps = toys.collected()
  observation = np.concatenate(
      [steps.observation, after.result.observation[None]])
  np.testing.assert_array_equal(observation[0], learner.result.observation)
  ended = np.asarray(steps.terminated | steps.truncated)
  assert steps.terminated.any() and steps.truncated.any()
  time, context = observation[..., 0], observation[..., 1:]
  np.testing.assert_array_equal(time[1:], np.where(ended, 0, time[:-1] + 1))
  np.testing.assert_array_equal(context[1:][~ended], context[:-1][~ended])
  for env in range(toys.ENVS):
    # One fresh start per environment and update.
    starts = context[1:, env][ended[:, env]]
    np.testing.assert_array_equal(starts, starts[:1].repeat(len(starts), 0))
    assert (starts[:1] != context[0, env]).all()
  np.testing.assert_array_equal(steps.where[0], learner.result.where)
  np.testing.assert_array_equal(after.env_state.time, time[-1])


def test_truncated_steps_hold_the_value_of_their_last_observation():
  _, steps = toys.collected()
  # All that a step changes is the time.
  final = steps.observation + jnp.eye(3)[0][None, None]
  cut = np.asarray(steps.truncated)
  np.testing.assert_allclose(
      steps.final_values[cut], toys.look(toys.trained()[0], final).values[cut],
      rtol=1e-4, atol=1e-5)


def test_each_environment_may_have_its_own_parameters():
  targets = {"target": jnp.arange(2.0 * toys.ENVS).reshape(toys.ENVS, 2)}
  _, steps = toys.collect(toys.trained()[0], targets)
  expected = -np.square(steps.action - targets["target"][None]
                        - steps.observation[..., 1:])
  np.testing.assert_allclose(steps.reward, expected, rtol=1e-4, atol=1e-4)
