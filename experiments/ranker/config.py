"""What a ranker is trained with: the flags of `train_auc`."""

import dataclasses
from typing import Any

from experiments.ranker import objectives
from experiments.runs import configs
from experiments.runs import flags
from harmonrank_jax.ensemble import network

# What is ranked against what.
LISTS = ("batch", "user", "request")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.LogConfig):
  """What a run depends on: the flags of these names."""

  head: str = flags.field(
      "aligned", "What the network puts out: corrections to calibrated scores, "
      "or one score.", choices=network.HEADS)
  loss: str = flags.field(
      "soft_auc", "What is trained on.", choices=tuple(objectives.LOSSES))
  lists: str = flags.field(
      "batch", "What is ranked against what in a rank loss. Of lists the last "
      "step is kept.", choices=LISTS)
  relative_strength: float = flags.field(
      2.0, "Of the soft rank, in units of the spread of scores in lists over "
      "a list's size less 1; 1 to 3 trains best.", low=0.0, high=1e6)
  objective_weights: tuple[float, ...] | None = flags.field(
      None, "What the AUC of each objective is worth, in their order; equal if "
      "not given.")
  num_steps: int | None = flags.field(
      None, "Steps of training; ten passes over the training rows if not "
      "given, at most 10,000 steps.", low=1, high=100_000_000)
  learning_rate: float = flags.field(
      1e-2, "Of Adam, falling to 0 by a cosine.", low=0.0, high=1.0)
  num_members: int = flags.field(
      4, "Networks that are trained side by side; the score is the mean of "
      "theirs.", low=1, high=100)
  init_from: str | None = flags.field(
      None, "Workdir of an earlier run: training starts from its best "
      "parameters, with its vocabularies.")
  token_size: int = flags.field(
      16, "Width of the tokens, even.", low=2, high=4096)
  relation_aware: bool = flags.field(
      True, "Ablation: the relation-aware branch.")
  relation_agnostic: bool = flags.field(
      True, "Ablation: the relation-agnostic branch.")
  self_attention: bool = flags.field(
      True, "Ablation: self-attention over objectives.")
  slice_by: str | None = flags.field(
      None, "Profile column by whose values AUCs are shown, too.")
  export: str | None = flags.field(
      None, "Folder of an artefact that the run is exported to at its end, as "
      "python -m experiments.export does; tried before the first step.")

  @property
  def settings(self) -> dict[str, Any]:
    """What the run depends on: all but where it goes."""
    settings = dataclasses.asdict(self)
    del settings["export"]
    return settings
