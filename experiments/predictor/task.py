"""Predictors trained side by side: scores by a model that has not seen the row.

Rows are dealt to K folds. K fold models leave out a fold each, the full model
none, and one more is trained on the training part only, for validation rows to
judge: they choose the step whose parameters all models keep. All are one
network with a leading axis of models, trained on the same batches; what a
model leaves out is masked in its loss.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.predictor import inputs as inputs_lib
from experiments.predictor.config import Config
from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import loop
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.ensemble import metrics
from harmonrank_jax.predictor import pepnet
from harmonrank_jax.predictor import training

# Chosen on validation rows: of the KuaiRand log, whose history columns say
# what embeddings would, and of the embedded log, which has no other way.
_EMBEDDING_LEARNING_RATES = {"kuairand": 3e-5, None: 1e-2}
_NETWORK: dict[str, Any] = {
    "shared_sizes": (128,), "tower_sizes": (32,), "dropout_rate": 0.2,
    "unknown_rate": 0.1}
# Places of the models that are of no fold.
FULL, JUDGED = -2, -1
# Rows that are scored at once.
_CHUNK_ROWS = 2048

_auc = jax.jit(metrics.auc)


class Folds(NamedTuple):
  """Which row trains which model; N rows, K folds."""

  fold: np.ndarray  # [N] in [0, K), the fold of each row
  # [N, K + 2] bool, True = the row trains the model: those of the folds, the
  # full one, and the one that validation rows judge.
  trains: np.ndarray


def deal(is_validation: np.ndarray, *, num_folds: int, seed: int) -> Folds:
  """Deals rows to folds of equal size by a seeded permutation.

  Rows, not users: a fold model knows a user from rows in other folds, as the
  full model knows a user it has met before, but from later rows, too. Out of
  fold an AUC is therefore higher than on later rows; what is learned from the
  scores, how far to trust each, holds for users that have been met. Columns
  that count earlier outcomes stay as they are: a later row of another fold
  may count the label of this one. Validation rows `[N]` train all models but
  the one that is judged.
  """
  num_rows = len(is_validation)
  fold = np.random.default_rng(seed).permutation(num_rows) % num_folds
  trains = np.ones((num_rows, num_folds + 2), bool)
  trains[np.arange(num_rows), fold] = False
  trains[:, JUDGED] = ~is_validation
  return Folds(fold, trains)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the models are trained."""

  network: pepnet.PepNetConfig  # its configuration
  batch_size: int  # rows of a step
  rates: training.LearningRates  # of Adam
  seed: int  # of parameters, batches and what is dropped


class Batch(NamedTuple):
  """The rows of a step."""

  indices: jax.Array  # [B] int32
  step: np.uint32  # from 0


