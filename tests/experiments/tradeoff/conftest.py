"""What several tests of trade-offs measure once."""

import pytest

from experiments.tradeoff import front as front_lib
from experiments.tradeoff import weights as weights_lib
from tests.experiments.tradeoff import cases


@pytest.fixture(scope="session")
def measured():
  """Families, labels, and the measures of both."""
  terms, labels, users, _ = cases.rows()
  weights = weights_lib.simplex_weights(3, 8, seed=0)
  families = cases.families_of(terms, weights)
  return families, labels, front_lib.measure_fronts(
      families, weights, labels, users, names=cases.NAMES, seed=0)
