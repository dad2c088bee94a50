"""Predictors trained side by side, so that every row has a score of a model
that was not trained on it.

Rows are dealt to K folds. K fold models leave out a fold each, the full model
none, and one more is trained on the training part only, for validation rows to
judge: they choose the step whose parameters all models keep. All are one
network with a leading axis of models, trained on the same batches; what a
model leaves out is masked in its loss.
"""

from typing import Any
from typing import NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import flags
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.ensemble import metrics
from harmonrank_jax.predictor import pepnet

# Rows that are scored at once.
_CHUNK_ROWS = 8192


class Folds(NamedTuple):
  """Which row trains which model; N rows, K folds.

  Attributes:
    fold: `[N]` in [0, K), the fold of each row.
    trains: `[N, K + 2]` bool, True = the row trains the model: those of the
      folds, the full one, and the one that validation rows judge.
  """

  fold: np.ndarray
  trains: np.ndarray


def deal(is_validation: np.ndarray, *, num_folds: int, seed: int) -> Folds:
  """Deals rows to folds of equal size by a seeded permutation.

  Rows, not users: a fold model knows a user from rows in other folds, earlier
  and later ones, as the full model knows those it has met. Only users met for
  the first time in the rows to test are stranger to it.

  Args:
    is_validation: `[N]` bool, the rows to judge by; they train all models but
      the one that is judged.
    num_folds: K >= 2.
    seed: of the permutation.
  """
  num_rows = len(is_validation)
  fold = np.random.default_rng(seed).permutation(num_rows) % num_folds
  trains = np.ones((num_rows, num_folds + 2), bool)
  trains[np.arange(num_rows), fold] = False
  trains[:, -1] = ~is_validation
  return Folds(fold, trains)


class State(NamedTuple):
  """What training changes; trees have a leading axis of K + 2 models."""

  params: Any
  opt_state: Any
  best_params: Any
  best_value: np.float32
  best_step: np.int32


