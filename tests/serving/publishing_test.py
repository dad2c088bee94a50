"""Versions are whole or not there, and what was changed is not loaded."""

import datetime
import functools
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from jax import export
import numpy as np
import pytest

from harmonrank_jax.serving import bundle as bundle_lib
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import publishing
from tests.serving import toys


@pytest.fixture(scope="module")
def made():
  return toys.contents()


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
  """The folder of a version."""
  out = tmp_path_factory.mktemp("whole") / "out"
  return out / publishing.publish(
      out, *made, today=toys.TODAY, check=lambda folder: None)


@pytest.fixture
def copy(whole, tmp_path):
  return pathlib.Path(shutil.copytree(whole, tmp_path / "copy"))


def content_of(folder):
  return {str(path.relative_to(folder)): path.read_bytes()
          for path in sorted(folder.rglob("*")) if path.is_file()}


def load(folder):
  return bundle_lib.load(folder, warm=False, today=toys.TODAY)


def test_the_same_export_is_the_same_folder(made, tmp_path):
  publish = functools.partial(publishing.publish, today=toys.TODAY,
                              check=lambda folder: None)
  version = publish(tmp_path / "a", *made)
  before = content_of(tmp_path / "a")
  assert publish(tmp_path / "a", *made) == version
  publish(tmp_path / "b", *made)
  assert content_of(tmp_path / "a") == content_of(tmp_path / "b") == before
  assert version.startswith("20261129-")
  assert before["current"] == f"{version}\n".encode()
  # What is there and broken is replaced; what a killed export left, removed.
  (tmp_path / "a" / version / "golden.npz").write_bytes(b"x")
  (tmp_path / "a" / ".20261128-0123456789ab.writing").mkdir()
  publish(tmp_path / "a", *made)
  assert content_of(tmp_path / "a") == before
  assert len(list((tmp_path / "a").iterdir())) == 2


def test_a_failed_export_moves_and_leaves_nothing(made, tmp_path):
  files, manifest = made
  wrong = manifest | {"request": {"theta": 0.9, "objective_weights": [1, 2],
                                  "categories": ["x"]}}
  with pytest.raises(manifest_lib.ArtefactError, match=r"golden\.npz: select"):
    publishing.publish(tmp_path / "out", files, wrong)
  assert not (tmp_path / "out").exists()
  version = publishing.publish(
      tmp_path / "out", files, manifest, check=lambda folder: None)
  before = content_of(tmp_path / "out")
  with pytest.raises(manifest_lib.ArtefactError, match="platforms"):
    publishing.publish(tmp_path / "out", files, manifest | {"platforms": []})
  assert content_of(tmp_path / "out") == before
  assert (tmp_path / "out" / version).is_dir()


def test_versions_lie_side_by_side_and_current_is_loaded(made, tmp_path):
  files, manifest = made
  quiet = {"check": lambda folder: None}
  first = publishing.publish(
      tmp_path, files, manifest, today=toys.TODAY, **quiet)
  second = publishing.publish(
      tmp_path, files, manifest, today=toys.TODAY + datetime.timedelta(1),
      **quiet)
  assert load(tmp_path).version == second
  (tmp_path / "current").write_text(f"{first}\n")
  assert load(tmp_path).version == first
  assert load(tmp_path / second).version == second
  shutil.rmtree(tmp_path / first)
  with pytest.raises(manifest_lib.ArtefactError,
                     match=f"names version {first}"):
    load(tmp_path)


def test_an_expired_artefact_says_what_to_do(whole):
  last = toys.TODAY + datetime.timedelta(180)
  manifest_lib.read(whole, today=last)
  with pytest.raises(manifest_lib.ArtefactError,
                     match=r"expired on 2027-05-28.*export the run again"):
    manifest_lib.read(whole, today=last + datetime.timedelta(1))


def rewritten(folder, change):
  """Changes the manifest as somebody who also mends its checksums would."""
  content = json.loads((folder / "manifest.json").read_text())
  before = content["version"]
  change(content)
  if content.get("version") == before and type(content.get("made")) is str:
    content["version"] = manifest_lib.version_of(content)
  encoded = json.dumps(content, indent=2).encode()
  (folder / "manifest.json").write_bytes(encoded)
  (folder / "manifest.sha256").write_text(
      f"{hashlib.sha256(encoded).hexdigest()}  manifest.json\n")


