"""What the suite `policy` measures: a page, a free environment, the peer."""

import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs import errors
from harmonrank_jax.reranker import constraints
from harmonrank_jax.reranker import environment as environments
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import simulator as simulator_lib

PEER = "stable-baselines3"
_DISCOUNT = 0.95
# What rounding may make of sums of ten rewards, and of advantages.
_TOLERANCE = 1e-4


class Shape(NamedTuple):
  """How large everything is.

  Attributes:
    categories: of items.
    slots: of a slate.
    candidates: of a request.
    features: of an item.
    users: of the pool.
    places: of a user's pool.
    items: of which these are drawn.
    envs: side by side in an update.
    steps: of each in an update; an even number.
    observation: where the environment costs nothing.
    action: likewise.
    rewards: likewise; one cost comes with them.
  """

  categories: int = 10
  slots: int = 10
  candidates: int = 60
  features: int = 32
  users: int = 128
  places: int = 512
  items: int = 8192
  envs: int = 64
  steps: int = 96
  observation: int = 128
  action: int = 10
  rewards: int = 10


def make_page(shape: Shape, **changes: Any) -> simulator_lib.Simulator:
  """A page with a slate a window; its action is described by the changes."""
  return simulator_lib.Simulator(
      num_categories=shape.categories, num_slots=shape.slots,
      num_candidates=shape.candidates, **changes)


def make_params(shape: Shape, seed: int) -> simulator_lib.Params:
  """A world in which everything is felt: fatigue, hours, redundancy."""
  rng = np.random.default_rng(seed)
  windows = np.arange(simulator_lib.NUM_WINDOWS) + 0.5
  places = (shape.users, shape.places)
  kinds = rng.integers(0, shape.categories, shape.items)
  centres = rng.standard_normal((shape.categories, shape.features))
  log_odds = 0.7 * rng.standard_normal(places) - 2
  phases = rng.uniform(0, len(windows), (shape.categories, 1))
  response = {
      "scale": 0.8, "level": 0.4 * rng.standard_normal(shape.categories),
      "demand": 0.5 * np.cos(2 * np.pi * (windows - phases) / len(windows)),
      "fatigue": 0.05, "recovery": 0.9, "redundancy": 1.0,
      "examination": np.linspace(1, 0.5, shape.slots), "stop": 0.2,
      "dismiss": 0.05}
  narrow = lambda values: jnp.asarray(values, jnp.float32)
  pool = simulator_lib.Pool(
      features=narrow(rng.standard_normal((shape.items, shape.features))
                      + 0.8 * centres[kinds]),
      item_categories=jnp.asarray(kinds, jnp.int32),
      items=jnp.asarray(np.stack([
          rng.choice(shape.items, shape.places, replace=False)
          for _ in range(shape.users)]), jnp.int32),
      log_odds=narrow(log_odds), log_value=jnp.zeros(places),
      where=jnp.ones(places, bool))
  return simulator_lib.Params(
      pool=pool,
      response=response_lib.ResponseModel(**{
          name: narrow(value) for name, value in response.items()}),
      arrivals=narrow(rng.dirichlet(np.full(len(windows), 5.0))),
      activity=narrow(rng.uniform(8, 40, shape.users)),
      base=narrow(log_odds + 0.2 * rng.standard_normal(places)),
      shift=narrow(0.2 * rng.standard_normal(
          (len(windows), shape.categories))),
      theta=jnp.float32(0.6), values=jnp.ones(shape.categories))


def settings(environment: environments.Environment) -> ppo.Settings:
  """All rewards count, and all costs are constrained."""
  rewards, costs = environment.num_rewards, environment.num_costs
  return ppo.Settings(
      jnp.ones(rewards), jnp.full(rewards + costs, _DISCOUNT),
      constraints.Controller(
          jnp.full(costs, 0.1), proportional=0.1, integral=0.01))


