"""The families of rankers; what trains them is passed in."""

import jax
import numpy as np
import pytest

from experiments.ranker import config as config_lib
from experiments.ranker import inputs as inputs_lib
from experiments.ranker import stacks
from experiments.runs import errors
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import weights as weights_lib
from harmonrank_jax.ensemble import ranker as ranker_lib
from tests.experiments.tradeoff import cases


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  """Inputs and test rows of a small log."""
  folder = tmp_path_factory.mktemp("families")
  cases.write_log(folder / "log.parquet")
  config = config_lib.Config(
      data=str(folder / "log.parquet"), batch_size=4,
      objectives=("click", "like"))
  inputs = inputs_lib.read_inputs(config, folder)
  return inputs, inputs_lib.read_test(config, inputs, folder).batch


class Trainings:
  """Stands in for training: any parameters, which are the same every time."""

  def __init__(self, value=1.0):
    self.members, self._value = [], value

  def fit(self, ranker, training, members, rows, validation, platt):
    self.members.append(members)
    count = len(members.seeds)
    few = jax.tree.map(lambda x: x[:2], ranker_lib.rows_of(rows))
    rng = np.random.default_rng(count)
    params = jax.tree.map(
        lambda x: rng.normal(size=(count, *x.shape)).astype(np.float32),
        jax.eval_shape(lambda: ranker.init(jax.random.key(0), few, platt)))
    return stacks.Stack(
        params, np.full(count, self._value), np.arange(count), 1.5)


def score(ranker, params, weights, batch):
  """Linear in the weights, and another for every member."""
  mixed = sum(np.asarray(leaf).sum(axis=tuple(range(1, leaf.ndim)))
              for leaf in jax.tree.leaves(params))
  return mixed[:, None] * (weights @ batch.scores.T)


def tune(platt, weights, rows, validation, batch, *, seed):
  return dict.fromkeys(
      ("tuned_sum", "tuned_product"), batch.scores @ weights)


def families_in(workdir, parts, trainings, truth=None):
  """Every family at three vectors of weights."""
  inputs, test = parts
  trainer = families_lib.Trainer(
      workdir, inputs, test, learning_rate=0.1, seed=0, fit=trainings.fit,
      score=score, tune=tune)
  return trainer.families(
      weights_lib.simplex_weights(2, 3, seed=0), truth)


@pytest.mark.slow
def test_what_is_trained_is_saved_and_not_trained_again(tmp_path, parts):
  trainings = Trainings()
  once = families_in(tmp_path, parts, trainings)
  one, separate = trainings.members
  np.testing.assert_allclose(one.objective_weights, [[1, 1]])
  np.testing.assert_allclose(
      separate.objective_weights, [[1, 1], [2, 0], [0, 2]])
  again = families_in(tmp_path, parts, trainings)
  assert len(trainings.members) == 2
  for name, family in once.items():
    np.testing.assert_array_equal(family.scores, again[name].scores)
    assert family.seconds == again[name].seconds
  assert once[families_lib.SEPARATE].seconds == 1.5


@pytest.mark.slow
def test_the_score_of_one_network_is_linear_in_the_weights(tmp_path, parts):
  family = families_in(tmp_path, parts, Trainings())[families_lib.ONE]
  equal, first, second = family.scores
  np.testing.assert_allclose(equal, (first + second) / 2, rtol=1e-4)
  np.testing.assert_allclose(first, 2 * family.terms[:, 0], rtol=1e-6)


@pytest.mark.slow
def test_the_truth_adds_the_ceiling(tmp_path, parts):
  truth = np.full(parts[1].labels.shape, 0.25, np.float32)
  families = families_in(tmp_path, parts, Trainings(), truth)
  assert list(families)[-1] == families_lib.CEILING
  assert np.ptp(families[families_lib.CEILING].scores, axis=1).max() == 0


@pytest.mark.slow
def test_a_broken_file_and_a_training_that_diverges_are_told(tmp_path, parts):
  families_in(tmp_path, parts, Trainings())
  path = tmp_path / "tuned.npz"
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(errors.UserError, match=r"tuned.npz is broken"):
    families_in(tmp_path, parts, Trainings())
  (tmp_path / "one_network.npz").unlink()
  with pytest.raises(errors.UserError, match="one_network diverges at --lear"):
    families_in(tmp_path, parts, Trainings(value=-np.inf))
  assert not (tmp_path / "one_network.npz").exists()
