"""The search for bridges: the form for CPU and that for accelerators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.ordering import bridges
from harmonrank_jax.ordering import dyadic
from harmonrank_jax.ordering import segments
from tests import oracles

# Three tiles and a part of one: two levels of bridges.
SIZE = 100


@pytest.fixture(autouse=True)
def form():
  """These are parts of the pure form."""


@functools.partial(jax.jit, static_argnames="form")
def starts(values, weights, form):
  """Where the block of each slot starts, in rows `[R, SIZE]`."""
  slots = jnp.arange(values.size, dtype=jnp.int32)
  first = slots // SIZE * SIZE
  lists = segments.Blocks(first, first + SIZE)
  blocks = dyadic.partition(
      values.reshape(-1), lists, weights.reshape(-1), row_size=SIZE,
      search_fn=getattr(bridges, form))
  return (blocks.start - first).reshape(values.shape)


def problems(seed=0):
  """Rows of every family, and positive weights."""
  rows = np.stack([
      values for _, values in sorted(oracles.families(SIZE, seed).items())])
  weights = np.exp(np.random.default_rng(seed).normal(size=rows.shape))
  return rows, weights


@pytest.mark.slow
def test_the_forms_for_cpu_and_for_accelerators_find_the_same(x64):
  for seed in range(5):
    rows, weights = problems(seed)
    np.testing.assert_array_equal(
        starts(rows, weights, "bisect"), starts(rows, weights, "sect"))


def test_steps_of_many_probes_are_few():
  # At n = 1e6 a row has 15 levels of 32 slots and more: 5 and 10 of them
  # share a loop, and each takes the steps of the last.
  steps = [bridges.num_steps(32 << level, 8) for level in (4, 14)]
  assert 5 * steps[0] + 10 * steps[1] == 5 * 6 + 10 * 12
  assert [bridges.num_steps(2**k, 1) for k in (5, 19)] == [2 * 5, 2 * 19]
