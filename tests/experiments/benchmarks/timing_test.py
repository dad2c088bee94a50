"""The clock of the benchmark, and the forms of the library."""

import jax
import pytest

from experiments.benchmarks import soft_rank_methods
from experiments.benchmarks import timing as timing_lib
from harmonrank_jax import native


def test_calls_take_turns():
  called = []
  clock = timing_lib.Clock(20, 0, sample_seconds=0.0, pause_seconds=0.0)
  timings = clock.interleaved(
      {name: lambda name=name: called.append(name) for name in "abc"}, 1)
  assert called[:6] == list("aabbcc")
  rounds = [tuple(called[k:k + 3]) for k in range(6, len(called), 3)]
  assert all(sorted(turn) == list("abc") for turn in rounds)
  assert len(rounds) == 20 and len(set(rounds)) > 1
  assert len(timings["a"].samples) == 20


def test_calls_that_take_too_long_are_skipped():
  clock = timing_lib.Clock(1, 0, limit_seconds=0.0)
  assert not clock.interleaved({"slow": lambda: None}, 50)
  assert not clock.is_worth_it("slow", 50)
  assert clock.is_worth_it("another", 50)


def test_forms_are_what_they_are_called():
  lists = soft_rank_methods.make_lists(1, 12, 0)
  forms = timing_lib.forms()
  assert len(forms) == 1 + native.available()
  for name, trace in forms.items():
    with trace():
      text = jax.jit(soft_rank_methods.soft_rank).lower(
          lists.scores, lists.strength).as_text()
    assert ("custom_call @harmonrank" in text) == (
        name == "harmonrank (native)")


def test_forms_are_listed_as_far_as_they_were_measured():
  measured = [{"method": name} for name in (
      "torchsort", timing_lib.PURE, timing_lib.NATIVE, timing_lib.PURE)]
  assert timing_lib.forms_among(measured) == [
      timing_lib.NATIVE, timing_lib.PURE]
  assert timing_lib.forms_among([{"method": timing_lib.ONLY}]) == [
      timing_lib.ONLY]


@pytest.mark.parametrize("value, text", [
    (0, "0"), (3.14e-5, "3e-5"), (0.01234, "0.012"), (1.234, "1.23"),
    (98.76, "98.8"), (12345.6, "12,346")], ids=str)
def test_numbers_have_about_three_digits(value, text):
  assert timing_lib.number(value) == text
