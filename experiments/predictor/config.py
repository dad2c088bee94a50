"""What a predictor is trained with: the flags of `train_predictor`."""

import dataclasses

from experiments.runs import configs
from experiments.runs import flags

FORMATS = ("kuairand",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.LogConfig):
  """What a run depends on: the flags of these names."""

  format: str | None = flags.field(
      None, "A public log as released, which is prepared.", choices=FORMATS)
  users: str | None = flags.field(
      None, "Table of users for --format=kuairand, CSV or Parquet.")
  items: str | None = flags.field(
      None, "Table of items for --format=kuairand, CSV or Parquet.")
  domain: tuple[str, ...] | None = flags.field(
      None, "Categorical columns that say in which domain a row is, for the "
      "gates of EPNet; those of the --format if not given.")
  epnet: bool = flags.field(True, "Gates of the embedding by the domain.")
  ppnet: bool = flags.field(True, "Gates of the towers by user and item.")
  num_folds: int = flags.field(
      5, "Folds of the out-of-fold scores.", low=2, high=100)
  num_steps: int = flags.field(
      300, "Steps of training.", low=1, high=100_000_000)
  learning_rate: float = flags.field(
      3e-3, "Of Adam, falling to 0 by a cosine.", low=0.0, high=1.0)
  embedding_learning_rate: float | None = flags.field(
      None, "Likewise, of the embeddings; a smaller one overfits less. 3e-5 "
      "with --format=kuairand and 1e-2 otherwise if not given.", low=0.0,
      high=1.0)
