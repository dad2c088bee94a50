"""Methods compared on the same requests."""

import numpy as np
import pytest

from experiments.slates import comparison as comparison_lib
from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.serving import selector


@pytest.mark.parametrize("facts, num_selected, expected", [
    # Padded to 8192 candidates, 2^18 of which are 32 requests.
    pytest.param((1000, 10**6, 5000), 10, 2**18 // 8192, id="by candidates"),
    pytest.param((10**4, 10**5, 10), 10, 512, id="by requests"),
    pytest.param((3, 30, 10), 10, 3, id="all there are"),
    pytest.param((9, 10**8, 10**7), 10, 1, id="one at least"),
    pytest.param((1000, 10**6, 5000), 2**17, 2, id="by slots")])
def test_as_many_requests_are_drawn_as_memory_allows(
    facts, num_selected, expected):
  facts = candidates_lib.Facts(*facts, {"a": 1})
  places = comparison_lib.draw(facts, num_selected=num_selected, seed=0)
  assert len(places) == len(set(places)) == expected
  assert list(places) == sorted(places) and places.max() < facts.num_requests


def test_at_theta_1_every_method_is_top_k(comparison):
  chunk = comparison.chunk
  for method in selector.METHODS:
    rows = comparison.rows[method][-1]
    assert comparison.curves[method]["score"][-1] == (
        comparison.curves["top_k"]["score"][0])
    for request, row in enumerate(rows):
      first, end = chunk.starts[request:request + 2]
      best = first + np.argsort(-chunk.scores[first:end], kind="stable")[:5]
      assert row[row >= 0].tolist() == best.tolist()


def test_metrics_are_those_of_the_slates(comparison):
  chunk = comparison.chunk
  place = comparison_lib.THETAS.tolist().index(comparison.theta)
  for method in selector.METHODS:
    slates = [row[row >= 0] for row in comparison.rows[method][place]]
    scores = [chunk.scores[row].mean() for row in slates]
    distances = []
    for row in slates:
      unit = chunk.features[row].astype(np.float64)
      unit /= np.linalg.norm(unit, axis=1, keepdims=True)
      pairs = (unit @ unit.T)[np.triu_indices(len(row), 1)]
      distances += [1 - pairs.mean()] if len(pairs) else []
    kinds = [len(set(chunk.categories[row])) for row in slates]
    for name, values in (("score", scores), ("distance", distances),
                         ("num_categories", kinds)):
      expected = (np.mean(values), np.std(values, ddof=1) / len(values)**0.5)
      np.testing.assert_allclose(
          comparison.curves[method][name][place], expected, rtol=1e-5)
      assert comparison.table[method][name] == (
          comparison.curves[method][name][place])


def test_exposure_is_shares_of_slots(comparison):
  chunk = comparison.chunk
  np.testing.assert_allclose(
      comparison.exposure["candidates"],
      np.bincount(chunk.categories) / len(chunk.scores))
  rows = comparison.rows["top_k"][0]
  counts = np.bincount(chunk.categories[rows[rows >= 0]], minlength=3)
  np.testing.assert_allclose(
      comparison.exposure["top_k"], counts / counts.sum())
  low, mid, high = np.sort(counts)
  gini = comparison.table["top_k"]["gini"]
  assert gini.mean == pytest.approx(
      (-2 * low + 0 * mid + 2 * high) / (3 * counts.sum()), rel=1e-5)
  assert gini.error > 0
