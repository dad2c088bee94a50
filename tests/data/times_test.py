"""Units of times are found by their range."""

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import times as times_lib

NOW = 1_700_000_000
SCHEMA = schema_lib.Schema((schema_lib.Objective("click", "click"),), time="t")


@pytest.mark.parametrize("unit", times_lib.UNITS)
@pytest.mark.parametrize("begin", [946_684_800, NOW, 4_102_444_000])
def test_units_of_every_year(unit, begin):
  per_second = times_lib.UNITS[unit]
  times = (begin + np.arange(20)) * per_second
  assert times_lib.unit_of(times) == unit
  np.testing.assert_array_equal(
      times_lib.in_ms(times, unit), (begin + np.arange(20)) * 1000)


def test_a_few_odd_times_do_not_decide():
  times = NOW + np.arange(20)
  times[[3, 7]] = 0, -2**63
  assert times_lib.unit_of(times) == "seconds"
  assert times_lib.in_ms(times, "seconds")[7] < -9e18
  times[11] = 0
  assert times_lib.unit_of(times) is None


@pytest.mark.parametrize("times", [
    np.zeros(9, int), np.arange(1000), np.zeros(0, int), np.full(3, -5),
    # Milliseconds of 47 days from 0 reach the seconds of 2099.
    np.linspace(0, 4.1e9, 1000).astype(int)])
def test_counters_have_no_unit(times):
  assert times_lib.unit_of(times) is None
  np.testing.assert_array_equal(times_lib.in_ms(times, None), times)


def checked(folder, times, name="log.parquet"):
  parquet.write_parquet(
      pa.table({"t": times, "click": np.arange(len(times)) % 2}),
      folder / name, row_group_size=4)
  return parquet.check_log(parquet.ParquetLog(folder / name), SCHEMA)


MS = NOW * 1000 + np.arange(10) * 3_600_000


@pytest.mark.parametrize(("times", "said"), [
    (MS, None), (pa.array(MS, pa.timestamp("ms")), None),
    (pa.array(MS * 1000, pa.timestamp("us", "UTC")), None),
    (MS // 1000, "seconds"), (pa.array(MS // 1000, pa.uint32()), "seconds"),
    (MS * 1000, "microseconds"), (MS * 10**6, "nanoseconds")])
def test_a_log_is_read_in_milliseconds(tmp_path, times, said):
  log = checked(tmp_path, times)
  np.testing.assert_array_equal(log.times, MS)
  column = pa.concat_tables(log.tables(["t"]))["t"]
  np.testing.assert_array_equal(times_lib.integers_of(column), MS)
  assert log.notes == ([] if said is None else [
      f"{log.path}: column 't': integers are read as {said} since 1970, "
      "2023-11-14 to 2023-11-15."])


def test_counters_and_dates_of_1970_are_said(tmp_path):
  note, = checked(tmp_path, np.arange(10)).notes
  assert "'t': in no unit are the integers 0 to 9 dates" in note
  # Milliseconds that were taken for nanoseconds.
  note, = checked(tmp_path, pa.array(MS, pa.timestamp("ns"))).notes
  assert "the dates 1970-01-01 to 1970-01-01 are not in 2000 to 2099" in note


@pytest.mark.parametrize("share", [0.001, 0.015, 0.05, 0.09, 0.4])
@pytest.mark.parametrize("days", [0.01, 8, 900])
@pytest.mark.parametrize("odd", [0, 4_000_000_000_000])
def test_far_times_are_found_by_any_share(share, days, odd):
  times = NOW * 1000 - np.linspace(0, days * 86_400_000, 1000).astype(int)
  assert not times_lib.are_far(times).any()
  order = np.random.default_rng(0).permutation(1000)
  rows = np.sort(order[:round(1000 * share)])
  times[rows] = odd
  assert np.flatnonzero(times_lib.are_far(times)).tolist() == rows.tolist()


def test_days_are_milliseconds(tmp_path):
  log = checked(tmp_path, pa.array([19_700, 19_701], pa.date32()))
  assert log.times.tolist() == [19_700 * 86_400_000, 19_701 * 86_400_000]
  assert log.notes == []


def test_each_log_has_its_own_unit(tmp_path):
  one = checked(tmp_path, MS, "1.parquet")
  other = checked(tmp_path, MS // 1000, "2.parquet")
  np.testing.assert_array_equal(one.times, other.times)
