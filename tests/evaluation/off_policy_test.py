"""Off-policy estimates against enumerated values and NumPy's loops."""

import itertools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.data import open_bandit
from harmonrank_jax.evaluation import off_policy

DATA = pathlib.Path(__file__).parents[3] / "shared/data/open_bandit_small"
CONTEXTS, ITEMS, SLOTS, OBJECTIVES = 2, 3, 3, 2
SLATES = np.array(list(itertools.product(range(ITEMS), repeat=SLOTS)))
traces = []


class Log(NamedTuple):
  """Rounds `[..., N]` with slates of K; the single round is the first slot."""

  rewards: np.ndarray  # [..., N, K, M]
  weights: np.ndarray  # [..., N, K], given the items before
  marginal_weights: np.ndarray  # [..., N, K]
  predicted_rewards: np.ndarray  # [..., N, K, M], of the slot alone
  predicted_values: np.ndarray
  predicted_rests: np.ndarray  # [..., N, K, M], of the slot and those after
  predicted_rest_values: np.ndarray
  where: np.ndarray  # [..., N] bool
  segment_ids: np.ndarray  # [..., N]


def round_value(log, q, v, **options):
  """An estimate from the first slots."""
  return off_policy.off_policy_value(
      log.rewards[..., 0, :], log.weights[..., 0], where=log.where,
      predicted_rewards=q[..., 0, :], predicted_values=v[..., 0, :], **options)


def slate_value(estimator, log, weights, q, v, **options):
  return estimator(
      log.rewards, weights, where=log.where[..., None], predicted_rewards=q,
      predicted_values=v, **options)


def independent(log, q, v, **options):
  return slate_value(off_policy.independent_slate_value, log,
                     log.marginal_weights, q, v, **options)


def cascade(log, q, v, **options):
  return slate_value(off_policy.cascade_slate_value, log, log.weights, q, v,
                     **options)


class Options(NamedTuple):
  """What estimates of one form differ in."""

  model: bool = False  # Predictions of 0 are none.
  limit: float = np.inf
  shrinkage: float = np.inf


# Each form, normalised or not, with the names of its estimates.
ESTIMATORS = {
    (round_value, False): {
        "ips": Options(),
        "clipped": Options(limit=1.5),
        "direct": Options(model=True, limit=0.0),
        "doubly robust": Options(model=True),
        "shrunk": Options(model=True, shrinkage=2.0)},
    (round_value, True): {
        "self-normalised": Options(),
        "self-normalised doubly robust": Options(model=True)},
    (independent, False): {
        "independent": Options(), "independent, model": Options(model=True)},
    (cascade, False): {
        "reward interaction": Options(),
        "cascade doubly robust": Options(model=True),
        "cascade doubly robust, clipped": Options(model=True, limit=0.8)},
    (cascade, True): {
        "reward interaction, normalised": Options(limit=1.5),
        "cascade doubly robust, normalised": Options(model=True, limit=1.5)},
}


def change(weights, options):
  """Clipped and shrunk weights."""
  clipped = jnp.minimum(weights, options.limit)
  return off_policy.shrink_weights(clipped, options.shrinkage)


@jax.jit
def estimates(log):
  """All of `ESTIMATORS`; the normalised ones with clusters."""
  traces.append(log.where.shape)
  result = {}
  for (estimator, normal), named in ESTIMATORS.items():
    rest = estimator is cascade
    q = log.predicted_rests if rest else log.predicted_rewards
    v = log.predicted_rest_values if rest else log.predicted_values

    def estimate(options, estimator=estimator, normal=normal, q=q, v=v):
      predictions = (jnp.where(options.model, x, 0) for x in (q, v))
      return estimator(
          log, *predictions, self_normalise=normal,
          weight_fn=lambda w: change(w, options),
          segment_ids=log.segment_ids if normal else None)

    stack = Options(*(np.asarray(column, np.float32) for column in zip(
        *named.values(), strict=True)))
    together = jax.vmap(estimate)(stack)
    for place, name in enumerate(named):
      result[name] = jax.tree.map(lambda x, i=place: x[i], together)
  return result


