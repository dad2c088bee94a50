"""The paper's eight steps against NumPy's transcription."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import trajectory
from tests.reranker import toys


def numpy_net(params, x, heads):
  """Layers' inputs and the heads' outputs."""
  inputs = [x]
  for name in sorted(k for k in params if k.startswith("hidden")):
    layer = params[name]
    inputs.append(np.tanh(inputs[-1] @ layer["kernel"] + layer["bias"]))
  return inputs, [inputs[-1] @ params[head]["kernel"] + params[head]["bias"]
                  for head in heads]


def numpy_gradient(params, inputs, heads, errors):
  """Backwards from the gradients at the heads."""
  gradient = {head: {"kernel": inputs[-1].T @ error, "bias": error.sum(0)}
              for head, error in zip(heads, errors, strict=True)}
  error = sum(e @ params[head]["kernel"].T
              for head, e in zip(heads, errors, strict=True))
  for depth in reversed(range(len(inputs) - 1)):
    error = error * (1 - inputs[depth + 1]**2)
    gradient[f"hidden_{depth}"] = {
        "kernel": inputs[depth].T @ error, "bias": error.sum(0)}
    error = error @ params[f"hidden_{depth}"]["kernel"].T
  return gradient


def numpy_adam(params, gradient_fn, rate, steps):
  first = second = jax.tree.map(np.zeros_like, params)
  for count in range(1, steps + 1):
    gradient = gradient_fn(params)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(
        lambda v, g: 0.999 * v + 0.001 * g**2, second, gradient)
    params = jax.tree.map(
        lambda p, m, v, n=count: p - rate * (m / (1 - 0.9**n)) / (
            np.sqrt(v / (1 - 0.999**n)) + 1e-8), params, first, second)
  return params


def numpy_paper(params, batch, last_observation, settings, config):
  """One iteration; parameters after it."""
  threshold, multiplier = (np.asarray(settings.controller.threshold),
                           np.asarray(settings.controller.initial))
  values_of = lambda x: numpy_net(params["critic"], x, ["values"])[1][0]
  rewards = np.concatenate(
      [batch.reward, batch.cost - threshold * batch.counted], -1)
  returns, follows = np.zeros_like(rewards), values_of(last_observation)
  for t in reversed(range(len(rewards))):  # Step 2.
    follows = np.where(batch.truncated[t][:, None], batch.final_values[t],
                       follows)
    follows = np.where(batch.terminated[t][:, None], 0, follows)
    follows = returns[t] = rewards[t] + np.asarray(settings.discounts) * follows
  weights = np.append(settings.reward_weights, -multiplier)
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  x, returns = flat(batch.observation), flat(returns)
  advantage = (returns - values_of(x)) @ weights / (1 + multiplier)  # Step 3.
  where, count = flat(batch.where), batch.where.sum()
  xi = config.clip_range

  def critic_gradient(params):  # Step 4.
    inputs, (values,) = numpy_net(params, x, ["values"])
    error = 2 * (values - returns) / values.size
    return numpy_gradient(params, inputs, ["values"], [error])

  def actor_gradient(params):  # Steps 5 and 6.
    inputs, (mean, log_std) = numpy_net(params, x, ["mean", "log_std"])
    z = (flat(batch.action) - mean) / np.exp(log_std)
    log_prob = -(z**2 / 2 + log_std + np.log(2 * np.pi) / 2).sum(-1)
    ratio = np.exp(log_prob - flat(batch.log_prob))
    active = ratio * advantage <= np.clip(ratio, 1 - xi, 1 + xi) * advantage
    slope = (-ratio * advantage * active * where / count)[:, None]
    return numpy_gradient(params, inputs, ["mean", "log_std"],
                          [slope * z / np.exp(log_std), slope * (z**2 - 1)])

  return {  # Step 7.
      "actor": numpy_adam(params["actor"], actor_gradient,
                          config.actor_learning_rate, config.num_epochs),
      "critic": numpy_adam(params["critic"], critic_gradient,
                           config.critic_learning_rate, 1)}


def double_learner(config, settings):
  """A learner of float64 with random networks, as if by `init`."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
      ppo.Ppo(toys.TOY, config).init, jax.random.key(0), toys.TARGET,
      settings)
  zeros = lambda x: np.zeros(x.shape, (
      np.float64 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype))
  drawn = lambda x: 0.5 * rng.normal(size=x.shape)
  observation = rng.normal(size=(toys.ENVS, 3))
  return shapes._replace(
      params=jax.tree.map(drawn, shapes.params),
      opt_state=jax.tree.map(zeros, shapes.opt_state),
      statistics=jax.tree.map(zeros, shapes.statistics),
      returns=jax.tree.map(zeros, shapes.returns), env_state=None,
      result=jax.tree.map(zeros, shapes.result)._replace(
          observation=observation),
      constraint=constraints.init(settings.controller), key=jax.random.key(0),
      num_updates=np.zeros((), np.int32))


def random_batch(learner, seed=0):
  """Steps of float64 whose log-probs are those of the learner's policy."""
  rng = np.random.default_rng(seed)
  shape = (toys.STEPS, toys.ENVS)
  terminated, truncated = rng.random((2, *shape)) < 0.15
  observation = rng.normal(size=(*shape, 3))
  action = rng.normal(size=(*shape, 2))
  _, (mean, log_std) = numpy_net(
      learner.params["params"]["actor"], observation, ["mean", "log_std"])
  return trajectory.Trajectory(
      observation, action,
      stats.norm(mean, np.exp(log_std)).logpdf(action).sum(-1),
      rng.random(shape) < 0.7, rng.normal(size=(*shape, 2)),
      rng.random((*shape, 1)), rng.integers(0, 3, (*shape, 1)) * 1.0,
      terminated, truncated, rng.normal(size=(*shape, 3)))


def test_paper_equals_numpys_transcription(x64):
  settings = jax.tree.map(
      np.float64, toys.settings_of(initial=jnp.array([0.3])))
  learner = double_learner(toys.PAPER, settings)
  batch = random_batch(learner)
  after, diagnostics = toys.improve(learner, batch, settings, config=toys.PAPER)
  before = learner.params["params"]
  expected = numpy_paper(
      before, batch, learner.result.observation, settings, toys.PAPER)
  # Far enough that some ratios were clipped.
  assert diagnostics.clip_fraction > 0.1
  assert diagnostics.num_actor_steps == toys.PAPER.num_epochs
  toys.assert_close(after.params["params"], expected, rtol=1e-9, atol=1e-9)
  moved = jax.tree.map(
      lambda x, y: np.abs(x - y).max(), expected, before)
  assert min(jax.tree.leaves(moved)) > 1e-4
