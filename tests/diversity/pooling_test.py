"""The flow pool against one greedy DPP a category, and its allocation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax as hr
from tests.diversity import reference

SIZE, WIDTH, CATEGORIES, POOL = 40, 5, 4, 12
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(2, SIZE, WIDTH)).astype(np.float32)
RELEVANCE = RNG.normal(size=(2, SIZE)).astype(np.float32)
# Uneven; the last has one candidate; -1 and 4 are no category.
IDS = RNG.permutation(np.repeat([0, 1, 2, 3, -1, 4], [20, 10, 5, 1, 2, 2]))
QUOTAS = np.array([[4, 3, 2, 1], [1, 3, 0, 1]])

pool = functools.partial(
    jax.jit(hr.flow_pool, static_argnames=(
        "pool_size", "union", "num_selected", "ridge", "fill")),
    pool_size=POOL)
allocate = jax.jit(hr.diversity.allocate_quotas)


def by_category(features, relevance, quotas, theta=0.5, **options):
  """The picks of each category by brute force, one after the other."""
  result = []
  for category, quota in enumerate(quotas):
    own = np.flatnonzero(category == IDS)
    indices, gains, _ = reference.greedy(
        "dpp", features[own], relevance[own], quota, theta, **options)
    result += list(zip(own[indices], gains, strict=True))
  return result


def test_every_category_picks_for_itself():
  result = pool(FEATURES, RELEVANCE, IDS, QUOTAS, theta=0.5)
  np.testing.assert_array_equal(result.quotas, QUOTAS)
  for row in range(2):
    expected = by_category(FEATURES[row], RELEVANCE[row], QUOTAS[row])
    count = QUOTAS[row].sum()
    indices, gains = zip(*expected, strict=True)
    np.testing.assert_array_equal(result.indices[row, :count], indices)
    np.testing.assert_allclose(
        result.gains[row, :count], gains, rtol=1e-4, atol=1e-4)
    assert (result.indices[row, count:] == -1).all()
    assert result.num_valid[row] == count


def test_quotas_are_values_and_overflow_goes_where_there_is_stock():
  # Wanted 3 of one candidate and 8 of five: 5 places for the others.
  result = pool(FEATURES[0], RELEVANCE[0], IDS, np.array([2, 1, 8, 3]),
               theta=0.5, where=RELEVANCE[0] < 10)
  assert result.quotas.tolist() == [4, 2, 5, 1]
  chosen = IDS[np.asarray(result.indices)]
  np.testing.assert_array_equal(np.bincount(chosen), [4, 2, 5, 1])
  np.testing.assert_array_equal(chosen, np.sort(chosen))
  # More than the pool holds is scaled down.
  much = pool(FEATURES[0], RELEVANCE[0], IDS, np.array([20, 20, 20, 0]),
              theta=0.5)
  assert much.quotas.tolist() == [4, 4, 4, 0]


def test_what_is_masked_or_broken_is_no_stock():
  features, relevance = FEATURES[0].copy(), RELEVANCE[0].copy()
  first, second, third = np.flatnonzero(IDS == 2)[:3]
  # Without features the first is a candidate all the same.
  features[first], relevance[second] = 0, np.nan
  where = np.arange(SIZE) != third
  result = pool(features, relevance, IDS, np.array([1, 1, 5, 0]),
               theta=0.5, where=where)
  assert result.quotas.tolist() == [2, 2, 3, 0]
  assert {first, second, third} & set(result.indices.tolist()) == {first}
  assert (result.indices >= 0).sum() == 7


def test_copies_are_filled_in_or_left_out():
  features = np.where((IDS == 0)[:, None], 1.0, FEATURES[0])
  features = features.astype(np.float32)
  filled = pool(features, RELEVANCE[0], IDS, np.array([3, 2, 0, 0]), theta=0.5)
  own = np.flatnonzero(IDS == 0)
  best = own[np.argsort(-RELEVANCE[0][own], kind="stable")][:3]
  np.testing.assert_array_equal(filled.indices[:3], best)
  assert filled.num_valid == 3 and (filled.indices >= 0).sum() == 5
  left = pool(features, RELEVANCE[0], IDS, np.array([3, 2, 0, 0]), theta=0.5,
              fill="none")
  assert left.num_valid == 3 == (left.indices >= 0).sum()
  assert left.indices[0] == best[0] and IDS[left.indices[1]] == 1


def test_affinity_is_added_by_subcategory():
  subcategories = RNG.integers(-1, 3, SIZE)
  affinity = np.array([[0.0, 2.0, -1.0], [5.0, 0.0, 0.0]], np.float32)
  result = pool(FEATURES, RELEVANCE, IDS, QUOTAS, theta=0.9,
               subcategory_ids=subcategories, affinity=affinity)
  padded = np.pad(affinity, ((0, 0), (0, 1)))
  expected = pool(FEATURES, RELEVANCE + padded[:, subcategories], IDS, QUOTAS,
                  theta=0.9)
  chex.assert_trees_all_equal(result, expected)


def test_the_second_pass_is_a_joint_dpp_over_the_union():
  union = pool(FEATURES, RELEVANCE, IDS, QUOTAS, theta=0.5)
  result = pool(FEATURES, RELEVANCE, IDS, QUOTAS, theta=0.5,
               union="conditional", num_selected=4)
  in_union = jax.vmap(
      lambda i: jnp.zeros(SIZE, bool).at[i].set(True, mode="drop"))(
          jnp.where(union.indices < 0, SIZE, union.indices))
  joint = hr.greedy_dpp(
      FEATURES, RELEVANCE, num_selected=4, theta=0.5, where=in_union)
  chex.assert_trees_all_equal(result.indices, joint.indices)
  np.testing.assert_allclose(result.gains, joint.gains, atol=1e-5)
  chex.assert_trees_all_equal(result.quotas, union.quotas)


def test_vmap_is_a_batch():
  batch = pool(FEATURES, RELEVANCE, IDS, QUOTAS, theta=0.5)
  mapped = jax.vmap(
      lambda f, r, q: pool(f, r, IDS, q, theta=0.5))(
          FEATURES, RELEVANCE, QUOTAS)
  chex.assert_trees_all_close(mapped, batch, atol=1e-5)


def test_quotas_may_be_as_large_as_integers_are():
  result = pool(FEATURES[0], RELEVANCE[0], IDS, np.array([2**31 - 1] * 4),
               theta=0.5)
  assert result.quotas.tolist() == [4, 4, 3, 1]


def test_float32_stays_where_float64_is_on(x64):
  result = pool(FEATURES, RELEVANCE, IDS, QUOTAS, theta=0.5,
               union="conditional", num_selected=4)
  assert result.gains.dtype == jnp.float32
  assert result.num_valid.dtype == result.quotas.dtype == jnp.int32


def test_no_candidates_and_no_categories():
  for size, count in ((0, 4), (SIZE, 0)):
    result = pool(FEATURES[:, :size], RELEVANCE[:, :size], IDS[:size],
                 QUOTAS[:, :count], theta=0.5, union="conditional",
                 num_selected=4)
    assert (result.indices == -1).all() and result.indices.shape == (2, 4)
    assert result.quotas.shape == (2, count)


def test_nothing_to_pick_from():
  for ids, quotas in ((IDS, np.zeros(4, int)), (np.full(SIZE, 9), QUOTAS[0]),
                      (IDS, np.array([-3, 0, 0, 0]))):
    result = pool(FEATURES[0], RELEVANCE[0], ids, quotas, theta=0.5)
    assert (result.indices == -1).all() and not result.quotas.any()


@pytest.mark.parametrize("form", ["pure"], indirect=True)
def test_allocation_by_hand():
  def allocation(*weights, total):
    padded = np.pad(np.float32(weights), (0, 5 - len(weights)))
    return allocate(padded, total=total)[:len(weights)].tolist()

  # Shares 4.5, 2.7, 1.8: the remainders .8 and .7 win.
  assert allocation(5, 3, 2, total=9) == [4, 3, 2]
  # Equal remainders: the first.
  assert allocation(1, 1, 1, 1, total=6) == [2, 2, 1, 1]
  # What is not positive and finite gets nothing.
  assert allocation(np.nan, -1, 0, np.inf, 1, total=3) == [0, 0, 0, 0, 3]
  assert allocation(0, 0, total=3) == [0, 0]
  assert allocation(1, 1, total=-3) == [0, 0]
  assert allocation(3e38, 3e38, 3e38, total=3) == [1, 1, 1]


@pytest.mark.parametrize("form", ["pure"], indirect=True)
def test_allocation_is_that_of_a_loop():
  rng = np.random.default_rng(1)
  weights = rng.gamma(0.5, size=(200, 6)).astype(np.float32)
  total = rng.integers(0, 60, 200)
  stock = rng.integers(0, 20, (200, 6))
  result = np.asarray(allocate(
      weights, total=total, stock=stock))
  for row in range(200):
    assert result[row].sum() == min(total[row], stock[row].sum())
    assert (result[row] <= stock[row]).all()
    # Who is not at its stock has its share of what the others leave, to one.
    free = result[row] < stock[row]
    left = total[row] - result[row][~free].sum()
    share = left * weights[row][free] / weights[row][free].sum()
    assert (np.abs(result[row][free] - share) < 1 + 1e-4).all()
  whole = rng.integers(0, 50, (200, 6))
  np.testing.assert_array_equal(
      allocate(whole.astype(np.float32), total=whole.sum(axis=1),
               stock=np.full((200, 6), 50)), whole)


@pytest.mark.parametrize("form", ["pure"], indirect=True)
@pytest.mark.parametrize("match, change", [
    ("union must be one of", {"union": "joint"}),
    ("num_selected is for", {"num_selected": 3}),
    ("num_selected is for", {"union": "conditional"}),
    ("fill must be one of", {"fill": "noise"}),
    ("ridge must be in", {"ridge": -0.1}),
    ("theta must be in", {"theta": 1.0}),
    ("pool_size must be at least 0", {"pool_size": -1}),
    ("need each other", {"affinity": np.ones(3)}),
    ("subcategory_ids must be integers",
     {"affinity": np.ones(3), "subcategory_ids": np.ones(SIZE)}),
    ("affinity has shape",
     {"affinity": np.ones((5, 3)), "subcategory_ids": np.ones(SIZE, int)}),
    ("quotas has shape", {"quotas": np.ones((3, 4), int)}),
    ("quotas must be integers", {"quotas": np.ones(4)}),
    ("quotas must have at least one axis", {"quotas": 3}),
    ("category_ids has shape", {"category_ids": IDS[:5]}),
    ("category_ids must be integers", {"category_ids": IDS * 1.0}),
], ids=reference.case_id)
def test_errors_name_the_argument(match, change):
  arguments = {"category_ids": IDS, "quotas": QUOTAS, "theta": 0.5,
               "pool_size": POOL, **change}
  with pytest.raises(ValueError, match=match):
    hr.flow_pool(FEATURES, RELEVANCE, arguments.pop("category_ids"),
                 arguments.pop("quotas"), **arguments)


@pytest.mark.parametrize("form", ["pure"], indirect=True)
@pytest.mark.parametrize("match, change", [
    ("weights must have shape", {"weights": np.float32(1)}),
    ("total must be integers", {"total": 1.5}),
    ("total has shape", {"total": np.array([1, 2])}),
    ("stock has shape", {"stock": np.array([1, 2])}),
], ids=reference.case_id)
def test_allocation_errors_name_the_argument(match, change):
  arguments = {"weights": np.ones(3), "total": 3, **change}
  with pytest.raises(ValueError, match=match):
    hr.diversity.allocate_quotas(arguments.pop("weights"), **arguments)
