"""The suite of a training step: what is timed is the same work."""

import json
import sys

import numpy as np
import pytest

from experiments.benchmarks import timing as timing_lib
from experiments.benchmarks import train_auc
from experiments.ranker import config as config_lib
from experiments.ranker import inputs as inputs_lib
from experiments.runs import errors
from tests.experiments.benchmarks import small

# A network that compiles soon.
SMALL = config_lib.Config(
    num_exposures=2000, token_size=4, num_steps=1000, batch_size=64,
    loss="bce", relation_aware=False)


def test_drawn_rows_are_probabilities_and_no_two_are_the_same(tmp_path):
  inputs = inputs_lib.read_inputs(SMALL, tmp_path)
  rows = train_auc.make_rows(inputs, 5000, 0)
  scores = np.asarray(rows.scores)
  assert rows.labels.shape == scores.shape == (5000, 6)
  assert np.all((scores > 0) & (scores < 1))
  assert len(np.unique(scores, axis=0)) == 5000


def test_unequal_networks_are_not_timed():
  train_auc.check_agreement({"logits": 1e-5, "gradient": 5e-4})
  with pytest.raises(errors.UserError, match=r"the loss of the network in PyT"):
    train_auc.check_agreement({"logits": 0.0, "loss": 2e-4})
  with pytest.raises(errors.UserError, match="off by nan"):
    train_auc.check_agreement({"gradient": float("nan")})


def test_unequal_losses_are_not_timed():
  with pytest.raises(errors.UserError, match=r"the loss of b is 2\.0"):
    train_auc.take_first_steps({"a": lambda: 1.0, "b": lambda: 2.0})


def test_a_network_that_does_not_compile_is_left_out():
  def fails():
    raise RuntimeError("no compiler\nand much more")

  steps = {"harmonrank": lambda: 1.0, train_auc.COMPILED: fails}
  assert train_auc.take_first_steps(steps) == [
      "torch.compile is left out: no compiler"]
  assert set(steps) == {"harmonrank"}
  with pytest.raises(RuntimeError):
    train_auc.take_first_steps({"harmonrank": fails})


# Slow: compiling.


@pytest.mark.slow
def test_a_step_of_training_is_timed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  content = small.measure(
      tmp_path, "train_auc", ("64",), config=SMALL, forms=small.FORMS)
  assert json.loads((tmp_path / "benchmark.json").read_text()) == content
  assert content["agreement"] is None
  line, = content["left_out"]
  assert "PyTorch is left out" in line and "requirements-bench.txt" in line
  m, = content["measurements"]
  assert m["method"] == small.OURS and m["batch_size"] == 64
  assert m["examples_per_second"] == pytest.approx(64 / m["median_seconds"])
  assert (tmp_path / "report.html").read_text().count("<svg") == 1


@pytest.mark.slow
def test_pytorch_trains_beside_it(tmp_path):
  pytest.importorskip("torchsort")
  content = small.measure(tmp_path, "train_auc", ("512",))
  methods = {m["method"] for m in content["measurements"]}
  assert methods >= {"torch, eager", *timing_lib.forms()}
  assert content["agreement"]["loss"] < 1e-4
