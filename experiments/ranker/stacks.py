"""A stack of rankers trained side by side in one compiled run.

The members of a stack share network, loss and rows; seeds, learning rates and
the worth of objectives differ from member to member. Rows are in memory: this
is for comparing methods, not for logs of any size, which `task` streams.
"""

from collections.abc import Callable
import dataclasses
import functools
import time
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ranker import inputs as inputs_lib
from experiments.ranker import objectives
from experiments.runs import configs
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import metrics
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.ensemble import training as training_lib

# Looks at the validation rows, the last step among them.
_NUM_LOOKS = 6


class Members(NamedTuple):
  """What differs within a stack of S rankers."""

  seeds: np.ndarray  # [S] integers, of parameters and batches
  learning_rates: np.ndarray  # [S] float32, of Adam, falling to 0 by a cosine
  objective_weights: np.ndarray  # [S, M] float32


@dataclasses.dataclass(frozen=True)
class Training:
  """What a stack has in common."""

  loss: str  # one of objectives.LOSSES
  # "batch", or "user" or "request": what is ranked against what.
  lists: str = "batch"
  relative_strength: float = 2.0
  # Rows of a step; as many as there are, at most.
  batch_size: int = configs.DEFAULT_BATCH_SIZE
  num_steps: int = 300  # of training, rounded up to a multiple of the looks


class Stack(NamedTuple):
  """Trained rankers, best on validation rows; where lists are ranked, last."""

  params: Any  # leaves of [S, ...]
  # [S] their weighted validation AUC, within lists where lists are ranked;
  # minus infinity where the training diverged.
  value: np.ndarray
  step: np.ndarray  # [S] where that was
  seconds: float  # of training, with compilation, without validation
  # On its rank loss while it was trained, see `objectives.remark`.
  remark: str | None = None


def fit(
    ranker: ranker_lib.Ranker,
    training: Training,
    members: Members,
    rows: features_lib.Batch,
    validation: features_lib.Batch,
    platt: calibration.Calibration,
    *,
    capacity: int = 1,
) -> Stack:
  """Trains a stack; validation rows choose the step whose parameters are kept.

  Stacks whose training rows fit into `capacity` share one shape, and are
  compiled once.
  """
  size = min(training.batch_size, len(rows.labels))
  # As many steps between two looks: one compilation.
  between = -(-training.num_steps // _NUM_LOOKS)
  total = between * _NUM_LOOKS
  orders = [_order(rows, training.lists, seed) for seed in members.seeds]
  held, checked = (inputs_lib.make_rows(part, training.lists)
                   for part in (rows, validation))
  held = _padded(held, capacity)
  where = jnp.arange(_size(len(validation.labels))) < len(validation.labels)
  checked = _padded(checked)
  objective = objectives.objective_of(
      ranker.config.head, training.loss, training.relative_strength)
  state = _start(
      members, jax.tree.map(lambda x: x[:2], held), platt, ranker=ranker)
  validate = lambda params: np.asarray(_validate(
      params, members.objective_weights, checked, where, ranker=ranker))
  best = validate(state.params)
  best_params, best_step = state.params, np.zeros(len(members.seeds), int)
  is_finite = np.full(len(members.seeds), True)
  seconds, remark = 0.0, None
  for first in range(0, total, between):
    last = first + between
    chosen = np.stack([order(first * size, last * size) for order in orders])
    index = jnp.asarray(chosen.reshape(len(orders), between, size))
    began = time.perf_counter()
    state, measured = jax.block_until_ready(
        _train(state, members, index, held, platt, total, ranker=ranker,
               objective=objective))
    seconds += time.perf_counter() - began
    value = validate(state.params)
    is_finite &= np.isfinite(measured["loss"]).all(axis=1)
    remark = remark or objectives.remark(
        {name: np.mean(x, axis=(0, 1)) for name, x in measured.items()})
    # Within lists a few positives decide, whose chance is larger than what
    # steps differ by: not the best on validation rows, but the last, at which
    # the rate is 0.
    is_better = ((value > best) | (held.lists is not None)) & is_finite
    best = np.where(is_better, value, best)
    best_step = np.where(is_better, last, best_step)
    best_params = _chosen(is_better, state.params, best_params)
  return Stack(
      best_params, np.where(is_finite, best, -np.inf), best_step, seconds,
      remark)


def score(
    ranker: ranker_lib.Ranker, params: Any, objective_weights: np.ndarray,
    batch: features_lib.Batch,
) -> np.ndarray:
  """`[S, N]` scores by stacked parameters; weights `[S, M]` or `[M]`."""
  shape = (len(jax.tree.leaves(params)[0]), batch.labels.shape[1])
  weights = jnp.broadcast_to(jnp.asarray(objective_weights), shape)
  rows = _padded(ranker_lib.rows_of(batch))
  return np.asarray(_score(ranker, params, weights, rows))[
      :, :len(batch.labels)]


def probabilities(
    ranker: ranker_lib.Ranker, params: Any, batch: features_lib.Batch
) -> np.ndarray:
  """`[S, N, M]` corrected probabilities of the aligned head."""
  rows = _padded(ranker_lib.rows_of(batch))
  return np.asarray(_probabilities(ranker, params, rows))[
      :, :len(batch.labels)]


def _chosen(mask: np.ndarray, params: Any, others: Any) -> Any:
  """Members where the mask says so, else others."""
  return jax.tree.map(
      lambda one, other: jnp.where(
          mask.reshape((-1,) + (1,) * (one.ndim - 1)), one, other),
      params, others)


def take(params: Any, members: np.ndarray | slice) -> Any:
  """Some members of a stack."""
  return jax.tree.map(lambda x: x[members], params)


@functools.partial(jax.jit, static_argnums=0)
def _score(ranker, params, weights, rows):
  return jax.lax.map(
      lambda each: ranker.score(each[0], rows, each[1]), (params, weights))


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(ranker, params, rows):
  return jax.lax.map(
      lambda each: jax.nn.sigmoid(ranker.objective_logits(each, rows)), params)


def _size(num_rows: int) -> int:
  """A power of two: parts of about one size share a compilation."""
  return 1 << (num_rows - 1).bit_length()


def _padded(rows: ranker_lib.Rows, at_least: int = 1) -> ranker_lib.Rows:
  """More rows, which nothing reads."""
  num_rows = len(rows.labels)
  missing = _size(max(num_rows, at_least)) - num_rows
  return jax.tree.map(lambda x: jnp.pad(
      x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)), rows)