class FoldTask:
  """The training of all models: a `loop.Task`.

  Attributes:
    batch_size: rows of a step.
    base_rates: `[M]` rates of all rows, never 0 or 1.
  """

  def __init__(
      self,
      config: pepnet.PepNetConfig,
      rows: features_lib.Batch,
      folds: Folds,
      names: tuple[str, ...],
      *,
      batch_size: int,
      num_steps: int,
      learning_rate: float,
      embedding_learning_rate: float,
      seed: int,
  ):
    """Prepares the training.

    Args:
      config: of the network.
      rows: everything that is not for testing; in memory.
      folds: of these rows.
      names: of the objectives.
      batch_size: rows of a step.
      num_steps: over which the learning rates fall to 0.
      learning_rate: of Adam.
      embedding_learning_rate: of Adam for the embeddings.
      seed: of parameters, batches and what is dropped.
    """
    self._model = pepnet.PepNet(config)
    self._rows = rows._replace(labels=rows.labels > 0)
    self._folds, self._names = folds, names
    self.batch_size, self._seed = batch_size, seed
    self._base_rates = self._rates()
    self.base_rates = self._base_rates[-2]
    self._optimizer = _optimizer(
        num_steps, learning_rate, embedding_learning_rate)
    self._arrays = tuple(jnp.asarray(array) for array in (
        rows.categorical, rows.numeric, self._rows.labels, folds.trains))
    self._update = self._make_update()
    self._predict = jax.jit(self._model.apply)
    self._auc = jax.jit(metrics.auc)
    judged = ~folds.trains[:, -1]
    self._validation = features_lib.Batch(*(x[judged] for x in self._rows))
    self._order: tuple[int, np.ndarray] | None = None
    self._next, self._checksum = 0, 0
    for array in self._arrays:
      self._checksum = zlib.crc32(np.asarray(array), self._checksum)

  def init(self) -> State:
    """Each model its own draw, at the base rates of its own rows."""
    num_models = self._folds.trains.shape[1]
    keys = jax.random.split(jax.random.key(self._seed), num_models)
    one = tuple(array[:1] for array in self._arrays[:2])
    params = jax.vmap(lambda key, rates: pepnet.with_base_rates(
        self._model.init(key, *one), rates))(keys, self._base_rates)
    return State(params, jax.vmap(self._optimizer.init)(params), params,
                 np.float32(np.inf), np.int32(0))

  def step(self, state: State) -> tuple[State, dict[str, Any]]:
    """One batch, the same for all models."""
    params, opt_state, loss = self._update(
        state.params, state.opt_state, self._arrays,
        jnp.asarray(self._indices(self._next), jnp.int32),
        np.uint32(self._next))
    self._next += 1
    return state._replace(params=params, opt_state=opt_state), {"loss": loss}

  def evaluate(self, state: State, step: int) -> tuple[State, dict[str, Any]]:
    """Judges by log-loss over that of the base rate, averaged."""
    labels = self._validation.labels
    logits = self._logits(state.params, -1, self._validation)
    losses = log_losses(logits, labels).mean(axis=0)
    rates = self._base_rates[-1].astype(np.float64)
    entropy = -rates * np.log(rates) - (1 - rates) * np.log1p(-rates)
    value = np.float32(np.mean(losses / entropy))
    if value < state.best_value:
      state = state._replace(best_params=state.params, best_value=value,
                             best_step=np.int32(step))
    by_name = lambda values: dict(zip(self._names, values, strict=True))
    auc = np.asarray(self._auc(logits.T, labels.T))
    return state, {"validation": {
        "auc": by_name(auc), "log_loss": by_name(losses),
        "relative_log_loss": value}}

  @property
  def cursor(self) -> list[int]:
    """Steps taken, and a checksum of the rows."""
    return [self._next, self._checksum]

  def seek(self, cursor: list[int]) -> None:
    """Goes on from there.

    Raises:
      UserError: if the rows are not those of then.
    """
    self._next, checksum = cursor
    if checksum != self._checksum:
      raise flags.UserError(
          "the data has changed since this workdir was begun; name another "
          "--workdir.")

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
    return self._logits(params, -2, rows)

  def judged(self, params: Any) -> tuple[np.ndarray, features_lib.Batch]:
    """`[N, M]` log-odds of the validation rows, and these rows."""
    return self._logits(params, -1, self._validation), self._validation

  def _logits(
      self, params: Any, number: int, rows: features_lib.Batch
  ) -> np.ndarray:
    """By one of the models; what it was not trained on is unknown to it."""
    params = jax.tree.map(lambda x: x[number], params)
    trained = self._rows.categorical[self._folds.trains[:, number]]
    categorical = rows.categorical.copy()
    for column, size in enumerate(self._model.config.vocabulary_sizes):
      known = np.zeros(size, bool)
      known[trained[:, column]] = True
      categorical[:, column] *= known[categorical[:, column]]
    parts = []
    for start in range(0, len(categorical), _CHUNK_ROWS):
      chunk = tuple(x[start:start + _CHUNK_ROWS]
                    for x in (categorical, rows.numeric))
      count = len(chunk[0])
      padded = (np.pad(x, ((0, _CHUNK_ROWS - count), (0, 0))) for x in chunk)
      parts.append(np.asarray(self._predict(params, *padded))[:count])
    return np.concatenate(parts)

  def _indices(self, step: int) -> np.ndarray:
    """Rows of a batch: a function of seed and step."""
    num_rows = len(self._rows.labels)
    places = np.arange(self.batch_size) + step * self.batch_size
    result = np.empty(self.batch_size, np.int64)
    for epoch in np.unique(places // num_rows):
      if self._order is None or self._order[0] != epoch:
        # Not [seed, epoch]: the rows of epoch 0 would be dealt like folds.
        rng = np.random.default_rng([self._seed, int(epoch) + 1])
        self._order = int(epoch), rng.permutation(num_rows)
      inside = places // num_rows == epoch
      result[inside] = self._order[1][places[inside] % num_rows]
    return result

  def _rates(self) -> np.ndarray:
    """`[K + 2, M]` rates of the rows of each model, never 0 or 1."""
    trains = self._folds.trains.astype(np.float64)
    positives = trains.T @ self._rows.labels
    count = trains.sum(axis=0)[:, None]
    return ((positives + 0.5) / (count + 1)).astype(np.float32)

  def _make_update(self):
    model, optimizer, seed = self._model, self._optimizer, self._seed

    def update_one(params, opt_state, key, where, batch):
      categorical, numeric, labels = batch

      def loss_fn(params):
        logits = model.apply(params, categorical, numeric, is_training=True,
                             rngs={"dropout": key})
        return pepnet.multi_task_loss(
            logits, labels,
            where=jnp.broadcast_to(where[:, None], labels.shape))

      loss, gradients = jax.value_and_grad(loss_fn)(params)
      updates, opt_state = optimizer.update(gradients, opt_state)
      return optax.apply_updates(params, updates), opt_state, loss

    @jax.jit
    def update(params, opt_state, arrays, indices, step):
      *batch, trains = (array[indices] for array in arrays)
      key = jax.random.fold_in(jax.random.key(seed), step)
      keys = jax.random.split(key, trains.shape[1])
      params, opt_state, losses = jax.vmap(
          update_one, in_axes=(0, 0, 0, 1, None))(
              params, opt_state, keys, trains, batch)
      return params, opt_state, jnp.mean(losses)

    return update


def log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Binary cross-entropy of each entry, float64."""
  logits = logits.astype(np.float64)
  return np.logaddexp(0, np.where(labels, -logits, logits))


def _optimizer(
    num_steps: int, learning_rate: float, embedding_learning_rate: float
) -> optax.GradientTransformation:
  """Adam with two rates, both falling to 0 by a cosine."""
  adam = lambda rate: optax.adam(optax.cosine_decay_schedule(rate, num_steps))
  is_embedding = lambda path: jax.tree_util.DictKey("embedding") in path
  label = lambda path, _: "embeddings" if is_embedding(path) else "rest"
  return optax.multi_transform(
      {"embeddings": adam(embedding_learning_rate),
       "rest": adam(learning_rate)},
      lambda params: jax.tree_util.tree_map_with_path(label, params))
