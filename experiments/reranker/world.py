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
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reranker import config as config_lib
from experiments.reranker import pools
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import logs
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import generator
from harmonrank_jax.data import slate_logs
from harmonrank_jax.data import slate_rows
from harmonrank_jax.reranker import augmentation
from harmonrank_jax.reranker import fidelity as fidelity_lib
from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import response_fit
from harmonrank_jax.reranker import score_calibration
from harmonrank_jax.reranker import simulator as simulator_lib

# Fixed before any policies were compared. In the static world, hour and earlier
# slates change nothing: a calibration is as good as what can be learned.
WORLDS: dict[str, Callable[
    [response_lib.ResponseModel], response_lib.ResponseModel]] = {
    "held_out": lambda r: r,
    "tiring": lambda r: r._replace(fatigue=1.5 * r.fatigue),
    "tidal": lambda r: r._replace(demand=1.5 * r.demand),
    "fresh": lambda r: r._replace(recovery=r.recovery ** 2),
    "static": lambda r: r._replace(
        fatigue=jnp.zeros(()), demand=jnp.zeros_like(r.demand)),
}
# The fields of `Params` in which training worlds differ.
WORLD_AXES = simulator_lib.Params._make(
    0 if name in ("response", "arrivals") else None
    for name in simulator_lib.Params._fields)


class FittedLog(NamedTuple):
  """The fitted log: simulator, `Params` to train and judge in, responses."""

  log: slate_logs.SlateLog  # The first days.
  held_out: slate_logs.SlateLog  # The last days.
  fit: response_fit.ResponseFit  # To the first days.
  fidelity: fidelity_lib.ResponseFidelity  # Of the fit, on the last days.
  simulator: simulator_lib.Simulator
  params: simulator_lib.Params  # To train in; scores as predicted.
  judge_params: simulator_lib.Params  # To judge in, likewise.
  # By name of the world that policies are judged in, the static one last.
  responses: dict[str, response_lib.ResponseModel]
  floors: list[float]  # `[C]`, least shares of the slots
  # By name, fitted to the first days.
  calibrations: dict[str, score_calibration.Calibration]


def columns_of(config: config_lib.Config) -> slate_rows.SlateColumns:
  """The names of the log's columns."""
  if config.data is None:
    return slate_rows.SlateColumns(
        dismissed="dismissed", value_score="score_buy")
  return slate_rows.SlateColumns._make(
      getattr(config, f"{name}_column")
      for name in slate_rows.SlateColumns._fields)


def read_log(
    config: config_lib.Config, workdir: pathlib.Path
) -> slate_logs.SlateLog:
  """Reads the log, or generates the embedded one in the workdir."""
  data, items = config.data, config.items
  if data is None:
    embedded = generator.LogConfig(
        config.num_exposures, config.log_seed, "regulars")
    data = str(logs.write_embedded_log(
        workdir / "prepared", embedded, name="log.parquet",
        items_name="items.parquet"))
    items = str(workdir / "prepared" / "items.parquet")
  log = slate_logs.read_slate_log(
      data, items, columns_of(config),
      utc_offset_hours=config.utc_offset_hours)
  workdir_lib.say(workdir, log.notes)
  return log


def fit_log(
    config: config_lib.Config, log: slate_logs.SlateLog, workdir: pathlib.Path
) -> FittedLog:
  """Fits the response, and makes the worlds."""
  is_held_out = slate_logs.held_out_days(log)
  first, last = log.of_days(~is_held_out), log.of_days(is_held_out)
  for part, days in ((first, "first"), (last, "last")):
    workdir_lib.say(workdir, _check_clicks(part, days))
  names = log.category_names
  values, floors = (
      flags.numbers_by_name(flag, getattr(config, flag) or (), names, default,
                            kind=float, expected="a number from 0")
      for flag, default in (("category_values", 1.0), ("exposure_floors", 0.0)))
  _check(config, log, floors)
  drawn = [pools.make_pool(
      first, num_candidates=config.num_candidates, seed=config.seed + number)
           for number in (0, 1)]
  fit, last_fit = (
      _fit_response(part, seed=config.seed + number)
      for number, part in enumerate((first, last)))
  workdir_lib.say(workdir, [
      f"the response did not converge on the {name} days."
      for name, each in (("first", fit), ("last", last_fit))
      if not each.is_converged])
  params, judge_params = (
      _make_params(config, first, pool, users, part_fit.response,
                   pools.arrivals(part), values)
      for (pool, users), part_fit, part in zip(
          drawn, (fit, last_fit), (first, last), strict=True))
  fidelity = jax.jit(fidelity_lib.response_fidelity)(
      fit.response, pools.exposures(last),
      is_random=jnp.asarray(last.is_random))
  responses = {name: change(last_fit.response)
               for name, change in WORLDS.items()}
  return FittedLog(
      first, last, fit, fidelity, _make_simulator(config, len(names)), params,
      judge_params, responses, floors, fit_calibrations(first))


