"""The README is true: its samples run, and binaries take its flags."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def flags_by_binary():
  """All flags that the README gives to each binary."""
  result = {}
  text = README.replace("\\\n", " ")
  for binary, flags in re.findall(
      r"python -m experiments\.(\w+)((?:\s+--\w+(?:=[^\s`]+)?)*)", text):
    result.setdefault(binary, []).extend(flags.split())
  return result


def test_samples_run_one_after_the_other():
  names = {}
  samples = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
  assert samples
  for sample in samples:
    exec(compile(sample, "README.md", "exec"), names)


@pytest.mark.parametrize("binary, flags", [
    pytest.param(binary, flags, id=binary)
    for binary, flags in flags_by_binary().items()])
def test_a_binary_takes_its_flags(binary, flags):
  # Of a flag that is given twice, both values are parsed.
  ended = subprocess.run(
      [sys.executable, "-m", f"experiments.{binary}", *flags,
       "--only_check_args"],
      cwd=ROOT, text=True, capture_output=True, check=False)
  assert (ended.returncode, ended.stderr) == (0, "")
