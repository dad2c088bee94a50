"""What a policy is trained and judged with: the flags of `train_reranker`."""

import dataclasses
from typing import NamedTuple

from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import flags
from harmonrank_jax.reranker import score_calibration
from harmonrank_jax.reranker import simulator as simulator_lib

CONSTRAINTS = ("fixed", "ascent", "pi", "pid")
# Calibrations by name; each is also a policy without corrections.
CALIBRATIONS: dict[str, score_calibration.CalibrationFn] = {
    "uncalibrated": score_calibration.uncalibrated,
    "intercepts": score_calibration.intercepts,
    "platt": score_calibration.platt,
    "isotonic": score_calibration.isotonic_by_category,
    "platt_by_hour": score_calibration.platt_by_hour,
}


class Scale(NamedTuple):
  """How much is trained and how long it is judged."""

  num_seeds: int  # Learners of every training, each judged on days of its own.
  num_updates: int  # Updates of every training.
  num_days: int  # Simulated for each seed and world.
  users_per_day: int


SCALES = {"quick": Scale(3, 30, 8, 16), "full": Scale(5, 100, 64, 32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.DataConfig):
  """What a run depends on: the flags of these names."""

  items: str | None = flags.field(
      None, "Table of items with category and features, Parquet, if --data "
      "lacks them.")
  preset: str = flags.field(
      "modern", "How PPO learns: with today's usual additions, or exactly as "
      "in the paper.", choices=("modern", "paper"))
  evaluation: str = flags.field(
      "quick", "How much is trained and judged: " + "; ".join(
          f"{name}, {s.num_seeds} seeds, {s.num_updates} updates, {s.num_days} "
          f"days of {s.users_per_day} users in every world"
          for name, s in SCALES.items()) + ".", choices=tuple(SCALES))
  base: str = flags.field(
      "platt_by_hour", "The scores that the policy corrects; uncalibrated is "
      "from scratch.", choices=tuple(CALIBRATIONS))
  layout: str = flags.field(
      "category", "What an action is: a correction for each category, for each "
      "slot and category, or a level and a slope over slots for each category.",
      choices=simulator_lib.LAYOUTS)
  relevance: str = flags.field(
      "pctr", "Whether relevance is the predicted click, or click with "
      "conversion.", choices=("pctr", "pctcvr"))
  theta: float = flags.field(
      0.8, "Weight of relevance in the DPP, between 0 and 1.", low=0.0,
      high=1.0)
  num_slots: int = flags.field(10, "Slots of a slate.", low=1, high=100)
  num_candidates: int = flags.field(
      60, "Candidates of a request.", low=1, high=100_000)
  max_requests: int = flags.field(
      1, "Largest number of requests of a user in a window of 15 minutes.",
      low=1, high=8)
  scope: str = flags.field(
      "request", "What is diversified: the slate of a request by itself, or "
      "all slates of a window together.", choices=simulator_lib.SCOPES)
  spread: int | None = flags.field(
      3, "Largest number of items of one category in a row.", low=1)
  feedback_rule: float = flags.field(
      1.0, "Slots that a category moves up after a click and down after a "
      "dismissal; 0 for none.", low=0.0, high=100.0)
  constraint: str = flags.field(
      "pi", "How the multiplier of the diversity constraint moves.",
      choices=CONSTRAINTS)
  diversity: float | None = flags.field(
      None, "Least mean log det S_Y / K of slates; that of today's "
      "uncalibrated slates if not given.", high=0.0)
  diversity_quantile: float | None = flags.field(
      None, "Sets the limit at this quantile of users' daily cost today, "
      "instead of the mean.", low=0.0, high=1.0)
  multiplier: float | None = flags.field(
      None, "Multiplier of the constraints at the start, reward for a unit of "
      "cost; throughout, with --constraint=fixed. If not given, what diversity "
      "costs the policy that is corrected, and 0 for exposure floors.",
      low=0.0, high=1e9)
  exposure_floors: tuple[str, ...] | None = flags.field(
      None, "Least shares of slots by category, as in books=0.05,toys=0.03: "
      "more constraints for the policy.")
  category_values: tuple[str, ...] | None = flags.field(
      None, "What a click is worth by category, as in phones=2; 1 if not "
      "named.")
  discount: float = flags.field(
      0.5, "Discount of rewards and costs, per window.", low=0.0, high=1.0)
  num_updates: int | None = flags.field(
      None, "Updates of every policy that is trained; as --evaluation says if "
      "not given.", low=1, high=1_000_000)
  num_envs: int = flags.field(
      128, "Users side by side in training.", low=1, high=65_536)
  learning_rate: float = flags.field(
      1e-3, "Learning rate of the actor.", low=0.0, high=1.0)
  utc_offset_hours: float = flags.field(
      0.0, "Added to times for the hour of the day.", low=-24.0, high=24.0)
  user_column: str = flags.field("user_id", "Column of the user.")
  request_column: str = flags.field("request_id", "Column of the request.")
  item_column: str = flags.field("item_id", "Column of the item.")
  time_column: str = flags.field("time_ms", "Column of the time.")
  position_column: str = flags.field("position", "Column of the position.")
  click_column: str = flags.field("click", "Column of the click.")
  score_column: str = flags.field("score_click", "Column of the score.")
  category_column: str = flags.field("category", "Column of the category.")
  features_column: str | None = flags.field(
      None, "Column of lists of features; features, or else all embedding_*, "
      "if not given.")
  dismissed_column: str | None = flags.field(
      None, "Column of dismissals, 0 or 1.")
  value_score_column: str | None = flags.field(
      None, "Column of predicted probabilities of a click with conversion.")
  random_column: str | None = flags.field(
      None, "Column of exposures drawn at random, 0 or 1.")

  @property
  def scale(self) -> Scale:
    """What `evaluation` names."""
    return SCALES[self.evaluation]


def check(config: Config) -> None:
  """Raises a `UserError` for flags that do not go together."""
  if config.items and not config.data:
    raise errors.UserError("--items needs --data.")
  if not 0 < config.theta < 1:
    raise errors.UserError(
        f"--theta={config.theta} must be between 0 and 1, both excluded: the "
        "knob moves its log-odds.")
  if config.diversity is not None and config.diversity_quantile is not None:
    raise errors.UserError(
        "--diversity and --diversity_quantile both set the constraint; give "
        "one.")
  if (config.constraint == "fixed" and config.exposure_floors
      and config.multiplier is None):
    raise errors.UserError(
        "--constraint=fixed with --exposure_floors needs --multiplier: no "
        "price of a floor is known.")
  if (config.relevance == "pctcvr" and config.data
      and not config.value_score_column):
    raise errors.UserError(
        "--relevance=pctcvr needs --value_score_column, the predicted "
        "probability of a click with conversion.")