def _check(
    config: config_lib.Config, log: slate_logs.SlateLog,
    floors: Sequence[float],
) -> None:
  """Whether the configuration asks for what the log has."""
  if sum(floors) > 1:
    raise errors.UserError(
        f"--exposure_floors={','.join(config.exposure_floors or ())} ask for "
        "more than there is: shares sum to 1.")
  positions = log.clicks.shape[1]
  if positions < config.num_slots:
    raise errors.UserError(
        f"--num_slots={config.num_slots}, but no slate of the log has more "
        f"than {positions} positions: nothing is known of those below.")


def _check_clicks(log: slate_logs.SlateLog, part: str) -> list[str]:
  """Whether a response can be fitted to a part of the log, and what is odd."""
  clicks = log.clicks[log.where]
  if clicks.all() or not clicks.any():
    raise errors.UserError(
        f"all {len(clicks):,} exposures of the {part} days are "
        f"{'clicked' if clicks.all() else 'without a click'}: how users "
        "respond is fitted to the first days and judged by the last, and both "
        "need clicks and exposures without one.")
  return [f"{what} is the same in all exposures of the {part} days: nothing "
          "can be learnt from it."
          for values, what in ((log.log_odds, "the predicted click"),
                               (log.categories, "the category"))
          if (values[log.where] == values[log.where][0]).all()]


def _make_simulator(
    config: config_lib.Config, num_categories: int
) -> simulator_lib.Simulator:
  return simulator_lib.Simulator(
      num_categories=num_categories, num_slots=config.num_slots,
      num_candidates=config.num_candidates, layout=config.layout, knob=True,
      max_requests=config.max_requests, scope=config.scope,
      spread=config.spread, feedback_rule=config.feedback_rule,
      exposure_costs=config.exposure_floors is not None)


def _fit_response(
    log: slate_logs.SlateLog, *, seed: int
) -> response_fit.ResponseFit:
  """How the users of a part of the log respond."""
  return jax.jit(functools.partial(
      response_fit.fit_response, num_categories=len(log.category_names)))(
          pools.exposures(log), key=jax.random.key(seed))


def _make_params(
    config: config_lib.Config, log: slate_logs.SlateLog,
    pool: simulator_lib.Pool, users: np.ndarray,
    response: response_lib.ResponseModel, arrivals: np.ndarray,
    values: Sequence[float],
) -> simulator_lib.Params:
  """A world with the users and candidates of a log, scores as predicted."""
  if config.relevance == "pctr":
    pool = pool._replace(log_value=jnp.zeros_like(pool.log_value))
  return simulator_lib.Params(
      pool=pool, response=response, arrivals=jnp.asarray(arrivals),
      activity=jnp.asarray(pools.activity(log, users)),
      base=pool.log_odds,
      shift=jnp.zeros((simulator_lib.NUM_WINDOWS, len(values))),
      theta=jnp.float32(config.theta), values=jnp.asarray(values, jnp.float32))


def fit_calibrations(
    log: slate_logs.SlateLog,
) -> dict[str, score_calibration.Calibration]:
  """All calibrations, by name, of the scores of a log."""
  exposures = pools.exposures(log)
  return {name: jax.jit(functools.partial(
      fit, num_categories=len(log.category_names)))(exposures)
          for name, fit in config_lib.CALIBRATIONS.items()}


def calibrated(
    params: simulator_lib.Params, calibration: score_calibration.Calibration
) -> simulator_lib.Params:
  """A world whose home page ranks by calibrated scores."""
  categories = params.pool.item_categories[params.pool.items]
  base = jax.jit(score_calibration.calibrated_log_odds)(
      calibration, params.pool.log_odds, categories)
  return params._replace(base=base, shift=calibration.shift)


def at_theta(
    params: simulator_lib.Params, theta: float
) -> simulator_lib.Params:
  """A world whose home page weighs relevance by theta."""
  return params._replace(theta=jnp.float32(theta))


def training_worlds(
    fit: response_fit.ResponseFit, arrivals: jax.Array, count: int, *,
    seed: int,
) -> tuple[response_lib.ResponseModel, jax.Array]:
  """Augmented responses and arrivals, `[count, ...]`."""
  keys = jax.random.split(jax.random.key(seed), count)
  augment = functools.partial(
      augmentation.augment_world, spread=augmentation.Spread())
  return jax.jit(jax.vmap(augment, in_axes=(0, None, None)))(
      keys, fit.replicates, arrivals)
