"""Random slates by the native form, against the pure form.

`python -m tests.diversity.fuzz_native CASES [LIBRARY]`; the library may be one
that was built with sanitisers.
"""

import sys

import jax.numpy as jnp
import numpy as np

import harmonrank_jax as hr
from harmonrank_jax import native
from tests import fuzzing

METHODS = (hr.greedy_dpp, hr.greedy_mmr, hr.greedy_ssd)
# Around the panels and vectors of the native form, and far from them.
SIZES = (1, 2, 63, 64, 65, 200, 1000)
WIDTHS = (1, 3, 15, 16, 17, 40)


def fuzz(rng, sizes=SIZES, widths=WIDTHS):
  rows, size, width = rng.integers(1, 4), rng.choice(sizes), rng.choice(widths)
  shape = () if rng.random() < 0.2 else (rows,)
  features = rng.normal(size=(*shape, size, width)).astype(np.float32)
  features[..., rng.random(size) < 0.1, :] = rng.choice([0, np.nan, 1e30])
  relevance = rng.normal(size=(rows, size)).astype(np.float32)
  relevance[rng.random(relevance.shape) < 0.1] = rng.choice([np.nan, np.inf])
  if rng.random() < 0.3:
    features = jnp.asarray(features, jnp.bfloat16)
  if rng.random() < 0.3:
    check(hr.flow_pool, features, relevance, rng.integers(-1, 5, size),
          rng.integers(0, 9, (rows, 4)), theta=0.5,
          pool_size=int(rng.integers(0, 20)))
    return
  num_selected = int(rng.integers(0, 20))
  options = {"where": rng.random((rows, size)) < 0.8}
  if rng.random() < 0.5:
    options["window"] = int(rng.integers(1, 8))
  if rng.random() < 0.5:
    options["shown_features"] = rng.normal(size=(rows, 3, width))
  if rng.random() < 0.5:
    options["category_ids"] = rng.integers(-1, 3, size)
    options["quotas"] = rng.integers(0, 5, (rows, 2))
    options["slot_bias"] = rng.normal(size=(num_selected, 2))
  method = METHODS[rng.integers(3)]
  if method is hr.greedy_dpp:
    options["ridge"] = (None, 0.8)[rng.integers(2)]
    options["fill"] = ("none", "relevance")[rng.integers(2)]
  check(method, features, relevance, num_selected=num_selected,
        theta=float(rng.choice([0.0, 0.4, 0.95])), **options)


def check(select, *arguments, **options):
  """Both forms give the same, but for keys that are equal to rounding."""
  result = select(*arguments, **options)
  with native.disabled():
    expected = select(*arguments, **options)
  indices, others = map(np.asarray, (result.indices, expected.indices))
  np.testing.assert_array_equal(indices < 0, others < 0)
  np.testing.assert_array_equal(result.num_valid, expected.num_valid)
  for row in range(len(indices)):
    same = np.cumprod(indices[row] == others[row]).astype(bool)
    np.testing.assert_allclose(
        np.asarray(result.gains)[row][same],
        np.asarray(expected.gains)[row][same], rtol=1e-3, atol=1e-3)
    if not same.all():
      at = np.argmin(same)
      np.testing.assert_allclose(
          result.gains[row, at], expected.gains[row, at], rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
  fuzzing.main(fuzz, int(sys.argv[1]), *sys.argv[2:])
