"""A workdir: its configuration, what is written there, and how."""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import json
import pathlib
import shutil
from typing import Any
import zlib

import numpy as np

from experiments.runs import errors
from harmonrank_jax.data import files

CONFIG = "config.json"
# Version of the files in a workdir; a run resumes with the same one only.
FORMAT = 2


def open_workdir(path: str | pathlib.Path, config: dict[str, Any]) -> bool:
  """Makes the workdir, or checks its configuration; whether it was there.

  Another configuration or version, or a folder of something else, is an error.
  """
  path = pathlib.Path(path)
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe = path / ".writing"
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise errors.UserError(
        f"workdir {path} cannot be written to ({error.strerror}).") from None
  file = path / CONFIG
  if not file.exists():
    # A run that was killed while it began may have left a part of a file.
    if any(entry.suffix != ".writing" for entry in path.iterdir()):
      raise errors.UserError(
          f"workdir {path} is not empty and has no {CONFIG}; name an empty or "
          "new folder with --workdir.")
    write_json(file, {"format_version": FORMAT, **config})
    return False
  known = read_config(path)
  config = json.loads(json.dumps(config))
  differing = [
      f"--{name} was {_show(known.get(name))}, now {_show(config.get(name))}"
      for name in sorted({*known, *config})
      if known.get(name) != config.get(name)]
  if differing:
    raise errors.UserError(
        f"workdir {path} belongs to another configuration: "
        f"{'; '.join(differing)}. Name another --workdir.")
  return True


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """The configuration of a workdir; `UserError` if unreadable or too old."""
  content = read_json(path / CONFIG)
  version = content.pop("format_version", 1) if isinstance(content, dict) else 0
  if version != FORMAT:
    raise errors.UserError(
        f"workdir {path} was begun by another version of this program, which "
        "cannot go on with it; name another --workdir.")
  return content


def read_json(path: pathlib.Path) -> Any:
  """The content of a file; `UserError` if it cannot be read."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    raise errors.UserError(f"{path} is not readable as JSON.") from None


@contextlib.contextmanager
def claimed(
    path: str | pathlib.Path, config: dict[str, Any]
) -> Iterator[None]:
  """`open_workdir`, but left as it was if what is done within it fails."""
  was_there = open_workdir(path, config)
  try:
    yield
  except BaseException:
    if not was_there:
      # It was empty: everything in it is from this run.
      for entry in pathlib.Path(path).iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    raise


def check_same_data(
    workdir: pathlib.Path, arrays: Iterable[np.ndarray]
) -> None:
  """Refuses to resume with other arrays, by a checksum of the first ones."""
  checksum = 0
  for array in arrays:
    checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
  content = {"checksum": checksum}
  path = workdir / "data.json"
  if not path.exists():
    write_json(path, content)
  elif read_json(path) != content:
    raise errors.UserError(
        f"the data has changed since workdir {workdir} was begun; name "
        "another --workdir.")


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes JSON under a temporary name and renames it; NaN becomes null."""
  write_text(path, json.dumps(finite(content), indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text under a temporary name and renames it."""
  with files.atomic(path) as temporary:
    temporary.write_text(text)


def finite(content: Any) -> Any:
  """The content with NaN and infinities as None, arrays as lists."""
  if isinstance(content, dict):
    return {str(key): finite(value) for key, value in content.items()}
  if isinstance(content, (list, tuple)):
    return [finite(value) for value in content]
  if hasattr(content, "tolist"):
    return finite(content.tolist())
  if isinstance(content, float) and not abs(content) < float("inf"):
    return None
  return content


def _show(value: Any) -> str:
  return "not set" if value is None else json.dumps(value)
