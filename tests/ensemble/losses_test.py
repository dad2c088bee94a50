"""Losses against pair-by-pair and item-by-item references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harmonrank_jax
from harmonrank_jax.ensemble import losses
from tests import oracles

SHAPE = (2, 30)
ALL = [harmonrank_jax.multi_objective_auc_loss, harmonrank_jax.bce_loss,
       harmonrank_jax.balanced_bce_loss, harmonrank_jax.pairwise_loss,
       harmonrank_jax.auc_margin_loss]
RANKING = [ALL[0], ALL[3]]


def sample(seed=0):
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=SHAPE)
  labels = rng.random((*SHAPE, 3)) < [0.5, 0.8, 0.2]
  return scores, labels


def soft_auc(scores, labels, strength):
  """Rank-sum AUC of one list with the oracle's soft ranks."""
  positives = labels.sum()
  pairs = positives * (len(labels) - positives)
  eps = strength * max(scores.std(), 1e-6) / len(scores)
  ranks = oracles.soft_rank(scores, eps)
  return 0.5 + (ranks - (len(scores) + 1) / 2) @ labels / pairs


def test_soft_auc_by_hand():
  # Gaps far above the strength: hard ranks. Objective 0 is perfect; objective
  # 1 wins 2 of 3 pairs.
  scores = jnp.array([2.0, -1.0, 0.5, 0.0])
  labels = jnp.array([[1, 0], [0, 0], [1, 1], [0, 0]])
  loss, diagnostics = harmonrank_jax.multi_objective_auc_loss(
      scores, labels, objective_weights=jnp.array([1.0, 3.0]),
      relative_strength=0.1)
  np.testing.assert_allclose(loss, 1 - (1 + 3 * 2 / 3) / 4, rtol=1e-6)
  np.testing.assert_allclose(diagnostics.soft_auc, [1, 2 / 3], rtol=1e-6)
  assert diagnostics.num_blocks == 4
  assert diagnostics.pooled_fraction == 0
  assert diagnostics.dead_gradient_fraction == 1


def test_soft_auc_agrees_with_the_oracle(x64):
  scores, labels = sample()
  weights = np.array([0.2, 0.5, 0.3])
  for strength in (0.3, 2.0, 20.0):
    loss, diagnostics = jax.jit(
        harmonrank_jax.multi_objective_auc_loss)(
            scores, labels, objective_weights=weights,
            relative_strength=strength)
    expected = np.mean([[soft_auc(scores[r], labels[r, :, m] * 1.0, strength)
                         for m in range(3)] for r in range(2)], axis=0)
    np.testing.assert_allclose(diagnostics.soft_auc, expected, rtol=1e-12)
    np.testing.assert_allclose(loss, 1 - weights @ expected, rtol=1e-12)


def test_soft_auc_in_the_hard_limit_is_the_auc(x64):
  scores, labels = sample()
  loss, diagnostics = harmonrank_jax.multi_objective_auc_loss(
      scores[0], labels[0], relative_strength=0.0)
  exact = harmonrank_jax.auc(scores[0], labels[0])
  np.testing.assert_allclose(diagnostics.soft_auc, exact, rtol=1e-12)
  np.testing.assert_allclose(loss, 1 - exact.mean(), rtol=1e-12)


def test_fully_pooled_is_the_difference_of_class_means(x64):
  scores, labels = sample()
  scores, labels = scores[0], labels[0, :, 0]
  strength = 50.0
  _, diagnostics = harmonrank_jax.multi_objective_auc_loss(
      scores, labels, relative_strength=strength)
  eps = strength * scores.std() / 30
  gap = scores[labels].mean() - scores[~labels].mean()
  assert diagnostics.num_blocks == 1
  np.testing.assert_allclose(
      diagnostics.soft_auc, [0.5 + gap / eps / 30], rtol=1e-12)


def test_ragged_lists_are_averaged_by_size(x64):
  scores, where, ids = oracles.random_lists((1, 60), 4)
  labels = np.random.default_rng(1).random((1, 60)) < 0.5
  loss, _ = jax.jit(lambda s: harmonrank_jax.multi_objective_auc_loss(
      s, labels, where=where, segment_ids=ids))(scores)
  values, sizes = [], []
  for group in np.unique(ids):
    chosen = where[0] & (ids[0] == group)
    if 0 < labels[0, chosen].sum() < chosen.sum():
      values.append(soft_auc(scores[0, chosen], labels[0, chosen] * 1.0, 2.0))
      sizes.append(chosen.sum())
  np.testing.assert_allclose(
      loss, 1 - np.average(values, weights=sizes), rtol=1e-12)


