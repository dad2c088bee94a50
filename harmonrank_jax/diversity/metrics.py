"""Metrics of slates: diversity, and the exposure of items and categories.

Metrics take features or categories of the items in the slots, `[..., K]` and
more, as `take_slate` returns them. Empty slots are ignored. A metric that is
undefined is NaN, as most are for an empty slate; `jnp.nanmean` leaves it out.
Shapes that do not fit, ids that are not integers and static numbers out of
range raise ValueError.
"""

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
from harmonrank_jax.diversity import arguments
from harmonrank_jax.diversity import directions
from harmonrank_jax.ordering import sorting


def take_slate(
    values: jax.Array,
    indices: jax.Array,
    *,
    shared: bool = False,
    fill_value: float = 0,
) -> jax.Array:
  """Values of the items in the slots of slates.

  Args:
    values: `[..., N]` or `[..., N, ...]`, values of the candidates; leading
      axes as those of `indices`.
    indices: `[..., K]` integers, as in `Slate.indices`; indices outside [0, N)
      are empty slots.
    shared: whether all slates have the same candidates, with values `[N]` or
      `[N, ...]`.
    fill_value: value of empty slots. 0 suits features, because the metrics
      ignore features of 0; categories need -1.

  Returns:
    `[..., K]` or `[..., K, ...]`, in the dtype of values.

  >>> import jax.numpy as jnp
  >>> indices = jnp.array([2, 0, -1])
  >>> take_slate(jnp.array([5, 6, 7]), indices, fill_value=-1)
  Array([ 7,  5, -1], dtype=int32)
  """
  values = arrays.numbers(values, "values", exact=True)
  indices = _integers(indices, "indices")
  leading = () if shared else indices.shape[:-1]
  axis = len(leading)
  if values.shape[:axis] != leading or values.ndim == axis:
    needed = (*leading, "N, ...") if leading else "(N, ...)"
    raise ValueError(
        f"values has shape {values.shape}; indices of shape {indices.shape} "
        f"need {needed}.")
  num_items, rest = values.shape[axis], values.shape[axis + 1:]
  if not num_items:
    return jnp.full((*indices.shape, *rest), fill_value, values.dtype)
  is_item = (indices >= 0) & (indices < num_items)
  index = jnp.where(is_item, indices, 0)
  is_item = is_item.reshape(is_item.shape + (1,) * len(rest))
  taken = values[index] if shared else jnp.take_along_axis(
      values, index.reshape(is_item.shape), axis=axis)
  return jnp.where(is_item, taken, jnp.asarray(fill_value, values.dtype))


