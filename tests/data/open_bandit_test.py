"""Open Bandit's files become rounds, and bad ones are refused."""

import pathlib

import numpy as np
import pyarrow as pa
from pyarrow import csv
import pyarrow.parquet as pq
import pytest

from harmonrank_jax.data import open_bandit
from harmonrank_jax.data import schema as schema_lib

DATA = pathlib.Path(__file__).parents[3] / "shared/data/open_bandit_small"


def columns():
  return {
      "timestamp": ["2019-11-24 00:00:01.5+00:00"] * 4,
      "item_id": [2, 0, 1, 2], "position": [1, 2, 3, 3],
      "click": [0, 1, 0, 0], "propensity_score": [0.5, 0.25, 0.25, 1.0],
      "user_feature_0": ["a", "a", "b", "a"],
      "user_feature_1": ["c"] * 4, "user_feature_2": ["d", "d", "d", "c"],
      "user_feature_3": ["e"] * 4}


def write(folder, changes=None, *, released=True):
  """Files of three items as released, or as Parquet."""
  log, items = pa.table(columns() | (changes or {})), {"item_id": [0, 1, 2]}
  if released:
    place = folder / "bts" / "men"
    place.mkdir(parents=True)
    # As released: the first column is a row number without a name.
    csv.write_csv(log.add_column(0, "", [list(range(4))]), place / "men.csv")
    csv.write_csv(pa.table({"": [0, 1, 2], **items}),
                  place / "item_context.csv")
  else:
    pq.write_table(log, folder / "bts_men.parquet")
    pq.write_table(pa.table(items), folder / "item_context_bts_men.parquet")
  return folder


def read(folder):
  return open_bandit.read_rounds(folder, policy="bts", campaign="men")


@pytest.mark.parametrize("released", [True, False])
def test_by_hand(released, tmp_path):
  rounds = read(write(tmp_path, released=released))
  np.testing.assert_array_equal(rounds.clicks, [0, 1, 0, 0])
  np.testing.assert_array_equal(rounds.items, [2, 0, 1, 2])
  np.testing.assert_array_equal(rounds.positions, [1, 2, 3, 3])
  np.testing.assert_array_equal(rounds.logging_prob, [0.5, 0.25, 0.25, 1])
  same = rounds.user_ids[:, None] == rounds.user_ids
  np.testing.assert_array_equal(
      same, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
  assert rounds.num_items == 3


@pytest.mark.parametrize("changes, message", [
    ({"propensity_score": [0.5, 0.0, 0.5, 0.5]},
     r"men.csv: column 'propensity_score', row 1: .* above 0 .* got 0.0\."),
    ({"propensity_score": [0.5, 0.5, None, 0.5]}, "row 2: .* got None"),
    ({"propensity_score": ["x"] * 4}, "column 'propensity_score' has type"),
    ({"click": [0, 1, 2, 0]}, "column 'click', row 2: labels must be 0 or 1"),
    ({"item_id": [0, 3, 0, 0]}, "column 'item_id', row 1: .* 0 to 2, got 3"),
    ({"item_id": list("abca")},
     r"men.csv: column 'item_id' has type string; accepted: integers"),
    ({"item_id": [0, 2**32 + 1, 0, 0]}, "row 1: .* 0 to 2, got 4294967297"),
    ({"item_id": [0.0, 1.5, 0.0, 0.0]}, "column 'item_id' has type double"),
    ({"position": [0, 1, 2, 3]}, "column 'position', row 0: .* 1 to 3, got 0"),
])
def test_bad_values_are_refused(changes, message, tmp_path):
  with pytest.raises(schema_lib.DataError, match=message):
    read(write(tmp_path, changes))


@pytest.mark.parametrize("released", [True, False])
def test_missing_columns_and_files(released, tmp_path):
  with pytest.raises(schema_lib.DataError, match=r"no bts/men/item_context"):
    read(tmp_path)
  write(tmp_path, released=released)
  for file in tmp_path.rglob("*men.*"):
    if "context" not in file.name:
      (csv.write_csv if released else pq.write_table)(
          pa.table({"item_id": [0], "clicks": [1]}), file)
  with pytest.raises(schema_lib.DataError,
                     match=r"no column 'click' \(did you mean 'clicks'"):
    read(tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="the data are not here")
@pytest.mark.parametrize("campaign, num_items", [("men", 34), ("women", 46)])
def test_the_real_files(campaign, num_items):
  rounds = open_bandit.read_rounds(DATA, policy="random", campaign=campaign)
  assert rounds.num_items == num_items and len(rounds.clicks) == 10_000
  np.testing.assert_allclose(rounds.logging_prob, 1 / num_items, rtol=1e-12)
  assert set(np.unique(rounds.items)) == set(range(num_items))
  assert rounds.clicks.sum() == 46