class World:
  """Two policies over slates; users click from the top, or slot by slot.

  Objective 0 is the click of a user who stops at the first one, objective 1
  clicks that depend on context, item and slot alone.
  """

  def __init__(self, seed=0):
    rng = np.random.default_rng(seed)
    shape = (CONTEXTS, SLOTS, ITEMS + 1, ITEMS)  # By the item before.
    rule = lambda: rng.dirichlet(np.ones(ITEMS), shape[:-1]) * 0.4 + 0.6 / ITEMS
    self.context_prob = np.array([0.6, 0.4])
    self.attraction = rng.uniform(0.1, 0.6, (CONTEXTS, ITEMS))
    self.examination = np.array([1.0, 0.7, 0.5])
    before = np.pad(SLATES, ((0, 0), (1, 0)), constant_values=ITEMS)[:, :-1]
    target, logging = (
        np.take_along_axis(rule()[:, np.arange(SLOTS), before],
                           SLATES[None, ..., None], -1)[..., 0]
        for _ in range(2))  # [X, S, K]
    self.target_prob, self.logging_prob = target.prod(-1), logging.prod(-1)
    self.weights = target / logging
    clicks = self.attraction[:, SLATES]
    stays = np.cumprod(1 - clicks, axis=-1) / (1 - clicks)
    # [X, S, K, M], the mean reward of each slot.
    self.means = np.stack([clicks * stays, clicks * self.examination], axis=-1)
    in_slot = SLATES[:, :, None] == np.arange(ITEMS)
    of = lambda prob: np.einsum("xs,ska->xka", prob, in_slot)
    self.target_marginal = of(self.target_prob)
    marginal = self.target_marginal / of(self.logging_prob)
    self.marginal_weights = self.of_items(marginal[..., None])[..., 0]

  def of_items(self, table):
    """`[X, K, A, M]` at the items of all slates, `[X, S, K, M]`."""
    return table[:, np.arange(SLOTS), SLATES]

  def mean_given(self, values, length):
    """Target's mean of `[X, S, M]` given the first items, at every slate."""
    same = (SLATES[:, None, :length] == SLATES[None, :, :length]).all(-1)
    prob = same * self.target_prob[:, None, :]
    return np.einsum("xst,xtm->xsm", prob / prob.sum(-1, keepdims=True), values)

  def predictions(self, *, right, seed=1):
    """The four fields of predictions, `[X, S, K, M]`."""
    rng = np.random.default_rng(seed)
    if right:
      table = np.stack([
          np.broadcast_to(self.attraction[:, None], self.target_marginal.shape),
          self.attraction[:, None] * self.examination[None, :, None]], axis=-1)
    else:
      table = rng.random((*self.target_marginal.shape, OBJECTIVES))
    values = np.einsum("xka,xkam->xkm", self.target_marginal, table)
    values = np.broadcast_to(values[:, None], self.means.shape)
    rests = np.cumsum(self.means[:, :, ::-1], axis=2)[:, :, ::-1]
    if not right:
      rests = rng.random(self.means.shape)
    given = lambda past: np.stack(
        [self.mean_given(rests[:, :, k], k + past) for k in range(SLOTS)], 2)
    return self.of_items(table), values, given(1), given(0)

  def value(self, rewards):
    """Target's mean of `[X, S, M]`."""
    return np.einsum("x,xs,xsm->m", self.context_prob, self.target_prob,
                     rewards)

  def log(self, shape, *, right=False, noise=True, seed=0, wrong_weights=False):
    """Drawn rounds, with right or with wrong predictions."""
    rng = np.random.default_rng(seed)
    context = rng.choice(CONTEXTS, shape, p=self.context_prob)
    edges = np.cumsum(self.logging_prob, axis=-1)
    slate = (rng.random(shape)[..., None] > edges[context]).sum(-1)
    slate = np.minimum(slate, len(SLATES) - 1)
    rewards = self.means[context, slate]
    if noise:
      chance = self.attraction[context[..., None], SLATES[slate]]
      clicks = rng.random(chance.shape) < chance
      first = np.cumsum(clicks, axis=-1) * clicks == 1
      other = rng.random(chance.shape) < chance * self.examination
      rewards = np.stack([first, other], axis=-1)
    weights, marginal = self.weights, self.marginal_weights
    if wrong_weights:
      # Functions of what the slot's prediction is given.
      weights, marginal = weights**2 + 0.1, marginal**2 + 0.1
    take = lambda table: table[context, slate].astype(np.float32)
    return Log(
        rewards.astype(np.float32), take(weights), take(marginal),
        *map(take, self.predictions(right=right)), np.ones(shape, bool),
        rng.integers(0, 40, shape))


