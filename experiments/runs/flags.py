"""Flags that binaries share, and how a binary starts, stops and fails.

A wrong flag, file, column or value ends with exit code 2 and one line.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import errno
import os
import sys
from typing import Any
from typing import NoReturn

from absl import app
from absl import flags
from absl import logging
import jax

from experiments.runs import progress
from harmonrank_jax.data import generator
from harmonrank_jax.data import schema

DATA = flags.DEFINE_string(
    "data", None, "Log to train on: a Parquet file, or a folder of them. "
    "Without it the embedded log is generated.")
EVAL_DATA = flags.DEFINE_string(
    "eval_data", None, "Log to evaluate on. Without it the last fifth of the "
    "time range of --data is held out (a fifth of the users where there is "
    "no time).")
SCHEMA = flags.DEFINE_string(
    "schema", None, "JSON file that names the roles of columns. Without it "
    "they are understood by name.")
OBJECTIVES = flags.DEFINE_list(
    "objectives", None, "Objectives to use, in this order; all if not given.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; runs/<name of the binary> if not "
    "given, with _embedded for the embedded log. A second run with the same "
    "configuration resumes.")
# One for all trainings: larger batches rank no better for as many passes.
DEFAULT_BATCH_SIZE = 1024
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of initialisation and shuffling.", lower_bound=0,
    upper_bound=2**31 - 1)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, f"Rows of a step; if not given {DEFAULT_BATCH_SIZE:,}, "
    "or what there is.", lower_bound=1)
NUM_EXPOSURES = flags.DEFINE_integer(
    "num_exposures", 200_000, "Rows of the embedded log.", lower_bound=1000,
    upper_bound=20_000_000)
LOG_SEED = flags.DEFINE_integer(
    "log_seed", 0, "Seed of the embedded log.", lower_bound=0,
    upper_bound=2**31 - 1)
WORLD = flags.DEFINE_enum(
    "world", "default", generator.WORLDS, "World of the embedded log.")
# Those above; what binaries define for themselves comes later.
_SHARED = tuple(
    flag.name for flag in flags.FLAGS.flags_by_module_dict()[__name__])
# A flag that `define_float` defines is one of the binary that calls it.
flags.disclaim_key_flags()
_RESUMES = "the same command goes on from the newest checkpoint."


class UserError(Exception):
  """Something the user can mend, said in one line."""


def values_of(config: type) -> dict[str, Any]:
  """Values of the flags named like the fields of a dataclass; no lists."""
  values = {field.name: flags.FLAGS[field.name].value
            for field in dataclasses.fields(config)}
  return {name: tuple(value) if isinstance(value, list) else value
          for name, value in values.items()}


def workdir(name: str) -> str:
  """The workdir asked for, or the default one of a binary."""
  default = f"runs/{name}" if DATA.value else f"runs/{name}_embedded"
  return WORKDIR.value or default


def declare_used(names: Sequence[str]) -> None:
  """Lists some of the shared flags under --help of a binary that uses them."""
  for name in names:
    flags.declare_key_flag(name)


def check_used(names: Sequence[str], binary: str) -> None:
  """Checks that no other shared flag is given.

  Raises:
    UserError: if one is.
  """
  for name in _SHARED:
    if flags.FLAGS[name].present and name not in names:
      raise UserError(f"--{name} is no flag of {binary}.")


def define_float(
    name: str, default: float | None, text: str, *, upper_bound: float
) -> None:
  """A finite number from 0 to a bound; absl's own bounds let NaN pass."""
  flags.DEFINE_float(
      name, default, text, lower_bound=0.0, upper_bound=upper_bound)
  flags.register_validator(
      name, lambda value: value is None or value == value,
      message="must be a number.")


def warn(line: str) -> None:
  """Says in one line what is odd, but can be gone on with."""
  print(f"warning: {line}", file=sys.stderr, flush=True)


def run(
    main: Callable[[], None], *, after_interrupt: str = _RESUMES
) -> None:
  """Runs `main` after parsing flags; errors of the user exit with code 2.

  Args:
    main: what the binary does.
    after_interrupt: what Ctrl-C leaves, for the line that says so.
  """
  jax.config.config_with_absl()
  app.run(lambda argv: _guarded(main, argv, after_interrupt),
          flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
  if any(argument in ("--help", "-help", "-h", "-?") for argument in argv[1:]):
    flags.FLAGS.mark_as_parsed()
    app.usage(shorthelp=True, writeto_stdout=True)
    sys.exit(0)
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _fail(error)


def _guarded(
    main: Callable[[], None], argv: Sequence[str],
    after_interrupt: str = _RESUMES,
) -> None:
  if not flags.FLAGS["verbosity"].present:
    # Libraries tell every step of theirs; --verbosity=0 shows it.
    logging.set_verbosity(logging.WARNING)
  try:
    if len(argv) > 1:
      raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --.")
    main()
  except (UserError, schema.DataError) as error:
    _fail(error)
  except KeyboardInterrupt:
    print(f"interrupted; {after_interrupt}", file=sys.stderr)
    sys.exit(130)
  except progress.StoppedError as stopped:
    print(f"{stopped}, everything is saved; the same command goes on from "
          "there.", file=sys.stderr)
    sys.exit(128 + stopped.signal)
  except OSError as error:
    if error.errno not in _USER_ERRNO:
      raise
    _fail(f"{error.filename or 'writing results'}: {error.strerror}.")


_USER_ERRNO = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM,
               errno.EROFS, errno.EFBIG, errno.ENOTDIR, errno.EISDIR)


def _fail(error: BaseException | str) -> NoReturn:
  line = " ".join(str(error).split())
  print(f"{os.path.basename(sys.argv[0]) or 'error'}: {line}",
        file=sys.stderr)
  sys.exit(2)
