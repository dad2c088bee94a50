"""The Newton fit against scikit-learn, and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy import special
from sklearn import linear_model

from harmonrank_jax import logistic

ROWS = 300
fit_line = jax.jit(logistic.fit_line, static_argnames="num_steps")


def sample(seed=0):
  """Inputs `[N]`, fractions as targets, and weights with some zeros."""
  rng = np.random.default_rng(seed)
  inputs = rng.normal(size=ROWS) * 2 - 0.5
  labels = rng.random(ROWS) < special.expit(0.7 * inputs - 0.4)
  targets = 0.9 * labels + 0.05
  weights = rng.exponential(size=ROWS) * (rng.random(ROWS) < 0.7)
  return inputs, targets, weights


def scikit_learn_line(inputs, targets, weights):
  """A row of fractions is a row of each class, weighted by the fraction."""
  model = linear_model.LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
  model.fit(np.tile(inputs, 2)[:, None], np.repeat([1, 0], ROWS),
            np.concatenate([weights * targets, weights * (1 - targets)]))
  return model.coef_[0, 0], model.intercept_[0]


@pytest.mark.parametrize("seed", range(3))
def test_line_agrees_with_scikit_learn(x64, seed):
  problem = sample(seed)
  line = fit_line(problem[0], problem[1], weights=problem[2])
  np.testing.assert_allclose(line, scikit_learn_line(*problem), rtol=1e-4)


def test_line_by_hand():
  # Rates of 1/5 at -1 and 2/3 at 1: a line through two log-odds.
  inputs = np.repeat(np.float32([-1, 1]), [5, 3])
  targets = np.float32([1, 0, 0, 0, 0, 1, 1, 0])
  low, high = np.log(1 / 4), np.log(2)
  np.testing.assert_allclose(
      fit_line(inputs, targets), [(high - low) / 2, (high + low) / 2],
      rtol=1e-5)


def test_float32_is_enough():
  inputs, targets, weights = (np.float32(x) for x in sample())
  np.testing.assert_allclose(
      fit_line(inputs, targets, weights=weights),
      scikit_learn_line(inputs, targets, weights), rtol=1e-3)


def test_a_row_of_weight_0_is_no_row():
  inputs, targets, weights = (np.float32(x) for x in sample())
  left_out = weights == 0
  for garbage in (-1e3, 0.0, 1e3):
    line = fit_line(
        inputs, np.where(left_out, np.float32(garbage), targets),
        weights=weights)
    np.testing.assert_array_equal(
        line, fit_line(inputs, targets, weights=weights))


def test_long_steps_are_taken_back():
  # From here the full step lands where both sides are saturated.
  inputs, targets, weights = sample()
  start = logistic.Line(jnp.float32(6), jnp.float32(-9))
  np.testing.assert_allclose(
      fit_line(np.float32(inputs), np.float32(targets), weights=weights,
               start=start),
      scikit_learn_line(inputs, targets, weights), rtol=1e-3)


@pytest.mark.parametrize("inputs, targets", [
    pytest.param(np.linspace(-1, 1, ROWS), np.linspace(-1, 1, ROWS) > 0,
                 id="separable"),
    pytest.param(np.linspace(-1, 1, ROWS), np.zeros(ROWS), id="one_class"),
    pytest.param(np.zeros(ROWS), np.arange(ROWS) % 2, id="constant")])
def test_degenerate_problems_end_finite(inputs, targets):
  line = fit_line(np.float32(inputs), np.float32(targets))
  assert np.isfinite(line).all()


def test_the_total_moves_no_optimum(x64):
  inputs, targets, weights = sample()
  np.testing.assert_allclose(
      fit_line(inputs, targets, weights=weights, total=1.0),
      fit_line(inputs, targets, weights=weights), rtol=1e-6)


fit_coefficients = jax.jit(
    logistic.fit_coefficients, static_argnames="precision")


def several_inputs(*, scale, far):
  """Inputs of three columns, targets, offsets `far` from them, weights."""
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(ROWS, 3)) * [1, scale, 0.1] + [0, 0, 1]
  _, targets, weights = sample()
  return inputs, targets, far + 2 * rng.normal(size=ROWS), weights


@pytest.mark.parametrize("scale, far, precision", [
    (1.0, 0.0, 1.0), (1.0, 0.0, 0.0), (30.0, 0.0, 0.1), (1.0, 15.0, 1.0),
    (30.0, -20.0, 1.0)])
def test_coefficients_are_the_maximum_of_the_posterior(scale, far, precision):
  inputs, targets, offsets, weights = several_inputs(scale=scale, far=far)

  def loss(coefficients):
    z = offsets + inputs @ coefficients
    return np.sum(weights * (np.logaddexp(0, z) - targets * z)) + (
        precision / 2 * np.sum(coefficients**2))

  def gradient(coefficients):
    z = offsets + inputs @ coefficients
    return inputs.T @ (weights * (special.expit(z) - targets)) + (
        precision * coefficients)

  best = optimize.minimize(
      loss, np.zeros(3), jac=gradient, method="BFGS",
      options={"gtol": 1e-9}).x
  found = fit_coefficients(
      *map(np.float32, (inputs, targets)), offsets=np.float32(offsets),
      weights=np.float32(weights), precision=precision)
  assert np.abs(gradient(best)).max() < 1e-5
  np.testing.assert_allclose(found, best, rtol=2e-3, atol=2e-4)


def test_without_rows_coefficients_are_those_of_the_prior():
  inputs, targets, offsets, weights = map(
      np.float32, several_inputs(scale=1.0, far=0.0))
  np.testing.assert_array_equal(fit_coefficients(
      inputs, targets, offsets=offsets, weights=0 * weights, precision=1.0),
                                np.zeros(3))


def test_vmap_is_a_loop():
  problems = [tuple(np.float32(x) for x in sample(seed)) for seed in range(3)]
  fit = functools.partial(logistic.fit_line, num_steps=15)
  mapped = jax.vmap(lambda x, t, w: fit(x, t, weights=w))(
      *(np.stack(part) for part in zip(*problems, strict=True)))
  for lane, (x, t, w) in enumerate(problems):
    np.testing.assert_allclose(
        [part[lane] for part in mapped], fit(x, t, weights=w), rtol=1e-5)
