"""Ways to select by a DPP: this library's, its peers', and mere reading."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing as benchmarking
import harmonrank_jax as hr

NUM_FEATURES = 64
THETA = 0.5
PEERS = TEXTBOOK, TEXTBOOK_FLOAT32, PYVERSITY = (
    "textbook, float64", "textbook, float32", "pyversity")
_ALPHA = THETA / (2 * (1 - THETA))
_NUM_TOPICS = 32
# Of a category, of that before it.
_SHRINKAGE = 0.8
# From this many candidates on the most relevant ones are looked at first.
_MANY_CANDIDATES, _PREFILTER = 50_000, 4096
_MAX_KERNEL_BYTES = 4e9


class Problem(NamedTuple):
  """B requests that select K of N candidates each.

  Attributes:
    features: `[B, N, D]` float32, of any length; `[N, D]` if requests share
      their candidates.
    relevance: `[B, N]` float32, on a log scale.
    num_selected: K.
  """

  features: np.ndarray
  relevance: np.ndarray
  num_selected: int


class FlowProblem(NamedTuple):
  """Candidates of C categories that each select their quota.

  Attributes:
    features: `[N, D]` float32.
    relevance: `[N]` float32.
    category_ids: `[N]` int32, in no order.
    quotas: `[C]` int32.
  """

  features: np.ndarray
  relevance: np.ndarray
  category_ids: np.ndarray
  quotas: np.ndarray


class Request(NamedTuple):
  """One selection, for methods that know no batch.

  Attributes:
    features: `[N, D]`.
    relevance: `[N]`.
    num_selected: K.
    items: `[N]`, what its candidates are called.
  """

  features: np.ndarray
  relevance: np.ndarray
  num_selected: int
  items: np.ndarray


class Method(NamedTuple):
  """A way to select, made ready for a problem.

  Attributes:
    call: selects.
    picks: from its result to the items of each request, in order; None for a
      method that only reads.
    compile_seconds: 0 for what is compiled already.
  """

  call: Callable[[], Any]
  picks: Callable[[Any], list[np.ndarray]] | None
  compile_seconds: float = 0.0


AnyProblem = Problem | FlowProblem
# None is for what the method cannot do.
Prepare = Callable[[AnyProblem], Method | None]


def make_problem(
    num_requests: int, num_candidates: int, num_selected: int, seed: int,
    *, shared: bool = False,
) -> Problem:
  """Candidates that gather about topics, of normal relevance."""
  rng = np.random.default_rng(seed)
  relevance = rng.standard_normal((num_requests, num_candidates), np.float32)
  lists = () if shared else (num_requests,)
  return Problem(_features((*lists, num_candidates), rng), relevance,
                 num_selected)


def make_flow_problem(
    num_categories: int, num_candidates: int, num_selected: int, seed: int
) -> FlowProblem:
  """Each category a fifth smaller than the one before, quotas as the sizes."""
  rng = np.random.default_rng(seed)
  sizes = hr.allocate_quotas(
      _SHRINKAGE ** jnp.arange(num_categories), total=num_candidates)
  quotas = hr.allocate_quotas(sizes, total=num_selected, stock=sizes)
  ids = np.repeat(np.arange(num_categories, dtype=np.int32), sizes)
  return FlowProblem(
      _features((num_candidates,), rng),
      rng.standard_normal(num_candidates, np.float32),
      rng.permutation(ids), np.asarray(quotas))


def _features(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  topics = rng.standard_normal((_NUM_TOPICS, NUM_FEATURES), np.float32)
  features = rng.standard_normal((*shape, NUM_FEATURES), np.float32)
  features += topics[rng.integers(_NUM_TOPICS, size=shape)]
  return features


def requests_of(problem: AnyProblem) -> list[Request]:
  """The selections of a problem, one by one."""
  if isinstance(problem, FlowProblem):
    chosen = [np.flatnonzero(problem.category_ids == category)
              for category in range(len(problem.quotas))]
    return [Request(problem.features[items], problem.relevance[items],
                    int(quota), items)
            for items, quota in zip(chosen, problem.quotas, strict=True)]
  items = np.arange(problem.relevance.shape[1])
  return [Request(problem.features if problem.features.ndim == 2
                  else problem.features[row], relevance,
                  problem.num_selected, items)
          for row, relevance in enumerate(problem.relevance)]


def reference(request: Request) -> np.ndarray:
  """The picks in float64, in logarithms and without a kernel, -1 for none."""
  unit = _unit(request.features, np.float64)
  left = np.ones(len(unit))
  relevance = 2 * _ALPHA * request.relevance.astype(np.float64)
  factors = np.zeros((request.num_selected, len(unit)))
  picks = np.full(request.num_selected, -1)
  for slot in range(request.num_selected):
    positive = left > 1e-10
    if not np.any(positive):
      break
    keys = np.where(positive, relevance + np.log(np.where(positive, left, 1)),
                    -np.inf)
    best = np.argmax(keys)
    picks[slot] = request.items[best]
    factors[slot] = (unit @ unit[best] - factors[:slot, best] @ factors[:slot]
                     ) / np.sqrt(left[best])
    left -= factors[slot]**2
    left[best] = 0
  return picks


def find_methods() -> tuple[dict[str, Prepare], list[str]]:
  """Methods that can run here, and a line for each that cannot."""
  forms = benchmarking.forms()
  methods: dict[str, Prepare] = {
      name: functools.partial(harmonrank, trace=trace)
      for name, trace in forms.items()}
  for name, trace in forms.items():
    methods[f"{name}, prefilter"] = functools.partial(
        _prefiltered, trace=trace)
  for name, trace in forms.items():
    methods[padded_name(name)] = functools.partial(_padded, trace=trace)
  methods[TEXTBOOK] = functools.partial(_textbook, dtype=np.float64)
  methods[TEXTBOOK_FLOAT32] = functools.partial(_textbook, dtype=np.float32)
  methods["textbook, jitted"] = _jitted_textbook
  left_out = []
  try:
    methods[PYVERSITY] = _find_pyversity()
  except ImportError as error:
    left_out.append(f"{PYVERSITY} is left out: {error}. Installed by "
                    "requirements-bench.txt.")
  methods["reading, numpy"] = _reading
  methods["reading, jitted"] = _jitted_reading
  return methods, left_out


def padded_name(form: str) -> str:
  """Of the padded flow pool in that form of this library."""
  return form.replace("harmonrank", "padded vmap")


def harmonrank(
    problem: AnyProblem, *,
    trace: Callable[[], Any] = contextlib.nullcontext,
    prefilter: int | None = None,
    on_host: bool = False,
) -> Method:
  """This library's; `on_host`, arrays come from the host and go to it."""
  if isinstance(problem, FlowProblem):
    size = int(np.sum(problem.quotas))
    pool = lambda *arrays: hr.flow_pool(
        *arrays, theta=THETA, pool_size=size).indices
    ends = np.cumsum(problem.quotas)[:-1]
    return _jitted(pool, problem, lambda found: np.split(found, ends), trace)
  select = lambda features, relevance: hr.greedy_dpp(
      features, relevance, num_selected=problem.num_selected, theta=THETA,
      prefilter=prefilter).indices
  return _jitted(select, problem[:2], list, trace, on_host)


