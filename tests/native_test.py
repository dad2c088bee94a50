"""The native forms: the same results as the pure forms, wherever it runs."""

import contextlib
import functools
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import harmonrank_jax
from harmonrank_jax import native
from tests.ordering import fuzz_native

ROOT = pathlib.Path(__file__).parents[1]
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
SHAPE = (6, 12)


@pytest.fixture(autouse=True)
def form():
  """These tests choose the form themselves."""


def soft_rank(scores, strength=0.1):
  return harmonrank_jax.soft_rank(scores, strength=strength)


def random_scores():
  return jnp.asarray(
      np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)


def in_both_forms(function, *args):
  """Results of a function, compiled with the native forms and without."""
  with native.disabled():
    pure = jax.jit(function)(*args)
  text = jax.jit(function).lower(*args).as_text()
  assert "@harmonrank_" in text
  return jax.jit(function)(*args), pure


def assert_same(function, *args):
  fast, pure = in_both_forms(function, *args)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
      fast, pure)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_is_built_where_there_is_a_compiler():
  assert native.available(), "run `make native`"


def test_says_which_forms_are_active():
  form = "native" if native.available() else "pure"
  forms = harmonrank_jax.backends()
  assert set(forms) == {
      "sort_lists", "soft_rank", "deviation", "isotonic", "greedy"}
  assert set(forms.values()) == {form}
  with native.disabled():
    assert set(harmonrank_jax.backends().values()) == {"pure"}


def test_a_jitted_function_is_traced_anew_where_native_forms_are_disabled():
  texts = []
  call = jax.jit(lambda s: harmonrank_jax.hard_rank(s))
  for context in (native.disabled, contextlib.nullcontext):
    with context():
      texts.append("@harmonrank_" in call.lower(random_scores()).as_text())
  assert texts == [False, native.available()]


needs_native = pytest.mark.skipif(
    not native.available(), reason="the native forms are not built")


@needs_native
def test_forms_agree_in_both_modes_of_differentiation():
  scores, strength = random_scores(), jnp.full((SHAPE[0], 1), 0.3)
  weights = jnp.cos(jnp.arange(SHAPE[1]))

  def calculus(scores, strength):
    value = lambda s, e: jnp.sum(soft_rank(s, e) * weights[None])
    hessian = jax.jvp(
        jax.grad(value, argnums=(0, 1)), (scores, strength),
        (scores, jnp.ones_like(strength)))
    return (soft_rank(scores, strength), hessian,
            jax.jvp(soft_rank, (scores, strength),
                    (jnp.cos(scores), jnp.ones_like(strength))))

  assert_same(calculus, scores, strength)


@needs_native
def test_vmap_of_any_axis_and_scan_are_a_loop_over_lists():
  scores = random_scores()
  strengths = jnp.array([0.0, 0.1, 1.0])
  both = lambda s, e: (soft_rank(s, e), jax.vjp(
      lambda x: soft_rank(x, e), s)[1](jnp.cos(s))[0])

  @jax.jit
  def mapped(scores):
    by_column = jax.vmap(both, in_axes=(1, None), out_axes=1)(scores.T, 0.1)
    by_strength = jax.vmap(both, in_axes=(None, 0))(scores, strengths)
    _, scanned = jax.lax.scan(lambda _, s: (None, both(s, 0.1)), None, scores)
    return by_column, by_strength, scanned

  by_column, by_strength, scanned = mapped(scores)
  expected = jax.tree.map(
      lambda *lists: jnp.stack(lists), *(both(s, 0.1) for s in scores))
  check = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(check, scanned, expected)
  jax.tree.map(lambda x, y: check(x.T, y), by_column, expected)
  jax.tree.map(lambda x, y: check(x[1], y), by_strength, expected)


@pytest.mark.parametrize("context, check_vma", [
    (contextlib.nullcontext, True), (contextlib.nullcontext, False),
    pytest.param(native.disabled, True, marks=pytest.mark.slow)])
