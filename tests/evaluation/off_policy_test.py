"""Off-policy estimates against enumerated values and NumPy's loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.evaluation import off_policy
from tests.evaluation import off_policy_logs as logs

LOGS, ROUNDS, WORLD = logs.LOGS, logs.ROUNDS, logs.WORLD
FIRST, SLATE, UNBIASED = logs.FIRST, logs.SLATE, logs.UNBIASED


def assert_means(values, expected):
  """The mean over logs is the expected one, within four standard errors."""
  values = np.asarray(values, np.float64)
  error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
  assert (np.abs(values.mean(axis=0) - expected) < 4 * error).all(), (
      values.mean(axis=0), expected, error)


@pytest.fixture(scope="module")
def replicates():
  """Estimates of many logs: wrong predictions, and right ones."""
  drawn = {"wrong model": WORLD.log((LOGS, ROUNDS)),
           "wrong weights": WORLD.log((LOGS, ROUNDS), right=True,
                                      wrong_weights=True)}
  return {name: jax.tree.map(np.asarray, logs.estimates(log))
          for name, log in drawn.items()}


def test_unbiased_estimates_have_the_enumerated_mean(replicates):
  result = replicates["wrong model"]
  for name, expected in UNBIASED.items():
    assert_means(result[name].value, expected)
  # Slots that do not influence each other, and those that do.
  for name in ("independent", "independent, model"):
    assert_means(result[name].value[:, 1], SLATE[1])
    assert abs(result[name].value[:, 0].mean() - SLATE[0]) > 0.02


def test_right_predictions_make_up_for_wrong_weights(replicates):
  result = replicates["wrong weights"]
  for name in ("direct", "doubly robust", "shrunk"):
    assert_means(result[name].value, FIRST)
  for name in ("cascade doubly robust", "independent, model"):
    assert_means(result[name].value[:, 1], SLATE[1])
  assert_means(result["cascade doubly robust"].value, SLATE)
  assert np.abs(result["ips"].value.mean(axis=0) - FIRST).min() > 0.02


def test_biased_estimates_have_the_enumerated_bias(replicates):
  result = replicates["wrong model"]
  prob = WORLD.context_prob[:, None] * WORLD.logging_prob
  mean = lambda terms: np.einsum("xs,xsm->m", prob, terms)
  rewards, weights = WORLD.means[:, :, 0], WORLD.weights[:, :, :1]
  clipped = mean(np.minimum(weights, 1.5) * rewards)
  assert (clipped < FIRST).all()
  assert_means(result["clipped"].value, clipped)
  q, v = (x[:, :, 0] for x in WORLD.predictions(right=False)[:2])
  shrunk = 2 * weights / (weights**2 + 2)
  assert_means(result["shrunk"].value, mean(v + shrunk * (rewards - q)))
  assert_means(result["direct"].value, mean(v))
  assert_means(result["independent"].value, mean(
      (WORLD.marginal_weights[..., None] * WORLD.means).sum(2)))


def test_weights_have_mean_one_and_wrong_ones_show(replicates):
  for name in ("ips", "independent", "reward interaction"):
    assert_means(replicates["wrong model"][name].mean_weight, 1)
  wrong = replicates["wrong weights"]["ips"]
  assert (np.abs(wrong.mean_weight - 1) > 0.1).mean() > 0.9


@pytest.mark.parametrize("name", [*UNBIASED, "self-normalised"])
def test_intervals_cover(name, replicates):
  result = replicates["wrong model"][name]
  expected = UNBIASED.get(name, FIRST)
  covered = (result.low <= expected) & (expected <= result.high)
  # The products of the slates' weights are skewed.
  least = 0.91 if expected is SLATE else 0.925
  assert ((covered.mean(axis=0) > least) & (covered.mean(axis=0) < 0.97)).all()
  spread = result.value.std(axis=0, ddof=1)
  np.testing.assert_allclose(
      result.standard_error.mean(axis=0), spread, rtol=0.08)


def test_a_good_model_narrows_and_a_perfect_one_leaves_no_variance():
  log = WORLD.log((LOGS, ROUNDS), right=True, noise=False)
  result = logs.estimates(log)
  # Without noise only the contexts vary, as in the direct method.
  for name in ("doubly robust", "self-normalised doubly robust", "shrunk"):
    np.testing.assert_allclose(
        result[name].value[:, 1], result["direct"].value[:, 1], rtol=2e-6)
  np.testing.assert_allclose(
      result["independent, model"].value[:, 1],
      log.predicted_values[..., 1].sum(-1).mean(-1), rtol=2e-6)
  for name in ("cascade doubly robust", "cascade doubly robust, normalised"):
    np.testing.assert_allclose(
        result[name].value, log.predicted_rest_values[:, :, 0].mean(1),
        rtol=1e-5)


def test_agrees_with_loops_and_masked_rounds_do_not_exist():
  log = logs.masked_log()
  result = logs.estimates(logs.spoilt(log, np.nan))
  for row in range(3):
    kept = jax.tree.map(lambda x, r=row: x[r][log.where[r]], log)
    for form, named in logs.ESTIMATORS.items():
      for name, options in named.items():
        value, error = logs.reference(kept, *form, options)
        np.testing.assert_allclose(result[name].value[row], value, rtol=3e-6)
        np.testing.assert_allclose(
            result[name].standard_error[row], error, rtol=1e-5)
  weights = log.weights[0, log.where[0], 0].astype(np.float64)
  ips, clipped = (jax.tree.map(lambda x: x[0], result[name])
                  for name in ("ips", "clipped"))
  for statistics, g in ((ips, weights), (clipped, np.minimum(weights, 1.5))):
    np.testing.assert_allclose(
        [statistics.effective_sample_size, statistics.clipped_share,
         statistics.mean_weight, statistics.largest_weight],
        [g.sum() ** 2 / (g**2).sum(), (g < weights).mean(), weights.mean(),
         weights.max()], rtol=2e-6)
  np.testing.assert_allclose(
      ips.high - ips.low, 2 * 1.959964 * ips.standard_error, rtol=1e-5)
  assert ips.num_rounds == log.where[0].sum()
  again = logs.estimates(logs.spoilt(log, 1e30))
  jax.tree.map(np.testing.assert_array_equal, again, result)
  assert len(logs.traces) == 1


def test_self_normalised_estimates_move_with_the_rewards(replicates):
  result = replicates["wrong model"]
  log = WORLD.log((LOGS, ROUNDS))
  moved = logs.estimates(log._replace(rewards=log.rewards + 3))
  np.testing.assert_allclose(
      moved["self-normalised"].value, result["self-normalised"].value + 3,
      rtol=1e-5)
  np.testing.assert_allclose(
      moved["self-normalised"].standard_error,
      result["self-normalised"].standard_error, rtol=1e-3)
  assert np.abs(moved["ips"].value - result["ips"].value - 3).max() > 0.1
  assert (result["self-normalised"].value <= 1).all()


@pytest.mark.slow
def test_float64(x64):
  log = jax.tree.map(lambda x: x[:3].astype(
      np.float64 if x.dtype == np.float32 else x.dtype), logs.masked_log())

  @jax.jit
  @jax.vmap
  def estimate(log):
    return logs.round_value(log, log.predicted_rewards, log.predicted_values)

  result = estimate(log)
  assert result.value.dtype == np.float64
  for row in range(3):
    value, error = logs.reference(
        jax.tree.map(lambda x, r=row: x[r][log.where[r]], log),
        logs.round_value, False, logs.Options(model=True))
    np.testing.assert_allclose(result.value[row], value, rtol=1e-12)
    np.testing.assert_allclose(result.standard_error[row], error, rtol=1e-12)


def test_clusters_widen_the_interval_of_rounds_that_depend_on_each_other():
  rng = np.random.default_rng(0)
  users, visits = 50, 4
  taste = rng.uniform(0, 1, (300, users, 1))
  rewards = (rng.random((300, users, visits)) < taste).reshape(300, -1)
  weights = rng.choice([0.5, 1.5], rewards.shape)
  order = rng.permutation(users * visits)
  ids = np.broadcast_to(np.repeat(np.arange(users), visits), rewards.shape)
  covers = lambda estimate: np.mean(
      (estimate.low <= 0.5) & (estimate.high >= 0.5))
  estimate = jax.jit(lambda rewards, weights, ids: [
      off_policy.off_policy_value(rewards, weights, segment_ids=given)
      for given in (None, ids)])
  naive, clustered = estimate(
      rewards[:, order], weights[:, order], ids[:, order])
  assert covers(naive) < 0.9
  assert 0.9 < covers(clustered) < 0.97
  # A user's influence is that of the visits together.
  together = lambda estimate: np.bincount(
      ids[0, order], np.asarray(estimate.influence[0], np.float64))
  size = users * visits
  np.testing.assert_allclose(
      together(clustered) / np.sqrt(users / (users - 1)),
      together(naive) / np.sqrt(size / (size - 1)), atol=1e-7)


def test_rewards_and_clusters_are_read_in_all_their_bits():
  rewards = np.array([3 * 10**9, 10**9, 0, 4 * 10**9])
  weights, users = np.ones(4), np.array([1, 1, 2**32 + 1, 2**32 + 1])
  wide = off_policy.off_policy_value(rewards, weights, segment_ids=users)
  small = off_policy.off_policy_value(
      rewards / 1e9, weights, segment_ids=users % 7)
  for got, expected in zip(wide[:4], small[:4], strict=True):
    np.testing.assert_allclose(got, 1e9 * expected, rtol=1e-6)
  with pytest.raises(ValueError, match="segment_ids must be integers, got <U1"):
    off_policy.off_policy_value(
        rewards, weights, segment_ids=np.array(["a", "b", "c", "d"]))


@jax.jit
@jax.vmap
def undefined(rewards, weights, where):
  plain = lambda **options: off_policy.off_policy_value(
      rewards, weights, where=where, **options)
  predictions = {"predicted_rewards": rewards, "predicted_values": rewards}
  return (plain(), plain(self_normalise=True),
          plain(weight_fn=jnp.zeros_like, **predictions))


def test_by_hand_and_what_is_undefined():
  rewards = np.tile(np.array([1, 0, 1, 1], np.float32), (8, 1))
  weights = np.tile(np.array([2, 0.5, 1, 0.5], np.float32), (8, 1))
  where = np.ones((8, 4), bool)
  where[1] = False
  where[2, 1:] = False
  weights[3, 1], weights[4, 1], weights[5, 1] = np.nan, -1, np.inf
  rewards[6, 1] = np.nan
  weights[7] = 0
  plain, normalised, direct = jax.tree.map(
      np.asarray, undefined(rewards, weights, where))
  alone = jax.jit(lambda rewards, weights, where: off_policy.off_policy_value(
      rewards, weights, where=where))
  for row in range(8):
    looped = alone(rewards[row], weights[row], where[row])
    jax.tree.map(lambda x, y, r=row: np.testing.assert_array_equal(x, y[r]),
                 looped, plain)
  for value in (np.inf, -np.inf):
    rewards[6, 1] = value
    jax.tree.map(np.testing.assert_array_equal, (plain, normalised, direct),
                 undefined(rewards, weights, where))
  nan = np.nan
  np.testing.assert_allclose(
      plain.value, [3.5 / 4, nan, 2, nan, nan, nan, nan, nan])
  np.testing.assert_allclose(
      normalised.value, [3.5 / 4, nan, 1, nan, nan, nan, nan, nan])
  # The direct method does not look at the weights.
  np.testing.assert_allclose(
      direct.value, [0.75, nan, 1, 0.75, 0.75, 0.75, nan, 0.75])
  terms = np.array([2, 0, 1, 0.5])
  np.testing.assert_allclose(
      plain.standard_error, [terms.std(ddof=1) / 2, *[nan] * 7], rtol=1e-6)
  np.testing.assert_allclose(
      [x[0] for x in plain[4:8]], [16 / 5.5, 2, 1, 0], rtol=1e-6)
  np.testing.assert_array_equal(plain.num_rounds, [4, 0, 1, 4, 4, 4, 4, 4])
  np.testing.assert_array_equal(plain.effective_sample_size[[2, 7]], [1, 0])
  np.testing.assert_array_equal(direct.clipped_share[[0, 7]], [1, 0])
  np.testing.assert_allclose(
      np.square(plain.influence[0]).sum(), plain.standard_error[0] ** 2,
      rtol=1e-6)


@jax.jit
@jax.vmap
def without_overlap(weights):
  """IPS, its normalised form, doubly robust, direct, IPS by clusters."""
  rewards = jnp.array([1.0, 0, 1, 1, 0, 0])
  of = lambda **options: off_policy.off_policy_value(
      rewards, weights, **options)[:4]
  # The predictions of a model that does not know the context.
  model = {"predicted_rewards": jnp.full(6, 0.5),
           "predicted_values": jnp.full(6, 0.5)}
  return (of(), of(self_normalise=True), of(**model),
          of(weight_fn=jnp.zeros_like, **model),
          of(segment_ids=jnp.array([0, 0, 1, 1, 2, 2])),
          of(weight_fn=jnp.zeros_like))


def test_what_the_log_does_not_hold_is_not_certain():
  # Nothing the target policy does; one round; two of a cluster; enough.
  ips, normalised, robust, direct, clusters, nothing = (
      np.asarray(x).T for x in without_overlap(np.float32([
          [0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0],
          [2, 0, 2, 0, 2, 0]])))
  nan = np.nan
  np.testing.assert_allclose(ips[:, 0], [nan, 2 / 6, 1 / 6, 4 / 6], rtol=1e-6)
  np.testing.assert_allclose(normalised[:, 0], [nan, 1, 0.5, 2 / 3], rtol=1e-6)
  # A model stands in for the log, whatever it is worth.
  np.testing.assert_allclose(
      robust[:, 0], [0.5, 0.5 + 1 / 6, 0.5, 0.5 + 1 / 6], rtol=1e-6)
  np.testing.assert_array_equal(direct[:, 0], 0.5)
  for estimate, least in ((ips, 2), (normalised, 2), (robust, 2),
                          (clusters, 3), (nothing, 4)):
    assert np.isnan(estimate[:least, 1:]).all()
    assert (estimate[least:, 1] > 0).all()
  assert np.isnan(nothing).all()


def test_an_empty_log():
  nothing = jax.jit(off_policy.off_policy_value)(
      np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
  assert np.isnan([nothing.value, nothing.standard_error, nothing.low]).all()
  assert nothing.num_rounds == 0


def test_two_policies_on_one_log(replicates):
  # The influences know that both estimates saw the same rounds.
  result = replicates["wrong model"]
  one, other = result["ips"], result["clipped"]
  difference = one.value - other.value
  error = np.linalg.norm(one.influence - other.influence, axis=-1)
  assert error.shape == difference.shape
  spread = difference.std(axis=0, ddof=1)
  np.testing.assert_allclose(error.mean(axis=0), spread, rtol=0.08)
  assert (spread < 0.7 * one.standard_error.mean(axis=0)).all()


@pytest.mark.parametrize("options, message", [
    ({"confidence": 95}, r"confidence must be in \(0, 1\), got 95"),
    ({"weight_fn": jnp.sum}, "weight_fn made weights of shape")],
    ids=["confidence", "weight_fn"])
def test_errors_name_the_argument(options, message):
  zeros = np.zeros((4, 3))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: off_policy.off_policy_value(
        zeros, zeros, **options))
