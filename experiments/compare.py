"""Compares methods of ranking by several objectives, with error bars.

    python -m experiments.compare                     # all methods, one split
    python -m experiments.compare --blocks=5          # five temporal blocks
    python -m experiments.compare --study=skew        # thinned positives
    python -m experiments.compare --study=batch_size
    python -m experiments.compare --study=lists       # lists of users, requests
    python -m experiments.compare --data=scored.parquet

Every network takes the same number of steps, and its learning rate is chosen
on validation rows by the same search; weights of formulas are tuned there as
well. The step is the best on these rows, but the last where lists are ranked.
Test rows are read once, at the end. `report.html`, `table.md` and
`summary.json` go to --workdir; the same command again goes on after the last
method that was done.
"""

import dataclasses
import pathlib
from typing import Any

from experiments.comparison import cells
from experiments.comparison import inputs as inputs_lib
from experiments.comparison import studies
from experiments.comparison import tables
from experiments.comparison import text
from experiments.comparison.studies import Config
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import workdir as workdir_lib


@workdir_lib.alone
def compare(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains every method and measures it; returns what `publish` does."""
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    inputs = inputs_lib.read_inputs(config, workdir)
  for condition in inputs.left_out:
    errors.warn(f"{condition.name} is left out: the data has no column of "
                f"{condition.lists}s.")
  workdir_lib.check_same_data(workdir, [
      array for block in inputs.blocks
      for batch in (block.train, block.validation, block.test)
      for array in batch])
  return publish(workdir, tables.Record(
      config=dataclasses.asdict(config), objectives=inputs.schema.names,
      rows=[block.num_rows for block in inputs.blocks],
      tables=[measure(config, workdir, inputs, condition)
              for condition in inputs.study.conditions],
      left_out=tuple(condition.name for condition in inputs.left_out)))


def measure(
    config: Config, workdir: pathlib.Path, inputs: inputs_lib.Inputs,
    condition: studies.Condition,
) -> tables.Table:
  """Trains the methods of a condition on every block, and measures them."""
  return tables.evaluate(
      condition, inputs.schema,
      [cells.run_block(config, workdir, inputs, condition, number)
       for number in range(len(inputs.blocks))],
      [block.test for block in inputs.blocks],
      [block.truth for block in inputs.blocks if block.truth is not None],
      without=config.without)


def publish(workdir: pathlib.Path, record: tables.Record) -> dict[str, Any]:
  """Writes summary, tables and report; returns the content of the summary."""
  from experiments.comparison import report  # Slow to import.

  content = workdir_lib.finite(text.summary(record))
  workdir_lib.write_json(workdir / "summary.json", content)
  workdir_lib.write_text(workdir / "table.md", text.markdown(record))
  report.write_report(workdir, record)
  text.print_tables(record)
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