def slate_log_det(
    slate_features: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Log-determinant of the slate's similarities, which the DPP maximises.

  `log det S_Y = sum_t log s2_t`, with s2_t in [0, 1] the squared part of the
  unit feature in slot t outside the span of earlier slots. Each s2 counts as
  1e-5 at least (1e-10 in float64): a copy of an earlier item costs 11.5 (23),
  and the value is finite for every slate.

  Args:
    slate_features: `[..., K, D]`, of any length: only directions count. A slot
      whose feature is 0 or not finite is empty.
    where: `[..., K]` bool, True = there is an item.

  Returns:
    `[...]`, at most 0; float32 (float64 for float64 features). 0 for an empty
    slate, as for orthogonal items: the determinant of no items is 1.

  >>> import jax.numpy as jnp
  >>> slate = jnp.array([[1.0, 0.0], [1.0, 1.0]])
  >>> float(jnp.exp(slate_log_det(slate)).round(6))
  0.5
  """
  unit, _ = _unit_slots(slate_features, where)
  _, left = directions.directions(unit, None)
  least = directions.tolerance(unit.dtype)
  return jnp.sum(jnp.log(jnp.maximum(left, least)), axis=-1)


def intra_list_distance(
    slate_features: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Mean of `1 - cosine` over the pairs of the slate's items.

  Computed as `sum_i |f_i - mean f|^2 / (n - 1)` of the n unit features, which
  is the same and needs no pairs. Arguments are those of `slate_log_det`; the
  result is in [0, 2], and NaN with fewer than two items.

  References:
    Smyth and McClave 2001, "Similarity vs. diversity", the average
    dissimilarity of pairs.

  >>> import jax.numpy as jnp
  >>> intra_list_distance(jnp.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
  Array(1.3333334, dtype=float32)
  """
  unit, valid = _unit_slots(slate_features, where)
  count = _count(valid, unit.dtype)
  centre = jnp.sum(unit, axis=-2) / jnp.maximum(count, 1)[..., None]
  apart = jnp.where(valid[..., None], unit - centre[..., None, :], 0)
  return _share(jnp.sum(apart**2, axis=(-2, -1)), count - 1)


def near_duplicate_rate(
    slate_features: jax.Array,
    *,
    threshold: jax.Array | float = 0.95,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of the slate's items that nearly repeat an earlier one.

  The threshold in [-1, 1] is the least cosine of a near-duplicate; at 1
  rounding decides. Other arguments are those of `slate_log_det`; the result is
  in [0, 1), and NaN for an empty slate.

  >>> import jax.numpy as jnp
  >>> near_duplicate_rate(jnp.array([[1.0, 0.0], [1.0, 0.1]]))
  Array(0.5, dtype=float32)
  """
  if isinstance(threshold, (int, float)) and not -1 <= threshold <= 1:
    raise ValueError(f"threshold must be in [-1, 1], got {threshold}.")
  unit, valid = _unit_slots(slate_features, where)
  cosines = directions.einsum("...id,...jd->...ij", unit, unit)
  pairs = valid[..., :, None] & valid[..., None, :] & (cosines >= threshold)
  # Row i, column j < i.
  repeats = jnp.any(jnp.tril(pairs, -1), axis=-1)
  return _share(_count(repeats, unit.dtype), _count(valid, unit.dtype))


def exposure_counts(
    slate_category_ids: jax.Array,
    *,
    num_categories: int,
    where: jax.Array | None = None,
) -> jax.Array:
  """Counts the slots of each category in every slate.

  The exposure over all slates is the sum over leading axes. For the exposure
  of items, pass `Slate.indices.reshape(-1)`, with N in place of C.

  Args:
    slate_category_ids: `[..., K]` integers; ids outside [0, C) are empty slots.
    num_categories: C.
    where: `[..., K]` bool, True = there is an item.

  Returns:
    `[..., C]` int32.

  >>> import jax.numpy as jnp
  >>> exposure_counts(jnp.array([2, 0, 2, -1]), num_categories=3)
  Array([1, 0, 2], dtype=int32)
  """
  ids = _integers(slate_category_ids, "slate_category_ids")
  if num_categories < 0:
    raise ValueError(
        f"num_categories must be at least 0, got {num_categories}.")
  valid = arguments.mask(where, ids.shape) & (ids >= 0)
  # Empty slots count in category C, which is dropped.
  count = jnp.vectorize(
      lambda row: jnp.zeros(num_categories, jnp.int32).at[row].add(
          1, mode="drop"), signature="(k)->(c)")
  return count(jnp.where(valid, ids, num_categories))


def category_coverage(
    slate_category_ids: jax.Array,
    *,
    num_categories: int,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of all categories that the slate has.

  Arguments are those of `exposure_counts`, with C at least 1. The result is
  `[...]` float32 in [0, 1], at most `K / C`; 0 for an empty slate.

  >>> import jax.numpy as jnp
  >>> category_coverage(jnp.array([2, 0, 2, -1]), num_categories=4)
  Array(0.5, dtype=float32)
  """
  if num_categories < 1:
    raise ValueError(
        f"num_categories must be at least 1, got {num_categories}.")
  counts = exposure_counts(
      slate_category_ids, num_categories=num_categories, where=where)
  return _count(counts > 0, jnp.dtype(jnp.float32)) / num_categories


def category_entropy(
    slate_category_ids: jax.Array,
    *,
    num_categories: int,
    where: jax.Array | None = None,
) -> jax.Array:
  """Shannon entropy of the slate's shares of categories, in nats.

  It is not normalised: its maximum is `log min(K, C)`, and `exp` of it is the
  effective number of categories. Arguments are those of `exposure_counts`. The
  result is `[...]` float32, at least 0; NaN for an empty slate.

  >>> import jax.numpy as jnp
  >>> jnp.exp(category_entropy(jnp.array([2, 0, 2, 0]), num_categories=3))
  Array(2., dtype=float32)
  """
  counts = exposure_counts(
      slate_category_ids, num_categories=num_categories, where=where)
  counts = counts.astype(jnp.float32)
  total = jnp.sum(counts, axis=-1, keepdims=True)
  shares = _share(counts, total)
  entropy = jnp.sum(jax.scipy.special.entr(shares), axis=-1)
  return jnp.where(total[..., 0] > 0, entropy, jnp.nan)


def exposure_gini(
    exposures: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Gini coefficient: how unequal the exposure of items or categories is.

    G = sum_i (2 r_i - n - 1) e_i / (n sum_i e_i)

  with r the ascending ranks of the n exposures e. Entries of zero exposure
  count; mask those that could not be shown.

  Args:
    exposures: `[..., C]`, not negative: counts, or sums of position weights.
    where: `[..., C]` bool, True = valid.

  Returns:
    `[...]`, 0 for equal exposures, `1 - 1 / n` if one entry has all; float32
    (float64 for float64 exposures). NaN if the exposures sum to 0, or if a
    valid one is negative, infinite or NaN.

  References:
    Gini 1912; for ties the mid-ranks give the same sum as any order.

  >>> import jax.numpy as jnp
  >>> exposure_gini(jnp.array([0, 0, 0, 7]))
  Array(0.75, dtype=float32)
  """
  exposures, where, _ = sorting.check_lists(
      exposures, where, None, name="exposures")
  if where is None:
    where = jnp.ones(exposures.shape, bool)
  exposures = jnp.where(where, exposures, 0)
  count = _count(where, exposures.dtype)
  ranks = sorting.hard_rank(exposures, where=where)
  shares = _share(exposures, jnp.sum(exposures, axis=-1, keepdims=True))
  above = (2 * ranks - count[..., None] - 1) / count[..., None]
  value = jnp.sum(jnp.where(where, above * shares, 0), axis=-1)
  # Without items the sum is 0, not NaN.
  defined = (count > 0) & jnp.all(exposures >= 0, axis=-1)
  return jnp.where(defined, value, jnp.nan)


def alpha_ndcg(
    indices: jax.Array,
    subtopics: jax.Array,
    *,
    alpha: jax.Array | float = 0.5,
    where: jax.Array | None = None,
) -> jax.Array:
  """alpha-nDCG: relevance to subtopics that earlier slots do not cover.

  An item gains `sum_t J_t (1 - alpha)^(c_t)`, with c_t the sum of J_t over
  earlier slots; slot k = 1, 2, ... is discounted by `1 / log2(1 + k)`, and the
  sum divided by that of an ideal slate of K candidates. The ideal slate is the
  greedy one, as usual, because the best one is NP-hard to compute: a slate may
  be slightly better (above 1).

  Args:
    indices: `[..., K]` integers, as in `Slate.indices`; indices outside [0, N)
      are empty slots, which gain 0 and keep their place. An item that comes
      twice gains twice.
    subtopics: `[..., N, T]`, or `[N, T]` shared by all slates: J, bool or in
      [0, 1]. With categories as subtopics, `jax.nn.one_hot(category_ids, T)`,
      times the labels if only relevant items are to gain.
    alpha: in [0, 1], discount of a repeated subtopic; at 0 the metric is nDCG
      by the number of subtopics. A traced alpha is clipped.
    where: `[..., N]` bool, True = a candidate. Masked items gain 0 and are not
      in the ideal slate.

  Returns:
    `[...]`, float32 (float64 for float64 subtopics); NaN where no candidate
    has a subtopic.

  References:
    Clarke et al., "Novelty and diversity in information retrieval
    evaluation", SIGIR 2008. There the ideal comes from a whole collection,
    here from the candidates.

  >>> import jax.numpy as jnp
  >>> subtopics = jnp.array([[1, 0], [1, 0], [0, 1]])
  >>> print(f"{alpha_ndcg(jnp.array([0, 1]), subtopics):.3f}")
  0.807
  """
  if isinstance(alpha, (int, float)) and not 0 <= alpha <= 1:
    raise ValueError(f"alpha must be in [0, 1], got {alpha}.")
  indices = _integers(indices, "indices")
  subtopics = arrays.floats(subtopics, "subtopics")
  if subtopics.ndim < 2:
    raise ValueError(
        f"subtopics has shape {subtopics.shape}; expected [..., N, T].")
  *_, num_items, num_subtopics = subtopics.shape
  batch = indices.shape[:-1]
  subtopics = arguments.broadcast(
      subtopics, "subtopics", (*batch, num_items, num_subtopics))
  where = arguments.mask(where, (*batch, num_items))
  subtopics = jnp.where(where[..., None], subtopics, 0)
  worth = 1 - jnp.clip(jnp.asarray(alpha, subtopics.dtype), 0, 1)
  slots = jnp.arange(indices.shape[-1])
  discount = 1 / jnp.log2(slots.astype(subtopics.dtype) + 2)

  def sum_of(gains):
    return directions.einsum("...k,k->...", gains, discount)

  held = take_slate(subtopics, indices)
  before = jnp.cumsum(held, axis=-2) - held
  actual = sum_of(jnp.sum(held * worth**before, axis=-1))
  if not num_items:
    return jnp.full_like(actual, jnp.nan)
  items = jnp.arange(num_items).reshape((1,) * len(batch) + (num_items,))

  def pick(carry, _):
    before, is_free = carry
    gains = jnp.where(is_free, directions.einsum(
        "...nt,...t->...n", subtopics, worth**before), 0)
    best = jnp.argmax(gains, axis=-1, keepdims=True)
    gain = jnp.take_along_axis(gains, best, axis=-1)[..., 0]
    held = jnp.take_along_axis(subtopics, best[..., None], axis=-2)[..., 0, :]
    return (before + held, is_free & (items != best)), gain

  start = (jnp.zeros((*batch, num_subtopics), subtopics.dtype),
           jnp.ones((*batch, num_items), bool))
  _, gains = lax.scan(pick, start, slots)
  return _share(actual, sum_of(jnp.moveaxis(gains, 0, -1)))


def _unit_slots(
    slate_features: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Unit features `[..., K, D]`, 0 in empty slots, and `[..., K]` validity."""
  features = arrays.floats(slate_features, "slate_features")
  if features.ndim < 2:
    raise ValueError(
        f"slate_features has shape {features.shape}; expected [..., K, D].")
  where = arguments.mask(where, features.shape[:-1])
  unit = directions.unit_features(
      jnp.where(where[..., None], features, 0), features.dtype)
  return unit, jnp.any(unit != 0, axis=-1)


def _integers(array: jax.Array, name: str) -> jax.Array:
  """Checked integers `[..., K]`, as int32."""
  array = arrays.integers(array, name)
  if not array.ndim:
    raise ValueError(f"{name} must have shape [..., K], got a scalar.")
  return array


def _count(flags: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Number of True along the last axis, in this dtype."""
  return jnp.sum(flags, axis=-1, dtype=jnp.int32).astype(dtype)


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
  """`part / whole`; NaN where the whole is not positive."""
  positive = whole > 0
  return jnp.where(positive, part / jnp.where(positive, whole, 1), jnp.nan)
