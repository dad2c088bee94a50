"""The first commands of the README in a fresh clone, on every Python here."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
VERSIONS = ("3.12", "3.13", "3.14")
TRAIN_FLAGS = "--num_exposures=1000 --num_members=1 --num_steps=2"
PYTEST_FLAGS = "tests/imports_test.py"


def candidates(version):
  """Paths at which an interpreter of a version may be, the likeliest first."""
  home = pathlib.Path.home()
  for root in (home / ".pyenv/versions", home / ".local/share/uv/python"):
    yield from sorted(root.glob(f"*/bin/python{version}"), reverse=True)
  on_path = shutil.which(f"python{version}")
  if on_path is not None:
    yield on_path


def makes_environments(path):
  """Whether it starts (a shim may not) and has what `-m venv` needs."""
  return subprocess.run(
      [path, "-c", "import ensurepip, venv"], capture_output=True,
      check=False).returncode == 0


def interpreters():
  """Path of an interpreter of each version."""
  running = "{}.{}".format(*sys.version_info)
  result = {running: sys.executable}
  for version in VERSIONS:
    path = next(filter(makes_environments, candidates(version)), None)
    if path is not None:
      result.setdefault(version, str(path))
  return result


@pytest.fixture
def clone(tmp_path):
  """The tracked files as they are now, in a folder of their own."""
  names = subprocess.run(
      ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True,
      text=True).stdout.split("\0")
  for name in filter(None, names):
    if (ROOT / name).exists():
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(ROOT / name, tmp_path / name)
  return tmp_path


def make(target, *variables, cwd):
  # The settings of the run around this one are not those of a new user.
  env = {name: value for name, value in os.environ.items()
         if not name.startswith(
             ("MAKE", "PYTEST", "PYTHON", "VIRTUAL_ENV", "XLA_"))}
  # Two steps of training are over before good machine code has paid.
  env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
  ended = subprocess.run(
      ["make", target, *variables], cwd=cwd, env=env, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
  assert ended.returncode == 0, ended.stdout
  return ended.stdout


# The running Python is that of the suite, which has been installed with a
# compiler if there is one: it tries the way without.
@pytest.mark.slow
@pytest.mark.parametrize("path, has_compiler", [
    pytest.param(path, path != sys.executable, id=f"python{version}")
    for version, path in interpreters().items()])
def test_train_and_test_are_the_first_commands(clone, path, has_compiler):
  python = f"PYTHON={path}"
  compiler = [] if has_compiler else ["CXX=/nowhere/c++"]
  said = make("train", python, *compiler, f"TRAIN_FLAGS={TRAIN_FLAGS}",
              cwd=clone)
  assert "runs/train_auc_embedded/report.html" in said
  is_built = any(clone.glob("harmonrank_jax/_native*.so"))
  assert is_built == (has_compiler and shutil.which("c++") is not None)
  said = make("test", python, f"PYTEST_FLAGS={PYTEST_FLAGS}", cwd=clone)
  assert "Success" in said and " passed" in said
