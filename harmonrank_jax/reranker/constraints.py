"""Lagrange multipliers for a vector of constraints `cost <= threshold`.

One controller, from whose gains the usual rules follow:

  fixed             all gains 0: the multiplier stays at `initial`
  projected ascent  integral > 0: gradient ascent on the dual
  PI                also proportional > 0: damps the circling of policy and
                    multiplier around their saddle point
  PID               also derivative > 0: answers a rising cost before it is too
                    high
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Controller(NamedTuple):
  """Thresholds of the constraints, and gains of the multipliers; may be traced.

  `threshold` is `[Q]`, the others are `[Q]` or scalars.
  """

  threshold: jax.Array  # the highest cost allowed
  initial: jax.Array | float = 0.0  # multiplier at first, at least 0
  # Gain on the error cost - threshold, at least 0.
  proportional: jax.Array | float = 0.0
  integral: jax.Array | float = 0.0  # gain on its sum over updates, at least 0
  # Gain on its increase since the last update, at least 0.
  derivative: jax.Array | float = 0.0
  # The largest multiplier. The multiplier of a constraint that cannot be met
  # would grow for ever, and take as long to come back.
  limit: jax.Array | float = float("inf")


class ConstraintState(NamedTuple):
  """The state of a controller, `[Q]` each."""

  multiplier: jax.Array  # What a unit of cost is worth, at least 0.
  integral: jax.Array  # The part of it that persists; in [0, limit].
  error: jax.Array  # Of the last update; inf before the first one.


def init(controller: Controller) -> ConstraintState:
  """The state before any cost was measured; ValueError if shapes differ."""
  threshold = jnp.asarray(controller.threshold)
  if threshold.ndim != 1:
    raise ValueError(f"threshold has shape {threshold.shape}; expected [Q].")
  for name, value in controller._asdict().items():
    if jnp.shape(value) not in ((), threshold.shape):
      raise ValueError(f"{name} has shape {jnp.shape(value)}; expected () or "
                       f"{threshold.shape}, as threshold.")
  dtype = jnp.promote_types(threshold.dtype, jnp.float32)
  initial = _project(
      jnp.broadcast_to(jnp.asarray(controller.initial, dtype),
                       threshold.shape), controller)
  # No cost rises from inf, so that the first derivative is 0.
  return ConstraintState(initial, initial, jnp.full_like(initial, jnp.inf))


def update(
    state: ConstraintState, cost: jax.Array, controller: Controller
) -> ConstraintState:
  """Moves multipliers after a cost `[Q]` was measured; NaN moves nothing.

  With e the error `cost - threshold` and e' that of the update before,

    integral <- clip(integral + k_I e, 0, limit)
    multiplier <- clip(integral + k_P e + k_D max(e - e', 0), 0, limit).

  The integral itself is clipped, so that a constraint that has been slack for
  long is answered at once when it is violated.

  References:
    Stooke, Achiam and Abbeel, "Responsive safety in reinforcement learning by
    PID Lagrangian methods", ICML 2020, algorithm 2. There the gain multiplies
    the sum of errors, here each error, so that it may change in training.

  >>> controller = Controller(jnp.array([0.5, 0.5]), integral=2.0)
  >>> state = update(init(controller), jnp.array([0.75, 0.25]), controller)
  >>> state.multiplier
  Array([0.5, 0. ], dtype=float32)
  """
  if cost.shape != state.integral.shape:
    raise ValueError(f"cost has shape {cost.shape}; expected "
                     f"{state.integral.shape}, as threshold.")
  error = cost - controller.threshold
  integral = _project(state.integral + controller.integral * error, controller)
  rise = jnp.maximum(error - state.error, 0)
  multiplier = _project(
      integral + controller.proportional * error
      + controller.derivative * rise, controller)
  moved = ConstraintState(multiplier, integral, error)
  return jax.tree.map(
      lambda new, old: jnp.where(jnp.isnan(cost), old, new), moved, state)


def _project(value: jax.Array, controller: Controller) -> jax.Array:
  return jnp.clip(value, 0, controller.limit)
