"""PPO against NumPy's transcription, arithmetic by hand, and small worlds."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import environment
from harmonrank_jax.reranker import policy
from harmonrank_jax.reranker import ppo

ENVS, STEPS, THRESHOLD = 16, 12, 0.8
traces = []
# Programs run once and briefly here: half of the time to compile is saved.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class ToyState(NamedTuple):
  time: jax.Array
  context: jax.Array  # [2], of the whole episode


@dataclasses.dataclass(frozen=True)
class Toy:
  """Two targets to hit; episodes terminate at 5 steps or are cut at random."""

  observation_size: int = 3
  action_size: int = 2
  num_rewards: int = 2
  num_costs: int = 1

  def _result(self, state, reward, cost, key, ended, cut):
    return environment.StepResult(
        jnp.concatenate([state.time[None], state.context]), reward, cost,
        (cost != 0).astype(jnp.float32), jax.random.bernoulli(key, 0.7), ended,
        cut & ~ended)

  def reset(self, key, params):
    place, asks = jax.random.split(key)
    state = ToyState(jnp.zeros(()), jax.random.normal(place, (2,)))
    no = jnp.zeros((), bool)
    return state, self._result(
        state, jnp.zeros(2), jnp.zeros(1), asks, no, no)

  def step(self, key, state, action, params):
    cut, asks = jax.random.split(key)
    reward = -jnp.square(action - params["target"] - state.context)
    state = state._replace(time=state.time + 1)
    return state, self._result(
        state, reward, jnp.abs(action[:1]), asks, state.time >= 5,
        jax.random.bernoulli(cut, 0.15))


TOY, TARGET = Toy(), {"target": jnp.array([0.5, -0.5])}
TARGETS = {"target": jnp.tile(TARGET["target"], (ENVS, 1))}
MODERN = dataclasses.replace(
    ppo.PpoConfig.modern(TOY, hidden_sizes=(8,), initial_std=0.5),
    num_envs=ENVS, num_steps=STEPS, num_epochs=3, num_minibatches=2,
    target_kl=0.05, actor_learning_rate=3e-3)
DOCUMENT = dataclasses.replace(
    ppo.PpoConfig.document(TOY, hidden_sizes=(8, 6), initial_std=0.5),
    num_envs=ENVS, num_steps=STEPS, num_epochs=3, actor_learning_rate=0.03)


def settings_of(weights=(1.0, 0.5), **gains):
  return ppo.Settings(
      jnp.array(weights), jnp.array([0.9, 0.8, 0.95]),
      constraints.Controller(jnp.array([THRESHOLD]), **gains))


SETTINGS = settings_of(integral=0.5, initial=0.1)
SETTINGS_AXES = jax.tree.map(lambda _: None, SETTINGS)._replace(
    reward_weights=0)
WEIGHTS = jnp.array([[1.0, 0.5], [0.0, 1.0], [1.0, 0.0]])
MANY_SETTINGS = SETTINGS._replace(reward_weights=WEIGHTS)


@jit
def start(key):
  return ppo.init(key, TARGET, SETTINGS, environment=TOY, config=MODERN)


jitted_collect = jit(functools.partial(
    ppo.collect, environment=TOY, config=MODERN, params_axes=0))
jitted_improve = jit(ppo.improve, static_argnames="config")


def collect(learner, targets=TARGETS):
  return jitted_collect(learner, targets)


def improve(learner, steps, settings=SETTINGS, *, config=MODERN):
  return jitted_improve(learner, steps, settings, config=config)


def step(learner, settings=SETTINGS):
  """An update by its two halves."""
  return improve(*collect(learner), settings)


@functools.partial(jit, donate_argnums=0)
@functools.partial(jax.vmap, in_axes=(0, SETTINGS_AXES))
def step_all(learner, settings):
  """An update of many learners with weights of their own."""
  traces.append(1)
  return ppo.update(learner, TARGET, settings, environment=TOY, config=MODERN)


@jit
def stack(*learners):
  return jax.tree.map(lambda *x: jnp.stack(x), *learners)


@jit
def look(learner, observation):
  """Both networks' words on observations, normalised by hand."""
  shift, variance = learner.statistics.mean, learner.statistics.variance
  return policy.ActorCritic(MODERN.policy).apply(
      learner.params,
      (observation - shift[None, None]) / jnp.sqrt(variance)[None, None])


