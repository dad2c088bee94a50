"""Slates of all requests: their candidates, their rules, their selection."""

import collections
from collections.abc import Sequence
import functools
import pathlib
import time
from typing import Any
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import progress as progress_lib
from experiments.runs import workdir as workdir_lib
from experiments.slates import config as config_lib
from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.data import checks
from harmonrank_jax.data import chunks as chunks_lib
from harmonrank_jax.data import generator
from harmonrank_jax.data import items as items_lib
from harmonrank_jax.data import kuairand_candidates
from harmonrank_jax.data import parquet
from harmonrank_jax.serving import models
from harmonrank_jax.serving import selector as selector_lib

_TITLE = "title"
_EMBEDDED_LIMITS = (
    "A request is a user of the embedded log, with all items of the week as "
    "candidates; the score is that of a click.")


class Inputs(NamedTuple):
  """Checked candidates and the rules of their slates."""

  candidates: candidates_lib.Candidates
  facts: candidates_lib.Facts
  rules: selector_lib.Rules
  limits: str  # What results do not show; empty for the user's own file.
  titles: tuple[parquet.ParquetLog, str] | None  # Where they are, the column.


class Selected(NamedTuple):
  """Counts of a pass over all requests, and a sample of the requests."""

  sample: chunks_lib.Chunk  # Requests to compare methods on.
  num_repeated: int  # Rows whose request repeats the item.
  num_lone: int  # Candidates without features.
  num_slots: int  # Slots that have an item.
  # Slots that have none, by what leaves them empty: "request" (it has no more
  # candidates), "pool", "quota" or "features".
  empty: dict[str, int]
  compiled: list[int]  # Request sizes that were compiled, ascending.
  seconds: float  # With reading and writing.


def read_inputs(config: config_lib.Config, workdir: pathlib.Path) -> Inputs:
  """Generates, converts or opens the candidates, and checks every row."""
  check_config(config)
  candidates, limits = _open(config, workdir / "prepared")
  workdir_lib.say(workdir, candidates.notes)
  facts = candidates.check()
  return Inputs(candidates, facts, make_rules(config, facts), limits,
                _titles(config))


def read_titles(
    config: config_lib.Config, inputs: Inputs, item_ids: pa.Array
) -> dict[Any, str]:
  """Titles of some items by id; none where the files have none."""
  if inputs.titles is None:
    return {}
  log, column = inputs.titles
  return items_lib.read_titles(log, config.item_column, column, item_ids)


def _titles(
    config: config_lib.Config
) -> tuple[parquet.ParquetLog, str] | None:
  """The file that has titles, that of items first, and their column."""
  if not config.data or config.format:
    return None
  name = config.title_column or _TITLE
  logs = [parquet.ParquetLog(path) for path in (config.items, config.data)
          if path]
  for log in logs:
    if {name, config.item_column} <= set(log.arrow_schema.names):
      return log, name
  if config.title_column:
    checks.check_names((name,), logs[0].arrow_schema.names, logs[0].files[0])
  return None


def check_config(config: config_lib.Config) -> None:
  """Raises for flags that contradict each other."""
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


def make_rules(
    config: config_lib.Config, facts: candidates_lib.Facts
) -> selector_lib.Rules:
  """Rules of all slates, with quotas in the order of `facts.categories`."""
  return selector_lib.Rules(
      num_selected=config.num_selected, window=config.window,
      quotas=_quotas("quota", config.quota, facts, others=facts.largest),
      pool_quotas=_quotas("pool_quota", config.pool_quota, facts, others=0),
      ridge=config.ridge, fill=config.fill)


def make_model(config: config_lib.Config, inputs: Inputs) -> models.Slates:
  """What selects the slates of other candidates as those of this run."""
  candidates = inputs.candidates
  assert candidates.num_features is not None
  return models.Slates(
      method=config.method, rules=inputs.rules, theta=config.theta,
      relevance=config.relevance, categories=tuple(inputs.facts.categories),
      num_features=candidates.num_features, columns=candidates.columns)


