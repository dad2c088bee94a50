"""Ways to compute the soft rank: this library's, its peers', and floors."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from experiments.benchmarks import timing as timing_lib
import harmonrank_jax as hr

TORCHSORT = "torchsort"
_RELATIVE_STRENGTH = 2.0


class Lists(NamedTuple):
  """B lists of N scores to rank, float32."""

  scores: np.ndarray  # [B, N]
  strength: np.ndarray  # [B, 1]
  cotangent: np.ndarray  # [B, N]


class RankMethod(NamedTuple):
  """A way to rank, made ready for some lists."""

  forward: Callable[[], Any]  # ranks, or the order of a floor
  # Ranks, and the gradient of `sum(cotangent * ranks)` by the scores; None
  # for a floor.
  both: Callable[[], tuple[Any, Any]] | None
  compile_seconds: float = 0.0  # of both; 0 if nothing is compiled


def make_lists(batch: int, size: int, seed: int) -> Lists:
  """Draws normal scores; the strength is that of the loss."""
  rng = np.random.default_rng(seed)
  scores = rng.standard_normal((batch, size), np.float32)
  spread = np.maximum(scores.std(axis=1, keepdims=True), 1e-6)
  strength = (_RELATIVE_STRENGTH * spread / size).astype(np.float32)
  return Lists(scores, strength,
                 rng.standard_normal((batch, size), np.float32))


def reference(lists: Lists) -> tuple[np.ndarray, np.ndarray]:
  """Ranks and gradient `[B, N]` in float64, by SciPy's isotonic regression."""
  ranks = np.empty(lists.scores.shape)
  gradient = np.empty(lists.scores.shape)
  for row, order, values, blocks in _scipy_fits(lists):
    ranks[row, order] = values
    cotangent = lists.cotangent[row, order].astype(np.float64)
    sizes = np.diff(blocks)
    means = np.add.reduceat(cotangent, blocks[:-1]) / sizes
    gradient[row, order] = (
        cotangent - np.repeat(means, sizes)) / lists.strength[row]
  return ranks, gradient


def _scipy_ranks(lists: Lists) -> np.ndarray:
  """The ranks of `reference`."""
  ranks = np.empty(lists.scores.shape)
  for row, order, values, _ in _scipy_fits(lists):
    ranks[row, order] = values
  return ranks


def _scipy_fits(lists: Lists) -> Iterator[tuple[int, Any, Any, Any]]:
  """Row, order, ranks in this order and blocks of each list."""
  for row, scores in enumerate(lists.scores):
    order = np.argsort(scores)
    z = scores[order].astype(np.float64) / lists.strength[row]
    fit = optimize.isotonic_regression(z - np.arange(1, len(z) + 1))
    yield row, order, z - fit.x, fit.blocks


def find_methods(
    forms: timing_lib.Forms
) -> tuple[dict[str, Callable[[Lists], RankMethod]], list[str]]:
  """What prepares each method that runs here; a line for each that does not."""
  methods: dict[str, Callable[[Lists], RankMethod]] = {
      name: functools.partial(jitted, soft_rank, with_gradient, trace=trace)
      for name, trace in forms.items()}
  left_out = []
  try:
    methods[TORCHSORT] = _find_torchsort()
  except ImportError as error:
    left_out.append(f"{TORCHSORT} is left out: {error}. Installed by "
                    "requirements-bench.txt, as it says there.")
  methods["sequential loop"] = functools.partial(
      jitted, _sequential_rank, _sequential_with_gradient)
  if jax.default_backend() == "cpu":
    methods["scipy, float64"] = lambda lists: RankMethod(
        lambda: _scipy_ranks(lists), lambda: reference(lists))
    methods["numpy argsort"] = lambda lists: RankMethod(
        lambda: np.argsort(lists.scores), None)
  else:
    methods["copy"] = functools.partial(jitted, jnp.copy, None)
  methods["jnp.sort"] = functools.partial(jitted, jnp.sort, None)
  return methods, left_out


def jitted(
    forward: Callable[..., Any], both: Callable[..., Any] | None,
    lists: Lists, *, trace: Callable[[], Any] = contextlib.nullcontext,
) -> RankMethod:
  """A method of JAX; a floor takes the scores alone."""
  args = [jnp.asarray(array) for array in lists]
  total = 0.0

  def ready(function, some):
    nonlocal total
    with trace():
      executable, seconds = timing_lib.compiled(function, *some)
    total += seconds
    return lambda: jax.block_until_ready(executable(*some))

  if both is None:
    return RankMethod(ready(forward, args[:1]), None)
  return RankMethod(ready(forward, args[:2]), ready(both, args), total)


