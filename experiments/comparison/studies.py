"""What is compared with what: methods, conditions, studies, and the flags."""

import dataclasses
import sys
from typing import Any

from experiments.ranker import config as ranker_config
from experiments.ranker import objectives
from experiments.runs import configs
from experiments.runs import flags
from harmonrank_jax.ensemble import network

CEILING = "ceiling"
AVERAGE = "_average"
# The network that `train_auc` trains by default, and how it scores rows: by the
# mean of several of them.
DEFAULT_NETWORK = f"{ranker_config.Config.head}_{ranker_config.Config.loss}"
DEFAULT = DEFAULT_NETWORK + AVERAGE
# Methods without a network, of `baselines.formula_scores`.
FORMULAS = ("equal_sum", "tuned_sum", "tuned_product", "closed_form")
# A step of the loss over all pairs of rows is not tried with more pairs.
_MAX_PAIRS = 4096**2


@dataclasses.dataclass(frozen=True)
class Method:
  """A network to train."""

  # "baseline", a method of others; "ours"; or "ablation", the default with one
  # part taken out.
  kind: str
  head: str  # as in `HarmonRankConfig`
  loss: str  # one of `objectives.LOSSES`
  # Other fields of its `HarmonRankConfig`, as pairs.
  switches: tuple[tuple[str, Any], ...] = ()

  def network(self, num_objectives: int) -> network.HarmonRankConfig:
    """Its network for a number of objectives."""
    return network.HarmonRankConfig(
        num_objectives, head=self.head, **dict(self.switches))


METHODS = {
    **{f"score_{loss}": Method(
        "ours" if loss == "soft_auc" else "baseline", "score", loss)
       for loss in objectives.LOSSES},
    "mixture_of_experts": Method(
        "baseline", "score", "balanced_bce",
        (("fusion", "mixture_of_experts"),)),
    # The default trains on cross-entropy and the rank loss: without the rank
    # loss, "bce" is what is left of it.
    **{f"aligned_{loss}": Method(
        "ablation" if loss == "bce" else "ours", "aligned", loss)
       for loss in objectives.LOSSES},
    **{f"without_{part}": Method(
        "ablation", "aligned", "soft_auc", ((part, False),))
       for part in ("relation_aware", "relation_agnostic", "self_attention")}}


@dataclasses.dataclass(frozen=True)
class Condition:
  """How methods are trained before they are compared."""

  name: str  # of its folder, and in tables
  thinning: int = 1  # one positive of this many is left to train on
  batch_size: int | None = None  # None = that of the configuration
  lists: str = "batch"  # or "user", "request": what is ranked against what


@dataclasses.dataclass(frozen=True)
class Study:
  """Conditions and the methods to train in each."""

  conditions: tuple[Condition, ...]
  methods: tuple[str, ...]

  def trained(self, batch_size: int) -> tuple[str, ...]:
    """Methods that are trained: not all pairs of a large batch."""
    return tuple(
        name for name in self.methods
        if METHODS[name].loss != "pairwise" or batch_size**2 <= _MAX_PAIRS)

  def home(self, condition: Condition, name: str) -> Condition:
    """The condition whose training counts: one for losses without lists."""
    if (condition.lists == "batch"
        or METHODS[name].loss in objectives.RANK_LOSSES):
      return condition
    return next(
        other for other in self.conditions if other == dataclasses.replace(
            condition, name=other.name, lists="batch"))


# More than there are: a step takes every row of the training part.
_FULL_BATCH = 2**31
_FEW = ("score_balanced_bce", "score_pairwise", "score_soft_auc",
        "mixture_of_experts", "aligned_bce", DEFAULT_NETWORK)
STUDIES = {
    "methods": Study((Condition("all"),), tuple(METHODS)),
    "skew": Study(
        tuple(Condition(f"thinned_{k}x", thinning=k) for k in (1, 10, 100)),
        ("score_bce", *_FEW)),
    "batch_size": Study(
        (*(Condition(f"batch_{size}", batch_size=size)
           for size in (256, 1024, 4096, 16384)),
         Condition("batch_full", batch_size=_FULL_BATCH)), _FEW),
    "lists": Study(
        tuple(Condition(f"lists_{lists}", lists=lists)
              for lists in ("batch", "user", "request")),
        ("score_bce", *_FEW)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.LogConfig):
  """What a comparison depends on: the flags of these names."""

  study: str = flags.field(
      "methods", "What is compared: all methods; some with thinned positives, "
      "by batch size, or by what is ranked against what.",
      choices=tuple(STUDIES))
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
      2.0, "Of the soft rank, in units of the spread of scores in lists over "
      "a list's size less 1.", low=0.0, high=1e6)
  without: str | None = flags.field(
      None, "Objective without which the sum is shown as well.")


def averaged(name: str) -> bool:
  """Whether the average is compared: of baselines, the paper's, the default."""
  return name == DEFAULT_NETWORK or METHODS[name].head == "score"


def kind_of(name: str) -> str:
  """The kind of a method: "baseline", "ours", "ablation" or "ceiling"."""
  if name == CEILING:
    return "ceiling"
  if name in FORMULAS:
    return "baseline"
  return METHODS[name.removesuffix(AVERAGE)].kind
