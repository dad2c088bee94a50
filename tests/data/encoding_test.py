"""Raw columns are encoded as documented, and as a log's are."""

import datetime
import decimal
import json

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import encoding
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib

SCHEMA = schema_lib.Schema(
    (schema_lib.Objective("click", "click", "p"),
     schema_lib.Objective("watch", "watch", "rate"),
     schema_lib.Objective("buy", "buy")),
    categorical=("city", "item", "day"), numeric=("age", "since"))
_DAY = 86_400_000
FEATURES = encoding.Features(
    {"city": ["rome", "", "é"], "item": [7, 2**63 + 1, -5, 0],
     "day": [0, -_DAY, 20 * _DAY]},
    {"age": [0.0, 1.0, 1.0, 4.0, 9.0], "since": [-2e12, 0.0, 2e12]},
    {"click": None, "watch": (10.0, 4.0)})
COLUMNS = {"p": 0.25, "rate": 12.0, "city": "rome", "item": 7,
           "day": np.datetime64("1970-01-21"), "age": 4, "since": 0}


def refused(message):
  return pytest.raises(schema_lib.DataError, match=message)


def encode(**columns):
  return encoding.encode_columns(FEATURES, SCHEMA, COLUMNS | columns)


def test_one_row_has_no_axis():
  row = encode(other="not read")
  assert [x.shape for x in row] == [(3,), (3,), (3,), (2,), ()]
  assert [x.dtype for x in row] == [
      np.float32, bool, np.int32, np.float32, bool]
  np.testing.assert_allclose(
      row.scores, [0.25, 1 / (1 + np.exp(-0.5)), 0.5], rtol=1e-6)
  assert row.has_score.tolist() == [True, True, False]
  assert row.categorical.tolist() == [1, 1, 3]
  np.testing.assert_allclose(row.numeric, [0.5, 0.0], atol=1e-6)
  assert not row.is_refused


def test_columns_of_users_and_of_items_are_joined():
  rows = encode(city=np.array([["rome"], ["?"]]), item=[[7, 0, 9]] * 2,
                p=np.full((1, 3), 0.5))
  assert rows.categorical.shape == (2, 3, 3)
  assert rows.categorical[..., 0].tolist() == [[1] * 3, [0] * 3]
  assert rows.categorical[..., 1].tolist() == [[1, 4, 0]] * 2
  assert rows.is_refused.shape == (2, 3)
  none = encode(item=np.zeros((4, 0)))
  assert none.scores.shape == (4, 0, 3) and none.numeric.shape == (4, 0, 2)


@pytest.mark.parametrize(("column", "values"), [
    ("city", [None, "x"]), ("city", np.array([None, np.nan], object)),
    ("city", [np.nan, np.nan]), ("item", [np.nan, 1.5]),
    ("item", [None, 2**70]), ("day", np.array(["NaT", "1999-01-01"], "M8[D]")),
], ids=str)
def test_unknown_and_missing_values_are_entry_0(column, values):
  place = SCHEMA.categorical.index(column)
  assert encode(**{column: values}).categorical[:, place].tolist() == [0, 0]


def test_missing_and_infinite_numbers():
  rows = encode(age=[None, np.nan, np.inf, -np.inf],
                since=np.array(["NaT", "1970", "9999", "-9999"], "M8[ms]"),
                p=[None, np.nan, 1 + 1e-6, -1e-6])
  assert rows.numeric.tolist() == [[0, 0], [0, 0], [1, 1], [-1, -1]]
  assert rows.has_score[:, 0].tolist() == [False, False, True, True]
  np.testing.assert_allclose(
      rows.scores[:, 0], [0.5, 0.5, 1 - 1e-7, 1e-7], rtol=1e-5)
  assert not rows.is_refused.any()


@pytest.mark.parametrize(("column", "value", "message"), [
    ("p", 1.7, "column 'p': scores were probabilities in the training rows, "
               "got 1.7"),
    ("p", -np.inf, "column 'p': scores must be finite, got -inf"),
    ("rate", np.inf, "column 'rate': scores must be finite, got inf"),
])
def test_refused_rows_and_why(column, value, message):
  rows = encode(**{column: [0.5, value, None]})
  assert rows.is_refused.tolist() == [False, True, False]
  assert np.isfinite(rows.scores).all()
  why = lambda v: encoding.why_refused(FEATURES, SCHEMA, COLUMNS | {column: v})
  assert why(value) == message
  assert why(0.5) is None and why(None) is None and why(np.nan) is None


