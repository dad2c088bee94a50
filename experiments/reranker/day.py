"""What ppo does in the first world judged in: mean actions, a user's slates."""

import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reranker import policies
from experiments.reranker import world as world_lib
from harmonrank_jax.reranker import fidelity as fidelity_lib
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator as simulator_lib

# First hour, and the hour after the last, by the name of the time.
TIMES = {"morning, 8 to 10 h": (8, 10), "evening, 20 to 22 h": (20, 22)}
# For each seed, the days of so many users are simulated.
_USERS = 256
_WINDOW_MINUTES = 24 * 60 // rollout.NUM_WINDOWS


class Action(NamedTuple):
  """The mean action at a time of the day."""

  corrections: np.ndarray | None  # `[K, C]` of log pCTR; None if no user came
  theta: float  # Moved by the knob; NaN if no user came.


class Slate(NamedTuple):
  """A slate of K positions."""

  minutes: int  # Since midnight.
  categories: np.ndarray  # `[K]` int
  where: np.ndarray  # `[K]` bool, True = an item was shown
  clicks: np.ndarray  # `[K]` bool
  diversity: float  # `log det S_Y / K`


class Day(NamedTuple):
  """What ppo does."""

  actions: dict[str, Action]  # Means over all seeds, by `TIMES`.
  slates: list[Slate]  # Of one user, under the first seed.


def simulate_day(fitted: world_lib.FittedLog, ours: policies.Contender) -> Day:
  """Simulates users' days in the first world judged in, under every seed."""
  params = ours.params._replace(response=next(iter(fitted.responses.values())))
  simulated = jax.jit(functools.partial(
      _simulated, ours.simulator, ours.action_fn))
  total = np.zeros((len(TIMES), ours.simulator.action_size))
  count = np.zeros(len(TIMES))
  slates: list[Slate] = []
  for seed in range(len(jax.tree.leaves(ours.weights)[0])):
    weights = ppo.take_one(ours.weights, seed)
    visits, summed, acted = simulated(weights, params, jax.random.key(seed))
    total += summed
    count += acted
    slates = slates or _slates_of_one(visits)
  return Day({name: _action(ours.simulator, params, total[k], count[k])
              for k, name in enumerate(TIMES)}, slates)


def _simulated(
    simulator: simulator_lib.Simulator, action_fn: Any, weights: Any,
    params: simulator_lib.Params, key: jax.Array,
) -> tuple[rollout.Visits, jax.Array, jax.Array]:
  """Days of users, and sums `[T, A]` and numbers `[T]` of actions by time."""
  visits = rollout.simulate_visits(
      simulator, params, functools.partial(action_fn, weights), key=key,
      num_users=_USERS)
  acts = jnp.any(visits.where, axis=2)
  hour = visits.window * fidelity_lib.NUM_HOURS // rollout.NUM_WINDOWS
  at_time = jnp.stack([
      acts & (hour >= begin) & (hour < end)
      for begin, end in TIMES.values()]).astype(jnp.float32)
  return (visits, jnp.einsum("twb,wba->ta", at_time, visits.action),
          jnp.sum(at_time, axis=(1, 2)))


def _action(
    simulator: simulator_lib.Simulator, params: simulator_lib.Params,
    total: np.ndarray, count: float,
) -> Action:
  if not count:
    return Action(None, float("nan"))
  corrections, theta = simulator.corrections(
      jnp.asarray(total / count, jnp.float32), params.theta)
  return Action(np.asarray(corrections), float(theta))


def _slates_of_one(visits: rollout.Visits) -> list[Slate]:
  """The slates of a user with a median number of them."""
  visits = jax.tree.map(np.asarray, visits)
  counts = visits.where.sum(axis=(0, 2))
  user = int(np.argsort(counts, kind="stable")[len(counts) // 2])
  slates = []
  for step, request in zip(*np.nonzero(visits.where[:, user]), strict=True):
    shown = jax.tree.map(lambda leaf, at=(step, user, request): leaf[at],
                         visits.pages)
    slates.append(Slate(
        _WINDOW_MINUTES * int(visits.window[step, user]), shown.categories,
        shown.where, shown.clicks, float(shown.diversity)))
  return slates