@dataclasses.dataclass(frozen=True)
class Replay:
  """An environment that shows what was prepared, whatever the action.

  Its parameters are observations `[L, O]`, of an episode of L steps. The first
  M numbers of an observation are the rewards of the step from it, and the next
  one the cost.

  Attributes:
    observation_size: O, more than M.
    action_size: of an action that is ignored.
    num_rewards: M.
    num_costs: 1.
  """

  observation_size: int
  action_size: int
  num_rewards: int
  num_costs: int = 1

  def reset(
      self, key: jax.Array, params: jax.Array
  ) -> tuple[jax.Array, environments.StepResult]:
    """Begins."""
    del key
    none = jnp.zeros(self.num_costs)
    return jnp.zeros((), jnp.int32), environments.StepResult(
        params[0], jnp.zeros(self.num_rewards), none, none,
        jnp.ones((), bool), jnp.zeros((), bool), jnp.zeros((), bool))

  def step(
      self, key: jax.Array, state: jax.Array, action: jax.Array,
      params: jax.Array,
  ) -> tuple[jax.Array, environments.StepResult]:
    """Shows the next observation; after the last one it is the first."""
    del key, action
    length, then = len(params), state + 1
    here = params[state]
    return then, environments.StepResult(
        params[then % length], here[:self.num_rewards],
        here[self.num_rewards:self.num_rewards + 1], jnp.ones(1),
        jnp.ones((), bool), then == length, jnp.zeros((), bool))