@functools.cache
def trained(seed=0, num_updates=3):
  """A learner after some updates, and the diagnostics of the last one."""
  learner = start(jax.random.key(seed))
  for _ in range(num_updates):
    learner, diagnostics = step(learner)
  return learner, diagnostics


@functools.cache
def collected():
  """A learner after some updates, and the steps of the next one."""
  return collect(trained()[0])


def raw(tree):
  """NumPy arrays; keys as their data."""
  return jax.tree.map(
      lambda x: np.asarray(
          jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
          else x), tree)


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, raw(one), raw(other))


def assert_close(one, other, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance),
               raw(one), raw(other))


# --- returns and advantages ---


def sample_steps(seed=0, shape=(9, 4), components=3):
  rng = np.random.default_rng(seed)
  rewards, values, next_values = rng.normal(size=(3, *shape, components))
  terminated, truncated = rng.random((2, *shape)) < 0.2
  goes_on = ~(terminated | truncated)[:-1, ..., None]
  next_values[:-1] = np.where(goes_on, values[1:], next_values[:-1])
  discounts = rng.uniform(0.5, 1, components)
  return rewards, values, next_values, terminated, truncated, discounts


@functools.partial(jit, static_argnames="gae_lambda")
def gae(rewards, values, next_values, terminated, truncated, discounts,
        gae_lambda=1.0):
  return ppo.vector_gae(rewards, values, next_values, terminated, truncated,
                        discounts=discounts, gae_lambda=gae_lambda)


def test_gae_by_hand(x64):
  # Terminated at 1, truncated at 2 with v' = 7, cut by the batch with v' = 5.
  rewards = np.array([[1.0], [2], [3], [4]])
  values = np.array([[0.5], [1], [1.5], [2]])
  next_values = np.array([[1.0], [9], [7], [5]])
  flags = np.eye(4, dtype=bool)
  g, lam = 0.5, 0.25
  advantages, returns = gae(
      rewards, values, next_values, flags[1], flags[2], np.array([g]),
      gae_lambda=lam)
  last = 4 + g * 5 - 2
  cut = 3 + g * 7 - 1.5
  end = 2 - 1
  first = 1 + g * 1 - 0.5 + g * lam * end
  np.testing.assert_allclose(advantages[:, 0], [first, end, cut, last])
  np.testing.assert_allclose(returns, advantages + values)


def test_gae_with_lambda_1_is_the_return_by_the_loop(x64):
  steps = sample_steps()
  rewards, _, next_values, terminated, truncated, discounts = steps
  _, returns = gae(*steps)
  for t, env in np.ndindex(terminated.shape):
    total, factor = 0, np.ones(3)
    for now in range(t, len(rewards)):
      total = total + factor * rewards[now, env]
      factor = factor * discounts
      if terminated[now, env]:
        break
      if truncated[now, env] or now == len(rewards) - 1:
        total = total + factor * next_values[now, env]
        break
    np.testing.assert_allclose(returns[t, env], total, rtol=1e-12)


def test_a_terminated_step_ignores_what_follows(x64):
  rewards, values, next_values, terminated, truncated, discounts = (
      sample_steps())
  spoilt = np.where(terminated[..., None], 1e9, next_values)
  assert_close(
      gae(rewards, values, next_values, terminated, truncated, discounts, 0.9),
      gae(rewards, values, spoilt, terminated, truncated, discounts, 0.9),
      rtol=1e-12)


