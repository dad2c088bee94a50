"""What a simulated world takes from a log of slates.

The exposures a response is fitted to, the items each user can be shown, and
how often and when users come.
"""

import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments.runs import errors
from harmonrank_jax.data import slate_logs
from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import simulator

NUM_WINDOWS = response_lib.NUM_WINDOWS
_WINDOW_MS = slate_logs.DAY_MS / NUM_WINDOWS
# The memory of a simulated world grows with both.
_MAX_USERS, _MAX_PLACES = 1024, 512
# Requests a day of users who never had two on one day.
_MIN_ACTIVITY = 0.05


def exposures(log: slate_logs.SlateLog) -> response_lib.Exposures:
  """The log as a response model takes it, times in windows."""
  fields = log._asdict() | {"time": _time(log)}
  return response_lib.Exposures._make(
      jnp.asarray(fields[name]) for name in response_lib.Exposures._fields)


def make_pool(
    log: slate_logs.SlateLog, *, num_candidates: int, seed: int,
    max_users: int = _MAX_USERS, max_places: int = _MAX_PLACES,
) -> tuple[simulator.Pool, np.ndarray]:
  """What each user can be shown: all that the log has shown them, shuffled."""
  rng = np.random.default_rng(seed)
  user, item, row, slot = _newest_exposures(log)
  counts = np.bincount(user)
  users = _chosen_users(counts, num_candidates, max_users, rng)
  most = min(int(counts[users].max()), max_places)
  num_places = num_candidates * max(most // num_candidates, 1)
  places, where = _shuffled(counts, users, num_places, num_candidates, rng)
  at = row[places], slot[places]
  return simulator.Pool(*map(jnp.asarray, (
      log.item_features, log.item_categories, item[places].astype(np.int32),
      log.log_odds[at], log.log_value[at], where))), users


def _newest_exposures(
    log: slate_logs.SlateLog,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """User, item, slate and slot, one for each of a user's items: the newest."""
  row, slot = np.nonzero(log.where)
  user, item = log.user[row], log.items[row, slot]
  order = np.lexsort((log.time_ms[row], log.day[row], item, user))
  user, item = user[order], item[order]
  is_last = np.append((np.diff(user) != 0) | (np.diff(item) != 0), True)
  newest = order[is_last]
  return user[is_last], item[is_last], row[newest], slot[newest]


def _chosen_users(
    counts: np.ndarray, num_candidates: int, max_users: int,
    rng: np.random.Generator,
) -> np.ndarray:
  """`[U]`, some of those with items enough."""
  enough = max(1, num_candidates // 2)
  users = np.flatnonzero(counts >= enough)
  if not len(users):
    raise errors.UserError(
        f"no user has been shown {enough} different items, of which to draw "
        "the candidates of a request; lower --num_candidates.")
  if len(users) > max_users:
    users = np.sort(rng.choice(users, max_users, replace=False))
  return users


def _shuffled(
    counts: np.ndarray, users: np.ndarray, num_places: int,
    num_candidates: int, rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """`[U, P]` places of the users' items, and a mask of those in use."""
  starts = np.cumsum(counts) - counts
  places = np.zeros((len(users), num_places), np.int64)
  where = np.zeros(places.shape, bool)
  for row, number in enumerate(users):
    own = starts[number] + rng.permutation(counts[number])
    # The same order again and again, a run of candidates or longer, so that
    # no run has an item twice, nor around the end.
    times = -(-num_places // max(len(own), num_candidates))
    for block in np.array_split(np.arange(num_places), times):
      used = block[:len(own)]
      places[row, used] = own[:len(used)]
      where[row, used] = True
  return places, where


def activity(log: slate_logs.SlateLog, users: np.ndarray) -> np.ndarray:
  """`[U]` expected requests of a day, given that a user comes on it.

  The log has no days without a request. The rate is therefore that of a
  Poisson number known to be above 0, whose mean is rate / (1 - exp(-rate)).
  """
  num_requests = np.bincount(log.user, minlength=users.max() + 1)[users]
  days = np.unique(log.user * (log.day.max() + 1) + log.day)
  num_days = np.bincount(
      days // (log.day.max() + 1), minlength=users.max() + 1)[users]
  mean = np.maximum(num_requests / np.maximum(num_days, 1),
                    _MIN_ACTIVITY / -np.expm1(-_MIN_ACTIVITY))
  # Lambert's W solves mean = rate / (1 - exp(-rate)) for the rate.
  rate = mean + special.lambertw(-mean * np.exp(-mean)).real
  return rate.astype(np.float32)


def arrivals(log: slate_logs.SlateLog) -> np.ndarray:
  """`[W]` shares of a day's requests by window, smoothed over an hour."""
  windows = np.clip(_time(log).astype(int), 0, NUM_WINDOWS - 1)
  counts = np.bincount(windows, minlength=NUM_WINDOWS) + 0.5
  smooth = np.sum([np.roll(counts, shift) for shift in (-1, 0, 1, 2)], axis=0)
  return (smooth / smooth.sum()).astype(np.float32)


def _time(log: slate_logs.SlateLog) -> np.ndarray:
  """`[R]` float32, of the day, in windows."""
  return (log.time_ms / _WINDOW_MS).astype(np.float32)
