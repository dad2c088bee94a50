"""What a comparison depends on: the flags of `compare`."""

import dataclasses
import sys

from experiments.comparison import studies
from experiments.runs import configs
from experiments.runs import flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.LogConfig):
  """What a comparison depends on: the flags of these names."""

  study: str = flags.field(
      "methods", "What is compared: all methods; some with thinned positives, "
      "by batch size, or by what is ranked against what.",
      choices=tuple(studies.STUDIES))
  methods: tuple[str, ...] | None = flags.field(
      None, "Networks to train, beside the formulas; all of the study if not "
      "given.")
  num_seeds: int = flags.field(
      5, "Seeds of each network, from --seed on.", low=1, high=100)
  blocks: int = flags.field(
      1, "Parts of the later half of the rows, each tested on what came "
      "before; 1 is the split of train_auc.", low=1, high=100)
  passes: float = flags.field(
      6.0, "Over the training rows, for every network.", low=0.0, high=1e4)
  learning_rates: tuple[float, ...] = flags.field(
      (0.003, 0.01), "Of Adam, to choose from on validation rows.",
      low=sys.float_info.min, high=1.0)
  relative_strength: float = flags.field(
      2.0, "Of the soft rank, in units of std(scores) / n.", low=0.0, high=1e6)
  without: str | None = flags.field(
      None, "Objective without which the sum is shown as well.")