def test_vector_and_scalar_agree_with_equal_discounts(x64):
  rewards, values, next_values, terminated, truncated, _ = sample_steps()
  weights = np.array([0.2, 1.5, -0.7])
  scalar = lambda x: (x @ weights)[..., None]
  for lam in (0.9, 1.0):
    vector = gae(rewards, values, next_values, terminated, truncated,
                 np.full(3, 0.93), gae_lambda=lam)
    one = gae(scalar(rewards), scalar(values), scalar(next_values), terminated,
              truncated, np.full(1, 0.93), gae_lambda=lam)
    assert_close([scalar(x) for x in vector], list(one), rtol=1e-12)


# --- the document's eight steps ---


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


def numpy_document(params, batch, last_observation, settings, config):
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
      functools.partial(ppo.init, environment=TOY, config=config),
      jax.random.key(0), TARGET, settings)
  zeros = lambda x: np.zeros(x.shape, (
      np.float64 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype))
  drawn = lambda x: 0.5 * rng.normal(size=x.shape)
  observation = rng.normal(size=(ENVS, 3))
  return shapes._replace(
      params=jax.tree.map(drawn, shapes.params),
      opt_state=jax.tree.map(zeros, shapes.opt_state),
      statistics=jax.tree.map(zeros, shapes.statistics), env_state=None,
      result=jax.tree.map(zeros, shapes.result)._replace(
          observation=observation),
      constraint=constraints.init(settings.controller), key=jax.random.key(0),
      num_updates=np.zeros((), np.int32))


def random_batch(learner, seed=0):
  """Steps of float64 whose log-probs are those of the learner's policy."""
  rng = np.random.default_rng(seed)
  shape = (STEPS, ENVS)
  terminated, truncated = rng.random((2, *shape)) < 0.15
  observation = rng.normal(size=(*shape, 3))
  action = rng.normal(size=(*shape, 2))
  _, (mean, log_std) = numpy_net(
      learner.params["params"]["actor"], observation, ["mean", "log_std"])
  return ppo.Trajectory(
      observation, action,
      stats.norm(mean, np.exp(log_std)).logpdf(action).sum(-1),
      rng.random(shape) < 0.7, rng.normal(size=(*shape, 2)),
      rng.random((*shape, 1)), rng.integers(0, 3, (*shape, 1)) * 1.0,
      terminated, truncated, rng.normal(size=(*shape, 3)))


def test_document_equals_numpys_transcription(x64):
  settings = jax.tree.map(np.float64, settings_of(initial=jnp.array([0.3])))
  learner = double_learner(DOCUMENT, settings)
  batch = random_batch(learner)
  after, diagnostics = improve(learner, batch, settings, config=DOCUMENT)
  before = learner.params["params"]
  expected = numpy_document(
      before, batch, learner.result.observation, settings, DOCUMENT)
  # Far enough that some ratios were clipped.
  assert diagnostics.clip_fraction > 0.1
  assert diagnostics.num_actor_steps == DOCUMENT.num_epochs
  assert_close(after.params["params"], expected, rtol=1e-9, atol=1e-9)
  moved = jax.tree.map(
      lambda x, y: np.abs(x - y).max(), expected, before)
  assert min(jax.tree.leaves(moved)) > 1e-4


# --- rollouts ---


def test_stored_log_probs_are_the_old_networks():
  learner, _ = trained()
  _, steps = collected()
  mean, log_std, _ = look(learner, steps.observation)
  np.testing.assert_allclose(
      steps.log_prob, policy.log_prob(steps.action, mean, log_std), rtol=1e-4)
  noise = (steps.action - mean) / jnp.exp(log_std)
  assert np.abs(np.mean(noise)) < 0.2 and abs(np.std(noise) - 1) < 0.15
  np.testing.assert_allclose(
      mean, ppo.mean_action(learner.params, learner.statistics,
                            steps.observation, config=MODERN),
      rtol=1e-4, atol=1e-5)