def _order(
    rows: features_lib.Batch, lists: str, seed: int
) -> Callable[[int, int], np.ndarray]:
  """Rows from one place of an endless stream to another; lists stay whole."""
  num_rows = len(rows.labels)
  ids = (np.arange(num_rows) if lists == "batch" else
         ranker_lib.list_numbers(getattr(rows, lists)))
  by_list = np.argsort(ids, kind="stable")
  counts = np.bincount(ids)
  starts = np.cumsum(counts) - counts

  @functools.lru_cache(2)
  def dealt(number: int) -> np.ndarray:
    rng = np.random.default_rng([int(seed), number])
    lists_dealt = rng.permutation(len(counts))
    lengths = counts[lists_dealt]
    ends = np.cumsum(lengths)
    places = np.arange(num_rows) - np.repeat(ends - lengths, lengths)
    return by_list[np.repeat(starts[lists_dealt], lengths) + places].astype(
        np.int32)

  def part(first: int, last: int) -> np.ndarray:
    passes = [dealt(number) for number in range(
        first // num_rows, -(-last // num_rows))]
    offset = first - first % num_rows
    return np.concatenate(passes)[first - offset:last - offset]

  return part


@functools.partial(jax.jit, static_argnames="ranker")
def _start(
    members: Members, rows: ranker_lib.Rows, platt: calibration.Calibration, *,
    ranker: ranker_lib.Ranker,
) -> training_lib.TrainState:
  """Members before their first step."""
  return jax.vmap(lambda seed: training_lib.init(
      jax.random.key(seed), rows, ranker=ranker, platt=platt))(
          jnp.asarray(members.seeds))


@functools.partial(jax.jit, static_argnames=("ranker", "objective"))
def _train(
    state: training_lib.TrainState, members: Members, index: jax.Array,
    rows: ranker_lib.Rows, platt: calibration.Calibration,
    num_steps: jax.Array, *, ranker: ranker_lib.Ranker,
    objective: Callable[..., Any],
) -> tuple[training_lib.TrainState, dict[str, jax.Array]]:
  """Steps on the rows `[S, steps, batch]`; measured is `[S, steps, ...]`."""

  def train_one(state, member, index):
    def step(state, chosen):
      state, measured = training_lib.update(
          state, jax.tree.map(lambda x: x[chosen], rows), ranker=ranker,
          objective=objective, objective_weights=member.objective_weights,
          platt=platt, learning_rate=member.learning_rates,
          num_steps=num_steps)
      return state, measured

    return jax.lax.scan(step, state, index)

  return jax.vmap(train_one)(state, members, index)


@functools.partial(jax.jit, static_argnames="ranker")
def _validate(
    params: Any, weights: jax.Array, rows: ranker_lib.Rows, where: jax.Array,
    *, ranker: ranker_lib.Ranker,
) -> jax.Array:
  """`[S]` weighted AUC on rows, within lists if they have any."""

  def validate_one(each):
    params, weights = each
    scores = ranker.score(params, rows, weights)
    auc = (metrics.auc(scores, rows.labels, where=where)
           if rows.lists is None else metrics.group_auc(
               scores, rows.labels, rows.lists, where=where).value)
    return jnp.nansum(weights * auc)

  return jax.lax.map(validate_one, (params, weights))
