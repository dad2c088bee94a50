"""Operations of the greedy loop on candidates, by how they form lists.

A row of candidates is one list, many lists, or one list over several devices.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmonrank_jax.diversity import directions
from harmonrank_jax.diversity import problem as problem_lib
import harmonrank_jax.sharding as sharding


class Choice(NamedTuple):
  """The best candidate of each list."""

  item: jax.Array  # [B, G] int32
  gain: jax.Array  # [B, G]
  feature: jax.Array  # [B, G, D], of unit length
  category: jax.Array  # [B, G] int32
  by_gain: jax.Array  # [B, G] bool, whether the list has one with a gain

  @property
  def exists(self) -> jax.Array:
    """`[B, G]` bool, whether a list has a candidate to pick."""
    return self.gain > -jnp.inf


class _OneList:
  """All candidates of a row form one list: G = 1."""

  def __init__(self, p: problem_lib.Problem):
    self._features, self._categories = p.features, p.categories
    self._num_categories = p.quotas.shape[1]
    self._scale = directions.inverse_norms(p.features, p.relevance.dtype)
    self._num_rows, self._num_items = p.relevance.shape

  def to_candidates(self, values: jax.Array) -> jax.Array:
    """Values of lists `[B, G]` as any shape that broadcasts to `[B, N]`."""
    return values

  def of_category(self, values: jax.Array) -> jax.Array:
    """Values of categories `[B, C]` as those of their candidates, likewise."""
    if self._num_categories == 1:
      return values
    shape = (values.shape[0], self._num_items)
    return jnp.take_along_axis(
        values, jnp.broadcast_to(self._categories, shape), axis=1)

  def products(
      self, compared: jax.Array, present: jax.Array, neutral: float
  ) -> jax.Array:
    """Products `[B, R, N]` of unit features with `[B, G, R, D]` of their lists.

    They are `neutral` where `[B, G, R]` says that none is present.
    """
    features = self._features.astype(compared.dtype)
    if features.shape[0] == 1:
      products = directions.einsum("brd,nd->brn", compared[:, 0], features[0])
    else:
      products = directions.einsum("brd,bnd->brn", compared[:, 0], features)
    return self._scaled(products, present[:, 0, :, None], neutral)

  def choose(self, gains: jax.Array, others: jax.Array | None) -> Choice:
    """The first candidate of the largest of gains `[B, N]` in each list.

    In a list without a gain, that of the largest of `others`, if given.
    """
    by_gain = jnp.max(gains, axis=1, keepdims=True) > -jnp.inf
    keys = gains if others is None else jnp.where(by_gain, gains, others)
    index = jnp.argmax(keys, axis=1, keepdims=True).astype(jnp.int32)
    return self._choice(
        index, jnp.take_along_axis(keys, index, axis=1), by_gain)

  def is_chosen(self, choice: Choice) -> jax.Array:
    """`[B, N]` bool, whether a candidate was chosen."""
    items = problem_lib.places((1, self._num_items))
    return (items == choice.item) & choice.exists

  def count_categories(self, choice: Choice) -> jax.Array:
    """`[B, C]` int32, number of chosen candidates of each category."""
    categories = problem_lib.places((1, 1, self._num_categories))
    is_one = choice.category[..., None] == categories
    return jnp.sum(is_one & choice.exists[..., None], axis=1, dtype=jnp.int32)

  def _scaled(self, products, present, neutral):
    # The product with a feature that is not finite may be NaN.
    scale = self._scale[:, None]
    return jnp.where(
        present, jnp.where(scale > 0, products * scale, 0), neutral)

  def _choice(
      self, index: jax.Array, gain: jax.Array, by_gain: jax.Array
  ) -> Choice:
    feature = problem_lib.entries(self._features, index).astype(gain.dtype)
    scale = problem_lib.entries(self._scale, index)[..., None]
    # A feature that is not finite is none.
    return Choice(index, gain, jnp.where(scale > 0, feature * scale, 0),
                  problem_lib.entries(self._categories, index), by_gain)


class _ManyLists(_OneList):
  """Candidates of a row belong to G lists that advance together."""

  def __init__(self, p: problem_lib.Problem):
    super().__init__(p)
    self._num_lists = p.limits.shape[1]
    self._lists = jnp.broadcast_to(p.lists, p.relevance.shape)
    rows = jnp.arange(self._num_rows, dtype=jnp.int32)[:, None]
    self._segments = (rows * self._num_lists + self._lists).reshape(-1)

  def to_candidates(self, values):
    return jnp.take_along_axis(values, self._lists, axis=1)

  def products(self, compared, present, neutral):
    # Products with the rows of all lists, of which there are few, and then the
    # own ones: a matrix product instead of gathering rows for each candidate.
    features = jnp.broadcast_to(
        self._features, (self._num_rows, *self._features.shape[1:]))
    every = directions.einsum(
        "bgrd,bnd->bgrn", compared, features.astype(compared.dtype))
    own = self._lists[:, None, None, :]
    products = jnp.take_along_axis(every, own, axis=1)[:, 0]
    present = jnp.take_along_axis(present[..., None], own, axis=1)[:, 0]
    return self._scaled(products, present, neutral)

  def choose(self, gains, others):
    count = self._num_rows * self._num_lists

    def largest(keys):
      best = jax.ops.segment_max(keys.reshape(-1), self._segments, count)
      return best.reshape(self._num_rows, self._num_lists)

    best = largest(gains)
    by_gain, keys = best > -jnp.inf, gains
    if others is not None:
      keys = jnp.where(self.to_candidates(by_gain), gains, others)
      best = largest(keys)
    items = problem_lib.places((1, self._num_items))
    first = jnp.where(
        keys == self.to_candidates(best), items, self._num_items)
    index = jax.ops.segment_min(first.reshape(-1), self._segments, count)
    # The index of a list without candidates is out of range.
    index = jnp.minimum(index.reshape(best.shape), self._num_items - 1)
    return self._choice(index, best, by_gain)

  def is_chosen(self, choice):
    chosen = self.to_candidates(jnp.where(choice.exists, choice.item, -1))
    return chosen == problem_lib.places((1, self._num_items))


class _ShardedList(_OneList):
  """A list over several devices; indices count through all of them."""

  def __init__(self, p: problem_lib.Problem, axis_name: sharding.AxisName):
    super().__init__(p)
    self._axis_name = axis_name
    self._first = lax.axis_index(axis_name) * self._num_items

  def choose(self, gains, others):
    own = super().choose(gains, others)
    # A choice is packed into the words of one array: one collective a slot.
    word = jnp.int64 if gains.dtype == jnp.float64 else jnp.int32
    packed = jnp.concatenate([
        (own.item + self._first).astype(word)[..., None],
        own.category.astype(word)[..., None],
        own.by_gain.astype(word)[..., None],
        lax.bitcast_convert_type(own.gain, word)[..., None],
        lax.bitcast_convert_type(own.feature, word)], axis=2)
    shards = sharding.gather(packed, self._axis_name, axis=1)
    has_gain = shards[..., 2] > 0
    by_gain = jnp.any(has_gain, axis=1, keepdims=True)
    # What fills a slot of its shard alone has no gain beside one that has.
    every = jnp.where(
        by_gain & ~has_gain, -jnp.inf,
        lax.bitcast_convert_type(shards[..., 3], gains.dtype))
    # Among shards with equal gains, the first one has the lowest index.
    best = jnp.argmax(every, axis=1, keepdims=True)
    chosen = problem_lib.entries(shards, best)
    numbers = lax.bitcast_convert_type(chosen[..., 3:], gains.dtype)
    return Choice(chosen[..., 0].astype(jnp.int32), numbers[..., 0],
                  numbers[..., 1:], chosen[..., 1].astype(jnp.int32), by_gain)

  def is_chosen(self, choice):
    items = self._first + problem_lib.places((1, self._num_items))
    return (items == choice.item) & choice.exists


def lists_of(
    p: problem_lib.Problem, axis_name: sharding.AxisName | None
) -> _OneList:
  """The lists that the candidates of a problem form."""
  if p.limits.shape[1] > 1:
    return _ManyLists(p)
  return _OneList(p) if axis_name is None else _ShardedList(p, axis_name)