def test_environments_go_on_between_updates_and_start_anew_where_they_end():
  learner, _ = trained()
  after, steps = collected()
  observation = np.concatenate(
      [steps.observation, after.result.observation[None]])
  np.testing.assert_array_equal(observation[0], learner.result.observation)
  ended = np.asarray(steps.terminated | steps.truncated)
  assert steps.terminated.any() and steps.truncated.any()
  time, context = observation[..., 0], observation[..., 1:]
  np.testing.assert_array_equal(time[1:], np.where(ended, 0, time[:-1] + 1))
  np.testing.assert_array_equal(context[1:][~ended], context[:-1][~ended])
  for env in range(ENVS):
    # One fresh start per environment and update.
    starts = context[1:, env][ended[:, env]]
    np.testing.assert_array_equal(starts, starts[:1].repeat(len(starts), 0))
    assert (starts[:1] != context[0, env]).all()
  np.testing.assert_array_equal(steps.where[0], learner.result.where)
  np.testing.assert_array_equal(after.env_state.time, time[-1])


def test_truncated_steps_hold_the_value_of_their_last_observation():
  _, steps = collected()
  # All that a step changes is the time.
  final = steps.observation + jnp.eye(3)[0][None, None]
  cut = np.asarray(steps.truncated)
  np.testing.assert_allclose(
      steps.final_values[cut], look(trained()[0], final).values[cut],
      rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_all_observations():
  learner = start(jax.random.key(3))
  seen = []
  for _ in range(3):
    seen.append(np.asarray(collect(learner)[1].observation))
    learner, _ = step(learner)
  seen = np.concatenate(seen).reshape(-1, 3)
  assert learner.statistics.num_seen == len(seen)
  np.testing.assert_allclose(
      learner.statistics.mean, seen.mean(0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(learner.statistics.variance, seen.var(0),
                             rtol=1e-4)


def test_each_environment_may_have_its_own_parameters():
  targets = {"target": jnp.arange(2.0 * ENVS).reshape(ENVS, 2)}
  _, steps = collect(trained()[0], targets)
  expected = -np.square(steps.action - targets["target"][None]
                        - steps.observation[..., 1:])
  np.testing.assert_allclose(steps.reward, expected, rtol=1e-4, atol=1e-4)


# --- updates ---


def test_masked_steps_do_not_reach_the_policy():
  learner, steps = collected()
  expected = improve(learner, steps)
  for garbage in (np.nan, np.inf, 1e30):
    spoil = lambda x, garbage=garbage: np.where(
        np.reshape(steps.where, steps.where.shape + (1,) * (x.ndim - 2)), x,
        np.float32(garbage))
    assert_equal(expected, improve(learner, steps._replace(
        action=spoil(steps.action), log_prob=spoil(steps.log_prob))))
  assert expected[1].num_where == steps.where.sum()


def test_nobody_asks():
  learner, steps = collected()
  after, diagnostics = improve(
      learner, steps._replace(where=np.zeros(steps.where.shape, bool)))
  assert diagnostics.num_where == diagnostics.actor_gradient_norm == 0
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(
      (after.params, after.constraint, diagnostics)))
  # Time passes for the critic.
  assert diagnostics.critic_gradient_norm > 0


def test_diagnostics_by_hand():
  learner, steps = collected()
  after, diagnostics = improve(learner, steps)
  steps = raw(steps)
  np.testing.assert_allclose(
      diagnostics.mean_reward,
      steps.reward.sum((0, 1)) / steps.where.sum(), rtol=1e-5)
  ratio = steps.cost.sum((0, 1)) / steps.counted.sum((0, 1))
  np.testing.assert_allclose(diagnostics.cost_ratio, ratio, rtol=1e-5)
  np.testing.assert_allclose(
      diagnostics.violation, ratio - THRESHOLD, rtol=1e-5)
  np.testing.assert_allclose(
      diagnostics.multipliers,
      np.maximum(learner.constraint.integral + 0.5 * (ratio - THRESHOLD), 0),
      rtol=1e-5)
  np.testing.assert_array_equal(
      diagnostics.multipliers, after.constraint.multiplier)
  np.testing.assert_allclose(
      diagnostics.entropy,
      policy.entropy(learner.params["params"]["actor"]["log_std"]), rtol=0.05)
  assert (diagnostics.explained_variance < 1).all()
  assert after.num_updates == learner.num_updates + 1 == 4


def test_constraint_without_anything_counted_stays():
  learner, steps = collected()
  nothing = np.zeros(steps.counted.shape, np.float32)
  after, diagnostics = improve(learner, steps._replace(counted=nothing))
  assert np.isnan(diagnostics.cost_ratio).all()
  assert_equal(after.constraint, learner.constraint)


def test_at_the_threshold_a_cost_is_worth_nothing():
  # Whatever is counted: its critic sees cost less what was allowed.
  learner, steps = collected()
  learner = learner._replace(constraint=learner.constraint._replace(
      integral=np.full(1, 2, np.float32)))
  counted = np.array(steps.counted)
  counted[::2] = 3
  allowed = np.float32(THRESHOLD)
  steps = steps._replace(counted=counted, cost=allowed * counted)
  same = steps._replace(counted=2 * counted, cost=2 * allowed * counted)
  one, other = improve(learner, steps)[0], improve(learner, same)[0]
  assert_close(one.params, other.params, rtol=1e-4, atol=1e-6)


def test_actor_stops_before_it_is_too_far():
  learner, steps = collected()
  full, diagnostics = improve(learner, steps)
  assert diagnostics.num_actor_steps == 6
  assert diagnostics.approx_kl < MODERN.target_kl
  # As if another policy had acted: all ratios are r at the first step.
  near, far = 0.3, 0.35
  assert math.expm1(near) - near < MODERN.target_kl < math.expm1(far) - far
  shifted = lambda shift: steps._replace(
      log_prob=steps.log_prob - np.float32(shift))
  after, diagnostics = improve(learner, shifted(far))
  assert diagnostics.num_actor_steps == 0
  np.testing.assert_allclose(
      diagnostics.approx_kl, math.expm1(far) - far, rtol=1e-4)
  assert_equal([after.params["params"]["actor"], after.opt_state.actor],
               [learner.params["params"]["actor"], learner.opt_state.actor])
  # The critic goes on.
  assert_equal(
      after.params["params"]["critic"], full.params["params"]["critic"])
  _, diagnostics = improve(learner, shifted(near))
  assert 1 <= diagnostics.num_actor_steps < 6
  assert diagnostics.approx_kl >= MODERN.target_kl


# --- many learners, many updates ---


def test_learning_rates_fall_to_0_over_the_updates():
  learner, steps = collected()
  moved = lambda number, config: improve(
      learner._replace(num_updates=jnp.int32(number)), steps, config=config)[0]
  annealed = dataclasses.replace(
      MODERN, num_epochs=1, num_critic_epochs=1, num_minibatches=1,
      num_updates=4)
  change = lambda number: np.concatenate([
      np.ravel(new - old) for new, old in zip(
          jax.tree.leaves(moved(number, annealed).params),
          jax.tree.leaves(learner.params), strict=True)])
  whole = change(0)
  assert np.abs(whole).max() > 1e-4
  for number, share in ((1, 0.75), (3, 0.25), (4, 0), (7, 0)):
    np.testing.assert_allclose(change(number), share * whole, atol=2e-7)


@functools.cache
def many_trained():
  """Other seeds, other weights; after one update."""
  learners = [start(jax.random.key(seed)) for seed in range(len(WEIGHTS))]
  return step_all(stack(*learners), MANY_SETTINGS)


def test_learners_vmapped_are_learners_looped():
  together = raw(many_trained())
  for i, weights in enumerate(WEIGHTS):
    alone = step(start(jax.random.key(i)),
                 SETTINGS._replace(reward_weights=weights))
    assert_close(ppo.take_one(together, i), alone, rtol=2e-3, atol=2e-4)


def test_weights_decide_what_is_learned():
  learner, steps = collected()
  heads = [improve(learner, steps, SETTINGS._replace(reward_weights=weights))[
      0].params["params"]["actor"]["mean"]["bias"] for weights in WEIGHTS]
  assert np.abs(heads[1] - heads[2]).max() > 1e-3


@functools.cache
def long_training():
  """A whole training as one scan, from where `trained` begins."""
  return jit(functools.partial(
      ppo.train_scan, num_updates=150, environment=TOY, config=MODERN))(
          start(jax.random.key(0)), TARGET, SETTINGS)


def test_one_scan_is_the_loop_of_updates():
  after, diagnostics = long_training()
  assert after.num_updates == 150
  assert_close(
      ppo.take_one(raw(diagnostics), 2), trained()[1], rtol=2e-3, atol=1e-4)


def test_learns_to_hit_its_targets_within_the_constraint():
  after, diagnostics = long_training()
  first, last = (jax.tree.map(lambda x, part=part: np.mean(x[part], axis=0),
                              raw(diagnostics))
                 for part in (slice(0, 5), slice(-40, None)))
  # At first 0.5^2 for the target, 1 for the context, and the noise.
  assert (first.mean_reward < -1.2).all()
  assert last.mean_reward[1] > -0.5
  # The first coordinate would be of size 0.9, and must not be.
  assert first.multipliers < last.multipliers
  np.testing.assert_allclose(last.cost_ratio, THRESHOLD, atol=0.05)
  # Rewards are mostly noise by now, but not what is over the threshold.
  assert last.explained_variance[2] > 0.5
  context = jnp.array([[0.0, 0.7], [0.0, -0.7]])
  action = ppo.mean_action(
      after.params, after.statistics,
      jnp.concatenate([jnp.full((2, 1), 2.0), context], axis=-1),
      config=MODERN)
  np.testing.assert_allclose(action[:, 1], context[:, 1] - 0.5, atol=0.35)


def test_resumed_training_is_the_same_bit_by_bit():
  learners, _ = many_trained()
  saved = raw(learners)
  restored = jax.tree.map(
      lambda like, x: (jax.random.wrap_key_data(x) if jnp.issubdtype(
          like.dtype, jax.dtypes.prng_key) else jnp.array(x)),
      learners, saved)
  # A copy goes on, since learners are donated.
  one, other = (raw(step_all(x, MANY_SETTINGS))
                for x in (restored, jax.tree.map(jnp.array, learners)))
  assert_equal(one, other)
  np.testing.assert_array_equal(one[0].num_updates, 2)


def test_a_fresh_learner_may_be_donated():
  # No two of its leaves are one buffer.
  learner = start(jax.random.key(0))
  donated = jit(lambda x: x, donate_argnums=0)(learner)
  assert_equal(donated, start(jax.random.key(0)))


# --- a known world ---


@dataclasses.dataclass(frozen=True)
class Pendulum:
  """The classic swing-up: rewards in tens, cut off after 200 steps."""

  observation_size: int = 3
  action_size: int = 1
  num_rewards: int = 1
  num_costs: int = 0

  def _result(self, state, reward):
    angle, speed, time = state
    no, none = jnp.zeros((), bool), jnp.zeros(0)
    return environment.StepResult(
        jnp.stack([jnp.cos(angle), jnp.sin(angle), speed]), reward[None], none,
        none, ~no, no, time >= 200)

  def reset(self, key, params):
    low, high = jnp.array([-jnp.pi, -1]), jnp.array([jnp.pi, 1])
    angle, speed = jax.random.uniform(key, (2,), minval=low, maxval=high)
    state = angle, speed, jnp.zeros((), jnp.int32)
    return state, self._result(state, jnp.zeros(()))

  def step(self, key, state, action, params):
    angle, speed, time = state
    torque = jnp.clip(action[0], -2, 2)
    off = jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi
    reward = -(off**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = jnp.clip(
        speed + 0.05 * (15 * jnp.sin(angle) + 3 * torque), -8, 8)
    state = angle + 0.05 * speed, speed, time + 1
    return state, self._result(state, reward / 10)


def pendulum_return(learner, config):
  """Mean return of episodes under the mean action."""
  pendulum = Pendulum()
  keys = jax.random.split(jax.random.key(99), 64)

  def body(carry, _):
    state, result = carry
    action = ppo.mean_action(
        learner.params, learner.statistics, result.observation, config=config)
    state, result = jax.vmap(pendulum.step, in_axes=(None, 0, 0, None))(
        keys[0], state, action, None)
    return (state, result), result.reward[:, 0]

  rewards = jax.lax.scan(
      body, jax.vmap(pendulum.reset, in_axes=(0, None))(keys, None),
      length=200)[1]
  return 10 * jnp.mean(jnp.sum(rewards, axis=0))


@pytest.mark.slow
def test_swings_the_pendulum_up():
  pendulum = Pendulum()
  config = dataclasses.replace(
      ppo.PpoConfig.modern(pendulum, initial_std=1.0), num_envs=32,
      num_steps=64, num_epochs=10, num_critic_epochs=10, num_minibatches=8,
      actor_learning_rate=5e-4, target_kl=0.03)
  settings = ppo.Settings(
      jnp.ones(1), jnp.full(1, 0.95), constraints.Controller(jnp.zeros(0)))
  options = {"environment": pendulum, "config": config}
  learner = jax.jit(functools.partial(ppo.init, **options))(
      jax.random.key(0), None, settings)
  evaluate = jax.jit(functools.partial(pendulum_return, config=config))
  before = evaluate(learner)
  train = jax.jit(functools.partial(
      ppo.train_scan, num_updates=200, **options), donate_argnums=0)
  learner, diagnostics = train(learner, None, settings)
  after = evaluate(learner)
  assert before < -900
  assert after > -200, (after, diagnostics)


# --- contracts ---


def test_one_trace_for_all_updates():
  learners, _ = many_trained()
  learners = jax.tree.map(jnp.array, learners)
  for weights in (WEIGHTS[::-1], 2 * WEIGHTS):
    learners, _ = step_all(
        learners, MANY_SETTINGS._replace(reward_weights=weights))
  assert len(traces) == 1


def test_errors_name_the_argument():
  replace = lambda **options: dataclasses.replace(MODERN, **options)
  key = jax.random.key(0)
  call = lambda settings=SETTINGS, config=MODERN: ppo.init(
      key, TARGET, settings, environment=TOY, config=config)
  rewards, flags = np.zeros((3, 2)), np.zeros(3, bool)
  gae_of = lambda v=rewards, n=rewards, t=flags, c=flags, d=rewards[0]: (
      ppo.vector_gae(rewards, v, n, t, c, discounts=d, gae_lambda=1.0))
  for make, message in (
      (lambda: replace(num_minibatches=5), "num_minibatches must divide"),
      (lambda: replace(num_envs=0), "num_envs must be at least 1, got 0"),
      (lambda: replace(gae_lambda=1.5), "gae_lambda must be in"),
      (lambda: replace(clip_range=0.0), "clip_range must be positive"),
      (lambda: replace(target_kl=math.nan), "target_kl must be positive"),
      (lambda: call(settings_of((1.0,))), r"reward_weights has shape \(1,\)"),
      (lambda: call(SETTINGS._replace(discounts=jnp.ones(2))),
       r"discounts has shape \(2,\)"),
      (lambda: call(SETTINGS._replace(controller=constraints.Controller(
          jnp.ones(2)))), r"threshold has shape \(2,\)"),
      (lambda: call(config=replace(policy=dataclasses.replace(
          MODERN.policy, action_size=7))), "action_size of the policy is 7"),
      (lambda: call(config=replace(policy=dataclasses.replace(
          MODERN.policy, num_values=2))), "num_values of the policy is 2"),
      (lambda: gae_of(v=rewards[:2]), r"values has shape \(2, 2\)"),
      (lambda: gae_of(n=rewards[:2]), r"next_values has shape \(2, 2\)"),
      (lambda: gae_of(t=flags[:2]), r"terminated has shape \(2,\)"),
      (lambda: gae_of(c=flags[:2]), r"truncated has shape \(2,\)"),
      (lambda: gae_of(d=np.ones(3)), r"discounts has shape \(3,\)")):
    with pytest.raises(ValueError, match=message):
      make()
