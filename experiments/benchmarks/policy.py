"""Simulated days of a home page, and PPO, beside stable-baselines3.

Three parts. `simulate`: days of many users, a slate in each of their windows.
`train`: a whole update of PPO on that page. `learner`: an update of PPO where
the environment costs nothing, here and there.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import policy_methods
from experiments.benchmarks import timing as benchmarking
from experiments.reranker import world as home_page
from experiments.runs import errors
from harmonrank_jax.reranker import environment as environments
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import simulator as simulator_lib

# Users whose day is simulated side by side.
BATCHES: tuple[int, ...] = (64, 256, 1024)
SIMULATE, TRAIN, LEARNER = PARTS = ("simulate", "train", "learner")
OURS, THEIRS = "harmonrank", policy_methods.PEER
# Of PyTorch.
THREADS = (1, 2)
# Of the users, how many may have another day in another form of the library:
# where rounding decides about a pick, the day goes on differently.
_MOST_OTHER_DAYS = 0.2


def run(
    batches: Sequence[int], repeats: int, seed: int, shape: policy_methods.Shape
) -> dict[str, Any]:
  """Times every part.

  Args:
    batches: of users whose day is simulated.
    repeats: samples of each time.
    seed: of the world, of learners and of the order of samples.
    shape: of all else.

  Returns:
    What goes into `benchmark.json`: `measurements`, `left_out` in words,
    `agreement`, how far apart the learners' environments and advantages are,
    or None, and `shape`.

  Raises:
    UserError: if what is compared does not compute the same.
  """
  clock = benchmarking.Clock(repeats, seed)
  params = policy_methods.make_params(shape, seed)
  left_out: list[str] = []
  # Compiling is timed first: little has been traced by then.
  trained = _timed(TRAIN, lambda: _train(shape, params, clock, seed))
  learned, agreement = _timed(
      LEARNER, lambda: _learn(shape, clock, seed, left_out))
  simulated = [
      m for batch in sorted(batches)
      for m in _timed(f"{SIMULATE} {batch:,} users", functools.partial(
          _simulate, batch, shape, params, clock, seed))]
  return {"measurements": simulated + trained + learned, "left_out": left_out,
          "agreement": agreement, "shape": shape._asdict()}


def _timed(name: str, measure: Callable[[], Any]) -> Any:
  began = time.perf_counter()
  result = measure()
  print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
  return result


class _Metered:
  """A call whose CPU time is noted, that of all threads."""

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
    part: str, task: str, method: str, steps: int, timing: benchmarking.Timing,
    call: _Metered, **more: Any
) -> dict[str, Any]:
  low, high = timing.quartiles
  return {"part": part, "task": task, "method": method, "steps": steps,
          "steps_per_second": steps / timing.median,
          "quartiles_steps_per_second": [steps / high, steps / low],
          **timing.to_json(), "median_cpu_seconds": call.median, **more}


def _simulate(
    batch: int, shape: policy_methods.Shape, params: simulator_lib.Params,
    clock: benchmarking.Clock, seed: int,
) -> list[dict[str, Any]]:
  """Measurements of `rollout.simulate`, one for each form of the library."""
  page = policy_methods.make_page(shape)
  slates = batch * simulator_lib.NUM_WINDOWS
  # Arguments: of constants, some of the work would be done by the compiler.
  args = params, 0.1 * jnp.arange(page.action_size), jax.random.key(seed)

  def days(params, action, key):
    return rollout.simulate(
        page, params, lambda seen: jnp.broadcast_to(
            action, (len(seen), page.action_size)),
        key=key, num_users=batch)

  calls, seconds, outcomes = {}, {}, {}
  for name, trace in benchmarking.forms().items():
    if clock.is_worth_it((SIMULATE, name), slates):
      with trace():
        executable, seconds[name] = benchmarking.compiled(days, *args)
      outcomes[name] = jax.device_get(executable(*args))
      calls[SIMULATE, name] = _Metered(functools.partial(
          _finish, executable, *args))
  same = _same_days(outcomes)
  return [
      _measurement(
          SIMULATE, f"{batch:,} users", name, slates, timing,
          calls[SIMULATE, name], batch=batch,
          user_steps_per_second=(
              float(np.sum(outcomes[name].windows)) / timing.median),
          same_days=same[name], compile_seconds=seconds[name])
      for (_, name), timing in clock.interleaved(calls, slates).items()]


def _finish(function: Callable[..., Any], *args: Any) -> None:
  jax.block_until_ready(function(*args))


def _same_days(outcomes: dict[str, rollout.Outcome]) -> dict[str, float]:
  """Shares of users whose day was, by category, as in the first form.

  Raises:
    UserError: if it is not that of most of them.
  """
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


class _Updates:
  """One update of a learner after the other.

  Attributes:
    actor_steps: that each took.
    compile_seconds: of one update, from Python to machine code.
  """

  def __init__(
      self, environment: environments.Environment, config: ppo.PpoConfig,
      env_params: Any, settings: ppo.Settings, *, seed: int,
      params_axes: Any,
  ):
    """Initialises and compiles."""
    static: dict[str, Any] = {
        "environment": environment, "config": config,
        "params_axes": params_axes}
    self._args = env_params, settings
    self._learner = jax.jit(functools.partial(ppo.init, **static))(
        jax.random.key(seed), *self._args)
    jax.block_until_ready(self._learner)
    # Cold: also what only others have traced so far is traced anew.
    jax.clear_caches()
    began = time.perf_counter()
    self._update = jax.jit(
        functools.partial(ppo.update, **static), donate_argnums=0,
    ).lower(self._learner, *self._args).compile()
    self.compile_seconds = time.perf_counter() - began
    self.actor_steps: list[int] = []

  def __call__(self) -> None:
    self._learner, found = self._update(self._learner, *self._args)
    jax.block_until_ready(self._learner)
    self.actor_steps.append(int(found.num_actor_steps))


def _train(
    shape: policy_methods.Shape, params: simulator_lib.Params,
    clock: benchmarking.Clock, seed: int,
) -> list[dict[str, Any]]:
  """Measurements of whole updates, in the form used by default."""
  form = next(iter(benchmarking.forms()))
  modern = policy_methods.make_page(shape, layout="category", knob=True)
  document = policy_methods.make_page(shape, layout="slot_category")
  learners = {
      "modern, category and knob": (modern, ppo.PpoConfig.modern(modern)),
      "document, slot_category": (document, ppo.PpoConfig.document(document))}
  # Each environment is a world, as in a training.
  worlds = lambda tree: jax.tree.map(
      lambda x: jnp.broadcast_to(x, (shape.envs, *x.shape)), tree)
  params = params._replace(
      response=worlds(params.response), arrivals=worlds(params.arrivals))
  updates = {}
  for name, (page, config) in learners.items():
    updates[name] = _Updates(
        page, dataclasses.replace(
            config, num_envs=shape.envs, num_steps=shape.steps),
        params, policy_methods.settings(page), seed=seed,
        params_axes=home_page.WORLD_AXES)
  rows = shape.envs * shape.steps
  calls = {name: _Metered(update) for name, update in updates.items()}
  result = []
  for name, timing in clock.interleaved(calls, rows).items():
    config = learners[name][1]
    result.append(_measurement(
        TRAIN, name, form, rows, timing, calls[name],
        compile_seconds=updates[name].compile_seconds,
        actor_steps=float(np.mean(updates[name].actor_steps)),
        most_actor_steps=config.num_epochs * config.num_minibatches))
  return result


def _learn(
    shape: policy_methods.Shape, clock: benchmarking.Clock, seed: int,
    left_out: list[str],
) -> tuple[list[dict[str, Any]], dict[str, float] | None]:
  """Measurements of updates that are the learner's work, and the agreement."""
  replay, shown = policy_methods.make_replay(shape, seed)
  config = policy_methods.learner_config(replay, shape)
  ours = _Updates(
      replay, config, shown, policy_methods.settings(replay), seed=seed,
      params_axes=0)
  calls = {OURS: _Metered(ours)}
  agreement = None
  try:
    peer = policy_methods.Peer(np.asarray(shown), replay, config, seed)
  except ImportError as error:
    left_out.append(f"{THEIRS} is left out: {error}. Installed by "
                    "requirements-bench.txt, as it says there.")
  else:
    peer.update()
    agreement = policy_methods.compare(
        peer.seen(), policy_methods.collect(replay, shown, config), config)
    for threads in THREADS:
      if threads <= benchmarking.num_cores():
        calls[f"{THEIRS}, {threads} thread{'s' * (threads > 1)}"] = (
            _Metered(functools.partial(peer.update, threads)))
  rows = shape.envs * shape.steps
  task = f"{shape.envs} x {shape.steps} steps"
  more = {OURS: {"compile_seconds": ours.compile_seconds}}
  timings = clock.interleaved(calls, rows)
  left_out += [f"{name} is left out: an update takes more than "
               f"{benchmarking.LIMIT_SECONDS:g} s."
               for name in calls if name not in timings]
  return [_measurement(LEARNER, task, name, rows, timing, calls[name],
                       **more.get(name, {}))
          for name, timing in timings.items()], agreement