class Batches:
  """Batches of rows; a cursor is the number of steps and a checksum of rows."""

  def __init__(
      self, num_rows: int, batch_size: int, *, seed: int, step: int,
      checksum: int,
  ):
    self._num_rows, self._batch_size = num_rows, batch_size
    self._seed, self._step, self._checksum = seed, step, checksum
    self._order: tuple[int, np.ndarray] | None = None

  def __next__(self) -> Batch:
    places = np.arange(self._batch_size) + self._step * self._batch_size
    indices = np.empty(self._batch_size, np.int64)
    for epoch in np.unique(places // self._num_rows):
      if self._order is None or self._order[0] != epoch:
        # Seeded by [seed, epoch], epoch 0 would be dealt like the folds.
        rng = np.random.default_rng([self._seed, int(epoch) + 1])
        self._order = int(epoch), rng.permutation(self._num_rows)
      inside = places // self._num_rows == epoch
      indices[inside] = self._order[1][places[inside] % self._num_rows]
    batch = Batch(jnp.asarray(indices, jnp.int32), np.uint32(self._step))
    self._step += 1
    return batch

  @property
  def cursor(self) -> list[int]:
    return [self._step, self._checksum]


class FoldTask:
  """The training of all models: a `loop.Task`.

  Trees of its state have a leading axis of K + 2 models; `base_rates`
  `[K + 2, M]` are those of the rows of each, never 0 or 1.
  """

  def __init__(
      self, recipe: Recipe, rows: features_lib.Batch, folds: Folds,
      names: tuple[str, ...],
  ):
    """Prepares the training on rows in memory, all that are not for testing."""
    self.recipe, self._folds, self._names = recipe, folds, names
    self._rows = rows._replace(labels=rows.labels > 0)
    self.base_rates = self._rates()
    self._arrays = training.Rows(*(jnp.asarray(array) for array in (
        rows.categorical, rows.numeric, self._rows.labels)))
    self._trains = jnp.asarray(folds.trains)
    judged = ~folds.trains[:, JUDGED]
    self._validation = features_lib.Batch(*(x[judged] for x in self._rows))
    self._checksum = 0
    for array in (*self._arrays, self._trains):
      self._checksum = zlib.crc32(np.asarray(array).data, self._checksum)

  def init(self) -> loop.State:
    """Each model its own draw, at the base rates of its own rows."""
    one = training.Rows(*(array[:1] for array in self._arrays))
    models = _init(self.recipe, one, jnp.asarray(self.base_rates))
    return loop.State(
        models, models.params, np.float32(np.inf), np.int32(0))

  def batches(self, cursor: list[int] | None) -> Batches:
    """Batches from a cursor on; `UserError` if it was made with other rows."""
    step, checksum = cursor or (0, self._checksum)
    if checksum != self._checksum:
      raise errors.UserError(
          "the data has changed since this workdir was begun; name another "
          "--workdir.")
    return Batches(len(self._rows.labels), self.recipe.batch_size,
                   seed=self.recipe.seed, step=step, checksum=checksum)

  def update(
      self, state: loop.State, batch: Batch
  ) -> tuple[loop.State, dict[str, Any]]:
    """One step of all models on the same batch."""
    models, loss = _update(
        self.recipe, state.train, self._arrays, self._trains, batch)
    return state._replace(train=models), {"loss": loss}

  def evaluate(
      self, state: loop.State, step: int
  ) -> tuple[loop.State, dict[str, Any]]:
    """Judges by log-loss over that of the base rate, averaged."""
    labels = self._validation.labels
    logits = self._logits(state.train.params, JUDGED, self._validation)
    losses = log_losses(logits, labels).mean(axis=0)
    rates = self.base_rates[JUDGED].astype(np.float64)
    entropy = -rates * np.log(rates) - (1 - rates) * np.log1p(-rates)
    value = np.float32(np.mean(losses / entropy))
    if value < state.best_value:
      state = state._replace(best_params=state.train.params, best_value=value,
                             best_step=np.int32(step))
    by_name = lambda values: dict(zip(self._names, values, strict=True))
    return state, {"validation": {
        "auc": by_name(own_auc(logits, labels)), "log_loss": by_name(losses),
        "relative_log_loss": value}}

  def out_of_fold(self, params: Any) -> np.ndarray:
    """`[N, M]` log-odds of each row by the model that left it out."""
    result = np.empty(self._rows.labels.shape, np.float32)
    for number in range(self._folds.trains.shape[1] - 2):
      mine = self._folds.fold == number
      rows = features_lib.Batch(*(x[mine] for x in self._rows))
      result[mine] = self._logits(params, number, rows)
    return result

  def full(self, params: Any, rows: features_lib.Batch) -> np.ndarray:
    """`[N, M]` log-odds of other rows by the model that left out none."""
    return self._logits(params, FULL, rows)

  def judged(self, params: Any) -> tuple[np.ndarray, features_lib.Batch]:
    """`[N, M]` log-odds of the validation rows, and these rows."""
    return self._logits(params, JUDGED, self._validation), self._validation

  def _logits(
      self, params: Any, number: int, rows: features_lib.Batch
  ) -> np.ndarray:
    """By one of the models; what it was not trained on is unknown to it."""
    trained = self._rows.categorical[self._folds.trains[:, number]]
    categorical = rows.categorical.copy()
    for column, size in enumerate(self.recipe.network.vocabulary_sizes):
      known = np.zeros(size, bool)
      known[trained[:, column]] = True
      categorical[:, column] *= known[categorical[:, column]]
    parts = []
    for start in range(0, len(categorical), _CHUNK_ROWS):
      chunk = tuple(x[start:start + _CHUNK_ROWS]
                    for x in (categorical, rows.numeric))
      count = len(chunk[0])
      padded = (np.pad(x, ((0, _CHUNK_ROWS - count), (0, 0))) for x in chunk)
      parts.append(np.asarray(_predict(
          self.recipe.network, params, number, *padded))[:count])
    return np.concatenate(parts)

  def _rates(self) -> np.ndarray:
    """`[K + 2, M]` rates of the rows of each model, never 0 or 1."""
    trains = self._folds.trains.astype(np.float64)
    positives = trains.T @ self._rows.labels
    count = trains.sum(axis=0)[:, None]
    return ((positives + 0.5) / (count + 1)).astype(np.float32)


def make_task(config: Config, inputs: inputs_lib.Inputs) -> FoldTask:
  """The training of all models."""
  schema, num_rows = inputs.source.schema, len(inputs.is_validation)
  for name in ("batch_size", "num_folds"):
    if (getattr(config, name) or 0) > num_rows:
      raise errors.UserError(
          f"--{name}={getattr(config, name)} is larger than the data: "
          f"{num_rows:,} rows to train and validate on.")
  positions = lambda columns: tuple(map(schema.categorical.index, columns))
  network = pepnet.PepNetConfig(
      len(schema.objectives), inputs.features.vocabulary_sizes,
      domain=positions(inputs.source.domain),
      personal=positions(inputs.source.personal),
      epnet=config.epnet, ppnet=config.ppnet, **_NETWORK)
  folds = deal(
      inputs.is_validation, num_folds=config.num_folds, seed=config.seed)
  embedding_learning_rate = config.embedding_learning_rate
  if embedding_learning_rate is None:
    embedding_learning_rate = _EMBEDDING_LEARNING_RATES[config.format]
  recipe = Recipe(
      network, config.batch_size or min(configs.DEFAULT_BATCH_SIZE, num_rows),
      training.LearningRates(
          config.learning_rate, embedding_learning_rate, config.num_steps),
      config.seed)
  return FoldTask(recipe, inputs.rows, folds, schema.names)


def take(params: Any, number: jax.Array | int) -> Any:
  """Parameters of one of the models."""
  return jax.tree.map(lambda x: x[number], params)


def own_auc(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`[M]` exact AUC of each column `[N, M]` for its own labels."""
  return np.asarray(_auc(logits.T, labels.T), np.float64)


def log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Binary cross-entropy of each entry, float64."""
  logits = logits.astype(np.float64)
  return np.logaddexp(0, np.where(labels, -logits, logits))


@functools.partial(jax.jit, static_argnums=0)
def _init(
    recipe: Recipe, rows: training.Rows, base_rates: jax.Array
) -> training.TrainState:
  """All models before their first step."""
  keys = jax.random.split(jax.random.key(recipe.seed), len(base_rates))
  return jax.vmap(lambda key, base_rates: training.init(
      key, rows, base_rates, config=recipe.network,
      learning_rates=recipe.rates))(keys, base_rates)


@functools.partial(jax.jit, static_argnums=0)
def _update(
    recipe: Recipe, state: training.TrainState, rows: training.Rows,
    trains: jax.Array, batch: Batch,
) -> tuple[training.TrainState, jax.Array]:
  """One step of all models on the same batch."""
  rows = jax.tree.map(lambda x: x[batch.indices], rows)
  key = jax.random.fold_in(jax.random.key(recipe.seed), batch.step)
  keys = jax.random.split(key, trains.shape[1])
  state, losses = jax.vmap(
      lambda state, key, where: training.update(
          state, rows, key, where=where, config=recipe.network,
          learning_rates=recipe.rates), in_axes=(0, 0, 1))(
              state, keys, trains[batch.indices])
  return state, jnp.mean(losses)


@functools.partial(jax.jit, static_argnums=0)
def _predict(
    network: pepnet.PepNetConfig, params: Any, number: jax.Array,
    categorical: jax.Array, numeric: jax.Array,
) -> jax.Array:
  return training.predict(
      take(params, number), categorical, numeric, config=network)