LOGS, ROUNDS = 1000, 120
WORLD = World()
FIRST = WORLD.value(WORLD.means[:, :, 0])
SLATE = WORLD.value(WORLD.means.sum(2))
UNBIASED = {
    "ips": FIRST, "doubly robust": FIRST, "reward interaction": SLATE,
    "cascade doubly robust": SLATE}


def assert_means(values, expected):
  """The mean over logs is the expected one, within four standard errors."""
  values = np.asarray(values, np.float64)
  error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
  assert (np.abs(values.mean(axis=0) - expected) < 4 * error).all(), (
      values.mean(axis=0), expected, error)


@pytest.fixture(scope="module")
def replicates():
  """Estimates of many logs: wrong predictions, and right ones."""
  logs = {"wrong model": WORLD.log((LOGS, ROUNDS)),
          "wrong weights": WORLD.log((LOGS, ROUNDS), right=True,
                                     wrong_weights=True)}
  return {name: jax.tree.map(np.asarray, estimates(log))
          for name, log in logs.items()}


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
  result = estimates(log)
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


def reference(log, estimator, normal, options):
  """Value and standard error of one log of valid rounds, slot by slot."""
  log = Log(*(np.asarray(x, np.float64) for x in log))
  num_rounds = len(log.where)
  value, influence = 0, np.zeros((num_rounds, OBJECTIVES))
  so_far = np.ones(num_rounds)

  def g(weights):
    weights = np.minimum(weights, options.limit)
    return weights / (1 + weights**2 / options.shrinkage)

  for k in range(1 if estimator is round_value else SLOTS):
    used, before = g(log.weights[:, k]), np.ones(num_rounds)
    q, v = log.predicted_rewards[:, k], log.predicted_values[:, k]
    if estimator is independent:
      used = g(log.marginal_weights[:, k])
    if estimator is cascade:
      before = g(so_far) if k else so_far
      so_far = so_far * log.weights[:, k]
      used = g(so_far)
      q, v = log.predicted_rests[:, k], log.predicted_rest_values[:, k]
    parts = [(used, log.rewards[:, k] - (q if options.model else 0))]
    if options.model:
      parts.append((before, v))
    for weights, y in parts:
      total = weights.sum() if normal else num_rounds
      mean = (weights[:, None] * y).sum(0) / total
      value = value + mean
      influence += (weights[:, None] / weights.mean() * (y - mean) if normal
                    else weights[:, None] * y - mean)
  clusters = log.segment_ids if normal else np.arange(num_rounds)
  sums = np.stack([influence[clusters == c].sum(0)
                   for c in np.unique(clusters)])
  share = len(sums) / (len(sums) - 1)
  return value, np.sqrt(share * (sums**2).sum(0)) / num_rounds


def masked_log():
  """A log of which a third is masked."""
  log = WORLD.log((LOGS, ROUNDS), seed=3)
  where = np.random.default_rng(4).random((LOGS, ROUNDS)) < 0.7
  return log._replace(where=where)


def spoilt(log, garbage):
  """Garbage where masked, ids but for the mask included."""
  def spoil(x):
    where = log.where.reshape(log.where.shape + (1,) * (x.ndim - 2))
    return np.where(where, x, garbage).astype(x.dtype)
  with np.errstate(invalid="ignore"):
    return Log(*map(spoil, log[:-2]), log.where, spoil(log.segment_ids))


