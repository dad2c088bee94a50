"""What a run of scoring is: the flags of these names."""

import dataclasses
import os

from experiments.runs import flags

ENGINES = ("local", "spark")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What is scored by what, and where the scores go."""

  artefact: str | None = flags.field(
      None, "What scores: a folder that python -m experiments.export wrote, or "
      "one version in it.")
  data: str | None = flags.field(
      None, "What is scored: a Parquet file, or a local folder of them.")
  out: str | None = flags.field(
      None, "Folder of the scored files, new or of the same command.")
  suffix: str = flags.field(
      "", "Appended to the names of the columns that are added, as in _new; "
      "needed if --data has columns of these names.")
  objective_weights: tuple[float, ...] | None = flags.field(
      None, "What each objective is worth, as in 1,0,2; those of the artefact "
      "if not given.", low=0)
  processes: int = flags.field(
      os.cpu_count() or 1, "Processes that score, of one thread each.", low=1,
      high=4096)
  shard: str = flags.field(
      "0/1", "Which part is scored here, as in 2/4 for the third of four "
      "hosts that share --out.")
  strict: bool = flags.field(
      False, "Stops at the first row that cannot be scored, instead of writing "
      "it to _rejected.")
  engine: str = flags.field(
      "local", "Where the processes run: on this machine, or where Spark has "
      "them run.", choices=ENGINES)
  spark_master: str | None = flags.field(
      None, "Master of --engine=spark; local[<processes>] if not given.")
