"""What a simulated world takes from a log of slates."""

import functools

import numpy as np
import pytest

from experiments.reranker import pools
from experiments.runs import errors
from harmonrank_jax.data import generator
from harmonrank_jax.data import parquet
from harmonrank_jax.data import slate_logs
from harmonrank_jax.data import slate_rows


@pytest.fixture(scope="module")
def log(tmp_path_factory):
  folder = tmp_path_factory.mktemp("embedded")
  week = generator.generate_log(
      generator.LogConfig(num_exposures=4000, world="regulars"))
  parquet.write_parquet(week.log, folder / "log.parquet")
  parquet.write_parquet(week.items, folder / "items.parquet")
  return slate_logs.read_slate_log(
      folder / "log.parquet", folder / "items.parquet",
      slate_rows.SlateColumns(dismissed="dismissed"))


def test_exposures_are_the_log_with_times_in_windows(log):
  exposures = pools.exposures(log)
  np.testing.assert_allclose(
      exposures.time, log.time_ms / (15 * 60_000), rtol=1e-6)
  assert exposures.time.dtype == np.float32
  assert exposures.time.max() < pools.NUM_WINDOWS
  for name in exposures._fields:
    if name != "time":
      np.testing.assert_array_equal(
          getattr(exposures, name), getattr(log, name))


def shown_to(log, user):
  """Items, each with the log-odds it was last shown with."""
  newest = {}
  for row in np.flatnonzero(log.user == user):
    for slot in np.flatnonzero(log.where[row]):
      newest[int(log.items[row, slot])] = log.log_odds[row, slot]
  return newest


@pytest.mark.parametrize("num_candidates", [20, 60, 200])
def test_a_pool_is_what_users_were_shown(log, num_candidates):
  pool, users = pools.make_pool(
      log, num_candidates=num_candidates, seed=0)
  items, where = np.asarray(pool.items), np.asarray(pool.where)
  assert items.shape == where.shape and len(items) == len(users)
  places = items.shape[1]
  assert num_candidates <= places
  enough = 0
  for row, user in enumerate(users):
    newest = shown_to(log, user)
    assert len(newest) >= num_candidates // 2
    assert set(items[row][where[row]]) <= set(newest)
    for item, odds in zip(items[row][where[row]],
                          np.asarray(pool.log_odds)[row][where[row]],
                          strict=True):
      assert odds == newest[int(item)]
    full = min(num_candidates, len(newest))
    enough += full == num_candidates
    for start in range(places):
      run = (start + np.arange(num_candidates)) % places
      drawn = items[row, run][where[row, run]]
      # As many as a request needs, or all there are; none of them twice.
      assert len(drawn) == len(set(drawn)) == full
  others = set(range(log.user.max() + 1)) - set(users)
  assert all(len(shown_to(log, user)) < num_candidates // 2 for user in others)
  assert enough > 0
  np.testing.assert_array_equal(pool.item_categories, log.item_categories)
  again, _ = pools.make_pool(log, num_candidates=num_candidates, seed=1)
  assert (np.asarray(again.items) != items).any()


def test_a_pool_of_many_users_and_places(log):
  make = functools.partial(
      pools.make_pool, log, seed=0, max_users=5, max_places=50)
  pool, users = make(num_candidates=20)
  assert len(users) == 5 and (np.diff(users) > 0).all()
  assert 20 <= pool.items.shape[1] <= 50
  # A request is never larger than its pool.
  assert make(num_candidates=60)[0].items.shape[1] >= 60


def test_a_pool_of_nobody(log):
  with pytest.raises(errors.UserError, match="no user has been shown 5000"):
    pools.make_pool(log, num_candidates=10_000, seed=0)


def made_of(user, day, windows=0.0):
  """A log of which only users, days and times matter."""
  user = np.asarray(user)
  time_ms = (np.zeros(len(user)) + windows) * 15 * 60_000
  none = dict.fromkeys(slate_logs.SlateLog._fields)
  return slate_logs.SlateLog(**{
      **none, "user": user, "day": np.asarray(day), "time_ms": time_ms})


def test_activity_inverts_the_mean_of_days_with_a_request():
  # Users of 1, 1.05, 1.5, 4 and 30 requests a day that they come on.
  user = np.repeat([0, 1, 2, 3, 5], [3, 21, 3, 8, 30])
  day = np.concatenate([
      [0, 1, 2], [*range(20), 19], [0, 0, 1], [0] * 3 + [4] * 5, [6] * 30])
  rates = pools.activity(made_of(user, day), np.array([5, 3, 2, 1, 0]))
  mean = rates[:4] / -np.expm1(-rates[:4].astype(float))
  np.testing.assert_allclose(mean, [30, 4, 1.5, 1.05], rtol=2e-3)
  # Never twice: the rate is known to be small only.
  np.testing.assert_allclose(rates[4], 0.05, rtol=1e-4)
  rng = np.random.default_rng(0)
  for rate in (0.4, 3.0):
    counts = rng.poisson(rate, 40_000)
    days = np.repeat(np.arange(40_000), counts)
    estimate = pools.activity(made_of(0 * days, days), np.array([0]))
    np.testing.assert_allclose(estimate, [rate], rtol=0.08)


def test_arrivals_are_shares_by_the_window():
  rng = np.random.default_rng(0)
  time = np.clip(rng.normal(40, 4, 20_000), 0, 95.9)
  shares = pools.arrivals(made_of(0 * time.astype(int),
                                     0 * time.astype(int), time))
  assert shares.shape == (96,) and shares.dtype == np.float32
  np.testing.assert_allclose(shares.sum(), 1, rtol=1e-5)
  assert (shares > 0).all() and abs(shares.argmax() - 40) <= 2
  np.testing.assert_allclose(
      shares[36:44].sum(), (np.abs(time - 40) < 4).mean(), atol=0.05)
