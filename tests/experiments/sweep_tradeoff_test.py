"""The binary: what it refuses, what it leaves, and that it resumes."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import sweep_tradeoff
from experiments.ranker import config as config_lib
from experiments.ranker import inputs as inputs_lib
from experiments.runs import errors
from experiments.runs import workdir as workdir_lib
from experiments.tradeoff import families as families_lib
from experiments.tradeoff import weights as weights_lib
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import ranker as ranker_lib
from tests.experiments.tradeoff import cases

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("given, said", [
    ({"num_weights": 2}, "--num_weights=2: 2 objectives need at least 3"),
    ({"objectives": ("click", "never")}, "there is click")],
    ids=["too few weights", "too few objectives"])
def test_nothing_is_trained_on_what_cannot_be_swept(
    tmp_path, capsys, given, said):
  cases.write_log(tmp_path / "log.parquet")
  config = sweep_tradeoff.Config(
      data=str(tmp_path / "log.parquet"), batch_size=4, **given)
  with pytest.raises(errors.UserError, match=said):
    sweep_tradeoff.sweep(config, tmp_path / "run")
  assert not list((tmp_path / "run").iterdir())
  assert "the sweep leaves out never" in capsys.readouterr().err


# Slow: real training, in other processes.


def run(*arguments):
  return subprocess.run(
      [sys.executable, "-m", "experiments.sweep_tradeoff", *arguments],
      cwd=ROOT, text=True, capture_output=True, check=False,
      env={**os.environ, "JAX_PLATFORMS": "cpu"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A small sweep: its workdir, flags and what it said."""
  workdir = tmp_path_factory.mktemp("sweep") / "run"
  arguments = [f"--workdir={workdir}", "--num_exposures=20000",
               "--objectives=click,long_view,like", "--num_weights=5",
               "--num_steps=20", "--batch_size=512"]
  ended = run(*arguments)
  assert ended.returncode == 0, ended.stderr
  return workdir, arguments, ended


@pytest.mark.slow
def test_a_sweep_leaves_everything_and_trains_nothing_twice(finished):
  workdir, arguments, ended = finished
  summary = json.loads((workdir / "summary.json").read_text())
  assert set(summary["families"]) == {
      "one network", "separate networks", "closed form", "tuned sum",
      "tuned product", "ceiling"}
  for family in summary["families"].values():
    interval = family["hypervolume"]
    assert 0 < interval["low"] < interval["value"] < interval["high"] < 1
  volume = lambda name: summary["families"][name]["hypervolume"]["value"]
  assert volume("ceiling") > volume("closed form")
  assert "report.html" in ended.stdout and "ratio to separate" in ended.stdout
  before = {path.name: path.read_bytes() for path in workdir.iterdir()}
  again = run(*arguments)
  assert again.returncode == 0, again.stderr
  assert "training" not in again.stdout.split("there already")[-1].split(
      "hypervolume")[0]
  assert {path.name: path.read_bytes() for path in workdir.iterdir()} == before
  # A stack that is lost is trained again, and is the same but for its time.
  (workdir / "one_network.npz").unlink()
  assert run(*arguments).returncode == 0
  resumed = json.loads((workdir / "summary.json").read_text())
  for name, family in resumed["families"].items():
    for content in (family, summary["families"][name]):
      del content["training_seconds"]
  assert resumed == summary


@pytest.mark.slow
def test_one_network_takes_weights_when_it_scores(finished):
  workdir, _, _ = finished
  content = workdir_lib.read_config(workdir)
  content["objectives"] = tuple(content["objectives"])
  del content["num_weights"]
  config = config_lib.Config(**content)
  inputs = inputs_lib.read_inputs(config, workdir)
  test = inputs_lib.read_test(config, inputs, workdir).batch
  trainer = families_lib.Trainer(
      workdir, inputs, test, learning_rate=config.learning_rate, seed=0)
  weights = weights_lib.simplex_weights(3, 5, seed=0)
  family = trainer.families(weights, None)[families_lib.ONE]
  ranker = inputs.model.ranker
  file = np.load(workdir / "one_network.npz")
  few = jax.tree.map(lambda x: x[:2], ranker_lib.rows_of(inputs.sample))
  platt = jax.jit(calibration.fit_platt)(
      inputs.sample.scores, inputs.sample.labels,
      where=inputs.sample.has_score)
  like = ranker.init(jax.random.key(0), few, platt)
  params = jax.tree.map_with_path(
      lambda path, _: file[jax.tree_util.keystr(path)][0], like)
  for row, scores in zip(weights, family.scores, strict=True):
    expected = ranker.score(params, ranker_lib.rows_of(test), 3 * row)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.slow
def test_another_configuration_is_one_line(finished):
  _, arguments, _ = finished
  ended = run(*arguments, "--num_weights=6")
  assert ended.returncode == 2
  assert "--num_weights was 5, now 6" in ended.stderr
  assert ended.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("flag, said", [
    ("--num_weights=0", "num_weights"),
    ("--learning_rate=nan", "learning_rate"),
    ("--data=/nowhere", "no such file")],
    ids=["too low", "no number", "no such file"])
def test_a_wrong_flag_is_one_line(tmp_path, flag, said):
  ended = run(f"--workdir={tmp_path / 'run'}", flag)
  assert ended.returncode == 2
  assert said in ended.stderr and ended.stderr.count("\n") == 1
