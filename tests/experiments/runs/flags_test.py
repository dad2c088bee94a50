"""Flags from a `Config`; what a binary says when it stops or fails."""

import dataclasses
import errno

from absl import flags as absl_flags
import pytest

from experiments.runs import errors
from experiments.runs import flags
from harmonrank_jax.data import schema as schema_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """One field of every kind."""

  steps: int | None = flags.field(None, "Steps.", low=1, high=9)
  pace: float = flags.field(0.5, "Pace.", low=0.0, high=1.0)
  is_quick: bool = flags.field(True, "Quick.")
  shape: str = flags.field("round", "Shape.", choices=("round", "square"))
  data: str | None = flags.field(None, "Data.")
  names: tuple[str, ...] | None = flags.field(None, "Names.")
  paces: tuple[float, ...] = flags.field((0.25, 0.5), "Paces.", high=1.0)
  sizes: tuple[int, ...] = flags.field((1, 8), "Sizes.", low=1, high=9)


@pytest.fixture
def defined():
  """The flags of `Config`, for one test."""
  flags.define(Config)
  yield
  for field in ("workdir", *(f.name for f in dataclasses.fields(Config))):
    delattr(absl_flags.FLAGS, field)


def parsed_config(*arguments):
  absl_flags.FLAGS(["binary", *arguments])
  return flags.read(Config)


def test_defaults_are_those_of_the_config(defined):
  config = parsed_config()
  assert config == Config()
  assert flags.workdir(config, "name") == "runs/name_embedded"


def test_every_kind_of_field_is_read(defined):
  config = parsed_config(
      "--steps=3", "--pace=1", "--nois_quick", "--shape=square", "--data=x",
      "--names=a,b", "--paces=1,0", "--sizes=9,2")
  assert config == Config(
      steps=3, pace=1.0, is_quick=False, shape="square", data="x",
      names=("a", "b"), paces=(1.0, 0.0), sizes=(9, 2))
  assert flags.workdir(config, "name") == "runs/name"
  absl_flags.FLAGS(["binary", "--workdir=mine"])
  assert flags.workdir(config, "name") == "mine"


def test_a_list_that_is_given_again_is_longer(defined):
  config = parsed_config("--names=a", "--names=b,c", "--paces=1", "--paces=0")
  assert config == Config(names=("a", "b", "c"), paces=(1.0, 0.0))


@pytest.mark.parametrize("argument", [
    "--stepps=1", "--steps=x", "--steps=0", "--steps=10", "--pace=nan",
    "--pace=2", "--shape=oval"])
def test_a_flag_that_is_unknown_or_wrong_is_said_in_one_line(
    defined, capsys, argument):
  with pytest.raises(SystemExit) as caught:
    flags._parse(["binary", argument])
  assert caught.value.code == 2
  err = capsys.readouterr().err
  assert argument.partition("=")[0][2:] in err and err.count("\n") == 1


@pytest.mark.parametrize("argument, near", [
    ("--Steps=1", "steps"), ("--STEPS=1", "steps"), ("--stepps=1", "steps"),
    ("--Is-Quick", "is_quick"), ("--shape=ROUND", "round"),
    ("--shape=Sqare", "square"), ("--zzz=1", None), ("--shape=zzz", None),
    ("--steps=zzz", None)])
def test_what_was_meant_is_said_in_any_case(defined, capsys, argument, near):
  with pytest.raises(SystemExit):
    flags._parse(["binary", argument])
  err = capsys.readouterr().err
  assert err.count("did you mean") == (near is not None)
  if near:
    assert f"(did you mean {near!r}?)" in err


@pytest.mark.parametrize("argument", [
    "--paces=0.5,x", "--paces=", "--paces=nan", "--paces=2", "--paces=-1"])
def test_a_list_of_numbers_holds_numbers(defined, argument):
  with pytest.raises(errors.UserError, match=r"--paces=.*at least 0"):
    parsed_config(argument)


@pytest.fixture
def parsed():
  """The flags of absl, with their defaults."""
  if not absl_flags.FLAGS.is_parsed():
    absl_flags.FLAGS(["test"])


def ends(main, argv=("binary",)):
  with pytest.raises(SystemExit) as caught:
    flags._guarded(main, list(argv))
  return caught.value.code


@pytest.mark.parametrize("error", [
    errors.UserError("--seed is\nodd"), schema_lib.DataError("column 'x': odd"),
    OSError(errno.ENOSPC, "No space left on device", "report.html")])
def test_an_error_of_the_user_is_one_line_and_exit_code_2(
    parsed, capsys, error):
  def main():
    raise error

  assert ends(main) == 2
  err = capsys.readouterr().err
  assert err.count("\n") == 1 and "Traceback" not in err
  assert "odd" in err or "report.html: No space left" in err


def test_an_error_of_ours_is_not_hidden(parsed):
  def main():
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    flags._guarded(main, ["binary"])


def test_ctrl_c_is_one_line(parsed, capsys):
  def main():
    raise KeyboardInterrupt

  assert ends(main) == 130
  assert capsys.readouterr().err.count("\n") == 1


def test_a_stray_argument_is_refused(parsed, capsys):
  assert ends(lambda: None, ("binary", "data.parquet")) == 2
  assert "unexpected argument 'data.parquet'" in capsys.readouterr().err


def test_a_signal_gives_its_exit_code(parsed, capsys):
  def main():
    raise errors.StoppedError(15, 7)

  assert ends(main) == 143
  assert "stopped at step 7, everything is saved" in capsys.readouterr().err


@pytest.mark.parametrize("texts, expected", [
    pytest.param([], [9, 9], id="default"),
    pytest.param(["toys=2"], [9, 2], id="one name"),
    pytest.param(["3", "toys=2"], [3, 2], id="the rest")])
def test_numbers_by_name(texts, expected):
  assert flags.numbers_by_name(
      "quota", texts, ["books", "toys"], 9, kind=int, expected="a number",
      has_rest=True) == expected


@pytest.mark.parametrize("text, said", [
    pytest.param("boks=1", "as in books=1.0; there is no category 'boks' "
                 r"\(did you mean 'books'\?\)", id="unknown"),
    pytest.param("0.5", "there is no category ''", id="no name"),
    pytest.param("books=x", "expected a number, got 'x'", id="a word"),
    pytest.param("books=nan", "got 'nan'", id="NaN"),
    pytest.param("books=inf", "got 'inf'", id="infinite"),
    pytest.param("books=-1", "got '-1'", id="negative")])
def test_numbers_by_name_are_checked(text, said):
  with pytest.raises(errors.UserError, match=said):
    flags.numbers_by_name(
        "worth", [text], ["books"], 1.0, kind=float, expected="a number")
