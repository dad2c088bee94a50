"""The tables of the suite `policy`, and what is said about them."""

from typing import Any

from experiments.benchmarks import policy_peer
from experiments.benchmarks import policy_problems as problems
from experiments.benchmarks import timing as timing_lib
from harmonrank_jax.reranker import simulator as simulator_lib

SIMULATE, TRAIN, LEARNER = ("simulate", "train", "learner")
OURS, THEIRS = "harmonrank", policy_peer.PEER


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
           for m in of_part(SIMULATE)]),
      timing_lib.Table(
          "Updates of PPO on the page",
          ["", "user-steps per second", "seconds to compile",
           "steps of the actor, mean"],
          [[named(m), rate(m["steps_per_second"]), seconds(m),
            f"{m['actor_steps']:.4g} of {m['most_actor_steps']}"]
           for m in of_part(TRAIN)])]


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
             if m["part"] == LEARNER}
  rivals = [name for name in learned if name.startswith(THEIRS)]
  if rivals and content["agreement"]:
    largest = timing_lib.number(max(content["agreement"].values()))
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
          timing_lib.number(learned[rival][key] / max(
              learned[OURS][key], 1e-9))
          for key in ("median_seconds", "median_cpu_seconds"))
      lines.append(f"{OURS} is {ratio} times as fast as {rival}, which takes "
                   f"{of_cpu} times the CPU seconds.")
  return " ".join(lines)