@pytest.mark.parametrize(("column", "value", "message"), [
    ("city", 3, "column 'city' holds int, which is not what the features were "
                "fitted on: text"),
    ("city", np.array(["rome", 1.5], object), "column 'city' holds float"),
    ("city", b"rome", "column 'city' holds bytes"),
    ("item", "7", "column 'item' holds str, .* fitted on: numbers"),
    ("item", [[1], [2, 3]], "column 'item' holds list|inhomogeneous"),
    ("day", datetime.date(1970, 1, 1), "column 'day' holds date"),
    ("age", "4", "column 'age' holds <U1, .* fitted on: numbers"),
    ("age", [4, "4"], "column 'age' holds <U21"),
    ("age", np.array([4, "4"], object), "column 'age' holds str"),
    ("p", [True, "x"], "column 'p' holds <U5"),
    ("since", np.array([1j]), "column 'since' holds complex128"),
])
def test_another_kind_of_value_is_refused(column, value, message):
  if isinstance(value, list) and isinstance(value[0], list):
    values = np.empty(2, object)
    values[:] = value
    value = values
  with refused(message):
    encode(**{column: value})


def test_columns_that_are_missing_or_do_not_fit():
  with refused(r"no column 'city' \(did you mean 'City'\?\); given are City"):
    encoding.encode_columns(
        FEATURES, SCHEMA, {"City": "x"} | {
            name: value for name, value in COLUMNS.items() if name != "city"})
  with refused(r"the shapes of columns do not fit each other: p \(2,\), .*"
               r"age \(3,\)"):
    encode(p=[0.5] * 2, age=[1, 2, 3])


def test_fewer_objectives_and_columns_than_were_fitted():
  schema = schema_lib.Schema(
      (schema_lib.Objective("watch", "watch", "rate"),), categorical=("day",))
  some = encoding.encode_columns(FEATURES, schema, COLUMNS)
  every = encode()
  assert some.scores.tolist() == every.scores[1:2].tolist()
  assert some.categorical.tolist() == every.categorical[2:].tolist()
  assert some.numeric.shape == (0,)


