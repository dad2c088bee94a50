"""Numbers of an update that are not finite: where they are, and what is said.

Nothing can be raised inside of `jit`. An update that meets such a number
changes no weights, multipliers or statistics, and its diagnostics say where the
number is; the host decides what comes of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import trajectory as trajectory_lib

# What is looked at, in this order: arrays with a step and an environment, then
# figures of the whole update.
_PLACED = ("observation", "action", "log-probability", "reward", "cost",
           "counted", "value where truncated", "return")
_WHOLE = ("variance of return", "gradient of the critic",
          "gradient of the actor")


class BadNumber(NamedTuple):
  """The first number of an update that is not finite, if there is one."""

  array: jax.Array  # [] int32, which one; -1 = all are finite
  # [] int32 each; step T is what the environments show after the last one.
  step: jax.Array
  environment: jax.Array
  component: jax.Array  # 0 where there is only one
  value: jax.Array  # [], NaN or infinite; 0 if all are finite


def find_bad_number(
    trajectory: trajectory_lib.Trajectory,
    last_observation: jax.Array,
    returns: jax.Array,
    figures: Sequence[jax.Array],
) -> BadNumber:
  """Looks through an update.

  What is masked may be anything: actions where none acted, with their
  log-probabilities, and values where nothing was cut off.

  Args:
    trajectory: the steps.
    last_observation: `[E, O]`, after them.
    returns: `[T, E, M + Q]`.
    figures: the variance of returns `[M + Q]`, and the norms of the gradients
      of critic and actor.

  Returns:
    The `BadNumber`.
  """
  acted = lambda x: jnp.where(
      trajectory_lib.expand(trajectory.where, x), x, 0)
  arrays = (
      jnp.concatenate([trajectory.observation, last_observation[None]]),
      acted(trajectory.action), acted(trajectory.log_prob), trajectory.reward,
      trajectory.cost, trajectory.counted,
      jnp.where(trajectory.truncated[..., None], trajectory.final_values, 0),
      returns, *(x.reshape(1, 1, -1) for x in figures))
  none = jnp.full((), -1, jnp.int32)
  found = BadNumber(none, none, none, none, jnp.zeros((), returns.dtype))
  # The first array overwrites what later ones have.
  for number, array in reversed(list(enumerate(arrays))):
    if not array.size:
      continue
    flat = ~jnp.isfinite(array.reshape(-1))
    place = jnp.argmax(flat).astype(jnp.int32)
    num_components = array.size // (array.shape[0] * array.shape[1])
    row, component = place // num_components, place % num_components
    here = BadNumber(
        jnp.int32(number), row // array.shape[1], row % array.shape[1],
        component, array.reshape(-1)[place].astype(found.value.dtype))
    is_bad = flat[place]
    found = BadNumber(*(
        jnp.where(is_bad, new, old)
        for new, old in zip(here, found, strict=True)))
  return found


def check_finite(bad: BadNumber) -> None:
  """Raises ValueError if there is a number that is not finite; names its place.

  On the host, for the `bad` of the diagnostics of one learner, or of many with
  leading axes.
  """
  bad = jax.tree.map(np.asarray, bad)
  if (bad.array < 0).all():
    return
  first = np.unravel_index(np.argmax(bad.array >= 0), bad.array.shape)
  array, step, environment, component, value = (x[first] for x in bad)
  place = (f"environment {environment} at step {step} of "
           if array < len(_PLACED) else "")
  of_learner = f" of learner {', '.join(map(str, first))}" if first else ""
  raise ValueError(
      f"{(*_PLACED, *_WHOLE)[array]} {component} is {value} in {place}the "
      f"update{of_learner}; nothing was learned from it. Environments must "
      "show finite numbers, far from the largest ones.")