def test_agrees_with_loops_and_masked_rounds_do_not_exist():
  log = masked_log()
  result = estimates(spoilt(log, np.nan))
  for row in range(3):
    kept = jax.tree.map(lambda x, r=row: x[r][log.where[r]], log)
    for form, named in ESTIMATORS.items():
      for name, options in named.items():
        value, error = reference(kept, *form, options)
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
  again = estimates(spoilt(log, 1e30))
  jax.tree.map(np.testing.assert_array_equal, again, result)
  assert len(traces) == 1


def test_self_normalised_estimates_move_with_the_rewards(replicates):
  result = replicates["wrong model"]
  log = WORLD.log((LOGS, ROUNDS))
  moved = estimates(log._replace(rewards=log.rewards + 3))
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
      np.float64 if x.dtype == np.float32 else x.dtype), masked_log())

  @jax.jit
  @jax.vmap
  def estimate(log):
    return round_value(log, log.predicted_rewards, log.predicted_values)

  result = estimate(log)
  assert result.value.dtype == np.float64
  for row in range(3):
    value, error = reference(
        jax.tree.map(lambda x, r=row: x[r][log.where[r]], log), round_value,
        False, Options(model=True))
    np.testing.assert_allclose(result.value[row], value, rtol=1e-12)
    np.testing.assert_allclose(result.standard_error[row], error, rtol=1e-12)


def test_slates_with_slots_missing():
  log = jax.tree.map(lambda x: x[0], WORLD.log((1, 40)))
  where = np.random.default_rng(0).random((40, SLOTS)) < 0.6
  is_round = where.any(-1)
  empty = lambda x: np.where(where[..., None], x, 0)
  q, v = log.predicted_rests, log.predicted_rest_values
  estimate = jax.jit(lambda rewards, weights, q, v, where: (
      off_policy.cascade_slate_value(
          rewards, weights, predicted_rewards=q, predicted_values=v,
          where=where)))
  garbage = lambda x: np.where(
      where.reshape(where.shape + (1,) * (x.ndim - 2)), x, np.nan)
  result = estimate(garbage(log.rewards), garbage(log.weights), garbage(q),
                    garbage(v), where)
  # A slot that is not there is one without reward, which changes no weight.
  expected = estimate(
      empty(log.rewards), np.where(where, log.weights, 1), empty(q), empty(v),
      np.broadcast_to(is_round[:, None], where.shape))
  np.testing.assert_allclose(result.value, expected.value, rtol=1e-6)
  np.testing.assert_allclose(
      result.standard_error, expected.standard_error, rtol=1e-5)
  products = np.cumprod(np.where(where, log.weights, 1), axis=-1)
  np.testing.assert_allclose(
      result.mean_weight, [products[where[:, k], k].mean()
                           for k in range(SLOTS)], rtol=1e-5)
  assert result.num_rounds == is_round.sum()


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


