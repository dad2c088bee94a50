"""Bundles of toys answer as their functions do, at any size."""

from concurrent import futures
import contextlib
import itertools
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from harmonrank_jax.serving import buckets as buckets_lib
from harmonrank_jax.serving import bundle as bundle_lib
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import requests as requests_lib
from tests.serving import toys


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp("bundle") / "out"
  toys.publish(out)
  return out


@contextlib.contextmanager
def compiles():
  """Lists every program that XLA compiles meanwhile."""
  found = []

  def listen(event, *arguments, **options):
    if event == "/jax/core/compile/backend_compile_duration":
      found.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def loaded(folder):
  """A bundle, and what was compiled to load it."""
  with compiles() as found:
    bundle = bundle_lib.load(folder, today=toys.TODAY)
  return bundle, found


@pytest.fixture(scope="module")
def bundle(loaded):
  return loaded[0]


def same(found, wanted):
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)
    assert found[name].dtype == array.dtype


def test_every_bucket_is_compiled_once_and_no_other_size(loaded, bundle):
  sizes = {name: sorted(set(found)) for name, found in bundle.compiled.items()}
  assert sizes == {"score": [(1,), (4,), (16,)],
                   "select": [(1, 8), (1, 32), (4, 8), (4, 32)]}
  assert sum(map(len, bundle.compiled.values())) == len(loaded[1]) == 3 + 4
  assert bundle.warm_seconds > 0
  rng = np.random.default_rng(0)
  asked = []
  for seed in range(100):
    b, n = map(int, rng.integers([0, 0], [40, 33]))
    asked += [(name, toys.drawn(name, {"b": b, "n": n}, seed))
              for name in toys.FIELDS]
  columns = toys.raw("score", (11,))
  with compiles() as found:
    answers = [bundle.run(*each) for each in asked]
    bundle.score(columns, objective_weights=[3, 1])
    bundle.select(toys.raw("select", (3, 30)), theta=0.1)
  assert not found
  for (name, inputs), answer in zip(asked, answers, strict=True):
    size = len(inputs["where" if name == "select" else "ensemble.numeric"])
    assert all(len(array) == size for array in answer.values())
  for (name, inputs), answer in itertools.islice(
      zip(asked, answers, strict=True), 40):
    same(answer, toys.called(name, inputs))


def test_a_cpu_computes_few_rows_at_once(folder, bundle, monkeypatch):
  assert bundle.rows_at_once("score") == 16
  monkeypatch.setattr(buckets_lib, "_CPU_ROWS", 8)
  small = bundle_lib.load(folder, warm=False, today=toys.TODAY)
  assert small.rows_at_once("score") == 4
  inputs = toys.drawn("score", {"b": 13})
  same(small.run("score", inputs), toys.called("score", inputs))
  assert set(small.compiled["score"]) == {(1,), (4,)}
  assert buckets_lib.used_on("cpu", (16, 64)) == (16,)


@pytest.mark.parametrize("name, sizes", [("ensemble.x", (1,)), ("x", (1, 8))])
def test_candidates_are_rows_where_a_network_scores_them(name, sizes):
  signature = manifest_lib.Signature(
      "select", "", (manifest_lib.Field(name, "float32", ("b", "n"), "x"),),
      (manifest_lib.Field("y", "float32", ("b", "n"), "2 x"),),
      {"b": (1, 8), "n": (64, 512)})
  exported = types.SimpleNamespace(
      call=lambda parameters, inputs: {"y": 2 * inputs[name]})
  buckets = buckets_lib.Buckets(signature, exported, {})
  buckets.warm_up()
  assert sorted(buckets.compiled) == sorted(
      [(1, 64), (8, 64), *((size, 512) for size in sizes)])
  x = np.arange(900, dtype=np.float32).reshape(9, 100)
  np.testing.assert_array_equal(buckets({name: x})["y"], 2 * x)
  assert len(buckets.compiled) == 2 + len(sizes)


def test_no_candidates_are_a_page_of_empty_slots(bundle):
  found = bundle.run("select", toys.drawn("select", {"b": 2, "n": 0}))
  same(found, {"indices": np.full((2, toys.K), -1, np.int32),
               "gains": np.zeros((2, toys.K), np.float32)})
  page = bundle.select({name: [] for name in toys.raw("select", (0,))})
  assert (page.indices == np.full(toys.K, -1)).all()
  assert page.scores.shape == (0,)


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


def test_raw_rows_of_any_shape_are_scored_and_refused_ones_are_nan(bundle):
  columns = toys.raw("score", (6,), seed=1)
  wanted = toys.called("score", toys.encoded("score", columns))
  columns["score_click"][[2, 3]] = [1.5, np.inf]
  found = bundle.score(
      {name: array.reshape(2, 3) for name, array in columns.items()} | {
          "other": 1})["ranking_score"]
  assert found.shape == (2, 3) and found.dtype == np.float32
  wanted = wanted["ranking_score"].copy()
  wanted[[2, 3]] = np.nan
  np.testing.assert_allclose(found.ravel(), wanted, rtol=1e-6)
  weighted = bundle.score(columns, objective_weights=[2, 4])["ranking_score"]
  assert (np.abs(weighted - wanted) > 0.01)[[0, 1, 4, 5]].all()


