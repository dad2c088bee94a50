"""The report of a re-ranking policy, on made-up results."""

from html import parser
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reranker import day as day_lib
from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import policies
from experiments.reranker import record as record_lib
from experiments.reranker import report
from experiments.reranker import training
from experiments.reranker import world as world_lib
from harmonrank_jax.data import slate_logs
from harmonrank_jax.reranker import fidelity as fidelity_lib
from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import response_fit
from harmonrank_jax.reranker import simulator as simulator_lib

SECTIONS = [
    "Clicks against diversity", "How far ahead of each policy", "Policies",
    "In the static world", "Training", "Calibration", "What ppo does",
    "A day of one user", "Exposure by category",
    "Whether the response can be believed", "Configuration"]
NUM_USERS, NUM_PLACES, NUM_ITEMS, WIDTH, THETA = 5, 12, 30, 8, 0.6
NUM_SLATES, DAYS, UPDATES = 300, 3, 2
VOID = {"meta"}


def f32(values):
  return jnp.asarray(values, jnp.float32)


def make_log(rng, category_names, num_slots):
  num_categories = len(category_names)
  shape = (NUM_SLATES, num_slots)
  where = rng.random(shape) < 0.95
  clicks = (rng.random(shape) < 0.3) & where
  # The last category was never shown.
  categories = (rng.integers(0, num_categories - 1, shape, dtype=np.int32)
                if num_categories > 2 else np.zeros(shape, np.int32))
  return slate_logs.SlateLog(
      user=np.arange(NUM_SLATES), day=np.zeros(NUM_SLATES, int),
      day_ids=np.arange(NUM_SLATES, dtype=np.int32),
      time_ms=np.sort(rng.uniform(0, slate_logs.DAY_MS, NUM_SLATES)),
      where=where, items=np.zeros(shape, int), categories=categories,
      similarity=rng.uniform(size=shape).astype(np.float32),
      log_odds=rng.normal(size=shape).astype(np.float32) - 1,
      log_value=np.zeros(shape, np.float32), clicks=clicks,
      dismissed=clicks & False, is_random=clicks & False,
      item_categories=np.zeros(NUM_ITEMS, np.int32),
      item_features=np.ones((NUM_ITEMS, WIDTH), np.float32),
      category_names=category_names)


def make_fidelity(rng, num_categories, num_slots):
  def curve(size):
    rate = rng.uniform(0.1, 0.5, size)
    # Nothing is known of the last.
    rate[-1] = np.nan
    return fidelity_lib.Curve(
        rate, rate + 0.02, 0.01 + 0 * rate, np.where(rate > 0, 100.0, 0.0))

  return fidelity_lib.ResponseFidelity(
      curve(24), curve(num_categories), curve(num_slots),
      curve(len(fidelity_lib.FATIGUE_EDGES) + 1), curve(1), 0.987, 0.01,
      -0.3615, -0.5314, np.nan, 1.234)


def fitted_log(rng, categories, page):
  num_categories, num_slots = len(categories), page.num_slots
  response = response_lib.ResponseModel(
      f32(0.8), f32(np.zeros(num_categories)),
      f32(np.zeros((num_categories, 96))), f32(0.1), f32(0.9), f32(0.5),
      f32(np.linspace(1, 0.5, num_slots)), f32(0.1), f32(0.0))
  places = (NUM_USERS, NUM_PLACES)
  log_odds = f32(rng.normal(size=places))
  pool = simulator_lib.Pool(
      f32(rng.normal(size=(NUM_ITEMS, WIDTH))),
      jnp.asarray(rng.integers(0, num_categories, NUM_ITEMS, dtype=np.int32)),
      jnp.asarray(np.stack([rng.permutation(NUM_ITEMS)[:NUM_PLACES]
                            for _ in range(NUM_USERS)]).astype(np.int32)),
      log_odds, jnp.zeros(places), jnp.ones(places, bool))
  params = simulator_lib.Params(
      pool, response, f32(np.full(96, 1 / 96)), f32(np.full(NUM_USERS, 30.0)),
      log_odds, jnp.zeros((96, num_categories)), f32(THETA),
      jnp.ones(num_categories))
  first, last = (make_log(rng, categories, num_slots) for _ in range(2))
  fit = response_fit.ResponseFit(
      response, jax.tree.map(lambda leaf: leaf[None], response), f32(0),
      jnp.asarray(True))
  return world_lib.FittedLog(
      first, last, fit,
      make_fidelity(rng, num_categories, num_slots), page, params, params,
      {"held_out": response, "tiring": response, "static": response},
      [0.01 * (num_categories == 3)] * num_categories,
      world_lib.fit_calibrations(first))


