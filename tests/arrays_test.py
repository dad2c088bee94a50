"""The door by which arrays enter: nothing wraps, ties or is read as text."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax import arrays

WIDE = 1 << 40


@pytest.mark.parametrize("given, expected", [
    (np.array([[1, 1], [WIDE + 1, 1]]), [[0, 0], [1, 0]]),
    (np.array([2**64 - 1, 2**32 - 1], np.uint64), [1, 0]),
    (np.array([-1, 2**32 - 1]), [0, 1]),  # Alike in their lower 32 bits.
    ([7, 7, 3], [7, 7, 3]), ([], []), (np.uint8([255, 0]), [255, 0])])
def test_ids_keep_their_equality(given, expected):
  np.testing.assert_array_equal(arrays.ids(given, "users"), expected)


@pytest.mark.parametrize("given, message", [
    (np.array(["a", "b"]), "users must be integers, got <U1: number them"),
    (np.array([1, None]), "users must be integers, got object: number them"),
    (np.array([1.0]), "users must be integers, got float64.$"),
    (jnp.ones(1), "users must be integers, got float32.$")])
def test_ids_that_are_no_integers_are_named(given, message):
  with pytest.raises(ValueError, match=message):
    arrays.ids(given, "users")


@pytest.mark.parametrize("door", [
    arrays.numbers, arrays.floats, arrays.relative, arrays.flags])
@pytest.mark.parametrize("given, message", [
    (np.array(["a"]), "x must be numbers, got <U1"),
    (np.array([np.datetime64("2026-01-01")]), "x must be numbers, got date"),
    (np.array([1j]), "x must be real, got complex128"),
    (jnp.ones(1, jnp.complex64), "x must be real, got complex64")])
def test_what_are_no_numbers_is_named(door, given, message):
  with pytest.raises(ValueError, match=message):
    door(given, "x")


def test_wide_integers_become_the_nearest_floats():
  wide = np.array([3 * WIDE, -2**63, 5])
  for door in (arrays.numbers, arrays.floats):
    got = door(wide, "x")
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, np.float32(wide))
  assert arrays.numbers(np.array([3, 5]), "x").dtype == jnp.int32
  assert arrays.numbers(np.array([True]), "x").dtype == jnp.bool_
  with pytest.raises(ValueError, match="x has integers of more than 32 bits"):
    arrays.numbers(wide, "x", exact=True)
  np.testing.assert_array_equal(
      arrays.floats(np.array([1e300, -1e300]), "x"), [np.inf, -np.inf])


def test_counts_beyond_32_bits_are_the_ends():
  np.testing.assert_array_equal(
      arrays.integers(np.array([WIDE, -WIDE, 3]), "x"),
      [2**31 - 1, -2**31, 3])
  np.testing.assert_array_equal(
      arrays.integers(np.uint64([2**64 - 1]), "x"), [2**31 - 1])


def test_a_mask_is_true_where_it_is_not_zero():
  np.testing.assert_array_equal(
      arrays.flags(np.array([0, WIDE, -1]), "x"), [False, True, True])


@pytest.mark.parametrize("given", [
    np.array([2**63 - 1, 2**63 - 2, -2**63, 2**63 - 1]),
    np.array([1 + 1e-12, 1 + 1e-13, 1, 1 + 1e-12]),
    np.array([1e300, 1e299, -np.inf, np.nan, np.inf, -0.0, 0.0, 1e-300]),
    np.array([1e-42, 2e-42, 0])], ids=str)
def test_order_and_ties_outlive_the_cast(given):
  got = np.asarray(arrays.floats(given, "x", matters="order"))
  assert got.dtype == np.float32
  with np.errstate(invalid="ignore"):
    for compare in (np.less, np.equal):
      np.testing.assert_array_equal(
          compare.outer(got, got), compare.outer(given, given))


def test_what_the_cast_keeps_is_only_cast():
  values = np.array([[0.5, -3.0, np.nan, np.inf]])
  for matters in typing.get_args(arrays.Matters):
    np.testing.assert_array_equal(
        arrays.floats(values, "x", matters=matters), values)
  assert not arrays.relative(values, "x")[1]


@pytest.mark.parametrize("given", [
    np.array([[2**63 - 1, 2**63 - 3, 5, 7], [5, -2**63, 1, 2]]),
    np.uint64([[2**64 - 1, 2**64 - 2, 0, 0]]),
    1.7e12 + np.array([[3.0, 1.0, 0.0, 9.0]])], ids=str)
def test_differences_are_exact_and_the_rest_is_the_largest(given):
  where = np.arange(4) < 3  # A masked 9 is not the largest.
  below, top = arrays.relative(given, "x", where)
  exact = [[int(x) - max(map(int, row[:3])) for x in row] for row in given]
  np.testing.assert_array_equal(below, np.float32(exact))
  np.testing.assert_array_equal(
      top, np.float32(given[:, :3].max(axis=1, keepdims=True)))


def test_differences_of_what_is_not_finite():
  below, top = arrays.relative(
      np.array([[np.nan, np.inf, 1e300, -1e300], [np.nan] * 4]), "x")
  largest = np.finfo(np.float32).max
  np.testing.assert_array_equal(
      below, [[np.nan, np.inf, 0, -largest], [np.nan] * 4])
  np.testing.assert_array_equal(top, [[largest], [0]])


def test_jax_arrays_pass_by_their_dtype(x64):
  for given, dtype in ((jnp.int64, jnp.float64), (jnp.int32, jnp.float32),
                       (jnp.bfloat16, jnp.float32), (bool, jnp.float32)):
    for to in (np.asarray, jnp.asarray):
      assert arrays.floats(to(jnp.ones(2, given)), "x").dtype == dtype
  wide = np.array([WIDE + 1, WIDE])
  assert arrays.numbers(wide, "x").dtype == jnp.int64
  np.testing.assert_array_equal(arrays.floats(wide, "x"), wide)
  np.testing.assert_array_equal(
      jax.jit(lambda x: arrays.floats([x[1], 2], "x"))(jnp.ones(2)), [1, 2])


def test_a_mask_that_does_not_fit_is_named():
  with pytest.raises(ValueError, match=r"where has shape \(3,\)"):
    arrays.relative(np.array([0.1, 0.2]), "x", np.ones(3, bool))
