"""Trains a HarmonRank ensemble on multi-objective AUC and evaluates it.

    python -m experiments.train_auc                     # the embedded log
    python -m experiments.train_auc --data=log.parquet

A log has a column <objective> of labels and score_<objective> of predicted
scores for each objective; every column that is no id is profile.

Beside the ensemble stand, on the same held-out rows, each objective's own
score, equal and tuned weighted sums, a tuned weighted product, and the closed
form on Platt-calibrated scores. Results go to --workdir; the same command
again goes on where it stopped.
"""

import dataclasses
import pathlib
from typing import Any
from typing import NamedTuple

from absl import flags as absl_flags
import jax
import numpy as np
import optax

from experiments.common import checkpointing
from experiments.common import flags
from experiments.common import logs
from experiments.common import loop
from experiments.common import ranker as ranker_lib
from experiments.common import results
from experiments.common import workdir as workdir_lib
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import generator
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import metrics
from harmonrank_jax.ensemble import network

LISTS = ("batch", "user", "request")
_DEFAULT_BATCH_SIZE = 4096
# More passes learn profiles by heart where these tell users apart.
_DEFAULT_PASSES, _MAX_DEFAULT_STEPS = 10, 10_000
# Rows that a slope and an offset per objective are fitted on, at most.
_PLATT_ROWS = 2_000_000


@dataclasses.dataclass(frozen=True)
class Config:
  """What a run depends on: the flags of these names."""

  data: str | None = None
  eval_data: str | None = None
  schema: str | None = None
  objectives: tuple[str, ...] | None = None
  head: str = "aligned"
  loss: str = "soft_auc"
  lists: str = "batch"
  relative_strength: float = 2.0
  objective_weights: tuple[float, ...] | None = None
  batch_size: int | None = None
  num_steps: int | None = None
  learning_rate: float = 3e-3
  seed: int = 0
  init_from: str | None = None
  token_size: int = 16
  relation_aware: bool = True
  relation_agnostic: bool = True
  self_attention: bool = True
  slice_by: str | None = None
  num_exposures: int = 200_000
  log_seed: int = 0
  world: str = "default"


class Inputs(NamedTuple):
  """What is trained and evaluated on.

  Attributes:
    model: network, schema and features.
    log: to train on, with its split.
    split: of `log`.
    eval_log: to test on; `log` where its last part is held out.
    batch_size: rows of a step.
    num_steps: of training.
    objective_weights: `[M]` float32.
    sample: training rows, or some of very many.
    validation: rows to choose by.
  """

  model: ranker_lib.Model
  log: parquet.ParquetLog
  split: logs.Split
  eval_log: parquet.ParquetLog
  batch_size: int
  num_steps: int
  objective_weights: np.ndarray
  sample: features_lib.Batch
  validation: features_lib.Batch


