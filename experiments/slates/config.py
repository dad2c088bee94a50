"""The flags of `select_slates`."""

import dataclasses

from experiments.runs import configs
from experiments.runs import flags
from harmonrank_jax.diversity import arguments
from harmonrank_jax.serving import selector


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.WorldConfig):
  """The settings of a run; each field is a flag of the same name."""

  items: str | None = flags.field(
      None, "Table of items with what --data lacks of category and features, "
      "Parquet; with --format, the public log's table of items.")
  format: str | None = flags.field(
      None, "A public log as released: its users are requests, its items "
      "candidates, with scores that are a demonstration.",
      choices=("kuairand",))
  method: str = flags.field(
      "dpp", "How slates are selected.", choices=selector.METHODS)
  theta: float = flags.field(
      0.7, "From 0, diversity alone, to 1, relevance alone (below 1 for the "
      "dpp).", low=0.0, high=1.0)
  num_selected: int = flags.field(
      10, "Slots of a slate.", low=1, high=100_000)
  window: int | None = flags.field(
      None, "Slots among which a slate is to be varied; all if not given.",
      low=1, high=100_000)
  quota: tuple[str, ...] | None = flags.field(
      None, "At most so many of a category in a slate: a number, or numbers by "
      "category, as in 3 or phones=2,books=1 or 3,phones=5.")
  pool_quota: tuple[str, ...] | None = flags.field(
      None, "Likewise what of each category comes into a pool, by a DPP in "
      "each; the slate is made from the pool. What a category lacks goes to "
      "others; of those not named there is none.")
  ridge: float | None = flags.field(
      None, "The DPP's kernel becomes ridge * similarity + (1 - ridge) * "
      "identity; 1 if not given.", low=0.0, high=1.0)
  fill: str = flags.field(
      "relevance", "What the DPP puts into slots when all candidates left "
      "repeat what is there: the most relevant of them, or nothing.",
      choices=arguments.FILLS)
  relevance: str = flags.field(
      "log", "What of the score is the relevance.", choices=("log", "raw"))
  request_column: str = flags.field("request_id", "Column of the request.")
  item_column: str = flags.field("item_id", "Column of the item.")
  score_column: str = flags.field("score", "Column of the score.")
  category_column: str = flags.field("category", "Column of the category.")
  features_column: str | None = flags.field(
      None, "Column of lists of features; features, or else all embedding_*, "
      "if not given.")
  title_column: str | None = flags.field(
      None, "Column of titles of items, of --items or --data, to show in "
      "slates.html; title, if there is such a column, if not given.")
  num_candidates: int = flags.field(
      500, "Items drawn for each user with --format.", low=1, high=1_000_000)
