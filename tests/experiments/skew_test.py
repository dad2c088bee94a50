"""What is trained is what is served: held-out rows, scored in every way."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import export
from experiments import train_auc
from experiments import train_predictor
from experiments.artefacts.config import Config as ExportConfig
from experiments.ranker import inputs as inputs_lib
from experiments.ranker import results
from experiments.scoring import files
from experiments.scoring import plan
from experiments.scoring.config import Config as ScoreConfig
from harmonrank_jax import serving
from harmonrank_jax.data import encoding
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import models
from harmonrank_jax.serving import scorer
from tests.experiments import skewed_log
from tests.serving import drawn as drawn_lib

ROOT = pathlib.Path(__file__).parents[2]
STABLEHLO, ONNX = 1e-6, 1e-5  # Of the largest score.


class Served:
  """A workdir, its artefact, and what the training made of held-out rows."""

  def __init__(self, log, workdir, table, scores):
    self.log, self.workdir = log, workdir
    self.table, self.scores = table, scores
    self.data = workdir / "held_out.parquet"
    parquet.write_parquet(table, self.data)
    self.artefact = self.export(workdir / "artefact")

  def export(self, out, to="stablehlo"):
    return export.export(ExportConfig(
        run=(str(self.workdir),), out=str(out), to=to))

  def check(self, scores, tolerance=STABLEHLO):
    """Asserts that scores `[N]` are those of the training."""
    assert np.std(self.scores) > 0.01 * np.abs(self.scores).max()
    np.testing.assert_allclose(
        scores, self.scores, rtol=0,
        atol=tolerance * np.abs(self.scores).max())

  def check_files(self, out):
    """Asserts that scored files have the held-out rows and their scores."""
    columns = skewed_log.raw_columns(pq.read_table(out))
    self.check(columns.pop("ranking_score"))
    np.testing.assert_equal(columns, skewed_log.raw_columns(self.table))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
  """Path of a log."""
  path = tmp_path_factory.mktemp("log") / "log.parquet"
  parquet.write_parquet(skewed_log.make_log(3000), path)
  return str(path)


def config_of(**changes):
  return train_auc.Config(
      batch_size=256, num_members=2, token_size=4, **changes)


def draw(folder, config):
  """A workdir of drawn members, which are what some training would make.

  Returns raw rows to test on, and their scores.
  """
  inputs = inputs_lib.read_inputs(config, folder)
  parameters = drawn_lib.members(inputs.model, config.num_members)
  models.write_model(folder, inputs.model, parameters)
  (folder / "summary.json").write_text("{}")
  test = inputs_lib.read_test(config, inputs, folder)
  score = scorer.Scorer(inputs.model.ranker, inputs.objective_weights)
  return inputs.held_out, score(parameters, test.batch)


@pytest.fixture(scope="module")
def drawn(log, tmp_path_factory):
  """Of drawn members."""
  folder = tmp_path_factory.mktemp("drawn")
  return Served(log, folder, *draw(folder, config_of(data=log)))


def test_the_held_out_rows_have_all_that_is_odd(drawn):
  model = models.read_model(drawn.workdir).model
  assert model.schema.categorical == ("country", "page", "premium")
  assert model.schema.numeric == ("tenure", "visits")
  assert model.features.score_scales["click"] is None
  assert model.features.score_scales["watch"] is not None
  rows = encoding.encode_columns(
      model.features, model.schema, skewed_log.raw_columns(drawn.table))
  assert {"xx", 99} <= {*drawn.table["country"].to_pylist(),
                        *drawn.table["page"].to_pylist()}
  assert (rows.categorical == 0).any(axis=0).all()
  assert not rows.has_score.all(axis=0).any()
  assert (rows.numeric == 0).any(axis=0).all() and (rows.numeric == 1).any()


def test_golden_rows_are_nobodys(drawn):
  with np.load(drawn.artefact / "golden.npz") as golden:
    rows = {name.removeprefix("score/columns/"): golden[name]
            for name in golden if name.startswith("score/columns/")}
  log = skewed_log.raw_columns(pq.read_table(drawn.log))
  # Categories come from the vocabularies, which leave with the model anyway.
  numbers = {"score_click", "score_watch", "tenure", "visits"}
  assert set(rows) == numbers | {"country", "page", "premium"}
  for name in numbers:
    drawn_here = rows[name][np.isfinite(rows[name])]
    assert len(drawn_here) > 40 and not np.isin(drawn_here, log[name]).any()


def test_a_bundle_scores_raw_columns_as_the_training_did(drawn):
  bundle = serving.load(drawn.artefact, warm=False)
  columns = skewed_log.raw_columns(drawn.table)
  drawn.check(bundle.score(columns)["ranking_score"])


def test_files_are_scored_as_the_training_did(drawn, tmp_path):
  job = plan.make(ScoreConfig(
      artefact=str(drawn.artefact), data=str(drawn.data), out=str(tmp_path)),
                  tmp_path)
  for task in job.tasks:
    files.score_span(task, tmp_path, job.scorer, strict=True)
  drawn.check_files(tmp_path)


@pytest.fixture(scope="module")
def trained(log, tmp_path_factory):
  """Of a run, with the scores that its summary is about."""
  folder = tmp_path_factory.mktemp("trained")
  config = config_of(data=log, num_steps=5)
  evaluated, evaluate = [], results.evaluate
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(results, "evaluate", lambda run: evaluated.append(
        evaluate(run)) or evaluated[-1])
    train_auc.train(config, folder / "run")
  return Served(
      log, folder / "run", inputs_lib.read_inputs(config, folder).held_out,
      evaluated[-1].methods[results.ENSEMBLE])


@pytest.mark.slow
def test_a_run_is_served_as_it_was_evaluated(trained):
  bundle = serving.load(trained.artefact)
  columns = skewed_log.raw_columns(trained.table)
  trained.check(bundle.score(columns)["ranking_score"])
  # One by one, as a request has them.
  trained.check(np.array([
      bundle.score({name: column[row] for name, column in columns.items()})[
          "ranking_score"] for row in range(len(trained.scores))]))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "spark"])
def test_engines_score_files_as_a_run_was_evaluated(trained, tmp_path, engine):
  if engine == "spark":
    pytest.importorskip("pyspark")
  subprocess.run(
      [sys.executable, "-m", "experiments.score", f"--engine={engine}",
       f"--artefact={trained.artefact}", f"--data={trained.data}",
       f"--out={tmp_path / 'out'}"], cwd=ROOT, check=True)
  trained.check_files(tmp_path / "out")


@pytest.mark.slow
def test_onnx_scores_as_a_run_was_evaluated(trained, tmp_path):
  pytest.importorskip("onnx")
  onnxruntime = pytest.importorskip("onnxruntime")
  folder = trained.export(tmp_path, to="onnx")
  # What one has who serves from another language.
  manifest = json.loads((folder / "manifest.json").read_text())
  (stage,) = manifest["stages"]
  rows = encoding.encode_columns(
      encoding.features_from_json(json.loads(
          (folder / "vocabularies.json").read_text())[stage["name"]]),
      schema_lib.schema_from_json(stage["schema"]),
      skewed_log.raw_columns(trained.table))
  inputs = {f"ensemble.{name}": array for name, array in rows._asdict().items()
            if name != "is_refused"}
  inputs["objective_weights"] = np.asarray(
      manifest["request"]["objective_weights"], np.float32)
  session = onnxruntime.InferenceSession(
      folder / "score.onnx", providers=["CPUExecutionProvider"])
  (scores,) = session.run(["ranking_score"], inputs)
  trained.check(scores, ONNX)


@pytest.mark.slow
def test_stages_together_score_what_they_did_one_by_one(log, tmp_path):
  train_predictor.train(train_predictor.Config(
      data=log, batch_size=128, num_steps=5, num_folds=2),
                        tmp_path / "predictor")
  scored = tmp_path / "predictor" / "scored"
  # Its categories are text, those of the log are not.
  _, scores = draw(tmp_path, config_of(
      data=str(scored / "train.parquet"),
      eval_data=str(scored / "eval.parquet")))
  predicted = skewed_log.raw_columns(pq.read_table(scored / "eval.parquet"))
  rows = inputs_lib.read_inputs(config_of(data=log), tmp_path).held_out
  folder = export.export(ExportConfig(
      run=(str(tmp_path), str(tmp_path / "predictor")),
      out=str(tmp_path / "artefact")))
  found = serving.load(folder, warm=False).score(skewed_log.raw_columns(rows))
  assert set(found) == {"score_click", "score_watch", "ranking_score"}
  for name, array in found.items():
    wanted = scores if name == "ranking_score" else predicted[name]
    assert np.std(wanted) > 0.01 * np.abs(wanted).max()
    np.testing.assert_allclose(
        array, wanted, rtol=0, atol=STABLEHLO * np.abs(wanted).max())
