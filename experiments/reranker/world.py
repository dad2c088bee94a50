"""The home page of a log: worlds to train in, worlds to be judged in.

Worlds to train in are made from the first days: their arrivals and response,
bootstrapped and augmented. Worlds to be judged in have the arrivals and the
response of the last days, to which nothing else is fitted, with constants
changed as `WORLDS` says. Users and candidates are those of the first days in
both, drawn anew.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reranker import slate_logs as home_log
from harmonrank_jax.reranker import augmentation
from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import fidelity as fidelity_lib
from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import response_fit
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import score_calibration as calibration
from harmonrank_jax.reranker import simulator as simulator_lib

NUM_WINDOWS = simulator_lib.NUM_WINDOWS
# Fixed before anything was compared.
WORLDS: dict[str, Callable[
    [response_lib.ResponseModel], response_lib.ResponseModel]] = {
    "held_out": lambda r: r,
    "tiring": lambda r: r._replace(fatigue=1.5 * r.fatigue),
    "tidal": lambda r: r._replace(demand=1.5 * r.demand),
    "fresh": lambda r: r._replace(recovery=r.recovery ** 2),
}
# Where the hour and the user's day mean nothing, and a static calibration is
# as good as anything.
STATIC_WORLD = "static"
# By the name they have in tables.
CALIBRATIONS: dict[str, calibration.Calibration] = {
    "uncalibrated": calibration.uncalibrated,
    "intercepts": calibration.intercepts,
    "platt": calibration.platt,
    "isotonic": calibration.isotonic_by_category,
    "platt_by_hour": calibration.platt_by_hour,
}
_PROBE_USERS = 256
# Of theta: nearly all diversity, and nearly all relevance.
_PROBE_THETAS = (0.02, 0.995)


def fit_response(
    log: home_log.HomeLog, num_categories: int, *, seed: int
) -> response_fit.ResponseFit:
  """How the users of a log respond."""
  return jax.jit(functools.partial(
      response_fit.fit_response, num_categories=num_categories))(
          jax.tree.map(jnp.asarray, log.exposures), key=jax.random.key(seed))


def make_params(
    log: home_log.HomeLog, drawn: tuple[simulator_lib.Pool, np.ndarray],
    response: response_lib.ResponseModel, arrivals: np.ndarray, *, theta: float,
    values: Sequence[float], log_value_counts: bool,
) -> simulator_lib.Params:
  """A world with the users and candidates of a log, scores as predicted.

  Args:
    log: of the users.
    drawn: their candidates, by `home_log.make_pool`.
    response: of the users.
    arrivals: `[W]`.
    theta: of the DPP.
    values: `[C]`, what a click is worth.
    log_value_counts: whether relevance is that of a click with conversion.
  """
  pool, users = drawn
  if not log_value_counts:
    pool = pool._replace(log_value=jnp.zeros_like(pool.log_value))
  return simulator_lib.Params(
      pool=pool, response=response, arrivals=jnp.asarray(arrivals),
      activity=jnp.asarray(home_log.activity(log, users)),
      base=pool.log_odds, shift=jnp.zeros((NUM_WINDOWS, len(values))),
      theta=jnp.float32(theta), values=jnp.asarray(values, jnp.float32))


def calibrated(
    params: simulator_lib.Params, exposures: response_lib.Exposures,
    calibrate: calibration.Calibration,
) -> simulator_lib.Params:
  """A world whose page goes by calibrated scores."""
  num_categories = params.shift.shape[1]
  kinds = params.pool.item_categories[params.pool.items]
  found = jax.jit(functools.partial(calibrate, num_categories=num_categories))(
      jax.tree.map(jnp.asarray, exposures), params.pool.log_odds, kinds)
  return params._replace(base=found.base, shift=found.shift)


def training_worlds(
    fit: response_fit.ResponseFit, arrivals: jax.Array, count: int, *,
    seed: int,
) -> tuple[response_lib.ResponseModel, jax.Array]:
  """Augmented responses and arrivals, `[count, ...]`."""
  keys = jax.random.split(jax.random.key(seed), count)
  return jax.jit(jax.vmap(
      functools.partial(augmentation.augment,
                        spread=augmentation.Spread()),
      in_axes=(0, None, None)))(
          keys, fit.replicates, arrivals)


# Of `Params`, what differs between training worlds.
WORLD_AXES = simulator_lib.Params._make(
    0 if name in ("response", "arrivals") else None
    for name in simulator_lib.Params._fields)


def evaluation_worlds(
    response: response_lib.ResponseModel
) -> dict[str, response_lib.ResponseModel]:
  """Responses by the name of their world, the static one last."""
  worlds = {name: change(response) for name, change in WORLDS.items()}
  worlds[STATIC_WORLD] = response._replace(
      fatigue=jnp.zeros(()), demand=jnp.zeros_like(response.demand))
  return worlds


class Probe(NamedTuple):
  """What diversity a page can have, as the cost `-log det S_Y / K`.

  Attributes:
    least: of the most varied slates.
    most: of the most relevant ones.
    today: `[B]`, of the days of B users with uncalibrated slates.
    mean: `[]`, of all of today's slates.
  """

  least: float
  most: float
  today: np.ndarray
  mean: float

  def threshold(self, quantile: float | None) -> float:
    """What cost is allowed: the mean of today's slates, or a quantile of days.
    """
    if quantile is None:
      return self.mean
    return float(np.quantile(self.today, quantile))

  def is_feasible(self, threshold: float) -> bool:
    """Whether the most varied slates meet it."""
    return threshold >= self.least


class Thetas:
  """Mean cost and clicks of a page, by theta."""

  def __init__(self, simulator: simulator_lib.Simulator, *, seed: int):
    self._key = jax.random.key(seed)
    self._outcome = jax.jit(functools.partial(
        rollout.simulate, simulator,
        policy_fn=rollout.no_action(simulator), num_users=_PROBE_USERS))

  def probe(self, params: simulator_lib.Params) -> Probe:
    """The feasible range, and today's place in it."""
    least, most = (self.cost(params, theta) for theta in _PROBE_THETAS)
    outcome = self._outcome(params, key=self._key)
    cost, counted = outcome.cost[:, 0], outcome.counted[:, 0]
    today = np.asarray(cost / jnp.maximum(counted, 1))
    return Probe(least, most, today, float(cost.sum() / counted.sum()))

  def cost(self, params: simulator_lib.Params, theta: float) -> float:
    """Mean cost of slates."""
    outcome = self._outcome(
        params._replace(theta=jnp.float32(theta)), key=self._key)
    return float(outcome.cost[:, 0].sum() / outcome.counted[:, 0].sum())

  def at_budget(
      self, params: simulator_lib.Params, threshold: float
  ) -> float:
    """The largest theta whose slates keep to a threshold."""
    low, high = _PROBE_THETAS
    if self.cost(params, high) <= threshold:
      return high
    for _ in range(10):
      middle = (low + high) / 2
      if self.cost(params, middle) <= threshold:
        low = middle
      else:
        high = middle
    return low


def controller(
    rule: str, threshold: jax.Array, multiplier: float
) -> constraints.Controller:
  """Gains by the name of the rule, for costs of a slate of about 1."""
  gains = {
      "fixed": {}, "ascent": {"integral": 0.5},
      "pi": {"integral": 0.5, "proportional": 2.0},
      "pid": {"integral": 0.5, "proportional": 2.0, "derivative": 1.0}}
  return constraints.Controller(
      threshold, initial=multiplier, limit=100.0, **gains[rule])


def judge(
    response: response_lib.ResponseModel, held_out: home_log.HomeLog
) -> fidelity_lib.Fidelity:
  """How the fit to one log predicts another."""
  return jax.jit(fidelity_lib.fidelity)(
      response, jax.tree.map(jnp.asarray, held_out.exposures),
      is_random=jnp.asarray(held_out.is_random))