def make_replay(shape: Shape, seed: int) -> tuple[Replay, jax.Array]:
  """The environment, and parameters `[E, L, O]`: two episodes an update."""
  rng = np.random.default_rng(seed)
  return (Replay(shape.observation, shape.action, shape.rewards),
          jnp.asarray(rng.standard_normal(
              (shape.envs, shape.steps // 2, shape.observation)),
              jnp.float32))


def learner_config(replay: Replay, shape: Shape) -> ppo.PpoConfig:
  """The part of `modern` that both sides have."""
  return dataclasses.replace(
      ppo.PpoConfig.modern(replay), num_envs=shape.envs,
      num_steps=shape.steps, actor_learning_rate=3e-4,
      critic_learning_rate=3e-4, target_kl=float("inf"),
      normalise_observations=False)


class Seen(NamedTuple):
  """An update as the peer saw it, `[T, E]` first.

  Attributes:
    observation: `[T, E, O]`.
    reward: their sum.
    value: of the observation.
    advantage: before it is normalised.
    terminated: bool, by the step.
  """

  observation: np.ndarray
  reward: np.ndarray
  value: np.ndarray
  advantage: np.ndarray
  terminated: np.ndarray


class Peer:
  """The same learner by stable-baselines3, on the same observations."""

  def __init__(
      self, shown: np.ndarray, replay: Replay, config: ppo.PpoConfig, seed: int
  ):
    """Makes it ready.

    Args:
      shown: `[E, L, O]`.
      replay: what shows it here.
      config: of the learner here.
      seed: of the networks.

    Raises:
      ImportError: if it is not there, or JAX uses other cores.
    """
    if jax.default_backend() != "cpu":
      raise ImportError("the comparison is made on CPU cores only")
    import stable_baselines3
    from stable_baselines3.common import logger
    import torch

    self._set_threads = torch.set_num_threads
    self._set_threads(1)
    rows = config.num_envs * config.num_steps
    self._model = stable_baselines3.PPO(
        "MlpPolicy", _vec_env(shown, replay),
        learning_rate=config.actor_learning_rate, n_steps=config.num_steps,
        batch_size=rows // config.num_minibatches, n_epochs=config.num_epochs,
        gamma=_DISCOUNT, gae_lambda=config.gae_lambda,
        clip_range=config.clip_range, max_grad_norm=config.max_gradient_norm,
        target_kl=None, seed=seed, device="cpu", policy_kwargs={
            "net_arch": list(config.policy.hidden_sizes),
            "activation_fn": torch.nn.Tanh})
    # Writes nowhere.
    self._model.set_logger(logger.Logger(folder=None, output_formats=[]))
    self._shape = config.num_envs, config.num_steps

  def update(self, threads: int = 1) -> None:
    """Steps of all environments, and learning from them."""
    self._set_threads(threads)
    num_envs, num_steps = self._shape
    self._model.learn(
        num_envs * num_steps, reset_num_timesteps=False, log_interval=None)

  def seen(self) -> Seen:
    """What the last update was made of."""
    buffer = self._model.rollout_buffer
    # What was learnt from lies there as rows, environment by environment.
    arranged = lambda rows: rows.reshape(*self._shape, -1).swapaxes(0, 1)
    starts = [*buffer.episode_starts[1:], self._model._last_episode_starts]
    return Seen(
        arranged(buffer.observations), buffer.rewards,
        arranged(buffer.values)[..., 0], arranged(buffer.advantages)[..., 0],
        np.stack(starts).astype(bool))


def _vec_env(shown: np.ndarray, replay: Replay) -> Any:
  """`Replay` with the sum of its rewards, for the peer."""
  from gymnasium import spaces
  from stable_baselines3.common import vec_env

  num_envs, length, size = shown.shape
  observations = np.ascontiguousarray(shown.swapaxes(0, 1))
  rewards = observations[..., :replay.num_rewards].sum(axis=-1)
  infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]

  class Replayed(vec_env.VecEnv):
    """Nothing but rows of arrays."""

    def __init__(self):
      super().__init__(
          num_envs, spaces.Box(-np.inf, np.inf, (size,), np.float32),
          # Bounds it must have; none of them is ever reached.
          spaces.Box(-100, 100, (replay.action_size,), np.float32))
      self._at = 0

    def reset(self):
      self._at = 0
      return observations[0]

    def step_async(self, actions):
      pass

    def step_wait(self):
      reward = rewards[self._at]
      self._at += 1
      ended = self._at == length
      self._at %= length
      return observations[self._at], reward, np.full(num_envs, ended), infos

    def close(self):
      pass

    def get_attr(self, attr_name, indices=None):
      return [None] * num_envs

    def set_attr(self, attr_name, value, indices=None):
      raise NotImplementedError

    def env_method(self, method_name, *args, indices=None, **kwargs):
      raise NotImplementedError

    def env_is_wrapped(self, wrapper_class, indices=None):
      return [False] * num_envs

  return Replayed()


def collect(
    replay: Replay, shown: jax.Array, config: ppo.PpoConfig
) -> ppo.Trajectory:
  """What the learner here sees in its first update, on the host."""
  static: dict[str, Any] = {
      "environment": replay, "config": config, "params_axes": 0}

  def collected(key):
    learner = ppo.init(key, shown, settings(replay), **static)
    return ppo.collect(learner, shown, **static)[1]

  return jax.device_get(jax.jit(collected)(jax.random.key(0)))


def compare(
    seen: Seen, ours: ppo.Trajectory, config: ppo.PpoConfig
) -> dict[str, float]:
  """How far the peer's first update is from what is seen and computed here.

  Args:
    seen: by the peer; the last of its steps ends all episodes.
    ours: the first update here.
    config: of the learner here.

  Returns:
    Largest differences of `observations`, of `rewards`, and of `advantages`
    given the same values.

  Raises:
    UserError: if one is larger than rounding makes it, or an episode ends
      elsewhere.
  """
  column = lambda x: jnp.asarray(x)[..., None]
  following = np.concatenate([seen.value[1:], np.zeros_like(seen.value[:1])])
  advantages, _ = ppo.vector_gae(
      column(seen.reward), column(seen.value), column(following),
      jnp.asarray(seen.terminated), jnp.zeros(seen.terminated.shape, bool),
      discounts=jnp.full(1, _DISCOUNT), gae_lambda=config.gae_lambda)
  largest = lambda x, y: float(np.max(np.abs(x - y)))
  found = {
      "observations": largest(ours.observation, seen.observation),
      "rewards": largest(np.sum(ours.reward, axis=-1), seen.reward),
      "advantages": largest(advantages[..., 0], seen.advantage)}
  for name, difference in found.items():
    if not difference <= _TOLERANCE:
      raise errors.UserError(
          f"the {name} of {PEER} are off by {difference}: not the same "
          "work, and so not compared.")
  if np.any(ours.terminated != seen.terminated):
    raise errors.UserError(
        f"episodes of {PEER} end elsewhere: not the same work, and so not "
        "compared.")
  return found
