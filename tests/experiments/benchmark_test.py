"""The binary of the benchmark: its suites, and what it refuses."""

import pathlib
import subprocess
import sys

import pytest

from experiments import benchmark
from experiments.runs import errors

ROOT = pathlib.Path(__file__).parents[2]


def test_every_suite_has_what_a_suite_needs():
  for suite in benchmark.SUITES.values():
    assert len(suite.SIZES) > 1
    for size in suite.SIZES:
      counts = size if isinstance(size, tuple) else (size,)
      parsed = suite.parse_size("x".join(map(str, counts)))
      assert parsed == size
    assert callable(suite.run) and callable(suite.tables)


@pytest.mark.parametrize("suite", ["train_auc", "policy"])
@pytest.mark.parametrize("text", ["", "0", "1x10", "-4", "4e3"], ids=repr)
def test_a_batch_size_that_is_none_is_refused(suite, text):
  with pytest.raises(errors.UserError, match="expected a batch size"):
    benchmark.SUITES[suite].parse_size(text)


@pytest.mark.parametrize("suite", list(benchmark.SUITES))
def test_a_wrong_size_leaves_the_workdir_empty(tmp_path, suite):
  config = benchmark.Config(suite=suite, sizes=("many",))
  with pytest.raises(errors.UserError, match="--sizes=many: expected"):
    benchmark.measure(config, tmp_path / "run")
  assert not list((tmp_path / "run").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("argument, said", [
    ("--suite=soft_rang", "suite"), ("--sizes=1000", "--sizes=1000"),
    ("--repeats=0", "repeats"), ("--data=log.parquet", "flag --data")],
    ids=["suite", "size", "repeats", "another flag"])
def test_on_a_wrong_flag_the_binary_says_one_line(tmp_path, argument, said):
  ended = subprocess.run(
      [sys.executable, "-m", "experiments.benchmark",
       f"--workdir={tmp_path / 'run'}", argument], cwd=ROOT, text=True,
      capture_output=True, check=False)
  assert ended.returncode == 2
  assert said in ended.stderr and ended.stderr.count("\n") == 1
