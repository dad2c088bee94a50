"""A random world: its sizes, its ranges, and that it is one of many."""

import jax
import numpy as np
import pytest

from harmonrank_jax.reranker import synthetic
from tests.reranker import worlds


def test_a_world_fits_its_page():
  params = worlds.arrays(worlds.default_params())
  pool = params.pool
  assert pool.items.shape == (worlds.USERS, worlds.PLACES)
  assert pool.features.shape == (worlds.ITEMS, worlds.WIDTH)
  # No user has an item twice.
  assert all(len(set(items)) == worlds.PLACES for items in pool.items)
  assert set(pool.item_categories) == set(range(worlds.CATEGORIES))
  np.testing.assert_allclose(params.arrivals.sum(), 1, rtol=1e-5)
  np.testing.assert_allclose(
      params.response.demand.mean(axis=1), 0, atol=1e-5)
  assert params.response.examination[0] == 1
  assert (params.activity >= 8).all() and (params.activity < 24).all()
  kinds = {np.dtype(np.float32), np.dtype(np.int32), np.dtype(bool)}
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == kinds


def test_another_key_is_another_world():
  one, other = worlds.default_params(), worlds.make_params(1)
  for name in ("arrivals", "activity", "base", "shift"):
    assert (getattr(one, name) != getattr(other, name)).mean() > 0.9
  assert (one.pool.items != other.pool.items).mean() > 0.9


@pytest.mark.parametrize("sizes", [
    {"num_places": 23}, {"num_places": 50, "num_items": 49}],
    ids=["candidates", "items"])
def test_too_few_places_or_items_are_refused(sizes):
  with pytest.raises(ValueError, match="num_places must be from"):
    synthetic.synthetic_world(jax.random.key(0), worlds.PAGE, **sizes)
