"""What a run says."""

import numpy as np
import pytest

from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import results

PROBE = limits.Probe(0.4, 1.2, np.ones(1), 1.0)


@pytest.mark.parametrize("constraint, said", [
    pytest.param("pid", "its bound (--constraint=pid).", id="moving"),
    pytest.param("fixed", "cannot be met.", id="fixed")])
def test_a_limit_out_of_reach_is_said_with_the_constraint(
    capsys, constraint, said):
  results.say_limit(
      limits.Limit(PROBE, 0.3, "platt", 0.8), constraint)
  out, err = capsys.readouterr()
  assert out == ("diversity (log det S / K) from -1.200 to -0.400; asked for "
                 "-0.300\n")
  assert err.endswith(f"{said}\n") and "{" not in err and "-0.400" in err


def test_a_limit_within_reach_warns_of_nothing(capsys):
  results.say_limit(limits.Limit(PROBE, 0.9, "platt", 0.8), "pi")
  assert not capsys.readouterr().err


def test_intervals_have_signs_and_dashes():
  assert results.interval(judging.Interval(0.01, -0.02, 0.04)) == (
      "+0.0100 [-0.0200, +0.0400]")
  assert results.interval(judging.Interval(0.01, np.nan, np.nan)) == (
      "+0.0100 [-, -]")
