"""Flags from a `Config`, and how a binary starts, stops and fails.

A binary's flags are the fields of its `Config`: the default is the field's,
text and bounds are its metadata. A wrong flag, file, column or value ends with
exit code 2 and one line.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import errno
import os
import sys
import types
import typing
from typing import Any
from typing import NoReturn
from typing import TypeVar

from absl import app
from absl import flags
from absl import logging
import jax

from experiments.runs import errors
from harmonrank_jax.data import schema

_RESUMES = "the same command goes on from the newest checkpoint."
# Flags belong to the binary that calls `run`: --help lists its own.
flags.disclaim_key_flags()
# What a library may find written or read by somebody else.
_USER_ERRNO = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM,
               errno.EROFS, errno.EFBIG, errno.ENOTDIR, errno.EISDIR)
# What a `Config` may hold.
ConfigT = TypeVar("ConfigT")


def field(
    default: Any, text: str, *, low: float | None = None,
    high: float | None = None, choices: Sequence[str] | None = None,
) -> Any:
  """A field of a `Config`: a flag of its name, with its default.

  `text` is what --help says, `low` and `high` bound numbers, `choices` texts.
  """
  return dataclasses.field(default=default, metadata={
      "text": text, "low": low, "high": high, "choices": choices})


def define(config: type, *, has_workdir: bool = True) -> None:
  """Defines --workdir, if wanted, and a flag for each field of a dataclass.

  A field is a bool, an int, a float or a text, a tuple of texts or of numbers,
  and may be None. A flag of a tuple takes its entries with commas, or is given
  several times.
  """
  if has_workdir:
    flags.DEFINE_string(
        "workdir", None, "Where results go; runs/<name of the binary> if not "
        "given, with _embedded for the embedded log. A second run with the "
        "same configuration resumes.")
  kinds = typing.get_type_hints(config)
  for each in dataclasses.fields(config):
    _define(each.name, each.default, _kind(kinds[each.name]), **each.metadata)


def read(config: type[ConfigT]) -> ConfigT:
  """The `Config` of the parsed flags; `UserError` where one is no number."""
  kinds = typing.get_type_hints(config)
  values = {}
  for each in dataclasses.fields(config):  # type: ignore[arg-type]
    value = flags.FLAGS[each.name].value
    if isinstance(value, list):
      value = tuple(value)
      entry, _ = typing.get_args(_kind(kinds[each.name]))
      if entry is not str:
        value = _numbers(each.name, entry, value, **each.metadata)
    values[each.name] = value
  return config(**values)


def numbers_by_name(
    flag: str, texts: Sequence[str], names: Sequence[str], default: Any, *,
    kind: type[int] | type[float], expected: str, has_rest: bool = False,
) -> list[Any]:
  """Numbers from 0 of `names`, of texts as in "phones=2"; else `default`.

  A text as in "3" replaces the default if `has_rest`. `expected` says, in the
  `UserError` for anything else, what a number is.
  """
  numbers = {}
  for text in texts:
    name, _, number = text.rpartition("=")
    if name not in names and (name or not has_rest):
      raise errors.UserError(
          f"--{flag}={text}: expected numbers by category, as in "
          f"{names[0]}={kind(1)}; there is no category {name!r}"
          f"{schema.nearest(name, names)}.")
    try:
      numbers[name] = kind(number)
    except ValueError:
      numbers[name] = -1
    if not 0 <= numbers[name] < float("inf"):
      raise errors.UserError(
          f"--{flag}={text}: expected {expected}, got {number!r}.")
  default = numbers.get("", default)
  return [numbers.get(name, default) for name in names]


def workdir(config: Any, name: str) -> str:
  """The workdir asked for, or the default one of a binary."""
  is_embedded = hasattr(config, "data") and config.data is None
  default = f"runs/{name}_embedded" if is_embedded else f"runs/{name}"
  return flags.FLAGS["workdir"].value or default


def run(
    main: Callable[[ConfigT], Any], config: type[ConfigT], *,
    has_workdir: bool = True, after_interrupt: str = _RESUMES,
) -> None:
  """Runs `main` on the parsed flags; errors of the user exit with code 2.

  A binary that has no use for --workdir has no such flag. After Ctrl-C a line
  says what is left, `after_interrupt`.
  """
  define(config, has_workdir=has_workdir)
  jax.config.config_with_absl()
  app.run(lambda argv: _guarded(lambda: main(read(config)), argv,
                                after_interrupt),
          flags_parser=_parse)


class _ListFlag(flags.Flag):
  """A list, with commas; a flag that is given again adds to it."""

  def parse(self, argument: Any) -> None:
    before: list[Any] = (self.present and self.value) or []
    super().parse(argument)
    self.value = [*before, *(self.value or [])]


def _kind(annotation: Any) -> Any:
  """The type without None."""
  if isinstance(annotation, types.UnionType):
    return next(kind for kind in typing.get_args(annotation)
                if kind is not type(None))
  return annotation


def _define(
    name: str, default: Any, kind: Any, *, text: str, low: Any, high: Any,
    choices: Sequence[str] | None,
) -> None:
  """One flag."""
  if kind is bool:
    flags.DEFINE_bool(name, default, text)
  elif kind is int:
    flags.DEFINE_integer(name, default, text, lower_bound=low, upper_bound=high)
  elif kind is float:
    flags.DEFINE_float(name, default, text, lower_bound=low, upper_bound=high)
    # The bounds of absl let NaN pass.
    flags.register_validator(
        name, lambda value: value is None or value == value,
        message="must be a number.")
  elif kind is str and choices:
    flags.DEFINE_enum(name, default, tuple(choices), text)
  elif kind is str:
    flags.DEFINE_string(name, default, text)
  else:
    default = None if default is None else [str(entry) for entry in default]
    flags.DEFINE_flag(_ListFlag(
        flags.ListParser(), flags.CsvListSerializer(","), name, default, text))


def _numbers(
    name: str, kind: type[int] | type[float], texts: Sequence[str], *,
    low: float | None, high: float | None, **_,
) -> tuple[float, ...]:
  low = 0.0 if low is None else low
  high = sys.float_info.max if high is None else high
  try:
    numbers = tuple(kind(text) for text in texts)
  except ValueError:
    numbers = ()
  if not numbers or not all(low <= number <= high for number in numbers):
    most = "" if high == sys.float_info.max else f", at most {high:g}"
    raise errors.UserError(
        f"--{name}={','.join(texts)}: expected "
        f"{'whole ' if kind is int else ''}numbers of at least "
        f"{low:g}{most}.")
  return numbers


def _parse(argv: Sequence[str]) -> list[str]:
  if any(argument in ("--help", "-help", "-h", "-?") for argument in argv[1:]):
    flags.FLAGS.mark_as_parsed()
    app.usage(shorthelp=True, writeto_stdout=True)
    sys.exit(0)
  try:
    return flags.FLAGS(argv)
  except flags.UnrecognizedFlagError as error:
    name = error.flagname
    _fail(f"there is no flag --{name}{schema.nearest(name, flags.FLAGS)}; "
          "--help lists all.")
  except flags.IllegalFlagValueError as error:
    # Of a few texts, as in "flag --shape=Round: ... one of <round|square>".
    name, _, value = str(error).removeprefix("flag --").partition("=")
    known = getattr(flags.FLAGS[name].parser, "enum_values", ())
    near = schema.nearest(value.partition(":")[0], known)
    _fail(f"{error}{near}.")
  except flags.Error as error:
    _fail(error)


def _guarded(
    main: Callable[[], Any], argv: Sequence[str],
    after_interrupt: str = _RESUMES,
) -> None:
  if not flags.FLAGS["verbosity"].present:
    # Libraries tell every step of theirs; --verbosity=0 shows it.
    logging.set_verbosity(logging.WARNING)
  try:
    if len(argv) > 1:
      raise errors.UserError(
          f"unexpected argument {argv[1]!r}; flags begin with --.")
    main()
  except (errors.UserError, schema.DataError) as error:
    _fail(error)
  except KeyboardInterrupt:
    print(f"interrupted; {after_interrupt}", file=sys.stderr)
    sys.exit(130)
  except errors.StoppedError as stopped:
    print(f"{stopped}, everything is saved; the same command goes on from "
          "there.", file=sys.stderr)
    sys.exit(128 + stopped.signal)
  except OSError as error:
    if error.errno not in _USER_ERRNO:
      raise
    _fail(f"{error.filename or 'writing results'}: {error.strerror}.")


def _fail(error: BaseException | str) -> NoReturn:
  line = " ".join(str(error).split())
  print(f"{os.path.basename(sys.argv[0]) or 'error'}: {line}",
        file=sys.stderr)
  sys.exit(2)
