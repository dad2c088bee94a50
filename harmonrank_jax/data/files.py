"""Files of a folder, and files that are whole or not there."""

from collections.abc import Iterator
import contextlib
import os
import pathlib

from harmonrank_jax.data import schema as schema_lib


def find(path: str | pathlib.Path, *patterns: str) -> list[pathlib.Path]:
  """The file itself, or the files of a folder by the first pattern of any."""
  path = pathlib.Path(path)
  if not path.exists():
    raise schema_lib.DataError(f"{path}: no such file or folder.")
  if not path.is_dir():
    return [path]
  for pattern in patterns:
    # Writers of many parts give folders such a name: they are searched.
    matches = sorted(file for file in path.rglob(pattern) if file.is_file())
    if matches:
      return matches
  raise schema_lib.DataError(
      f"{path}: the folder has no {' and no '.join(patterns)} file.")


@contextlib.contextmanager
def atomic(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A file is written under a temporary name and renamed when it is whole.

  Yields the temporary name to write to, beside `path`; if nothing is written
  there, nothing is renamed. Nobody ever sees a part of a file under its name,
  and an error leaves what was there before. The folder is made if it is
  missing.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + ".writing")
  try:
    yield temporary
    if temporary.exists():
      with open(temporary, "rb") as file:
        os.fsync(file.fileno())
      temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