def make_days(rng, num_seeds, num_categories, rate, cost):
  shape = (num_seeds, 3, DAYS)
  exposures = np.full((*shape, num_categories), 1000)
  clicks = rng.binomial(exposures, rate).astype(float)
  counted = np.full(shape, 50.0)
  return judging.Days(
      clicks, exposures.astype(float), clicks,
      counted * (cost + 0.001 * rng.normal(size=shape)), counted,
      np.full(shape, 4))


def trained_at(steps, excess=0.0):
  """A training whose seeds were best at these updates."""
  steps = np.asarray(steps)
  best = training.Best(None, steps, np.full(len(steps), excess), steps)
  return training.Trained(None, training.State(None, best), 1.0)


def write_metrics(workdir, num_seeds, num_rewards):
  workdir.mkdir()
  lines = [{"step": 0, "validation": {"ctr": [0.3] * num_seeds}}]
  for step in range(1, UPDATES + 1):
    lines += [
        {"step": step, "train": {
            "multipliers": [[0.1 * step, 0]] * num_seeds,
            "violation": [[None, 0.1]] * num_seeds,
            "explained_variance": [
                [None] * num_rewards + [0.5, None]] * num_seeds,
            "approx_kl": [0.01] * num_seeds, "loss": 0.1}},
        {"step": step, "validation": {"ctr": [0.3 + 0.1 * step] * num_seeds}}]
  (workdir / "metrics.jsonl").write_text(
      "".join(json.dumps(line) + "\n" for line in lines))


def make_report(
    workdir, categories, num_seeds, layout, knob, rates, names, day=None,
    **changes
):
  """Writes it; CTRs are about `rates`, in the order of `names`.

  Without a day, that of the made-up ppo is simulated.
  """
  rng = np.random.default_rng(0)
  num_categories = len(categories)
  page = simulator_lib.Simulator(
      num_categories=num_categories, num_candidates=NUM_PLACES, layout=layout,
      knob=knob, spread=None, feedback_rule=0, **changes)
  fitted = fitted_log(rng, categories, page)
  limit = limits.Limit(
      limits.Probe(0.4, 1.4, np.ones(3), 1.0), 1.0,
      "platt", THETA, 2.5)
  # A correction for each number of the action; the knob turns up theta.
  action = f32(np.append(
      rng.normal(size=page.action_size - knob), [1.0] * knob))
  trained = [name for name in names if name.startswith(("ppo", "bandit"))]
  days, contenders = {}, {}
  for name, (rate, cost) in zip(names, rates, strict=True):
    of_seeds = jnp.stack([action] * num_seeds)
    seeing = policies.Contender(
        simulator_lib.Simulator(privileged=name.startswith("privileged")),
        fitted.judge_params, policies.constant_action, action)
    contenders[name] = seeing if name not in trained else (
        policies.Contender(
            page, fitted.judge_params, policies.constant_action, of_seeds,
            by_seed=True))
    days[name] = make_days(rng, num_seeds, num_categories, rate, cost)
  results = judging.compare(
      days, limit, contenders,
      {name: trained_at(range(num_seeds)) for name in trained})
  for name in trained:
    write_metrics(workdir / name, num_seeds, page.num_rewards)
  (workdir / "config.json").write_text('{"base": "platt"}')
  day = day or day_lib.simulate_day(fitted, contenders["ppo"])
  report.write_report(workdir, record_lib.make_record(
      workdir, fitted, limit, results, day))
  return (workdir / "report.html").read_text(), results


class Reader(parser.HTMLParser):
  """Checks that every element is closed, and keeps the text of some."""

  def __init__(self):
    super().__init__()
    self.open, self.texts = [], {"h2": [], "p": [], "td": [], "th": []}

  def handle_starttag(self, tag, attrs):
    if tag not in VOID:
      self.open.append(tag)
    if tag in self.texts:
      self.texts[tag].append("")

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    for tag in self.open:
      if tag in self.texts:
        self.texts[tag][-1] += data


def read(page):
  reader = Reader()
  reader.feed(page)
  reader.close()
  assert not reader.open
  return reader.texts


