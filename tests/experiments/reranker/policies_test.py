"""The policies that are compared."""

import jax.numpy as jnp
import numpy as np

from experiments.reranker import policies


def test_a_constant_action_is_that_of_every_user():
  actions = policies.constant_action(jnp.arange(3.0), jnp.zeros((2, 8)))
  np.testing.assert_array_equal(actions, [[0, 1, 2]] * 2)
