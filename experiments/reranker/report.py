"""The report of a trained re-ranking policy."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import html
import json
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments.reranker import config as config_lib
from experiments.reranker import figures
from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import pools
from experiments.reranker import world as world_lib
from experiments.runs import console
from experiments.runs import html as page
from experiments.runs import metrics as metric_writer
from harmonrank_jax.reranker import fidelity as fidelity_lib
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import score_calibration as calibration

# Hours from and to, of the pictures of actions.
_TIMES = {"morning, 8 to 10 h": (8, 10), "evening, 20 to 22 h": (20, 22)}
# Whose days are simulated, for each seed.
_USERS = 256
_HEADER = ("", "CTR", "reward a day", "diversity", "days beyond", "excess cost",
           "ppo ahead by")


class _Picture(NamedTuple):
  """A mean action at a time of the day; None and NaN if nobody came.

  Attributes:
    corrections: `[K, C]` of log pCTR.
    theta: as it is moved by the knob.
  """

  corrections: np.ndarray | None
  theta: float


class _Slate(NamedTuple):
  """When, of what, and what was clicked; `[K]` but for time and diversity."""

  minutes: int
  categories: np.ndarray
  where: np.ndarray
  clicks: np.ndarray
  diversity: float


def write_report(
    workdir: pathlib.Path, world: world_lib.World,
    limit: limits.Limit, results: judging.Results,
) -> None:
  """Writes `report.html` of a re-ranking policy."""
  names = world.log.category_names
  privileged = [name for name, found in results.contenders.items()
                if found.simulator.privileged]
  base = limit.base
  trainings = {name: _training(workdir / name, len(names))
               for name in results.trained}
  calibrated = _calibration(world, base)
  gaps = [figures.gap(values, calibrated, len(names))
          for values in (calibrated.before, calibrated.after)]
  pictures, slates = _seen(world, results)
  worlds = len(world.responses) - 1
  parts = [
      "<h1>Re-ranking policy</h1>",
      f"<p class=lead>{html.escape(_lead(limit, results, privileged))}</p>",
      "<h2>Clicks against diversity</h2>",
      "<p>Up and to the right is better; right of the dashed line is what is "
      "asked for. Blue is ppo, orange what else is trained; hollow ones see "
      "what users hide and bound what can be had. Bars are standard errors "
      "over seeds; a triangle is far below, where its number says.</p>",
      page.svg(figures.trade_figure(
          _points(results, privileged), -limit.threshold, limit.is_feasible)),
      "<h2>How far ahead of each policy</h2>",
      "<p>Difference of CTR on the same users, requests and dice, with 95 % "
      "intervals over seeds. Right of the line, ppo is ahead; arrows are "
      "beyond the edge. A policy that shows less diversity than asked for may "
      "be ahead for that alone.</p>",
      page.svg(_paired_figure(results, privileged)),
      "<h2>Policies</h2>",
      f"<p>Means over {worlds} worlds with fatigue and hours ± standard "
      "errors over seeds, intervals of 95 %. Excess cost is what diversity "
      "lacks, below 0 where there is more than asked for; days beyond lack "
      f"more than {limits.TOLERANCE:.0%} of the feasible range. * sees "
      "what users hide.</p>",
      _table(results.summaries, results.paired, privileged),
      "<h2>In the static world</h2>",
      "<p>Users neither tire nor change with the hour: a calibration is as "
      "good as anything there. A clear lead of ppo over all of them would "
      "point to a mistake.</p>",
      _table(results.static, results.paired_static, privileged),
      "<h2>Training</h2>",
      "<p>CTR of validation days in the world of the fit, a line for each "
      "seed: it should rise as far as the constraint lets it, and seeds "
      "should agree. Update 0 is before training.</p>",
      page.svg(figures.learning_figure(trainings)),
      "<p>The multiplier rises while the cost is above what is aimed at, and "
      "should come to rest with the violation at 0. An explained variance "
      "of 1 is a critic that knows the returns, of 0 one that knows nothing "
      "(what is below -1 is cut off); the KL divergence is how far the last "
      "update went.</p>",
      page.svg(figures.training_figure(trainings)),
      "<h2>Calibration</h2>",
      f"<p>Clicks of the later days by quantiles of the prediction, with "
      f"standard errors: on the diagonal it is right. Before, the predicted "
      f"click as it is; after, {html.escape(base)} fitted to the first days. "
      f"Mean distance from the diagonal: {console.number(gaps[0], 3)} "
      f"before, {console.number(gaps[1], 3)} after.</p>",
      page.svg(figures.calibration_figure(calibrated, names)),
      "<h2>What ppo does</h2>",
      "<p>Its mean correction by slot and category, in the first judged "
      "world, over all seeds: red categories are shown more than their "
      "calibrated scores would have it, blue ones less. Where morning and "
      f"evening differ it follows the hour.{_knob(results, pictures)}</p>",
      page.svg(figures.action_figure(
          {name: picture.corrections
           for name, picture in zip(_TIMES, pictures, strict=True)}, names)),
      "<h2>A day of one user</h2>",
      _day_html(slates, names),
      "<h2>Exposure by category</h2>",
      "<p>Share of all slots over the judged worlds; bars are those of the "
      "log. Far from its bar, the simulator is asked about slates that the "
      "log hardly has. A black mark is a floor that was asked for.</p>",
      page.svg(figures.exposure_figure(
          {name: results.summaries[name].exposure_share
           for name in dict.fromkeys(("uncalibrated", base, "ppo"))},
          _logged_shares(world), np.asarray(world.floors), names)),
      "<h2>Whether the response can be believed</h2>",
      _fidelity_text(world),
      page.svg(figures.fidelity_figure(_arrays(world.fidelity))),
      "<p>Likewise by category: the blue mark should be within the "
      "interval.</p>",
      page.svg(figures.category_figure(
          _arrays(world.fidelity).by_category, names)),
      "<p>Entropies that are far apart say that the page as simulated is not "
      "the page that was logged.</p>",
      _fidelity_table(world, results)]
  config = workdir / "config.json"
  if config.exists():
    parts += ["<h2>Configuration</h2>", "<pre>" + html.escape(
        json.dumps(json.loads(config.read_text()), indent=2)) + "</pre>"]
  page.write_page(workdir / "report.html", "Re-ranking policy", parts)


def _lead(
    limit: limits.Limit, results: judging.Results,
    privileged: Sequence[str],
) -> str:
  ours = results.summaries["ppo"]
  allowed = limits.TOLERANCE * (limit.probe.most - limit.probe.least)
  keeps = lambda found: found.excess.mean <= allowed
  rivals = {name: found for name, found in results.summaries.items()
            if name != "ppo" and name not in privileged}
  kept = {name: found for name, found in rivals.items() if keeps(found)}
  text = (f"ppo: CTR {console.with_error(ours.ctr, ours.ctr_error)} "
          "(standard error over seeds)")
  if rivals:
    chosen = kept or rivals
    best = max(chosen, key=lambda name: chosen[name].ctr)
    found = results.paired[best]
    side = "ahead of" if found.mean >= 0 else "behind"
    mean, low, high = found if found.mean >= 0 else (
        -found.mean, -found.high, -found.low)
    text += (
        f", {console.number(mean)} {_range(low, high)} {side} {best}, the "
        "best of the others that do not see what users hide"
        + (" and keep to the diversity asked for" if kept else
           "; none of them keeps to the diversity asked for"))
  reached = "reached" if keeps(ours) else "missed"
  text += (f". Diversity (log det S / K): {-limit.threshold:.3f} asked for, "
           f"{console.number(ours.diversity, 3)} {reached}.")
  if not limit.is_feasible:
    text += (" Even the most varied slates have only "
             f"{-limit.probe.least:.3f}.")
  return text


def _range(low: float, high: float, signed: bool = True) -> str:
  """An interval; dashes for what is undefined."""
  digits = functools.partial(console.number, signed=signed)
  return f"[{digits(low)}, {digits(high)}]"


def _points(
    results: judging.Results, privileged: Sequence[str]
) -> list[figures.Point]:
  points = []
  for name, found in results.summaries.items():
    # As `Summary` has that of the CTR: over the worlds but the static one.
    costs = results.days[name].in_worlds(slice(0, -1)).mean_cost.mean(
        axis=(1, 2))
    error = (float(np.std(costs, ddof=1)) / len(costs) ** 0.5
             if len(costs) > 1 else np.nan)
    points.append(figures.Point(
        name, found.diversity, error, found.ctr, found.ctr_error,
        name in privileged, name in results.trained))
  return points


def _paired_figure(
    results: judging.Results, privileged: Sequence[str]
) -> Any:
  # From the best to the worst, as in the table.
  order = sorted(results.paired, key=lambda name: results.paired[name].mean)
  arranged = lambda found: {name: found[name] for name in order}
  return figures.paired_figure(
      {"worlds with fatigue and hours": arranged(results.paired),
       "static world": arranged(results.paired_static)},
      {name: figures.color_of(
          name, name in results.trained, name in privileged)
       for name in order})


def _table(
    summaries: dict[str, judging.Summary],
    paired: dict[str, judging.Interval], privileged: Sequence[str],
) -> str:
  """ppo first, the others from the best clicks on."""
  number = console.number
  rows = []
  for name in sorted(summaries, key=lambda name: (
      name != "ppo", -summaries[name].ctr)):
    found, ahead = summaries[name], paired.get(name)
    rows.append([
        name + "*" * (name in privileged),
        console.with_error(found.ctr, found.ctr_error),
        number(found.cumulative_reward, 2), number(found.diversity, 3),
        f"{found.violation_rate:.0%}" if np.isfinite(found.violation_rate)
        else "-",
        f"{number(found.excess.mean, signed=True)} "
        f"{_range(found.excess.low, found.excess.high)}",
        "" if ahead is None else
        f"{number(ahead.mean, signed=True)} {_range(ahead.low, ahead.high)}"])
  return page.html_table(_HEADER, rows)


def _training(workdir: pathlib.Path, num_rewards: int) -> figures.Training:
  """What `page_task.PageTask` wrote; `[S]`, `[S, Q]` or `[S, M + Q]` a line."""
  lines = metric_writer.read_metrics(workdir)
  # None is what was not finite.
  values = lambda found: np.asarray(found, np.float64)

  def curves(
      part: str, name: str, of_seed: Callable[[np.ndarray], np.ndarray]
  ) -> figures.Curves:
    found = [line for line in lines if name in line.get(part, {})]
    return figures.Curves(
        np.asarray([line["step"] for line in found]),
        np.asarray([of_seed(values(line[part][name])) for line in found]
                   ).reshape(len(found), -1))

  # The first cost is that of diversity.
  return figures.Training(
      curves("validation", "ctr", lambda x: x),
      curves("train", "multipliers", lambda x: x[:, 0]),
      curves("train", "violation", lambda x: x[:, 0]),
      curves("train", "explained_variance",
             lambda x: _mean(x[:, :num_rewards])),
      curves("train", "explained_variance", lambda x: x[:, num_rewards]),
      curves("train", "approx_kl", lambda x: x))


def _mean(values: np.ndarray) -> np.ndarray:
  """`[S]` of `[S, M]`, of what is defined."""
  known = np.isfinite(values)
  total = np.where(known, values, 0).sum(axis=1)
  count = known.sum(axis=1)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _calibration(
    world: world_lib.World, base: str
) -> figures.Calibration:
  """Predictions of the later days, as they are and calibrated."""
  calibrate = config_lib.CALIBRATIONS[base]
  later = jax.tree.map(np.asarray, pools.exposures(world.held_out))
  found = jax.jit(functools.partial(
      calibrate, num_categories=len(world.log.category_names)))(
          pools.exposures(world.log),
          jnp.asarray(later.log_odds), jnp.asarray(later.categories))
  window = np.clip(later.time.astype(int), 0, calibration.NUM_WINDOWS - 1)
  after = np.asarray(found.base) + np.asarray(found.shift)[
      window[:, None], later.categories]
  where = later.where
  return figures.Calibration(
      special.expit(later.log_odds[where]), special.expit(after[where]),
      later.clicks[where], later.categories[where])


def _seen(
    world: world_lib.World, results: judging.Results
) -> tuple[list[_Picture], list[_Slate]]:
  """ppo in the first judged world: mean actions, and the day of a user."""
  ours = results.contenders["ppo"]
  params = ours.params._replace(response=next(iter(world.responses.values())))

  @jax.jit
  def simulated(weights, params, key):
    visits = rollout.simulate_visits(
        ours.simulator, params, functools.partial(ours.action_fn, weights),
        key=key, num_users=_USERS)
    acts = jnp.any(visits.where, axis=2)
    hour = visits.window * fidelity_lib.NUM_HOURS // rollout.NUM_WINDOWS
    of_time = jnp.stack([
        acts & (hour >= begin) & (hour < end)
        for begin, end in _TIMES.values()]).astype(jnp.float32)
    return (visits,
            jnp.einsum("twb,wba->ta", of_time, visits.action),
            jnp.sum(of_time, axis=(1, 2)))

  total = np.zeros((len(_TIMES), ours.simulator.action_size))
  count = np.zeros(len(_TIMES))
  slates: list[_Slate] = []
  for seed in range(len(jax.tree.leaves(ours.weights)[0])):
    weights = ppo.take_one(ours.weights, seed)
    visits, actions, acted = simulated(weights, params, jax.random.key(seed))
    total += actions
    count += acted
    slates = slates or _slates_of_one(visits)
  pictures = []
  for actions, acted in zip(total, count, strict=True):
    if acted:
      bias, theta = ours.simulator.corrections(
          jnp.asarray(actions / acted, jnp.float32), params)
      pictures.append(_Picture(np.asarray(bias), float(theta)))
    else:
      pictures.append(_Picture(None, float("nan")))
  return pictures, slates


def _slates_of_one(visits: rollout.Visits) -> list[_Slate]:
  """Those of a user with a middling number of them."""
  found = jax.tree.map(np.asarray, visits)
  counts = found.where.sum(axis=(0, 2))
  user = int(np.argsort(counts, kind="stable")[len(counts) // 2])
  minutes = 24 * 60 // rollout.NUM_WINDOWS
  slates = []
  for step, request in zip(*np.nonzero(found.where[:, user]), strict=True):
    at = step, user, request
    slates.append(_Slate(
        minutes * int(found.window[step, user]), found.pages.categories[at],
        found.pages.where[at], found.pages.clicks[at],
        float(found.pages.diversity[at])))
  return slates


def _knob(
    results: judging.Results, pictures: Sequence[_Picture]
) -> str:
  """A sentence on theta, if it is moved."""
  ours = results.contenders["ppo"]
  if not ours.simulator.knob:
    return ""
  morning, evening = (
      console.number(picture.theta, 3) for picture in pictures)
  return (f" The knob makes theta {morning} in the morning and {evening} in "
          f"the evening, from {float(ours.params.theta):.3f}.")


def _day_html(slates: Sequence[_Slate], names: Sequence[str]) -> str:
  """A row for each slate, a coloured chip for each slot."""
  count = sum(int(slate.clicks.sum()) for slate in slates)
  shown = sum(int(slate.where.sum()) for slate in slates)
  seen = sorted({int(k) for slate in slates
                 for k in slate.categories[slate.where]})
  legend = " ".join(
      f"{_chip(k, names)}&nbsp;{html.escape(names[k])}" for k in seen)
  rows = []
  for slate in slates:
    chips = "".join(
        _chip(int(k), names, bool(click)) if there else
        '<span class="chip" title="empty">-</span>'
        for k, there, click in zip(
            slate.categories, slate.where, slate.clicks, strict=True))
    time = f"{slate.minutes // 60:02}:{slate.minutes % 60:02}"
    rows.append(
        f"<tr><td>{time}</td><td>{chips}</td><td>{int(slate.clicks.sum())}"
        f"</td><td>{console.number(slate.diversity, 3)}</td></tr>")
  return (
      f"<p>What ppo shows one user with a middling number of requests in the "
      f"first judged world, from the top of the page on: {len(slates)} "
      f"slates, {count} clicks on {shown} items. A framed chip with a ✓ was "
      "clicked: see what is shown more and less of after it, and how slates "
      f"change over the day.</p>\n<p>{legend}</p>\n"
      "<table class=day><thead><tr><th>time</th><th>slate</th><th>clicks</th>"
      "<th>diversity</th></tr></thead><tbody>"
      + "\n".join(rows) + "</tbody></table>")


def _chip(category: int, names: Sequence[str], clicked: bool = False) -> str:
  # By the golden angle, neighbours in number are far apart in hue.
  hue, light = category * 137.508 % 360, (82, 70)[category % 2]
  kind = "chip clicked" if clicked else "chip"
  return (
      f'<span class="{kind}" style="background:hsl({hue:.0f} 65% {light}%)" '
      f'title="{html.escape(names[category])}">{category + 1}'
      f"{'✓' if clicked else ''}</span>")


def _logged_shares(world: world_lib.World) -> np.ndarray:
  size = np.asarray(world.fidelity.by_category.size, np.float64)
  return size / max(size.sum(), 1)


def _arrays(found: fidelity_lib.Fidelity) -> fidelity_lib.Fidelity:
  return jax.tree.map(np.asarray, found)


def _fidelity_text(world: world_lib.World) -> str:
  found = world.fidelity
  number = lambda value, digits=3: console.number(float(value), digits)
  return (
      "<p>Clicks of the later days, and what the response that was fitted to "
      "the first days says of them, with 95 % intervals: the line should pass "
      "through the bars. Where it does not, the simulator is wrong, and so is "
      "what is learned in it. The calibration slope is "
      f"{number(found.slope)} (1 is neither too bold nor too shy), the "
      f"log-likelihood of an exposure {number(found.log_likelihood, 4)}; of "
      f"the predicted click as it is {number(found.scores_log_likelihood, 4)}, "
      f"of one rate for all {number(found.rate_log_likelihood, 4)}.</p>")


def _fidelity_table(
    world: world_lib.World, results: judging.Results
) -> str:
  found = world.fidelity
  number = lambda value, digits=4: console.number(float(value), digits)
  simulated = fidelity_lib.entropy(
      jnp.asarray(results.summaries["uncalibrated"].exposure_share))
  rows = [
      ["log-likelihood of the response", number(found.log_likelihood)],
      ["of the predicted click as it is", number(found.scores_log_likelihood)],
      ["of one rate for all", number(found.rate_log_likelihood)],
      ["calibration slope", number(found.slope)],
      ["calibration offset", number(found.offset)],
      ["entropy of exposures in the log, nats",
       number(found.exposure_entropy)],
      ["of the uncalibrated page as simulated", number(simulated)]]
  if float(np.sum(found.by_chance.size)):
    chance = _arrays(found).by_chance
    rows += [
        ["CTR of exposures by chance", console.with_error(
            float(chance.observed[0]), float(chance.standard_error[0]))],
        ["of the same as predicted", number(chance.predicted[0])]]
  return page.html_table(["on the later days", ""], rows)