def _prefiltered(problem: AnyProblem, *, trace: Any) -> Method | None:
  if (isinstance(problem, FlowProblem)
      or problem.relevance.shape[1] < _MANY_CANDIDATES):
    return None
  return harmonrank(problem, trace=trace, prefilter=_PREFILTER)


def _padded(problem: AnyProblem, *, trace: Any) -> Method | None:
  """A slate for each category, all of one size; padded before, cut after."""
  if not isinstance(problem, FlowProblem):
    return None
  requests = requests_of(problem)
  size = max(len(request.items) for request in requests)
  pad = lambda array: np.pad(
      array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))
  arrays = [
      np.stack([pad(array) for array in arrays]) for arrays in (
          [request.features for request in requests],
          [request.relevance for request in requests],
          [np.ones(len(request.items), bool) for request in requests])]

  def select(features, relevance, where):
    return hr.greedy_dpp(
        features, relevance, where=where, theta=THETA,
        num_selected=int(np.max(problem.quotas))).indices

  return _jitted(
      jax.vmap(select), arrays,
      lambda found: [request.items[row[:request.num_selected]]
                     for request, row in zip(requests, found, strict=True)],
      trace)


def _jitted(
    function: Callable[..., jax.Array],
    arrays: Sequence[Any],
    picks: Callable[[np.ndarray], list[np.ndarray]] | None,
    trace: Callable[[], Any] = contextlib.nullcontext,
    on_host: bool = False,
) -> Method:
  """A method of JAX, on arrays that are where it runs."""
  if not on_host:
    arrays = [jnp.asarray(array) for array in arrays]
  with trace():
    executable, seconds = benchmarking.compiled(function, *arrays)
  ready = np.asarray if on_host else jax.block_until_ready
  return Method(lambda: ready(executable(*arrays)),
                picks and (lambda found: picks(np.asarray(found))), seconds)


def _of_requests(
    requests: Sequence[Request], call: Callable[[], list[np.ndarray]]
) -> Method:
  """A method whose result is the places of each request's picks."""
  return Method(call, lambda found: [
      request.items[places]
      for request, places in zip(requests, found, strict=True)])


