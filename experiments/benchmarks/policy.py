"""Simulated days of a home page, and PPO, beside stable-baselines3.

Three parts. `simulate`: days of many users, a slate in each of their windows.
`train`: a whole update of PPO on that page. `learner`: an update of PPO where
the environment costs nothing, here and there.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
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
_SIMULATE, _TRAIN, _LEARNER = ("simulate", "train", "learner")
_OURS, _THEIRS = "harmonrank", policy_peer.PEER

parse_size = timing_lib.parse_batch_size


def run(
    sizes: Sequence[int] | None = None, *, repeats: int, seed: int,
    workdir: pathlib.Path | None = None, shape: problems.Shape | None = None,
    forms: timing_lib.Forms | None = None, learners: "Learners | None" = None,
) -> dict[str, Any]:
  """Times every part."""
  del workdir
  forms, shape = forms or timing_lib.forms(), shape or problems.Shape()
  learners = learners or Learners()
  clock = timing_lib.Clock(repeats, seed)
  params = problems.make_params(shape, seed)
  # Compiling is timed first, before much has been traced.
  with _announced(_TRAIN):
    trained = time_training(shape, params, clock, seed, form=next(iter(forms)),
                            learners=learners)
  with _announced(_LEARNER):
    learned, agreement, left_out = time_learners(
        shape, clock, seed, learners=learners)
  simulated = []
  for batch in sorted(sizes or SIZES):
    with _announced(f"{_SIMULATE} {batch:,} users"):
      simulated += _simulate(batch, shape, params, clock, seed, forms=forms)
  return {"measurements": simulated + trained + learned, "left_out": left_out,
          "agreement": agreement, "shape": shape._asdict()}


@contextlib.contextmanager
def _announced(name: str) -> Iterator[None]:
  """Prints the seconds of a part."""
  began = time.perf_counter()
  yield
  print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)


def _measurement(
    part: str, task: str, method: str, steps: int, timing: timing_lib.Timing,
    **more: Any
) -> dict[str, Any]:
  return {"part": part, "task": task, "method": method, "steps": steps,
          **timing.rates(steps, "steps"), **timing.to_json(),
          "median_cpu_seconds": float(np.median(timing.cpu_samples)), **more}


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
    if clock.is_worth_it((_SIMULATE, name), slates):
      with trace():
        executable, seconds[name] = timing_lib.compiled(days, *args)
      outcomes[name] = jax.device_get(executable(*args))
      calls[_SIMULATE, name] = lambda run=executable: jax.block_until_ready(
          run(*args))
  same = same_days(outcomes)
  return [
      _measurement(
          _SIMULATE, f"{batch:,} users", name, slates, timing, batch=batch,
          user_steps_per_second=(
              float(np.sum(outcomes[name].windows)) / timing.median),
          same_days=same[name], compile_seconds=seconds[name])
      for (_, name), timing in clock.interleaved(calls, slates).items()]


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
    self._learner = jax.jit(learning.init)(jax.random.key(seed), *self._args)
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
  updates = {
      name: learners.updates(
          page, dataclasses.replace(
              config, num_envs=shape.envs, num_steps=shape.steps),
          params, problems.settings(page), seed=seed,
          params_axes=home_page.WORLD_AXES)
      for name, (page, config) in configs.items()}
  rows = shape.envs * shape.steps
  result = []
  for name, timing in clock.interleaved(updates, rows).items():
    config = configs[name][1]
    result.append(_measurement(
        _TRAIN, name, form, rows, timing,
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
  calls = {_OURS: ours}
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
            functools.partial(peer.update, threads))
  rows = shape.envs * shape.steps
  task = f"{shape.envs} x {shape.steps} steps"
  more = {_OURS: {"compile_seconds": ours.compile_seconds}}
  timings = clock.interleaved(calls, rows)
  left_out += [f"{name} is left out: an update takes more than "
               f"{clock.limit_seconds:g} s."
               for name in calls if name not in timings]
  return [_measurement(_LEARNER, task, name, rows, timing,
                       **more.get(name, {}))
          for name, timing in timings.items()], agreement, left_out


def tables(content: dict[str, Any]) -> list[timing_lib.Table]:
  """What was measured as tables; the first is the summary."""
  measured = content["measurements"]
  of_part = lambda part: [m for m in measured if m["part"] == part]
  rate = lambda value: f"{value:,.0f}"
  seconds = lambda m: (timing_lib.number(m["compile_seconds"])
                       if "compile_seconds" in m else "-")

  def row(m):
    low, high = (rate(x) for x in m["quartiles_steps_per_second"])
    return [named(m), rate(m["steps_per_second"]), f"[{low}, {high}]",
            timing_lib.number(1e3 * m["median_seconds"]),
            timing_lib.number(1e3 * m["median_cpu_seconds"]), seconds(m)]

  return [
      timing_lib.Table(
          "Slates of simulated days, and steps of PPO",
          ["", "per second", "quartiles", "milliseconds of a call",
           "of the CPU, all threads", "seconds to compile"],
          [row(m) for m in measured], note(content)),
      timing_lib.Table(
          "Simulated days", ["", "slates per second", "user-steps per second",
                             "days that are those of the first form"],
          [[named(m), rate(m["steps_per_second"]),
            rate(m["user_steps_per_second"]), f"{100 * m['same_days']:.4g} %"]
           for m in of_part(_SIMULATE)]),
      timing_lib.Table(
          "Updates of PPO on the page",
          ["", "user-steps per second", "seconds to compile",
           "steps of the actor, mean"],
          [[named(m), rate(m["steps_per_second"]), seconds(m),
            f"{m['actor_steps']:.4g} of {m['most_actor_steps']}"]
           for m in of_part(_TRAIN)])]


def named(m: dict[str, Any]) -> str:
  """The name of a measurement: its part, task and method."""
  return f"{m['part']}, {m['task']}: {m['method']}"


def note(content: dict[str, Any]) -> str:
  """What is counted, how the two learners differ, and the ratios."""
  shape = problems.Shape(**content["shape"])
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
             if m["part"] == _LEARNER}
  rivals = [name for name in learned if name.startswith(_THEIRS)]
  if rivals and content["agreement"]:
    largest = timing_lib.number(max(content["agreement"].values()))
    lines.append(
        f"What differs there: {_THEIRS} steps in a loop of the host, with one "
        "value, one optimiser for both networks and advantages normalised by "
        f"minibatch; this library compiles the whole update, its critic has "
        f"{shape.rewards + 1} values and an optimiser of its own. "
        "Observations, rewards and, of the same values, advantages agree to "
        f"{largest}.")
  for rival in rivals:
    if _OURS in learned:
      ratio, of_cpu = (
          timing_lib.number(learned[rival][key] / max(
              learned[_OURS][key], 1e-9))
          for key in ("median_seconds", "median_cpu_seconds"))
      lines.append(f"{_OURS} is {ratio} times as fast as {rival}, which takes "
                   f"{of_cpu} times the CPU seconds.")
  return " ".join(lines)
