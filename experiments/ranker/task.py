"""The training of a ranker on multi-objective AUC."""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.ranker import inputs as inputs_lib
from experiments.ranker import ranker as ranker_lib
from experiments.runs import checkpoints as checkpointing
from experiments.runs import errors
from experiments.runs import logs
from experiments.runs import loop
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import metrics
from harmonrank_jax.ensemble import network


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a ranker is trained.

  Attributes:
    loss: one of `ranker.LOSSES`.
    lists: one of `config.LISTS`.
    relative_strength: of the soft rank.
    learning_rate: of Adam, falling to 0 by a cosine.
    seed: of parameters and batches.
    num_members: networks that differ in how they begin and in their batches;
      the score is the mean of theirs.
    init_from: workdir of an earlier run to start from, or None.
  """

  loss: str
  lists: str
  relative_strength: float
  learning_rate: float
  seed: int
  num_members: int
  init_from: str | None


class AucTask:
  """The training of a ranker: a `loop.Task`.

  Attributes:
    platt: fitted on the sample.
    score: scores rows by some parameters.
    update: parameters and state of the optimiser of one member, and rows, to
      these after a step, and what was measured in it; jitted.
  """

  def __init__(self, recipe: Recipe, inputs: inputs_lib.Inputs):
    self._recipe, self._inputs = recipe, inputs
    self._ranker = inputs.model.ranker
    self._weights = inputs.objective_weights
    self.platt = jax.jit(calibration.fit_platt)(
        inputs.sample.scores, inputs.sample.labels,
        where=inputs.sample.has_score)
    self.score = ranker_lib.Scorer(self._ranker, self._weights)
    self._auc = jax.jit(metrics.auc)
    self._group_auc = jax.jit(metrics.group_auc)
    self._optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(
            recipe.learning_rate, inputs.num_steps)))
    self.update = self._make_update()
    self._update_all = jax.jit(self._step_of_all)
    self.seek([0, 0, 0])

  def init(self) -> loop.State:
    """Fresh parameters, or those of the run to start from; members stacked."""
    keys = jax.random.split(
        jax.random.key(self._recipe.seed), self._recipe.num_members)
    params, opt_state = jax.jit(jax.vmap(self.begin))(keys)
    state = loop.State(params, opt_state, params, np.float32(-1), np.int32(0))
    if self._recipe.init_from is None:
      return state
    checkpoints = checkpointing.Checkpoints(
        pathlib.Path(self._recipe.init_from) / "checkpoints", read_only=True)
    earlier = checkpoints.restore(state)
    checkpoints.close()
    if earlier is None:
      raise errors.UserError(
          f"--init_from={self._recipe.init_from}: there is no checkpoint.")
    # The base rates are today's.
    best = jax.vmap(lambda params: {**params, "network": network.with_rates(
        params["network"], self.platt)})(earlier[1].best_params)
    return state._replace(params=best, best_params=best)

  def begin(self, key: jax.Array) -> tuple[dict[str, Any], Any]:
    """Fresh parameters and state of the optimiser of one member."""
    rows = self._rows(features_lib.Batch(*(
        x[:2] for x in self._inputs.sample)))
    params = self._ranker.init(key, rows, self.platt)
    return params, self._optimizer.init(params)

  def step(self, state: loop.State) -> tuple[loop.State, dict[str, Any]]:
    """One batch for each member: what they err by is then their own."""
    rows = [self._rows(next(self._reader))
            for _ in range(self._recipe.num_members)]
    params, opt_state, measured = self._update_all(
        state.params, state.opt_state, rows)
    return state._replace(params=params, opt_state=opt_state), measured

  def _step_of_all(self, params, opt_state, rows):
    """`update` of every member on its rows; what was measured is the mean."""
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *rows)
    params, opt_state, measured = jax.vmap(self.update)(
        params, opt_state, stacked)
    return params, opt_state, jax.tree.map(lambda x: x.mean(axis=0), measured)

  def evaluate(
      self, state: loop.State, step: int
  ) -> tuple[loop.State, dict[str, Any]]:
    """Exact AUC on validation rows, remembering the best parameters.

    Of lists, the last ones: within lists a few positives decide, whose chance
    is larger than what steps differ by.
    """
    rows = self._inputs.validation
    names = self._inputs.model.schema.names
    scores = self.score(state.params, rows)
    auc = np.asarray(self._auc(scores, rows.labels))
    found = {"auc": dict(zip(names, auc, strict=True)),
             "auc_sum": np.nansum(auc)}
    judged = auc
    if self._list_of:
      judged = np.asarray(self._group_auc(
          scores, rows.labels,
          ranker_lib.list_numbers(self._list_of(rows))).value)
      found["group_auc"] = dict(zip(names, judged, strict=True))
    value = np.float32(np.nansum(self._weights * judged, dtype=np.float32))
    if self._list_of or value > state.best_value:
      state = state._replace(best_params=state.params, best_value=value,
                             best_step=np.int32(step))
    return state, {"validation": found}

  @property
  def cursor(self) -> list[int]:
    """Where the reader stands."""
    return list(self._reader.cursor)

  def seek(self, cursor: list[int]) -> None:
    """Reads on from there."""
    inputs, schema = self._inputs, self._inputs.model.schema
    keep = inputs.split.rows(logs.TRAIN)
    self._reader = parquet.BatchReader(
        inputs.log, schema.columns,
        lambda table: features_lib.encode(
            inputs.model.features, schema, table.filter(keep(table))),
        batch_size=inputs.batch_size, seed=self._recipe.seed,
        list_of=self._list_of, cursor=parquet.Cursor(*cursor))

  @property
  def _list_of(
      self
  ) -> Callable[[features_lib.Batch], np.ndarray] | None:
    if self._recipe.lists == "batch":
      return None
    return lambda batch: getattr(batch, self._recipe.lists)

  def _rows(self, batch: features_lib.Batch) -> ranker_lib.Rows:
    lists = self._list_of(batch) if self._list_of else None
    return ranker_lib.rows_of(batch, lists)

  def _make_update(self):
    loss_fn = ranker_lib.make_loss(
        self._ranker, self._recipe.loss, self._weights, self.platt,
        relative_strength=self._recipe.relative_strength)
    names = self._inputs.model.schema.names

    @jax.jit
    def update(params, opt_state, rows):
      (loss, diagnostics), gradients = jax.value_and_grad(
          loss_fn, has_aux=True)(params, rows)
      updates, opt_state = self._optimizer.update(gradients, opt_state)
      measured = {
          name: dict(zip(names, value, strict=True)) if value.ndim else value
          for name, value in diagnostics.items()}
      return (optax.apply_updates(params, updates), opt_state,
              {"loss": loss, **measured})

    return update
