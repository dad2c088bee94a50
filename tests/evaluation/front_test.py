"""Fronts against inclusion and exclusion over all subsets of points."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.evaluation import front

hypervolume = jax.jit(front.hypervolume)


def union_of_boxes(points, reference):
  """Volume of the union of boxes: of all intersections, by sign."""
  points = np.asarray(points, np.float64)
  total = 0.0
  for size in range(1, len(points) + 1):
    for chosen in itertools.combinations(points, size):
      sides = np.min(chosen, axis=0) - reference
      total -= (-1) ** size * np.prod(np.maximum(sides, 0))
  return total


def random_front(size, count, seed=0, low=0.55):
  """AUCs as weights all over a simplex give them."""
  rng = np.random.default_rng(seed)
  ends = rng.uniform(0.75, 0.98, size)
  weights = rng.dirichlet(np.ones(size), count)
  return np.float32(low + (ends - low) * np.sqrt(weights))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_volume_is_that_of_the_union(size):
  points = np.stack([random_front(size, 9, seed) for seed in range(3)])
  found = hypervolume(points, jnp.full(size, 0.5))
  expected = [union_of_boxes(each, 0.5) for each in points]
  np.testing.assert_allclose(found, expected, rtol=1e-5 if size < 3 else 1e-3)


def test_the_ratio_of_like_fronts_is_known_better():
  one = random_front(6, 10)
  other = one - np.random.default_rng(1).uniform(0, 4e-3, one.shape)
  a, b = hypervolume(np.stack([one, other]), jnp.full(6, 0.5))
  assert a / b == pytest.approx(
      union_of_boxes(one, 0.5) / union_of_boxes(other, 0.5), abs=2e-4)


def test_one_point_is_its_box():
  for size in (1, 2, 5):
    assert hypervolume(jnp.full((1, size), 0.7), jnp.full(size, 0.5)) == (
        pytest.approx(0.2 ** size, rel=1e-5))


def test_points_of_the_host_are_read_in_all_their_bits():
  # Revenue in minor units beside a rate; the second is better by 1 in 5e9.
  points = np.array([[5e9, 0.5], [5e9 + 1, 0.5], [1e9, 0.6]])
  np.testing.assert_array_equal(
      front.pareto_mask(points), [False, True, True])
  wide = np.array([[5 * 10**9, 1], [10**9, 2]])
  np.testing.assert_allclose(
      front.hypervolume(wide, np.zeros(2, int)), 6e9, rtol=1e-6)


def test_points_far_from_0_are_near_their_reference():
  points, reference = np.array([[1.0, 0.0], [0.0, 1.0]]), -np.ones(2)
  expected = front.hypervolume(points, reference)
  far = 1.767e12
  assert expected == 3
  assert front.hypervolume(points + far, reference + far) == 3
  assert front.hypervolume(
      points + far, reference + far, upper=far + np.ones(2)) == 3
  assert front.hypervolume(
      (points + far).astype(np.int64), (reference + far).astype(np.int64)) == 3


def test_points_that_add_nothing_change_nothing():
  points = random_front(3, 6)
  extra = np.float32([
      points[2], points[1] - 0.01, [0.4, 0.99, 0.99], [np.nan, 0.9, 0.9]])
  upper = jnp.asarray(points.max(axis=0))
  of = lambda points: hypervolume(points, jnp.full(3, 0.5), upper=upper)
  # What is not above the reference counts nowhere, however good elsewhere.
  np.testing.assert_allclose(
      of(np.concatenate([points, extra])), of(points), rtol=1e-6)


def test_the_order_of_points_and_objectives_is_nothing():
  points = random_front(2, 7)
  value = float(hypervolume(points, jnp.full(2, 0.5)))
  assert hypervolume(points[::-1], jnp.full(2, 0.5)) == (
      pytest.approx(value, rel=1e-6))
  assert hypervolume(points[:, ::-1], jnp.full(2, 0.5)) == (
      pytest.approx(value, rel=1e-6))


def test_nothing_above_the_reference_has_no_volume():
  for size in (2, 3):
    reference = jnp.full(size, 0.5)
    for points in (jnp.full((2, size), 0.4), jnp.full((2, size), jnp.nan)):
      assert hypervolume(points, reference) == 0


def test_beyond_the_box_nothing_counts():
  found = hypervolume(jnp.array([[0.9, 0.7, 0.8]]), jnp.full(3, 0.5),
                      upper=jnp.full(3, 0.7))
  assert found == pytest.approx(0.2 ** 3, rel=1e-5)


def test_under_vmap_and_in_float64(x64):
  size = 3
  points = np.stack([random_front(size, 5, seed) for seed in range(2)])
  reference, upper = jnp.full(size, 0.5), jnp.ones(size)
  found = front.hypervolume(points.astype(np.float64), reference, upper=upper)
  assert found.dtype == jnp.float64
  each = jax.vmap(lambda x: front.hypervolume(
      x, reference, upper=upper))(jnp.asarray(points))
  np.testing.assert_allclose(each, found, rtol=1e-5)


def test_pareto_points_are_those_nobody_is_ahead_of():
  rng = np.random.default_rng(0)
  points = rng.integers(0, 4, (5, 30, 3)).astype(np.float32)
  points[0, 3, 1] = np.nan
  found = jax.jit(front.pareto_mask)(points)
  for row, mask in zip(points, found, strict=True):
    for k, point in enumerate(row):
      beaten = any((other >= point).all() and (other > point).any()
                   for other in row)
      assert mask[k] == (not beaten and not np.isnan(point).any())


@pytest.mark.parametrize("call, said", [
    (lambda: front.pareto_mask(jnp.zeros(3)), "points has shape"),
    (lambda: front.hypervolume(jnp.zeros((0, 3)), jnp.zeros(3)),
     "points has shape"),
    (lambda: front.hypervolume(jnp.zeros((4, 3)), jnp.zeros(2)),
     "reference has shape"),
    (lambda: front.hypervolume(
        jnp.zeros((4, 3)), jnp.zeros(3), upper=jnp.zeros(1)), "upper has"),
    (lambda: front.hypervolume(
        jnp.zeros((4, 3)), jnp.zeros(3), rays_of_face=1000), "power of two")])
def test_what_does_not_fit_is_refused(call, said):
  with pytest.raises(ValueError, match=said):
    call()
