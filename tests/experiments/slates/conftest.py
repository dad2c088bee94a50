"""One comparison of methods, for all tests of what is made of it."""

import numpy as np
import pytest

from experiments.slates import comparison as comparison_lib
from experiments.slates import config as config_lib
from experiments.slates import selection
from tests.data import candidate_files

NUM_SELECTED, THETA = 5, 0.6


@pytest.fixture(scope="session")
def frame():
  """Columns of the candidates."""
  return candidate_files.make_frame()


@pytest.fixture(scope="session")
def config(frame, tmp_path_factory):
  """The configuration of a run on a good file."""
  path = tmp_path_factory.mktemp("slates") / "data.parquet"
  return config_lib.Config(
      data=candidate_files.write(frame, path), num_selected=NUM_SELECTED,
      theta=THETA)


@pytest.fixture(scope="session")
def inputs(config, tmp_path_factory):
  """What is read for it."""
  return selection.read_inputs(config, tmp_path_factory.mktemp("workdir"))


@pytest.fixture(scope="session")
def selected(config, inputs, tmp_path_factory):
  """A run over all requests, which are all in the sample."""
  path = tmp_path_factory.mktemp("selected") / "slates.parquet"
  return path, selection.write_slates(config, inputs, np.arange(10), path)


@pytest.fixture(scope="session")
def comparison(config, inputs, selected):
  """All methods on all requests."""
  chunk = selected[1].sample
  return comparison_lib.compare(
      chunk, np.log(chunk.scores), num_categories=3, rules=inputs.rules,
      theta=config.theta, seed=0)
