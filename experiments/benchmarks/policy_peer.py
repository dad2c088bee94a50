"""The learner of stable-baselines3, and whether it does the same work."""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import policy_problems as problems
from experiments.runs import errors
from harmonrank_jax.reranker import gae
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import trajectory

PEER = "stable-baselines3"
# Differences by rounding, of sums of ten rewards and of advantages.
_TOLERANCE = 1e-4


class Seen(NamedTuple):
  """The data of an update of the peer, T steps of E environments."""

  observation: np.ndarray  # [T, E, O]
  reward: np.ndarray  # [T, E] sums of the rewards
  value: np.ndarray  # [T, E] values of the observations
  advantage: np.ndarray  # [T, E], before it is normalised
  terminated: np.ndarray  # [T, E] bool, whether the step ended the episode


class Peer:
  """The learner of stable-baselines3; ImportError where it cannot be."""

  def __init__(
      self, shown: np.ndarray,  # [E, L, O]
      replay: problems.Replay, config: ppo_config.PpoConfig, seed: int,
  ):
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
        gamma=problems.DISCOUNT, gae_lambda=config.gae_lambda,
        clip_range=config.clip_range, max_grad_norm=config.max_gradient_norm,
        target_kl=None, seed=seed, device="cpu", policy_kwargs={
            "net_arch": list(config.policy.hidden_sizes),
            "activation_fn": torch.nn.Tanh})
    self._model.set_logger(logger.Logger(folder=None, output_formats=[]))
    self._shape = config.num_envs, config.num_steps

  def update(self, threads: int = 1) -> None:
    """Collects steps of all environments, and learns from them."""
    self._set_threads(threads)
    num_envs, num_steps = self._shape
    self._model.learn(
        num_envs * num_steps, reset_num_timesteps=False, log_interval=None)

  def seen(self) -> Seen:
    """The data of the last update."""
    buffer = self._model.rollout_buffer
    # Learning flattens these arrays, environment by environment.
    arranged = lambda rows: rows.reshape(*self._shape, -1).swapaxes(0, 1)
    starts = [*buffer.episode_starts[1:], self._model._last_episode_starts]
    return Seen(
        arranged(buffer.observations), buffer.rewards,
        arranged(buffer.values)[..., 0], arranged(buffer.advantages)[..., 0],
        np.stack(starts).astype(bool))


def _vec_env(shown: np.ndarray, replay: problems.Replay) -> Any:
  """`Replay`, with the sum of its rewards, as an environment of the peer."""
  from gymnasium import spaces
  from stable_baselines3.common import vec_env

  num_envs, length, size = shown.shape
  observations = np.ascontiguousarray(shown.swapaxes(0, 1))
  rewards = observations[..., :replay.num_rewards].sum(axis=-1)
  infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]

  class Replayed(vec_env.VecEnv):
    def __init__(self):
      super().__init__(
          num_envs, spaces.Box(-np.inf, np.inf, (size,), np.float32),
          # Bounds are required; actions never reach these.
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
    replay: problems.Replay, shown: jax.Array, config: ppo_config.PpoConfig
) -> trajectory.Trajectory:
  """The trajectory of the first update of this library, on the host."""
  learning = ppo.Ppo(replay, config, params_axes=0)

  def collected(key):
    learner = learning.init(key, shown, problems.settings(replay))
    return learning.collect(learner, shown)[1]

  return jax.device_get(jax.jit(collected)(jax.random.key(0)))


def check_same_update(
    seen: Seen, ours: trajectory.Trajectory, config: ppo_config.PpoConfig
) -> dict[str, float]:
  """The largest differences of the peer's first update; UserError if large."""
  column = lambda x: jnp.asarray(x)[..., None]
  # The last step of the peer ends all episodes.
  following = np.concatenate([seen.value[1:], np.zeros_like(seen.value[:1])])
  advantages, _ = gae.vector_gae(
      column(seen.reward), column(seen.value), column(following),
      jnp.asarray(seen.terminated), jnp.zeros(seen.terminated.shape, bool),
      discounts=jnp.full(1, problems.DISCOUNT), gae_lambda=config.gae_lambda)
  largest = lambda x, y: float(np.max(np.abs(x - y)))
  result = {
      "observations": largest(ours.observation, seen.observation),
      "rewards": largest(np.sum(ours.reward, axis=-1), seen.reward),
      "advantages": largest(advantages[..., 0], seen.advantage)}
  for name, difference in result.items():
    if not difference <= _TOLERANCE:
      raise errors.UserError(
          f"the {name} of {PEER} are off by {difference}: not the same "
          "work, and so not compared.")
  if np.any(ours.terminated != seen.terminated):
    raise errors.UserError(
        f"episodes of {PEER} end elsewhere: not the same work, and so not "
        "compared.")
  return result
