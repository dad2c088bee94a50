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

from experiments.benchmarks import slates_problems as problems
from experiments.benchmarks import timing as timing_lib
import harmonrank_jax as hr

PEERS = TEXTBOOK, TEXTBOOK_FLOAT32, PYVERSITY = (
    "textbook, float64", "textbook, float32", "pyversity")
# The prefilter is used from this many candidates on, and keeps this many.
_MANY_CANDIDATES, _PREFILTER = 50_000, 4096
_MAX_KERNEL_BYTES = 4e9


class SlateMethod(NamedTuple):
  """A way to select, made ready for a problem."""

  call: Callable[[], Any]
  # From its result to the items of each request in order; None if it only
  # reads.
  picks: Callable[[Any], list[np.ndarray]] | None
  compile_seconds: float = 0.0  # 0 for what is compiled already


# None where the method does not fit the problem.
Prepare = Callable[[problems.AnyProblem], SlateMethod | None]


def find_methods(
    forms: timing_lib.Forms
) -> tuple[dict[str, Prepare], list[str]]:
  """What prepares each method that runs here; a line for each that does not."""
  methods: dict[str, Prepare] = {
      named(form): functools.partial(prepare, trace=trace)
      for named, prepare in ((str, harmonrank),
                             ("{}, prefilter".format, _prefiltered),
                             (padded_name, _padded))
      for form, trace in forms.items()}
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
  """The method that pads the flow pool, in a form of this library."""
  return form.replace("harmonrank", "padded vmap")


def harmonrank(
    problem: problems.AnyProblem, *,
    trace: Callable[[], Any] = contextlib.nullcontext,
    prefilter: int | None = None, on_host: bool = False,
) -> SlateMethod:
  """The selection of this library; `on_host` with copies from and to there."""
  if isinstance(problem, problems.FlowProblem):
    size = int(np.sum(problem.quotas))
    pool = lambda *arrays: hr.flow_pool(
        *arrays, theta=problems.THETA, pool_size=size).indices
    ends = np.cumsum(problem.quotas)[:-1]
    return _jitted(pool, problem, lambda picks: np.split(picks, ends), trace)
  select = lambda features, relevance: hr.greedy_dpp(
      features, relevance, num_selected=problem.num_selected,
      theta=problems.THETA, prefilter=prefilter).indices
  return _jitted(select, problem[:2], list, trace, on_host)


def _prefiltered(
    problem: problems.AnyProblem, *, trace: Any
) -> SlateMethod | None:
  if (isinstance(problem, problems.FlowProblem)
      or problem.relevance.shape[1] < _MANY_CANDIDATES):
    return None
  return harmonrank(problem, trace=trace, prefilter=_PREFILTER)


def _padded(problem: problems.AnyProblem, *, trace: Any) -> SlateMethod | None:
  """A slate for each category: padded to one size before, cut after."""
  if not isinstance(problem, problems.FlowProblem):
    return None
  requests = problems.requests_of(problem)
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
        features, relevance, where=where, theta=problems.THETA,
        num_selected=int(np.max(problem.quotas))).indices

  return _jitted(
      jax.vmap(select), arrays,
      lambda picks: [request.items[row[:request.num_selected]]
                     for request, row in zip(requests, picks, strict=True)],
      trace)


def _jitted(
    function: Callable[..., jax.Array], arrays: Sequence[Any],
    picks: Callable[[np.ndarray], list[np.ndarray]] | None,
    trace: Callable[[], Any] = contextlib.nullcontext,
    on_host: bool = False,
) -> SlateMethod:
  """A method of JAX, on arrays that are where it runs."""
  if not on_host:
    arrays = [jnp.asarray(array) for array in arrays]
  with trace():
    executable, seconds = timing_lib.compiled(function, *arrays)
  ready = np.asarray if on_host else jax.block_until_ready
  return SlateMethod(lambda: ready(executable(*arrays)),
                picks and (lambda result: picks(np.asarray(result))), seconds)


