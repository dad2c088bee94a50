"""Actor and critic: shapes, starts, densities against SciPy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from harmonrank_jax.reranker import policy

OBSERVATION, ACTION, VALUES = 6, 4, 3


def config_of(**options):
  return policy.PolicyConfig(ACTION, VALUES, hidden_sizes=(8, 5), **options)


@functools.cache
def start(config, seed=0):
  """Parameters, and what both networks say of random observations."""
  model = policy.ActorCritic(config)
  observation = np.float32(
      np.random.default_rng(seed).normal(size=(2, 50, OBSERVATION)))
  output, params = jax.jit(model.init_with_output)(
      jax.random.key(seed), observation)
  return params, output


def gaussians(seed=0, shape=(30, ACTION)):
  """Action, mean, log_std."""
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape) * scale for scale in (1, 1, 0.5)]


def test_orthogonal_start_is_nearly_the_zero_action():
  params, output = start(config_of(initial_std=0.3))
  assert output.mean.shape == output.log_std.shape == (2, 50, ACTION)
  assert output.values.shape == (2, 50, VALUES)
  assert np.abs(output.mean).max() < 0.05
  assert np.abs(output.values).max() > 0.1
  np.testing.assert_allclose(output.log_std, math.log(0.3), rtol=1e-6)
  networks = params["params"]
  assert networks["actor"]["log_std"].shape == (ACTION,)
  kernel = networks["critic"]["hidden_1"]["kernel"]  # [8, 5], gain sqrt(2)
  np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(5), atol=1e-5)
  kernel = networks["actor"]["mean"]["kernel"]  # [5, 4], gain 0.01
  np.testing.assert_allclose(kernel.T @ kernel, 1e-4 * np.eye(4), atol=1e-9)


def test_orthogonal_starts_vmapped_are_starts_looped():
  model = policy.ActorCritic(config_of(initial_std=0.3))
  keys = jax.random.split(jax.random.key(0), 3)
  params = jax.jit(jax.vmap(model.init, in_axes=(0, None)))(
      keys, jnp.zeros(OBSERVATION))
  alone = jax.jit(model.init)(keys[2], jnp.zeros(OBSERVATION))
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x[2], y, atol=1e-6),
      params, alone)


def test_sigma_may_depend_on_the_state():
  params, output = start(config_of(
      state_dependent_std=True, orthogonal=False, initial_std=1.0))
  assert params["params"]["actor"]["log_std"]["kernel"].shape == (5, ACTION)
  assert np.std(output.log_std, axis=1).min() > 0.01
  assert np.abs(output.mean).max() > 0.1


def test_log_std_keeps_to_its_range():
  config = config_of(initial_std=0.3)
  params, _ = start(config)
  actor = params["params"]["actor"] | {
      "log_std": jnp.array([-9.0, -1.0, 0.0, 9.0])}
  _, log_std = policy.action_distribution(
      actor, jnp.zeros(OBSERVATION), config=config)
  np.testing.assert_array_equal(log_std, [-5, -1, 0, 2])


def test_each_network_alone():
  config = config_of(initial_std=0.3)
  params, output = start(config)
  observation = np.float32(
      np.random.default_rng(0).normal(size=(2, 50, OBSERVATION)))
  mean, log_std = policy.action_distribution(
      params["params"]["actor"], observation, config=config)
  values = policy.values(
      params["params"]["critic"], observation, config=config)
  for alone, both in zip((mean, log_std, values), output, strict=True):
    np.testing.assert_allclose(alone, both, rtol=1e-5, atol=1e-6)


def test_log_prob_and_entropy_agree_with_scipy(x64):
  action, mean, log_std = gaussians()
  normal = stats.norm(mean, np.exp(log_std))
  np.testing.assert_allclose(
      jax.jit(policy.log_prob)(action, mean, log_std),
      normal.logpdf(action).sum(-1), rtol=1e-12)
  np.testing.assert_allclose(
      jax.jit(policy.entropy)(log_std), normal.entropy().sum(-1), rtol=1e-12)


def test_density_of_many_coordinates_does_not_underflow():
  # A product of these densities is far below the least float32.
  value = policy.log_prob(jnp.full(100, 10.0), jnp.zeros(100), jnp.zeros(100))
  np.testing.assert_allclose(
      value, 100 * (-50 - 0.5 * math.log(2 * math.pi)), rtol=1e-6)


def test_errors_name_the_argument():
  for options, message in (
      ({"action_size": 0}, "action_size must be at least 1, got 0"),
      ({"num_values": 0}, "num_values"),
      ({"hidden_sizes": (4, 0)}, "hidden_sizes"),
      ({"initial_std": 0.0}, "initial_std must be in")):
    with pytest.raises(ValueError, match=message):
      policy.PolicyConfig(**({"action_size": 2, "num_values": 1} | options))