@pytest.fixture(scope="module")
def modern(tmp_path_factory):
  names = ["uncalibrated", "platt", "platt_at_budget", "random", "bandit",
           "ppo", "privileged", "theta_0.95"]
  # The best but ppo sees too much, the next shows too little diversity.
  rates = [(0.30, 1.0), (0.33, 0.9), (0.32, 1.0), (0.05, 0.5), (0.35, 0.95),
           (0.40, 0.9), (0.42, 0.9), (0.41, 1.3)]
  return make_report(
      tmp_path_factory.mktemp("runs"), ["books", "a & b < c", "toys"],
      num_seeds=2, layout="rank2", knob=True, rates=rates, names=names,
      num_slots=4, max_requests=2)


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
  """One seed, one training, many categories of long names, more slots."""
  rng = np.random.default_rng(1)
  # Without the simulation, which takes its time to compile: nobody came in
  # the morning, and there was not enough to fill the last slot.
  morning, evening = day_lib.TIMES
  where = np.arange(12) < 11
  day = day_lib.Day(
      {morning: day_lib.Action(None, float("nan")),
       evening: day_lib.Action(rng.normal(size=(12, 30)), THETA)},
      [day_lib.Slate(
          15 * k, rng.integers(0, 30, 12), where,
          where & (rng.random(12) < 0.3), -1.5) for k in range(20)])
  return make_report(
      tmp_path_factory.mktemp("runs"),
      [f"$ the category of long names no. {k} $" for k in range(30)],
      num_seeds=1, layout="slot_category", knob=False,
      rates=[(0.4, 1.3)] * 4,
      names=["uncalibrated", "platt", "platt_at_budget", "ppo"], day=day,
      num_slots=12)


def test_the_report_is_one_file_with_everything(modern):
  page, results = modern
  texts = read(page)
  assert texts["h2"] == SECTIONS
  assert page.count("<svg") == 9
  assert "src=" not in page and 'href="http' not in page
  for name in results.contenders:
    assert texts["td"].count(name + "*" * (name == "privileged")) == 2
    # A text of the figures.
    assert f"<!-- {name} -->" in page
  # Where a policy is far below the others, its name has its CTR.
  assert re.search(r"<!-- \d+  random, 0\.0", page)
  assert re.search(r"<!-- \d+  ppo -->", page)
  assert page.count("asked for -->") == 1
  assert "<!-- floor -->" in page
  assert "platt" in page[page.index("<pre>"):]


def test_the_lead_is_over_the_best_that_may_be_compared(modern):
  page, results = modern
  lead = read(page)["p"][0]
  assert f"ahead of bandit ({results.paired['bandit']})" in lead
  ours = results.summaries["ppo"]
  assert f"CTR {ours.ctr:.4f} ± {ours.ctr_error:.4f}" in lead
  assert f"-1.000 asked for, {ours.diversity:.3f} reached." in lead
  assert lead.startswith("ppo: CTR")
  assert "kept" not in lead and "ppo after update 0, 1" in page


def test_the_action_is_read_from_its_layout(modern):
  turned = 1 / (1 + (1 - THETA) / THETA * np.exp(-1))
  assert (f"theta {turned:.3f} in the morning and {turned:.3f} in the "
          f"evening, from {THETA:.3f}" in modern[0])


def test_a_day_is_shown_slate_by_slate(modern):
  day = re.search(r"<table class=day>.*?</table>", modern[0], re.S)[0]
  rows = day.split("<tr>")[2:]
  said = re.search(r"(\d+) slates, (\d+) clicks on (\d+) items", modern[0])
  num_slates, num_clicks, num_items = map(int, said.groups())
  assert len(rows) == num_slates > 1
  assert day.count("✓") == day.count("chip clicked") == num_clicks > 0
  assert day.count('class="chip') == 4 * num_slates >= num_items
  times = re.findall(r"<td>(\d\d:[0-5]\d)</td>", day)
  assert len(times) == num_slates and times == sorted(times)


def test_the_paper_preset_on_one_seed(paper):
  page, results = paper
  texts = read(page)
  assert texts["h2"] == SECTIONS
  ours = results.summaries["ppo"]
  assert f"{ours.ctr:.4f} ± -" in texts["td"]
  assert any("[-, -]" in text for text in texts["td"])
  assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S).lower()
  # All are beyond the threshold: nobody is to be compared but in name.
  assert texts["p"][0].startswith(
      "ppo does not keep to what was asked for: diversity "
      f"{ours.diversity:.3f}, asked for -1.000. ppo: CTR")
  assert "none of them keeps" in texts["p"][0]
  assert f"{ours.diversity:.3f} missed." in texts["p"][0]
  assert "The knob" not in page and "morning, 8 to 10 h: nobody came" in page
  assert page.count('title="empty"') == 20
