"""Both forms of operations, for the rooms that have a native form."""

import pytest

from harmonrank_jax import native


@pytest.fixture(autouse=True, params=["pure", "native"])
def form(request):
  """The form of the operations: JAX's own, or the native one."""
  if request.param == "pure":
    with native.disabled():
      yield "pure"
    return
  if not native.available():
    pytest.skip("the native forms are not built: `make native`")
  yield "native"
