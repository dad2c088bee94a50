"""What came of the training of a re-ranking policy: figures and a table."""

from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from experiments.reranker import judging as page_policies
from experiments.reranker import slate_logs as home_log
from experiments.reranker import task as page_task
from experiments.reranker import world as home_page
from experiments.runs import errors
from harmonrank_jax.reranker import fidelity as fidelity_lib
from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import response_fit
from harmonrank_jax.reranker import simulator as simulator_lib


class World(NamedTuple):
  """What is known of the log.

  Attributes:
    log: of the first days.
    held_out: of the last days.
    fit: of the response, to the first days.
    fidelity: of the fit, on the last days.
    simulator: the page.
    params: to train in, with the scores as predicted.
    judged: to be judged in, likewise.
    responses: by the name of the world to be judged in.
    floors: `[C]`, shares of the slots that categories are to have.
  """

  log: home_log.HomeLog
  held_out: home_log.HomeLog
  fit: response_fit.ResponseFit
  fidelity: fidelity_lib.Fidelity
  simulator: simulator_lib.Simulator
  params: simulator_lib.Params
  judged: simulator_lib.Params
  responses: dict[str, response_lib.ResponseModel]
  floors: list[float]


class Limit(NamedTuple):
  """What is asked of diversity.

  Attributes:
    probe: what a page can have.
    threshold: of the mean cost, `-log det S_Y / K`.
    is_feasible: whether the most varied slates meet it.
    base: the calibration that policies correct.
    theta: the most relevant one that keeps it within the threshold.
  """

  probe: home_page.Probe
  threshold: float
  is_feasible: bool
  base: str
  theta: float


class Results(NamedTuple):
  """What was found.

  Attributes:
    days: by the name of the policy.
    summaries: over the worlds with fatigue and hours.
    static: likewise, of the world without.
    paired: CTR of ppo minus that of the others.
    paired_static: likewise.
    trained: by the name of what was trained.
    contenders: by the name of the policy.
  """

  days: dict[str, page_policies.Days]
  summaries: dict[str, page_policies.Summary]
  static: dict[str, page_policies.Summary]
  paired: dict[str, page_policies.Interval]
  paired_static: dict[str, page_policies.Interval]
  trained: dict[str, page_task.Trained]
  contenders: dict[str, page_policies.Contender]


def summary(
    world: World, limit: Limit, results: Results, privileged: tuple[str, ...]
) -> dict[str, Any]:
  """What `summary.json` says of the results."""
  names = world.log.categories

  def row(found):
    values = found._asdict()
    for field in ("reward_by_category", "exposure_share"):
      values[field] = dict(zip(names, values[field].tolist(), strict=True))
    return {**values, "excess": found.excess._asdict()}

  rows = lambda table: {name: row(found) for name, found in table.items()}
  plain = lambda table: {
      name: found._asdict() for name, found in table.items()}
  errors = jax.tree.map(
      lambda leaf: np.std(leaf, axis=0), world.fit.replicates)
  return {
      "policies": rows(results.summaries), "paired": plain(results.paired),
      "static_world": {"policies": rows(results.static),
                       "paired": plain(results.paired_static)},
      "privileged": list(privileged),
      "user_steps_per_second": results.trained["ppo"].user_steps_per_second,
      "threshold": limit.threshold, "is_feasible": limit.is_feasible,
      "feasible_range": [limit.probe.least, limit.probe.most],
      "worlds": list(world.responses),
      "response": {"fit": world.fit.response._asdict(),
                   "standard_error": errors._asdict()},
      "fidelity": {
          name: value._asdict() if hasattr(value, "_asdict") else value
          for name, value in world.fidelity._asdict().items()}}


def say_world(world: World) -> None:
  """What was read, and whether the fit can be believed."""
  slates, later = len(world.log.day), len(world.held_out.day)
  found = world.fidelity
  print(f"{slates:,} slates to fit to, {later:,} later ones to judge by; "
        f"{len(world.log.categories)} categories, "
        f"{len(world.params.activity):,} users")
  print(f"response on the later days: calibration slope {found.slope:.3f}, "
        f"log-likelihood {found.log_likelihood:.4f} an exposure (predicted "
        f"click as it is {found.scores_log_likelihood:.4f}, one rate "
        f"{found.rate_log_likelihood:.4f})", flush=True)


def say_limit(limit: Limit) -> None:
  """What diversity there can be; warns if what is asked for cannot."""
  print(f"diversity (log det S / K) from {-limit.probe.most:.3f} to "
        f"{-limit.probe.least:.3f}; asked for {-limit.threshold:.3f}",
        flush=True)
  if not limit.is_feasible:
    errors.warn(
        "even the most varied slates have a diversity of "
        f"{-limit.probe.least:.3f}: the constraint cannot be met, and the "
        "multiplier grows to its bound (--constraint={config.constraint}).")


def print_table(
    limit: Limit, results: Results, privileged: tuple[str, ...]
) -> None:
  """Shows the policies, best clicks first."""
  rows = sorted(results.summaries.items(), key=lambda pair: -pair[1].ctr)
  width = max(map(len, results.summaries)) + 1
  print(f"{'':{width}} CTR             reward/day  diversity  violations  "
        "ppo ahead by")
  for name, found in rows:
    ahead = results.paired.get(name)
    text = "" if ahead is None else (
        f"{ahead.mean:+.4f} [{ahead.low:+.4f}, {ahead.high:+.4f}]")
    star = "*" if name in privileged else " "
    print(f"{name:{width}}{star}{found.ctr:.4f} ± {found.ctr_error:.4f} "
          f"{found.cumulative_reward:10.2f} {found.diversity:10.3f} "
          f"{found.violation_rate:10.0%}   {text}")
  print(f"* sees what users hide; diversity asked for {-limit.threshold:.3f}")