def tables(content: dict[str, Any]) -> list[benchmarking.Table]:
  """What was measured as tables, the one to look at first."""
  measured = content["measurements"]
  of_part = lambda part: [m for m in measured if m["part"] == part]
  rate = lambda value: f"{value:,.0f}"
  seconds = lambda m: (benchmarking.number(m["compile_seconds"])
                       if "compile_seconds" in m else "-")

  def row(m):
    low, high = (rate(x) for x in m["quartiles_steps_per_second"])
    return [named(m), rate(m["steps_per_second"]), f"[{low}, {high}]",
            benchmarking.number(1e3 * m["median_seconds"]),
            benchmarking.number(1e3 * m["median_cpu_seconds"]), seconds(m)]

  return [
      benchmarking.Table(
          "Slates of simulated days, and steps of PPO",
          ["", "per second", "quartiles", "milliseconds of a call",
           "of the CPU, all threads", "seconds to compile"],
          [row(m) for m in measured], note(content)),
      benchmarking.Table(
          "Simulated days", ["", "slates per second", "user-steps per second",
                             "days that are those of the first form"],
          [[named(m), rate(m["steps_per_second"]),
            rate(m["user_steps_per_second"]), f"{100 * m['same_days']:.4g} %"]
           for m in of_part(SIMULATE)]),
      benchmarking.Table(
          "Updates of PPO on the page",
          ["", "user-steps per second", "seconds to compile",
           "steps of the actor, mean"],
          [[named(m), rate(m["steps_per_second"]), seconds(m),
            f"{m['actor_steps']:.4g} of {m['most_actor_steps']}"]
           for m in of_part(TRAIN)])]


