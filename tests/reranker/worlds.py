"""A small home page of which everything is known, for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator
from harmonrank_jax.reranker import synthetic

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


draw = jax.jit(functools.partial(
    synthetic.synthetic_world, simulator=PAGE, num_users=USERS,
    num_places=PLACES, num_items=ITEMS, num_features=WIDTH))


def make_params(seed=0, response=None, **changes):
  """A world, changed field by field."""
  params = changed(draw(jax.random.key(seed)), changes)
  return params if response is None else params._replace(response=response)


def make_response(seed=0, **changes):
  """How users respond; every cause is felt unless it is changed."""
  return changed(draw(jax.random.key(seed)).response, changes)


def changed(tree, changes):
  """The NamedTuple with some fields replaced, in single precision."""
  return tree._replace(**{
      name: _narrow(value) for name, value in changes.items()})


def _narrow(values):
  values = np.asarray(values)
  kind = {"f": np.float32, "i": np.int32}.get(values.dtype.kind, bool)
  return jnp.asarray(values, kind)


@jax.jit
def visits(params, key):
  """`DAYS` days without corrections, and their log."""
  result = rollout.simulate_visits(
      PAGE, params, rollout.no_action(PAGE), key=key, num_users=DAYS)
  return result, exposures_of(result)


def exposures_of(visits):
  """The log of `Visits`; slates that were not shown are masked."""
  num_users = visits.window.shape[1]
  requests = visits.where.shape[2]

  def arranged(values):  # [W, B, R, ...] to [B * W * R, ...]
    values = jnp.moveaxis(values, 0, 1)
    return values.reshape(-1, *values.shape[3:])

  pages = jax.tree.map(arranged, visits.pages)
  time = jnp.broadcast_to(visits.window[:, :, None] + 0.5, visits.where.shape)
  where = pages.where & arranged(visits.where)[:, None]
  return response_lib.Exposures(
      log_odds=pages.log_odds, categories=pages.categories,
      similarity=pages.similarity, clicks=pages.clicks & where,
      dismissed=pages.dismissed & where, where=where,
      time=arranged(time).astype(jnp.float32),
      day_ids=jnp.repeat(
          jnp.arange(num_users, dtype=jnp.int32), WINDOWS * requests))


@functools.cache
def default_params():
  return make_params()


def log_of(params, seed=0, calls=20):
  """A log of `ROWS` slates; those after the last that was shown are masked."""
  parts = []
  for number, key in enumerate(jax.random.split(jax.random.key(seed), calls)):
    log = arrays(visits(params, key)[1])
    shown = log.where.any(axis=1)
    log = log._replace(day_ids=log.day_ids + DAYS * number)
    parts.append(response_lib.Exposures(*(x[shown] for x in log)))
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