NAMES = ("golden.npz", "manifest.json", "manifest.sha256", "parameters.npz",
         "score.stablehlo", "select.stablehlo", "vocabularies.json")


def bit_flip(rng, folder, name):
  content = bytearray((folder / name).read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  (folder / name).write_bytes(content)


def truncation(rng, folder, name):
  content = (folder / name).read_bytes()
  (folder / name).write_bytes(content[:rng.randrange(len(content))])


def extension(rng, folder, name):
  with open(folder / name, "ab") as file:
    file.write(rng.randbytes(rng.randrange(1, 9)))


def removal(rng, folder, name):
  (folder / name).unlink()


def swap(rng, folder, name):
  other = rng.choice([other for other in NAMES if other != name])
  (folder / name).write_bytes((folder / other).read_bytes())


def link(rng, folder, name):
  (folder / name).rename(folder.parent / name)
  (folder / name).symlink_to(folder.parent / name)


def pipe(rng, folder, name):
  (folder / name).unlink()
  os.mkfifo(folder / name)


@pytest.fixture
def nothing_is_read(monkeypatch):
  """Fails if a file is interpreted before its checksum is known to hold."""
  def fail(*args, **kwargs):
    pytest.fail("a file was interpreted before it was verified")

  monkeypatch.setattr(export, "deserialize", fail)
  monkeypatch.setattr(np, "load", fail)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("tamper", [
    bit_flip, truncation, extension, removal, swap, link, pipe])
def test_changed_files_are_refused_by_name(
    copy, nothing_is_read, tamper, seed):
  name = NAMES[seed % len(NAMES)]
  tamper(random.Random(seed), copy, name)
  with pytest.raises(manifest_lib.ArtefactError) as error:
    load(copy)
  assert "\n" not in str(error.value)
  # A changed manifest is told by the file of its checksum.
  assert name in str(error.value) or name == "manifest.json"


def renamed(name):
  def change(content):
    content["files"][name] = content["files"].pop("golden.npz")
  return change


def with_value(*path, value):
  def change(content):
    for key in path[:-1]:
      content = content[key]
    content[path[-1]] = value
  return change


def without(*path):
  def change(content):
    for key in path[:-1]:
      content = content[key]
    del content[path[-1]]
  return change


@pytest.mark.parametrize("change, message", [
    *((renamed(name), "files must be plain names") for name in (
        "../golden.npz", "/etc/passwd", "a/b", "", ".", "..", ".hidden",
        "manifest.json", "x" * 200, "a\nb")),
    *((without(key), f"{key} is missing") for key in (
        "format_version", "made", "expires", "versions", "platforms", "stages",
        "functions", "request", "golden", "files", "version")),
    *((with_value(key, value=7.5), f"{key} must be") for key in (
        "format_version", "made", "platforms", "stages", "functions",
        "request", "golden", "files", "version")),
    (with_value("format_version", value=2), "format_version must be 1, got 2"),
    (with_value("format_version", value=True), "format_version must be"),
    (with_value("made", value="20261129"), "made must be a day"),
    (with_value("expires", value="never"), "expires must be a day"),
    (with_value("expires", value="2026-11-28"), "expired on 2026-11-28"),
    (with_value("files", "golden.npz", "size", value=10**30),
     r"golden\.npz.*bytes"),
    (with_value("files", "golden.npz", "size", value=-1), "size must be"),
    (with_value("files", "golden.npz", "size", value=3), r"golden\.npz"),
    (with_value("files", "golden.npz", "sha256", value="0" * 64),
     r"golden\.npz.*sha256"),
    (with_value("files", "golden.npz", "sha256", value="0"), "sha256 must be"),
    (with_value("files", "more.npz", value={"sha256": "0" * 64, "size": 1}),
     r"more\.npz: the file is missing"),
    (without("files", "golden.npz"), r"files must be with.*golden\.npz"),
    (with_value("functions", "rank", value={}), "functions must be some of"),
    (with_value("functions", "score", "file", value="other"), "files must be"),
    (with_value("functions", "score", "buckets", "b", value=[8, 1]),
     r"buckets\.b must be"),
    (with_value("functions", "score", "buckets", "b", value=[10**12]),
     r"buckets\.b must be"),
    (with_value("functions", "score", "buckets", "n", value=[1]), "buckets"),
    (with_value("functions", "score", "inputs", value=[]), "inputs must be"),
    (with_value("functions", "score", "inputs", 0, "dtype", value="object"),
     "dtype must be"),
    (with_value("functions", "score", "inputs", 0, "shape", value=["b", "x"]),
     "shape must be"),
    (with_value("functions", "score", "inputs", 0, "shape", value=["b", -1]),
     "shape must be"),
    (with_value("request", "theta", value=10**400), "theta must be"),
    (with_value("golden", "relative", value=1e9), r"golden\.relative must be"),
    (with_value("golden", "relative", value=float("nan")), "NaN"),
    (with_value("version", value="20261129-0123456789ab"),
     "version must be 20261129-"),
    (with_value("stages", value=[{"name": "slates"}, {"name": "ensemble"}]),
     "stages must be"),
])
def test_manifests_with_mended_checksums_are_refused(
    copy, nothing_is_read, change, message):
  try:
    rewritten(copy, change)
  except ValueError:  # NaN has no version.
    encoded = (copy / "manifest.json").read_text().replace(
        '"relative": 1e-05', '"relative": NaN').encode()
    (copy / "manifest.json").write_bytes(encoded)
    (copy / "manifest.sha256").write_bytes(
        manifest_lib.checksum_line(encoded))
  with pytest.raises(manifest_lib.ArtefactError, match=message) as error:
    load(copy)
  assert "manifest.json" in str(error.value) or "npz" in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, message", [
    (with_value("functions", "score", "inputs", 0, "name", value="x"),
     r"score\.stablehlo: has other inputs"),
    (with_value("functions", "select", "outputs", 0, "shape", value=["b", 9]),
     r"select\.stablehlo: has other outputs"),
    (with_value("request", "theta", value=0.9),
     r"golden\.npz: select answers otherwise.*gains"),
])
def test_what_the_manifest_says_otherwise_is_refused(copy, change, message):
  rewritten(copy, change)
  with pytest.raises(manifest_lib.ArtefactError, match=message):
    load(copy)