def pairwise(scores, labels, where, ids):
  """Mean logistic loss over pairs of each list, lists by their size."""
  losses_of_lists, sizes = [], []
  for group in np.unique(ids[where]):
    chosen = where & (ids == group)
    s, y = scores[chosen], labels[chosen] * 1.0
    worth = np.maximum(y[:, None] - y[None, :], 0)
    if worth.sum() > 0:
      losses_of_lists.append(
          (worth * np.logaddexp(0, s[None] - s[:, None])).sum() / worth.sum())
      sizes.append(chosen.sum())
  return np.average(losses_of_lists, weights=sizes)


@pytest.mark.parametrize("kind", ["bool", "value"])
def test_pairwise_counts_every_pair(kind, x64):
  scores, where, ids = oracles.random_lists((1, 300), 3)
  rng = np.random.default_rng(1)
  labels = rng.random((1, 300, 2)) < [0.3, 0.6]
  if kind == "value":
    labels = labels * rng.exponential(size=labels.shape)
  _, diagnostics = jax.jit(lambda s: harmonrank_jax.pairwise_loss(
      s, labels, where=where, segment_ids=ids))(scores)
  expected = [pairwise(scores[0], labels[0, :, m], where[0], ids[0])
              for m in range(2)]
  np.testing.assert_allclose(
      diagnostics.objective_loss, expected, rtol=1e-11)


def test_pointwise_losses_item_by_item(x64):
  scores, labels = sample()
  where = np.random.default_rng(1).random(SHAPE) < 0.7
  s, y = scores[where], labels[where] * 1.0
  p = 1 / (1 + np.exp(-s))[:, None]
  positive, negative = y * -np.log(p), (1 - y) * -np.log(1 - p)
  high = (y * p).sum(0) / y.sum(0)
  low = ((1 - y) * p).sum(0) / (1 - y).sum(0)
  expected = {
      harmonrank_jax.bce_loss: (positive + negative).mean(0),
      harmonrank_jax.balanced_bce_loss: 0.5 * (
          positive.sum(0) / y.sum(0) + negative.sum(0) / (1 - y).sum(0)),
      harmonrank_jax.auc_margin_loss: (
          (y * (p - high) ** 2).sum(0) / y.sum(0)
          + ((1 - y) * (p - low) ** 2).sum(0) / (1 - y).sum(0)
          + np.maximum(0, 1 - high + low) ** 2)}
  for loss_fn, value in expected.items():
    loss, diagnostics = loss_fn(scores, labels, where=where)
    np.testing.assert_allclose(diagnostics.objective_loss, value, rtol=1e-12)
    np.testing.assert_allclose(loss, value.mean(), rtol=1e-12)


def test_auc_margin_is_the_papers_min_max(x64):
  scores, labels = sample()
  p = 1 / (1 + np.exp(-scores[0]))
  y = labels[0, :, 0]
  rate = y.mean()

  def objective(a, b, dual):
    return ((1 - rate) * rate) ** -1 * np.mean(
        (1 - rate) * (p - a) ** 2 * y + rate * (p - b) ** 2 * ~y
        + 2 * dual * (rate * (1 - rate) + rate * p * ~y - (1 - rate) * p * y)
        - rate * (1 - rate) * dual**2)

  grid = np.linspace(0, 1, 41)
  best = min(max(objective(a, b, dual) for dual in np.linspace(0, 2, 41))
             for a in grid for b in grid)
  loss, _ = harmonrank_jax.auc_margin_loss(scores[0], y)
  np.testing.assert_allclose(loss, best, atol=2e-3)


@pytest.mark.parametrize("loss_fn", ALL)
def test_garbage_in_the_padding_changes_nothing(loss_fn):
  scores, labels = sample()
  where = np.random.default_rng(1).random(SHAPE) < 0.7
  call = jax.jit(jax.value_and_grad(
      lambda s, y: loss_fn(s, y, where=where)[0]))
  scores = np.float32(scores)
  expected = call(scores, labels)
  assert np.isfinite(expected[0])
  assert (np.asarray(expected[1])[~where] == 0).all()
  for garbage in (np.nan, np.inf, 1e30):
    actual = call(np.where(where, scores, np.float32(garbage)),
                  labels | ~where[..., None])
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_array_equal(actual[1], expected[1])


