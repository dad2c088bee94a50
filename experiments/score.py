"""Scores files of any size by an exported artefact.

    python -m experiments.score --artefact=exported --data=tomorrow \\
        --out=scored
    python -m experiments.score ... --shard=0/4   # 1/4, 2/4, 3/4 elsewhere
    python -m experiments.score ... --engine=spark

The folder of --out gets a file for each of --data, of the same name and in
the same folders: all columns and rows in their order and types, with
`ranking_score` of an ensemble and a `score_<objective>` of each objective of a
predictor. A file of more than a million rows becomes several, as in
`name.00000-of-00020.parquet`, whose names sort in the order of the rows.

A row with a score that no probability can be made of is not scored: it goes to
a file of the same name in `_rejected`, with the reason in `rejection`; --strict
stops at the first one instead. Unknown ids and missing values are scored.

Files appear when they are whole. The same command goes on after a stop of any
kind with the files that are missing. The rows are read once; memory holds a
part of a row group for each of the --processes, which are spawned and have one
thread each.
"""

import os
import pathlib
import time
from typing import NamedTuple

from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import progress as progress_lib
from experiments.runs import workdir as workdir_lib
from experiments.scoring import files
from experiments.scoring import plan as plan_lib
from experiments.scoring import workers
from experiments.scoring.config import Config


class Result(NamedTuple):
  """What a run has done."""

  num_rows: int
  num_rejected: int
  num_files: int
  seconds: float


def score(config: Config) -> Result:
  """Scores what is missing of a shard, with progress."""
  for name in ("artefact", "data", "out"):
    if not getattr(config, name):
      raise errors.UserError(f"--{name} is needed; --help says what it is.")
  assert config.out
  out, shard = pathlib.Path(config.out), plan_lib.parse_shard(config.shard)
  with workdir_lib.locked(
      out, name=f".lock-{shard.number}-of-{shard.of}", flag="out"):
    plan = plan_lib.make(config, out)
    for line in plan.notes:
      errors.warn(line)
    if plan.num_done:
      print(f"{plan.num_done:,} of {plan.num_done + len(plan.tasks):,} files "
            "are there already.", flush=True)
    print(f"adds {', '.join(plan.scorer.added.names[:-1])} by version "
          f"{plan.scorer.version}", flush=True)
    began = time.perf_counter()
    total = _run(config, workers.Job(out, plan.scorer, config.strict),
                 plan.tasks)
  return Result(*total, len(plan.tasks), time.perf_counter() - began)


def _run(
    config: Config, job: workers.Job, tasks: list[files.Task]
) -> files.Done:
  """Scores spans by the engine asked for."""
  num_rows = num_rejected = 0
  progress = progress_lib.Progress(
      sum(task.span.num_rows for task in tasks), 0, examples_per_step=1,
      unit="row", examples="rows")
  if config.engine == "spark":
    from experiments.scoring import spark  # Imports what few have installed.

    scored = spark.run(
        job, tasks, config.spark_master or f"local[{config.processes}]")
  else:
    scored = workers.run(job, tasks, config.processes)
  with progress_lib.stop_on_signal() as received:
    try:
      for done in scored:
        if received:
          raise errors.StoppedError(received[0], num_rows, unit="row")
        if done is not None:
          num_rows += done.num_rows
          num_rejected += done.num_rejected
          progress.update(num_rows)
    finally:
      scored.close()
      progress.close()
  return files.Done(num_rows, num_rejected)


def main(config: Config) -> None:
  """Runs what the flags say."""
  result = score(config)
  print(f"{result.num_rows:,} rows scored in {result.seconds:.1f} s, "
        f"{result.num_rows / result.seconds:,.0f} rows/s; "
        f"{result.num_rejected:,} rejected")
  where = [config.out]
  if result.num_rejected:
    where.append(os.path.join(str(config.out), files.REJECTED))
  print(*where, sep="  ")


if __name__ == "__main__":
  flags.run(main, Config, has_workdir=False,
            after_interrupt="the same command goes on with what is missing.")