def drawn(rng, kind, num_rows):
  """Values of one kind as a list for Arrow, some missing, and their type."""
  if kind == "text":
    values = rng.choice(["rome", "", "é", "oslo", "7"], num_rows).tolist()
    options = [pa.string(), pa.large_string(), pa.string_view()]
  elif kind == "dates":
    values = rng.choice(
        [0, -_DAY, 20 * _DAY, -1, 1, int(rng.integers(-10**12, 10**12))],
        num_rows).tolist()
    options = [pa.int64(), pa.timestamp("s"), pa.timestamp("ms"),
               pa.timestamp("us"), pa.timestamp("ns"), pa.date32()]
  elif kind == "whole":
    options = [pa.int8(), pa.uint8(), pa.int16(), pa.int64(), pa.uint64(),
               pa.bool_(), pa.float64()]
    values = rng.choice([0, 7, 1], num_rows).tolist()
  else:
    values = (rng.standard_cauchy(num_rows) * 5).tolist()
    values[0] = [np.inf, -np.inf, np.nan, 1e300][rng.integers(4)]
    options = [pa.float64(), pa.float32(), pa.float16()]
  chosen = options[rng.integers(len(options))]
  if chosen == pa.date32():
    values = [value // _DAY for value in values]
  elif pa.types.is_timestamp(chosen):
    per_ms = {"s": 1e-3, "ms": 1, "us": 1e3, "ns": 1e6}[chosen.unit]
    # Finer parts than milliseconds too, before and after 1970.
    values = [int(value * per_ms) + int(rng.integers(-2, 3))
              for value in values]
  elif chosen == pa.bool_():
    values = [bool(value) for value in values]
  elif chosen in (pa.int64(), pa.uint64()) and kind == "whole":
    values[0] = -5 if chosen == pa.int64() else 2**63 + 1
  elif chosen == pa.float16():
    values = np.float16(np.clip(values, -6e4, 6e4)).tolist()
    return pa.array([np.float16(x) for x in values], chosen)
  missing = rng.random() / 2
  values = [None if rng.random() < missing else value for value in values]
  return pa.array(values, chosen)


def as_numpy(column):
  """What a user of NumPy would give for an Arrow column."""
  kind = column.type
  if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
    return column.to_numpy(zero_copy_only=False)
  if column.null_count or pa.types.is_string(kind):
    return np.array(column.to_pylist(), object)
  return column.to_numpy(zero_copy_only=False)


def test_arrow_and_numpy_agree_to_the_last_bit():
  kinds = {"p": "real", "rate": "real", "city": "text", "item": "whole",
           "day": "dates", "age": "real", "since": "dates"}
  for seed in range(60):
    rng = np.random.default_rng(seed)
    num_rows = int(rng.integers(1, 40))
    arrays = {name: drawn(rng, kind, num_rows) for name, kind in kinds.items()}
    if rng.random() < 0.5:
      arrays["age"] = drawn(rng, "whole", num_rows)
    table = pa.table({
        name: x.dictionary_encode()
        if name in ("city", "item") and x.type != pa.string_view()
        and rng.random() < 0.5 else x for name, x in arrays.items()})
    cut = int(rng.integers(num_rows))
    table = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    one = features_lib.encode_inputs(FEATURES, SCHEMA, table)
    other = encoding.encode_columns(
        FEATURES, SCHEMA, {name: as_numpy(x) for name, x in arrays.items()})
    for name, x, y in zip(one._fields, one, other, strict=True):
      np.testing.assert_array_equal(x, y, err_msg=f"seed {seed}: {name}")
    for name, known in (("city", FEATURES.vocabularies["city"]),
                        ("item", FEATURES.vocabularies["item"])):
      place = SCHEMA.categorical.index(name)
      assert one.categorical[:, place].tolist() == [
          known.index(v) + 1 if v in known else 0
          for v in arrays[name].to_pylist()]


def test_a_column_of_nulls_alone_is_missing():
  table = pa.table({name: pa.nulls(2) for name in encoding.inputs_of(SCHEMA)})
  rows = features_lib.encode_inputs(FEATURES, SCHEMA, table)
  assert not rows.has_score.any() and not rows.is_refused.any()
  assert not rows.categorical.any() and not rows.numeric.any()


@pytest.mark.parametrize(("column", "values", "message"), [
    ("age", pa.array(["1", "2"]), "column 'age' holds string, which"),
    ("age", pa.array(["1", "2"]).dictionary_encode(), "column 'age' holds"),
    ("age", pa.array([[1], [2]]), "column 'age' has type list.*; accepted: "),
    ("p", pa.array([b"1", b"2"]), "column 'p' has type binary; accepted: "),
    ("city", pa.array([b"1", b"2"]), "column 'city' has type binary"),
    ("city", pa.array([[1], [2]]), "column 'city' has type list"),
    ("item", pa.array([decimal.Decimal(2**70)] * 2),
     r"column 'item' of type decimal128\(22, 0\) cannot be read as int64: "),
    ("item", pa.array(["1", None]), "column 'item' holds str, which"),
])
def test_columns_of_arrow_that_are_refused(column, values, message):
  table = pa.table({name: pa.nulls(2) for name in encoding.inputs_of(SCHEMA)})
  table = table.set_column(table.schema.get_field_index(column), column,
                           values)
  with refused(message) as error:
    features_lib.encode_inputs(FEATURES, SCHEMA, table)
  assert "\n" not in str(error.value)
  with refused(f"no column '{column}'"):
    features_lib.encode_inputs(
        FEATURES, SCHEMA, table.drop_columns([column]))


def test_features_come_back_from_json():
  again = encoding.features_from_json(
      json.loads(json.dumps(FEATURES.to_json())))
  assert again == FEATURES
  assert again.entries("item", [2**63 + 1, True]).tolist() == [2, 0]


@pytest.mark.parametrize("text", ["a", "7.5"])
def test_text_that_is_no_number_of_another_log_is_one_error(text):
  read = encoding.Features({"page": ["7", text]}, {}, {})
  with pytest.raises(schema_lib.DataError, match="'page' held text") as error:
    encoding.with_kinds_of(read, encoding.Features({"page": [7]}, {}, {}))
  assert "\n" not in str(error.value)
