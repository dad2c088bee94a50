"""What a run says."""

import types

import numpy as np
import pytest

from experiments.reranker import judging
from experiments.reranker import limits
from experiments.reranker import results
from experiments.reranker import training
from experiments.reranker import world as world_lib
from experiments.runs import claims

PROBE = limits.Probe(0.4, 1.2, np.ones(1), 1.0)


@pytest.mark.parametrize("constraint, said", [
    pytest.param("pid", "its bound (--constraint=pid).", id="moving"),
    pytest.param("fixed", "cannot be met.", id="fixed")])
def test_a_limit_out_of_reach_is_said_with_the_constraint(
    capsys, constraint, said):
  results.say_limit(
      limits.Limit(PROBE, 0.3, "platt", 0.8, 2.5), constraint)
  out, err = capsys.readouterr()
  assert out == ("diversity (log det S / K) from -1.200 to -0.400; asked for "
                 "-0.300, where a unit of it costs 2.500 of a slate's reward\n")
  assert err.endswith(f"{said}\n") and "{" not in err and "-0.400" in err


def test_a_limit_within_reach_warns_of_nothing(capsys):
  results.say_limit(limits.Limit(PROBE, 0.9, "platt", 0.8, 2.5), "pi")
  assert not capsys.readouterr().err


def made_up(costs, shares, excess, *, floors):
  """Results of policies with these costs; all have the same shares."""
  summaries = {
      name: judging.Summary(
          0.4, 0.01, 1.0, np.ones(2), -cost, 0.5,
          claims.Interval(cost - 1.0, np.nan, np.nan), np.array(shares))
      for name, cost in costs.items()}
  best = training.Best(None, np.zeros(3, int), np.array(excess), np.zeros(3))
  trained = training.Trained(None, training.State(None, best), 1.0)
  unknown = world_lib.FittedLog._make([None] * len(world_lib.FittedLog._fields))
  fitted = unknown._replace(
      floors=floors, log=types.SimpleNamespace(category_names=["a", "b"]))
  return judging.Results(
      {}, summaries, {}, {}, {},
      {name: trained for name in costs if name != "platt"}, {}), fitted


@pytest.mark.parametrize("cost, shares, excess, said", [
    pytest.param(1.015, [0.0985, 0.9015], [0, 0, 0], [], id="tolerated"),
    pytest.param(1.1, [0.1, 0.9], [0, 0, 0], [
        "ppo does not keep to what was asked for: diversity -1.100, asked for "
        "-1.000"], id="diversity"),
    pytest.param(0.5, [0.09, 0.91], [0, 0, 0], [
        "ppo does not keep to what was asked for: a in 0.090 of the slots, "
        "asked for 0.100"], id="floor"),
    pytest.param(1.0, [0.1, 0.9], [0, 0.2, 0.1], [
        "ppo: no evaluation of 2 of 3 seeds kept to the constraints, the "
        "nearest was taken"], id="evaluations"),
    pytest.param(1.1, [0.0, 1.0], [1, 1, 1], [
        "ppo does not keep to what was asked for: diversity -1.100, asked for "
        "-1.000; a in 0.000 of the slots, asked for 0.100",
        "ppo: no evaluation of 3 of 3 seeds kept to the constraints, the "
        "nearest was taken"], id="all")])
def test_what_a_trained_policy_misses_comes_first(
    capsys, cost, shares, excess, said):
  # Not trained to keep to anything: no word on it.
  made, fitted = made_up({"ppo": cost, "platt": 9.0}, shares, excess,
                         floors=[0.1, 0.0])
  limit = limits.Limit(PROBE, 1.0, "platt", 0.8, 2.5)
  results.print_table(limit, made, fitted)
  lines = capsys.readouterr().out.splitlines()
  assert lines[:len(said)] == said
  assert "policies in worlds" in lines[len(said)]


def test_every_trained_policy_is_held_to_what_was_asked():
  made, fitted = made_up({"ppo": 0.9, "bandit": 1.2, "ppo_paper": 1.3},
                         [0.5, 0.5], [0, 0, 0], floors=[0.0, 0.0])
  lines = results.complaints(
      limits.Limit(PROBE, 1.0, "platt", 0.8, 2.5), made, fitted)
  assert [line.split()[0] for line in lines] == ["bandit", "ppo_paper"]


def test_intervals_have_signs_and_dashes():
  assert results.interval(claims.Interval(0.01, -0.02, 0.04)) == (
      "+0.0100 [-0.0200, +0.0400]")
  assert results.interval(claims.Interval(0.01, np.nan, np.nan)) == (
      "+0.0100 [-, -]")
