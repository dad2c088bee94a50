"""The candidates that slates are selected from, and the rules they follow."""

from collections.abc import Sequence
import functools
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.runs import errors
from experiments.runs import flags
from experiments.slates import config as config_lib
from harmonrank_jax.data import candidates as candidates_lib
from harmonrank_jax.data import generator
from harmonrank_jax.data import items as items_lib
from harmonrank_jax.data import kuairand_candidates
from harmonrank_jax.data import parquet
from harmonrank_jax.serving import selector

_EMBEDDED_SCORE = "score_click"
_EMBEDDED_LIMITS = (
    "A request is a user of the embedded log, with all items of the week as "
    "candidates; the score is that of a click.")


class Inputs(NamedTuple):
  """Checked candidates and the rules of their slates."""

  candidates: candidates_lib.Candidates
  facts: candidates_lib.Facts
  rules: selector.Rules
  limits: str  # What results do not show; empty for the user's own file.


def read_inputs(config: config_lib.Config, workdir: pathlib.Path) -> Inputs:
  """Generates, converts or opens the candidates, and checks every row."""
  check_config(config)
  candidates, limits = _open(config, workdir / "prepared")
  facts = candidates.check()
  return Inputs(candidates, facts, make_rules(config, facts), limits)


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
) -> selector.Rules:
  """Rules of all slates, with quotas in the order of `facts.categories`."""
  quotas = pool_quotas = None
  if config.quota is not None:
    quotas = _quotas("quota", config.quota, facts, others=facts.largest)
  if config.pool_quota is not None:
    pool_quotas = _quotas("pool_quota", config.pool_quota, facts, others=0)
  return selector.Rules(
      num_selected=config.num_selected, window=config.window, quotas=quotas,
      pool_quotas=pool_quotas, ridge=config.ridge, fill=config.fill)


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
      "score": log[_EMBEDDED_SCORE]}), paths[0])
  parquet.write_parquet(week.items, paths[1])
  return paths


def _quotas(
    flag: str, texts: Sequence[str], facts: candidates_lib.Facts, *,
    others: int,
) -> np.ndarray:
  """Quotas `[C]` int32; `others` is that of categories that no text names."""
  names = list(facts.categories)
  named = flags.numbers_by_name(
      flag, texts, [*names, ""], kind=int, expected="a number, or numbers by "
      f"category as in {names[0]}=2")
  others = named.get("", others)
  # No request has more candidates; this also keeps quotas within int32.
  quotas = np.array([min(named.get(name, others), facts.largest)
                     for name in names], np.int32)
  if not quotas.any():
    raise errors.UserError(f"--{flag}={','.join(texts)} leaves no candidate.")
  return quotas
