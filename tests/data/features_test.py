"""Features are fitted on training rows and encode any row as documented."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harmonrank_jax.data import encoding
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

Objective, Schema = schema_lib.Objective, schema_lib.Schema


def every_row(table):
  return np.ones(table.num_rows, bool)


def clicks(**roles):
  return Schema((Objective("click", "click"),), **roles)


@pytest.fixture(name="fit")
def make_fit(tmp_path):

  def fit(schema, row_filter=every_row, group_size=3, **columns):
    """Fits on columns, the labels all 0 unless given."""
    num_rows = len(next(iter(columns.values())))
    table = pa.table({"click": np.zeros(num_rows, np.int8)} | columns)
    path = tmp_path / "log.parquet"
    pq.write_table(table, path, row_group_size=group_size)
    log = parquet.check_log(parquet.ParquetLog(path), schema)
    features = features_lib.fit_features(log, schema, row_filter)
    return features, features_lib.encode(
        features, schema, pa.concat_tables(log.tables(schema.columns)))

  return fit


def encode(features, schema, **columns):
  num_rows = len(next(iter(columns.values())))
  return features_lib.encode(features, schema, pa.table(
      {"click": np.zeros(num_rows, np.int8)} | columns))


def test_vocabulary_is_by_frequency_and_without_the_rare(fit):
  region = ["b", "a", "c", "a", None, "b", "a", "d", "d", None]
  schema = clicks(categorical=("region",))
  features, batch = fit(schema, region=region)
  # Three a, two b and d (by name), one c; a missing value is no value.
  assert features.vocabularies == {"region": ["a", "b", "d"]}
  assert features.vocabulary_sizes == (4,)
  assert batch.categorical.dtype == np.int32
  assert batch.categorical[:, 0].tolist() == [2, 1, 0, 1, 0, 2, 1, 3, 3, 0]
  unseen = encode(features, schema, region=["zzz", "d", None])
  assert unseen.categorical[:, 0].tolist() == [0, 3, 0]


@pytest.mark.parametrize(("values", "vocabulary"), [
    (pa.array([5, 5, 5, -1, -1, 7]), [5, -1]),
    (pa.array([5, 5, 5, 1, 1, 7], pa.uint8()), [5, 1]),
    (pa.array([2**63, 2**63, 3, 3, 3, 1], pa.uint64()), [3, 2**63]),
    (pa.array([True, False, False, None, True, False]), [False, True]),
    (pa.array(["x", "y", "y", "z", "x", "y"]), ["y", "x"]),
    (pa.array(["x", "y", "y", "z", "x", "y"], pa.large_string()), ["y", "x"]),
    (pa.array(["x", "y", "y", "z", "x", "y"]).dictionary_encode(),
     ["y", "x"]),
    (pa.array(["", "", "é", None, None, "é"]), ["", "é"]),
], ids=["int", "uint8", "uint64", "bool", "text", "large_text", "dictionary",
        "empty_text"])
def test_vocabularies_of_every_type(fit, values, vocabulary):
  schema = clicks(categorical=("c",))
  features, batch = fit(schema, group_size=2, c=values)
  assert features.vocabularies["c"] == vocabulary
  expected = [vocabulary.index(value) + 1 if value in vocabulary else 0
              for value in values.to_pylist()]
  assert batch.categorical[:, 0].tolist() == expected


def test_largest_vocabulary_keeps_the_most_frequent(fit, monkeypatch):
  monkeypatch.setattr(features_lib, "_MAX_VOCABULARY", 2)
  features, _ = fit(clicks(categorical=("c",)), c=[1, 1, 2, 2, 2, 3, 3, 3, 3])
  assert features.vocabularies["c"] == [3, 2]


def test_integers_of_another_width_are_the_same_values(fit):
  schema = clicks(categorical=("c",))
  features, _ = fit(schema, c=[300, 300, 300, 7, 7, -1, -1])
  assert features.vocabularies["c"] == [300, -1, 7]
  for kind in (pa.int8(), pa.uint8(), pa.int64()):
    batch = encode(features, schema, c=pa.array([7, 8], kind))
    assert batch.categorical[:, 0].tolist() == [3, 0]
  wide = encode(features, schema, c=pa.array([2**40, 300]))
  assert wide.categorical[:, 0].tolist() == [0, 1]
  wider = encode(features, schema, c=pa.array([2**64 - 1, 7], pa.uint64()))
  assert wider.categorical[:, 0].tolist() == [0, 3]


@pytest.mark.parametrize(("fitted", "given"), [
    ([1, 1, 2], ["1", "2", "a"]), (["a", "a", "b"], [1, 2, 3]),
    (["1", "1", "b"], [1, 2, 3]), ([True, True], ["a"]),
], ids=["text_for_int", "int_for_text", "int_for_digits", "text_for_bool"])
def test_another_kind_of_column_is_refused(fit, fitted, given):
  schema = clicks(categorical=("c",))
  features, _ = fit(schema, c=fitted)
  with pytest.raises(schema_lib.DataError,
                     match=r"column 'c' holds .*, which is not what"):
    encode(features, schema, c=given)


def test_an_empty_vocabulary_knows_nothing(fit):
  schema = clicks(categorical=("c", "t"))
  features, batch = fit(schema, c=[0, 1, 2], t=["a", "b", "c"])
  assert features.vocabulary_sizes == (1, 1)
  np.testing.assert_array_equal(batch.categorical, np.zeros((3, 2)))


def test_quantiles_become_equal_steps(fit):
  schema = clicks(numeric=("x",))
  # 33 knots over 0..32, squared: each knot is a row.
  values = np.arange(33.0) ** 2
  features, batch = fit(schema, x=values)
  np.testing.assert_allclose(features.knots["x"], values)
  assert batch.numeric.dtype == np.float32
  np.testing.assert_allclose(
      batch.numeric[:, 0], np.linspace(-1, 1, 33), atol=1e-6)
  # Between 16^2 and 17^2, half way from 0 to 2/32.
  middle = encode(features, schema, x=[(16**2 + 17**2) / 2])
  np.testing.assert_allclose(middle.numeric, [[1 / 32]], atol=1e-6)


def test_steps_are_monotone_bounded_and_indifferent_to_scale(fit):
  rng = np.random.default_rng(0)
  sample = rng.standard_cauchy(500)
  schema = clicks(numeric=("x",))
  features, batch = fit(schema, group_size=100, x=sample)
  order = np.argsort(sample)
  assert (np.diff(batch.numeric[order, 0]) >= 0).all()
  np.testing.assert_allclose(np.quantile(
      batch.numeric, [0, 0.25, 0.5, 0.75, 1]), [-1, -0.5, 0, 0.5, 1],
                             atol=0.01)
  beyond = encode(features, schema, x=[-1e30, 1e30, -np.inf, np.inf])
  assert beyond.numeric[:, 0].tolist() == [-1, 1, -1, 1]
  _, scaled = fit(schema, group_size=100, x=1000 * sample)
  np.testing.assert_allclose(scaled.numeric, batch.numeric, atol=1e-6)


def test_ties_stand_in_the_middle_of_their_steps(fit):
  schema = clicks(numeric=("x",))
  # Three quarters of the rows are 0: knots 0 to 24 of 33 are (nearly).
  values = np.append(np.zeros(300), np.arange(1.0, 101.0))
  features, batch = fit(schema, group_size=400, x=values)
  knots = np.asarray(features.knots["x"])
  assert (np.diff(knots) >= 0).all()
  ties = np.flatnonzero(knots == 0)
  expected = np.linspace(-1, 1, 33)[ties].mean()
  np.testing.assert_allclose(batch.numeric[:300, 0], expected, atol=1e-6)
  assert (np.diff(batch.numeric[300:, 0]) > 0).all()
  assert batch.numeric[-1, 0] == 1


@pytest.mark.parametrize("values", [
    [None, None, None], [np.nan, np.nan], [np.inf, -np.inf],
], ids=["null", "nan", "infinite"])
def test_a_column_without_numbers_is_zero(fit, values):
  schema = clicks(numeric=("x",))
  features, batch = fit(schema, x=pa.array(values, pa.float64()))
  np.testing.assert_array_equal(batch.numeric, np.zeros((len(values), 1)))
  assert encode(features, schema, x=[5.0]).numeric.tolist() == [[0]]


def test_missing_and_infinite_values_leave_the_quantiles_alone(fit):
  schema = clicks(numeric=("x",))
  clean, _ = fit(schema, x=np.arange(9.0))
  features, batch = fit(schema, x=pa.array(
      [None, np.nan, np.inf, *range(9), -np.inf]))
  assert features.knots == clean.knots
  assert batch.numeric[[0, 1, 2, -1], 0].tolist() == [0, 0, 1, -1]


def test_a_constant_is_zero_and_its_neighbours_too(fit):
  schema = clicks(numeric=("x",))
  features, batch = fit(schema, x=[5, 5, 5])
  np.testing.assert_array_equal(batch.numeric, np.zeros((3, 1)))
  assert encode(features, schema, x=[4, 6]).numeric[:, 0].tolist() == [0, 0]


def test_numeric_booleans_and_hashes(fit):
  schema = clicks(numeric=("flag", "hash"))
  hashes = 2**61 + np.arange(4) * 2**50
  _, batch = fit(schema, flag=[True, False, True, None], hash=hashes)
  assert (batch.numeric[[0, 2], 0] > batch.numeric[1, 0]).all()
  assert batch.numeric[3, 0] == 0
  np.testing.assert_allclose(
      batch.numeric[:, 1], [-1, -1 / 3, 1 / 3, 1], atol=0.02)


def test_dates_and_decimals_that_a_schema_names(fit):
  days = pa.array([19_000, 19_000, None, 19_010, 19_010], pa.date32())
  schema = clicks(categorical=("day", "code"), numeric=("since", "price"))
  features, batch = fit(
      schema, day=days, code=pa.array([7, 7, 8, 8, 9]).cast(
          pa.decimal128(20, 0)), since=days.cast(pa.timestamp("us")),
      price=pa.array([1, 2, 3, 4, 5]).cast(pa.decimal128(21, 2)))
  assert features.vocabularies == {
      "day": [19_000 * 86_400_000, 19_010 * 86_400_000], "code": [7, 8]}
  assert batch.categorical.tolist() == [
      [1, 1], [1, 1], [0, 2], [2, 2], [2, 0]]
  np.testing.assert_allclose(batch.numeric[:, 1], np.linspace(-1, 1, 5))
  assert batch.numeric[2, 0] == 0 and batch.numeric[3, 0] > batch.numeric[0, 0]
  # What is fitted is written as JSON.
  assert json.loads(json.dumps(features.to_json()))["vocabularies"] == (
      features.vocabularies)


def test_integers_beyond_32_bits_stay_apart(fit):
  # Money in its smallest unit, and counts: as float32 they would be equal.
  money = np.array([3_000_000_001, 3_000_000_002, 3_000_000_003])
  schema = Schema((Objective("buy", "spent", "p", is_value=True),), user="u",
                  request="r", categorical=("u",), numeric=("x",))
  features, batch = fit(
      schema, spent=money, p=money, x=money, u=money << 30, r=money << 30)
  np.testing.assert_allclose(batch.numeric[:, 0], [-1, 0, 1], atol=1e-6)
  spread = features.score_scales["buy"][1]
  np.testing.assert_allclose(
      batch.scores[:, 0], 1 / (1 + np.exp(-np.array([-1, 0, 1]) / spread)),
      rtol=1e-6)
  for ids in (batch.user, batch.request):
    np.testing.assert_array_equal(ids, money << 30)


def test_quantiles_of_a_sample_of_a_long_log(fit, monkeypatch):
  monkeypatch.setattr(features_lib, "_SAMPLE_ROWS", 100)
  rng = np.random.default_rng(0)
  features, _ = fit(clicks(numeric=("x",)), group_size=500,
                    x=rng.random(5000))
  np.testing.assert_allclose(
      features.knots["x"], np.linspace(0, 1, 33), atol=0.15)


SCORED = Schema((Objective("click", "click", "p"),))


def test_probabilities_stay_as_they_are(fit):
  features, batch = fit(SCORED, p=[0.0, 1e-12, 0.25, 1.0, None])
  assert features.score_scales == {"click": None}
  assert batch.scores.dtype == np.float32
  np.testing.assert_allclose(batch.scores[2, 0], 0.25)
  assert (batch.scores > 0).all() and (batch.scores < 1).all()
  assert batch.has_score[:, 0].tolist() == [True, True, True, True, False]
  # Later rows beyond [0, 1] are scores of another kind.
  with pytest.raises(schema_lib.DataError, match=(
      r"were probab.*got 7; make .* null, or .* `check_log`")):
    encode(features, SCORED, p=[0.3, 7.0])


def test_real_scores_become_probabilities_in_order(fit):
  values = np.array([-4.0, 0.0, 2.0, 10.0])
  features, batch = fit(SCORED, p=values)
  mean, spread = features.score_scales["click"]
  np.testing.assert_allclose(mean, values.mean())
  np.testing.assert_allclose(spread, values.std())
  np.testing.assert_allclose(
      batch.scores[:, 0], 1 / (1 + np.exp(-(values - mean) / spread)),
      rtol=1e-6)
  far = encode(features, SCORED, p=[-1e9, 1e9]).scores
  assert 0 < far[0, 0] < 1e-6 and 1 - 1e-6 < far[1, 0] < 1


@pytest.mark.parametrize("offset", [0.0, 1e12])
def test_scale_is_that_of_all_row_groups(fit, offset):
  # Of different sizes and means, and far from 0 as sums of points may be.
  values = offset + np.append(np.arange(10.0), np.full(20, 1000.0))
  for group_size in (3, 7, 30):
    features, _ = fit(SCORED, group_size=group_size, p=values)
    mean, spread = features.score_scales["click"]
    np.testing.assert_allclose(mean, values.mean(), rtol=1e-12)
    np.testing.assert_allclose(spread, values.std(), rtol=1e-6)


def test_constant_and_missing_scores(fit):
  features, batch = fit(SCORED, p=[5.0, 5.0, None])
  np.testing.assert_allclose(batch.scores[:2, 0], 0.5)
  assert batch.has_score[:, 0].tolist() == [True, True, False]
  features, batch = fit(SCORED, p=pa.array([None, None], pa.float32()))
  assert features.score_scales == {"click": None}
  assert np.isfinite(batch.scores).all() and not batch.has_score.any()


def test_objectives_without_scores(fit):
  features, batch = fit(clicks(), click=[1, 0])
  assert features.score_scales == {}
  assert batch.labels.dtype == bool
  assert batch.labels.tolist() == [[True], [False]]
  assert batch.has_score.tolist() == [[False], [False]]
  assert batch.scores.tolist() == [[0.5], [0.5]]
  assert batch.categorical.shape == batch.numeric.shape == (2, 0)


def test_values_make_the_labels_real(fit):
  schema = Schema((Objective("click", "click"),
                   Objective("watch", "watch_ms", is_value=True)))
  _, batch = fit(schema, click=[True, False], watch_ms=[1500, 0])
  assert batch.labels.dtype == np.float32
  assert batch.labels.tolist() == [[1, 1500], [0, 0]]


def test_some_of_the_objectives_that_were_fitted(fit):
  schema = Schema((Objective("click", "click", "p"),
                   Objective("like", "like", "q")), numeric=("x",))
  columns = {"p": [0.1, 0.2], "like": [0, 1], "q": [-5.0, 5.0], "x": [1, 2]}
  features, both = fit(schema, **columns)
  like = encode(features, schema.with_objectives(["like"]), **columns)
  np.testing.assert_array_equal(like.labels, both.labels[:, 1:])
  np.testing.assert_array_equal(like.scores, both.scores[:, 1:])
  swapped = encode(
      features, schema.with_objectives(["like", "click"]), **columns)
  np.testing.assert_array_equal(swapped.scores, both.scores[:, ::-1])
  np.testing.assert_array_equal(swapped.numeric, both.numeric)


def test_only_training_rows_are_looked_at(fit):
  schema = Schema((Objective("click", "click", "p"),),
                  categorical=("c",), numeric=("x",))
  columns = {"p": [-0.5, 1.5, 50.0, -50.0] * 3, "c": ["a", "b", "z", "z"] * 3,
             "x": [1.0, 2.0, 1e9, 1e9] * 3}

  def is_training(table):
    return table["x"].to_numpy() < 1e8

  features, batch = fit(schema, is_training, **columns)
  kept, _ = fit(schema, **{
      name: [value for i, value in enumerate(values) if i % 4 < 2]
      for name, values in columns.items()})
  assert features == kept
  assert features.vocabularies["c"] == ["a", "b"]
  assert features.score_scales["click"] == (0.5, 1.0)
  assert batch.numeric.shape == (12, 1)
  # No training row at all is a model that knows nothing, not an error.
  features, batch = fit(
      schema, lambda t: ~every_row(t), **columns | {"p": [0.5] * 12})
  assert features.vocabulary_sizes == (1,)
  np.testing.assert_array_equal(batch.numeric, np.zeros((12, 1)))


def test_json_round_trip(fit):
  schema = Schema(
      (Objective("click", "click", "p"), Objective("like", "click", "q"),
       Objective("buy", "click")),
      categorical=("text", "number", "flag"), numeric=("x",))
  columns = {"p": [0.1, 0.2, 0.3], "q": [-1.0, 1.5, 2.0],
             "text": ["a", "a", "é"], "number": [2**62, 2**62, 1],
             "flag": [True, True, False], "x": [0.1, 1 / 3, None]}
  features, batch = fit(schema, **columns)
  again = encoding.features_from_json(
      json.loads(json.dumps(features.to_json())))
  assert again == features
  for one, other in zip(
      batch, encode(again, schema, **columns), strict=True):
    np.testing.assert_array_equal(one, other)


def test_ids_are_equal_exactly_where_they_were(fit):
  schema = clicks(user="u", request="r", time="t")
  text = ["x", "y", "x", "z", "y"]
  for users in (pa.array(text), pa.array(text).dictionary_encode(),
                pa.array(text, pa.large_string()),
                pa.chunked_array([text[:2], text[2:]]),
                pa.chunked_array([pa.array(text[:2]).dictionary_encode(),
                                  pa.array(text[2:]).dictionary_encode()])):
    batch = encode(encoding.Features({}, {}, {}), schema, u=users,
                   r=[9, 9, 2, 2, 9], t=range(5))
    assert batch.user.dtype == np.int64
    _, first = np.unique(batch.user, return_index=True)
    assert sorted(first) == [0, 1, 3]
    assert batch.user[2] == batch.user[0] and batch.user[4] == batch.user[1]
    # The same in every table: lists may go over the bounds of row groups.
    assert batch.user[3] == features_lib.id_numbers(
        pa.table({"u": ["z"]}), "u")[0]
    assert batch.request.tolist() == [9, 9, 2, 2, 9]
  large = pa.array([2**64 - 1, 5, 2**63], pa.uint64())
  ids = features_lib.id_numbers(pa.table({"u": large}), "u")
  assert len(set(ids.tolist())) == 3
  _, batch = fit(clicks(), click=[0, 1])
  assert batch.user.tolist() == batch.request.tolist() == [0, 0]
  assert batch.time.tolist() == [0, 0]


@pytest.mark.parametrize("kind", [
    pa.int64(), pa.int32(), pa.uint32(), pa.timestamp("ms"),
    pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms", "UTC"),
    pa.timestamp("us", "Europe/Berlin")], ids=str)
def test_times_are_milliseconds(kind):
  times = pa.chunked_array([[1500, 86_400_000], [7]])
  if pa.types.is_timestamp(kind):
    table = pa.table({"t": times.cast(pa.timestamp("ms")).cast(kind)})
  else:
    table = pa.table({"t": times.cast(kind)})
  result = features_lib.times(table, "t")
  assert result.dtype == np.int64
  assert result.tolist() == [1500, 86_400_000, 7]


def test_times_finer_than_milliseconds_are_cut():
  table = pa.table({"t": pa.array([1_999_999], pa.timestamp("ns"))})
  assert features_lib.times(table, "t").tolist() == [1]
  table = pa.table({"t": pa.array([2], pa.timestamp("s"))})
  assert features_lib.times(table, "t").tolist() == [2000]


def test_no_rows_are_encoded_as_none(fit):
  schema = Schema(
      (Objective("click", "click", "p"),), user="u", time="t",
      categorical=("c",), numeric=("x",))
  columns = {"p": [0.1, 0.2], "u": ["a", "b"], "t": [1, 2], "c": ["a", "a"],
             "x": [1.0, 2.0]}
  features, _ = fit(schema, **columns)
  empty = pa.table({"click": [0, 1]} | columns).slice(0, 0)
  batch = features_lib.encode(features, schema, empty)
  assert [array.shape for array in batch] == [
      (0, 1), (0, 1), (0, 1), (0, 1), (0, 1), (0,), (0,), (0,)]
