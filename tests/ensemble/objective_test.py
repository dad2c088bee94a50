"""What each objective measures, and which parameters it trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmonrank_jax.ensemble import losses
from harmonrank_jax.ensemble import objective
from tests.ensemble import rankers


def evaluate(objective_fn, *, head="aligned", lists=False):
  """Ranker, parameters, rows, calibration; loss and what was measured."""
  ranker, rows = rankers.make_ranker(head), rankers.make_rows(lists=lists)
  params, platt = rankers.make_params(ranker, rows), rankers.fit_platt(rows)
  loss, measured = jax.jit(lambda params, rows: objective_fn(
      ranker, params, rows, objective_weights=rankers.WEIGHTS, platt=platt))(
          params, rows)
  return (ranker, params, rows, platt), loss, measured


def entropy_of(problem):
  """Mean cross-entropy `[M]` of the corrected probabilities, in NumPy."""
  ranker, params, rows, _ = problem
  logits = np.asarray(
      jax.jit(ranker.objective_logits)(params, rows), np.float64)
  labels = np.asarray(rows.labels)
  return np.logaddexp(0, np.where(labels, -logits, logits)).mean(axis=0)


@pytest.mark.parametrize("lists", [False, True], ids=["batch", "lists"])
def test_the_scalar_objective_is_the_loss_of_the_score(lists):
  (ranker, params, rows, _), loss, measured = evaluate(
      objective.scalar_objective, head="score", lists=lists)
  expected, diagnostics = losses.multi_objective_auc_loss(
      ranker.score(params, rows, None), rows.labels,
      objective_weights=rankers.WEIGHTS, segment_ids=rows.lists)
  assert float(loss) == pytest.approx(float(expected), abs=1e-6)
  assert set(measured) == set(diagnostics._asdict())


def test_cross_entropy_is_that_of_the_corrected_probabilities():
  problem, loss, measured = evaluate(objective.cross_entropy_objective)
  expected = entropy_of(problem)
  np.testing.assert_allclose(measured["cross_entropy"], expected, rtol=1e-5)
  assert float(loss) == pytest.approx(expected.mean(), rel=1e-5)


def test_the_aligned_objective_adds_the_rank_loss_of_the_log_score():
  problem, loss, _ = evaluate(objective.aligned_objective)
  ranker, params, rows, _ = problem
  ranked, _ = losses.multi_objective_auc_loss(
      jnp.log(ranker.score(params, rows, rankers.WEIGHTS)), rows.labels,
      objective_weights=rankers.WEIGHTS)
  assert float(loss) == pytest.approx(
      float(ranked) + entropy_of(problem).mean(), rel=1e-5)


def test_the_pointwise_objective_takes_the_odds_beside_the_base_rate():
  (ranker, params, rows, platt), _, measured = evaluate(
      objective.pointwise_objective)
  logits = np.asarray(ranker.objective_logits(params, rows))
  rate = np.asarray(platt.base_rate)
  relative = logits - np.log(rate / (1 - rate))
  for m in range(2):
    expected, _ = losses.balanced_bce_loss(
        jnp.asarray(relative[:, m]), rows.labels[:, m])
    assert float(measured["objective_loss"][m]) == pytest.approx(
        float(expected), rel=1e-5)


@pytest.mark.parametrize("lists", [False, True], ids=["batch", "lists"])
def test_the_rank_loss_trains_the_gains_and_of_lists_all_the_rest(lists):
  ranker, rows = rankers.make_ranker(), rankers.make_rows(lists=lists)
  params, platt = rankers.make_params(ranker, rows), rankers.fit_platt(rows)

  def gradient(objective_fn):
    return jax.jit(jax.grad(lambda params: objective_fn(
        ranker, params, rows, objective_weights=rankers.WEIGHTS,
        platt=platt)[0]))(params)

  both = gradient(functools.partial(
      objective.aligned_objective, loss_fn=functools.partial(
          losses.multi_objective_auc_loss, relative_strength=2.0)))
  # Cross-entropy is a part of both: what is left is the rank loss.
  moved = jax.tree.leaves_with_path(jax.tree.map(
      lambda x, y: float(np.abs(x - y).max()), both,
      gradient(objective.cross_entropy_objective)))
  moved = {path[-1].key: value for path, value in moved}
  assert moved.pop("gain") > 1e-5
  assert (moved["scale"] > 1e-5) == (moved["embedding"] > 1e-5) == lists
  assert lists or max(moved.values()) < 1e-6