def write_slates(
    config: config_lib.Config, inputs: Inputs, drawn: np.ndarray,
    path: pathlib.Path,
) -> Selected:
  """Writes the slates of all requests; the sample is at places `[S]` drawn."""
  selector = selector_lib.Selector(config.method, inputs.rules)
  sample, num_repeated, num_lone, num_slots, done = [], 0, 0, 0, 0
  empty: collections.Counter[str] = collections.Counter()
  began = time.perf_counter()
  progress = progress_lib.Progress(
      inputs.facts.num_requests, 0, examples_per_step=1)
  try:
    with chunks_lib.slate_file(path) as write:
      for chunk in inputs.candidates.chunks(inputs.facts):
        picks = selector(
            chunk, relevance(config, chunk.scores),
            theta=config.theta)
        write(chunk, picks.rows, picks.gains)
        end = done + len(chunk.request_ids)
        sample.append(chunks_lib.requests_of(
            chunk, drawn[(drawn >= done) & (drawn < end)] - done))
        num_repeated += chunk.num_repeated
        num_lone += int((chunk.features == 0).all(axis=1).sum())
        num_slots += int((picks.rows >= 0).sum())
        empty += count_empty(inputs.rules, chunk, picks.rows)
        done = end
        progress.update(done)
  finally:
    progress.close()
  return Selected(
      chunks_lib.joined_chunks(sample), num_repeated, num_lone, num_slots,
      dict(empty), sorted(selector.compiled), time.perf_counter() - began)


def count_empty(
    rules: selector_lib.Rules, chunk: chunks_lib.Chunk, rows: np.ndarray
) -> collections.Counter[str]:
  """Empty slots of slates `[R, K]` by their cause, as in `Selected.empty`."""
  sizes = np.diff(chunk.starts)
  num_picks = (rows >= 0).sum(axis=1)
  missing = np.maximum(rows.shape[1] - sizes, 0)
  left_empty = rows.shape[1] - num_picks - missing
  causes = collections.Counter(request=int(missing.sum()))
  for request in np.flatnonzero(left_empty):
    own = slice(chunk.starts[request], chunk.starts[request + 1])
    if rules.pool_quotas is not None:
      cause = "pool"
    elif rules.quotas is None:
      cause = "features"
    else:
      count = functools.partial(np.bincount, minlength=len(rules.quotas))
      picked = count(chunk.categories[rows[request, rows[request] >= 0]])
      is_left = count(chunk.categories[own]) > picked
      cause = "features" if (is_left & (picked < rules.quotas)).any() else (
          "quota")
    causes[cause] += int(left_empty[request])
  return +causes


def relevance(config: config_lib.Config, scores: np.ndarray) -> np.ndarray:
  """Relevance `[N]` of scores `[N]`: their logarithm, or the score itself."""
  return np.log(scores) if config.relevance == "log" else scores


def _open(
    config: config_lib.Config, folder: pathlib.Path
) -> tuple[candidates_lib.Candidates, str]:
  """The reader of the candidates, and the limits of `Inputs`."""
  opened = functools.partial(
      candidates_lib.Candidates, positive_scores=config.relevance == "log")
  if config.format:
    assert config.data and config.items
    prepared = kuairand_candidates.make_candidates(
        config.data, config.items, folder, seed=config.seed,
        num_candidates=config.num_candidates)
    return opened(prepared.candidates, prepared.items,
                  items_lib.CandidateColumns()), prepared.limits
  if config.data:
    columns = items_lib.CandidateColumns(
        request=config.request_column, item=config.item_column,
        score=config.score_column, category=config.category_column,
        features=config.features_column)
    return opened(config.data, config.items, columns), ""
  embedded = _write_embedded(folder, config.embedded)
  return opened(*embedded, items_lib.CandidateColumns()), _EMBEDDED_LIMITS


def _write_embedded(
    folder: pathlib.Path, config: generator.LogConfig
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes candidates and items of the embedded log; a request is a user."""
  week = generator.generate_log(config)
  order = np.argsort(week.log["user_id"].to_numpy(), kind="stable")
  log = week.log.take(pa.array(order))
  paths = folder / "candidates.parquet", folder / "items.parquet"
  parquet.write_parquet(pa.table({
      "request_id": log["user_id"], "item_id": log["item_id"],
      "score": log["score_click"]}), paths[0])
  parquet.write_parquet(week.items, paths[1])
  return paths


def _quotas(
    flag: str, texts: Sequence[str] | None, facts: candidates_lib.Facts, *,
    others: int,
) -> np.ndarray | None:
  """Quotas `[C]` int32; `others` is that of categories that no text names."""
  if texts is None:
    return None
  names = list(facts.categories)
  counts = flags.numbers_by_name(
      flag, texts, names, others, kind=int, has_rest=True,
      expected=f"a number, or numbers by category as in {names[0]}=2")
  # No request has more candidates; this also keeps quotas within int32.
  quotas = np.array([min(count, facts.largest) for count in counts], np.int32)
  if not quotas.any():
    raise errors.UserError(f"--{flag}={','.join(texts)} leaves no candidate.")
  return quotas
