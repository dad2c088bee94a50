"""Lagrange multipliers for a vector of constraints `cost <= threshold`.

One controller, from whose gains the usual rules follow:

  fixed             all gains 0: the multiplier stays at `initial`
  projected ascent  integral > 0: gradient ascent on the dual
  PI                also proportional > 0: damps the circling of policy and
                    multiplier around their saddle point
  PID               also derivative > 0: answers a rising cost before it is too
                    high

A threshold of inf is none: its multiplier falls to 0 and stays there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Controller(NamedTuple):
  """Thresholds of the constraints, and gains of the multipliers; may be traced.

  `threshold` is `[Q]`, the others are `[Q]` or scalars. Gains and limit have no
  unit: `Units` give them one.
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


class Units(NamedTuple):
  """What gains and limits are measured in; learners have those of returns."""

  reward: jax.Array | float = 1.0  # [], 0 counts as 1
  cost: jax.Array | float = 1.0  # [Q] or scalar; 0 = not known, nothing moves


class ConstraintState(NamedTuple):
  """The state of a controller, `[Q]` each."""

  multiplier: jax.Array  # What a unit of cost is worth, at least 0.
  integral: jax.Array  # The part of it that persists, at least 0.
  error: jax.Array  # Of the last update; inf before the first one.


def init(controller: Controller) -> ConstraintState:
  """The state before any cost was measured.

  Raises:
    ValueError: if shapes differ, or a threshold that is not traced is NaN.
  """
  threshold = jnp.asarray(controller.threshold)
  if threshold.ndim != 1:
    raise ValueError(f"threshold has shape {threshold.shape}; expected [Q].")
  # One that is traced has no value yet.
  is_traced = isinstance(controller.threshold, jax.core.Tracer)
  if not is_traced and np.isnan(np.asarray(controller.threshold)).any():
    raise ValueError(f"threshold has a NaN: {controller.threshold}; inf is the "
                     "threshold of no constraint.")
  for name, value in controller._asdict().items():
    if jnp.shape(value) not in ((), threshold.shape):
      raise ValueError(f"{name} has shape {jnp.shape(value)}; expected () or "
                       f"{threshold.shape}, as threshold.")
  dtype = jnp.promote_types(threshold.dtype, jnp.float32)
  initial = jnp.maximum(jnp.broadcast_to(
      jnp.asarray(controller.initial, dtype), threshold.shape), 0)
  # No cost rises from inf, so that the first derivative is 0.
  return ConstraintState(initial, initial, jnp.full_like(initial, jnp.inf))


def update(
    state: ConstraintState, cost: jax.Array, controller: Controller,
    *, units: Units | None = None,
) -> ConstraintState:
  """Moves multipliers after a cost `[Q]` was measured; NaN moves nothing.

  With e the error `cost - threshold` in units of cost, e' that of the update
  before, and u = reward unit / cost unit that of a multiplier,

    integral <- clip(integral + u k_I e, 0, u limit)
    multiplier <- clip(integral + u k_P e + u k_D max(e - e', 0), 0, u limit).

  `units` None stands for ones.

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
  units = units or Units()
  cost_unit = jnp.asarray(units.cost, cost.dtype)
  is_known = ~jnp.isnan(cost) & (cost_unit > 0)
  cost_unit = jnp.where(cost_unit > 0, cost_unit, 1)
  reward_unit = jnp.asarray(units.reward, cost.dtype)
  unit = jnp.where(reward_unit > 0, reward_unit, 1) / cost_unit
  # All is finite, however far away a threshold is: 0 times it is 0.
  largest = float(jnp.finfo(cost.dtype).max) ** 0.5
  finite = lambda value: jnp.clip(value, -largest, largest)
  error = finite(cost - controller.threshold)
  scaled = lambda gain, change: unit * gain * finite(change / cost_unit)
  project = lambda value: jnp.clip(
      value, 0, finite(unit * controller.limit))
  integral = project(state.integral + scaled(controller.integral, error))
  rise = jnp.maximum(error - state.error, 0)
  multiplier = project(
      integral + scaled(controller.proportional, error)
      + scaled(controller.derivative, rise))
  # No multiplier of a constraint that is none.
  is_none = jnp.isposinf(controller.threshold)
  moved = ConstraintState(
      jnp.where(is_none, 0, multiplier), jnp.where(is_none, 0, integral), error)
  return jax.tree.map(
      lambda new, old: jnp.where(is_known, new, old), moved, state)
