"""What an artefact says of itself, and its files, checked before their use.

An artefact is a folder of files that `manifest.json` lists with their sizes
and checksums; `manifest.sha256` is the checksum of the manifest. The bytes of
every file are read once and compared before any of them is interpreted.
"""

from collections.abc import Mapping
import datetime
import hashlib
import json
import os
import pathlib
import re
import stat
from typing import Any
from typing import NamedTuple

from harmonrank_jax.data import schema as schema_lib

CURRENT = "current"  # Beside the versions: a line with the name of one.
MANIFEST, CHECKSUM = "manifest.json", "manifest.sha256"
PARAMETERS, GOLDEN = "parameters.npz", "golden.npz"
VOCABULARIES = "vocabularies.json"
FORMAT_VERSION = 1
STAGES = ("predictor", "ensemble", "slates", "policy")
# Exported functions and the axes that their arrays may have any size of:
# rows or requests b, candidates n.
AXES = {"score": ("b",), "select": ("b", "n")}
_DTYPES = ("bool", "int32", "float32")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_VERSION = re.compile(r"[0-9]{8}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST = 16 * 2**20  # Bytes.
_MAX_SIZE = 2**31 - 1  # Of an axis.
_MAX_BUCKET = 1_000_000  # Rows, requests or candidates.
_LARGEST = 1e30  # Of a number that becomes a float32.
_KINDS = {dict: "an object", list: "a list", str: "a text",
          int: "a whole number", float: "a number"}


class ArtefactError(schema_lib.DataError):
  """A folder that is not used as an artefact; one line."""


class Field(NamedTuple):
  """One array that an exported function takes or gives."""

  name: str
  dtype: str
  shape: tuple[int | str, ...]  # Sizes, or "b" and "n" for any size.
  meaning: str

  def to_json(self) -> dict[str, Any]:
    """As a manifest holds it."""
    return {**self._asdict(), "shape": list(self.shape)}


class Signature(NamedTuple):
  """An exported function as the manifest describes it."""

  name: str
  file: str
  inputs: tuple[Field, ...]
  outputs: tuple[Field, ...]
  buckets: dict[str, tuple[int, ...]]  # Axis to increasing sizes.


class Contents(NamedTuple):
  """An artefact as it was read: nothing but the manifest is interpreted."""

  manifest: dict[str, Any]
  functions: dict[str, Signature]
  files: dict[str, bytes]  # Every file that the manifest lists.


def to_bytes(manifest: Mapping[str, Any]) -> bytes:
  """The manifest as it is written, in the order it is in.

  The order of objectives is that of arrays.
  """
  return (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode()


def checksum_line(manifest: bytes) -> bytes:
  """What `manifest.sha256` holds, as `sha256sum` writes it."""
  return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def version_of(manifest: Mapping[str, Any]) -> str:
  """The name of a version: its day, and a hash of all that is in it."""
  rest = {key: value for key, value in manifest.items() if key != "version"}
  digest = hashlib.sha256(to_bytes(rest)).hexdigest()
  return f"{manifest['made'].replace('-', '')}-{digest[:12]}"


def read(
    folder: str | pathlib.Path, *, today: datetime.date | None = None
) -> Contents:
  """Reads an artefact whose every file is what its manifest says.

  Args:
    folder: of one version, or of versions with one that is `current`.
    today: the day that must not be after the artefact's last one; by default
      this one (UTC).

  Raises:
    ArtefactError: if a file is missing, too many, changed or no plain file,
      the manifest lacks something, or the artefact has expired.
  """
  folder = version_folder(folder)
  if not (folder / MANIFEST).is_symlink() and not (folder / MANIFEST).exists():
    raise ArtefactError(
        f"{folder}: no {MANIFEST} and no {CURRENT}; expected a folder that "
        "python -m experiments.export wrote.")
  encoded = _bytes_of(folder / MANIFEST, _MAX_MANIFEST)
  line = _bytes_of(folder / CHECKSUM, 1024)
  if line != checksum_line(encoded):
    raise ArtefactError(
        f"{folder / CHECKSUM}: is not the checksum of {MANIFEST}; copy or "
        "export the artefact again.")
  try:
    manifest = json.loads(encoded, parse_constant=_no_constant)
  except (ValueError, RecursionError) as error:
    raise ArtefactError(
        f"{folder / MANIFEST}: is no JSON ({first_line(error)}).") from None
  functions = check(manifest, folder / MANIFEST, today)
  if _VERSION.fullmatch(folder.name) and folder.name != manifest["version"]:
    raise ArtefactError(
        f"{folder / MANIFEST}: is of version {manifest['version']}, and the "
        f"folder is named {folder.name}.")
  return Contents(manifest, functions, _read_files(folder, manifest["files"]))


def version_folder(folder: str | pathlib.Path) -> pathlib.Path:
  """The folder of one version, which it is itself or has as `current`.

  Raises:
    ArtefactError: if `current` names no folder beside it.
  """
  folder = pathlib.Path(folder)
  if not (folder / CURRENT).is_symlink() and not (folder / CURRENT).exists():
    return folder
  named = current_version(folder)
  if (folder / named).is_symlink() or not (folder / named).is_dir():
    raise ArtefactError(f"{folder / CURRENT}: names version {named}, which is "
                        "no folder there.")
  return folder / named


def current_version(folder: str | pathlib.Path) -> str:
  """The name in the `current` of a folder of versions.

  Raises:
    ArtefactError: if there is none.
  """
  path = pathlib.Path(folder) / CURRENT
  text = _bytes_of(path, 1024).decode("ascii", "replace").removesuffix("\n")
  if not _VERSION.fullmatch(text):
    raise ArtefactError(
        f"{path}: must hold the name of a version, got {text[:40]!r}.")
  return text


def check(
    manifest: Any, path: pathlib.Path, today: datetime.date | None = None
) -> dict[str, Signature]:
  """Checks a manifest by itself; returns the functions that it describes.

  Raises:
    ArtefactError: if something is missing, of another kind or out of range,
      the format is another one, or the artefact has expired.
  """
  try:
    return _checked(manifest, today)
  except _WrongError as error:
    raise ArtefactError(f"{path}: {error}") from None


class _WrongError(Exception):
  """What is wrong with a manifest, without its path."""


def _checked(
    manifest: Any, today: datetime.date | None
) -> dict[str, Signature]:
  if type(manifest) is not dict:
    raise _WrongError("must be an object.")
  found = _get(manifest, "format_version", int)
  if found != FORMAT_VERSION:
    raise _WrongError(
        f"format_version must be {FORMAT_VERSION}, got {_short(found)}; use "
        "the harmonrank_jax that made the artefact, or export it again.")
  made, expires = _day(manifest, "made"), _day(manifest, "expires")
  for package, version in _get(manifest, "versions", dict).items():
    _need(type(version) is str, f"versions.{package}", "a text", version)
  platforms = _get(manifest, "platforms", list)
  _need(platforms and all(type(p) is str for p in platforms), "platforms",
        "names of platforms", platforms)
  _check_stages(manifest)
  request = _get(manifest, "request", dict)
  _check_request(request)
  golden = _get(manifest, "golden", dict)
  for key in ("relative", "absolute"):
    value = _get(golden, key, float, "golden.")
    _need(0 <= value <= 1e-2, f"golden.{key}", "in [0, 0.01]", value)
  files = _get(manifest, "files", dict)
  for name, entry in files.items():
    _need(_NAME.fullmatch(name) and name not in (MANIFEST, CHECKSUM),
          "files", "plain names", name)
    _need(type(entry) is dict, f"files.{name}", "an object", entry)
    digest = _get(entry, "sha256", str, f"files.{name}.")
    _need(_SHA256.fullmatch(digest), f"files.{name}.sha256",
          "64 hexadecimal digits", digest)
    size = _get(entry, "size", int, f"files.{name}.")
    _need(size >= 0, f"files.{name}.size", "at least 0", size)
  functions = _functions(manifest)
  needed = {PARAMETERS, VOCABULARIES, GOLDEN}
  needed |= {signature.file for signature in functions.values()}
  _need(needed <= set(files), "files",
        f"with {', '.join(sorted(needed))}", sorted(files))
  version = _get(manifest, "version", str)
  _need(version == version_of(manifest), "version",
        f"{version_of(manifest)} by what is in it", version)
  if expires < (today or datetime.datetime.now(datetime.UTC).date()):
    raise _WrongError(
        f"expired on {expires} (made on {made}); export the run again, which "
        "needs no training.")
  return functions


def _check_stages(manifest: dict[str, Any]) -> None:
  stages = _get(manifest, "stages", list)
  names = [_get(stage, "name", str, "stages.") if type(stage) is dict else None
           for stage in stages]
  _need(names and [name for name in STAGES if name in names] == names,
        "stages", f"some of {', '.join(STAGES)}, in this order", names)
  for stage in stages:
    if stage["name"] not in ("predictor", "ensemble"):
      continue
    where = f"stages.{stage['name']}."
    objectives = _get(stage, "objectives", list, where)
    _need(objectives and all(type(name) is str for name in objectives),
          f"{where}objectives", "names of objectives", objectives)
    _get(stage, "schema", dict, where)


def _check_request(request: dict[str, Any]) -> None:
  """Checks the defaults of a request, each of which may be null."""
  for key in ("columns", "categories"):
    if (names := request.get(key)) is not None:
      _need(type(names) is list and all(type(name) is str for name in names),
            f"request.{key}", "a list of names", names)
  for key in ("category_column", "score_column", "features_column"):
    if (name := request.get(key)) is not None:
      _need(type(name) is str, f"request.{key}", "the name of a column", name)
  for key in ("log_value", "requests_today", "since_last"):
    if (value := request.get(key)) is not None:
      _need(_is_number(value), f"request.{key}", "a number", value)
  for key in ("objective_weights", "quotas"):
    if (values := request.get(key)) is not None:
      _need(type(values) is list and all(_is_number(v) for v in values),
            f"request.{key}", "a list of numbers", values)
  if (theta := request.get("theta")) is not None:
    _need(_is_number(theta) and 0 <= theta < 1, "request.theta",
          "in [0, 1)", theta)


def _functions(manifest: dict[str, Any]) -> dict[str, Signature]:
  functions = _get(manifest, "functions", dict)
  _need(functions and set(functions) <= set(AXES), "functions",
        f"some of {', '.join(AXES)}", sorted(functions))
  return {name: signature(name, entry) for name, entry in functions.items()}


def signature(name: str, entry: Any) -> Signature:
  """The function of a name, from its entry in a manifest, checked."""
  where = f"functions.{name}."
  _need(type(entry) is dict, f"functions.{name}", "an object", entry)
  axes = AXES[name]
  buckets = _get(entry, "buckets", dict, where)
  _need(tuple(sorted(buckets)) == axes, f"{where}buckets",
        f"sizes of {' and '.join(axes)}", sorted(buckets))
  for axis, sizes in buckets.items():
    _need(type(sizes) is list and sizes
          and all(type(size) is int and 0 < size <= _MAX_BUCKET
                  for size in sizes)
          and sizes == sorted(set(sizes)), f"{where}buckets.{axis}",
          f"increasing whole numbers from 1 to {_MAX_BUCKET:,}", sizes)
  return Signature(
      name, _get(entry, "file", str, where),
      _fields(_get(entry, "inputs", list, where), f"{where}inputs", axes),
      _fields(_get(entry, "outputs", list, where), f"{where}outputs", axes),
      {axis: tuple(buckets[axis]) for axis in axes})


def _fields(
    entries: list, where: str, axes: tuple[str, ...]
) -> tuple[Field, ...]:
  fields = []
  for entry in entries:
    _need(type(entry) is dict, where, "objects", entry)
    name = _get(entry, "name", str, f"{where}.")
    dtype = _get(entry, "dtype", str, f"{where}.{name}.")
    _need(dtype in _DTYPES, f"{where}.{name}.dtype",
          f"one of {', '.join(_DTYPES)}", dtype)
    shape = _get(entry, "shape", list, f"{where}.{name}.")
    _need(shape[:1] == ["b"] or not (set(map(str, shape)) & set(axes)),
          f"{where}.{name}.shape", 'with "b" first', shape)
    _need(all(size in axes if type(size) is str else
              type(size) is int and 0 <= size <= _MAX_SIZE
              for size in shape), f"{where}.{name}.shape",
          f"whole numbers, or {' and '.join(axes)}", shape)
    fields.append(Field(
        name, dtype, tuple(shape),
        _get(entry, "meaning", str, f"{where}.{name}.")))
  names = [field.name for field in fields]
  _need(names and len(set(names)) == len(names), where,
        "fields of different names", names)
  _need(any("b" in field.shape for field in fields), where,
        'with "b" in a shape', names)
  return tuple(fields)


def _get(content: dict[str, Any], key: str, kind: type, where: str = "") -> Any:
  """The entry of a key, which must be there and of a kind."""
  if key not in content:
    raise _WrongError(f"{where}{key} is missing.")
  value = content[key]
  _need(_is_number(value) if kind is float else type(value) is kind,
        f"{where}{key}", _KINDS[kind], value)
  return value


def _need(condition: Any, what: str, wanted: str, got: Any) -> None:
  if not condition:
    raise _WrongError(f"{what} must be {wanted}, got {_short(got)}.")


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and abs(value) <= _LARGEST


def _day(manifest: dict[str, Any], key: str) -> datetime.date:
  text = _get(manifest, key, str)
  try:
    day = datetime.date.fromisoformat(text)
  except ValueError:
    day = None
  _need(day is not None and str(day) == text, key, "a day YYYY-MM-DD", text)
  assert day is not None
  return day


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."


def first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _no_constant(name: str) -> None:
  raise ValueError(f"{name} is no number of JSON")


def _read_files(
    folder: pathlib.Path, files: dict[str, Any]
) -> dict[str, bytes]:
  found = {entry.name for entry in os.scandir(folder)}
  wanted = {*files, MANIFEST, CHECKSUM}
  for name in sorted(wanted - found):
    raise ArtefactError(f"{folder / name}: the file is missing.")
  for name in sorted(found - wanted):
    raise ArtefactError(
        f"{folder / name}: the manifest does not name this file.")
  result = {}
  for name, entry in sorted(files.items()):
    content = _bytes_of(folder / name, entry["size"])
    if len(content) != entry["size"]:
      raise ArtefactError(
          f"{folder / name}: {len(content)} bytes where the manifest says "
          f"{entry['size']}.")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
      raise ArtefactError(
          f"{folder / name}: its bytes are not those that were exported "
          "(sha256 differs).")
    result[name] = content
  return result


def _bytes_of(path: pathlib.Path, max_size: int) -> bytes:
  """The bytes of a plain file of limited size, never through a link."""
  try:
    # A pipe must not make the reader wait before it is seen to be one.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
  except FileNotFoundError:
    raise ArtefactError(f"{path}: the file is missing.") from None
  except OSError as error:
    why = "is a link" if path.is_symlink() else error.strerror
    raise ArtefactError(f"{path}: cannot be read ({why}).") from None
  with os.fdopen(descriptor, "rb") as file:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
      raise ArtefactError(f"{path}: is no plain file.")
    if status.st_size > max_size:
      raise ArtefactError(f"{path}: {status.st_size} bytes, at most "
                          f"{max_size} expected.")
    return file.read()
