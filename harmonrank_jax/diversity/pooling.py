"""The flow pool: the union of one DPP for each category.

Between pre-ranking and ranking every category picks a varied part of its own
candidates. All categories pick side by side, slot after slot, from one flat
array of candidates. Quotas are values, not shapes: other quotas need no new
compilation.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

import harmonrank_jax.arrays as arrays
from harmonrank_jax.diversity import arguments
from harmonrank_jax.diversity import engine
from harmonrank_jax.diversity import greedy
from harmonrank_jax.diversity import problem as problem_lib

UNIONS = ("independent", "conditional")


class FlowPool(NamedTuple):
  """A pool of at most P candidates.

  An independent union holds them category by category, in the order of the
  picks; a conditional one in the order of the second pass.
  """

  indices: jax.Array  # [..., P] int32, none twice; -1 after the last
  gains: jax.Array  # [..., P], not comparable between categories; 0 at -1
  quotas: jax.Array  # [..., C] int32, after allocation
  num_valid: jax.Array  # [...] int32, picked by gain; others were filled in


def flow_pool(
    features: jax.Array,
    relevance: jax.Array | arrays.Relative,
    category_ids: jax.Array,
    quotas: jax.Array,
    *,
    theta: jax.Array | float,
    pool_size: int,
    where: jax.Array | None = None,
    subcategory_ids: jax.Array | None = None,
    affinity: jax.Array | None = None,
    union: str = "independent",
    num_selected: int | None = None,
    ridge: float | None = None,
    fill: str = "relevance",
) -> FlowPool:
  """Picks from every category by its own DPP, and unites the picks.

  Each category's picks are those of `greedy_dpp` on its candidates alone. This
  is not the joint DPP: a category ignores the picks of the others, and their
  gains are not compared. Where that matters, `union="conditional"` runs a
  second, joint DPP over the union.

  If a category has fewer candidates than its quota, the rest goes to the other
  categories in proportion to their quotas (`allocate_quotas`). Quotas that sum
  to more than `pool_size` are scaled down to it.

  Args:
    features: `[..., N, D]` or `[N, D]`, like relevance, theta, `where` and
      ridge as in `greedy_dpp`.
    relevance: `[..., N]`, on a log scale.
    category_ids: `[..., N]` or `[N]` integers in [0, C), in any order.
      Candidates of other ids are in no category and are not picked.
    quotas: `[..., C]` or `[C]` integers, picks of each category. A category
      of 0 or less has no picks, not even those that others leave.
    pool_size: P, the largest number of candidates in the union.
    subcategory_ids: `[..., N]` or `[N]` integers in [0, S), for `affinity`;
      candidates of other ids have an affinity of 0.
    affinity: `[..., S]`, the user's affinity to each sub-category, added to
      the relevance of its candidates.
    union: "independent" for the union itself, "conditional" for the slate
      that a second DPP selects from it.
    num_selected: K of the second pass; with `union="conditional"` only.
    fill: how a category goes on when only copies are left to it: "relevance"
      takes the most relevant ones, "none" leaves its places empty.

  Returns:
    The `FlowPool`, of K places if there was a second pass.

  Raises:
    ValueError: if shapes do not fit, or a static argument is out of range.

  >>> import jax.numpy as jnp
  >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]])
  >>> pool = flow_pool(
  ...     features, jnp.array([0.3, 0.2, 0.1, 0.0]), jnp.array([0, 0, 0, 1]),
  ...     jnp.array([2, 2]), theta=0.5, pool_size=4)
  >>> pool.indices, pool.quotas
  (Array([0, 2, 1, 3], dtype=int32), Array([3, 1], dtype=int32))
  """
  if union not in UNIONS:
    raise ValueError(f"union must be one of {UNIONS}, got {union!r}.")
  if (num_selected is None) != (union == "independent"):
    raise ValueError(
        "num_selected is for union='conditional', which needs it, got "
        f"num_selected={num_selected} and union={union!r}.")
  ridge = arguments.check_options(fill, ridge)
  if pool_size < 0:
    raise ValueError(f"pool_size must be at least 0, got {pool_size}.")
  relevance = arrays.relative(relevance, "relevance", where)
  bonus = None
  if affinity is not None or subcategory_ids is not None:
    bonus = _affinities(relevance.below, subcategory_ids, affinity)
  request = arguments.Arguments(
      features, relevance, pool_size, where, bonus=bonus)
  problem, _, lift = request.problem(theta, engine.DPP, ridge)
  problem, quotas = _by_category(request, problem, category_ids, quotas)
  size = pool_size if num_selected is None else num_selected
  if not problem.relevance.size or not quotas.size:
    empty = jnp.full((*request.batch, size), -1, jnp.int32)
    return FlowPool(
        empty, jnp.zeros(empty.shape, request.dtype),
        jnp.zeros((*request.batch, quotas.shape[1]), jnp.int32),
        jnp.zeros(request.batch, jnp.int32))
  # Clipped before the sum, which may be too large for an integer.
  total = jnp.sum(jnp.minimum(quotas, pool_size), axis=1)
  quotas = allocate_quotas(
      quotas, total=jnp.minimum(total, pool_size),
      stock=_stock(problem, quotas.shape[1]))
  pick = functools.partial(engine.pick, settings=engine.Settings(
      engine.DPP, ridge=ridge, fill=fill == "relevance"))
  picks = _united(pick(problem._replace(limits=quotas)))
  if num_selected is not None:
    chosen = picks.indices[:, 0]
    picks = problem_lib.superset(pick(
        problem_lib.subset(problem, chosen)._replace(
            limits=jnp.full((len(chosen), 1), num_selected, jnp.int32),
            slot_bias=jnp.zeros((1, num_selected, 1), request.dtype))), chosen)
  shape = (*request.batch, size)
  gains = greedy.lifted(picks, lift)
  return FlowPool(picks.indices.reshape(shape), gains.reshape(shape),
                  quotas.reshape(*request.batch, -1),
                  picks.num_valid.reshape(request.batch))


def allocate_quotas(
    weights: jax.Array,
    *,
    total: jax.Array | int,
    stock: jax.Array | None = None,
) -> jax.Array:
  """Allocates a total in proportion to weights, by largest remainder.

  No category gets more than its stock; the rest goes to the others in
  proportion to their weights. Equal remainders are resolved in favour of the
  first category. Whole weights that sum to the total are their own allocation.

  Args:
    weights: `[..., C]`, any real dtype. A weight that is not positive and
      finite counts as 0.
    total: `[...]` or a scalar, integers; less than 0 counts as 0. At most
      2^24, up to which float32 represents all integers.
    stock: `[..., C]` or `[C]` integers, upper limits; None for no limit.

  Returns:
    `[..., C]` int32, which sum to the total or, if that is less, to the stock
    of the categories with a weight.

  Raises:
    ValueError: if shapes do not fit, or total or stock are not integers.

  >>> import jax.numpy as jnp
  >>> allocate_quotas(jnp.array([0.5, 0.3, 0.2]), total=9)
  Array([4, 3, 2], dtype=int32)
  >>> allocate_quotas(jnp.array([0.5, 0.3, 0.2]), total=9,
  ...                 stock=jnp.array([2, 9, 9]))
  Array([2, 4, 3], dtype=int32)
  """
  weights = arrays.floats(weights, "weights")
  if not weights.ndim:
    raise ValueError("weights must have shape [..., C], got a scalar.")
  dtype = weights.dtype
  shape, largest = weights.shape, jnp.iinfo(jnp.int32).max
  total = arguments.broadcast(
      arrays.integers(total, "total"), "total", shape[:-1])
  total = jnp.maximum(total, 0)[..., None]
  most = arguments.broadcast(arrays.integers(
      largest if stock is None else stock, "stock"), "stock", shape)
  weights = jnp.where(
      jnp.isfinite(weights) & (weights > 0) & (most > 0), weights, 0)
  # Scaled, so that no sum overflows; by a power of 2, which keeps whole numbers
  # exact.
  _, exponent = jnp.frexp(jnp.max(weights, -1, keepdims=True, initial=0))
  weights = jnp.ldexp(weights, -exponent)
  most = jnp.where(weights > 0, most, 0)

  def shares(is_full):
    left = total - jnp.sum(jnp.where(is_full, most, 0), -1, keepdims=True)
    open_weights = jnp.where(is_full, 0, weights)
    of = jnp.sum(open_weights, -1, keepdims=True)
    share = left.astype(dtype) * open_weights / jnp.where(of > 0, of, 1)
    return left, jnp.where(is_full, 0, share)

  def fill(_, is_full):
    _, share = shares(is_full)
    return is_full | (share >= most.astype(dtype))

  # Every round fills a category, or none is left to be filled: C are enough.
  is_full = lax.fori_loop(0, shape[-1], fill, most == 0)
  left, share = shares(is_full)
  whole = jnp.floor(share)
  order = jnp.argsort(whole - share, axis=-1, stable=True)
  place = jnp.argsort(order, axis=-1)
  whole = whole.astype(jnp.int32)
  missing = left - jnp.sum(whole, axis=-1, keepdims=True)
  gets_one = (share > 0) & (place < missing)
  return jnp.where(is_full, most, whole + gets_one.astype(jnp.int32))


def _affinities(
    relevance: jax.Array,
    subcategory_ids: jax.Array | None,
    affinity: jax.Array | None,
) -> jax.Array:
  """`[..., N]`, the affinity of each candidate's sub-category, or 0."""
  if affinity is None or subcategory_ids is None:
    raise ValueError("affinity and subcategory_ids need each other.")
  affinity = arrays.floats(affinity, "affinity")
  ids = arrays.integers(subcategory_ids, "subcategory_ids")
  count = arguments.last_axis("affinity", affinity)
  affinity = arguments.broadcast(
      affinity, "affinity", (*relevance.shape[:-1], *count))
  ids = arguments.broadcast(ids, "subcategory_ids", relevance.shape)
  inside = (ids >= 0) & (ids < count[0])
  values = jnp.take_along_axis(affinity, jnp.where(inside, ids, 0), axis=-1)
  return jnp.where(inside, values, 0)


