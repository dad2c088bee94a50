"""Trains a re-ranking policy in a simulator of the home page.

    python -m experiments.train_reranker                # the embedded log
    python -m experiments.train_reranker --evaluation=full
    python -m experiments.train_reranker --data=log.parquet \\
        --items=items.parquet

A row of --data is an exposure: `user_id`, `request_id`, `item_id`, `time_ms`,
`position`, `click` and `score_click`, its predicted probability (other names:
--user_column and so on); category and features of the item are columns too,
or in a table of --items. Everything is fitted to the first days; the worlds
that policies are judged in are made from the last quarter.

From the log comes a response model (position, category by hour, fatigue,
cascade), with its uncertainty and a report on the days held out. Policies are
trained in many worlds that the log could have come from, and all of them,
beside calibrations and other baselines, are judged on the same fresh days of
other worlds. In the workdir, summary.json holds every figure, report.html
shows them, ppo/ the training of the policy; model.json and parameters.npz are
the best of its seeds, for requests outside the simulator.

--preset=paper is PPO exactly as in the paper; its result stands in the table
either way.
"""

import dataclasses
import pathlib
from typing import Any

from experiments.reranker import config as config_lib
from experiments.reranker import day as day_lib
from experiments.reranker import delivery
from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import policies
from experiments.reranker import record as record_lib
from experiments.reranker import results as results_lib
from experiments.reranker import training
from experiments.reranker import world as world_lib
from experiments.reranker.config import Config
from experiments.runs import flags
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.serving import models


@workdir_lib.alone
def train(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains, judges, writes everything; returns what `summary.json` holds."""
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    config_lib.check(config)
    fitted = world_lib.fit_log(
        config, world_lib.read_log(config, workdir), workdir)
  results_lib.say_fit(fitted)
  limit = limits.make_limit(config, fitted)
  results_lib.say_limit(limit, config.constraint)
  trained = training.train_all(config, workdir, fitted, limit)
  contenders = policies.make_contenders(config, fitted, limit, trained)
  results = judging.judge(config, fitted, limit, contenders, trained)
  models.write_model(workdir, *delivery.make_model(
      config, fitted, limit, trained["ppo"]))
  return publish(config, workdir, fitted, limit, results)


def publish(
    config: Config, workdir: pathlib.Path, fitted: world_lib.FittedLog,
    limit: limits.Limit, results: judging.Results,
) -> dict[str, Any]:
  """Writes and returns the summary; writes the report, shows the table."""
  from experiments.reranker import report  # Imports matplotlib, which is slow.

  summary = workdir_lib.finite({
      **results_lib.make_summary(fitted, limit, results),
      "scale": config.scale._asdict(), "config": dataclasses.asdict(config)})
  workdir_lib.write_json(workdir / "summary.json", summary)
  day = day_lib.simulate_day(fitted, results.contenders["ppo"])
  report.write_report(workdir, record_lib.make_record(
      workdir, fitted, limit, results, day))
  results_lib.print_table(limit, results, fitted)
  print(f"{workdir / 'report.html'}  {workdir / 'summary.json'}")
  return summary


def main(config: Config) -> None:
  """Runs what the flags say."""
  train(config, flags.workdir(config, "train_reranker"))


if __name__ == "__main__":
  flags.run(main, Config)
