"""Versions of an artefact side by side, each whole or not there."""

from collections.abc import Callable
from collections.abc import Mapping
import datetime
import fcntl
import functools
import hashlib
import os
import pathlib
import shutil
from typing import Any

import jax
import jaxlib
import numpy as np

from harmonrank_jax.data import files as files_lib
from harmonrank_jax.serving import bundle
from harmonrank_jax.serving import manifest as manifest_lib
import harmonrank_jax.version as version_lib

# `jax.export` promises that half a year old functions run.
_DAYS = 180
_WRITING = ".writing"


def publish(
    out: str | pathlib.Path,
    files: Mapping[str, bytes],
    manifest: Mapping[str, Any],
    *,
    days: int = _DAYS,
    today: datetime.date | None = None,
    check: Callable[[pathlib.Path], object] | None = None,
) -> str:
  """Writes a version of an artefact and makes it the current one.

  The version is written and checked under a temporary name, renamed, and then
  named by `current`: whatever happens, what was current before stays so until
  the new one is whole. The same content on the same day is the same version.

  Args:
    out: folder of the versions; made if it is missing.
    files: name to content of each file beside the manifest.
    manifest: all but what is said here: `format_version`, `versions`, `made`,
      `expires`, `files` and `version`.
    days: after so many days the version must not be loaded.
    today: the day of the export (UTC); by default this one.
    check: raises if the folder that it gets must not be published; by default
      the folder is loaded, which replays its golden rows.

  Returns:
    The name of the version.

  Raises:
    ArtefactError: if the manifest is not whole, or by the check.
  """
  out = pathlib.Path(out)
  made = today or datetime.datetime.now(datetime.UTC).date()
  content = dict(manifest) | {
      "format_version": manifest_lib.FORMAT_VERSION,
      "versions": {"jax": jax.__version__, "jaxlib": jaxlib.__version__,
                   "numpy": np.__version__,
                   "harmonrank_jax": version_lib.VERSION},
      "made": str(made),
      "expires": str(made + datetime.timedelta(days=days)),
      "files": {name: {"sha256": hashlib.sha256(files[name]).hexdigest(),
                       "size": len(files[name])} for name in sorted(files)}}
  check = check or functools.partial(bundle.load, warm=False, today=made)
  version = content["version"] = manifest_lib.version_of(content)
  encoded = manifest_lib.to_bytes(content)
  everything = dict(files) | {
      manifest_lib.MANIFEST: encoded,
      manifest_lib.CHECKSUM: manifest_lib.checksum_line(encoded)}
  is_new = not out.exists()
  out.mkdir(parents=True, exist_ok=True)
  lock = os.open(out, os.O_RDONLY)
  try:
    # Another export into this folder ends first; a killed one holds nothing.
    fcntl.flock(lock, fcntl.LOCK_EX)
    for left in out.glob(f".*{_WRITING}"):
      shutil.rmtree(left)
    if not _is_whole(out / version, everything):
      _write(out / version, everything, check)
    with files_lib.atomic(out / manifest_lib.CURRENT) as temporary:
      temporary.write_text(f"{version}\n")
    os.fsync(lock)
  finally:
    os.close(lock)
    if is_new and not any(out.iterdir()):
      out.rmdir()
  return version


def _is_whole(folder: pathlib.Path, files: Mapping[str, bytes]) -> bool:
  """Whether a folder is there and holds these files and no others."""
  return (folder.is_dir() and not folder.is_symlink()
          and {entry.name for entry in folder.iterdir()} == set(files)
          and all((folder / name).is_file() and not (folder / name).is_symlink()
                  and (folder / name).read_bytes() == content
                  for name, content in files.items()))


def _write(
    folder: pathlib.Path, files: Mapping[str, bytes],
    check: Callable[[pathlib.Path], object],
) -> None:
  """Writes a folder that is checked, and on the disk, before it has its name.

  What has the name already is moved away; the next export removes it if this
  one is killed here.
  """
  writing = folder.with_name(f".{folder.name}{_WRITING}")
  broken = folder.with_name(f".{folder.name}.broken{_WRITING}")
  try:
    writing.mkdir()
    for name, content in files.items():
      with open(writing / name, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(writing, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    check(writing)
    if folder.is_symlink() or folder.is_file():
      folder.unlink()
    elif folder.exists():
      folder.replace(broken)
    writing.replace(folder)
  finally:
    for left in (writing, broken):
      shutil.rmtree(left, ignore_errors=True)
