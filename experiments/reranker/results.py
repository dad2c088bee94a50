"""What the training of a policy says: lines, a table and `summary.json`."""

from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import world as world_lib
from experiments.runs import claims
from experiments.runs import console
from experiments.runs import errors

_HEADER = ("", "CTR", "reward/day", "diversity", "violations", "ppo ahead by")


def make_summary(
    fitted: world_lib.FittedLog, limit: limits.Limit, results: judging.Results
) -> dict[str, Any]:
  """The content of `summary.json` but for scale and configuration."""
  names = fitted.log.category_names
  standard_errors = jax.tree.map(
      lambda leaf: np.std(leaf, axis=0), fitted.fit.replicates)
  return {
      **_compared(results.summaries, results.paired, names),
      "static_world": _compared(results.static, results.paired_static, names),
      "privileged": results.privileged,
      "complaints": complaints(limit, results, fitted),
      # The update after which each seed's policy was evaluated best.
      "delivered": {
          name: {"update": np.asarray(each.state.best.step).tolist(),
                 "excess": np.asarray(each.state.best.excess).tolist()}
          for name, each in results.trained.items()},
      "user_steps_per_second": results.trained["ppo"].user_steps_per_second,
      "threshold": limit.threshold, "is_feasible": limit.is_feasible,
      "feasible_range": [limit.probe.least, limit.probe.most],
      "worlds": list(fitted.responses),
      # Standard errors are those of the bootstrap.
      "response": {"fit": fitted.fit.response._asdict(),
                   "standard_error": standard_errors._asdict()},
      "fidelity": {
          name: value._asdict() if hasattr(value, "_asdict") else value
          for name, value in fitted.fidelity._asdict().items()}}


def _compared(
    summaries: dict[str, judging.Summary],
    paired: dict[str, claims.Interval], names: list[str],
) -> dict[str, Any]:
  """Policies as JSON has them, shares and rewards by name of category."""
  by_name = lambda values: dict(zip(names, values.tolist(), strict=True))
  return {
      "policies": {name: {
          **each._asdict(), "excess": each.excess._asdict(),
          "reward_by_category": by_name(each.reward_by_category),
          "exposure_share": by_name(each.exposure_share)}
                   for name, each in summaries.items()},
      "paired": {name: each._asdict() for name, each in paired.items()}}


def say_fit(fitted: world_lib.FittedLog) -> None:
  """Prints what was read, and how well the fit predicts later days."""
  slates, later = len(fitted.log.day), len(fitted.held_out.day)
  fidelity = fitted.fidelity
  print(f"{slates:,} slates to fit to, {later:,} later ones to judge by; "
        f"{len(fitted.log.category_names)} categories, "
        f"{len(fitted.params.activity):,} users")
  print(f"response on the later days: calibration slope {fidelity.slope:.3f}, "
        f"log-likelihood {fidelity.log_likelihood:.4f} an exposure (predicted "
        f"click as it is {fidelity.scores_log_likelihood:.4f}, one rate "
        f"{fidelity.rate_log_likelihood:.4f})", flush=True)


def say_limit(limit: limits.Limit, constraint: str) -> None:
  """Prints what diversity there can be; warns if it is less than asked for."""
  print(f"diversity (log det S / K) from {-limit.probe.most:.3f} to "
        f"{-limit.probe.least:.3f}; asked for {-limit.threshold:.3f}, where a "
        f"unit of it costs {console.number(limit.price, 3)} of a slate's "
        "reward", flush=True)
  if not limit.is_feasible:
    grows = "" if constraint == "fixed" else (
        ", and the multiplier grows to its bound "
        f"(--constraint={constraint})")
    errors.warn(
        "even the most varied slates have a diversity of "
        f"{-limit.probe.least:.3f}: the constraint cannot be met{grows}.")


def complaints(
    limit: limits.Limit, results: judging.Results, fitted: world_lib.FittedLog
) -> list[str]:
  """What trained policies miss of what was asked, in lines; ppo first."""
  lines = []
  for name, trained in results.trained.items():
    summary = results.summaries[name]
    missed = []
    if not limit.is_kept(summary.excess.mean):
      missed.append(f"diversity {console.number(summary.diversity, 3)}, asked "
                    f"for {-limit.threshold:.3f}")
    missed += [
        f"{category} in {share:.3f} of the slots, asked for {floor:.3f}"
        for category, share, floor in zip(
            fitted.log.category_names, summary.exposure_share, fitted.floors,
            strict=True) if share < (1 - limits.TOLERANCE) * floor]
    if missed:
      lines.append(
          f"{name} does not keep to what was asked for: {'; '.join(missed)}")
    excess = np.asarray(trained.state.best.excess)
    never = int(np.sum(excess > 0))
    if never:
      lines.append(
          f"{name}: no evaluation of {never} of {len(excess)} seeds kept to "
          "the constraints, the nearest was taken")
  return lines


def print_table(
    limit: limits.Limit, results: judging.Results, fitted: world_lib.FittedLog
) -> None:
  """Shows the policies, best clicks first, after what they miss."""
  for line in complaints(limit, results, fitted):
    print(line, flush=True)
  order = sorted(
      results.summaries, key=lambda name: -results.summaries[name].ctr)
  console.show(
      "policies in worlds with fatigue and hours (* sees what users hide; "
      f"diversity asked for {-limit.threshold:.3f})",
      _HEADER, [
          [*cells(name, results.summaries[name], results.privileged),
           interval(results.paired.get(name))] for name in order],
      bold=[order.index("ppo")])


def cells(
    name: str, summary: judging.Summary, privileged: Collection[str]
) -> list[str]:
  """A policy's name and figures in a row of a table."""
  rate = summary.violation_rate
  return [
      name + "*" * (name in privileged),
      console.with_error(summary.ctr, summary.ctr_error),
      console.number(summary.cumulative_reward, 2),
      console.number(summary.diversity, 3),
      f"{rate:.0%}" if np.isfinite(rate) else "-"]


def interval(values: claims.Interval | None) -> str:
  """An interval in a cell; "" for None."""
  return "" if values is None else str(values)
