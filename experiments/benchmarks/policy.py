"""Simulated days of a home page, and PPO, beside stable-baselines3.

Three parts. `simulate`: days of many users, a slate in each of their windows.
`train`: a whole update of PPO on that page. `learner`: an update of PPO where
the environment costs nothing, here and there.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import time
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import policy_peer
from experiments.benchmarks import policy_problems as problems
from experiments.benchmarks import policy_tables
from experiments.benchmarks import suite
from experiments.benchmarks import timing as timing_lib
from experiments.reranker import world as home_page
from experiments.runs import errors
from harmonrank_jax.reranker import environment as environments
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import ppo_config
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator as simulator_lib
from harmonrank_jax.reranker import trajectory

# Users whose days are simulated in one batch.
SIZES: tuple[int, ...] = (64, 256, 1024)
# The largest share of users whose days may differ between forms of the
# library: where rounding decides a pick, the rest of a day is another one.
_MOST_OTHER_DAYS = 0.2
_OURS, _THEIRS = policy_tables.OURS, policy_tables.THEIRS

parse_size = suite.parse_batch_size
tables = policy_tables.tables


def run(
    sizes: Sequence[int] | None = None, *, repeats: int, seed: int,
    workdir: pathlib.Path | None = None,
    shape: problems.Shape | None = None,
    forms: timing_lib.Forms | None = None, learners: "Learners | None" = None,
) -> dict[str, Any]:
  """Times every part."""
  del workdir
  forms, shape = forms or timing_lib.forms(), shape or problems.Shape()
  learners = learners or Learners()
  clock = timing_lib.Clock(repeats, seed)
  params = problems.make_params(shape, seed)
  # Compiling is timed first, before much has been traced.
  trained = _announced(policy_tables.TRAIN, lambda: time_training(
      shape, params, clock, seed, form=next(iter(forms)), learners=learners))
  learned, agreement, left_out = _announced(
      policy_tables.LEARNER,
      lambda: time_learners(shape, clock, seed, learners=learners))
  simulated = [
      m for batch in sorted(sizes or SIZES)
      for m in _announced(
          f"{policy_tables.SIMULATE} {batch:,} users", functools.partial(
              _simulate, batch, shape, params, clock, seed, forms=forms))]
  return {"measurements": simulated + trained + learned, "left_out": left_out,
          "agreement": agreement, "shape": shape._asdict()}


def _announced(name: str, part: Callable[[], Any]) -> Any:
  """The result of a part, whose seconds are printed."""
  began = time.perf_counter()
  result = part()
  print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
  return result


class _Metered:
  """A call that records its CPU time, that of all threads."""

  def __init__(self, call: Callable[[], Any]):
    self._call = call
    self._seconds: list[float] = []

  def __call__(self) -> None:
    began = time.process_time()
    self._call()
    self._seconds.append(time.process_time() - began)

  @property
  def median(self) -> float:
    return float(np.median(self._seconds))


def _measurement(
    part: str, task: str, method: str, steps: int, timing: timing_lib.Timing,
    call: _Metered, **more: Any
) -> dict[str, Any]:
  low, high = timing.quartiles
  return {"part": part, "task": task, "method": method, "steps": steps,
          "steps_per_second": steps / timing.median,
          "quartiles_steps_per_second": [steps / high, steps / low],
          **timing.to_json(), "median_cpu_seconds": call.median, **more}


def _simulate(
    batch: int, shape: problems.Shape, params: simulator_lib.Params,
    clock: timing_lib.Clock, seed: int, *, forms: timing_lib.Forms,
) -> list[dict[str, Any]]:
  """Measurements of `simulate_days`, one for each form of the library."""
  page = problems.make_page(shape)
  slates = batch * simulator_lib.NUM_WINDOWS
  # Arguments, because the compiler would do part of the work on constants.
  args = params, 0.1 * jnp.arange(page.action_size), jax.random.key(seed)

  def days(params, action, key):
    return rollout.simulate_days(
        page, params, lambda seen: jnp.broadcast_to(
            action, (len(seen), page.action_size)),
        key=key, num_users=batch)

  calls, seconds, outcomes = {}, {}, {}
  for name, trace in forms.items():
    if clock.is_worth_it((policy_tables.SIMULATE, name), slates):
      with trace():
        executable, seconds[name] = timing_lib.compiled(days, *args)
      outcomes[name] = jax.device_get(executable(*args))
      calls[policy_tables.SIMULATE, name] = _Metered(functools.partial(
          _finish, executable, *args))
  same = same_days(outcomes)
  return [
      _measurement(
          policy_tables.SIMULATE, f"{batch:,} users", name, slates, timing,
          calls[policy_tables.SIMULATE, name], batch=batch,
          user_steps_per_second=(
              float(np.sum(outcomes[name].windows)) / timing.median),
          same_days=same[name], compile_seconds=seconds[name])
      for (_, name), timing in clock.interleaved(calls, slates).items()]


def _finish(function: Callable[..., Any], *args: Any) -> None:
  jax.block_until_ready(function(*args))


def same_days(outcomes: dict[str, rollout.Outcome]) -> dict[str, float]:
  """By form, the share of users with the clicks and exposures of the first."""
  result = {}
  for name, outcome in outcomes.items():
    first = next(iter(outcomes.values()))
    same = np.all((outcome.clicks == first.clicks)
                  & (outcome.exposures == first.exposures), axis=1)
    result[name] = float(np.mean(same))
    if result[name] < 1 - _MOST_OTHER_DAYS:
      raise errors.UserError(
          f"{name} shows the same as {next(iter(outcomes))} to only "
          f"{result[name]:.0%} of users: not the same work, and so not "
          "compared.")
  return result


class Updates:
  """A learner of this library; each call is one more update."""

  def __init__(
      self, environment: environments.Environment, config: ppo_config.PpoConfig,
      env_params: Any, settings: ppo_config.Settings, *, seed: int,
      params_axes: Any,
  ):
    """Initialises and compiles."""
    learning = ppo.Ppo(environment, config, params_axes=params_axes)
    self._args = env_params, settings
    self._learner = jax.jit(learning.init)(
        jax.random.key(seed), *self._args)
    jax.block_until_ready(self._learner)
    # Functions that other learners have traced are traced again.
    jax.clear_caches()
    began = time.perf_counter()
    self._update = jax.jit(
        learning.update, donate_argnums=0,
    ).lower(self._learner, *self._args).compile()
    self.compile_seconds = time.perf_counter() - began
    self.actor_steps: list[int] = []

  def __call__(self) -> None:
    self._learner, measured = self._update(self._learner, *self._args)
    jax.block_until_ready(self._learner)
    self.actor_steps.append(int(measured.num_actor_steps))


class Learners(NamedTuple):
  """What is timed as a learner, and at how many threads of the peer."""

  updates: Callable[..., Any] = Updates
  peer: Callable[..., Any] = policy_peer.Peer
  collect: Callable[..., trajectory.Trajectory] = policy_peer.collect
  threads: Sequence[int] = (1, 2)


def time_training(
    shape: problems.Shape, params: simulator_lib.Params,
    clock: timing_lib.Clock, seed: int, *, form: str, learners: Learners,
) -> list[dict[str, Any]]:
  """Measurements of whole updates on the page, in the default form."""
  modern = problems.make_page(shape, layout="category", knob=True)
  paper = problems.make_page(shape, layout="slot_category")
  configs = {
      "modern, category and knob": (
          modern, ppo_config.PpoConfig.modern(modern)),
      "paper, slot_category": (paper, ppo_config.PpoConfig.paper(paper))}
  # Each environment is a world, as in a training.
  worlds = lambda tree: jax.tree.map(
      lambda x: jnp.broadcast_to(x, (shape.envs, *x.shape)), tree)
  params = params._replace(
      response=worlds(params.response), arrivals=worlds(params.arrivals))
  updates = {}
  for name, (page, config) in configs.items():
    updates[name] = learners.updates(
        page, dataclasses.replace(
            config, num_envs=shape.envs, num_steps=shape.steps),
        params, problems.settings(page), seed=seed,
        params_axes=home_page.WORLD_AXES)
  rows = shape.envs * shape.steps
  calls = {name: _Metered(update) for name, update in updates.items()}
  result = []
  for name, timing in clock.interleaved(calls, rows).items():
    config = configs[name][1]
    result.append(_measurement(
        policy_tables.TRAIN, name, form, rows, timing, calls[name],
        compile_seconds=updates[name].compile_seconds,
        actor_steps=float(np.mean(updates[name].actor_steps)),
        most_actor_steps=config.num_epochs * config.num_minibatches))
  return result


def time_learners(
    shape: problems.Shape, clock: timing_lib.Clock, seed: int, *,
    learners: Learners,
) -> tuple[list[dict[str, Any]], dict[str, float] | None, list[str]]:
  """Updates in a free environment: measurements, agreement, who is left out."""
  replay, shown = problems.make_replay(shape, seed)
  config = problems.learner_config(replay, shape)
  ours = learners.updates(
      replay, config, shown, problems.settings(replay), seed=seed,
      params_axes=0)
  calls = {_OURS: _Metered(ours)}
  agreement, left_out = None, []
  try:
    peer = learners.peer(np.asarray(shown), replay, config, seed)
  except ImportError as error:
    left_out.append(f"{_THEIRS} is left out: {error}. Installed by "
                    "requirements-bench.txt, as it says there.")
  else:
    peer.update()
    agreement = policy_peer.check_same_update(
        peer.seen(), learners.collect(replay, shown, config), config)
    for threads in learners.threads:
      if threads <= timing_lib.num_cores():
        calls[f"{_THEIRS}, {threads} thread{'s' * (threads > 1)}"] = (
            _Metered(functools.partial(peer.update, threads)))
  rows = shape.envs * shape.steps
  task = f"{shape.envs} x {shape.steps} steps"
  more = {_OURS: {"compile_seconds": ours.compile_seconds}}
  timings = clock.interleaved(calls, rows)
  left_out += [f"{name} is left out: an update takes more than "
               f"{clock.limit_seconds:g} s."
               for name in calls if name not in timings]
  return [_measurement(policy_tables.LEARNER, task, name, rows, timing,
                       calls[name], **more.get(name, {}))
          for name, timing in timings.items()], agreement, left_out
