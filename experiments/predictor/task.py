"""Predictors trained side by side: scores by a model that has not seen the row.

Rows are dealt to K folds. K fold models leave out a fold each, the full model
none, and one more is trained on the training part only, for validation rows to
judge: they choose the step whose parameters all models keep. All are one
network with a leading axis of models, trained on the same batches; what a
model leaves out is masked in its loss.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any
from typing import NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.runs import errors
from experiments.runs import loop
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.ensemble import metrics
from harmonrank_jax.predictor import pepnet

# Places of the models that are of no fold.
FULL, JUDGED = -2, -1
# Rows that are scored at once.
_CHUNK_ROWS = 2048

_auc = jax.jit(metrics.auc)


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

  Rows, not users: a fold model knows a user from rows in other folds, as the
  full model knows a user it has met before, but from later rows, too. Out of
  fold an AUC is therefore higher than on later rows; what is learned from the
  scores, how far to trust each, holds for users that have been met. Columns
  that count earlier outcomes stay as they are: a later row of another fold
  may count the label of this one.

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
  trains[:, JUDGED] = ~is_validation
  return Folds(fold, trains)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the models are trained.

  Attributes:
    network: its configuration.
    batch_size: rows of a step.
    num_steps: over which the learning rates fall to 0.
    learning_rate: of Adam.
    embedding_learning_rate: of Adam for the embeddings.
    seed: of parameters, batches and what is dropped.
  """

  network: pepnet.PepNetConfig
  batch_size: int
  num_steps: int
  learning_rate: float
  embedding_learning_rate: float
  seed: int


