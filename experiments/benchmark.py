"""Measures this library beside others, on this machine.

    python -m experiments.benchmark                     # the soft rank
    python -m experiments.benchmark --suite=train_auc   # a step of training
    python -m experiments.benchmark --suite=slates      # slates by a DPP
    python -m experiments.benchmark --suite=policy      # simulated days, PPO
    python -m experiments.benchmark --suite=scoring     # files of rows
    python -m experiments.benchmark --suite=serving     # one request

Methods take turns, so that a temporary load affects all of them. What they
compute is compared before their times are. Peers are used where they are
installed (requirements-bench.txt). Times and errors go to --workdir as
`benchmark.json`, with every sample and the machine, and as `report.html`.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from experiments.benchmarks import policy
from experiments.benchmarks import scoring
from experiments.benchmarks import serving
from experiments.benchmarks import slates
from experiments.benchmarks import soft_rank
from experiments.benchmarks import timing as timing_lib
from experiments.benchmarks import train_auc
from experiments.runs import configs
from experiments.runs import console
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import workdir as workdir_lib

SUITES: dict[str, timing_lib.Suite] = {
    "soft_rank": soft_rank, "train_auc": train_auc, "slates": slates,
    "policy": policy, "scoring": scoring, "serving": serving}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.SeedConfig):
  """What is measured: the flags of these names."""

  suite: str = flags.field(
      "soft_rank", "What is measured.", choices=tuple(SUITES))
  sizes: tuple[str, ...] | None = flags.field(
      None, "Sizes to measure: lists x items of each for soft_rank, as in "
      "1x1000,128x1000; batch sizes for train_auc; requests x candidates x "
      "picks for slates, as in 256x500x20; users of a simulated batch for "
      "policy; rows of a file for scoring; candidates for serving.")
  repeats: int = flags.field(11, "Samples of each time.", low=3, high=100_000)


@workdir_lib.alone
def measure(
    config: Config, workdir: pathlib.Path, *,
    suites: Mapping[str, timing_lib.Suite] = SUITES,
) -> dict[str, Any]:
  """Measures; writes, shows and returns the content of `benchmark.json`."""
  from experiments.benchmarks import report  # Slow to import.

  suite = suites[config.suite]
  sizes = [suite.parse_size(text) for text in config.sizes or ()]
  machine = timing_lib.machine()
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    content = workdir_lib.finite({
        "suite": config.suite, "machine": machine,
        "config": dataclasses.asdict(config),
        **suite.run(sizes or None, repeats=config.repeats, seed=config.seed,
                    workdir=workdir)})
  workdir_lib.write_json(workdir / "benchmark.json", content)
  tables = suite.tables(content)
  report.write_report(workdir, content, tables)
  for line in content["left_out"]:
    print(line)
  console.show(tables[0].title, ("", *tables[0].header[1:]), tables[0].rows)
  print(tables[0].note)
  print(f"{workdir / 'report.html'}  {workdir / 'benchmark.json'}")
  if machine["load_average"] > 0.5 * machine["cores"]:
    errors.warn(f"the load average was {machine['load_average']:.1f} on "
                f"{machine['cores']} cores; times are worth little.")
  return content


def main(config: Config) -> None:
  """Runs what the flags say."""
  measure(config, flags.workdir(config, f"benchmark_{config.suite}"))


if __name__ == "__main__":
  flags.run(main, Config, after_interrupt="nothing is written.")
