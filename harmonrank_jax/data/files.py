"""Files that are whole or not there."""

from collections.abc import Iterator
import contextlib
import os
import pathlib


@contextlib.contextmanager
def atomic(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A file is written under a temporary name and renamed when it is whole.

  Yields the temporary name to write to, beside `path`; if nothing is written
  there, nothing is renamed. Nobody ever sees a part of a file under its name,
  and an error leaves what was there before. The folder is made if it is
  missing.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder) / "a" / "b.txt"
  ...   with atomic(path) as temporary:
  ...     _ = temporary.write_text("whole")
  ...   path.read_text(), [entry.name for entry in path.parent.iterdir()]
  ('whole', ['b.txt'])
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
