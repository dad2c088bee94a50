"""Off-policy values of slates: slots that are missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.evaluation import off_policy_slates
from tests.evaluation import off_policy_logs as logs

SLOTS = logs.SLOTS


def test_slates_with_slots_missing():
  log = jax.tree.map(lambda x: x[0], logs.WORLD.log((1, 40)))
  where = np.random.default_rng(0).random((40, SLOTS)) < 0.6
  is_round = where.any(-1)
  empty = lambda x: np.where(where[..., None], x, 0)
  q, v = log.predicted_rests, log.predicted_rest_values
  estimate = jax.jit(lambda rewards, weights, q, v, where: (
      off_policy_slates.cascade_slate_value(
          rewards, weights, predicted_rewards=q, predicted_values=v,
          where=where)))
  garbage = lambda x: np.where(
      where.reshape(where.shape + (1,) * (x.ndim - 2)), x, np.nan)
  result = estimate(garbage(log.rewards), garbage(log.weights), garbage(q),
                    garbage(v), where)
  # A slot that is not there is one without reward, which changes no weight.
  expected = estimate(
      empty(log.rewards), np.where(where, log.weights, 1), empty(q), empty(v),
      np.broadcast_to(is_round[:, None], where.shape))
  np.testing.assert_allclose(result.value, expected.value, rtol=1e-6)
  np.testing.assert_allclose(
      result.standard_error, expected.standard_error, rtol=1e-5)
  products = np.cumprod(np.where(where, log.weights, 1), axis=-1)
  np.testing.assert_allclose(
      result.mean_weight, [products[where[:, k], k].mean()
                           for k in range(SLOTS)], rtol=1e-5)
  assert result.num_rounds == is_round.sum()


def test_a_slot_without_overlap_is_not_certain():
  # The target policy's second item was never shown below its first one.
  rewards = np.float32([[1, 1], [0, 1], [1, 0], [0, 0]])
  weights = np.float32([[2, 0], [0, 2], [2, 0], [0, 2]])
  none = weights * np.float32([1, 0])

  @jax.jit
  def estimates(rewards):
    independent = off_policy_slates.independent_slate_value
    return (off_policy_slates.cascade_slate_value(rewards, weights)[:4],
            independent(rewards, none)[:4], independent(rewards, weights)[:4],
            independent(rewards, none, where=jnp.array([True, False]))[:4])

  cascade, missing, whole, alone = estimates(rewards)
  assert np.isnan(cascade).all() and np.isnan(missing).all()
  # Slot by slot there is enough; a slot that no slate has needs no weights.
  assert whole[0] == 1 + 0.5 and alone[0] == 1
  assert whole[1] > 0 and alone[1] > 0


def test_products_may_leave_float32_on_the_way():
  # 1e-48 after eight slots, and 1 after sixteen: the last slot's reward counts.
  slots = 16
  weights = np.repeat(np.float32([1e-6, 1e6]), slots // 2)
  weights = np.stack([weights, weights, 1 + 0 * weights])
  rewards = np.zeros_like(weights)
  rewards[:, -1] = [3, 3, 0]
  value = jax.value_and_grad(lambda rewards, weights: (
      off_policy_slates.cascade_slate_value(rewards, weights).value), (0, 1))
  found, (by_reward, by_weight) = jax.jit(value)(rewards, weights)
  np.testing.assert_allclose(found, 2, rtol=1e-5)
  np.testing.assert_allclose(by_reward[:, -1], 1 / 3, rtol=1e-5)
  # d product / d weight = product / weight.
  np.testing.assert_allclose(by_weight, rewards[:, -1:] / weights / 3,
                             rtol=1e-4)


@pytest.mark.parametrize("estimator", [
    off_policy_slates.independent_slate_value,
    off_policy_slates.cascade_slate_value], ids=["independent", "cascade"])
def test_a_log_without_slots_is_refused(estimator):
  with pytest.raises(ValueError, match=r"weights .*\[..., N, K\]"):
    jax.eval_shape(lambda: estimator(np.zeros(3), np.zeros(3)))
