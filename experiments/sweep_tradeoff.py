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

from experiments.ranker import config as config_lib
from experiments.ranker import inputs as inputs_lib
from experiments.runs import configs
from experiments.runs import flags
from experiments.runs import workdir as workdir_lib
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import front as front_lib
from experiments.tradeoff import results
from experiments.tradeoff import weights as weights_lib


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


@workdir_lib.alone
def sweep(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains and measures; writes, shows and returns the summary of a sweep."""
  from experiments.tradeoff import page  # Slow to import, as is the report.
  from experiments.tradeoff import report

  training = config_lib.Config(**{
      field.name: getattr(config, field.name)
      for field in dataclasses.fields(config) if field.name != "num_weights"})
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    inputs = inputs_lib.read_inputs(training, workdir)
    test = inputs_lib.read_test(training, inputs, workdir)
    schema = inputs.model.schema
    swept = weights_lib.swept_objectives(schema, test.batch.labels)
    weights = weights_lib.swept_weights(
        swept, num_objectives=len(schema.names),
        num_weights=config.num_weights, seed=config.seed)
  inputs_lib.check_same_data(workdir, inputs, test)
  families = families_lib.Trainer(
      workdir, inputs, test.batch, learning_rate=config.learning_rate,
      seed=config.seed).families(weights, test.truth)
  names, labels = schema.names, test.batch.labels[:, swept]
  tradeoff = front_lib.measure_fronts(
      families, weights[:, swept], labels,
      test.batch.user if schema.user else None,
      names=[names[m] for m in swept],
      truth=None if test.truth is None else test.truth[:, swept],
      seed=config.seed)
  summary = workdir_lib.finite({
      **results.summary(tradeoff),
      "left_out": [name for m, name in enumerate(names) if m not in swept],
      "num_steps": inputs.num_steps, "config": dataclasses.asdict(config)})
  workdir_lib.write_json(workdir / "summary.json", summary)
  report.write_report(workdir, tradeoff, summary)
  page.write(workdir / "tradeoff.html", tradeoff, {
      name: family.terms[:, swept] for name, family in families.items()
      if family.terms is not None}, labels)
  results.print_table(tradeoff)
  print(f"{workdir / 'report.html'}  {workdir / 'tradeoff.html'}  "
        f"{workdir / 'summary.json'}")
  return summary


def main(config: Config) -> None:
  """Runs what the flags say."""
  sweep(config, flags.workdir(config, "sweep_tradeoff"))


if __name__ == "__main__":
  flags.run(main, Config, after_interrupt="the same command goes on after the "
            "last stack that was trained.")
