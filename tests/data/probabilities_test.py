"""A few odd scores do not decide what a column means."""

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import kinds
from harmonrank_jax.data import parquet
from harmonrank_jax.data import probabilities
from harmonrank_jax.data import schema as schema_lib

SCHEMA = schema_lib.Schema((schema_lib.Objective("click", "click", "p"),))
NUM_ROWS = 200


def checked(folder, scores, *, trained=None, name="log.parquet"):
  parquet.write_parquet(
      pa.table({"p": scores, "click": np.arange(len(scores)) % 2}),
      folder / name, row_group_size=50)
  log = parquet.ParquetLog(folder / name, group_rows=1)
  return parquet.check_log(log, SCHEMA, trained=trained)


def encoded(log, features=None):
  every = lambda table: np.ones(table.num_rows, bool)
  features = features or features_lib.fit_features(log, SCHEMA, every)
  table = pa.concat_tables(log.tables(["p", "click"]))
  return features, features_lib.encode(features, SCHEMA, table)


def scores(**odd):
  values = np.random.default_rng(0).random(NUM_ROWS)
  for row, value in odd.items():
    values[int(row[1:])] = value
  return values


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("value", [1.0000001, -1e-7, 1 + 5e-6])
def test_rounding_is_clipped_without_a_word(tmp_path, kind, value):
  log = checked(tmp_path, scores(_3=value).astype(kind))
  features, batch = encoded(log)
  assert features.score_scales == {"click": None} and not log.notes
  assert batch.has_score.all()
  assert batch.scores[3, 0] == pytest.approx(np.clip(value, 0, 1), abs=1e-6)
  # Rows that come later may be rounded too, checked or not.
  features_lib.encode(features, SCHEMA, pa.table({"p": [value], "click": [0]}))


@pytest.mark.parametrize("value", [-1.0, 1.5, 999.0, -1e30])
def test_a_few_odd_scores_are_missing_and_said(tmp_path, value):
  log = checked(tmp_path, scores(_60=value, _61=value, _199=-1))
  features, batch = encoded(log)
  clean, expected = encoded(checked(tmp_path, scores()))
  assert features == clean
  assert np.flatnonzero(~batch.has_score[:, 0]).tolist() == [60, 61, 199]
  kept = batch.has_score[:, 0]
  np.testing.assert_array_equal(batch.scores[kept], expected.scores[kept])
  note, = log.notes
  assert note == (
      f"column 'p': 3 of 200 scores are outside [0, 1], the first is {value:g} "
      f"({tmp_path / 'log.parquet'}, row group 1, row 60); they count as "
      "missing.")


def test_many_odd_scores_make_a_column_of_any_numbers(tmp_path):
  values = scores(**{f"_{row}": -1 for row in range(5)})
  log = checked(tmp_path, values)
  features, batch = encoded(log)
  assert features.score_scales["click"] == pytest.approx(
      (values.mean(), values.std()))
  assert batch.has_score.all()
  note, = log.notes
  assert "5 of 200 scores" in note and "scores of any range" in note
  # Nothing is said where most are.
  assert checked(tmp_path, 3 * scores()).notes == []


def test_odd_scores_need_not_be_in_the_rows_to_train_on(tmp_path):
  values = scores(**{f"_{row}": -1 for row in range(190, 196)})
  log = checked(tmp_path, values)
  trains = lambda table: kinds.numbers_of(table["p"]) >= 0
  features = features_lib.fit_features(log, SCHEMA, trains)
  assert features.score_scales["click"] == pytest.approx(
      (values[values >= 0].mean(), values[values >= 0].std()))
  _, batch = encoded(log, features)
  assert batch.has_score.all() and batch.scores[190, 0] < 0.1
  # Where no row to train on has a score, scores are some still.
  none = lambda table: np.zeros(table.num_rows, bool)
  features = features_lib.fit_features(log, SCHEMA, none)
  assert features.score_scales == {"click": (0.0, 1.0)}


def test_a_column_without_any_score_is_said(tmp_path):
  note, = checked(tmp_path, pa.nulls(9, pa.float64())).notes
  assert "log.parquet: column 'p' has no score in any row" in note


def test_rows_to_evaluate_on_are_read_as_those_to_train_on(tmp_path):
  trained = checked(tmp_path, scores())
  log = checked(tmp_path, scores(_0=-1), trained=trained, name="e.parquet")
  features, _ = encoded(trained)
  _, batch = encoded(log, features)
  assert batch.has_score[:, 0].tolist() == [False] + [True] * 199
  with pytest.raises(schema_lib.DataError, match=(
      r"'p': 1\d\d of 200 scores are outside .*e.parquet, row group 0, row "
      r"\d+\); they were probabilities in the rows to train on")):
    checked(tmp_path, 9 * scores(), trained=trained, name="e.parquet")
  # Of any numbers, the few outside [0, 1] are scores too.
  real = checked(tmp_path, 9 * scores())
  log = checked(tmp_path, scores(_0=-1), trained=real, name="e.parquet")
  assert log.notes == []
  _, batch = encoded(log, encoded(real)[0])
  assert batch.has_score.all()


def test_a_column_is_cleaned_by_rows_alone():
  column = pa.chunked_array([[0.5, None, -2.0], [1.0 + 1e-7, 3.0]])
  whole = probabilities.cleaned(column).to_pylist()
  assert whole == [0.5, None, None, 1.0, None]
  assert whole == [value for part in (column.slice(0, 3), column.slice(3))
                   for value in probabilities.cleaned(part).to_pylist()]
  integers = pa.chunked_array([[0, 1, None, -1]])
  assert probabilities.cleaned(integers).to_pylist() == [0, 1, None, None]
