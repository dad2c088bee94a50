"""Selects slates that are relevant and varied from scored candidates.

    python -m experiments.select_slates                 # the embedded log
    python -m experiments.select_slates --data=scored.parquet
    python -m experiments.select_slates --data=scored.parquet \\
        --items=items.parquet --method=dpp --theta=0.8 --quota=3
    python -m experiments.select_slates --format=kuairand \\
        --data=$KUAIRAND --items=$KUAIRAND

A row of --data is a candidate: `request_id`, `item_id`, `score`, `category`
and its features, a list of numbers in `features` or a number in each
`embedding_*` (other names: --request_column and so on). What it lacks of the
last two a table of --items has. The rows of a request must stand together. An
item that comes twice in a request is there once, with its best score.
Relevance is log(score), as is right for probabilities; --relevance=raw takes
scores as they are.

In the workdir, slates.parquet holds `request_id`, `slot` (from 0), `item_id`
and `gain`, the key the item was picked by; a slot for which no candidate is
left has no row. slates.html shows slates of a few requests for every method
and theta, report.html what each method gives up for diversity. The same
command again makes everything anew.

Two passes are made over the rows, one to check them. Memory holds a chunk of
requests and a row group, not all of them. Requests are padded to powers of
two, so that there are few compiles.

Without --data, a request is a user of the embedded log, the candidates are all
items this user was shown within the week (one page shows too few to choose
from), and the score is that of a click.
"""

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import time
from typing import Any
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import progress as progress_lib
from experiments.runs import workdir as workdir_lib
from experiments.slates import comparison as slate_comparison
from experiments.slates import page as slate_page
from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.data import generator
from harmonrank_jax.data import items as item_columns
from harmonrank_jax.data import kuairand
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import selector as slates

FORMATS = ("kuairand",)
RELEVANCES = ("log", "raw")
_EMBEDDED_SCORE = "score_click"
_EMBEDDED_LIMITS = (
    "A request is a user of the embedded log, with all items of the week as "
    "candidates; the score is that of a click.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.WorldConfig):
  """What slates depend on: the flags of these names."""

  items: str | None = flags.field(
      None, "Table of items with what --data lacks of category and features, "
      "Parquet; with --format, the public log's table of items.")
  format: str | None = flags.field(
      None, "A public log as released: its users are requests, its items "
      "candidates, with scores that are a demonstration.", choices=FORMATS)
  method: str = flags.field(
      "dpp", "How slates are selected.", choices=slates.METHODS)
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
      None, "Of the dpp: the kernel becomes ridge * similarity + (1 - ridge) * "
      "identity; 1 if not given.", low=0.0, high=1.0)
  fill: str = flags.field(
      "none", "Of the dpp: what comes into slots when all candidates left "
      "repeat what is there.", choices=slates.FILLS)
  relevance: str = flags.field(
      "log", "What of the score is the relevance.", choices=RELEVANCES)
  request_column: str = flags.field("request_id", "Column of the request.")
  item_column: str = flags.field("item_id", "Column of the item.")
  score_column: str = flags.field("score", "Column of the score.")
  category_column: str = flags.field("category", "Column of the category.")
  features_column: str | None = flags.field(
      None, "Column of lists of features; features, or else all embedding_*, "
      "if not given.")
  num_candidates: int = flags.field(
      500, "Items drawn for each user with --format.", low=1, high=1_000_000)


class Source(NamedTuple):
  """Where candidates come from, and what results on them do not show."""

  candidates: candidates_lib.Candidates
  limits: str