@pytest.mark.parametrize("loss_fn", ALL)
def test_gradient_against_differences(loss_fn, x64):
  scores, labels = sample()
  direction = np.random.default_rng(2).normal(size=SHAPE)
  # The strength follows the spread without a gradient: hold the spread.
  direction -= scores * (
      (direction * scores).sum(1, keepdims=True)
      / (scores**2).sum(1, keepdims=True))
  direction -= direction.mean(axis=1, keepdims=True)
  scores -= scores.mean(axis=1, keepdims=True)
  direction -= scores * (
      (direction * scores).sum(1, keepdims=True)
      / (scores**2).sum(1, keepdims=True))
  value = jax.jit(lambda s: loss_fn(s, labels)[0])
  gradient = jax.grad(value)(scores)
  step = 1e-6
  difference = (value(scores + step * direction)
                - value(scores - step * direction)) / (2 * step)
  np.testing.assert_allclose(
      (gradient * direction).sum(), difference, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("loss_fn", ALL)
def test_objectives_without_a_class_leave_and_weights_follow(loss_fn):
  scores, labels = sample()
  labels[..., 1] = False
  weights = np.float32([0.3, 0.5, 0.2])
  call = jax.jit(lambda y, w: loss_fn(
      np.float32(scores), y, objective_weights=w))
  loss, diagnostics = call(labels, weights)
  if loss_fn is harmonrank_jax.bce_loss:
    assert diagnostics.live_objectives.all()  # Its loss needs no positives.
    return
  np.testing.assert_array_equal(
      diagnostics.live_objectives, [True, False, True])
  alone, _ = call(labels[..., [0, 2]], weights[[0, 2]])
  np.testing.assert_allclose(loss, alone, rtol=1e-6)


@pytest.mark.parametrize("loss_fn", ALL)
def test_no_live_objective_is_zero_without_gradient(loss_fn):
  where = np.zeros(SHAPE, bool)
  scores, labels = sample()
  loss, gradient = jax.value_and_grad(
      lambda s: loss_fn(s, labels, where=where)[0])(np.float32(scores))
  assert loss == 0
  np.testing.assert_array_equal(gradient, np.zeros(SHAPE))


@pytest.mark.parametrize("loss_fn", RANKING)
def test_a_constant_list_has_a_finite_useful_gradient(loss_fn):
  labels = np.arange(30) % 3 == 0
  gradient = jax.grad(lambda s: loss_fn(s, labels)[0])(jnp.zeros(30))
  assert np.isfinite(gradient).all()
  assert (gradient[labels] < 0).all() and (gradient[~labels] > 0).all()


@pytest.mark.parametrize("loss_fn", RANKING)
def test_training_on_it_finds_the_order(loss_fn):
  rng = np.random.default_rng(0)
  features = jnp.asarray(rng.normal(size=(300, 5)), jnp.float32)
  labels = np.asarray(features @ jnp.arange(5.0)) > 1

  @jax.jit
  def step(w):
    gradient = jax.grad(lambda w: loss_fn(features @ w, labels)[0])(w)
    return w - gradient / (1e-6 + jnp.linalg.norm(gradient)) * 0.05

  w = jnp.ones(5)
  for _ in range(200):
    w = step(w)
  assert harmonrank_jax.auc(features @ w, labels) > 0.995


def test_nan_scores_are_not_hidden():
  scores, labels = sample()
  scores[0, 0] = np.nan
  for loss_fn in ALL:
    assert jnp.isnan(loss_fn(np.float32(scores), labels)[0])


def test_value_labels_move_the_high_values_up(x64):
  scores = np.zeros(3)
  gradient = jax.grad(lambda s: harmonrank_jax.multi_objective_auc_loss(
      s, np.array([0.0, 1.0, 5.0]))[0])(scores)
  assert gradient[2] < gradient[1] < gradient[0]


def test_vmap_over_seeds_is_a_loop():
  scores, labels = sample()
  call = jax.jit(
      lambda s: harmonrank_jax.multi_objective_auc_loss(s, labels[0])[0])
  np.testing.assert_allclose(
      jax.vmap(call)(np.float32(scores)),
      [call(np.float32(row)) for row in scores], rtol=1e-5)


def test_errors_name_the_argument():
  scores, labels = sample()
  for loss_fn in ALL:
    with pytest.raises(ValueError, match=r"labels.*\(29,\).*\(30,\)"):
      loss_fn(scores[0], labels[0, :29, 0])
    with pytest.raises(ValueError, match=r"objective_weights.*\(2,\)"):
      loss_fn(scores, labels, objective_weights=np.ones(2))
  with pytest.raises(ValueError, match=r"relative_strength.*-1"):
    losses.multi_objective_auc_loss(scores, labels, relative_strength=-1)
