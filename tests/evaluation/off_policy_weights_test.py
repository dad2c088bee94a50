"""Importance weights, limits and bounds, where weights are heavy."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.data import open_bandit
from harmonrank_jax.evaluation import off_policy
from harmonrank_jax.evaluation import off_policy_weights
from tests.evaluation import off_policy_logs as logs

DATA = pathlib.Path(__file__).parents[3] / "shared/data/open_bandit_small"


def test_importance_weights():
  nan = np.nan
  result = jax.jit(off_policy_weights.importance_weights)(
      np.array([0.5, 0, 0.5, 0, 0.5, nan, -1, 0.5], np.float32),
      np.array([0.25, 0.5, 0, 0, nan, 0.5, 0.5, np.inf], np.float32))
  np.testing.assert_array_equal(
      result, [2, 0, nan, nan, nan, nan, nan, nan])


@pytest.mark.parametrize("chance, ratio", [
    pytest.param(1e-3, 2.0, id="fifteen of a thousandth"),
    pytest.param(1e-6, 0.5, id="of a millionth"),
    pytest.param(1e-20, 1.01, id="of 1e-20")])
def test_propensities_of_slates_are_below_float32(chance, ratio):
  # Rounded to float32 first, both are 0.
  num_slots = 15
  logging = np.full((2, num_slots), chance)
  weights = off_policy_weights.importance_weights(
      (ratio * logging).prod(-1), logging.prod(-1))
  assert weights.dtype == np.float32
  np.testing.assert_allclose(weights, ratio**num_slots, rtol=1e-6)


@pytest.mark.parametrize("target, logging, said", [
    pytest.param([0.1, 35.0], [0.5, 0.5],
                 r"target_prob is 35.0 at \[1\].*divide by 100",
                 id="percentage"),
    pytest.param([0.1], [[0.5], [1.01]], r"logging_prob is 1.01 at \[1, 0\]",
                 id="logging"),
    pytest.param(2, 0.5, r"target_prob is 2 at \[\]", id="scalar"),
    pytest.param(np.inf, 0.5, "target_prob is inf", id="infinite")])
def test_probabilities_above_1_are_refused(target, logging, said):
  with pytest.raises(ValueError, match=said):
    off_policy_weights.importance_weights(target, logging)
  assert np.isnan(jax.jit(off_policy_weights.importance_weights)(
      np.asarray(target, np.float32), np.asarray(logging, np.float32))).any()


def test_densities_may_be_above_1_and_probabilities_are_rounded():
  np.testing.assert_array_equal(
      off_policy_weights.importance_weights(
          np.array([3.0]), np.array([2.0]), densities=True), [1.5])
  rounded = np.float32(1 + 1e-6)
  assert off_policy_weights.importance_weights(rounded, 1.0) == rounded


def test_shrinkage_limits():
  weights = np.array([0, 0.1, 1, 30, 1e4, 1e18], np.float32)
  shrink_weights = jax.jit(off_policy_weights.shrink_weights)
  np.testing.assert_array_equal(shrink_weights(weights, np.inf), weights)
  for none in (0.0, -1.0):
    np.testing.assert_array_equal(shrink_weights(weights, none), 0 * weights)
  wide = weights.astype(np.float64)
  np.testing.assert_allclose(
      shrink_weights(weights, 9.0), 9 * wide / (wide**2 + 9), rtol=1e-6)
  assert (shrink_weights(weights, 9.0) <= 1.5).all()
  assert np.isnan(shrink_weights(weights * np.nan, 0.0)).all()


HEAVY_LIMITS = np.array([0, 0.1, 1, 10, 100, 1000, np.inf], np.float32)
HEAVY_VALUE = 0.5


@jax.jit
def heavy_estimates(rewards, weights, predictions):
  """For one log: chosen limit, value at each limit, IPS, and the bound."""
  def shrunk(limit):
    return off_policy.off_policy_value(
        rewards, weights, predicted_rewards=predictions,
        predicted_values=predictions,
        weight_fn=lambda w: off_policy_weights.shrink_weights(w, limit))
  return (off_policy_weights.least_error_limit(shrunk, HEAVY_LIMITS),
          jax.lax.map(shrunk, HEAVY_LIMITS).value,
          off_policy.off_policy_value(rewards, weights),
          off_policy_weights.value_lower_bound(rewards, weights, limit=0.5))


@pytest.fixture(scope="module")
def heavy():
  """Logs in which the logging policy hardly ever does what is best."""
  rng = np.random.default_rng(0)
  shape = (1000, 200)
  rare = np.exp(rng.uniform(np.log(1e-4), np.log(0.5), shape))
  action = rng.random(shape) < rare
  rewards = rng.random(shape) < 0.3 + 0.4 * action
  weights = (0.5 / np.where(action, rare, 1 - rare)).astype(np.float32)
  return jax.vmap(heavy_estimates)(
      rewards, weights, np.full(shape, 0.4, np.float32))


def test_the_limit_of_least_error(heavy):
  limits, values, *_ = map(np.asarray, heavy[:2])
  squared = (values.astype(np.float64) - HEAVY_VALUE) ** 2
  chosen = squared[np.arange(len(limits)),
                   np.searchsorted(HEAVY_LIMITS, limits)].mean()
  fixed = squared.mean(axis=0)
  # Nearly as good as the best, which nobody knows; without it, far off.
  assert chosen < 1.2 * fixed.min() and chosen < 0.1 * fixed[-1]


def test_heavy_tails_break_the_interval_and_not_the_bound(heavy):
  _, _, estimate, bound = jax.tree.map(np.asarray, heavy)
  covered = (estimate.low <= HEAVY_VALUE) & (estimate.high >= HEAVY_VALUE)
  assert covered.mean() < 0.6
  # The weights tell: what is rarely drawn is mostly missing.
  assert (estimate.mean_weight < 1).mean() > 0.7
  assert (bound <= HEAVY_VALUE).mean() >= 0.95
  assert bound.mean() > 0.05


def test_the_bound_by_hand():
  weights = np.array([0, 1, 2, 9, np.nan], np.float32)
  rewards = np.array([1, 1, 0.5, 1, -1], np.float32)
  rewards = np.stack([rewards, rewards - 1], axis=-1)
  bound = jax.jit(lambda rewards, where: off_policy_weights.value_lower_bound(
      rewards, np.tile(weights, 300), limit=1.5, where=where, confidence=0.9))
  result = bound(np.tile(rewards, (300, 1)), np.tile(np.arange(5) < 4, 300))
  terms = np.tile([0, 1, 1, 1.5], 300)
  odds = np.log(2 / 0.1)
  np.testing.assert_allclose(
      result[0], terms.mean() - np.sqrt(2 * terms.var(ddof=1) * odds / 1200)
      - 7 * 1.5 * odds / (3 * 1199), rtol=1e-5)
  # A negative reward: there is no bound.
  assert np.isnan(result[1])
  assert bound(0 * rewards[:1].repeat(1500, 0), np.arange(1500) < 1)[0] == 0


ZEROS = np.zeros((4, 3))


@pytest.mark.parametrize("call, message", [
    (lambda: off_policy_weights.importance_weights(ZEROS, ZEROS[:3]),
     "target_prob has shape"),
    (lambda: off_policy_weights.shrink_weights(ZEROS, -1.0), "limit must be"),
    (lambda: off_policy_weights.value_lower_bound(ZEROS, ZEROS, limit=0),
     "limit must be positive"),
    (lambda: off_policy_weights.least_error_limit(lambda x: x, 1.0),
     r"limits has shape \(\)")],
    ids=["target_prob", "shrinkage", "bound", "limits"])
def test_errors_name_the_argument(call, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(call)


def cross_fitted(rounds):
  """Click rates of items, drawn to that of all, from the other half of users.

  Returns:
    q and v of the uniform policy, `[N]`.
  """
  q, v = np.zeros((2, len(rounds.clicks)), np.float32)
  for half in (0, 1):
    here = rounds.user_ids % 2 == half
    items, clicks = rounds.items[~here], rounds.clicks[~here]
    shown, clicked = (
        np.bincount(items, given, minlength=rounds.num_items)
        for given in (None, clicks))
    rates = (clicked + 200 * clicks.mean()) / (shown + 200)
    q[here], v[here] = rates[rounds.items[here]], rates.mean()
  return q, v


BANDIT = {"ips": logs.Options(), "clipped": logs.Options(limit=20.0),
          "direct": logs.Options(model=True, limit=0.0),
          "doubly robust": logs.Options(model=True),
          "shrunk": logs.Options(model=True, shrinkage=1000.0)}


@jax.jit
def bandit_estimates(rewards, target_prob, logging_prob, q, v):
  """All of `BANDIT`, self-normalised too, from one log."""
  weights = off_policy_weights.importance_weights(target_prob, logging_prob)
  def estimate(options, normal):
    return off_policy.off_policy_value(
        rewards, weights, self_normalise=normal,
        weight_fn=lambda w: logs.change(w, options),
        predicted_rewards=jnp.where(options.model, q, 0),
        predicted_values=jnp.where(options.model, v, 0))
  stack = logs.Options(*(np.asarray(column, np.float32) for column in zip(
      *BANDIT.values(), strict=True)))
  return tuple(jax.vmap(lambda options, n=normal: estimate(options, n))(stack)
               for normal in (False, True))


@pytest.mark.skipif(not DATA.is_dir(), reason="the data are not here")
@pytest.mark.parametrize("campaign", ["men", "women"])
def test_uniform_policy_on_open_bandit(campaign):
  read = lambda policy: open_bandit.read_rounds(
      DATA, policy=policy, campaign=campaign)
  random, rounds = read("random"), read("bts")
  results = bandit_estimates(
      rounds.clicks, 1 / rounds.num_items, rounds.logging_prob,
      *cross_fitted(rounds))
  # (form, estimator) -> estimate.
  result = {
      (form, name): jax.tree.map(lambda x, i=i: np.asarray(x[i]), stacked)
      for form, stacked in zip(("plain", "normalised"), results, strict=True)
      for i, name in enumerate(BANDIT)}
  truth = random.clicks.astype(np.float64)
  error = truth.std(ddof=1) / np.sqrt(len(truth))

  def agrees(key):
    difference = result[key].value - truth.mean()
    return abs(difference) < 1.96 * np.hypot(
        result[key].standard_error, error)

  ips = result["plain", "ips"]
  terms = rounds.clicks / (rounds.logging_prob * rounds.num_items)
  np.testing.assert_allclose(ips.value, terms.mean(), rtol=1e-5)
  np.testing.assert_allclose(
      ips.standard_error, terms.std(ddof=1) / 100, rtol=1e-5)
  enough = [key for key, estimate in result.items()
            if estimate.effective_sample_size > 500]
  assert {("plain", "clipped"), ("plain", "shrunk")} <= set(enough)
  for key in enough:
    assert agrees(key), key
  # 46 to 69 clicks a log: right, but far too wide to rank policies by.
  assert all(result[key].standard_error > 0.15 * truth.mean()
             for key in enough)
  if campaign == "men":
    np.testing.assert_allclose(ips.effective_sample_size, 655.7, atol=0.1)
    assert abs(ips.mean_weight - 1) < 0.1
    # Popular items are not what uniform shows: the model alone is too high.
    assert not agrees(("plain", "direct"))
  else:
    # One round of 10,000 outweighs all others, and was not clicked: plain
    # IPS does not even see it, and everything that does is worth nothing.
    np.testing.assert_allclose(ips.largest_weight, 21_739.13, rtol=1e-5)
    np.testing.assert_allclose(ips.effective_sample_size, 2.08, atol=0.01)
    assert ips.mean_weight > 3
    assert result["plain", "clipped"].effective_sample_size > 1200
    assert result["plain", "shrunk"].effective_sample_size > 1200
    robust = result["plain", "doubly robust"]
    assert robust.standard_error > truth.mean()
    assert robust.standard_error > 4 * result["plain", "shrunk"].standard_error
