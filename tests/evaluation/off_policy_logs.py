"""Logs of small worlds whose values are enumerated, for off-policy tests."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.evaluation import off_policy
from harmonrank_jax.evaluation import off_policy_slates
from harmonrank_jax.evaluation import off_policy_weights

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
  return slate_value(off_policy_slates.independent_slate_value, log,
                     log.marginal_weights, q, v, **options)


def cascade(log, q, v, **options):
  return slate_value(off_policy_slates.cascade_slate_value, log, log.weights,
                     q, v, **options)


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
  return off_policy_weights.shrink_weights(clipped, options.shrinkage)


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

  Objective 0 is the click of a user that stops at the first one, objective 1
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
