"""What is exported, and for requests of which sizes: the flags of `export`."""

import dataclasses

from experiments.runs import errors
from experiments.runs import flags

FORMATS = ("stablehlo", "onnx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How stages are exported; each field is a flag of the same name."""

  batch_sizes: tuple[int, ...] = flags.field(
      (1, 8, 64, 512, 4096), "Rows that are scored at once, of which a CPU "
      "takes about 1,000 at most. Fewer are padded, more are taken in pieces.",
      low=1, high=1_000_000)
  request_sizes: tuple[int, ...] = flags.field(
      (1, 8), "Requests that are answered at once. Fewer are padded, more are "
      "taken in pieces.", low=1, high=1_000_000)
  candidate_sizes: tuple[int, ...] = flags.field(
      (64, 512), "Candidates of a request. Fewer are padded, more than the "
      "last of these are refused.", low=1, high=1_000_000)
  max_shown: int = flags.field(
      40, "Most items shown before that a request may name.", low=0,
      high=10_000)
  to: str = flags.field(
      "stablehlo", "What the functions are written as; with onnx there is a "
      "score.onnx beside, for other runtimes.", choices=FORMATS)
  request_columns: tuple[str, ...] | None = flags.field(
      None, "Columns that a request gives once, for all its candidates; "
      "those of the user.")
  expires_days: int = flags.field(
      180, "Days until the artefact is no longer loaded. Functions in "
      "StableHLO are promised to run for half a year.", low=1, high=180)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Options):
  """The settings of an export; each field is a flag of the same name."""

  run: tuple[str, ...] | None = flags.field(
      None, "Workdir of a finished run; give the flag again for each stage of "
      "one artefact: train_predictor, train_auc, and select_slates or "
      "train_reranker.")
  out: str | None = flags.field(
      None, "Folder of the versions of the artefact.")


def check(config: Config) -> None:
  """Raises a `UserError` for flags that are missing."""
  if not config.run:
    raise errors.UserError(
        "name the workdir of a finished run with --run (several times for "
        "several stages).")
  if not config.out:
    raise errors.UserError("name the folder of the artefact with --out.")
