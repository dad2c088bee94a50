"""The training of a ranker on multi-objective AUC, for the loop."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ranker import inputs as inputs_lib
from experiments.ranker import objectives
from experiments.runs import loop
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import splits
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import metrics
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.ensemble import training
from harmonrank_jax.serving import scorer


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a ranker is trained."""

  loss: str  # one of objectives.LOSSES
  lists: str  # one of config.LISTS
  relative_strength: float  # of the soft rank
  learning_rate: float  # of Adam, falling to 0 by a cosine
  seed: int  # of parameters and batches
  # Networks that differ in initialisation and batches; the score is the mean
  # of theirs.
  num_members: int


class MemberBatches:
  """A batch of rows for each member, as one reader deals them."""

  def __init__(
      self, reader: parquet.BatchReader, num_members: int, lists: str
  ):
    self._reader, self._num_members = reader, num_members
    self._lists = lists

  def __next__(self) -> list[ranker_lib.Rows]:
    return [inputs_lib.make_rows(next(self._reader), self._lists)
            for _ in range(self._num_members)]

  @property
  def cursor(self) -> list[int]:
    """Where the reader stands."""
    return list(self._reader.cursor)


class AucTask:
  """The training of a ranker: a `loop.Task`.

  `platt` is fitted on the sample, `score` scores rows by parameters of all
  members, `update_one` is a jitted step of one member on its rows.
  """

  def __init__(self, recipe: Recipe, inputs: inputs_lib.Inputs):
    self._recipe, self._inputs = recipe, inputs
    self._ranker = inputs.model.ranker
    self._weights = inputs.objective_weights
    self.platt = jax.jit(calibration.fit_platt)(
        inputs.sample.scores, inputs.sample.labels,
        where=inputs.sample.has_score)
    self.score = scorer.Scorer(self._ranker, self._weights)
    self._auc = jax.jit(metrics.auc)
    self._group_auc = jax.jit(metrics.group_auc)
    self.update_one = jax.jit(functools.partial(
        training.update, ranker=self._ranker,
        objective=objectives.objective_of(
            inputs.model.config.head, recipe.loss, recipe.relative_strength),
        objective_weights=jnp.asarray(self._weights), platt=self.platt,
        learning_rate=recipe.learning_rate, num_steps=inputs.num_steps))
    self._update_all = jax.jit(self._step_of_all)

  def init(self) -> loop.State:
    """Fresh parameters, or those of an earlier run; members stacked."""
    keys = jax.random.split(
        jax.random.key(self._recipe.seed), self._recipe.num_members)
    member = jax.jit(jax.vmap(self.begin))(keys)
    state = loop.State(
        member, member.params, np.float32(-1), np.int32(0))
    if self._inputs.parameters is None:
      return state
    # The base rates are those of today's rows.
    best = jax.vmap(lambda params: {**params, "network": network.with_rates(
        params["network"], self.platt)})(self._inputs.parameters)
    return state._replace(
        train=jax.vmap(training.begin)(best), best_params=best)

  def begin(self, key: jax.Array) -> training.TrainState:
    """One member before its first step."""
    rows = inputs_lib.make_rows(
        features_lib.Batch(*(x[:2] for x in self._inputs.sample)),
        self._recipe.lists)
    return training.init(key, rows, ranker=self._ranker, platt=self.platt)

  def batches(self, cursor: list[int] | None) -> MemberBatches:
    """Training rows from a cursor on: each member has its own."""
    inputs, schema = self._inputs, self._inputs.model.schema
    keep = inputs.split.rows(splits.TRAIN)
    reader = parquet.BatchReader(
        inputs.log, schema.columns,
        lambda table: features_lib.encode(
            inputs.model.features, schema, table.filter(keep(table))),
        batch_size=inputs.batch_size, seed=self._recipe.seed,
        list_of=self._list_of, cursor=parquet.Cursor(*(cursor or [0, 0, 0])))
    return MemberBatches(
        reader, self._recipe.num_members, self._recipe.lists)

  def update(
      self, state: loop.State, batch: list[ranker_lib.Rows]
  ) -> tuple[loop.State, dict[str, Any]]:
    """One step of every member; what was measured is the mean."""
    member, measured = self._update_all(state.train, batch)
    return state._replace(train=member), measured

  def _step_of_all(self, state, batch):
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *batch)
    state, measured = jax.vmap(self.update_one)(state, stacked)
    names = self._inputs.model.schema.names
    return state, {
        name: dict(zip(names, value, strict=True)) if value.ndim else value
        for name, value in jax.tree.map(
            lambda x: x.mean(axis=0), measured).items()}

  def evaluate(
      self, state: loop.State, step: int
  ) -> tuple[loop.State, dict[str, Any]]:
    """Exact AUC on validation rows, remembering the best parameters.

    The last where lists are ranked: chance exceeds the difference of steps.
    """
    rows, names = self._inputs.validation, self._inputs.model.schema.names
    scores = self.score(state.train.params, rows)
    judged = auc = np.asarray(self._auc(scores, rows.labels))
    measured = {"auc": dict(zip(names, auc, strict=True)),
                "auc_sum": np.nansum(auc)}
    if self._list_of:
      judged = np.asarray(self._group_auc(
          scores, rows.labels,
          ranker_lib.list_numbers(self._list_of(rows))).value)
      measured["group_auc"] = dict(zip(names, judged, strict=True))
    value = np.float32(np.nansum(self._weights * judged, dtype=np.float32))
    if self._list_of or value > state.best_value:
      state = state._replace(
          best_params=state.train.params, best_value=value,
          best_step=np.int32(step))
    return state, {"validation": measured}

  @property
  def _list_of(
      self
  ) -> Callable[[features_lib.Batch], np.ndarray] | None:
    if self._recipe.lists == "batch":
      return None
    return lambda batch: getattr(batch, self._recipe.lists)
