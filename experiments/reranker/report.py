"""The report of a trained re-ranking policy, drawn from its record."""

from collections.abc import Sequence
import html
import pathlib

from experiments.reranker import day as day_lib
from experiments.reranker import figures
from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import record as record_lib
from experiments.reranker import results as results_lib
from experiments.runs import claims
from experiments.runs import console
from experiments.runs import html as html_lib
from harmonrank_jax.reranker import fidelity as fidelity_lib

_HEADER = ("", "CTR", "reward a day", "diversity", "days beyond", "excess cost",
           "ppo ahead by")


def write_report(workdir: pathlib.Path, record: record_lib.Record) -> None:
  """Writes `report.html` of a re-ranking policy."""
  html_lib.write_page(workdir / "report.html", "Re-ranking policy", [
      "<h1>Re-ranking policy</h1>",
      f"<p class=lead>{html.escape(_lead(record))}</p>",
      *_trade(record), *_ahead(record), *_policies(record),
      *_training(record), *_calibration(record), *_actions(record),
      "<h2>A day of one user</h2>", _day(record.day.slates, record.categories),
      *_exposure(record), *_fidelity(record), "<h2>Configuration</h2>",
      f"<pre>{html.escape((workdir / 'config.json').read_text().strip())}"
      "</pre>"])


def _lead(record: record_lib.Record) -> str:
  """What is missed; ppo beside the best of its rivals, and the limit."""
  lead, limit = record.lead, record.limit
  ours = record.results.summaries["ppo"]
  text = "".join(f"{line}. " for line in record.complaints)
  text += (f"ppo: CTR {console.with_error(ours.ctr, ours.ctr_error)} "
          "(standard error over seeds)")
  if lead.ahead is not None:
    text += (
        f", {lead.ahead.against(str(lead.rival))}, the best of the others that "
        "do not see what users hide" + (
            " and keep to the diversity asked for" if lead.rival_keeps else
            "; none of them keeps to the diversity asked for"))
  text += (f". Diversity (log det S / K): {-limit.threshold:.3f} asked for, "
           f"{console.number(ours.diversity, 3)} "
           f"{'reached' if lead.keeps else 'missed'}.")
  if not limit.is_feasible:
    text += (" Even the most varied slates have only "
             f"{-limit.probe.least:.3f}.")
  return text


def _trade(record: record_lib.Record) -> list[str]:
  return [
      "<h2>Clicks against diversity</h2>",
      "<p>Up and to the right is better; right of the dashed line is what is "
      "asked for. Blue is ppo, orange the other trained policies; hollow ones "
      "see what users hide and bound what can be had. Bars are standard errors "
      "over seeds; a triangle is far below, at the CTR beside its name.</p>",
      html_lib.svg(figures.trade_figure(
          record.points, -record.limit.threshold, record.limit.is_feasible))]


def _ahead(record: record_lib.Record) -> list[str]:
  results = record.results
  # From the best to the worst, as in the table.
  order = sorted(results.paired, key=lambda name: results.paired[name].mean)
  arranged = lambda intervals: {name: intervals[name] for name in order}
  return [
      "<h2>How far ahead of each policy</h2>",
      "<p>Difference of CTR on the same users, requests and dice, with 95 % "
      "intervals over seeds. Right of the line, ppo is ahead; arrows are "
      "beyond the edge. A policy that shows less diversity than asked for may "
      "be ahead for that alone.</p>",
      html_lib.svg(figures.paired_figure(
          {"worlds with fatigue and hours": arranged(results.paired),
           "static world": arranged(results.paired_static)},
          {name: figures.color_of(
              name, name in results.trained, name in results.privileged)
           for name in order}))]


def _policies(record: record_lib.Record) -> list[str]:
  results = record.results
  return [
      "<h2>Policies</h2>",
      f"<p>Means over {record.num_worlds} worlds with fatigue and hours ± "
      "standard errors over seeds, intervals of 95 %. Excess cost is the "
      "diversity that is missing, below 0 where there is more than asked for; "
      f"on days beyond, more than {limits.TOLERANCE:.0%} of the feasible range "
      "is missing. * sees what users hide.</p>",
      _table(results.summaries, results.paired, results.privileged),
      "<h2>In the static world</h2>",
      "<p>Users neither tire nor change with the hour: a calibration is as "
      "good there as what can be learned. A clear lead of ppo over all of them "
      "would point to a mistake.</p>",
      _table(results.static, results.paired_static, results.privileged)]


