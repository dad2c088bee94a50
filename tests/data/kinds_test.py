"""What types have in common does not depend on their order."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.data import kinds

NUMBERS = [pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.bool_(),
           pa.decimal128(5, 0), pa.decimal128(9, 2)]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(),
         pa.dictionary(pa.int8(), pa.string()),
         pa.dictionary(pa.int32(), pa.large_string())]
MOMENTS = [pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns")]
ZONED = [pa.timestamp("us", "UTC"), pa.timestamp("ms", "Asia/Tokyo")]
OTHERS = [pa.binary(), pa.time32("s"), pa.struct([("a", pa.int8())])]
FAMILIES = [NUMBERS, TEXTS, MOMENTS, ZONED]
EVERY = [*itertools.chain(*FAMILIES), *OTHERS]


@pytest.mark.parametrize("kind", EVERY, ids=str)
def test_of_one_type_it_is_that_type(kind):
  for several in ([kind], [kind, kind], [pa.null(), kind], [kind, pa.null()]):
    assert kinds.common(several) == kind


def test_of_two_it_is_theirs_in_any_order_if_they_are_of_a_family():
  for one, other in itertools.combinations(EVERY, 2):
    common = kinds.common([one, other])
    assert common == kinds.common([other, one])
    assert (common is not None) == any(
        one in family and other in family for family in FAMILIES)
    if common is not None:
      # Nothing is lost by a third file of either type.
      assert kinds.read_as(kinds.common([common, one])) == kinds.read_as(common)


def test_what_is_read_needs_no_more_reading():
  for kind in EVERY:
    assert kinds.read_as(kinds.read_as(kind)) == kinds.read_as(kind)
  assert {kinds.read_as(kind) for kind in MOMENTS + ZONED} == {pa.int64()}
  for kind in TEXTS:
    assert kinds.is_text(kind) and kinds.is_text(kinds.read_as(kind))


def test_numbers():
  numbers = kinds.numbers_of(
      pa.chunked_array([[1, None], [2**60 + 1]], pa.int64()))
  assert numbers.dtype == np.float64
  np.testing.assert_array_equal(numbers, [1, np.nan, 2.0**60])
  np.testing.assert_array_equal(
      kinds.numbers_of(pa.chunked_array([[True, None, False]])),
      [1, np.nan, 0])
