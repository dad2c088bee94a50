"""Both forms of operations, for the rooms that have a kernel."""

import pytest

from harmonrank_jax import kernel


@pytest.fixture(autouse=True, params=["pure", "kernel"])
def form(request):
  """The form of the operations: JAX's own, or that of the CPU kernel."""
  if request.param == "pure":
    with kernel.disabled():
      yield "pure"
    return
  if not kernel.available():
    pytest.skip("the CPU kernel is not built: `make kernel`")
  yield "kernel"