def _table(
    summaries: dict[str, judging.Summary],
    paired: dict[str, claims.Interval], privileged: Sequence[str],
) -> str:
  """ppo first, the others from the best clicks on."""
  order = sorted(
      summaries, key=lambda name: (name != "ppo", -summaries[name].ctr))
  return html_lib.html_table(_HEADER, [
      [*results_lib.cells(name, summaries[name], privileged),
       results_lib.interval(summaries[name].excess),
       results_lib.interval(paired.get(name))] for name in order])


def _training(record: record_lib.Record) -> list[str]:
  return [
      "<h2>Training</h2>",
      "<p>CTR of validation days in the world of the fit, a line for each "
      "seed: it should rise as far as the constraint lets it, and seeds "
      "should agree. Update 0 is before training. Each seed's policy is that "
      "of the evaluation with the most reward among those that keep to the "
      f"constraints: {_delivered(record)}.</p>",
      html_lib.svg(figures.learning_figure(record.trainings)),
      "<p>The multiplier rises while the cost is above its target, and "
      "should come to rest with the violation at 0. An explained variance "
      "of 1 is a critic that knows the returns, of 0 one that knows nothing "
      "(values below -1 are cut off); the KL divergence is how far the last "
      "update went.</p>",
      html_lib.svg(figures.training_figure(record.trainings))]


def _delivered(record: record_lib.Record) -> str:
  """The updates after which the policies of all seeds were taken."""
  return "; ".join(
      f"{name} after update {', '.join(map(str, each.state.best.step))}"
      for name, each in record.results.trained.items())


def _calibration(record: record_lib.Record) -> list[str]:
  before, after = (console.number(record_lib.gap(bins), 3)
                   for bins in record.calibration)
  return [
      "<h2>Calibration</h2>",
      "<p>Clicks of the later days by quantiles of the prediction, with "
      "standard errors: on the diagonal it is right. Before, the predicted "
      f"click as it is; after, {html.escape(record.limit.base)} fitted to the "
      f"first days. Mean distance from the diagonal: {before} before, {after} "
      "after.</p>",
      html_lib.svg(figures.calibration_figure(
          record.calibration, record.categories))]


def _actions(record: record_lib.Record) -> list[str]:
  return [
      "<h2>What ppo does</h2>",
      "<p>Its mean correction by slot and category, in the first judged "
      "world, over all seeds: red categories are shown more than their "
      "calibrated scores would have it, blue ones less. Where morning and "
      f"evening differ it follows the hour.{_knob(record)}</p>",
      html_lib.svg(figures.action_figure(
          {name: action.corrections
           for name, action in record.day.actions.items()},
          record.categories))]


def _knob(record: record_lib.Record) -> str:
  """A sentence on theta, if it is moved."""
  if record.world_theta is None:
    return ""
  morning, evening = (console.number(action.theta, 3)
                      for action in record.day.actions.values())
  return (f" The knob makes theta {morning} in the morning and {evening} in "
          f"the evening, from {record.world_theta:.3f}.")


def _day(slates: Sequence[day_lib.Slate], names: Sequence[str]) -> str:
  """A row for each slate, a coloured chip for each slot."""
  count = sum(int(slate.clicks.sum()) for slate in slates)
  shown = sum(int(slate.where.sum()) for slate in slates)
  seen = sorted({int(k) for slate in slates
                 for k in slate.categories[slate.where]})
  legend = " ".join(
      f"{_chip(k, names)}&nbsp;{html.escape(names[k])}" for k in seen)
  return (
      f"<p>What ppo shows one user with a median number of requests in the "
      f"first judged world, from the top of each slate on: {len(slates)} "
      f"slates, {count} clicks on {shown} items. A framed chip with a ✓ was "
      "clicked: see what is shown more and less of after it, and how slates "
      f"change over the day.</p>\n<p>{legend}</p>\n"
      "<table class=day><thead><tr><th>time</th><th>slate</th><th>clicks</th>"
      "<th>diversity</th></tr></thead><tbody>"
      + "\n".join(_slate_row(slate, names) for slate in slates)
      + "</tbody></table>")


