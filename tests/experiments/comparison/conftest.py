"""Made-up methods on made-up rows, measured once a module."""

import pytest

from tests.experiments.comparison import made_up


@pytest.fixture(scope="module")
def blocks():
  """Cells and rows of two blocks; the second one has no buy."""
  return made_up.blocks()


@pytest.fixture(scope="module")
def table(blocks):
  """These methods in numbers."""
  return made_up.evaluate(*blocks)
