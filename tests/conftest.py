"""Strict numerics for every test, float64 for those that ask, and no skip."""

import os

import jax
import pytest

from tests import skips

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)

pytest_sessionfinish = skips.pytest_sessionfinish
pytest_terminal_summary = skips.pytest_terminal_summary


def pytest_configure(config: pytest.Config) -> None:
  """Lets the default suite compile faster.

  The suite compiles many small programs and runs each of them once or twice,
  so the older and faster of XLA's code generators suits it. Slow tests use the
  default one. jaxlib 0.12 does not know the flag and aborts at it.
  """
  if (config.option.markexpr == "not slow"
      and jax.__version_info__[:2] == (0, 10)):
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{given} --xla_cpu_use_fusion_emitters=false"


@pytest.fixture
def x64():
  """float64 on, for one test."""
  with jax.enable_x64(True):
    yield
