"""Fits of logarithms by both forms of the search, against the oracle."""

import functools
import itertools

import jax
import numpy as np
import pytest

from harmonrank_jax.ordering import bridges
from harmonrank_jax.ordering import dyadic
from harmonrank_jax.ordering import segments
from harmonrank_jax.ordering import sums
from tests import oracles


@pytest.fixture(autouse=True)
def form():
  """These are parts of the pure form."""


@functools.partial(jax.jit, static_argnames=("row_size", "form"))
def logarithmic_start(values, weights, lists, row_size, form):
  return dyadic.partition(
      values, lists, weights, row_size=row_size,
      algebra=sums.LOGARITHMIC, search_fn=getattr(bridges, form)).start


def assert_logarithmic_fits(dtype, form, tolerance):
  """Every family, of small and of huge numbers, against the oracle."""
  # More tiles than one loop of levels has.
  size = 1100
  families = oracles.families(size)
  values = np.stack([
      scale * family / np.abs(family).max()
      for family in families.values() for scale in (1, 1e6)]).astype(dtype)
  rng = np.random.default_rng(0)
  log_weights = np.stack([
      # Every item of more weight than all before it; equal; of any size.
      np.arange(size, dtype=dtype), np.zeros(size), 99 * rng.normal(size=size),
  ])[np.arange(len(values)) % 3].astype(dtype)
  # One list, or several; some of one item, some of parts of tiles.
  edges = [[0, size], [0, 300, 301, 302, 500, 512, 1024, size]]
  cuts = [edges[row // 2 % 2] for row in range(len(values))]
  start, end = np.zeros((2, *values.shape), np.int32)
  for row, edge in enumerate(cuts):
    start[row] = row * size + np.repeat(edge[:-1], np.diff(edge))
    end[row] = row * size + np.repeat(edge[1:], np.diff(edge))
  actual = np.asarray(logarithmic_start(
      values.reshape(-1), log_weights.reshape(-1),
      segments.Blocks(start.reshape(-1), end.reshape(-1)), size, form))
  assert (actual >= start.reshape(-1)).all()
  first, block = np.unique(actual, return_inverse=True)
  x, w = (np.float64(a).reshape(-1) for a in (values, log_weights))
  log_sum = lambda a: np.logaddexp.reduceat(a, first)
  fit = (log_sum(x + w) - log_sum(w))[block].reshape(values.shape)
  for row, edge in enumerate(cuts):
    spread = np.abs(values[row]).max() + np.ptp(log_weights[row])
    for a, b in itertools.pairwise(edge):
      np.testing.assert_allclose(
          fit[row, a:b], oracles.log_isotonic(
              *np.float64((values[row, a:b], log_weights[row, a:b]))),
          rtol=0, atol=tolerance * spread)


@pytest.mark.slow
def test_logarithmic_fits_by_fixed_steps_agree_with_the_oracle(x64):
  assert_logarithmic_fits(np.float64, "sect", 1e-13)


@pytest.mark.slow
def test_float32_logarithmic_fits_by_bisection_agree_with_the_oracle():
  assert_logarithmic_fits(np.float32, "bisect", 4e-6)
