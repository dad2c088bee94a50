"""Measures this library beside others, on this machine.

    python -m experiments.benchmark                     # the soft rank
    python -m experiments.benchmark --suite=train_auc   # a step of training
    python -m experiments.benchmark --suite=slates      # slates by a DPP
    python -m experiments.benchmark --suite=policy      # simulated days, PPO

Methods take turns, so that a load that comes and goes meets all of them. What
they compute is compared before their times are. Peers are used where they are
installed (requirements-bench.txt). Times and errors go to --workdir as
`benchmark.json`, with every sample and the machine, and as `report.html`.
"""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from experiments.benchmarks import policy as policy_benchmark
from experiments.benchmarks import policy_methods
from experiments.benchmarks import slates as slates_benchmark
from experiments.benchmarks import slates_methods
from experiments.benchmarks import soft_rank as soft_rank_benchmark
from experiments.benchmarks import timing as benchmarking
from experiments.benchmarks import train_auc as train_benchmark
from experiments.ranker import config as config_lib
from experiments.ranker import inputs as inputs_lib
from experiments.ranker import task as auc_task
from experiments.runs import configs
from experiments.runs import console
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import workdir as workdir_lib

# Slots of a list are counted in int32.
_MAX_ITEMS = 2**31 - 1
# A training by default, on enough rows to draw larger batches from.
_TRAINED = config_lib.Config(
    num_exposures=50_000, num_steps=train_benchmark.NUM_STEPS)
# Of the suite `policy`.
_SHAPE = policy_methods.Shape()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.SeedConfig):
  """What is measured: the flags of these names."""

  suite: str = flags.field(
      "soft_rank", "What is measured.",
      choices=("soft_rank", "train_auc", "slates", "policy"))
  sizes: tuple[str, ...] | None = flags.field(
      None, "Sizes to measure: lists x items of each for soft_rank, as in "
      "1x1000,128x1000; batch sizes for train_auc; requests x candidates x "
      "picks for slates, as in 256x500x20; users of a simulated batch for "
      "policy.")
  repeats: int = flags.field(
      11, "Samples of each time.", low=3, high=100_000)


def measure(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Measures and writes everything there is to see of it.

  Args:
    config: what is measured.
    workdir: where it goes; earlier results of the same configuration there
      are replaced.

  Returns:
    The content of `benchmark.json`.

  Raises:
    UserError: if a size is none, the workdir is another's, or what is compared
      does not compute the same.
  """
  from experiments.benchmarks import report as benchmarks  # Slow to import.

  workdir = pathlib.Path(workdir)
  suite = SUITES[config.suite]
  machine = benchmarking.machine()
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    content = workdir_lib.finite({
        "suite": config.suite, "machine": machine,
        "config": dataclasses.asdict(config), **suite(config, workdir)})
  workdir_lib.write_json(workdir / "benchmark.json", content)
  tables = TABLES[config.suite](content)
  benchmarks.write_report(workdir, content, tables)
  for line in content["left_out"]:
    print(line)
  _print_table(tables[0])
  print(f"{workdir / 'report.html'}  {workdir / 'benchmark.json'}")
  if machine["load_average"] > 0.5 * machine["cores"]:
    errors.warn(f"the load average was {machine['load_average']:.1f} on "
               f"{machine['cores']} cores; times are worth little.")
  return content


def _measure_soft_rank(
    config: Config, workdir: pathlib.Path
) -> dict[str, Any]:
  del workdir
  sizes = soft_rank_benchmark.SIZES
  if config.sizes:
    sizes = tuple(_size(text) for text in config.sizes)
  return soft_rank_benchmark.run(sizes, config.repeats, config.seed)


def _measure_train_auc(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  sizes = train_benchmark.SIZES
  if config.sizes:
    sizes = tuple(_batch_size(text) for text in config.sizes)
  trained = dataclasses.replace(_TRAINED, seed=config.seed)
  recipe = auc_task.Recipe(**{
      field.name: getattr(trained, field.name)
      for field in dataclasses.fields(auc_task.Recipe)})
  return train_benchmark.run(
      sizes, config.repeats, config.seed,
      inputs_lib.read_inputs(trained, workdir), recipe)


def _measure_slates(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  del workdir
  sizes = slates_benchmark.SIZES
  if config.sizes:
    sizes = tuple(_slate_size(text) for text in config.sizes)
  return slates_benchmark.run(
      sizes, None if config.sizes else slates_benchmark.FLOW, config.repeats,
      config.seed)


def _measure_policy(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  del workdir
  batches = policy_benchmark.BATCHES
  if config.sizes:
    batches = tuple(_batch_size(text) for text in config.sizes)
  return policy_benchmark.run(batches, config.repeats, config.seed, _SHAPE)


SUITES: dict[str, Callable[[Config, pathlib.Path], dict[str, Any]]] = {
    "soft_rank": _measure_soft_rank, "train_auc": _measure_train_auc,
    "slates": _measure_slates, "policy": _measure_policy}
TABLES = {"soft_rank": soft_rank_benchmark.tables,
          "train_auc": train_benchmark.tables,
          "slates": slates_benchmark.tables,
          "policy": policy_benchmark.tables}


def _size(text: str) -> tuple[int, int]:
  batch, _, size = text.partition("x")
  if not (batch.isdecimal() and size.isdecimal()
          and 1 <= int(batch) * int(size) <= _MAX_ITEMS):
    raise errors.UserError(
        f"--sizes={text}: expected lists x items of each, as in 128x1000.")
  return int(batch), int(size)


def _batch_size(text: str) -> int:
  if not (text.isdecimal() and 1 <= int(text) <= _MAX_ITEMS):
    raise errors.UserError(
        f"--sizes={text}: expected a batch size, as in 4096.")
  return int(text)


def _slate_size(text: str) -> tuple[int, int, int]:
  counts = text.split("x")
  if len(counts) == 3 and all(count.isdecimal() for count in counts):
    requests, candidates, picks = map(int, counts)
    # More picks than features have dimensions: rounding would choose them.
    if (1 <= picks <= min(candidates, slates_methods.NUM_FEATURES)
        and requests >= 1
        and requests * candidates * slates_methods.NUM_FEATURES <= _MAX_ITEMS):
      return requests, candidates, picks
  raise errors.UserError(
      f"--sizes={text}: expected requests x candidates of each x picks, of "
      f"which at most {slates_methods.NUM_FEATURES}, as in 256x500x20.")


def _print_table(table: benchmarking.Table) -> None:
  """The last thing on the terminal."""
  console.show(table.title, ("", *table.header[1:]), table.rows)
  print(table.note)


def main(config: Config) -> None:
  """Runs what the flags say."""
  measure(config, flags.workdir(config, f"benchmark_{config.suite}"))


if __name__ == "__main__":
  flags.run(main, Config, after_interrupt="nothing is written.")
