"""Attention with rows last, against matrix products and their derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.ensemble import attention

ROWS = 5


def by_products(query, key, value, where):
  """The textbook form, of which JAX takes the derivative."""
  logits = jnp.einsum("hdqn,hdkn->hqkn", query, key)
  weights = jax.nn.softmax(
      jnp.where(where[None, None], logits, -1e9), axis=2)
  return jnp.einsum("hqkn,hdkn->hdqn", weights, value)


def sample(heads, depth, queries, keys):
  rng = np.random.default_rng(0)
  arrays = [np.float32(rng.normal(size=(heads, depth, tokens, ROWS)))
            for tokens in (queries, keys, keys, queries)]
  where = rng.random((keys, ROWS)) < 0.6
  where[:, 0], where[:, 1] = False, True
  return arrays, where


def with_gradients(attend):
  """The result, its gradients, and the gradient of a sum of their squares."""
  def value_and_gradients(query, key, value, cotangent, where):
    result, pull = jax.vjp(
        lambda *x: attend(*x, where), query, key, value)
    return result, pull(cotangent)

  def all_of_it(*arrays):
    second = jax.grad(lambda *x: sum(
        jnp.sum(g**2) for g in value_and_gradients(*x)[1]), (0, 1, 2))
    return value_and_gradients(*arrays), second(*arrays)
  return jax.jit(all_of_it)


@pytest.mark.parametrize("sizes", [(2, 3, 4, 4), (1, 2, 1, 3)])
def test_equals_products_of_matrices_up_to_second_derivatives(sizes):
  arrays, where = sample(*sizes)
  actual = with_gradients(attention.attend)(*arrays, where)
  expected = with_gradients(by_products)(*arrays, where)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=1e-4, atol=1e-4), actual, expected)


def test_a_masked_token_is_not_attended_to():
  (query, key, value, cotangent), where = sample(2, 3, 4, 4)
  first = with_gradients(attention.attend)
  expected = first(query, key, value, cotangent, where)
  some = where.any(axis=0)
  result, gradients = first(
      query, np.where(where, key, np.float32(1e4)),
      np.where(where, value, np.float32(1e4)), cotangent, where)[0]
  np.testing.assert_array_equal(
      result[..., some], expected[0][0][..., some])
  for gradient in gradients[1:]:
    assert (np.asarray(gradient)[:, :, ~where & some] == 0).all()
    assert (np.asarray(gradient)[:, :, where] != 0).any()


def test_large_products_do_not_overflow():
  (query, key, value, _), where = sample(1, 2, 1, 3)
  where[:] = True
  result = attention.attend(1e3 * query, 1e3 * key, value, where)
  best = np.argmax(np.einsum("hdqn,hdkn->hqkn", query, key)[0, 0], axis=0)
  np.testing.assert_array_equal(
      result[0, :, 0], value[0][:, best, np.arange(ROWS)])
