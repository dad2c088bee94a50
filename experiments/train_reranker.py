"""Trains a re-ranking policy in a simulator of the home page.

    python -m experiments.train_reranker                # the embedded log
    python -m experiments.train_reranker --evaluation=full
    python -m experiments.train_reranker --data=log.parquet \\
        --items=items.parquet

A row of --data is an exposure: `user_id`, `request_id`, `item_id`, `time_ms`,
`position`, `click` and `score_click`, its predicted probability (other names:
--user_column and so on); category and features of the item stand there too,
or in a table of --items. The first days are what everything is fitted to; the
last quarter is what the worlds to be judged in are made from.

From the log comes a response model (position, category by hour, fatigue,
cascade), with its uncertainty and a report on the days held out. Policies are
trained in many worlds that the log could have come from, and all of them,
calibrations and other baselines too, are judged on the same fresh days of
other worlds. In the workdir, summary.json holds every figure, report.html
shows them, ppo/ the training of the policy.

--preset=document is PPO as written down in the source, without what has become
usual since; its result stands in the table either way.
"""

import dataclasses
import functools
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.reranker import judging as page_policies
from experiments.reranker import results as page_results
from experiments.reranker import slate_logs as home_log
from experiments.reranker import task as page_task
from experiments.reranker import world as home_page
from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import generator
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.reranker import ppo
from harmonrank_jax.reranker import rollout
from harmonrank_jax.reranker import search
from harmonrank_jax.reranker import simulator as simulator_lib

PRESETS = ("modern", "document")
CONSTRAINTS = ("fixed", "ascent", "pi", "pid")
RELEVANCES = ("pctr", "pctcvr")
# Of the uncalibrated page, beside the theta that is asked for.
THETAS = (0.5, 0.95)
PRIVILEGED = ("privileged", "privileged_at_budget")


class Scale(NamedTuple):
  """How much is trained and how long it is judged."""

  num_seeds: int
  num_updates: int
  num_days: int
  users_per_day: int