def test_runs_inside_shard_map(context, check_vma):
  mesh = jax.make_mesh((2,), ("lists",), axis_types=(AxisType.Auto,))
  scores = jnp.tile(random_scores(), (1, 3))
  gradient = lambda s: jax.vjp(soft_rank, s)[1](jnp.cos(s))[0]
  with context():
    sharded = jax.jit(jax.shard_map(
        gradient, mesh=mesh, in_specs=P("lists"), out_specs=P("lists"),
        check_vma=check_vma))(scores)
    np.testing.assert_allclose(
        sharded, gradient(scores), rtol=1e-4, atol=1e-5)


@needs_native
def test_exported_artefacts_hold_the_pure_form():
  scores = random_scores()
  gradient = jax.jit(lambda s: jax.vjp(soft_rank, s)[1](jnp.cos(s))[0])
  assert "@harmonrank_" in gradient.lower(scores).as_text()
  exported = jax.export.export(gradient, platforms=["cpu", "cuda"])(scores)
  assert "@harmonrank_" not in exported.mlir_module()
  np.testing.assert_allclose(
      exported.call(scores), gradient(scores), rtol=1e-5, atol=1e-5)


@needs_native
def test_empty_lists():
  scores = jnp.zeros((3, 0))
  assert harmonrank_jax.soft_rank(scores, strength=1.0).shape == (3, 0)
  masked = harmonrank_jax.soft_rank(
      random_scores(), strength=1.0, where=jnp.zeros(SHAPE, bool))
  assert not masked.any()


@needs_native
def test_random_problems_agree_with_oracles():
  with jax.enable_x64(True):
    for seed in range(20):
      fuzz_native.fuzz(np.random.default_rng(seed), shapes=((9, 65),))


def test_a_library_that_cannot_be_loaded_is_said_and_left_out(
    monkeypatch, tmp_path):
  path = tmp_path / "broken.so"
  path.write_text("not a library")
  monkeypatch.setattr(native, "library_path", lambda: str(path))
  with pytest.warns(UserWarning, match="broken.so cannot be used"):
    assert not native.available.__wrapped__()
  monkeypatch.setattr(native, "library_path", lambda: None)
  assert not native.available.__wrapped__()


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_sanitisers_find_nothing(tmp_path):
  include = pathlib.Path(
      importlib.util.find_spec("jaxlib").origin).parent / "include"
  library = tmp_path / "native.so"
  subprocess.run(
      [COMPILER, "-std=c++17", "-O1", "-g", "-fPIC", "-shared",
       "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
       f"-isystem{include}", *ROOT.glob("harmonrank_jax/*/native.cc"),
       "-o", library], check=True)
  runtime = [
      subprocess.run([COMPILER, f"-print-file-name={name}"], check=True,
                     capture_output=True, text=True).stdout.strip()
      for name in ("libasan.so", "libubsan.so")]
  if not all(map(os.path.isabs, runtime)):
    pytest.skip("the compiler has no shared sanitisers")
  for room, num_cases in (("ordering", 100), ("diversity", 15)):
    # Leaks are Python's own; every other finding aborts.
    result = subprocess.run(
        [sys.executable, "-m", f"tests.{room}.fuzz_native", str(num_cases),
         library],
        cwd=ROOT, capture_output=True, text=True, check=False, env={
            **os.environ, "LD_PRELOAD": ":".join(runtime),
            "ASAN_OPTIONS": "detect_leaks=0", "JAX_PLATFORMS": "cpu"})
    assert re.search(f"{num_cases} cases agree", result.stdout), (
        result.stderr[-5000:])


@pytest.mark.slow
def test_builds_nothing_and_fails_nothing_without_a_compiler(tmp_path):
  result = subprocess.run(
      [sys.executable, "setup.py", "--quiet", "build_ext",
       f"--build-lib={tmp_path}", f"--build-temp={tmp_path}"], cwd=ROOT,
      capture_output=True, text=True, check=False,
      env={**os.environ, "CXX": "no-such-compiler"})
  assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
  assert not list(tmp_path.rglob("*.so"))