def soft_rank(scores: jax.Array, strength: jax.Array) -> jax.Array:
  """The soft rank of this library."""
  return hr.soft_rank(scores, strength=strength)


def with_gradient(
    scores: jax.Array, strength: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """This library's ranks, and the gradient of `sum(cotangent * ranks)`."""
  ranks, pull = jax.vjp(lambda x: soft_rank(x, strength), scores)
  return ranks, pull(cotangent)[0]


def _sequential_rank(scores: jax.Array, strength: jax.Array) -> jax.Array:
  return _sequential_with_gradient(scores, strength, scores)[0]


def _sequential_with_gradient(
    scores: jax.Array, strength: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The obvious way in JAX: pool adjacent violators, item by item."""
  order = jnp.argsort(scores, axis=-1)
  z = jnp.take_along_axis(scores, order, axis=-1) / strength
  places = jnp.arange(1, scores.shape[-1] + 1, dtype=z.dtype)
  block_of, sizes, means = _pool_adjacent_violators(z - places[None, :])
  ranks = z - means[block_of]
  moved = jnp.take_along_axis(cotangent, order, axis=-1)
  sums = jnp.zeros(sizes.shape, z.dtype).at[block_of].add(moved)
  gradient = (moved - (sums / sizes)[block_of]) / strength
  back = jnp.argsort(order, axis=-1)
  return (jnp.take_along_axis(ranks, back, axis=-1),
          jnp.take_along_axis(gradient, back, axis=-1))


def _pool_adjacent_violators(
    values: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Block `[B, N]` of items; size and mean `[B * N + 1]` of blocks, from 1."""
  size, total_size = values.shape[-1], values.size
  flat = values.reshape(-1)

  def push(i, stack):
    top, starts, sums = stack

    def violates(block):
      top, start, total = block
      mean = total / (i + 1 - start).astype(total.dtype)
      below = sums[top] / (start - starts[top]).astype(total.dtype)
      return (start % size != 0) & (below >= mean)

    def pool(block):
      top, _, total = block
      return top - 1, starts[top], total + sums[top]

    top, start, total = lax.while_loop(violates, pool, (top, i, flat[i]))
    return top + 1, starts.at[top + 1].set(start), sums.at[top + 1].set(total)

  none = jnp.full(total_size + 2, total_size, jnp.int32)
  top, starts, sums = lax.fori_loop(0, total_size, push, (
      jnp.int32(0), none, jnp.zeros(total_size + 2, flat.dtype)))
  # Popped blocks still lie above the top.
  blocks = jnp.arange(total_size + 2, dtype=jnp.int32)
  starts = jnp.where((blocks >= 1) & (blocks <= top), starts, total_size)
  is_start = jnp.zeros(total_size, jnp.int32).at[starts].set(1, mode="drop")
  sizes = jnp.maximum(starts[1:] - starts[:-1], 1).astype(flat.dtype)
  return (jnp.cumsum(is_start).reshape(values.shape), sizes,
          sums[:-1] / sizes)


def _find_torchsort() -> Callable[[Lists], RankMethod]:
  """Makes torchsort ready, where JAX runs; ImportError if it does not there."""
  import torch
  import torchsort

  device = torch.device("cpu" if jax.default_backend() == "cpu" else "cuda")
  if device.type == "cuda" and not torch.cuda.is_available():
    raise ImportError("PyTorch sees no accelerator")
  torch.set_num_threads(timing_lib.num_cores())
  torchsort.soft_rank(torch.zeros(1, 2, device=device))

  def wait(*tensors):
    if device.type == "cuda":
      torch.cuda.synchronize()
    return tensors

  def prepare(lists):
    scores, strength, cotangent = (
        torch.from_numpy(array).to(device) for array in lists)
    leaf = scores.clone().requires_grad_()

    def both():
      ranks = torchsort.soft_rank(leaf, regularization_strength=strength)
      gradient, = torch.autograd.grad(ranks, leaf, cotangent)
      return wait(ranks.detach(), gradient)

    return RankMethod(lambda: wait(torchsort.soft_rank(
        scores, regularization_strength=strength))[0], both)

  return prepare
