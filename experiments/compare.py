"""Compares methods of ranking by several objectives, with error bars.

    python -m experiments.compare                     # all methods, one split
    python -m experiments.compare --blocks=5          # five temporal blocks
    python -m experiments.compare --study=skew        # thinned positives
    python -m experiments.compare --study=batch_size
    python -m experiments.compare --study=lists       # lists of users, requests
    python -m experiments.compare --data=scored.parquet

Every network has as many steps, and its learning rate is chosen on validation
rows by the same search; weights of formulas are tuned there as well. The step
is the best on these rows, but the last where lists are ranked. Test rows are
read once, at the end. `report.html`, `table.md` and `summary.json` go to
--workdir; the same command again goes on after the last method that was done.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from experiments.comparison import cells as cells_lib
from experiments.comparison import inputs as inputs_lib
from experiments.comparison import studies as contenders
from experiments.comparison import tables as comparison
from experiments.comparison import text as tables
from experiments.comparison.config import Config
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import workdir as workdir_lib


def compare(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains, evaluates and writes everything there is to see.

  Args:
    config: what the comparison depends on.
    workdir: where it goes; what is done there is not done again.

  Returns:
    The content of `summary.json`.

  Raises:
    UserError: if the configuration does not fit the data or the workdir.
    DataError: if the data is not what it should be.
  """
  from experiments.comparison import report as report  # Slow to import.

  workdir = pathlib.Path(workdir)
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    schema, study, blocks = inputs_lib.read_inputs(config, workdir)
  left_out = [
      condition for condition in contenders.STUDIES[config.study].conditions
      if condition not in study.conditions]
  for condition in left_out:
    errors.warn(f"{condition.name} is left out: the data has no column of "
               f"{condition.lists}s.")
  workdir_lib.check_same_data(workdir, [
      array for block in blocks
      for batch in (block.train, block.validation, block.test)
      for array in batch])
  truths = [block.truth for block in blocks if block.truth is not None]
  found = []
  for condition in study.conditions:
    cells = [
        cells_lib.run_block(
            config, workdir, condition, study, number, block,
            np.asarray(config.learning_rates, np.float32),
            capacity=max(len(block.train.labels) for block in blocks))
        for number, block in enumerate(blocks)]
    found.append(comparison.evaluate(
        condition, schema, cells, [block.test for block in blocks],
        truths, without=config.without, seed=config.seed))
  content = workdir_lib.finite(tables.summary(
      dataclasses.asdict(config), schema, found,
      [tuple(len(part.labels) for part in block[1:4]) for block in blocks],
      [condition.name for condition in left_out]))
  workdir_lib.write_json(workdir / "summary.json", content)
  workdir_lib.write_text(workdir / "table.md", tables.markdown(found))
  report.write_report(workdir, content, found)
  tables.print_tables(found)
  print(*(workdir / name for name in (
      "report.html", "table.md", "summary.json")), sep="  ")
  return content


def main(config: Config) -> None:
  """Runs what the flags say."""
  name = "compare" if config.study == "methods" else f"compare_{config.study}"
  compare(config, flags.workdir(config, name))


if __name__ == "__main__":
  flags.run(main, Config, after_interrupt="the same command goes on after the "
            "last method that was done.")
