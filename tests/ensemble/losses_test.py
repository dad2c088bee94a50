"""Losses against pair-by-pair and item-by-item references."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import harmonrank_jax
from harmonrank_jax.ensemble import losses
from harmonrank_jax.ensemble import metrics
from tests import oracles

pytestmark = pytest.mark.usefixtures("x64")

SHAPE = (6, 16)
SOFT_AUC = harmonrank_jax.multi_objective_auc_loss
ALL = [SOFT_AUC, losses.bce_loss, losses.balanced_bce_loss,
       losses.pairwise_loss, losses.auc_margin_loss]
RANKING = [ALL[0], ALL[3]]
traces = []


def make_evaluate(loss_fn):
  """Loss, diagnostics and gradient in one compiled call of one shape."""

  @jax.jit
  def value_and_grad(scores, labels, weights, where, ids, strength):
    traces.append(loss_fn)
    options = {"relative_strength": strength} if loss_fn is SOFT_AUC else {}
    return jax.value_and_grad(lambda s: loss_fn(
        s, labels, objective_weights=weights, where=where, segment_ids=ids,
        **options), has_aux=True)(scores)

  def evaluate(scores, labels, *, weights=None, where=None, ids=None,
               strength=2.0):
    weights = np.ones(3) if weights is None else np.float64(weights)
    where = np.ones(SHAPE, bool) if where is None else where
    ids = np.zeros(SHAPE, int) if ids is None else ids
    (loss, diagnostics), gradient = value_and_grad(
        np.float64(scores), np.float64(labels), weights, where, ids,
        np.float64(strength))
    return float(loss), diagnostics, np.asarray(gradient)

  return evaluate


EVALUATE = {loss_fn: make_evaluate(loss_fn) for loss_fn in ALL}


def sample(seed=0):
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=SHAPE)
  labels = rng.random((*SHAPE, 3)) < [0.5, 0.8, 0.2]
  return scores, labels


def spreads_of(scores, where, ids):
  """A function of the scores of a list: its spread."""
  total, count = 0, 0
  for row in range(len(scores)):
    for group in np.unique(ids[row]):
      chosen = scores[row, where[row] & (ids[row] == group)]
      if len(chosen) > 1:
        total += len(chosen) * chosen.std(ddof=1)
        count += len(chosen)
  mean = total / count
  return lambda chosen: max(
      np.sqrt((len(chosen) * chosen.var() + 8 * mean**2) / (len(chosen) + 8)),
      0.7 * mean, 0.1)


def soft_auc(scores, labels, strength, spread):
  """Rank-sum AUC of one list with the oracle's soft ranks."""
  worth = np.maximum(labels[:, None] - labels[None, :], 0).sum()
  eps = strength * spread(scores) / (len(scores) - 1)
  ranks = oracles.soft_rank(scores, eps)
  return 0.5 + (ranks - (len(scores) + 1) / 2) @ labels / worth


def mean_over_lists(list_value, scores, labels, where, ids):
  """`[M]` means over lists with two classes, weighted by their sizes."""
  result = []
  for m in range(labels.shape[-1]):
    values, sizes = [], []
    for row in range(len(scores)):
      for group in np.unique(ids[row]):
        chosen = where[row] & (ids[row] == group)
        y = labels[row, chosen, m] * 1.0
        if len(np.unique(y)) > 1:
          values.append(list_value(scores[row, chosen], y))
          sizes.append(chosen.sum())
    result.append(np.average(values, weights=sizes))
  return np.array(result)


def test_soft_auc_by_hand():
  # Gaps far above the strength: hard ranks. Objective 0 is perfect; objective
  # 1 wins 2 of 3 pairs; objective 2 has no positive.
  scores, where = oracles.padded_rows([[2.0, -1.0, 0.5, 0.0]], SHAPE)
  labels = np.zeros((*SHAPE, 3))
  labels[0, :4] = [[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]]
  loss, diagnostics, _ = EVALUATE[SOFT_AUC](
      scores, labels, weights=[1, 3, 2], where=where, strength=0.1)
  np.testing.assert_allclose(loss, 1 - (1 + 3 * 2 / 3) / 4, rtol=1e-12)
  np.testing.assert_allclose(diagnostics.soft_auc, [1, 2 / 3, np.nan])
  np.testing.assert_array_equal(
      diagnostics.live_objectives, [True, True, False])
  assert diagnostics.num_blocks == 4
  assert diagnostics.pooled_fraction == 0
  assert diagnostics.dead_gradient_fraction == 1


