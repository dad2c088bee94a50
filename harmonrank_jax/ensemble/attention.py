"""Dot-product attention over a few tokens of very many rows.

Features and tokens are the leading axes and rows the last one. Products of
matrices as small as these do not fill a processor; sums over features or tokens
that are written out run over rows, and the compiler fuses them.
"""

from collections.abc import Iterable
import functools
import operator

import jax
import jax.numpy as jnp

# Of a masked token: its weight is 0, and if all are masked, weights are equal.
_MASKED = -1e9


@jax.custom_vjp
def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, where: jax.Array
) -> jax.Array:
  """Mean value of the tokens, weighted by a softmax of `query . key`.

  The derivative is given because that of sums that are written out would be
  sums of padded slices, several times slower.

  Args:
    query: `[H, D, Q, N]`, D features of H heads, already scaled.
    key: `[H, D, K, N]`.
    value: `[H, D, K, N]`.
    where: `[K, N]` bool, True = the token may be attended to.

  Returns:
    `[H, D, Q, N]`.

  >>> query, token = jnp.zeros((1, 2, 1, 5)), jnp.ones((1, 2, 3, 5))
  >>> attend(query, token, token, jnp.ones((3, 5), bool)).shape
  (1, 2, 1, 5)
  """
  return _attend(query, key, value, where)[0]


def _attend(query, key, value, where):
  """The mean; weights `[H, Q, K, N]` and their total `[H, Q, N]`."""
  logits = jnp.where(where[None, None], _products(query, key), _MASKED)
  weights = jnp.exp(logits - jnp.max(logits, axis=2, keepdims=True))
  # Divided once, at the end: within the sums it would be once for each term.
  total = jnp.sum(weights, axis=2)
  return _blend(weights, value) / total[:, None], weights, total


def _forward(query, key, value, where):
  result, weights, total = _attend(query, key, value, where)
  return result, (query, key, value, where, weights, total, result)


def _backward(saved, cotangent):
  query, key, value, where, weights, total, result = saved
  cotangent = cotangent / total[:, None]
  mean = jnp.sum(cotangent * result, axis=1)
  # Not written out: the compiler would repeat it in each of the sums below.
  by_weights = jnp.sum(cotangent[:, :, :, None] * value[:, :, None], axis=1)
  by_logits = jnp.where(
      where[None, None], weights * (by_weights - mean[:, :, None]), 0)
  return (_blend(by_logits, key), _blend(jnp.swapaxes(by_logits, 1, 2), query),
          _blend(jnp.swapaxes(weights, 1, 2), cotangent), None)


attend.defvjp(_forward, _backward)


def _products(left: jax.Array, right: jax.Array) -> jax.Array:
  """`[H, D, Q, N]` and `[H, D, K, N]` to `[H, Q, K, N]`."""
  return _sum(left[:, i, :, None] * right[:, i, None]
              for i in range(left.shape[1]))


def _blend(weights: jax.Array, value: jax.Array) -> jax.Array:
  """`[H, Q, K, N]` and `[H, D, K, N]` to `[H, D, Q, N]`."""
  return _sum(weights[:, None, :, i] * value[:, :, i][:, :, None]
              for i in range(value.shape[2]))


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
  return functools.reduce(operator.add, terms)