@pytest.mark.parametrize("name", [
    name for name in NAMES if not name.startswith("manifest")])
def test_verified_files_that_cannot_be_read_are_refused(copy, name):
  (copy / name).write_bytes(b"nonsense")
  rewritten(copy, with_value("files", name, value={
      "sha256": hashlib.sha256(b"nonsense").hexdigest(), "size": 8}))
  with pytest.raises(manifest_lib.ArtefactError,
                     match=f"{name}: cannot be used") as error:
    load(copy)
  assert "\n" not in str(error.value)


def test_a_file_more_is_refused(copy):
  (copy / "extra").write_text("")
  with pytest.raises(manifest_lib.ArtefactError, match="extra: the manifest"):
    load(copy)


@pytest.mark.slow
def test_killed_exports_leave_nothing_that_a_rerun_does_not_mend(tmp_path):
  command = [sys.executable, "-c", (
      "import sys; from tests.serving import toys; toys.publish(sys.argv[1])")]
  root = pathlib.Path(__file__).parents[2]
  started = time.monotonic()
  subprocess.run([*command, tmp_path / "wanted"], check=True, cwd=root)
  seconds = time.monotonic() - started
  rng = random.Random(0)
  for _ in range(10):
    process = subprocess.Popen([*command, tmp_path / "out"], cwd=root)
    time.sleep(rng.uniform(0.4, 1) * seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (tmp_path / "out" / "current").exists():
      load(tmp_path / "out")
  subprocess.run([*command, tmp_path / "out"], check=True, cwd=root)
  assert content_of(tmp_path / "out") == content_of(tmp_path / "wanted")