class FoldTask:
  """The training of all models: a `loop.Task`.

  Trees of its state have a leading axis of K + 2 models.

  Attributes:
    recipe: how they are trained.
    base_rates: `[K + 2, M]` rates in the rows of each model, never 0 or 1.
  """

  def __init__(
      self, recipe: Recipe, rows: features_lib.Batch, folds: Folds,
      names: tuple[str, ...],
  ):
    """Prepares the training.

    Args:
      recipe: how to train.
      rows: everything that is not for testing; in memory.
      folds: of these rows.
      names: of the objectives.
    """
    self.recipe, self._folds, self._names = recipe, folds, names
    self._rows = rows._replace(labels=rows.labels > 0)
    self.base_rates = self._rates()
    self._arrays = tuple(jnp.asarray(array) for array in (
        rows.categorical, rows.numeric, self._rows.labels, folds.trains))
    judged = ~folds.trains[:, JUDGED]
    self._validation = features_lib.Batch(*(x[judged] for x in self._rows))
    self._order: tuple[int, np.ndarray] | None = None
    self._next, self._checksum = 0, 0
    for array in self._arrays:
      self._checksum = zlib.crc32(np.asarray(array).data, self._checksum)

  def init(self) -> loop.State:
    """Each model its own draw, at the base rates of its own rows."""
    one = tuple(array[:1] for array in self._arrays[:2])
    params, opt_state = _init(self.recipe, one, jnp.asarray(self.base_rates))
    return loop.State(
        params, opt_state, params, np.float32(np.inf), np.int32(0))

  def step(self, state: loop.State) -> tuple[loop.State, dict[str, Any]]:
    """One batch, the same for all models."""
    indices = jnp.asarray(self._indices(self._next), jnp.int32)
    params, opt_state, loss = _update(
        self.recipe, state.params, state.opt_state, self._arrays, indices,
        np.uint32(self._next))
    self._next += 1
    return state._replace(params=params, opt_state=opt_state), {"loss": loss}

  def evaluate(
      self, state: loop.State, step: int
  ) -> tuple[loop.State, dict[str, Any]]:
    """Judges by log-loss over that of the base rate, averaged."""
    labels = self._validation.labels
    logits = self._logits(state.params, JUDGED, self._validation)
    losses = log_losses(logits, labels).mean(axis=0)
    rates = self.base_rates[JUDGED].astype(np.float64)
    entropy = -rates * np.log(rates) - (1 - rates) * np.log1p(-rates)
    value = np.float32(np.mean(losses / entropy))
    if value < state.best_value:
      state = state._replace(best_params=state.params, best_value=value,
                             best_step=np.int32(step))
    by_name = lambda values: dict(zip(self._names, values, strict=True))
    return state, {"validation": {
        "auc": by_name(own_auc(logits, labels)), "log_loss": by_name(losses),
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
      raise errors.UserError(
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

  def _indices(self, step: int) -> np.ndarray:
    """Rows of a batch: a function of seed and step."""
    num_rows, size = len(self._rows.labels), self.recipe.batch_size
    places = np.arange(size) + step * size
    result = np.empty(size, np.int64)
    for epoch in np.unique(places // num_rows):
      if self._order is None or self._order[0] != epoch:
        # Not [seed, epoch]: the rows of epoch 0 would be dealt like folds.
        rng = np.random.default_rng([self.recipe.seed, int(epoch) + 1])
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


def own_auc(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`[M]` exact AUC of each column `[N, M]` for its own labels."""
  return np.asarray(_auc(logits.T, labels.T), np.float64)


def log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Binary cross-entropy of each entry, float64."""
  logits = logits.astype(np.float64)
  return np.logaddexp(0, np.where(labels, -logits, logits))


@functools.partial(jax.jit, static_argnums=0)
def _init(
    recipe: Recipe, columns: Sequence[jax.Array], base_rates: jax.Array
) -> tuple[Any, Any]:
  """Parameters and state of the optimizer of all models."""
  keys = jax.random.split(jax.random.key(recipe.seed), len(base_rates))
  params = jax.vmap(lambda key, rates: pepnet.with_base_rates(
      dict(pepnet.PepNet(recipe.network).init(key, *columns)), rates))(
          keys, base_rates)
  return params, jax.vmap(_optimizer(recipe).init)(params)


@functools.partial(jax.jit, static_argnums=0)
def _update(
    recipe: Recipe, params: Any, opt_state: Any, arrays: Sequence[jax.Array],
    indices: jax.Array, step: jax.Array,
) -> tuple[Any, Any, jax.Array]:
  """One step of all models on the same batch."""
  *batch, trains = (array[indices] for array in arrays)
  key = jax.random.fold_in(jax.random.key(recipe.seed), step)
  keys = jax.random.split(key, trains.shape[1])
  params, opt_state, losses = jax.vmap(
      functools.partial(_update_one, recipe), in_axes=(0, 0, 0, 1, None))(
          params, opt_state, keys, trains, batch)
  return params, opt_state, jnp.mean(losses)


def _update_one(recipe, params, opt_state, key, where, batch):
  categorical, numeric, labels = batch

  def loss_fn(params):
    logits = jnp.asarray(pepnet.PepNet(recipe.network).apply(
        params, categorical, numeric, is_training=True, rngs={"dropout": key}))
    return pepnet.multi_task_loss(
        logits, labels, where=jnp.broadcast_to(where[:, None], labels.shape))

  loss, gradients = jax.value_and_grad(loss_fn)(params)
  updates, opt_state = _optimizer(recipe).update(gradients, opt_state)
  return optax.apply_updates(params, updates), opt_state, loss


@functools.partial(jax.jit, static_argnums=0)
def _predict(
    network: pepnet.PepNetConfig, params: Any, number: jax.Array,
    categorical: jax.Array, numeric: jax.Array,
) -> jax.Array:
  params = jax.tree.map(lambda x: x[number], params)
  return jnp.asarray(
      pepnet.PepNet(network).apply(params, categorical, numeric))


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
  """Adam with two rates, both falling to 0 by a cosine."""
  adam = lambda rate: optax.adam(
      optax.cosine_decay_schedule(rate, recipe.num_steps))
  is_embedding = lambda path: jax.tree_util.DictKey("embedding") in path
  label = lambda path, _: "embeddings" if is_embedding(path) else "rest"
  return optax.multi_transform(
      {"embeddings": adam(recipe.embedding_learning_rate),
       "rest": adam(recipe.learning_rate)},
      lambda params: jax.tree_util.tree_map_with_path(label, params))
