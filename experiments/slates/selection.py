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
  """Counts of a pass over all requests, and a sample of the requests."""

  sample: chunks_lib.Chunk  # Requests to compare methods on.
  num_repeated: int  # Rows whose request repeats the item.
  num_slots: int  # Slots that have an item.
  compiled: list[int]  # Request sizes that were compiled, ascending.
  seconds: float  # With reading and writing.


def write_slates(
    config: config_lib.Config, inputs: inputs_lib.Inputs, drawn: np.ndarray,
    path: pathlib.Path,
) -> Selected:
  """Writes the slates of all requests; the sample is at places `[S]` drawn."""
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
