"""Bundles of toys answer as their functions do, at any size."""

import numpy as np
import pytest

from harmonrank_jax.serving import buckets as buckets_lib
from harmonrank_jax.serving import bundle as bundle_lib
from tests.serving import toys


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp("bundle") / "out"
  toys.publish(out)
  return out


@pytest.fixture(scope="module")
def bundle(folder):
  return bundle_lib.load(folder, today=toys.TODAY)


def same(found, wanted):
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)
    assert found[name].dtype == array.dtype


def test_every_bucket_is_compiled_once_and_no_other_size(bundle):
  sizes = {name: sorted(set(found)) for name, found in bundle.compiled.items()}
  assert sizes == {"score": [(1,), (4,), (16,)],
                   "select": [(1, 8), (1, 32), (4, 8), (4, 32)]}
  before = bundle.compiled
  rng = np.random.default_rng(0)
  for seed in range(100):
    b, n = map(int, rng.integers([0, 0], [40, 33]))
    for name in toys.FIELDS:
      inputs = toys.drawn(name, {"b": b, "n": n}, seed)
      found = bundle.run(name, inputs)
      assert all(len(array) == b for array in found.values())
      if seed < 20:
        same(found, toys.called(name, inputs))
  assert bundle.compiled == before
  assert sum(map(len, before.values())) == 7
  assert bundle.warm_seconds > 0


def test_no_candidates_are_a_page_of_empty_slots(bundle):
  found = bundle.run("select", toys.drawn("select", {"b": 2, "n": 0}))
  same(found, {"indices": np.full((2, toys.K), -1, np.int32),
               "gains": np.zeros((2, toys.K), np.float32)})


def test_too_many_candidates_are_one_error(bundle):
  with pytest.raises(buckets_lib.RequestError,
                     match=r"33 candidates.*32 at most.*--candidate_sizes"):
    bundle.run("select", toys.drawn("select", {"b": 1, "n": 33}))


@pytest.mark.parametrize("change, message", [
    (lambda x: x.pop("theta"), "no input theta"),
    (lambda x: x.update(extra=x["theta"]), "unknown input extra"),
    (lambda x: x.update(theta=x["theta"].astype(np.float64)),
     r"theta must be float32 of shape \(b = 2\), got float64"),
    (lambda x: x.update(theta=x["theta"][:1]), r"theta.*got .*\(1,\)"),
    (lambda x: x.update(scores=x["scores"][:, :4]), r"scores.*\(2, 4\)"),
    (lambda x: x.update(features=x["features"][..., :2]), "features"),
])
def test_arrays_that_do_not_fit_are_one_error(bundle, change, message):
  inputs = toys.drawn("select", {"b": 2, "n": 5})
  change(inputs)
  with pytest.raises(buckets_lib.RequestError, match=message):
    bundle.run("select", inputs)


def test_an_unknown_function_is_one_error(bundle):
  with pytest.raises(buckets_lib.RequestError, match="no function rank"):
    bundle.run("rank", {})
