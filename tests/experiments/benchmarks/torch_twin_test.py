"""The twin in PyTorch computes what the ranker does, and trains alike."""

import pytest

from experiments.benchmarks import train_auc
from experiments.ranker import config as config_lib
from experiments.ranker import inputs as inputs_lib

SMALL = config_lib.Config(
    num_exposures=2000, token_size=4, num_steps=1000, batch_size=64)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """The inputs of a training on a small embedded log."""
  return inputs_lib.read_inputs(SMALL, tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def both(inputs):
  """The training here at its first step, and the twins."""
  pytest.importorskip("torch")
  pytest.importorskip("torchsort")
  training = train_auc.begin(SMALL, inputs)
  return training, train_auc.Twins(SMALL, inputs, training.platt)


@pytest.fixture(scope="module")
def rows(inputs):
  """An objective without a positive, another with scores missing."""
  rows = train_auc.make_rows(inputs, 200, 0)
  return rows._replace(labels=rows.labels.at[:, 2].set(False),
                       has_score=rows.has_score.at[:50, 1].set(False))


def test_the_twin_computes_the_same(both, rows):
  training, twins = both
  differences = twins.differences(training.state.params, rows, 0)
  assert set(differences) == {"logits", "log_score", "loss", "gradient"}
  assert max(differences.values()) < 1e-4


@pytest.mark.slow
def test_the_twin_stays_the_same_while_it_is_trained(both, rows):
  training, twins = both
  step = twins.steps(training.state.params, rows)[train_auc.EAGER]
  state, losses = training.state, []
  for _ in range(5):
    state, measured = training.update(state, rows)
    losses.append(float(measured["loss"]))
    assert float(step()) == pytest.approx(losses[-1], abs=1e-4)
  assert losses[-1] < losses[0] - 1e-3