def _slate_row(slate: day_lib.Slate, names: Sequence[str]) -> str:
  chips = "".join(
      _chip(int(k), names, bool(click)) if is_shown else
      '<span class="chip" title="empty">-</span>'
      for k, is_shown, click in zip(
          slate.categories, slate.where, slate.clicks, strict=True))
  time = f"{slate.minutes // 60:02}:{slate.minutes % 60:02}"
  return (f"<tr><td>{time}</td><td>{chips}</td><td>{int(slate.clicks.sum())}"
          f"</td><td>{console.number(slate.diversity, 3)}</td></tr>")


def _chip(category: int, names: Sequence[str], clicked: bool = False) -> str:
  # Steps of the golden angle: categories next to each other differ in hue.
  hue, light = category * 137.508 % 360, (82, 70)[category % 2]
  kind = "chip clicked" if clicked else "chip"
  return (
      f'<span class="{kind}" style="background:hsl({hue:.0f} 65% {light}%)" '
      f'title="{html.escape(names[category])}">{category + 1}'
      f"{'✓' if clicked else ''}</span>")


def _exposure(record: record_lib.Record) -> list[str]:
  summaries = record.results.summaries
  shown = dict.fromkeys(("uncalibrated", record.limit.base, "ppo"))
  return [
      "<h2>Exposure by category</h2>",
      "<p>Share of all slots over the judged worlds; bars are those of the "
      "log. Far from its bar, the simulator is asked about slates that the "
      "log hardly has. A black mark is a floor that was asked for.</p>",
      html_lib.svg(figures.exposure_figure(
          {name: summaries[name].exposure_share for name in shown},
          record.logged_shares, record.floors, record.categories))]


def _fidelity(record: record_lib.Record) -> list[str]:
  fidelity = record.fidelity
  return [
      "<h2>Whether the response can be believed</h2>", _fidelity_text(fidelity),
      html_lib.svg(figures.fidelity_figure(fidelity)),
      "<p>Likewise by category: the blue mark should be within the "
      "interval.</p>",
      html_lib.svg(figures.category_figure(
          fidelity.by_category, record.categories)),
      "<p>Entropies that are far apart say that the home page as simulated is "
      "not the one that was logged.</p>",
      html_lib.html_table(
          ["on the later days", ""],
          _fidelity_rows(fidelity, record.simulated_entropy))]


def _fidelity_text(fidelity: fidelity_lib.ResponseFidelity) -> str:
  number = lambda value, digits=4: console.number(float(value), digits)
  return (
      "<p>Clicks of the later days, and what the response that was fitted to "
      "the first days predicts, with 95 % intervals: the line should pass "
      "through the bars. Where it does not, the simulator is wrong, and so is "
      "what is learned in it. The calibration slope is "
      f"{number(fidelity.slope, 3)} (1 is neither too bold nor too shy), the "
      f"log-likelihood of an exposure {number(fidelity.log_likelihood)}; of "
      f"the predicted click as it is {number(fidelity.scores_log_likelihood)}, "
      f"of one rate for all {number(fidelity.rate_log_likelihood)}.</p>")


def _fidelity_rows(
    fidelity: fidelity_lib.ResponseFidelity, simulated_entropy: float
) -> list[tuple[str, str]]:
  rows = [(name, console.number(float(value))) for name, value in (
      ("log-likelihood of the response", fidelity.log_likelihood),
      ("of the predicted click as it is", fidelity.scores_log_likelihood),
      ("of one rate for all", fidelity.rate_log_likelihood),
      ("calibration slope", fidelity.slope),
      ("calibration offset", fidelity.offset),
      ("entropy of exposures in the log, nats", fidelity.exposure_entropy),
      ("of the uncalibrated page as simulated", simulated_entropy))]
  chance = fidelity.by_chance
  if chance.size[0]:
    rows += [
        ("CTR of exposures drawn at random", console.with_error(
            float(chance.observed[0]), float(chance.standard_error[0]))),
        ("of the same as predicted", console.number(
            float(chance.predicted[0])))]
  return rows
