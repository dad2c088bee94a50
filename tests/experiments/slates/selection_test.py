"""Slates of all requests, chunk by chunk."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq

from experiments.slates import inputs as inputs_lib
from experiments.slates import selection
from harmonrank_jax.diversity import greedy
from tests.data import candidate_files
from tests.serving import one_call

COLUMNS = ["request_id", "slot", "item_id", "gain"]


def written(path):
  table = pq.read_table(path)
  assert table.column_names == COLUMNS
  return list(zip(*(table[name].to_pylist() for name in COLUMNS),
                  strict=True))


def test_slates_of_the_file_are_those_of_one_call(selected, config, frame):
  def select(features, relevance, where, categories):
    del categories
    return greedy.greedy_dpp(
        features, relevance, num_selected=config.num_selected,
        theta=config.theta, where=where)

  one_call.assert_same(written(selected[0]), one_call.slates(frame, select))


def test_what_happened_is_counted(selected):
  _, result = selected
  assert result.compiled == [16, 32, 64] and result.seconds > 0
  # Requests of 3 candidates and of 1 leave 2 and 4 of 5 slots empty.
  assert result.num_slots == 10 * 5 - 2 - 4 and result.num_repeated == 0


def test_the_sample_holds_the_requests_drawn(config, inputs, tmp_path):
  result = selection.write_slates(
      config, inputs, np.asarray([1, 4, 9]), tmp_path / "slates.parquet")
  assert np.diff(result.sample.starts).tolist() == [
      candidate_files.SIZES[k] for k in (1, 4, 9)]


def test_quotas_are_kept(config, frame, tmp_path):
  config = dataclasses.replace(config, quota=("2", "toys=0"))
  inputs = inputs_lib.read_inputs(config, tmp_path)
  path = tmp_path / "slates.parquet"
  selection.write_slates(config, inputs, np.arange(1), path)
  category = {(r, i): candidate_files.CATEGORIES.index(c) for r, i, c in zip(
      frame["request_id"], frame["item_id"], frame["category"], strict=True)}
  counts = {name: np.zeros(3, int) for name in frame["request_id"]}
  for request, _, item, _ in written(path):
    counts[request][category[request, item]] += 1
  assert np.stack(list(counts.values())).max(axis=0).tolist() == [2, 2, 0]