def _by_category(
    request: arguments.Arguments, problem: problem_lib.Problem,
    category_ids: jax.Array, quotas: jax.Array,
) -> tuple[problem_lib.Problem, jax.Array]:
  """The problem with a list for each category, and quotas `[B, C]`."""
  count = arguments.last_axis("quotas", quotas)
  ids = request.rows(arrays.integers(category_ids, "category_ids"),
                     "category_ids", problem.relevance.shape[1:])
  quotas = request.rows(arrays.integers(quotas, "quotas"), "quotas", count)
  inside = (ids >= 0) & (ids < count[0])
  return problem._replace(
      relevance=jnp.where(inside, problem.relevance, -jnp.inf),
      lists=jnp.where(inside, ids, 0)), jnp.maximum(quotas, 0)


def _stock(problem: problem_lib.Problem, num_categories: int) -> jax.Array:
  """`[B, C]` int32, number of candidates of each category to pick from."""
  can_pick = problem.relevance > -jnp.inf
  rows = jnp.arange(can_pick.shape[0], dtype=jnp.int32)[:, None]
  segments = rows * num_categories + problem.lists
  counts = jax.ops.segment_sum(
      can_pick.astype(jnp.int32).reshape(-1), segments.reshape(-1),
      can_pick.shape[0] * num_categories)
  return counts.reshape(-1, num_categories)


def _united(picks: problem_lib.Selection) -> problem_lib.Selection:
  """The picks `[B, C, K]` of all lists as those of one, `[B, 1, K]`."""
  num_rows, _, size = picks.indices.shape
  indices = picks.indices.reshape(num_rows, -1)
  is_pick = indices >= 0
  # Empty places go beyond the end, where they are dropped.
  place = jnp.where(is_pick, jnp.cumsum(is_pick, axis=1) - 1, size)

  def put(values, empty):
    row = jnp.full((num_rows, size), empty, values.dtype)
    scatter = lambda row, at, x: row.at[at].set(x, mode="drop")
    return jax.vmap(scatter)(row, place, values)[:, None]

  return problem_lib.Selection(
      put(indices, -1), put(picks.gains.reshape(num_rows, -1), 0),
      jnp.sum(picks.num_valid, axis=1, keepdims=True, dtype=jnp.int32))
