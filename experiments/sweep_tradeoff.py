"""Sweeps the weights of objectives: the front between them, three ways.

    python -m experiments.sweep_tradeoff               # the embedded log
    python -m experiments.sweep_tradeoff --data=log.parquet

The log is one as train_auc takes it. At --num_weights vectors of weights (all
equal, each objective alone, halves of two, and draws from the simplex),
sum_m w_m AUC_m is maximised by

  - one network, trained once, that takes the weights when it scores;
  - separate networks, one trained for each vector of weights;
  - the closed form on Platt-calibrated scores, and tuned weighted sums and
    products.

In the workdir, report.html shows their fronts, and tradeoff.html is a page on
which weights are dragged. Each stack of networks is saved when it is trained;
the same command again trains the rest. Training rows are held in memory, two
millions of them at most.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from experiments.ranker import config as config_lib
from experiments.ranker import inputs as inputs_lib
from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import logs
from experiments.runs import workdir as workdir_lib
from experiments.tradeoff import front as tradeoff_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.LogConfig):
  """What a sweep depends on: the flags of these names."""

  num_weights: int = flags.field(
      24, "Vectors of weights: all equal, each objective alone, halves of two, "
      "and draws from the simplex, in this order.", low=1, high=10_000)
  num_steps: int | None = flags.field(
      None, "Steps of every training; ten passes over the training rows if not "
      "given, at most 10,000 steps.", low=1, high=100_000_000)
  learning_rate: float = flags.field(
      1e-2, "Of Adam, falling to 0 by a cosine.", low=0.0, high=1.0)


def sweep(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains, measures and writes everything there is to see of a sweep.

  Args:
    config: what the sweep depends on.
    workdir: where it goes; a sweep of the same configuration there is resumed.

  Returns:
    The content of `summary.json`.

  Raises:
    UserError: if the configuration does not fit the data or the workdir.
    DataError: if the data is not what it should be.
  """
  # Slow to import.
  from experiments.tradeoff import page as tradeoff_page
  from experiments.tradeoff import report as report

  workdir = pathlib.Path(workdir)
  training = config_lib.Config(**{
      field.name: getattr(config, field.name)
      for field in dataclasses.fields(config) if field.name != "num_weights"})
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    inputs = inputs_lib.read_inputs(training, workdir)
    test = inputs_lib.read_test(training, inputs)
    shown = _objectives_with_auc(inputs, test.batch.labels)
    weights = _weights(config, len(inputs.model.schema.names), shown)
  workdir_lib.check_same_data(
      workdir, [*inputs.sample, *inputs.validation, *test.batch])
  families = tradeoff_lib.Trainer(
      workdir, inputs, test.batch, learning_rate=config.learning_rate,
      seed=config.seed).families(weights, test.truth)
  schema = inputs.model.schema
  labels = test.batch.labels[:, shown]
  tradeoff = tradeoff_lib.measure(
      families, tuple(schema.names[m] for m in shown), weights[:, shown],
      labels, test.batch.user if schema.user else None,
      truth=None if test.truth is None else test.truth[:, shown],
      seed=config.seed)
  summary = workdir_lib.finite({
      **tradeoff_lib.summary(tradeoff),
      "left_out": [name for m, name in enumerate(schema.names)
                   if m not in shown],
      "num_steps": inputs.num_steps, "config": dataclasses.asdict(config)})
  workdir_lib.write_json(workdir / "summary.json", summary)
  report.write_report(workdir, tradeoff, summary)
  terms = {name: family.terms[:, shown] for name, family in families.items()
           if family.terms is not None}
  tradeoff_page.write(workdir / "tradeoff.html", tradeoff, terms, labels)
  tradeoff_lib.print_table(tradeoff)
  print(f"{workdir / 'report.html'}  {workdir / 'tradeoff.html'}  "
        f"{workdir / 'summary.json'}")
  return summary


def _objectives_with_auc(
    inputs: inputs_lib.Inputs, labels: np.ndarray
) -> list[int]:
  """Places of the objectives with an AUC on test rows `[N, M]`."""
  names = inputs.model.schema.names
  shown = [m for m, column in enumerate(labels.T)
           if (column != column[0]).any()]
  logs.warn_of_one_class(inputs.model.schema, labels, "test")
  left_out = [name for m, name in enumerate(names) if m not in shown]
  if left_out:
    errors.warn(f"the sweep leaves out {', '.join(left_out)}.")
  if len(shown) < 2:
    raise errors.UserError(
        "a trade-off needs at least two objectives with an AUC on test rows, "
        f"there is {', '.join(names[m] for m in shown) or 'none'}.")
  return shown


def _weights(
    config: Config, num_objectives: int, shown: list[int]
) -> np.ndarray:
  """`[K, M]`, 0 for objectives that are left out."""
  if config.num_weights <= len(shown):
    raise errors.UserError(
        f"--num_weights={config.num_weights}: {len(shown)} objectives need at "
        f"least {len(shown) + 1}, each of them alone and all equal.")
  weights = np.zeros((config.num_weights, num_objectives), np.float32)
  weights[:, shown] = tradeoff_lib.simplex_weights(
      len(shown), config.num_weights, seed=config.seed)
  return weights


def main(config: Config) -> None:
  """Runs what the flags say."""
  sweep(config, flags.workdir(config, "sweep_tradeoff"))


if __name__ == "__main__":
  flags.run(main, Config, after_interrupt="the same command goes on after the "
            "last stack that was trained.")
