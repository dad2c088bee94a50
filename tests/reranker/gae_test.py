"""Advantages against a loop and arithmetic by hand."""

import functools

import numpy as np
import pytest

from harmonrank_jax.reranker import gae as gae_lib
from tests.reranker import toys


def sample_steps(seed=0, shape=(9, 4), components=3):
  rng = np.random.default_rng(seed)
  rewards, values, next_values = rng.normal(size=(3, *shape, components))
  terminated, truncated = rng.random((2, *shape)) < 0.2
  goes_on = ~(terminated | truncated)[:-1, ..., None]
  next_values[:-1] = np.where(goes_on, values[1:], next_values[:-1])
  discounts = rng.uniform(0.5, 1, components)
  return rewards, values, next_values, terminated, truncated, discounts


@functools.partial(toys.jit, static_argnames="gae_lambda")
def gae(rewards, values, next_values, terminated, truncated, discounts,
        gae_lambda=1.0):
  return gae_lib.vector_gae(
      rewards, values, next_values, terminated, truncated,
      discounts=discounts, gae_lambda=gae_lambda)


def test_gae_by_hand(x64):
  # Terminated at 1, truncated at 2 with v' = 7, cut by the batch with v' = 5.
  rewards = np.array([[1.0], [2], [3], [4]])
  values = np.array([[0.5], [1], [1.5], [2]])
  next_values = np.array([[1.0], [9], [7], [5]])
  flags = np.eye(4, dtype=bool)
  g, lam = 0.5, 0.25
  advantages, returns = gae(
      rewards, values, next_values, flags[1], flags[2], np.array([g]),
      gae_lambda=lam)
  last = 4 + g * 5 - 2
  cut = 3 + g * 7 - 1.5
  end = 2 - 1
  first = 1 + g * 1 - 0.5 + g * lam * end
  np.testing.assert_allclose(advantages[:, 0], [first, end, cut, last])
  np.testing.assert_allclose(returns, advantages + values)


def test_gae_with_lambda_1_is_the_return_by_the_loop(x64):
  steps = sample_steps()
  rewards, _, next_values, terminated, truncated, discounts = steps
  _, returns = gae(*steps)
  for t, env in np.ndindex(terminated.shape):
    total, factor = 0, np.ones(3)
    for now in range(t, len(rewards)):
      total = total + factor * rewards[now, env]
      factor = factor * discounts
      if terminated[now, env]:
        break
      if truncated[now, env] or now == len(rewards) - 1:
        total = total + factor * next_values[now, env]
        break
    np.testing.assert_allclose(returns[t, env], total, rtol=1e-12)


def test_a_terminated_step_ignores_what_follows(x64):
  rewards, values, next_values, terminated, truncated, discounts = (
      sample_steps())
  spoilt = np.where(terminated[..., None], 1e9, next_values)
  toys.assert_close(
      gae(rewards, values, next_values, terminated, truncated, discounts, 0.9),
      gae(rewards, values, spoilt, terminated, truncated, discounts, 0.9),
      rtol=1e-12)


def test_vector_and_scalar_agree_with_equal_discounts(x64):
  rewards, values, next_values, terminated, truncated, _ = sample_steps()
  weights = np.array([0.2, 1.5, -0.7])
  scalar = lambda x: (x @ weights)[..., None]
  for lam in (0.9, 1.0):
    vector = gae(rewards, values, next_values, terminated, truncated,
                 np.full(3, 0.93), gae_lambda=lam)
    one = gae(scalar(rewards), scalar(values), scalar(next_values), terminated,
              truncated, np.full(1, 0.93), gae_lambda=lam)
    toys.assert_close([scalar(x) for x in vector], list(one), rtol=1e-12)


def test_advantages_are_combined_by_hand(x64):
  advantages, weights = np.array([[1.0, 2.0, 4.0]]), np.array([3.0, 1.0])
  combined = gae_lib.combine_advantages(advantages, weights, np.array([0.25]))
  np.testing.assert_allclose(
      combined, [(3.0 * 1 + 1.0 * 2 - 0.25 * 4) / (1 + 0.25)])


REWARDS, FLAGS = np.zeros((3, 2)), np.zeros(3, bool)


@pytest.mark.parametrize("name, value, message", [
    ("values", REWARDS[:2], r"values has shape \(2, 2\)"),
    ("next_values", REWARDS[:2], r"next_values has shape \(2, 2\)"),
    ("terminated", FLAGS[:2], r"terminated has shape \(2,\)"),
    ("truncated", FLAGS[:2], r"truncated has shape \(2,\)"),
    ("discounts", np.ones(3), r"discounts has shape \(3,\)")],
    ids=["values", "next_values", "terminated", "truncated", "discounts"])
def test_errors_name_the_argument(name, value, message):
  arguments = {
      "values": REWARDS, "next_values": REWARDS, "terminated": FLAGS,
      "truncated": FLAGS, "discounts": REWARDS[0], "gae_lambda": 1.0,
      name: value}
  with pytest.raises(ValueError, match=message):
    gae_lib.vector_gae(REWARDS, **arguments)