def train(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains, evaluates and writes everything there is to see of a run.

  Args:
    config: what the run depends on.
    workdir: where it goes; a run of the same configuration there is resumed.

  Returns:
    The content of `summary.json`.

  Raises:
    UserError: if the configuration does not fit the data or the workdir.
    DataError: if the data is not what it should be.
    StoppedError: on Ctrl-C or SIGTERM, after a checkpoint.
  """
  workdir = pathlib.Path(workdir)
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    inputs = read_inputs(config, workdir)
  ranker_lib.write_model(workdir, inputs.model)
  task = AucTask(config, inputs)
  fitted = loop.fit(
      task, workdir, num_steps=inputs.num_steps,
      examples_per_step=inputs.batch_size)
  test = read_test(config, inputs)
  return results.publish(
      workdir, results.Run(
          config=dataclasses.asdict(config), schema=inputs.model.schema,
          platt=task.platt, num_steps=inputs.num_steps,
          best_step=int(fitted.state.best_step),
          objective_weights=inputs.objective_weights,
          score=lambda batch: task.score(fitted.state.best_params, batch),
          sample=inputs.sample, validation=inputs.validation,
          test=test.batch, truth=test.truth, slices=test.slices,
          examples_per_second=fitted.steps_per_second * inputs.batch_size))


def read_inputs(config: Config, workdir: pathlib.Path) -> Inputs:
  """Opens, checks and splits the logs; fits the features."""
  data: str | pathlib.Path | None = config.data
  roles: schema_lib.Schema | str | None = config.schema
  if data is None:
    data = logs.write_embedded_log(workdir, generator.LogConfig(
        config.num_exposures, config.log_seed, config.world))
    roles = logs.EMBEDDED_SCHEMA
  log, schema = logs.open_log(data, roles)
  if config.objectives:
    schema = schema.with_objectives(config.objectives)
  _check_config(config, schema)
  parquet.check_log(log, schema)
  eval_log = log
  if config.eval_data:
    eval_log, _ = logs.open_log(config.eval_data, schema)
    parquet.check_log(eval_log, schema)
  split = logs.split_log(log, schema, hold_out=config.eval_data is None)
  logs.announce(schema, split)
  num_train = split.num_rows[logs.TRAIN]
  if config.batch_size and config.batch_size > num_train:
    raise flags.UserError(
        f"--batch_size={config.batch_size} is larger than the data: "
        f"{num_train:,} rows to train on.")
  model = _make_model(config, schema, log, split)
  stride = -(-num_train // _PLATT_ROWS)
  in_sample = lambda table: split.rows(logs.TRAIN)(table) & (
      np.arange(table.num_rows) % stride == 0)
  read = lambda keep: features_lib.encode(
      model.features, schema, logs.read_rows(log, schema.columns, keep))
  batch_size = config.batch_size or min(_DEFAULT_BATCH_SIZE, num_train)
  passes = -(-_DEFAULT_PASSES * num_train // batch_size)
  return Inputs(
      model, log, split, eval_log, batch_size,
      config.num_steps or min(passes, _MAX_DEFAULT_STEPS),
      np.asarray(config.objective_weights or [1.0] * len(schema.objectives),
                 np.float32),
      read(in_sample), read(split.rows(logs.VALIDATION)))


def _check_config(config: Config, schema: schema_lib.Schema) -> None:
  """Flags against the columns there are."""
  for objective in schema.objectives:
    if not objective.score:
      raise flags.UserError(
          f"objective {objective.name!r} has no score column; python -m "
          "experiments.train_predictor makes one for each objective.")
  for role in ("user", "request"):
    if config.lists == role and getattr(schema, role) is None:
      raise flags.UserError(
          f"--lists={role} needs a column of {role}s; the data has none.")
  weights = config.objective_weights
  if weights is not None and len(weights) != len(schema.objectives):
    raise flags.UserError(
        f"--objective_weights has {len(weights)} values; there are "
        f"{len(schema.objectives)} objectives: {', '.join(schema.names)}.")
  profile = (*schema.categorical, *schema.numeric)
  if config.slice_by and config.slice_by not in profile:
    raise flags.UserError(
        f"--slice_by={config.slice_by} is no profile column"
        f"{schema_lib.nearest(config.slice_by, profile)}; there are "
        f"{', '.join(profile) or 'none'}.")


def _make_model(
    config: Config, schema: schema_lib.Schema, log: parquet.ParquetLog,
    split: logs.Split,
) -> ranker_lib.Model:
  """The model to be trained; features of a warm start are the earlier ones."""
  names = [field.name for field in dataclasses.fields(network.HarmonRankConfig)
           if hasattr(config, field.name)]
  try:
    network_config = network.HarmonRankConfig(
        len(schema.objectives),
        **{name: getattr(config, name) for name in names})
  except ValueError as error:
    raise flags.UserError(str(error)) from None
  if config.init_from is None:
    features = features_lib.fit_features(log, schema, split.rows(logs.TRAIN))
    return ranker_lib.Model(network_config, schema, features)
  earlier = ranker_lib.read_model(pathlib.Path(config.init_from))
  model = ranker_lib.Model(network_config, schema, earlier.features)
  for what, ours, theirs in (
      ("network", model.config, earlier.config),
      ("objectives", schema.names, earlier.schema.names),
      ("categorical columns", schema.categorical, earlier.schema.categorical),
      ("numeric columns", schema.numeric, earlier.schema.numeric)):
    if ours != theirs:
      raise flags.UserError(
          f"--init_from={config.init_from}: its {what} are {theirs}, here "
          f"they are {ours}.")
  return model


class Test(NamedTuple):
  """Held-out rows.

  Attributes:
    batch: the rows.
    truth: `[N, M]` true probabilities, of the embedded log only.
    slices: the column asked for and `[N]` values as text, or None.
  """

  batch: features_lib.Batch
  truth: np.ndarray | None
  slices: tuple[str, np.ndarray] | None


def read_test(config: Config, inputs: Inputs) -> Test:
  """Reads the held-out rows."""
  schema = inputs.model.schema
  keep = None if config.eval_data else inputs.split.rows(logs.TEST)
  true = tuple(f"true_{name}" for name in schema.names
               if config.data is None)
  table = logs.read_rows(inputs.eval_log, (*schema.columns, *true), keep)
  truth, slices = None, None
  if true and config.eval_data is None:
    truth = np.stack([table[name].to_numpy() for name in true], axis=1)
  if config.slice_by:
    slices = (config.slice_by, logs.as_slices(
        table[config.slice_by], config.slice_by in schema.numeric))
  batch = features_lib.encode(inputs.model.features, schema, table)
  return Test(batch, truth, slices)


class State(NamedTuple):
  """What training changes, and the best on validation rows so far."""

  params: Any
  opt_state: Any
  best_params: Any
  best_value: np.float32
  best_step: np.int32


class AucTask:
  """The training of a ranker: a `loop.Task`."""

  def __init__(self, config: Config, inputs: Inputs):
    self._config, self._inputs = config, inputs
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
            config.learning_rate, inputs.num_steps)))
    self._update = self._make_update()
    self.seek([0, 0, 0])

  def init(self) -> State:
    """Fresh parameters, or those of the run to start from."""
    rows = self._rows(features_lib.Batch(*(
        x[:2] for x in self._inputs.sample)))
    params = self._ranker.init(
        jax.random.key(self._config.seed), rows, self.platt)
    state = State(params, self._optimizer.init(params), params,
                  np.float32(-1), np.int32(0))
    if self._config.init_from is None:
      return state
    checkpoints = checkpointing.Checkpoints(
        pathlib.Path(self._config.init_from) / "checkpoints")
    earlier = checkpoints.restore(state)
    checkpoints.close()
    if earlier is None:
      raise flags.UserError(
          f"--init_from={self._config.init_from}: there is no checkpoint.")
    best = earlier[1].best_params
    return state._replace(params=best, best_params=best)

  def step(self, state: State) -> tuple[State, dict[str, Any]]:
    """One batch."""
    params, opt_state, measured = self._update(
        state.params, state.opt_state, self._rows(next(self._reader)))
    return state._replace(params=params, opt_state=opt_state), measured

  def evaluate(self, state: State, step: int) -> tuple[State, dict[str, Any]]:
    """Exact AUC on validation rows, remembering the best parameters.

    What is ranked against what in training is what the best is judged by.
    """
    rows = self._inputs.validation
    names = self._inputs.model.schema.names
    scores = self.score(state.params, rows)
    auc = np.asarray(self._auc(scores, rows.labels))
    found = {"auc": dict(zip(names, auc, strict=True)),
             "auc_sum": np.nansum(auc)}
    judged = auc
    if self._list_of:
      ids = np.unique(self._list_of(rows), return_inverse=True)[1]
      judged = np.asarray(self._group_auc(
          scores, rows.labels, ids.astype(np.int32)).value)
      found["group_auc"] = dict(zip(names, judged, strict=True))
    value = np.float32(np.nansum(self._weights * judged, dtype=np.float32))
    if value > state.best_value:
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
        batch_size=inputs.batch_size, seed=self._config.seed,
        list_of=self._list_of, cursor=parquet.Cursor(*cursor))

  @property
  def _list_of(self):
    if self._config.lists == "batch":
      return None
    return lambda batch: getattr(batch, self._config.lists)

  def _rows(self, batch: features_lib.Batch) -> ranker_lib.Rows:
    lists = self._list_of(batch) if self._list_of else None
    return ranker_lib.rows_of(batch, lists)

  def _make_update(self):
    loss_fn = ranker_lib.make_loss(
        self._ranker, self._config.loss, self._weights,
        relative_strength=self._config.relative_strength)
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


def define_flags() -> None:
  """Flags beside the shared ones; not on import, where two binaries clash."""
  absl_flags.adopt_module_key_flags(flags)
  absl_flags.DEFINE_enum(
      "head", Config.head, network.HEADS, "What the network puts out: "
      "corrections to calibrated scores, or one score.")
  absl_flags.DEFINE_enum(
      "loss", Config.loss, tuple(ranker_lib.LOSSES), "What is trained on.")
  absl_flags.DEFINE_enum(
      "lists", Config.lists, LISTS, "What is ranked against what in a rank "
      "loss.")
  absl_flags.DEFINE_float(
      "relative_strength", Config.relative_strength, "Of the soft rank, in "
      "mean gaps of scores; 1 to 3 trains best.", lower_bound=0.0,
      upper_bound=1e6)
  absl_flags.DEFINE_list(
      "objective_weights", None, "What the AUC of each objective is worth, in "
      "their order; equal if not given.")
  absl_flags.DEFINE_integer(
      "num_steps", None, "Steps of training; ten passes over the training rows "
      "if not given, at most 10,000 steps.", lower_bound=1,
      upper_bound=100_000_000)
  absl_flags.DEFINE_float(
      "learning_rate", Config.learning_rate, "Of Adam, falling to 0 by a "
      "cosine.", lower_bound=0.0, upper_bound=1.0)
  absl_flags.DEFINE_string(
      "init_from", None, "Workdir of an earlier run: training starts from its "
      "best parameters, with its vocabularies.")
  absl_flags.DEFINE_integer(
      "token_size", Config.token_size, "Width of the tokens, even.",
      lower_bound=2, upper_bound=4096)
  absl_flags.DEFINE_bool(
      "relation_aware", True, "Ablation: the relation-aware branch.")
  absl_flags.DEFINE_bool(
      "relation_agnostic", True, "Ablation: the relation-agnostic branch.")
  absl_flags.DEFINE_bool(
      "self_attention", True, "Ablation: self-attention over objectives.")
  absl_flags.DEFINE_string(
      "slice_by", None, "Profile column by whose values AUCs are shown, too.")


def main() -> None:
  """Runs what the flags say."""
  values: dict[str, Any] = {
      field.name: absl_flags.FLAGS[field.name].value
      for field in dataclasses.fields(Config)}
  if values["objectives"] is not None:
    values["objectives"] = tuple(values["objectives"])
  if values["objective_weights"] is not None:
    values["objective_weights"] = _weights(values["objective_weights"])
  train(Config(**values), flags.WORKDIR.value or "runs/train_auc")


def _weights(texts: list[str]) -> tuple[float, ...]:
  """Numbers of --objective_weights."""
  try:
    weights = tuple(float(text) for text in texts)
  except ValueError:
    weights = ()
  if not weights or not all(0 <= w < float("inf") for w in weights) or not sum(
      weights):
    raise flags.UserError(
        f"--objective_weights={','.join(texts)}: expected numbers of at least "
        "0, one for each objective, not all 0.")
  return weights


if __name__ == "__main__":
  define_flags()
  flags.run(main)
