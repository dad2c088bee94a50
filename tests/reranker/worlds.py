"""A small home page of which everything is known, for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator

CATEGORIES, SLOTS, CANDIDATES = 4, 6, 24
USERS, PLACES, ITEMS, WIDTH = 12, 40, 60, 16
WINDOWS = simulator.NUM_WINDOWS
DAYS, ROWS = 16, 8192

PAGE = simulator.Simulator(
    num_categories=CATEGORIES, num_slots=SLOTS, num_candidates=CANDIDATES,
    max_requests=2, spread=2)

reset_one = jax.jit(PAGE.reset)
step_one = jax.jit(PAGE.step_with_pages)


def arrays(tree):
  return jax.tree.map(np.asarray, tree)


def make_response(seed=0, **changes):
  """How users respond; every cause is felt unless it is changed."""
  rng = np.random.default_rng(seed)
  windows = np.arange(WINDOWS) + 0.5
  phases = rng.uniform(0, WINDOWS, (CATEGORIES, 1))
  values = {
      "scale": 0.8, "level": 0.4 * rng.normal(size=CATEGORIES),
      "demand": 0.5 * np.cos(2 * np.pi * (windows - phases) / WINDOWS),
      "fatigue": 0.25, "recovery": 0.9, "redundancy": 1.0,
      "examination": np.linspace(1, 0.5, SLOTS), "stop": 0.2, "dismiss": 0.1}
  return response_lib.ResponseModel(**{
      name: jnp.asarray(value, jnp.float32)
      for name, value in {**values, **changes}.items()})


def make_params(seed=0, response=None, **changes):
  rng = np.random.default_rng(seed)
  places = (USERS, PLACES)
  log_odds = rng.normal(size=places) - 0.5
  centres = rng.normal(size=(CATEGORIES, WIDTH))
  kinds = rng.integers(0, CATEGORIES, ITEMS)
  pool = simulator.Pool(
      features=rng.normal(size=(ITEMS, WIDTH)) + 0.8 * centres[kinds],
      item_categories=kinds,
      items=np.stack([rng.permutation(ITEMS)[:PLACES] for _ in range(USERS)]),
      log_odds=log_odds, log_value=-rng.uniform(0, 0.5, places),
      where=np.ones(places, bool))
  values = {
      "pool": pool, "arrivals": rng.dirichlet(np.full(WINDOWS, 5.0)),
      "activity": rng.uniform(8, 24, USERS),
      "base": log_odds + 0.3 * rng.normal(size=places),
      "shift": 0.3 * rng.normal(size=(WINDOWS, CATEGORIES)),
      "theta": np.float32(0.6), "values": np.ones(CATEGORIES)}
  values = {name: jax.tree.map(_narrow, value)
            for name, value in {**values, **changes}.items()}
  return simulator.Params(response=response or make_response(), **values)


def _narrow(values):
  values = np.asarray(values)
  kind = {"f": np.float32, "i": np.int32}.get(values.dtype.kind, bool)
  return jnp.asarray(values, kind)


@jax.jit
def visits(params, key):
  """`DAYS` days without corrections, and their log."""
  found = rollout.simulate_visits(
      PAGE, params, rollout.no_action(PAGE), key=key, num_users=DAYS)
  return found, rollout.exposures_of(found)


@functools.cache
def default_params():
  return make_params()


def log_of(params, seed=0, calls=20):
  """A log of `ROWS` slates; those after the last that was shown are masked."""
  parts = []
  for number, key in enumerate(jax.random.split(jax.random.key(seed), calls)):
    found = arrays(visits(params, key)[1])
    shown = found.where.any(axis=1)
    found = found._replace(day_ids=found.day_ids + DAYS * number)
    parts.append(response_lib.Exposures(*(x[shown] for x in found)))
  joined = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
  missing = ROWS - len(joined[0])
  assert missing >= 0
  padded = [np.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1))) for x in joined]
  exposures = response_lib.Exposures(*padded)
  exposures.day_ids[ROWS - missing:] = DAYS * calls
  return exposures


def spoiled(exposures):
  """Garbage where nothing was shown."""
  where, rng = exposures.where, np.random.default_rng(0)
  put = lambda values, garbage: np.where(where, values, garbage).astype(
      values.dtype)
  return exposures._replace(
      log_odds=put(exposures.log_odds, np.nan),
      categories=put(
          exposures.categories, rng.choice([-7, 1, 99], where.shape)),
      similarity=put(exposures.similarity, np.inf),
      clicks=put(exposures.clicks, True),
      dismissed=put(exposures.dismissed, True))