def select(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Selects slates and writes everything there is to see of them.

  Args:
    config: what they depend on.
    workdir: where they go; earlier ones of the same configuration there are
      replaced.

  Returns:
    The content of `summary.json`.

  Raises:
    UserError: if the configuration does not fit the data or the workdir.
    DataError: if the data is not what it should be.
  """
  workdir = pathlib.Path(workdir)
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    _check(config)
    source = read_source(config, workdir)
    facts = source.candidates.check()
    rules = make_rules(config, facts)
  print(f"{facts.num_requests:,} requests, {facts.num_rows:,} candidates, "
        f"{facts.largest:,} at most; {len(facts.categories):,} categories, "
        f"{source.candidates.num_features} features", flush=True)
  selected = _select(config, workdir / "slates.parquet", source.candidates,
                     facts, rules)
  comparison = slate_comparison.compare(
      selected.sample, _relevance(config, selected.sample.scores),
      len(facts.categories), rules, config.theta, config.seed)
  return publish(config, workdir, source, facts, selected, comparison)


class Selected(NamedTuple):
  """What came of a run over all requests.

  Attributes:
    sample: the requests to compare methods on.
    num_repeated: rows left out because their item came twice.
    num_slots: that have an item.
    compiled: sizes of requests a compile was made for.
    seconds: that selection took, with reading and writing.
  """

  sample: candidates_lib.Chunk
  num_repeated: int
  num_slots: int
  compiled: list[int]
  seconds: float


def read_source(config: Config, workdir: pathlib.Path) -> Source:
  """Generates, prepares or opens the candidates."""
  folder = workdir / "prepared"
  opened = functools.partial(
      candidates_lib.Candidates, positive_scores=config.relevance == "log")
  if config.format:
    assert config.data and config.items
    prepared = kuairand.make_candidates(
        config.data, config.items, folder, seed=config.seed,
        num_candidates=config.num_candidates)
    return Source(opened(prepared.candidates, prepared.items,
                         item_columns.Columns()), prepared.limits)
  columns = item_columns.Columns(
      config.request_column, config.item_column, config.score_column,
      config.category_column, config.features_column)
  if config.data:
    return Source(opened(config.data, config.items, columns), "")
  embedded = _write_embedded(folder, generator.LogConfig(
      config.num_exposures, config.log_seed, config.world))
  return Source(opened(*embedded, item_columns.Columns()), _EMBEDDED_LIMITS)


def _write_embedded(
    folder: pathlib.Path, config: generator.LogConfig
) -> tuple[pathlib.Path, pathlib.Path]:
  """Every user of the embedded log with the items of the week."""
  week = generator.generate_log(config)
  order = np.argsort(week.log["user_id"].to_numpy(), kind="stable")
  log = week.log.take(pa.array(order))
  paths = folder / "candidates.parquet", folder / "items.parquet"
  parquet.write_parquet(pa.table({
      "request_id": log["user_id"], "item_id": log["item_id"],
      "score": log[_EMBEDDED_SCORE]}), paths[0])
  parquet.write_parquet(week.items, paths[1])
  return paths


def make_rules(config: Config, facts: candidates_lib.Facts) -> slates.Rules:
  """What holds for the slates of all requests."""
  quota = pool_quota = None
  if config.quota is not None:
    quota = _quotas("quota", config.quota, facts, others=facts.largest)
  if config.pool_quota is not None:
    pool_quota = _quotas("pool_quota", config.pool_quota, facts, others=0)
  return slates.Rules(
      config.num_selected, config.window, quota, pool_quota, config.ridge,
      config.fill)


def _quotas(
    flag: str, texts: Sequence[str], facts: candidates_lib.Facts, *,
    others: int,
) -> np.ndarray:
  """`[C]` int32 from "3" (of every category) and "phones=2" (of this one)."""
  places = {name: place for place, name in enumerate(facts.categories)}
  named: dict[str, int] = {}
  for text in texts:
    name, is_named, number = text.rpartition("=")
    if not number.isdecimal():
      raise errors.UserError(
          f"--{flag}={','.join(texts)}: expected a number, or numbers by "
          f"category as in {next(iter(places))}=2, got {text!r}.")
    # No request has more.
    count = min(int(number), facts.largest)
    if not is_named:
      others = count
    elif name not in places:
      raise errors.UserError(
          f"--{flag}: no candidate is of category {name!r}"
          f"{schema_lib.nearest(name, places)}.")
    else:
      named[name] = count
  quotas = np.full(len(places), others, np.int32)
  for name, count in named.items():
    quotas[places[name]] = count
  if not quotas.any():
    raise errors.UserError(f"--{flag}={','.join(texts)} leaves no candidate.")
  return quotas


def _check(config: Config) -> None:
  """Flags that do not go together."""
  if config.format and not (config.data and config.items):
    raise errors.UserError(
        f"--format={config.format} needs --data, the log, and --items, the "
        "table of videos.")
  if config.items and not config.data:
    raise errors.UserError("--items needs --data.")
  if config.theta == 1 and (config.method == "dpp" or config.pool_quota):
    raise errors.UserError(
        "--theta=1 is relevance alone, which is --method=top_k; the DPP, and "
        "the pool of --pool_quota, take less.")


def _relevance(config: Config, scores: np.ndarray) -> np.ndarray:
  return np.log(scores) if config.relevance == "log" else scores


def _select(
    config: Config, path: pathlib.Path,
    candidates: candidates_lib.Candidates, facts: candidates_lib.Facts,
    rules: slates.Rules,
) -> Selected:
  """Selects and writes, chunk by chunk."""
  drawn = slate_comparison.draw(facts, config.num_selected, config.seed)
  selector = slates.Selector(config.method, rules)
  sample, num_repeated, num_slots, done = [], 0, 0, 0
  began = time.perf_counter()
  progress = progress_lib.Progress(
      facts.num_requests, 0, examples_per_step=1)
  try:
    with slates.slate_file(path) as write:
      for chunk in candidates.chunks(facts):
        picks = selector(
            chunk, _relevance(config, chunk.scores), config.theta)
        write(chunk, picks)
        end = done + len(chunk.request_ids)
        sample.append(candidates_lib.requests_of(
            chunk, drawn[(drawn >= done) & (drawn < end)] - done))
        num_repeated += chunk.num_repeated
        num_slots += int((picks.rows >= 0).sum())
        done = end
        progress.update(done)
  finally:
    progress.close()
  return Selected(
      candidates_lib.joined_chunks(sample), num_repeated, num_slots,
      sorted(selector.compiled), time.perf_counter() - began)


def publish(
    config: Config, workdir: pathlib.Path, source: Source,
    facts: candidates_lib.Facts, selected: Selected,
    comparison: slate_comparison.Comparison,
) -> dict[str, Any]:
  """Writes the summary, the report and the page; shows the table.

  Returns:
    The content of `summary.json`.
  """
  # Slow to import.
  from experiments.slates import report as slates_report

  num_requests, num_selected = facts.num_requests, config.num_selected
  summary = {
      "num_requests": num_requests, "num_candidates": facts.num_rows,
      "num_repeated": selected.num_repeated, "largest": facts.largest,
      "num_categories": len(facts.categories),
      "num_features": source.candidates.num_features,
      "num_slots": selected.num_slots,
      "num_empty_slots": num_requests * num_selected - selected.num_slots,
      "compiled_sizes": selected.compiled,
      "num_compared": len(comparison.chunk.request_ids),
      "thetas": slate_comparison.THETAS,
      "methods": {
          method: {name: value._asdict() for name, value in values.items()}
          for method, values in comparison.table.items()},
      "seconds": selected.seconds, "limits": source.limits,
      "config": dataclasses.asdict(config)}
  summary = workdir_lib.finite(summary)
  workdir_lib.write_json(workdir / "summary.json", summary)
  slates_report.write_report(
      workdir, comparison, list(facts.categories), summary)
  slate_page.write(workdir / "slates.html", comparison,
                   list(facts.categories), config.method, source.limits)
  _say(selected, summary)
  slate_comparison.print_table(comparison)
  print(f"{workdir / 'slates.html'}  {workdir / 'report.html'}  "
        f"{workdir / 'slates.parquet'}  {workdir / 'summary.json'}")
  return summary


def _say(selected: Selected, summary: dict[str, Any]) -> None:
  """What happened, in a few lines."""
  if selected.num_repeated:
    print(f"{selected.num_repeated:,} candidates left out: their request has "
          "the item already, with a score that is better or as good")
  sizes = ", ".join(map(str, selected.compiled))
  print(f"{summary['num_requests']:,} slates in {selected.seconds:.1f} s, "
        f"{len(selected.compiled)} compiled (requests padded to {sizes})")
  if summary["num_empty_slots"]:
    print(f"{summary['num_empty_slots']:,} of "
          f"{summary['num_empty_slots'] + selected.num_slots:,} slots are "
          "empty: no candidate was left for them")


def main(config: Config) -> None:
  """Runs what the flags say."""
  select(config, flags.workdir(config, "select_slates"))


if __name__ == "__main__":
  flags.run(main, Config, after_interrupt="no slates are written.")