def test_one_request_is_one_of_several_and_odd_candidates_are_not_shown(bundle):
  columns = toys.raw("select", (2, 9), seed=2)
  wanted = toys.called("select", toys.encoded("select", columns))
  page = bundle.select(columns)
  np.testing.assert_array_equal(page.indices, wanted["indices"])
  one = bundle.select({name: array[1] for name, array in columns.items()})
  np.testing.assert_array_equal(one.indices, page.indices[1])
  np.testing.assert_allclose(one.gains, page.gains[1], rtol=1e-6)
  assert one.scores.shape == (9,) and one.objective_scores.shape == (9, 0)
  columns["score"][0, page.indices[0, 0]] = np.inf
  where = np.ones((2, 9), bool)
  where[1, page.indices[1, 0]] = False
  again = bundle.select(columns, where=where)
  assert page.indices[0, 0] not in again.indices[0]
  assert page.indices[1, 0] not in again.indices[1]
  assert np.isnan(again.scores).sum() == 2


def test_requests_of_different_sizes_are_stacked(bundle):
  requests = [toys.raw("select", (size,), seed=size) for size in (2, 7, 5)]
  columns, where = requests_lib.stack(requests)
  page = bundle.select(columns, where=where)
  for place, request in enumerate(requests):
    one = bundle.select(request)
    np.testing.assert_array_equal(page.indices[place], one.indices)


def test_a_value_for_all_candidates_is_not_one_for_each_request():
  # Of two requests of two candidates, one would pass for the other.
  requests = [{"age": 18, "x": [1, 2]}, {"age": 9, "x": [3, 4]}]
  for once, said in [((), "'age' must be a list"),
                     (("age", "x"), "'x' must be one value")]:
    with pytest.raises(buckets_lib.RequestError, match=said):
      requests_lib.stack(requests, once=once)


def test_a_missing_score_is_none_or_nan(bundle):
  columns = toys.raw("select", (6,), seed=3)
  first = bundle.select(columns).indices[0]
  pages = []
  for missing in (None, np.nan):
    scores = columns["score"].astype(object)
    scores[first] = missing
    pages.append(bundle.select(columns | {"score": scores}))
  assert first not in pages[0].indices
  np.testing.assert_array_equal(pages[0].scores, pages[1].scores)


@pytest.mark.parametrize("change, options, message", [
    ({}, {"theta": 1.0}, r"theta must be in \[0, 1\), got 1.0"),
    ({}, {"theta": [0.5, 0.5, 0.5]}, r"theta must be of shape .*got \(3,\)"),
    ({}, {"theta": "x"}, "theta must hold numbers, got <U1"),
    ({}, {"where": np.ones((2, 4), bool)}, r"shapes.*where \(2, 4\)"),
    ({}, {"where": np.ones((2, 5), int)}, "where must hold booleans"),
    ({}, {"quotas": [1]}, "takes no quotas"),
    ({}, {"shown": [[1, 2, 3]]}, "takes no shown"),
    ({"score": None}, {}, "no column 'score'"),
    ({"features": np.ones((2, 5, 2))}, {}, "features"),
    ({"category": np.ones((2, 5))}, {}, "category.*float.*text"),
    ({"features": [[[1, 2], [1]]]}, {}, "'features' is no array: its lists"),
    ({}, {"day": {"theta": 0.5}}, "theta is no part of a day"),
    ({}, {"day": [50]}, "day must be values by name, got list"),
])
def test_requests_that_cannot_be_served_are_one_error(
    bundle, change, options, message):
  columns = toys.raw("select", (2, 5)) | change
  columns = {name: x for name, x in columns.items() if x is not None}
  with pytest.raises(buckets_lib.RequestError, match=message) as error:
    bundle.select(columns, **options)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("weights", [
    [-1, 1], [0, 0], [1e-40, 0], [np.nan, 1], [np.inf, 1], [1e36, 1],
    [1, 1, 1]])
def test_weights_out_of_range_are_one_error(bundle, weights):
  with pytest.raises(buckets_lib.RequestError, match="objective_weights must"):
    bundle.score(toys.raw("score", (2,)), objective_weights=weights)


def test_threads_get_the_answers_of_one(bundle):
  rows = [toys.raw("score", (3 + seed % 7,), seed) for seed in range(40)]
  wanted = [bundle.score(columns)["ranking_score"] for columns in rows]
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(
        lambda columns: bundle.score(columns)["ranking_score"], rows))
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(one, other)


def test_what_serves_needs_nothing_of_what_trains(folder):
  # SciPy comes with JAX, which imports it to compile.
  program = (
      "import datetime, sys\n"
      "import numpy as np\n"
      "from harmonrank_jax import serving\n"
      "bundle = serving.load(sys.argv[1], warm=False,\n"
      "                      today=datetime.date.fromisoformat(sys.argv[2]))\n"
      "bundle.score({name: np.zeros(2) for name in\n"
      "              ('age', 'score_click', 'score_like')}\n"
      "             | {'tab': ['a', 'b']})\n"
      "print(*{name.split('.')[0] for name in sys.modules} & {\n"
      "    'absl', 'flax', 'matplotlib', 'optax', 'orbax', 'pyarrow'})\n")
  result = subprocess.run(
      [sys.executable, "-c", program, folder, str(toys.TODAY)],
      capture_output=True, text=True, check=True,
      cwd=pathlib.Path(__file__).parents[2])
  assert not result.stdout.strip()