@pytest.mark.parametrize("kind", ["bool", "value"])
def test_soft_auc_agrees_with_the_oracle_over_ragged_lists(kind):
  scores, where, ids = oracles.random_lists(SHAPE, 2)
  _, labels = sample()
  if kind == "value":
    labels = labels * np.random.default_rng(1).exponential(size=labels.shape)
  weights = np.array([0.2, 0.5, 0.3])
  spread = spreads_of(scores, where, ids)
  for strength in (0.3, 2.0, 20.0):
    loss, diagnostics, _ = EVALUATE[SOFT_AUC](
        scores, labels, weights=weights, where=where, ids=ids,
        strength=strength)
    expected = mean_over_lists(
        lambda s, y, c=strength: soft_auc(s, y, c, spread),
        scores, labels, where, ids)
    np.testing.assert_allclose(diagnostics.soft_auc, expected, rtol=1e-12)
    np.testing.assert_allclose(loss, 1 - weights @ expected, rtol=1e-12)


def test_soft_auc_in_the_hard_limit_is_the_auc():
  scores, labels = sample()
  scores = scores.round(1)
  loss, diagnostics, _ = EVALUATE[SOFT_AUC](scores, labels, strength=0.0)
  exact = np.nanmean(jax.jit(harmonrank_jax.auc)(scores, labels), axis=0)
  np.testing.assert_allclose(diagnostics.soft_auc, exact, rtol=1e-12)
  np.testing.assert_allclose(loss, 1 - exact.mean(), rtol=1e-12)


def test_fully_pooled_is_the_difference_of_class_means():
  scores, labels = sample()
  labels[0, :2] = [[True], [False]]
  only = np.arange(SHAPE[0])[:, None] == np.zeros(SHAPE)
  _, diagnostics, _ = EVALUATE[SOFT_AUC](
      scores, labels, where=only, strength=50.0)
  everything = np.full((1, SHAPE[1]), True)
  eps = 50 / (SHAPE[1] - 1) * spreads_of(
      scores[:1], everything, 0 * everything)(scores[0])
  gap = [scores[0][y].mean() - scores[0][~y].mean() for y in labels[0].T]
  assert diagnostics.num_blocks == 1
  assert diagnostics.pooled_fraction == 1
  assert diagnostics.dead_gradient_fraction == 0
  np.testing.assert_allclose(
      diagnostics.soft_auc, 0.5 + np.array(gap) / eps / SHAPE[1], rtol=1e-12)


