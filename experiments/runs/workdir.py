"""A workdir: its lock, its configuration, what is written there, and how."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import errno
import fcntl
import functools
import json
import os
import pathlib
import shutil
from typing import Any
from typing import Concatenate
from typing import ParamSpec
from typing import TypeVar
import zlib

import numpy as np

from experiments.runs import errors
from harmonrank_jax.data import files

CONFIG = "config.json"
# What its reports have to say beside their figures.
NOTES = "notes.json"
LOCK = ".lock"
# What a file system without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Version of the files in a workdir; a run resumes with the same one only.
FORMAT = 3
# Of a run: its configuration, what it takes beside, what it returns.
ConfigT = TypeVar("ConfigT")
OptionsT = ParamSpec("OptionsT")
ResultT = TypeVar("ResultT")


def alone(
    run: Callable[Concatenate[ConfigT, pathlib.Path, OptionsT], ResultT],
) -> Callable[Concatenate[ConfigT, str | pathlib.Path, OptionsT], ResultT]:
  """A run of a configuration in a workdir, one at a time in each.

  The workdir is made. While a run is in it, `UserError` refuses every other
  one, of this process or another; how the run ends, killed or not, does not
  matter to the next.
  """
  @functools.wraps(run)
  def run_alone(
      config: ConfigT, workdir: str | pathlib.Path, *args: OptionsT.args,
      **kwargs: OptionsT.kwargs,
  ) -> ResultT:
    path = pathlib.Path(workdir)
    with locked(path):
      return run(config, path, *args, **kwargs)

  return run_alone


@contextlib.contextmanager
def locked(
    path: pathlib.Path, *, name: str = LOCK, flag: str = "workdir"
) -> Iterator[None]:
  """Makes a folder that a flag named, and holds a lock in it."""
  try:
    path.mkdir(parents=True, exist_ok=True)
    lock = _try_lock(path / name)
  except BlockingIOError:
    raise errors.UserError(
        f"{flag} {path} is in use by another run; wait for its end, or name "
        f"another --{flag}.") from None
  except OSError as error:
    raise errors.UserError(
        f"{flag} {path} cannot be written to ({error.strerror}).") from None
  try:
    yield
  finally:
    # While it is held, so that nobody else's is removed.
    (path / name).unlink(missing_ok=True)
    os.close(lock)


def _try_lock(path: pathlib.Path) -> int:
  """The open file of a lock that is now held; `BlockingIOError` if it is.

  The system frees it when the process ends; children do not inherit it.
  """
  while True:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # A run that ended since it was opened has removed it: it locks nothing.
      if os.path.samestat(os.fstat(lock), os.stat(path)):
        return lock
    except FileNotFoundError:
      pass
    except OSError as error:
      if error.errno in _NO_LOCKS:
        errors.warn(f"{path.parent}: the file system has no locks; see to it "
                    "that no other run works there.")
        return lock
      os.close(lock)
      raise
    os.close(lock)


def open_workdir(path: str | pathlib.Path, config: dict[str, Any]) -> bool:
  """Begins a workdir, or checks its configuration; whether it was begun.

  Another configuration or version, or a folder of something else, is an error.
  """
  path = pathlib.Path(path)
  file = path / CONFIG
  if not file.exists():
    # A run that was killed while it began may have left a part of a file.
    if any(entry.suffix != ".writing" and entry.name != LOCK
           for entry in path.iterdir()):
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
  # What is to be noted now is said anew.
  (path / NOTES).unlink(missing_ok=True)
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
        if entry.name != LOCK:
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


def say(workdir: pathlib.Path, lines: Iterable[str]) -> None:
  """Warns, and keeps the lines for the reports of the workdir."""
  lines = list(dict.fromkeys(lines))
  for line in lines:
    errors.warn(line)
  if lines:
    write_json(workdir / NOTES, list(dict.fromkeys([*notes(workdir), *lines])))


def notes(workdir: pathlib.Path) -> list[str]:
  """What `say` has kept."""
  path = workdir / NOTES
  return read_json(path) if path.exists() else []


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
