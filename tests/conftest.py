"""Strict numerics for every test, float64 for those that ask, and no skip."""

import jax
import pytest

from tests import skips

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)

pytest_sessionfinish = skips.pytest_sessionfinish
pytest_terminal_summary = skips.pytest_terminal_summary


@pytest.fixture
def x64():
  """float64 on, for one test."""
  with jax.enable_x64(True):
    yield