def lists_of(size):
  """Ids and mask of lists of one size, as many as the rows hold."""
  ids = np.broadcast_to(np.arange(SHAPE[1]) // size, SHAPE)
  return ids, np.broadcast_to(ids[0] < SHAPE[1] // size, SHAPE)


def dead_fraction(size):
  """Share of the items of lists with two classes that have no gradient."""
  ids, where = lists_of(size)
  dead, count = 0, 0
  for seed in range(20):
    scores, labels = sample(seed)
    labels[..., 1:] = labels[..., :1]
    _, diagnostics, gradient = EVALUATE[SOFT_AUC](
        scores, labels, where=where, ids=ids)
    y = labels[..., 0][where].reshape(-1, size)
    live = (y.any(axis=1) & ~y.all(axis=1))[:, None] & np.ones(size, bool)
    is_dead = abs(gradient[where].reshape(-1, size)[live]) < 1e-12
    np.testing.assert_allclose(
        diagnostics.dead_gradient_fraction, is_dead.mean(), rtol=1e-6)
    dead, count = dead + is_dead.sum(), count + is_dead.size
  return dead / count


def test_short_lists_have_as_much_gradient_as_long_ones():
  longest = dead_fraction(16)
  assert longest < 0.5
  for size in (2, 3, 4, 5, 8):
    assert dead_fraction(size) < longest + 0.04, size


@pytest.mark.slow
@pytest.mark.parametrize(("size", "most"), [
    (2, 0.01), (3, 0.004), (4, 0.004), (8, 0.004), (50, 0.004)])
def test_lists_of_every_size_train_like_all_pairs(size, most):
  rng = np.random.default_rng(0)
  truth = rng.normal(size=10)

  def draw(num_items):
    features = rng.normal(size=(num_items // size, size, 10))
    chance = 1 / (1 + np.exp(-0.55 * features @ truth))
    return np.float32(features), rng.random(chance.shape) < chance

  train, test = draw(8000), draw(40_000)
  ids = np.repeat(np.arange(len(test[0])), size)
  optimizer = optax.adam(0.05)

  @functools.partial(jax.jit, static_argnums=0)
  def fitted(loss_fn, weights):
    def step(_, carry):
      weights, state = carry
      gradient = jax.grad(
          lambda w: loss_fn(train[0] @ w, train[1])[0])(weights)
      updates, state = optimizer.update(gradient, state)
      return optax.apply_updates(weights, updates), state
    return jax.lax.fori_loop(
        0, 250, step, (weights, optimizer.init(weights)))[0]

  # From elsewhere, and from zero, where all lists are ties.
  for start in (np.float32(rng.normal(size=10)), np.zeros(10, np.float32)):
    value = {loss_fn: metrics.group_auc(
        (test[0] @ fitted(loss_fn, start)).reshape(-1), test[1].reshape(-1),
        ids).value for loss_fn in RANKING}
    assert value[SOFT_AUC] > value[losses.pairwise_loss] - most


@pytest.mark.parametrize("row", [
    np.full(SHAPE[1], 0.5), 1e4 * np.arange(SHAPE[1]),
    1e-7 * np.arange(SHAPE[1]), np.repeat([0.0, 1e30], SHAPE[1] // 2)])
def test_no_list_has_much_more_of_the_gradient_than_of_all_pairs(row):
  scores, labels = sample()
  scores[0] = row
  share = {}
  for loss_fn in RANKING:
    gradient = EVALUATE[loss_fn](scores, labels, weights=[1, 0, 0])[2]
    assert np.isfinite(gradient).all()
    square = (gradient**2).sum(axis=1)
    share[loss_fn] = square[0] / square.sum()
  assert share[SOFT_AUC] < 4 * share[losses.pairwise_loss]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_gradient_of_ties_is_moderate_in_every_float_type(dtype):
  labels = np.arange(SHAPE[1]) < 1
  for scores in (0, 1000):
    soft, pairs = (np.float64(jax.jit(jax.grad(
        lambda s, f=loss_fn: f(s, labels)[0]))(
            jnp.full(SHAPE[1], scores, dtype))) for loss_fn in RANKING)
    np.testing.assert_allclose(
        soft, 10 * (1 - 1 / SHAPE[1]) * pairs, rtol=0.02)


def test_the_strength_does_not_see_where_a_list_lies():
  scores, labels = sample()
  scores = np.round(scores * 8) / 8  # Of eighths the sums below are exact.
  ids, where = lists_of(4)
  offset = 2.0**12 * (np.arange(SHAPE[0])[:, None] * 4 + ids)
  value = jax.jit(lambda s, ids: SOFT_AUC(
      jnp.float32(s), labels, where=where, segment_ids=ids)[0])
  for lists, moved in ((ids, scores + offset), (0 * ids, scores + 2.0**20)):
    assert value(scores, lists) == value(moved, lists)


def test_a_list_of_far_scores_does_not_pool_the_others():
  scores, labels = sample()
  ids, where = lists_of(2)
  _, usual, _ = EVALUATE[SOFT_AUC](scores, labels, where=where, ids=ids)
  scores[0, :2] *= 30
  _, far, _ = EVALUATE[SOFT_AUC](scores, labels, where=where, ids=ids)
  assert far.pooled_fraction < usual.pooled_fraction + 0.1


def test_infinite_scores_do_not_count_in_the_spread():
  scores, labels = sample()
  scores[0, 0], scores[1, 1] = np.inf, -np.inf
  _, _, gradient = EVALUATE[SOFT_AUC](scores, labels)
  assert np.isfinite(gradient).all()
  assert (gradient[2:] != 0).mean() > 0.4


def pairwise(scores, labels):
  """Mean logistic loss over the pairs of one list, by their worth."""
  worth = np.maximum(labels[:, None] - labels[None, :], 0)
  return (worth * np.logaddexp(0, scores[None] - scores[:, None])).sum(
      ) / worth.sum()


def test_pairwise_counts_every_pair_across_blocks():
  # More items than one block of pairs has rows.
  scores, where, ids = oracles.random_lists((1, 300), 3)
  rng = np.random.default_rng(1)
  labels = rng.random((1, 300, 2)) < [0.3, 0.6]
  values = labels * rng.exponential(size=labels.shape)
  call = jax.jit(lambda *labels: [losses.pairwise_loss(
      scores, y, where=where, segment_ids=ids)[1] for y in labels])
  for y, diagnostics in zip(
      (labels, values), call(labels, values), strict=True):
    np.testing.assert_allclose(
        diagnostics.objective_loss,
        mean_over_lists(pairwise, scores, y, where, ids), rtol=1e-11)


def test_pointwise_losses_item_by_item():
  scores, labels = sample()
  where = np.random.default_rng(1).random(SHAPE) < 0.7
  s, y = scores[where], labels[where] * 1.0
  p = 1 / (1 + np.exp(-s))[:, None]
  positive, negative = y * -np.log(p), (1 - y) * -np.log(1 - p)
  high = (y * p).sum(0) / y.sum(0)
  low = ((1 - y) * p).sum(0) / (1 - y).sum(0)
  expected = {
      losses.bce_loss: (positive + negative).mean(0),
      losses.balanced_bce_loss: 0.5 * (
          positive.sum(0) / y.sum(0) + negative.sum(0) / (1 - y).sum(0)),
      losses.auc_margin_loss: (
          (y * (p - high) ** 2).sum(0) / y.sum(0)
          + ((1 - y) * (p - low) ** 2).sum(0) / (1 - y).sum(0)
          + np.maximum(0, 1 - high + low) ** 2)}
  for loss_fn, value in expected.items():
    loss, diagnostics, _ = EVALUATE[loss_fn](scores, labels, where=where)
    np.testing.assert_allclose(diagnostics.objective_loss, value, rtol=1e-12)
    np.testing.assert_allclose(loss, value.mean(), rtol=1e-12)


def test_auc_margin_is_the_papers_min_max():
  scores, labels = sample()
  p, y = 1 / (1 + np.exp(-scores)), labels[..., 0]
  rate = y.mean()

  def objective(a, b, dual):
    return ((1 - rate) * rate) ** -1 * np.mean(
        (1 - rate) * (p - a) ** 2 * y + rate * (p - b) ** 2 * ~y
        + 2 * dual * (rate * (1 - rate) + rate * p * ~y - (1 - rate) * p * y)
        - rate * (1 - rate) * dual**2)

  grid = np.linspace(0, 1, 41)
  best = min(max(objective(a, b, dual) for dual in np.linspace(0, 2, 41))
             for a in grid for b in grid)
  _, diagnostics, _ = EVALUATE[losses.auc_margin_loss](scores, labels)
  np.testing.assert_allclose(diagnostics.objective_loss[0], best, atol=2e-3)


@pytest.mark.parametrize("loss_fn", ALL)
def test_garbage_in_the_padding_changes_nothing(loss_fn):
  scores, labels = sample()
  ids = np.random.default_rng(2).integers(-1, 1, SHAPE)
  where = np.random.default_rng(1).random(SHAPE) < 0.7
  loss, diagnostics, gradient = EVALUATE[loss_fn](
      scores, labels, where=where, ids=ids)
  assert np.isfinite(loss)
  assert (gradient[~where] == 0).all() and (gradient[where] != 0).any()
  for garbage in (np.nan, np.inf, 1e30):
    actual = EVALUATE[loss_fn](
        np.where(where, scores, garbage),
        np.where(where[..., None], labels, garbage), where=where, ids=ids)
    assert actual[0] == loss
    np.testing.assert_array_equal(actual[2], gradient)
    for part, expected in zip(actual[1], diagnostics, strict=True):
      np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("loss_fn", ALL)
def test_gradient_against_differences(loss_fn):
  scores, labels = sample()
  direction = np.random.default_rng(2).normal(size=SHAPE)
  # The strength follows the spread without a gradient: hold the spread.
  scores -= scores.mean(axis=1, keepdims=True)
  direction -= direction.mean(axis=1, keepdims=True)
  direction -= scores * (
      (direction * scores).sum(1, keepdims=True)
      / (scores**2).sum(1, keepdims=True))
  step = 1e-6
  value = lambda s: EVALUATE[loss_fn](s, labels, weights=[1, 2, 3])[0]
  gradient = EVALUATE[loss_fn](scores, labels, weights=[1, 2, 3])[2]
  difference = (value(scores + step * direction)
                - value(scores - step * direction)) / (2 * step)
  assert abs(difference) > 1e-3
  np.testing.assert_allclose(
      (gradient * direction).sum(), difference, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("loss_fn", ALL)
def test_objectives_without_a_class_leave_and_weights_follow(loss_fn):
  scores, labels = sample()
  labels[..., 1] = False
  loss, diagnostics, gradient = EVALUATE[loss_fn](
      scores, labels, weights=[0.3, 0.5, 0.2])
  assert np.isfinite(gradient).all() and (gradient != 0).any()
  if loss_fn is losses.bce_loss:
    assert diagnostics.live_objectives.all()  # Its loss needs no positives.
    return
  np.testing.assert_array_equal(
      diagnostics.live_objectives, [True, False, True])
  alone, _, alone_gradient = EVALUATE[loss_fn](
      scores, labels, weights=[0.6, 0, 0.4])
  np.testing.assert_allclose(loss, alone, rtol=1e-12)
  np.testing.assert_allclose(gradient, alone_gradient, atol=1e-15)


@pytest.mark.parametrize("loss_fn", ALL)
def test_no_live_objective_is_zero_without_gradient(loss_fn):
  scores, labels = sample()
  loss, diagnostics, gradient = EVALUATE[loss_fn](
      scores, labels, where=np.zeros(SHAPE, bool))
  assert loss == 0
  assert not diagnostics.live_objectives.any()
  np.testing.assert_array_equal(gradient, np.zeros(SHAPE))


@pytest.mark.parametrize("loss_fn", RANKING)
def test_a_constant_list_has_a_finite_useful_gradient(loss_fn):
  labels = np.broadcast_to(
      (np.arange(SHAPE[1]) % 3 == 0)[:, None], (*SHAPE, 3))
  _, _, gradient = EVALUATE[loss_fn](np.zeros(SHAPE), labels)
  assert np.isfinite(gradient).all()
  positive = labels[..., 0]
  assert (gradient[positive] < 0).all() and (gradient[~positive] > 0).all()


@pytest.mark.parametrize("loss_fn", RANKING)
def test_training_on_it_finds_the_order(loss_fn):
  rng = np.random.default_rng(0)
  features = rng.normal(size=(*SHAPE, 5))
  truth = features @ np.arange(5.0)
  labels = np.stack([truth > 0, truth > 3, truth > -3], axis=-1)
  weights = np.ones(5)
  for _ in range(200):
    gradient = np.einsum(
        "bn,bnd->d", EVALUATE[loss_fn](features @ weights, labels)[2],
        features)
    weights -= 0.05 * gradient / (1e-6 + np.linalg.norm(gradient))
  exact, _, _ = EVALUATE[SOFT_AUC](features @ weights, labels, strength=0.0)
  assert exact < 0.005


def test_nan_scores_are_not_hidden():
  scores, labels = sample()
  scores[0, 0] = np.nan
  for loss_fn in ALL:
    loss, _, gradient = EVALUATE[loss_fn](scores, labels)
    assert np.isnan(loss) and np.isnan(gradient).any()


@pytest.mark.parametrize("loss_fn", ALL)
@pytest.mark.parametrize("is_value", [False, True])
def test_nan_labels_are_not_hidden(loss_fn, is_value):
  scores, labels = sample()
  labels = np.float64(labels) * (1.5 if is_value else 1)
  ids, _ = lists_of(4)
  for place in (np.s_[0, 0, 1], np.s_[..., 1], np.s_[:]):
    bad = labels.copy()
    bad[place] = np.nan
    for lists in (None, ids):
      loss, diagnostics, gradient = EVALUATE[loss_fn](scores, bad, ids=lists)
      assert np.isnan(loss) and np.isnan(gradient).any()
      assert diagnostics.live_objectives[1]
      assert np.isnan(diagnostics[0][1])
    assert np.isfinite(EVALUATE[loss_fn](
        scores, bad, where=~np.isnan(bad).any(axis=-1))[0])


@pytest.mark.parametrize("loss_fn", ALL)
def test_infinite_scores_on_the_right_side_cost_nothing(loss_fn):
  scores, labels = sample()
  labels[..., 1:] = labels[..., :1]
  scores = np.where(labels[..., 0], 3.0, -3.0) + 0.1 * scores
  far = np.where(abs(scores) > 3, np.sign(scores) * np.inf, scores)
  loss, _, gradient = EVALUATE[loss_fn](far, labels)
  assert -1e-15 <= loss <= EVALUATE[loss_fn](scores, labels)[0] + 1e-15
  assert np.isfinite(gradient).all()
  assert (gradient[np.isinf(far)] == 0).all()


@pytest.mark.parametrize("loss_fn", ALL)
@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_no_item_is_no_loss(loss_fn, shape):
  found = jax.jit(lambda scores, ids, *labels: [
      loss_fn(scores, y, segment_ids=ids) for y in labels])(
          jnp.zeros(shape), jnp.zeros(shape, int), jnp.zeros(shape, bool),
          jnp.zeros((*shape, 2)))
  for num_objectives, (loss, diagnostics) in enumerate(found, start=1):
    assert loss == 0
    np.testing.assert_array_equal(
        diagnostics.live_objectives, np.zeros(num_objectives, bool))


@pytest.mark.parametrize("loss_fn", ALL)
def test_no_dtype_is_promoted_in_silence(loss_fn):
  scores, labels = sample()
  with jax.numpy_dtype_promotion("strict"):
    for y in (labels, np.float32(labels)):
      jax.eval_shape(
          lambda s, y: loss_fn(s, y, objective_weights=jnp.ones(3)),
          jnp.float32(scores), y)


def test_value_labels_move_the_high_values_up():
  values = np.broadcast_to(np.arange(SHAPE[1])[:, None] / 2, (*SHAPE, 3))
  for loss_fn in RANKING:
    _, _, gradient = EVALUATE[loss_fn](np.zeros(SHAPE), values)
    assert (np.diff(gradient) < 0).all()


def test_eager_jit_and_vmap_agree():
  scores, labels = sample()
  scores = np.float32(scores)
  # Bool labels, one list a call and no option.
  every_loss = lambda s, y: [loss_fn(s, y)[0] for loss_fn in ALL]
  batched = jax.jit(jax.vmap(every_loss))(scores, labels)
  for loss_fn, values in zip(ALL, batched, strict=True):
    assert values.dtype == jnp.float32
    if loss_fn is not SOFT_AUC:  # Eager in the example of its docstring.
      value, _ = loss_fn(jnp.asarray(scores[0]), jnp.asarray(labels[0]))
      np.testing.assert_allclose(values[0], value, rtol=1e-5)
    for row in range(SHAPE[0]):
      only = np.arange(SHAPE[0])[:, None] == np.full(SHAPE, row)
      expected, _, _ = EVALUATE[loss_fn](scores, labels, where=only)
      np.testing.assert_allclose(values[row], expected, rtol=1e-5)


@pytest.mark.parametrize("loss_fn", ALL)
def test_one_trace(loss_fn):
  for seed in range(3):
    EVALUATE[loss_fn](*sample(seed), strength=1.0 + seed)
  assert traces.count(loss_fn) == 1


@pytest.mark.parametrize("loss_fn", ALL)
def test_errors_name_the_argument(loss_fn):
  scores, labels = sample()
  with pytest.raises(ValueError, match=r"labels.*\(15,\).*\(16,\)"):
    loss_fn(scores[0], labels[0, :15, 0])
  for ids in (np.array(["a"] * 16), np.zeros(15, np.int32)):
    with pytest.raises(ValueError, match="segment_ids"):
      loss_fn(scores[0], labels[0], segment_ids=ids)
  with pytest.raises(ValueError, match=r"objective_weights.*\(2,\)"):
    jax.eval_shape(
        lambda s: loss_fn(s, labels, objective_weights=np.ones(2)), scores)


def test_a_negative_strength_is_refused():
  scores, labels = sample()
  with pytest.raises(ValueError, match=r"relative_strength.*-1"):
    losses.multi_objective_auc_loss(scores, labels, relative_strength=-1)


@pytest.mark.slow
def test_a_gradient_takes_a_tenth_of_the_time_of_all_pairs():
  rng = np.random.default_rng(0)

  def seconds(loss, size, samples):
    scores = jnp.asarray(rng.normal(size=size), jnp.float32)
    labels = jnp.asarray(rng.random((size, 6)) < np.array(
        [0.45, 0.32, 0.015, 0.004, 0.002, 0.001]))
    gradient = jax.jit(jax.value_and_grad(lambda *args: loss(*args)[0]))
    found = jax.block_until_ready(gradient(scores, labels))
    assert all(np.isfinite(x).all() for x in found)
    times = []
    for _ in range(samples):
      began = time.perf_counter()
      jax.block_until_ready(gradient(scores, labels))
      times.append(time.perf_counter() - began)
    return min(times)

  ours = seconds(losses.multi_objective_auc_loss, 4096, 20)
  assert ours < 0.1 * seconds(losses.pairwise_loss, 4096, 3)
  # Sixteen times the batch, where there are 256 times the pairs.
  assert seconds(losses.multi_objective_auc_loss, 65_536, 5) < 64 * ours
