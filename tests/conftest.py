"""Strict numerics for every test, and float64 for those that ask."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def x64():
  """float64 on, for one test."""
  with jax.enable_x64(True):
    yield
