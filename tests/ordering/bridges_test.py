"""The search for bridges: both forms of it, and sums of logarithms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.ordering import bridges
from harmonrank_jax.ordering import segments
from tests import oracles

# Three tiles and a part of one: two levels of bridges.
SIZE = 100


@pytest.fixture(autouse=True)
def form():
  """These are parts of the pure form."""


@functools.partial(jax.jit, static_argnames=("logarithmic", "form"))
def starts(values, weights, logarithmic, form):
  """Where the block of each slot starts, in rows `[R, SIZE]`."""
  slots = jnp.arange(values.size, dtype=jnp.int32)
  first = slots // SIZE * SIZE
  lists = segments.Blocks(first, first + SIZE)
  algebra = bridges.LOGARITHMIC if logarithmic else bridges.LINEAR
  blocks = bridges.partition(
      values.reshape(-1), lists, weights.reshape(-1), SIZE, algebra,
      getattr(bridges, form))
  return (blocks.start - first).reshape(values.shape)


def problems(seed=0):
  """Rows of every family, and positive weights."""
  rows = np.stack([
      values for _, values in sorted(oracles.families(SIZE, seed).items())])
  weights = np.exp(np.random.default_rng(seed).normal(size=rows.shape))
  return rows, weights


def fits(values, start, mean):
  """Fit of each block, by the mean of one."""
  result = np.empty(values.shape)
  for row in range(len(values)):
    for first in np.unique(start[row]):
      inside = start[row] == first
      result[row, inside] = mean(row, inside)
  return result


@pytest.mark.parametrize("logarithmic", [False, True])
def test_the_forms_for_cpu_and_for_accelerators_find_the_same(
    logarithmic, x64):
  for seed in range(3):
    rows, weights = problems(seed)
    if logarithmic:
      weights = np.log(weights)
    np.testing.assert_array_equal(
        starts(rows, weights, logarithmic, "bisect"),
        starts(rows, weights, logarithmic, "sect"))


@pytest.mark.slow
def test_float32_forms_err_alike():
  rows, weights = map(np.float32, problems())
  error = []
  for form in ("bisect", "sect"):
    start = starts(rows, weights, False, form)
    actual = fits(rows, np.asarray(start), lambda r, i: np.average(
        np.float64(rows[r, i]), weights=weights[r, i]))
    expected = [oracles.isotonic(*row) for row in zip(
        rows, np.float64(weights), strict=True)]
    scale = np.abs(rows).max(axis=1, keepdims=True) + 1e-30
    error.append(np.abs((actual - expected) / scale).max())
  assert max(error) < 1e-5


@pytest.mark.parametrize("form", ["bisect", "sect"])
def test_the_logarithmic_fit_agrees_with_the_oracle(form, x64):
  rows, weights = problems()
  log_weights = np.log(weights)
  log_sum = np.logaddexp.reduce
  for scale in (1.0, 1e3, 1e6):
    values = scale * rows / (np.abs(rows).max(axis=1, keepdims=True) + 1e-30)
    start = np.asarray(starts(values, log_weights, True, form))
    actual = fits(values, start, lambda r, i, v=values: log_sum(
        v[r, i] + log_weights[r, i]) - log_sum(log_weights[r, i]))
    expected = [oracles.log_isotonic(*row) for row in zip(
        values, log_weights, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-9)