def test_shrinkage_limits():
  weights = np.array([0, 0.1, 1, 30, 1e4, 1e18], np.float32)
  shrink_weights = jax.jit(off_policy.shrink_weights)
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
  """Of one log: chosen limit, value at each limit, IPS, and the bound."""
  def shrunk(limit):
    return off_policy.off_policy_value(
        rewards, weights, predicted_rewards=predictions,
        predicted_values=predictions,
        weight_fn=lambda w: off_policy.shrink_weights(w, limit))
  return (off_policy.least_error_limit(shrunk, HEAVY_LIMITS),
          jax.lax.map(shrunk, HEAVY_LIMITS).value,
          off_policy.off_policy_value(rewards, weights),
          off_policy.value_lower_bound(rewards, weights, limit=0.5))


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
  bound = jax.jit(lambda rewards, where: off_policy.value_lower_bound(
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
  nan = np.nan
  np.testing.assert_allclose(
      plain.value, [3.5 / 4, nan, 2, nan, nan, nan, nan, 0])
  np.testing.assert_allclose(
      normalised.value, [3.5 / 4, nan, 1, nan, nan, nan, nan, nan])
  # The direct method does not look at the weights.
  np.testing.assert_allclose(
      direct.value, [0.75, nan, 1, 0.75, 0.75, 0.75, nan, 0.75])
  terms = np.array([2, 0, 1, 0.5])
  np.testing.assert_allclose(
      plain.standard_error, [terms.std(ddof=1) / 2, *[nan] * 6, 0], rtol=1e-6)
  np.testing.assert_allclose(
      [x[0] for x in plain[4:8]], [16 / 5.5, 2, 1, 0], rtol=1e-6)
  np.testing.assert_array_equal(plain.num_rounds, [4, 0, 1, 4, 4, 4, 4, 4])
  np.testing.assert_array_equal(plain.effective_sample_size[[2, 7]], [1, 0])
  np.testing.assert_array_equal(direct.clipped_share[[0, 7]], [1, 0])
  np.testing.assert_allclose(
      np.square(plain.influence[0]).sum(), plain.standard_error[0] ** 2,
      rtol=1e-6)


def test_an_empty_log():
  nothing = jax.jit(off_policy.off_policy_value)(
      np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
  assert np.isnan([nothing.value, nothing.standard_error, nothing.low]).all()
  assert nothing.num_rounds == 0


def test_importance_weights():
  nan = np.nan
  result = jax.jit(off_policy.importance_weights)(
      np.array([0.5, 0, 0.5, 0, 0.5, nan, -1, 0.5], np.float32),
      np.array([0.25, 0.5, 0, 0, nan, 0.5, 0.5, np.inf], np.float32))
  np.testing.assert_array_equal(
      result, [2, 0, nan, nan, nan, nan, nan, nan])


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


def test_errors_name_the_argument():
  rewards, weights = np.zeros((4, 3)), np.zeros((4, 3))
  value, slate = off_policy.off_policy_value, off_policy.cascade_slate_value
  for call, message in (
      (lambda: value(rewards, weights[0, 0]), r"weights has shape \(\)"),
      (lambda: slate(rewards[0], weights[0]), r"weights .*\[..., N, K\]"),
      (lambda: value(rewards[:3], weights), r"rewards has shape \(3, 3\)"),
      (lambda: value(rewards, weights, predicted_rewards=rewards),
       "predicted_values is missing"),
      (lambda: value(rewards, weights, predicted_values=rewards),
       "predicted_rewards is missing"),
      (lambda: value(rewards, weights, predicted_rewards=rewards[:3],
                     predicted_values=rewards), "predicted_rewards has shape"),
      (lambda: value(rewards, weights, where=np.ones(2, bool)),
       r"where has shape \(2,\)"),
      (lambda: value(rewards, weights, segment_ids=weights),
       "segment_ids must be integers"),
      (lambda: slate(rewards, weights, segment_ids=np.zeros(3, int)),
       r"segment_ids has shape \(3,\)"),
      (lambda: value(rewards, weights, confidence=95),
       r"confidence must be in \(0, 1\), got 95"),
      (lambda: value(rewards, weights, weight_fn=jnp.sum), "weight_fn"),
      (lambda: off_policy.importance_weights(weights, weights[:3]),
       "target_prob has shape"),
      (lambda: off_policy.shrink_weights(weights, -1.0), "limit must be"),
      (lambda: off_policy.value_lower_bound(rewards, weights, limit=0),
       "limit must be positive"),
      (lambda: off_policy.least_error_limit(lambda x: x, 1.0),
       r"limits has shape \(\)")):
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


BANDIT = {"ips": Options(), "clipped": Options(limit=20.0),
          "direct": Options(model=True, limit=0.0),
          "doubly robust": Options(model=True),
          "shrunk": Options(model=True, shrinkage=1000.0)}


@jax.jit
def bandit_estimates(rewards, target_prob, logging_prob, q, v):
  """All of `BANDIT`, self-normalised too, from one log."""
  weights = off_policy.importance_weights(target_prob, logging_prob)
  def estimate(options, normal):
    return off_policy.off_policy_value(
        rewards, weights, self_normalise=normal,
        weight_fn=lambda w: change(w, options),
        predicted_rewards=jnp.where(options.model, q, 0),
        predicted_values=jnp.where(options.model, v, 0))
  stack = Options(*(np.asarray(column, np.float32) for column in zip(
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
