"""Entropic soft rank and soft sort: an oracle, optimality, and their theory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax
from tests import oracles
from tests.ordering.calculus import ROWS
from tests.ordering.calculus import make_calculus

SIZE, SMALL = 40, 10
SHAPE = (ROWS, SIZE)

entropic_rank = functools.partial(
    harmonrank_jax.soft_rank, regularization="entropic")
entropic_sort = functools.partial(
    harmonrank_jax.soft_sort, regularization="entropic")
rank = make_calculus(entropic_rank, SIZE)
sort = make_calculus(entropic_sort, SMALL)


@pytest.fixture(autouse=True)
def form():
  """There is no native form of it: one form is enough."""


def cases(size=SIZE):
  """Rows without ties, with ties and with heavy tails, at six strengths."""
  normal = np.random.default_rng(0).normal(size=(3, size))
  scores = np.repeat([normal[0], normal[1].round(1), np.exp(normal[2])], 6, 0)
  strengths = np.tile(np.geomspace(0.003, 30, 6), 3)[:, None]
  return scores, strengths


def test_ranks_agree_with_the_oracle_and_are_optimal(x64):
  scores, strengths = cases()
  ranks = rank(scores, strengths).values
  for row, strength in enumerate(strengths[:, 0]):
    expected = oracles.entropic_soft_rank(scores[row], strength)
    np.testing.assert_allclose(ranks[row], expected, rtol=1e-11)
    # In the permutahedron; and, by the conditions of Karush, Kuhn and Tucker,
    # its nearest point: log r - z never rises, and falls only where the
    # partial sum of the ranks is at its bound.
    order = np.argsort(scores[row], kind="stable")
    slack = np.cumsum(ranks[row, order]) - np.cumsum(np.arange(1, SIZE + 1))
    assert slack.min() >= -1e-9
    assert abs(slack[-1]) <= 1e-9
    dual = np.log(ranks[row, order]) - scores[row, order] / strength
    fall = dual[:-1] - dual[1:]
    assert fall.min() >= -1e-9
    assert np.abs(fall * slack[:-1]).max() <= 1e-9 / strength


@pytest.mark.slow
def test_sorts_agree_with_the_oracle(x64):
  values, strengths = cases(SMALL)
  sorts = sort(values, strengths).values
  for row, strength in enumerate(strengths[:, 0]):
    expected = oracles.entropic_soft_sort(values[row], strength)
    np.testing.assert_allclose(
        sorts[row], expected, rtol=1e-10, atol=1e-13 / strength)


@pytest.mark.parametrize("calculus, size", [
    (rank, SIZE), (sort, SMALL)], ids=["rank", "sort"])
def test_gradients_against_differences(calculus, size, x64):
  scores, _ = cases(size)
  scores += 1e-3 * np.random.default_rng(1).normal(size=scores.shape)
  strengths = np.geomspace(0.03, 30, ROWS)[:, None]
  direction = np.random.default_rng(2).normal(size=scores.shape)
  step = 1e-6
  difference = lambda low, high: (
      calculus(*high).values - calculus(*low).values) / (2 * step)
  result = calculus(scores, strengths)
  np.testing.assert_allclose(
      np.einsum("rij,rj->ri", result.by_items, direction),
      difference((scores - step * direction, strengths),
                 (scores + step * direction, strengths)),
      rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
      strengths * result.by_strength,
      difference((scores, strengths * (1 - step)),
                 (scores, strengths * (1 + step))), rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
      result.by_items_forward, result.by_items, rtol=1e-9, atol=1e-9)
  np.testing.assert_allclose(
      result.by_strength_forward, result.by_strength, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_is_finite_everywhere_in_float32(scale):
  scores, strengths = cases()
  scores = np.float32(scores * scale)
  extreme = np.tile(np.geomspace(1e-15, 1e15, 6), 3)[:, None]
  for eps in (strengths, extreme):
    for result in (rank(scores, eps), sort(scores[:, :SMALL], eps)):
      for part in result:
        assert np.isfinite(part).all()
  ranks = rank(scores, extreme).values
  assert ((ranks >= 0.99) & (ranks <= SIZE + 0.1)).all()
  np.testing.assert_allclose(
      ranks.sum(axis=1), SIZE * (SIZE + 1) / 2, rtol=1e-5)


@pytest.mark.slow
def test_limits():
  scores = np.float32(cases()[0])
  np.testing.assert_array_equal(
      rank(scores, 0.0).values, [oracles.mid_ranks(row) for row in scores])
  np.testing.assert_allclose(
      rank(scores, 1e7).values, np.full(SHAPE, (SIZE + 1) / 2), rtol=1e-5)
  values = scores[:, :SMALL]
  np.testing.assert_array_equal(
      sort(values, 0.0).values, np.sort(values, axis=1))
  np.testing.assert_allclose(
      sort(values, 1e7).values, np.broadcast_to(
          np.log(np.exp(values).mean(axis=1, keepdims=True)), values.shape),
      rtol=1e-5, atol=1e-5)


def test_masked_ragged_lists_and_what_is_not_finite(x64):
  scores, where, ids = oracles.random_lists(SHAPE, 5)
  expected = oracles.per_list(
      lambda s: oracles.entropic_soft_rank(s, 0.8), scores, where, ids)
  result = rank(scores, 0.8, where, ids)
  np.testing.assert_allclose(result.values, expected, rtol=1e-11, atol=1e-11)
  apart = (ids[:, :, None] != ids[:, None]) | ~(
      where[:, :, None] & where[:, None])
  assert (result.by_items[apart] == 0).all()
  for garbage in (np.nan, np.inf, 1e30):
    dirty = rank(np.where(where, scores, garbage), 0.8, where, ids)
    for part, other in zip(dirty, result, strict=True):
      np.testing.assert_array_equal(part, other)
  scores[:, :3] = [np.inf, -np.inf, np.nan]
  ranks = rank(scores, 0.8).values
  np.testing.assert_array_equal(ranks[:, 0], np.full(ROWS, SIZE - 1.0))
  np.testing.assert_array_equal(ranks[:, 1], np.ones(ROWS))
  assert np.isnan(ranks[:, 2]).all()


@pytest.mark.slow
def test_long_lists_in_float32():
  scores = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
  for strength in (1e-3, 0.1):
    ranks = jax.jit(entropic_rank)(scores, strength=strength)
    expected = oracles.entropic_soft_rank(scores, strength)
    np.testing.assert_allclose(ranks, expected, rtol=2e-4)


@pytest.mark.slow
def test_exports():
  exported = jax.export.export(
      jax.jit(lambda s: entropic_rank(s, strength=0.5)),
      platforms=("cpu", "cuda", "tpu"))(jnp.zeros(SMALL))
  scores = np.float32(cases(SMALL)[0][0])
  np.testing.assert_allclose(
      exported.call(scores), oracles.entropic_soft_rank(scores, 0.5),
      rtol=1e-6)


def test_errors_name_the_argument():
  for operator in (harmonrank_jax.soft_rank, harmonrank_jax.soft_sort):
    with pytest.raises(ValueError, match=r"regularization must be.*'entropy'"):
      operator(jnp.ones(3), strength=1.0, regularization="entropy")
