"""Unlisted skips fail a run under CI, that of several processes as well."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import skips

ROOT = pathlib.Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.skip(reason="the data are not here")
def test_listed():
  pass

{mark}
def test_other():
  pass
"""


def run(tmp_path, *, mark, ci, processes):
  """Output and exit code of a run of two tests in a project of their own."""
  (tmp_path / "tests").mkdir()
  (tmp_path / "tests/any_test.py").write_text(TESTS.format(mark=mark))
  ended = subprocess.run(
      [sys.executable, "-m", "pytest", "-p", "tests.skips", "-n", processes,
       f"--rootdir={tmp_path}", "-c", os.devnull, tmp_path / "tests"],
      cwd=ROOT, env={**os.environ, "CI": ci}, text=True, capture_output=True,
      check=False)
  return ended.stdout, ended.returncode


@pytest.mark.parametrize("processes", ["0", "1"])
def test_an_unlisted_skip_fails_a_run_under_ci(tmp_path, processes):
  said, code = run(tmp_path, ci="true", processes=processes,
                   mark="@pytest.mark.skip(reason='no time')")
  assert code == 1
  assert "test_listed: the data are not here (the Open Bandit log" in said
  assert "test_other: no time (NOT LISTED in tests/skips.py)" in said


@pytest.mark.parametrize("mark, ci", [
    pytest.param("", "true", id="listed_skip"),
    pytest.param("@pytest.mark.skip(reason='no time')", "", id="no_ci")])
def test_another_run_passes(tmp_path, mark, ci):
  said, code = run(tmp_path, mark=mark, ci=ci, processes="0")
  assert code == 0
  assert "NOT LISTED" not in said and ("the data" in said) == (ci == "true")


@pytest.mark.parametrize("test, reason, is_allowed", [
    ("tests/experiments/benchmark_test.py::test_twins",
     "could not import 'torch': No module named 'torch'", True),
    ("tests/experiments/benchmark_test.py::test_dpp",
     "could not import 'pyversity': No module named 'pyversity'", False),
    ("tests/ordering/kernel_test.py::test_x", "no C++ compiler", False),
], ids=["torch", "pyversity", "compiler"])
def test_what_is_listed(test, reason, is_allowed):
  assert (skips.why_allowed(test, reason) is not None) == is_allowed
