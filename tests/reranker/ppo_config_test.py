"""What a configuration of PPO, and its settings, refuse."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import ppo_config
from tests.reranker import toys

MODERN, SETTINGS = toys.MODERN, toys.SETTINGS


@pytest.mark.parametrize("change, message", [
    ({"num_minibatches": 5}, "num_minibatches must divide"),
    ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
    ({"gae_lambda": 1.5}, "gae_lambda must be in"),
    ({"clip_range": 0.0}, "clip_range must be positive"),
    ({"target_kl": math.nan}, "target_kl must be positive")],
    ids=["num_minibatches", "num_envs", "gae_lambda", "clip_range",
         "target_kl"])
def test_errors_name_the_field(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(MODERN, **change)


def with_policy(**change):
  return dataclasses.replace(
      MODERN, policy=dataclasses.replace(MODERN.policy, **change))


@pytest.mark.parametrize("settings, config, message", [
    (toys.settings_of((1.0,)), MODERN, r"reward_weights has shape \(1,\)"),
    (SETTINGS._replace(discounts=jnp.ones(2)), MODERN,
     r"discounts has shape \(2,\)"),
    (SETTINGS._replace(controller=constraints.Controller(jnp.ones(2))), MODERN,
     r"threshold has shape \(2,\)"),
    (SETTINGS, with_policy(action_size=7), "action_size of the policy is 7"),
    (SETTINGS, with_policy(num_values=2), "num_values of the policy is 2")],
    ids=["reward_weights", "discounts", "threshold", "action_size",
         "num_values"])
def test_sizes_of_settings_and_policy_fit_the_environment(
    settings, config, message):
  with pytest.raises(ValueError, match=message):
    ppo_config.check_sizes(settings, toys.TOY, config)


def test_init_checks_the_sizes():
  with pytest.raises(ValueError, match="reward_weights has shape"):
    jax.eval_shape(toys.LEARNING.init, jax.random.key(0), toys.TARGET,
                   toys.settings_of((1.0,)))
