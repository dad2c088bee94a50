"""Slates of all requests, selected and written chunk by chunk."""

import pathlib
import time
from typing import NamedTuple

import numpy as np

from experiments.runs import progress as progress_lib
from experiments.slates import config as config_lib
from experiments.slates import inputs as inputs_lib
from harmonrank_jax.data import chunks as chunks_lib
from harmonrank_jax.serving import selector as selector_lib


class Selected(NamedTuple):
  """Counts of a pass over all requests, and a sample of the requests.

  Attributes:
    sample: the requests to compare methods on.
    num_repeated: rows left out because their request repeats the item.
    num_slots: slots that have an item.
    compiled: request sizes that were compiled, ascending.
    seconds: time of selection, with reading and writing.
  """

  sample: chunks_lib.Chunk
  num_repeated: int
  num_slots: int
  compiled: list[int]
  seconds: float


def select(
    config: config_lib.Config, inputs: inputs_lib.Inputs, drawn: np.ndarray,
    path: pathlib.Path,
) -> Selected:
  """Selects the slates of all requests and writes them to a Parquet file.

  Args:
    config: settings of the run.
    inputs: candidates and rules.
    drawn: `[S]` places of the requests to return as the sample, ascending.
    path: the Parquet file.
  """
  selector = selector_lib.Selector(config.method, inputs.rules)
  sample, num_repeated, num_slots, done = [], 0, 0, 0
  began = time.perf_counter()
  progress = progress_lib.Progress(
      inputs.facts.num_requests, 0, examples_per_step=1)
  try:
    with chunks_lib.slate_file(path) as write:
      for chunk in inputs.candidates.chunks(inputs.facts):
        picks = selector(
            chunk, inputs_lib.relevance(config, chunk.scores),
            theta=config.theta)
        write(chunk, picks.rows, picks.gains)
        end = done + len(chunk.request_ids)
        sample.append(chunks_lib.requests_of(
            chunk, drawn[(drawn >= done) & (drawn < end)] - done))
        num_repeated += chunk.num_repeated
        num_slots += int((picks.rows >= 0).sum())
        done = end
        progress.update(done)
  finally:
    progress.close()
  return Selected(
      chunks_lib.joined_chunks(sample), num_repeated, num_slots,
      sorted(selector.compiled), time.perf_counter() - began)