SCALES = {"quick": Scale(3, 30, 8, 16), "full": Scale(5, 100, 64, 32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.DataConfig):
  """What a run depends on: the flags of these names."""

  items: str | None = flags.field(
      None, "Table of items with category and features, Parquet, if --data has "
      "them not.")
  preset: str = flags.field(
      "modern", "How PPO learns: as is usual today, or as the source has it.",
      choices=PRESETS)
  evaluation: str = flags.field(
      "quick", "How much is trained and judged: " + "; ".join(
          f"{name}, {s.num_seeds} seeds, {s.num_updates} updates, {s.num_days} "
          f"days of {s.users_per_day} users in every world"
          for name, s in SCALES.items()) + ".", choices=tuple(SCALES))
  base: str = flags.field(
      "platt_by_hour", "The scores that the policy corrects; uncalibrated is "
      "from scratch.", choices=tuple(home_page.CALIBRATIONS))
  layout: str = flags.field(
      "category", "What an action is: a correction for each category, for each "
      "slot and category, or a level and a slope over slots for each category.",
      choices=simulator_lib.LAYOUTS)
  relevance: str = flags.field(
      "pctr", "Whether relevance is the predicted click, or click with "
      "conversion.", choices=RELEVANCES)
  theta: float = flags.field(
      0.8, "Weight of relevance in the DPP, between 0 and 1.", low=0.0,
      high=1.0)
  num_slots: int = flags.field(10, "Slots of a slate.", low=1, high=100)
  num_candidates: int = flags.field(
      60, "Candidates of a request.", low=1, high=100_000)
  max_requests: int = flags.field(
      1, "Requests of a user in a window, at most.", low=1, high=8)
  scope: str = flags.field(
      "request", "What is to be varied: a request's slate by itself, or all of "
      "a window.", choices=simulator_lib.SCOPES)
  spread: int | None = flags.field(
      3, "At most so many slots of a category in a row.", low=1)
  feedback_rule: float = flags.field(
      1.0, "Slots that a category moves up after a click and down after a "
      "dismissal; 0 for none.", low=0.0, high=100.0)
  constraint: str = flags.field(
      "pi", "How the multiplier of the diversity constraint moves.",
      choices=CONSTRAINTS)
  diversity: float | None = flags.field(
      None, "Least mean log det S_Y / K of slates; that of today's "
      "uncalibrated slates if not given.", high=0.0)
  diversity_quantile: float | None = flags.field(
      None, "Instead: this quantile of the cost of users' days today.", low=0.0,
      high=1.0)
  multiplier: float = flags.field(
      0.0, "Of the diversity constraint at first; always, with "
      "--constraint=fixed.", low=0.0, high=100.0)
  exposure_floors: tuple[str, ...] | None = flags.field(
      None, "Least shares of slots by category, as in books=0.05,toys=0.03: "
      "more constraints for the policy.")
  category_values: tuple[str, ...] | None = flags.field(
      None, "What a click is worth by category, as in phones=2; 1 if not "
      "named.")
  discount: float = flags.field(
      0.5, "Of rewards and costs a window later.", low=0.0, high=1.0)
  num_updates: int | None = flags.field(
      None, "Of every policy that is trained; as --evaluation says if not "
      "given.", low=1, high=1_000_000)
  num_envs: int = flags.field(
      128, "Users side by side in training.", low=1, high=65_536)
  learning_rate: float = flags.field(
      1e-3, "Of the actor.", low=0.0, high=1.0)
  utc_offset_hours: float = flags.field(
      0.0, "Added to times for the hour of the day.", low=-24.0, high=24.0)
  user_column: str = flags.field("user_id", "Column of the user.")
  request_column: str = flags.field("request_id", "Column of the request.")
  item_column: str = flags.field("item_id", "Column of the item.")
  time_column: str = flags.field("time_ms", "Column of the time.")
  position_column: str = flags.field("position", "Column of the position.")
  click_column: str = flags.field("click", "Column of the click.")
  score_column: str = flags.field("score_click", "Column of the score.")
  category_column: str = flags.field("category", "Column of the category.")
  features_column: str | None = flags.field(
      None, "Column of lists of features; features, or else all embedding_*, "
      "if not given.")
  dismissed_column: str | None = flags.field(
      None, "Column of dismissals, 0 or 1.")
  value_score_column: str | None = flags.field(
      None, "Column of predicted probabilities of a click with conversion.")
  random_column: str | None = flags.field(
      None, "Column of exposures by chance, 0 or 1.")


def train(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains, judges and writes everything there is to see.

  Args:
    config: what the run depends on.
    workdir: where it goes; a run of the same configuration there is resumed.

  Returns:
    The content of `summary.json`.

  Raises:
    UserError: if the configuration does not fit the data or the workdir.
    DataError: if the data is not what it should be.
    StoppedError: on Ctrl-C or SIGTERM, after a checkpoint.
  """
  workdir = pathlib.Path(workdir)
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    _check(config)
    world = make_world(config, read_log(config, workdir))
  page_results.say_world(world)
  limit = make_limit(config, world)
  page_results.say_limit(limit)
  contenders, trained = make_contenders(config, workdir, world, limit)
  results = judge(config, world, limit, contenders, trained)
  return publish(config, workdir, world, limit, results)


def read_log(config: Config, workdir: pathlib.Path) -> home_log.HomeLog:
  """Reads the log, or generates the embedded one."""
  columns = home_log.Columns(
      config.user_column, config.request_column, config.item_column,
      config.time_column, config.position_column, config.click_column,
      config.score_column, config.category_column, config.features_column,
      config.dismissed_column, config.value_score_column,
      config.random_column)
  data, items = config.data, config.items
  if data is None:
    folder = workdir / "prepared"
    data, items = str(folder / "log.parquet"), str(folder / "items.parquet")
    if not pathlib.Path(items).exists():
      week = generator.generate_log(generator.LogConfig(
          config.num_exposures, config.log_seed, "regulars"))
      parquet.write_parquet(week.log, pathlib.Path(data))
      parquet.write_parquet(week.items, pathlib.Path(items))
    columns = home_log.Columns(
        dismissed="dismissed", value_score="score_buy")
  return home_log.read_log(
      data, items, columns, utc_offset_hours=config.utc_offset_hours)


def make_world(config: Config, log: home_log.HomeLog) -> page_results.World:
  """Fits the response, and makes the worlds."""
  is_held_out = home_log.held_out_days(log)
  first, last = log.of_days(~is_held_out), log.of_days(is_held_out)
  simulator = simulator_lib.Simulator(
      num_categories=len(log.categories), num_slots=config.num_slots,
      num_candidates=config.num_candidates, layout=config.layout, knob=True,
      max_requests=config.max_requests, scope=config.scope,
      spread=config.spread, feedback_rule=config.feedback_rule,
      exposure_costs=config.exposure_floors is not None)
  values = _by_category(
      "category_values", config.category_values, log.categories, others=1.0)
  floors = _by_category(
      "exposure_floors", config.exposure_floors, log.categories, others=0.0)
  if sum(floors) > 1:
    raise errors.UserError(
        f"--exposure_floors={','.join(config.exposure_floors or ())} ask for "
        "more than there is: shares sum to 1.")
  positions = log.exposures.clicks.shape[1]
  if positions < config.num_slots:
    raise errors.UserError(
        f"--num_slots={config.num_slots}, but no page of the log has more "
        f"than {positions} positions: nothing is known of those below.")
  pools = [home_log.make_pool(
      first, num_candidates=config.num_candidates, seed=config.seed + number)
           for number in (0, 1)]
  fit, other = (home_page.fit_response(part, len(log.categories), seed=seed)
                for part, seed in ((first, config.seed),
                                   (last, config.seed + 1)))
  for part, found in (("first", fit), ("last", other)):
    if not found.is_converged:
      errors.warn(f"the response did not converge on the {part} days.")
  make = functools.partial(
      home_page.make_params, first, theta=config.theta, values=values,
      log_value_counts=config.relevance == "pctcvr")
  return page_results.World(
      first, last, fit, home_page.judge(fit.response, last), simulator,
      make(pools[0], fit.response, home_log.arrivals(first)),
      make(pools[1], other.response, home_log.arrivals(last)),
      home_page.evaluation_worlds(other.response), floors)


def _by_category(
    flag: str, texts: tuple[str, ...] | None, names: list[str], *,
    others: float,
) -> list[float]:
  """Numbers `[C]` of "phones=0.2", and `others` for those not named."""
  found = dict.fromkeys(names, others)
  for text in texts or ():
    name, _, number = text.rpartition("=")
    if name not in found:
      raise errors.UserError(
          f"--{flag}={text}: expected numbers by category, as in "
          f"{names[0]}=0.2; the log has no category {name!r}"
          f"{schema_lib.nearest(name, names)}.")
    try:
      found[name] = float(number)
    except ValueError:
      found[name] = float("nan")
    if not 0 <= found[name] < float("inf"):
      raise errors.UserError(
          f"--{flag}={text}: expected a number from 0, got {number!r}.")
  return list(found.values())


def make_limit(config: Config, world: page_results.World) -> page_results.Limit:
  """Probes what is feasible, and how far theta may go."""
  thetas = home_page.Thetas(world.simulator, seed=config.seed)
  probe = thetas.probe(world.params)
  threshold = (-config.diversity if config.diversity is not None
               else probe.threshold(config.diversity_quantile))
  base = home_page.calibrated(
      world.params, world.log.exposures, home_page.CALIBRATIONS[config.base])
  return page_results.Limit(
      probe, threshold, probe.is_feasible(threshold), config.base,
      thetas.at_budget(base, _target(probe, threshold)))


def _target(probe: home_page.Probe, threshold: float) -> float:
  """What is aimed at: a threshold just met on average is missed on half the
  days, which differ by about as much as is tolerated.
  """
  return threshold - 3 * page_policies.TOLERANCE * (probe.most - probe.least)


def make_contenders(
    config: Config, workdir: pathlib.Path, world: page_results.World,
    limit: page_results.Limit,
) -> tuple[dict[str, page_policies.Contender], dict[str, page_task.Trained]]:
  """Everything that is compared, in the order of the table."""
  page = dataclasses.replace(world.simulator, layout="category")
  calibrated = functools.partial(
      home_page.calibrated, exposures=world.log.exposures)
  params = {name: calibrated(world.judged, calibrate=calibrate)
            for name, calibrate in home_page.CALIBRATIONS.items()}
  at_theta = lambda params, theta: params._replace(theta=jnp.float32(theta))
  none = jnp.zeros(page.action_size)

  def static(params, action=none, page=page):
    return page_policies.Contender(
        page, params, page_policies.constant_action, action)

  contenders = {name: static(found) for name, found in params.items()}
  noise = jax.random.normal(
      jax.random.key(config.seed), world.judged.base.shape)
  contenders["random"] = static(world.judged._replace(
      base=jnp.std(world.judged.base) * noise))
  best = params[config.base]
  contenders[f"{config.base}_at_budget"] = static(at_theta(best, limit.theta))
  for theta in THETAS:
    contenders[f"theta_{theta}"] = static(at_theta(world.judged, theta))

  start = at_theta(
      calibrated(world.params, calibrate=home_page.CALIBRATIONS[config.base]),
      limit.theta)
  best = at_theta(best, limit.theta)
  found = _search(config, page, start, limit)
  contenders["cross_entropy"] = static(best, found)

  trained = {}
  for name, recipe in recipes(config, world, limit).items():
    print(f"training {name}", flush=True)
    scale = SCALES[config.evaluation]
    task = page_task.PageTask(
        recipe, world.fit, start, num_seeds=scale.num_seeds, seed=config.seed)
    trained[name] = page_task.train(
        task, workdir / name, recipe, scale.num_seeds)
    learner = trained[name].learner
    contenders[name] = page_policies.Contender(
        dataclasses.replace(recipe.simulator, expected_rewards=False),
        best, _Policy(recipe.config), (learner.params, learner.statistics),
        by_seed=True)
  seeing = dataclasses.replace(page, privileged=True)
  contenders["privileged"] = static(world.judged, page=seeing)
  contenders["privileged_at_budget"] = static(
      at_theta(world.judged, _privileged_theta(config, seeing, world, limit)),
      page=seeing)
  return contenders, trained


@dataclasses.dataclass(frozen=True)
class _Policy:
  """The mean action of a learner's weights; equal for equal configurations."""

  config: ppo.PpoConfig

  def __call__(self, weights: Any, observations: jax.Array) -> jax.Array:
    params, statistics = weights
    return ppo.mean_action(
        params, statistics, observations, config=self.config)


def _privileged_theta(
    config: Config, page: simulator_lib.Simulator, world: page_results.World,
    limit: page_results.Limit,
) -> float:
  thetas = home_page.Thetas(page, seed=config.seed)
  return thetas.at_budget(
      world.params, _target(limit.probe, limit.threshold))


def recipes(
    config: Config, world: page_results.World, limit: page_results.Limit
) -> dict[str, page_task.Recipe]:
  """What is trained: the policy, a bandit, and the document's policy."""
  thresholds = [_target(limit.probe, limit.threshold)]
  if world.simulator.exposure_costs:
    # The cost is minus the share.
    thresholds += [-floor for floor in world.floors]
  scale = SCALES[config.evaluation]
  num_updates = config.num_updates or scale.num_updates
  controller = home_page.controller(
      config.constraint, jnp.array(thresholds), config.multiplier)

  def recipe(simulator, learner, discount, is_paired):
    rewards, costs = simulator.num_rewards, simulator.num_costs
    settings = ppo.Settings(
        jnp.ones(rewards), jnp.full(rewards + costs, discount), controller)
    return page_task.Recipe(
        simulator, learner, settings, num_updates, is_paired)

  expected = dataclasses.replace(world.simulator, expected_rewards=True)
  modern = dataclasses.replace(
      ppo.PpoConfig.modern(expected), num_envs=config.num_envs,
      num_minibatches=8,
      actor_learning_rate=config.learning_rate, target_kl=0.05,
      num_updates=num_updates)
  # As written down: an action for each slot and category, sampled clicks, and
  # no knob for theta.
  literal = dataclasses.replace(
      world.simulator, layout="slot_category", knob=False)
  document = recipe(literal, dataclasses.replace(
      ppo.PpoConfig.document(literal), num_envs=min(config.num_envs, 64)),
      0.99, is_paired=False)
  if config.preset == "document":
    return {"ppo": document}
  return {"ppo": recipe(expected, modern, config.discount, is_paired=True),
          "bandit": recipe(expected, modern, 0.0, is_paired=True),
          "ppo_document": document}


def _search(
    config: Config, page: simulator_lib.Simulator,
    params: simulator_lib.Params, limit: page_results.Limit,
) -> jax.Array:
  """The best constant action in the world of the fit, by cross-entropy."""
  page = dataclasses.replace(page, expected_rewards=True)
  target = _target(limit.probe, limit.threshold)

  def score(params, key, action):
    outcome = rollout.simulate(
        page, params, functools.partial(page_policies.constant_action, action),
        key=key, num_users=32)
    slates = outcome.counted[:, 0].sum()
    clicks = outcome.reward.sum() / slates / page.num_slots
    # More than any click is worth: a percent of the cost is one of the CTR.
    excess = jnp.maximum(outcome.cost[:, 0].sum() / slates - target, 0)
    return clicks - excess

  found = jax.jit(lambda params, key: search.cross_entropy_search(
      functools.partial(score, params), page.action_size, key=key,
      num_rounds=15, population=24, initial_spread=0.3))(
          params, jax.random.key(config.seed))
  return found.mean


def judge(
    config: Config, world: page_results.World, limit: page_results.Limit,
    contenders: dict[str, page_policies.Contender],
    trained: dict[str, page_task.Trained],
) -> page_results.Results:
  """Simulates the same days for all of them."""
  scale = SCALES[config.evaluation]
  print(f"judging {len(contenders)} policies on {scale.num_days} days of "
        f"{scale.users_per_day} users in {len(world.responses)} worlds, "
        f"{scale.num_seeds} seeds", flush=True)
  run = page_policies.Judge(
      world.responses.values(), num_seeds=scale.num_seeds,
      num_days=scale.num_days, users_per_day=scale.users_per_day,
      seed=config.seed + 1)
  days = {name: run(contender) for name, contender in contenders.items()}
  moving, still = slice(0, -1), slice(-1, None)
  summarise = lambda part: {
      name: page_policies.summarise(
          found.in_worlds(part), limit.threshold, limit.probe)
      for name, found in days.items()}
  compare = lambda part: {
      name: page_policies.paired(
          days["ppo"].in_worlds(part), found.in_worlds(part))
      for name, found in days.items() if name != "ppo"}
  return page_results.Results(
      days, summarise(moving), summarise(still), compare(moving),
      compare(still), trained, contenders)


def publish(
    config: Config, workdir: pathlib.Path, world: page_results.World,
    limit: page_results.Limit, results: page_results.Results,
) -> dict[str, Any]:
  """Writes the summary and the report; shows the table.

  Returns:
    The content of `summary.json`.
  """
  from experiments.reranker import report as reranker  # Slow to import.

  summary = workdir_lib.finite({
      **page_results.summary(world, limit, results, PRIVILEGED),
      "scale": SCALES[config.evaluation]._asdict(),
      "config": dataclasses.asdict(config)})
  workdir_lib.write_json(workdir / "summary.json", summary)
  reranker.write_report(workdir, world, limit, results)
  page_results.print_table(limit, results, PRIVILEGED)
  print(f"{workdir / 'report.html'}  {workdir / 'summary.json'}")
  return summary


def _check(config: Config) -> None:
  """Flags that do not go together."""
  if config.items and not config.data:
    raise errors.UserError("--items needs --data.")
  if not 0 < config.theta < 1:
    raise errors.UserError(
        f"--theta={config.theta} must be between 0 and 1, both left out: the "
        "knob moves its log-odds.")
  if config.diversity is not None and config.diversity_quantile is not None:
    raise errors.UserError(
        "--diversity and --diversity_quantile both say what is asked for; "
        "give one.")
  if (config.relevance == "pctcvr" and config.data
      and not config.value_score_column):
    raise errors.UserError(
        "--relevance=pctcvr needs --value_score_column, the predicted "
        "probability of a click with conversion.")


def main(config: Config) -> None:
  """Runs what the flags say."""
  train(config, flags.workdir(config, "train_reranker"))


if __name__ == "__main__":
  flags.run(main, Config)
