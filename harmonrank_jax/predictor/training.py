"""The training of a PEPNet, as two pure functions of arrays.

`init` and `update` are of one model; `jax.vmap` trains several side by side, as
the models of all folds, each with its own mask of the rows.
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from harmonrank_jax.predictor import pepnet


class Rows(NamedTuple):
  """Rows of a log; N rows, M objectives, C and Q columns."""

  categorical: Any  # [N, C] int32 entries of the vocabularies; 0 is unknown.
  numeric: Any  # [N, Q] float32.
  labels: Any  # [N, M] bool.


class LearningRates(NamedTuple):
  """Learning rates of Adam, which fall to 0 by a cosine; static."""

  network: float  # Of everything but the embeddings.
  embeddings: float  # A smaller one overfits ids less.
  num_steps: int  # Over which they fall to 0.


class TrainState(NamedTuple):
  """A model between two steps."""

  params: Any
  opt_state: Any


def init(
    key: jax.Array, rows: Rows, base_rates: jax.Array, *,
    config: pepnet.PepNetConfig, learning_rates: LearningRates,
) -> TrainState:
  """A model before its first step, which predicts the base rates.

  Args:
    key: consumed once.
    rows: a few rows, for their shapes.
    base_rates: `[M]` in (0, 1).
    config: of the network; static.
    learning_rates: of the training; static.
  """
  params = pepnet.with_base_rates(
      dict(pepnet.PepNet(config).init(key, rows.categorical, rows.numeric)),
      base_rates)
  return TrainState(params, _optimizer(learning_rates).init(params))


def update(
    state: TrainState, rows: Rows, key: jax.Array, *,
    config: pepnet.PepNetConfig, learning_rates: LearningRates,
    where: jax.Array | None = None,
) -> tuple[TrainState, jax.Array]:
  """One step of Adam on a batch, by the cross-entropy of all objectives.

  Args:
    state: before the step.
    rows: the batch.
    key: of the dropout, consumed once.
    config: of the network; static.
    learning_rates: of the training; static.
    where: `[N]` bool, False = the row does not train this model; None = all do.

  Returns:
    The state after the step, and the loss before it.

  >>> rows = Rows(
  ...     categorical=jnp.array([[1], [2]] * 8), numeric=jnp.zeros((16, 1)),
  ...     labels=jnp.array([[True], [False]] * 8))
  >>> import functools
  >>> setup = {"config": pepnet.PepNetConfig(1, (3,), personal=(0,)),
  ...          "learning_rates": LearningRates(0.01, 0.01, num_steps=20)}
  >>> begin, step = (jax.jit(functools.partial(function, **setup))
  ...                for function in (init, update))
  >>> key = jax.random.key(0)
  >>> state = begin(key, rows, jnp.full(1, 0.5))
  >>> losses = []
  >>> for number in range(20):
  ...   state, loss = step(state, rows, jax.random.fold_in(key, number))
  ...   losses.append(float(loss))
  >>> losses[-1] < losses[0]
  True
  """
  if where is not None:
    where = jnp.broadcast_to(where[:, None], rows.labels.shape)

  def loss_fn(params):
    logits = jnp.asarray(pepnet.PepNet(config).apply(
        params, rows.categorical, rows.numeric, is_training=True,
        rngs={"dropout": key}))
    return pepnet.multi_task_loss(logits, rows.labels, where=where)

  loss, gradients = jax.value_and_grad(loss_fn)(state.params)
  updates, opt_state = _optimizer(learning_rates).update(
      gradients, state.opt_state)
  return TrainState(optax.apply_updates(state.params, updates), opt_state), loss


def predict(
    params: Any, categorical: jax.Array, numeric: jax.Array, *,
    config: pepnet.PepNetConfig,
) -> jax.Array:
  """`[N, M]` log-odds of rows `[N, C]` and `[N, Q]`, without dropout."""
  return jnp.asarray(pepnet.PepNet(config).apply(params, categorical, numeric))


def _optimizer(rates: LearningRates) -> optax.GradientTransformation:
  """Adam with two learning rates."""
  adam = lambda rate: optax.adam(
      optax.cosine_decay_schedule(rate, rates.num_steps))
  is_embedding = lambda path: jax.tree_util.DictKey("embedding") in path
  label = lambda path, _: "embeddings" if is_embedding(path) else "rest"
  return optax.multi_transform(
      {"embeddings": adam(rates.embeddings), "rest": adam(rates.network)},
      lambda params: jax.tree_util.tree_map_with_path(label, params))
