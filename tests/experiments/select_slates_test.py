"""Slates from files of candidates: a whole run, and what it refuses."""

import contextlib
import dataclasses
import io
import json
import pathlib
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from experiments import select_slates
from experiments.runs import errors
from experiments.slates.config import Config
from harmonrank_jax.data import schema as schema_lib
from tests import browser
from tests.data import candidate_files

ROOT = pathlib.Path(__file__).parents[2]
NUM_SELECTED, THETA = 5, 0.6


def config(data, **changes):
  return Config(**{
      "data": data, "num_selected": NUM_SELECTED, "theta": THETA, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run on the good file: its workdir, summary and what it said."""
  folder = tmp_path_factory.mktemp("slates")
  data = candidate_files.write(
      candidate_files.make_frame(), folder / "candidates.parquet")
  with contextlib.redirect_stdout(io.StringIO()) as said:
    summary = select_slates.select(config(data), folder / "run")
  return folder / "run", summary, said.getvalue()


def test_a_workdir_holds_everything(finished):
  workdir, summary, _ = finished
  assert {p.name for p in workdir.iterdir()} == {
      "config.json", "slates.parquet", "slates.html", "report.html",
      "summary.json", "model.json", "parameters.npz"}
  assert json.loads((workdir / "summary.json").read_text()) == summary
  assert len(pq.read_table(workdir / "slates.parquet")) == summary["num_slots"]
  for values in summary["methods"].values():
    assert 0 < values["score"]["mean"] < 1 and values["score"]["error"] > 0


def test_the_terminal_begins_with_counts_and_ends_with_where_to_look(finished):
  workdir, _, said = finished
  assert "10 requests, 193 candidates, 40 at most; 3 categories" in said
  *_, top_k, paths = said.splitlines()
  assert top_k.startswith("top_k ")
  assert paths.split() == [str(workdir / name) for name in (
      "slates.html", "report.html", "slates.parquet", "summary.json")]


def test_another_configuration_is_refused(finished):
  workdir, summary, _ = finished
  with pytest.raises(errors.UserError, match=r"--theta was 0\.6, now 0\.5"):
    select_slates.select(config(summary["config"]["data"], theta=0.5), workdir)


@pytest.mark.parametrize("changes, said", [
    pytest.param({"theta": 1.0}, "--theta=1 is relevance alone", id="flags"),
    pytest.param({"quota": ("bookz=2",)}, "'bookz' (did you mean 'books'?)",
                 id="quota"),
    pytest.param({"features_column": "vectors"}, "no column 'vectors'",
                 id="columns"),
    pytest.param({"data": "/nowhere.parquet"}, "no such file", id="no file")])
def test_a_refused_run_leaves_the_workdir_empty(
    tmp_path, finished, changes, said):
  data = finished[1]["config"]["data"]
  with pytest.raises((errors.UserError, schema_lib.DataError)) as caught:
    select_slates.select(config(**{"data": data, **changes}), tmp_path / "run")
  # With the flag mended, the same workdir will do.
  assert not list((tmp_path / "run").iterdir())
  assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
  (tmp_path / "text.parquet").write_text("dear diary")
  with pytest.raises(schema_lib.DataError, match="not a Parquet file"):
    select_slates.select(
        config(str(tmp_path / "text.parquet")), tmp_path / "run")


# Slow: other processes, a browser.


def run(*arguments):
  return subprocess.run(
      [sys.executable, "-m", "experiments.select_slates", *arguments],
      cwd=ROOT, text=True, capture_output=True, check=False)


@pytest.mark.slow
def test_a_second_run_replaces_the_results(finished):
  workdir, summary, _ = finished
  before = (workdir / "slates.parquet").read_bytes()
  again = select_slates.select(Config(**summary["config"]), workdir)
  assert {**again, "seconds": 0} == {**summary, "seconds": 0}
  assert (workdir / "slates.parquet").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("argument, said", [
    pytest.param("--method=dpq", "method", id="method"),
    pytest.param("--theta=nan", "theta", id="NaN"),
    pytest.param("--theta=1.5", "theta", id="theta"),
    pytest.param("--window=0", "window", id="window"),
    pytest.param("--schema=x", "there is no flag --schema", id="no flag"),
    pytest.param("--data=/nowhere", "no such file", id="no file")])
def test_on_a_wrong_flag_the_binary_says_one_line(tmp_path, argument, said):
  ended = run(f"--workdir={tmp_path / 'run'}", argument)
  assert ended.returncode == 2
  assert said in ended.stderr and ended.stderr.count("\n") == 1


def test_every_flag_is_one_of_the_binary(tmp_path):
  listed = run("--help").stdout
  for field in dataclasses.fields(Config):
    assert f"\n  --{field.name}:" in listed, field.name
  # Whichever is wrong is said alone: the others are taken.
  ended = run("--theta=0.5", "--ridge=0.9", "--window=3", "--quota=3",
              "--fill=relevance", "--relevance=raw", "--data=/nowhere",
              f"--workdir={tmp_path / 'run'}")
  assert "no such file" in ended.stderr


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
  """A run without data."""
  workdir = tmp_path_factory.mktemp("embedded") / "run"
  ended = run(f"--workdir={workdir}", "--num_exposures=20000")
  assert ended.returncode == 0, ended.stderr
  return workdir, ended.stdout


@pytest.mark.slow
def test_without_data_there_are_users_and_their_week(embedded):
  workdir, out = embedded
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary["num_candidates"] == 20_000 and summary["num_repeated"] > 0
  assert summary["num_features"] == 32 and "slates.html" in out
  by_method = summary["methods"]
  # Each method is best at its own objective, far beyond the errors.
  assert by_method["top_k"]["score"]["mean"] > by_method["dpp"]["score"]["mean"]
  assert (by_method["dpp"]["log_det"]["mean"]
          > by_method["top_k"]["log_det"]["mean"] + 1)


def page_data(workdir):
  text = (workdir / "slates.html").read_text()
  data, = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
  return json.loads(data)


@pytest.mark.slow
def test_the_page_moves_in_a_browser(embedded):
  workdir, _ = embedded
  data = page_data(workdir)

  def expected(method, step):
    return [[request["items"][place]["id"]
             for place in request["slates"][method][step]["items"]]
            for request in data["requests"]]

  def cards():
    return page.evaluate(
        "[...document.querySelectorAll('ol')].map(list => "
        "[...list.children].map(card => card.dataset.item))")

  with browser.opened(workdir / "slates.html") as page:
    start = data["thetas"].index(0.7)
    assert cards() == expected("dpp", start)
    figures = page.text_content("#metrics")
    # By the keyboard, as by the mouse.
    page.focus("#theta")
    page.keyboard.press("ArrowLeft")
    assert cards() == expected("dpp", start - 1)
    page.keyboard.press("Home")
    assert cards() == expected("dpp", 0)
    assert cards() != expected("dpp", start)
    assert figures != page.text_content("#metrics")
    for method in ("mmr", "ssd", "top_k"):
      page.focus("input:checked")
      page.keyboard.press("ArrowRight")
      assert cards() == expected(method, 0)
      assert page.input_value("input:checked") == method
    # With top-K there is no knob to be moved.
    assert page.is_disabled("#theta")
    for width in (1280, 360):
      page.set_viewport_size({"width": width, "height": 800})
      assert page.evaluate(
          "document.documentElement.scrollWidth <= innerWidth")
    assert len(page.screenshot()) > 10_000
