"""The training of a ranker, as two pure functions of arrays.

    state = init(key, rows, ranker=ranker, platt=platt)
    state, measured = update(state, batch, ...)      # once for each batch

Both are written for one member; `jax.vmap` trains members, seeds, learning
rates or weights of objectives side by side, `jax.lax.scan` many steps in one
compiled call. What a step needs beside the state is an argument, so that one
compilation serves all of them.
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import objective as objective_lib
from harmonrank_jax.ensemble import ranker as ranker_lib

_MAX_GRADIENT_NORM = 1.0
_OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(_MAX_GRADIENT_NORM), optax.scale_by_adam())


class TrainState(NamedTuple):
  """A member between two steps."""

  params: Any  # of the ranker
  opt_state: Any  # of Adam
  step: jax.Array  # int32, steps that were taken


def init(
    key: jax.Array, rows: ranker_lib.Rows, *, ranker: ranker_lib.Ranker,
    platt: calibration.Calibration,
) -> TrainState:
  """A member before its first step: at the calibration `platt`.

  The key is consumed once, and members differ by it; a few rows give the
  shapes.
  """
  return begin(ranker.init(key, rows, platt))


def begin(params: Any) -> TrainState:
  """Parameters to go on from, with the optimiser at rest: a warm start."""
  return TrainState(params, _OPTIMIZER.init(params), jnp.zeros((), jnp.int32))


def update(
    state: TrainState,
    rows: ranker_lib.Rows,
    *,
    ranker: ranker_lib.Ranker,
    objective: objective_lib.Objective,
    objective_weights: jax.Array,
    platt: calibration.Calibration,
    learning_rate: jax.Array | float,
    num_steps: jax.Array | int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One step of Adam on one batch.

  The norm of the gradient is clipped to 1, and the learning rate falls to 0 by
  a cosine.

  Args:
    state: before the step.
    rows: the batch.
    ranker: what is trained.
    objective: one of `objective`.
    objective_weights: `[M]`, what the AUC of each objective is worth.
    platt: fitted on training rows.
    learning_rate: at the first step; may be traced.
    num_steps: over which it falls to 0; may be traced.

  Returns:
    The state after the step, and what was measured before it: the `loss` and
    what the objective names.

  >>> import functools
  >>> from harmonrank_jax.ensemble import network
  >>> scores = jax.random.uniform(jax.random.key(0), (64, 2))
  >>> rows = ranker_lib.Rows(
  ...     labels=scores > 0.7, scores=scores, has_score=scores > 0,
  ...     categorical=jnp.zeros((64, 0), jnp.int32), numeric=scores[:, :1])
  >>> ranker = ranker_lib.Ranker(network.HarmonRankConfig(2), ())
  >>> platt = jax.jit(calibration.fit_platt)(rows.scores, rows.labels)
  >>> state = jax.jit(functools.partial(init, ranker=ranker))(
  ...     jax.random.key(1), rows, platt=platt)
  >>> step = jax.jit(functools.partial(
  ...     update, ranker=ranker, objective=objective_lib.aligned_objective,
  ...     objective_weights=jnp.ones(2), platt=platt, learning_rate=0.01,
  ...     num_steps=10))
  >>> losses = []
  >>> for _ in range(10):
  ...   state, measured = step(state, rows)
  ...   losses.append(float(measured["loss"]))
  >>> losses[-1] < losses[0], int(state.step)
  (True, 10)
  """
  def loss_fn(params):
    return objective(ranker, params, rows, objective_weights=objective_weights,
                     platt=platt)

  (loss, measured), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params)
  updates, opt_state = _OPTIMIZER.update(gradients, state.opt_state)
  done = state.step / num_steps
  rate = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * done))
  updates = jax.tree.map(lambda x: -rate * x, updates)
  return (TrainState(optax.apply_updates(state.params, updates), opt_state,
                     state.step + 1),
          {"loss": loss, **measured})
