"""The documents are true: samples run, and binaries take their flags."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
# What makes runs short, whose results are not looked at.
SHORT = {"train_auc": "--num_steps=20 --num_members=1",
         "train_predictor": "--num_steps=20"}
BINARY = r"python -m experiments\.(\w+)"


def flags_by_binary():
  """All flags that the documents give to each binary."""
  result = {}
  for document in (README, *GUIDES):
    text = document.read_text().replace("\\\n", " ")
    for binary, flags in re.findall(
        rf"{BINARY}((?:\s+--\w+(?:=[^\s`]+)?)*)", text):
      result.setdefault(binary, []).extend(flags.split())
  return result


def samples_of(document):
  """Samples in Python (True) and of the shell (False), in their order."""
  pattern = r"^```python\n(.*?)^```|((?:^    [^\n]*\n)+)"
  # Samples in other languages are indented as well.
  text = re.sub(r"^```(?!python)\w+\n.*?^```", "", document.read_text(),
                flags=re.M | re.S)
  return [(bool(python), python or shell)
          for python, shell in re.findall(pattern, text, re.M | re.S)]


def run(document, sample, names):
  """Runs a sample in Python."""
  exec(compile(sample, document.name, "exec"), names)


def test_samples_run_one_after_the_other():
  names = {}
  samples = [sample for is_python, sample in samples_of(README) if is_python]
  assert samples
  for sample in samples:
    run(README, sample, names)


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


@pytest.mark.slow
# Spark forks to start its Java, which JAX warns of.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_runs_from_top_to_bottom(guide, tmp_path, monkeypatch):
  for package in ("onnxruntime", "pyspark", "starlette", "uvicorn"):
    pytest.importorskip(package)
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
  (tmp_path / "examples").symlink_to(ROOT / "examples")
  monkeypatch.chdir(tmp_path)
  # Packages are there; what runs on is ended with the sample.
  shell = "set -e; trap 'kill $(jobs -p) 2>/dev/null || :' EXIT; pip() { :; }\n"
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.setenv(
      "PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
  names = {}
  for is_python, sample in samples_of(guide):
    if is_python:
      run(guide, sample, names)
      continue
    short = re.sub(
        BINARY, lambda match: f"{match[0]} {SHORT.get(match[1], '')}", sample)
    ended = subprocess.run(
        ["bash", "-c", shell + short.replace("8000", port)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert ended.returncode == 0, (sample, ended.stdout)