def named(m: dict[str, Any]) -> str:
  """What a measurement is of, in words."""
  return f"{m['part']}, {m['task']}: {m['method']}"


def note(content: dict[str, Any]) -> str:
  """What is counted, what is not the same on both sides, and the ratios."""
  shape = policy_methods.Shape(**content["shape"])
  lines = [
      f"A page of {shape.slots} slots, {shape.categories} categories and "
      f"{shape.candidates} candidates; medians of the samples. Simulation: "
      "a slate is made in each of a user's "
      f"{simulator_lib.NUM_WINDOWS} windows, and counted; those before a "
      "user's day has begun are made at its end, and are no user-steps. "
      f"Training: an update of {shape.envs} environments x {shape.steps} "
      "windows, all of them user-steps, rollout and learning; the actor stops "
      "early where its divergence says so. Learner: an update where the "
      "environment replays arrays of "
      f"{shape.observation} numbers, actions of {shape.action}, the same "
      "networks, epochs, minibatches and clipping, no stop."]
  learned = {m["method"]: m for m in content["measurements"]
             if m["part"] == LEARNER}
  rivals = [name for name in learned if name.startswith(THEIRS)]
  if rivals and content["agreement"]:
    largest = benchmarking.number(max(content["agreement"].values()))
    lines.append(
        f"What differs there: {THEIRS} steps in a loop of the host, with one "
        "value, one optimiser for both networks and advantages normalised by "
        f"minibatch; this library compiles the whole update, its critic has "
        f"{shape.rewards + 1} values and an optimiser of its own. "
        "Observations, rewards and, of the same values, advantages agree to "
        f"{largest}.")
  for rival in rivals:
    if OURS in learned:
      ratio, of_cpu = (
          benchmarking.number(learned[rival][key] / max(
              learned[OURS][key], 1e-9))
          for key in ("median_seconds", "median_cpu_seconds"))
      lines.append(f"{OURS} is {ratio} times as fast as {rival}, which takes "
                   f"{of_cpu} times the CPU seconds.")
  return " ".join(lines)