def _of_requests(
    requests: Sequence[problems.Request], call: Callable[[], list[np.ndarray]]
) -> SlateMethod:
  """A method whose result is the places of each request's picks."""
  return SlateMethod(call, lambda picks: [
      request.items[places]
      for request, places in zip(requests, picks, strict=True)])


def _textbook(
    problem: problems.AnyProblem, *, dtype: Any
) -> SlateMethod | None:
  """Algorithm 1 of Chen et al. 2018 (arXiv 1709.05135), its kernel included."""
  requests = problems.requests_of(problem)
  most = max(len(request.items) for request in requests)
  if most**2 * np.dtype(dtype).itemsize > _MAX_KERNEL_BYTES:
    return None

  def select(request, similarity):
    weights = np.exp(problems.ALPHA * request.relevance.astype(dtype))
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
    result = []
    features = similarity = None
    for request in requests:
      if features is not request.features:
        features = request.features
        unit = problems.unit_features(features, dtype)
        similarity = unit @ unit.T
      result.append(select(request, similarity))
    return result

  return _of_requests(requests, call)


def _jitted_textbook(problem: problems.AnyProblem) -> SlateMethod | None:
  """The same algorithm written in JAX, in float32."""
  if isinstance(problem, problems.FlowProblem):
    return None
  num_requests, num_candidates = problem.relevance.shape
  if 4 * num_requests * num_candidates**2 > _MAX_KERNEL_BYTES:
    return None

  def select(features, relevance):
    unit = features / jnp.linalg.norm(features, axis=1, keepdims=True)
    weights = jnp.exp(problems.ALPHA * relevance)
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
  """Makes pyversity ready; ImportError if it is not there."""
  import pyversity

  def prepare(problem):
    requests = problems.requests_of(problem)
    scales = [pyversity_scale(request.relevance) for request in requests]
    return _of_requests(requests, lambda: [
        pyversity.dpp(request.features, request.relevance,
                      request.num_selected, diversity=0.5, scale=scale).indices
        for request, scale in zip(requests, scales, strict=True)])

  return prepare


def pyversity_scale(relevance: np.ndarray) -> float:
  """The scale at which pyversity has our kernel times a constant.

  At diversity 0.5 it weighs by `exp(0.5 scale (r - mean) / deviation)`.
  """
  epsilon = float(np.finfo(np.float32).eps)
  return 2 * problems.ALPHA * (float(np.std(relevance)) + epsilon)


def _reading(problem: problems.AnyProblem) -> SlateMethod:
  """Reads all features for each pick: only what skips some can be faster."""
  if (not isinstance(problem, problems.FlowProblem)
      and problem.features.ndim == 2):
    features, directions = problem.features, _directions(problem)
    return SlateMethod(lambda: [features @ x.T for x in directions], None)
  requests = problems.requests_of(problem)
  return SlateMethod(
      lambda: [request.features @ request.features[slot]
               for request in requests
               for slot in range(request.num_selected)], None)


def _jitted_reading(problem: problems.AnyProblem) -> SlateMethod | None:
  if isinstance(problem, problems.FlowProblem):
    return None
  product = "nd,bd->bn" if problem.features.ndim == 2 else "bnd,bd->bn"

  def read(features, directions):
    def step(_, x):
      return jnp.einsum(
          product, features, x, precision=lax.Precision.HIGHEST), None

    return lax.scan(step, jnp.zeros(problem.relevance.shape), directions)[0]

  return _jitted(read, (problem.features, _directions(problem)), None)


def _directions(problem: problems.SlateProblem) -> np.ndarray:
  """`[K, B, D]` vectors to multiply the features with, one for each pick."""
  if problem.features.ndim == 3:
    return np.ascontiguousarray(
        problem.features[:, :problem.num_selected].swapaxes(0, 1))
  shape = (problem.num_selected, len(problem.relevance), problems.NUM_FEATURES)
  return np.resize(problem.features, shape)
