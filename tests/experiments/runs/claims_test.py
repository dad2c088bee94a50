"""One place says who is ahead of whom."""

import numpy as np
import pytest

from experiments.runs import claims

UNKNOWN = claims.Interval(0.2, np.nan, np.nan)


@pytest.mark.parametrize("interval, standing", [
    ((0.1, 0.01, 0.2), "ahead"), ((-0.1, -0.2, -0.01), "behind"),
    ((0.1, -0.01, 0.2), "level"), ((0.0, 0.0, 0.0), "level"),
    ((-0.00002, -0.00003, -0.00001), "level"),
    ((0.00004, 0.00003, 0.00005), "level"),
    ((0.0001, 0.00006, 0.0002), "ahead"),
    ((-0.0001, -0.0002, -0.00006), "behind"),
    (UNKNOWN, "unknown"), ((np.nan,) * 3, "unknown"),
    ((1.0, 0.5, np.inf), "unknown")], ids=str)
def test_the_word_is_that_of_the_ends_as_they_are_shown(interval, standing):
  interval = claims.Interval(*interval)
  assert interval.standing == standing
  word = interval.against("b").split(" (")[0]
  assert word == {"ahead": "ahead of b", "behind": "behind b",
                  "level": "level with b", "unknown": "against b"}[standing]
  assert interval.against("b").endswith(f" ({interval})")


def test_an_interval_is_shown_with_signs_and_dashes():
  assert str(claims.Interval(0.1, -0.2, 0.4)) == "+0.1000 [-0.2000, +0.4000]"
  assert str(UNKNOWN) == "+0.2000 [-, -]"


def lead(mean, half=0.05):
  return claims.Interval(mean, mean - half, mean + half)


@pytest.mark.parametrize("leads, said", [
    ({"a": lead(0.1), "b": lead(0.3)}, "ours is ahead of every baseline; the "
     "best baseline is a: +0.1000, 95 % interval +0.0500 to +0.1500"),
    ({"a": lead(0.1), "b": lead(0.04)},
     "ours is not surely ahead of b; the best baseline is b: +0.0400, "),
    ({"a": lead(-0.1), "b": lead(0.04)}, "ahead of ours: a; the best"),
    # The best by its mean is not sure, another is.
    ({"a": lead(-0.1, 0.2), "b": lead(-0.06), "c": lead(0.1)},
     "ahead of ours: b; the best baseline is a: -0.1000, "),
    ({"a": UNKNOWN, "b": lead(0.3)}, "nothing can be claimed of ours and a: an "
     "objective has too few positives; the best baseline is a: +0.2000, "
     "without a 95 % interval"),
    ({name: lead(0.0) for name in "abcd"},
     "ours is not surely ahead of 4 of 4 baselines; "),
    ({"a": claims.Interval(-0.00001, -0.00002, -0.00001)},
     "ours is not surely ahead of a; ")],
    ids=["ahead", "level", "behind", "one behind", "unknown", "many", "tiny"])
def test_the_verdict(leads, said):
  assert claims.verdict("ours", leads).startswith(said)


def test_positives_stand_below_a_table_with_what_a_mark_means():
  assert claims.marked(["a", "b"], [True, False]) == ["a", "b*"]
  assert claims.positives(["a", "b"], [1234, 2], [True, True]) == [
      "Positives: a 1,234, b 2."]
  counts, note = claims.positives(["a", "b"], [1234, 2], [True, False])
  assert counts == "Positives: a 1,234, b* 2." and note.startswith("* too few")