def _textbook(problem: AnyProblem, *, dtype: Any) -> Method | None:
  """The algorithm as published, its kernel included.

  Chen, Zhang and Zhou 2018 (arXiv 1709.05135), algorithm 1. Similarities of a
  shared pool are computed once.
  """
  requests = requests_of(problem)
  most = max(len(request.items) for request in requests)
  if most**2 * np.dtype(dtype).itemsize > _MAX_KERNEL_BYTES:
    return None

  def select(request, similarity):
    weights = np.exp(_ALPHA * request.relevance.astype(dtype))
    kernel = similarity * weights
    kernel *= weights[:, None]
    left = kernel.diagonal().copy()
    factors = np.zeros((request.num_selected, len(kernel)), dtype)
    picks = np.empty(request.num_selected, np.int64)
    for slot in range(request.num_selected):
      best = picks[slot] = np.argmax(left)
      factors[slot] = (kernel[best] - factors[:slot, best] @ factors[:slot]
                       ) / np.sqrt(left[best])
      left -= factors[slot]**2
      left[best] = -np.inf
    return picks

  def call():
    found = []
    features = similarity = None
    for request in requests:
      if features is not request.features:
        features = request.features
        unit = _unit(features, dtype)
        similarity = unit @ unit.T
      found.append(select(request, similarity))
    return found

  return _of_requests(requests, call)


def _unit(features: np.ndarray, dtype: Any) -> np.ndarray:
  features = features.astype(dtype)
  return features / np.linalg.norm(features, axis=1, keepdims=True)


def _jitted_textbook(problem: AnyProblem) -> Method | None:
  """The same in JAX, in float32, as one writes it first."""
  if isinstance(problem, FlowProblem):
    return None
  num_requests, num_candidates = problem.relevance.shape
  if 4 * num_requests * num_candidates**2 > _MAX_KERNEL_BYTES:
    return None

  def select(features, relevance):
    unit = features / jnp.linalg.norm(features, axis=1, keepdims=True)
    weights = jnp.exp(_ALPHA * relevance)
    kernel = jnp.outer(weights, weights) * jnp.matmul(
        unit, unit.T, precision=lax.Precision.HIGHEST)

    def step(carry, slot):
      factors, left = carry
      best = jnp.argmax(left)
      row = (kernel[best] - jnp.matmul(
          factors[:, best], factors, precision=lax.Precision.HIGHEST)
             ) / jnp.sqrt(left[best])
      left = (left - row**2).at[best].set(-jnp.inf)
      return (factors.at[slot].set(row), left), best

    factors = jnp.zeros((problem.num_selected, num_candidates))
    return lax.scan(step, (factors, jnp.diagonal(kernel)),
                    jnp.arange(problem.num_selected))[1]

  axes = (None if problem.features.ndim == 2 else 0, 0)
  return _jitted(jax.vmap(select, axes), problem[:2], list)


def _find_pyversity() -> Prepare:
  """Makes pyversity ready.

  Raises:
    ImportError: if it is not there.
  """
  import pyversity

  def prepare(problem):
    requests = requests_of(problem)
    scales = [pyversity_scale(request.relevance) for request in requests]
    return _of_requests(requests, lambda: [
        pyversity.dpp(request.features, request.relevance,
                      request.num_selected, diversity=0.5, scale=scale).indices
        for request, scale in zip(requests, scales, strict=True)])

  return prepare


def pyversity_scale(relevance: np.ndarray) -> float:
  """With which, at diversity 0.5, its kernel is ours times a constant.

  It weighs by `exp(0.5 scale (r - mean) / deviation)`; a constant factor of
  the kernel changes no pick.
  """
  epsilon = float(np.finfo(np.float32).eps)
  return 2 * _ALPHA * (float(np.std(relevance)) + epsilon)


def _reading(problem: AnyProblem) -> Method:
  """The features once for each request and pick.

  Faster is only who need not read all: by bounds on keys, or a cache.
  """
  if not isinstance(problem, FlowProblem) and problem.features.ndim == 2:
    features, directions = problem.features, _directions(problem)
    return Method(lambda: [features @ x.T for x in directions], None)
  requests = requests_of(problem)
  return Method(
      lambda: [request.features @ request.features[slot]
               for request in requests
               for slot in range(request.num_selected)], None)


def _jitted_reading(problem: AnyProblem) -> Method | None:
  if isinstance(problem, FlowProblem):
    return None
  product = "nd,bd->bn" if problem.features.ndim == 2 else "bnd,bd->bn"

  def read(features, directions):
    def step(_, x):
      return jnp.einsum(
          product, features, x, precision=lax.Precision.HIGHEST), None

    return lax.scan(step, jnp.zeros(problem.relevance.shape), directions)[0]

  return _jitted(read, (problem.features, _directions(problem)), None)


def _directions(problem: Problem) -> np.ndarray:
  """`[K, B, D]`, something to multiply features with in every slot."""
  if problem.features.ndim == 3:
    return np.ascontiguousarray(
        problem.features[:, :problem.num_selected].swapaxes(0, 1))
  count = problem.num_selected * len(problem.relevance)
  return np.resize(problem.features, (
      count, NUM_FEATURES)).reshape(problem.num_selected, -1, NUM_FEATURES)
