"""Files of a folder, files that are whole or not there, files of arrays."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import fnmatch
import io
import os
import pathlib
import re
from typing import NamedTuple
from urllib import parse

import numpy as np

from harmonrank_jax.data import schema as schema_lib

# What lies in the folder of a table that has versions: which of its files are
# rows of the newest one is said elsewhere, not by the folder.
_VERSIONED = {"a Delta": "_delta_log", "a Hudi": ".hoodie",
              "an Iceberg": "metadata/*.metadata.json"}
# How writers of partitioned folders spell a missing value.
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# The scheme of an address, of which a path has lost the second slash.
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+:)/(?!/)")


class Found(NamedTuple):
  """Files of a folder, sorted."""

  files: list[pathlib.Path]  # At least one.
  # Others of the same names, which are hidden or in a hidden folder.
  skipped: list[pathlib.Path]


def find(path: str | pathlib.Path, *patterns: str) -> list[pathlib.Path]:
  """The files of `search`."""
  return search(path, *patterns).files


def search(path: str | pathlib.Path, *patterns: str) -> Found:
  """The file itself, or the files of a folder by the first pattern of any.

  Patterns are of names, in any case, as `*.parquet`.
  What begins with a dot or an underscore is no data: writers keep attempts,
  checkpoints and journals there. A folder `_name=value` is a partition.

  Raises:
    DataError: if there is no such path or file, or the folder is that of a
      table with versions.
  """
  named = _SCHEME.sub(r"\1//", str(path))
  path = pathlib.Path(path)
  if not path.exists():
    raise schema_lib.DataError(
        f"{named}: no such file or folder{_hint(named)}.")
  if not path.is_dir():
    return Found([path], [])
  _check_plain(path)
  skipped: list[pathlib.Path] = []
  for pattern in patterns:
    # Writers of many parts give folders such a name: they are searched.
    matches = sorted(
        file for file in path.rglob("*") if file.is_file()
        and fnmatch.fnmatchcase(file.name.casefold(), pattern.casefold()))
    parts: tuple[list[pathlib.Path], list[pathlib.Path]] = ([], [])
    for file in matches:
      parts[_is_hidden(file.relative_to(path))].append(file)
    if parts[False]:
      return Found(*parts)
    skipped += parts[True]
  hidden_ones = (
      f" but hidden ones, as {skipped[0].relative_to(path)}" if skipped else "")
  raise schema_lib.DataError(
      f"{path}: the folder has no {' and no '.join(patterns)} file"
      f"{hidden_ones}.")


def partition(
    path: str | pathlib.Path, file: pathlib.Path
) -> dict[str, str | None]:
  """Columns that the folders between a path and a file name, as texts.

  >>> partition("log", pathlib.Path("log/day=2024-01-01/hour=7/0.parquet"))
  {'day': '2024-01-01', 'hour': '7'}
  """
  folders = file.relative_to(path).parts[:-1]
  pairs = [folder.split("=", 1) for folder in folders if "=" in folder[1:]]
  return {
      parse.unquote(name):
          None if value == _NULL_PARTITION else parse.unquote(value)
      for name, value in pairs}


def _hint(path: str) -> str:
  """What a path that is not there may have been meant as."""
  if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
    return (": only local paths are read; copy the files to a disk, or mount "
            "them")
  if any(character in path for character in "*?["):
    return (": patterns of names are not expanded; name a folder, of which "
            "all files are read, or one file")
  if path.startswith("~"):
    return ": ~ is not expanded after =; write the whole path"
  return ""


def _check_plain(path: pathlib.Path) -> None:
  """Raises if a folder holds, or is within, a table with versions."""
  for kind, mark in _VERSIONED.items():
    found = next(path.rglob(mark), None)
    for parent in path.resolve().parents:
      found = found or next(parent.glob(mark), None)
    if found is not None:
      raise schema_lib.DataError(
          f"{path}: {found} belongs to {kind} table, whose folder also "
          "holds rows of other versions; write the version that is meant as "
          "plain Parquet, and name that folder.")


def _is_hidden(relative: pathlib.Path) -> bool:
  return any(
      part.startswith(".") or (part.startswith("_") and "=" not in part)
      for part in relative.parts)


@contextlib.contextmanager
def atomic(
    path: str | pathlib.Path, *, temporary_name: str | None = None
) -> Iterator[pathlib.Path]:
  """A file is written under a temporary name and renamed when it is whole.

  Yields the temporary name to write to, beside `path`; if nothing is written
  there, nothing is renamed. Nobody ever sees a part of a file under its name,
  and an error leaves what was there before. The folder is made if it is
  missing.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(temporary_name or f"{path.name}.writing")
  try:
    yield temporary
    if temporary.exists():
      with open(temporary, "rb") as file:
        os.fsync(file.fileno())
      temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def arrays_to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
  """The content of an `.npz` file; the same for the same arrays, at any time.

  >>> content = arrays_to_bytes({"b/c": np.arange(2), "a": np.ones(1)})
  >>> arrays_from_bytes(content)
  {'a': array([1.]), 'b/c': array([0, 1])}
  """
  content = io.BytesIO()
  np.savez(content, allow_pickle=False,
           **{name: arrays[name] for name in sorted(arrays)})
  return content.getvalue()


def arrays_from_bytes(content: bytes) -> dict[str, np.ndarray]:
  """The inverse of `arrays_to_bytes`.

  ValueError if an array is of objects, or takes more memory than the content.
  """
  with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
    if any(each.compress_type for each in arrays.zip.infolist()):
      raise ValueError("it is compressed")
    return dict(arrays)
