"""Exports of workdirs: what comes out, and what is refused."""

import dataclasses
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments import export
from experiments.artefacts import rows as rows_lib
from experiments.artefacts import stages as stages_lib
from experiments.artefacts.config import Config
from experiments.runs import errors
from harmonrank_jax import serving
from harmonrank_jax.data import items
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import network
from harmonrank_jax.predictor import pepnet
from harmonrank_jax.serving import functions
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import models
from harmonrank_jax.serving import policy as policy_lib
from harmonrank_jax.serving import requests
from tests.serving import drawn
from tests.serving import functions_test as stages
from tests.serving import policy_stage_test
from tests.serving import policy_test

ROOT = pathlib.Path(__file__).parents[2]
M, N = 2, 9  # Objectives, candidates of a request.
ENSEMBLE = models.Ensemble(
    network.HarmonRankConfig(M, token_size=4), stages.schema_of(M),
    stages.features_of(M), (1.0, 2.0))
PREDICTOR = models.Predictor(
    pepnet.PepNetConfig(M, stages.SIZES, domain=(1,), shared_sizes=(8,),
                        tower_sizes=(4,)),
    stages.schema_of(M, scores=False), stages.features_of(M))
SLATES = models.Slates(
    "dpp", stages.slates_of().model.rules, 0.6, "log", ("a", "b", "c"),
    policy_test.WIDTH, items.CandidateColumns())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Workdir by kind; of an ensemble that does not join, and of no run."""
  folder = tmp_path_factory.mktemp("runs")
  other = dataclasses.replace(ENSEMBLE, schema=dataclasses.replace(
      ENSEMBLE.schema, objectives=tuple(
          dataclasses.replace(o, score=f"{o.score}_v2")
          for o in ENSEMBLE.schema.objectives)))
  for name, model, parameters in (
      ("predictor", PREDICTOR, drawn.predictor(PREDICTOR)),
      ("ensemble", ENSEMBLE, drawn.members(ENSEMBLE, 2)),
      ("other", other, drawn.members(ENSEMBLE, 2)),
      ("slates", SLATES, {}),
      ("policy", policy_stage_test.POLICY, {})):
    (folder / name).mkdir()
    models.write_model(folder / name, model, parameters)
    (folder / name / "summary.json").write_text('{"best_step": 3}')
  (folder / "unfinished").mkdir()
  (folder / "unfinished" / "config.json").write_text("{}")
  return folder


def config(runs, names, folder, **changes):
  return Config(**{
      "run": tuple(str(runs / name) for name in names), "out": str(folder),
      "batch_sizes": (16,), "request_sizes": (2,), "candidate_sizes": (16,),
      "max_shown": policy_test.SHOWN, **changes})


def content(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes()
          for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_export_is_a_version_that_changes_with_what_goes_in(runs, tmp_path):
  first = config(runs, ["predictor"], tmp_path)
  version = export.export(first)
  before = content(tmp_path)
  bundle = serving.load(tmp_path, warm=False)
  assert (bundle.version, bundle.stages) == (version.name, ("predictor",))
  assert bundle.manifest["stages"][0]["best_step"] == 3
  # Nothing says where it was made, and the same again is the same folder.
  assert str(ROOT).encode() not in b"".join(before.values())
  assert export.export(first) == version
  assert content(tmp_path) == before
  # What is else is beside it.
  for change in ({"expires_days": 7}, {"batch_sizes": (32, 16)}):
    other = export.export(dataclasses.replace(first, **change))
    assert other.parent == version.parent and other != version
    assert serving.load(tmp_path, warm=False).version == other.name
  assert len(list(tmp_path.iterdir())) == 1 + 3
  assert {name: found for name, found in content(tmp_path).items()
          if name in before and name != "current"} == {
              name: found for name, found in before.items()
              if name != "current"}


@pytest.mark.parametrize("names, changes, said", [
    ([], {}, "name the workdir of a finished run with --run"),
    (["predictor"], {"out": None}, "name the folder .* with --out"),
    (["ensemble", "predictor", "other"], {},
     "other: it is of the same kind as .*ensemble"),
    (["predictor", "other"], {}, "'score_o0_v2', which the predictor does not"),
    (["predictor", "slates"], {}, "add the run of an ensemble"),
    (["slates", "policy"], {}, "take one of them"),
    (["nowhere"], {}, "nowhere: no such folder"),
    (["unfinished"], {}, "no model.json; expected the workdir of a finished"),
    (["slates", "ensemble"], {"request_columns": ("agee",)},
     "no stage reads .*'agee' .did you mean 'age'"),
    (["predictor"], {"request_columns": ("age",)}, "--request_columns are"),
    (["slates"], {"request_columns": ("age",)}, "'age'; there are none"),
    (["slates"], {"to": "onnx"}, "there is neither")])
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    runs, tmp_path, names, changes, said):
  with pytest.raises((errors.UserError, schema_lib.DataError),
                     match=said) as caught:
    export.export(config(runs, names, tmp_path / "out", **changes))
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_to_is_named(runs, tmp_path):
  out = tmp_path / "out"
  out.write_text("")
  with pytest.raises(errors.UserError, match=r"out cannot be written to"):
    export.export(config(runs, ["predictor"], out))


def test_a_failed_export_leaves_what_was_there(runs, tmp_path, monkeypatch):
  export.export(config(runs, ["predictor"], tmp_path))
  before = content(tmp_path)

  def fail(*arguments, **options):
    raise schema_lib.DataError("it answers otherwise.")

  monkeypatch.setattr(serving.Bundle, "replay", fail)
  with pytest.raises(schema_lib.DataError, match="answers otherwise"):
    export.export(config(runs, ["predictor"], tmp_path, expires_days=9))
  assert content(tmp_path) == before
  assert len(list(tmp_path.iterdir())) == 2


def test_the_order_of_runs_is_that_of_requests(runs):
  for names in itertools.permutations(["slates", "ensemble", "predictor"]):
    read = stages_lib.read_stages([str(runs / name) for name in names])
    assert [stage.kind for stage in read] == ["predictor", "ensemble", "slates"]
  # A run that is given twice is one.
  twice = stages_lib.read_stages([str(runs / "slates")] * 2)
  assert [stage.kind for stage in twice] == ["slates"]


@pytest.fixture(scope="module")
def whole(runs):
  """The workdirs, with the parameters of the policy."""
  models.write_model(runs / "policy", policy_stage_test.POLICY,
                     policy_lib.parameters_of(policy_test.deployed()))
  return runs


def raw_requests(columns_once=()):
  """Raw columns of three requests, and `where`."""
  rng = np.random.default_rng(0)
  shape = 3, N
  columns = {
      **{name: rng.integers(0, size + 1, shape) for name, size in zip(
          stages.CATEGORICAL, stages.SIZES, strict=True)},
      **{name: rng.uniform(-0.1, 1.1, shape) for name in stages.NUMERIC},
      **{f"score_o{m}": rng.random(shape) for m in range(M)},
      "category": rng.choice(["a", "b", "c", "?"], shape),
      "features": rng.normal(size=(*shape, policy_test.WIDTH))}
  columns["score_o0"][rng.random(shape) < 0.3] = np.nan
  for name in columns_once:
    columns[name] = columns[name][:, 0]
  return columns, rng.random(shape) < 0.9


def of_candidates(columns):
  """The columns, each with a value for each candidate."""
  return {name: np.repeat(column[:, None], N, axis=1)
          if column.ndim == 1 else column for name, column in columns.items()}


DAY = {"window": 40, "requests_today": 2, "since_last": 3}


@pytest.mark.slow
@pytest.mark.parametrize("names, once", [
    (["ensemble", "slates"], ()),
    (["predictor", "ensemble", "slates"], ("page", "dwell")),
    (["ensemble", "policy"], ()),
    (["predictor", "policy"], ("age",)),
    (["predictor", "ensemble", "policy"], ("age", "page", "hour"))])
def test_stages_together_select_what_they_do_one_by_one(
    whole, tmp_path, names, once):
  load = lambda names, **changes: serving.load(export.export(config(
      whole, names, tmp_path, **changes)), warm=False)
  *front, last = names
  together = load(reversed(names), request_columns=once)
  assert together.stages == tuple(names)
  assert together.manifest["request"]["columns"] == list(once)
  columns, where = raw_requests(once)
  day = DAY if last == "policy" else None
  page = together.select(columns, where=where, day=day)
  scores = load(front).score(of_candidates(columns))
  for m, name in enumerate(["score_o0", "score_o1"]):
    if "predictor" in names:
      np.testing.assert_allclose(
          page.objective_scores[where][:, m], scores[name][where], rtol=1e-6)
  given = {"category": columns["category"], "features": columns["features"]}
  if "ensemble" in names:
    np.testing.assert_allclose(
        page.scores[where], scores["ranking_score"][where], rtol=1e-6)
  if last == "slates":
    given["score"] = scores["ranking_score"]
  else:
    clicks = given["score_o1"] = (
        scores if "predictor" in names else columns)["score_o1"]
    if "ensemble" in names:
      given["log_value"] = np.log(
          scores["ranking_score"] / np.clip(clicks, 1e-4, 1 - 1e-4))
  alone = load([last]).select(given, where=where, day=day)
  np.testing.assert_array_equal(page.indices, alone.indices)
  np.testing.assert_allclose(page.gains, alone.gains, rtol=1e-3, atol=1e-3)
  assert (page.indices >= 0).any(axis=1).all()


@pytest.mark.slow
@pytest.mark.parametrize("flags, said", [
    (["--run=nowhere"], "export.py: nowhere: no such folder."),
    (["--run=slates", "--candidate_sizes=0"], "candidate_sizes")])
def test_the_command_ends_in_one_line(whole, tmp_path, flags, said):
  run = subprocess.run(
      [sys.executable, "-m", "experiments.export", *flags,
       f"--out={tmp_path / 'out'}"], cwd=whole, text=True,
      capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
  assert run.returncode == 2 and said in run.stderr
  assert run.stderr.count("\n") == 1 and not run.stdout
  assert not (tmp_path / "out").exists()


def test_a_column_of_numbers_is_a_feature_and_the_category_of_a_slate():
  slates = dataclasses.replace(
      SLATES, categories=("1", "0"),
      columns=SLATES.columns._replace(category="page"))
  trained = [models.Trained(model, {})
             for model in (PREDICTOR, ENSEMBLE, slates)]
  function = functions.select_function(trained, max_shown=1)
  signature = manifest_lib.Signature(
      "select", "", function.inputs, function.outputs, {})
  request = {**functions.defaults(trained), "columns": [],
             "categories": ["1", "0"], "category_column": "page",
             "features_column": "features"}
  encoder = requests.Encoder(
      signature, {"request": request, "stages": [
          {"name": model.KIND, "schema": model.schema.to_json()}
          for model in (PREDICTOR, ENSEMBLE)]},
      {model.KIND: model.features.to_json()
       for model in (PREDICTOR, ENSEMBLE)})
  drawn_rows = rows_lib.draw_requests(
      np.random.default_rng(0), trained, request, signature, (3, 40))
  arrays = encoder.candidates(*drawn_rows).arrays
  entries = arrays["predictor.categorical"][
      ..., PREDICTOR.schema.categorical.index("page")]
  assert set(entries.flat) == {0, 1, 2}  # Unknown or missing, 0 and 1.
  np.testing.assert_array_equal(
      arrays["category_ids"], np.array([-1, 1, 0])[entries])
