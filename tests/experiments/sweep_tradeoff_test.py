"""Sweeps over weights: the weights, the measures, the page, and a whole run."""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk_metrics

from experiments import sweep_tradeoff
from experiments import train_auc
from experiments.ranker import inputs as inputs_lib
from experiments.ranker import stacks
from experiments.runs import errors
from experiments.runs import workdir as workdir_lib
from experiments.tradeoff import front as tradeoff_lib
from experiments.tradeoff import page as tradeoff_page
from experiments.tradeoff import report as report
from harmonrank_jax.ensemble import baselines
from harmonrank_jax.ensemble import ranker as ranker_lib
from tests import browser

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("view", "like", "buy")
RATES = (0.4, 0.05, 0.004)


@pytest.mark.parametrize("size, count", [(2, 3), (2, 24), (3, 4), (6, 24),
                                         (8, 24)])
def test_weights_are_all_over_the_simplex(size, count):
  weights = tradeoff_lib.simplex_weights(size, count, seed=0)
  assert weights.shape == (count, size) and (weights >= 0).all()
  np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(weights[0], 1 / size, rtol=1e-6)
  np.testing.assert_array_equal(weights[1:size + 1], np.eye(size))
  assert len(np.unique(weights, axis=0)) == count
  np.testing.assert_array_equal(
      weights, tradeoff_lib.simplex_weights(size, count, seed=0))
  if (size, count) == (6, 24):
    # All 15 halves have a place, and two draws.
    assert (np.sort(weights, axis=1)[7:22, -2:] == 0.5).all()


def rows(num_rows=9000, seed=0):
  """Terms that know something, labels, users, and the truth."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(num_rows, 3)) + np.log(RATES)
  truth = 1 / (1 + np.exp(-logits))
  labels = rng.random(truth.shape) < truth
  terms = np.float32(truth / RATES)
  return terms, labels, rng.integers(0, 900, num_rows), truth


def families_of(terms, weights):
  """Families of which the first is ahead of the second."""
  rng = np.random.default_rng(1)
  noisy = terms * np.float32(np.exp(0.5 * rng.normal(size=terms.shape)))
  family = lambda terms, seconds: tradeoff_lib.Family(
      weights @ terms.T, terms, seconds)
  return {tradeoff_lib.ONE: family(terms, 2.0),
          tradeoff_lib.SEPARATE: family(noisy, 40.0),
          tradeoff_lib.CLOSED_FORM: family(terms ** np.float32(0.8), None)}


@pytest.fixture(scope="module")
def measured():
  terms, labels, users, _ = rows()
  weights = tradeoff_lib.simplex_weights(3, 8, seed=0)
  families = families_of(terms, weights)
  return families, labels, tradeoff_lib.measure(
      families, NAMES, weights, labels, users, seed=0)


def test_measures_are_those_of_the_scores(measured):
  families, labels, found = measured
  for f, family in enumerate(families.values()):
    for k in (0, 5):
      for m in range(3):
        assert found.auc[f, k, m] == pytest.approx(sk_metrics.roc_auc_score(
            labels[:, m], family.scores[k]), abs=1e-5)
  # One objective alone is where its own AUC is best.
  np.testing.assert_array_equal(found.auc[0, :, :2].argmax(axis=0), [1, 2])
  np.testing.assert_allclose(
      found.value, (found.auc * found.weights).sum(-1).mean(-1), rtol=1e-6)
  np.testing.assert_allclose(
      found.ratio[:, 0], found.volume[:, 0] / found.volume[1, 0], rtol=1e-6)


def test_intervals_are_around_values_and_paired(measured):
  _, _, found = measured
  for intervals in (found.volume, found.ratio[::2], found.lead[::2]):
    value, low, high = intervals.T
    assert (low < value).all() and (value < high).all()
  # Noise is surely worse; the ratio is better known than a volume.
  assert found.lead[0, 1] > 0
  width = lambda row: np.log(row[2] / row[1])
  assert width(found.ratio[0]) < width(found.volume[0])
  np.testing.assert_array_equal(found.ratio[1], 1)


def test_asking_for_more_weights_only_adds_to_a_front(measured):
  _, _, found = measured
  # The weights of the others are among them.
  assert found.num_asked == 80
  assert found.asked_volume[0] >= found.volume[0, 0]
  assert found.asked_ratio[0] == pytest.approx(
      found.asked_volume[0] / found.volume[1, 0])


def test_the_summary_and_the_words_for_it(measured):
  _, _, found = measured
  summary = tradeoff_lib.summary(found)
  assert json.loads(json.dumps(summary)) == summary
  ours = summary["families"][tradeoff_lib.ONE]
  assert ours["hypervolume"]["value"] == found.volume[0, 0]
  assert ours["training_seconds"] == 2
  assert summary["families"]["closed form"]["training_seconds"] is None
  assert len(ours["auc"]) == len(summary["weights"]) == 8
  assert "8 separate networks" in tradeoff_lib.verdict(found)
  assert "trained 2.0 s, they 40.0 s" in tradeoff_lib.verdict(found)
  assert "true probabilities" not in tradeoff_lib.verdict(found)


def test_what_is_known_by_truth_is_known_better():
  terms, labels, users, truth = rows()
  weights = tradeoff_lib.simplex_weights(3, 4, seed=0)
  families = families_of(terms, weights)
  found = tradeoff_lib.measure(
      families, NAMES, weights, labels, users, truth=truth, seed=0)
  known = found.by_truth
  assert known.by_truth is None
  # Many labels that are drawn with these probabilities.
  drawn = np.random.default_rng(2).random((30, len(truth))) < truth[:, 1]
  scores = families[tradeoff_lib.ONE].scores[2]
  expected = np.mean([sk_metrics.roc_auc_score(y, scores) for y in drawn])
  assert known.auc[0, 2, 1] == pytest.approx(expected, abs=0.005)
  width = lambda rows: rows[0, 2] - rows[0, 1]
  for name in ("volume", "ratio", "lead"):
    assert width(getattr(known, name)) < 0.7 * width(getattr(found, name))
  content = tradeoff_lib.summary(found)["by_truth"]
  assert content["families"][tradeoff_lib.ONE]["hypervolume"]["value"] == (
      known.volume[0, 0])
  said = tradeoff_lib.verdict(found)
  assert f"true probabilities its front has {known.ratio[0, 0]:.1%}" in said


def test_a_volume_that_is_undefined_is_a_dash(measured):
  _, _, found = measured
  nothing = found._replace(volume=np.full((3, 3), np.nan),
                           ratio=np.full((3, 3), np.nan),
                           asked_ratio=np.full(3, np.nan))
  assert tradeoff_lib.figures(nothing, 0)[:4] == ["-"] * 4
  assert "an undefined part" in tradeoff_lib.verdict(nothing)


@pytest.mark.slow
def test_a_report_and_a_page_are_one_file_each(measured, tmp_path):
  families, labels, found = measured
  report.write_report(tmp_path, found, {"left_out": ["share"], "config": {}})
  terms = {name: family.terms for name, family in families.items()}
  tradeoff_page.write(tmp_path / "tradeoff.html", found, terms, labels)
  for name in ("report", "tradeoff"):
    page = (tmp_path / f"{name}.html").read_text()
    assert "src=" not in page and "href=\"http" not in page
  assert "Without an AUC there, and left out: share" in (
      tmp_path / "report.html").read_text()


# The sample of the page, ranked as its script does it.


def page_data(path):
  page = path.read_text()
  return json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))


def estimates(data, family, weights):
  """AUC of each objective from what stands in the page, in NumPy."""
  array = lambda text, kind: np.frombuffer(base64.b64decode(text), kind)
  sample, size = data["sample"], len(data["names"])
  mass = array(sample["weights"], "<f4").astype(np.float64)
  labels = array(sample["labels"], "<u2").reshape(-1, size) > 0
  terms = sample["terms"][family]
  terms = np.exp(terms["low"] + terms["step"] * array(
      terms["levels"], "<u2").reshape(-1, size).astype(np.float64))
  scores = terms @ np.asarray(weights)
  return [sk_metrics.roc_auc_score(column, scores, sample_weight=mass)
          for column in labels.T]


def test_the_sample_tells_the_aucs_of_all_rows(tmp_path):
  terms, labels, *_ = rows(40_000)
  weights = tradeoff_lib.simplex_weights(3, 8, seed=0)
  families = families_of(terms, weights)
  auc = np.stack([[[sk_metrics.roc_auc_score(y, scores) for y in labels.T]
                   for scores in family.scores]
                  for family in families.values()])
  nothing = np.full((3, 3), np.nan)
  found = tradeoff_lib.Tradeoff(
      NAMES, weights, tuple(families), auc, 0 * auc, nothing, nothing, 80,
      nothing[0], nothing[0], nothing[0], nothing, {}, len(labels), "users")
  path = tmp_path / "tradeoff.html"
  tradeoff_page.write(
      path, found, {n: f.terms for n, f in families.items()}, labels)
  data = page_data(path)
  for family, f in ((0, 0), (1, 2)):
    for k, row in enumerate(weights):
      np.testing.assert_allclose(
          estimates(data, family, row), auc[f, k],
          atol=0.02 if k else 0.003)


def test_a_sample_has_all_that_is_rare_and_stands_for_all():
  terms, labels, *_ = rows(40_000)
  sample = tradeoff_page.draw(terms.sum(axis=1), labels)
  assert 5990 <= len(sample.rows) <= 6000
  assert len(np.unique(sample.rows)) == len(sample.rows)
  # Every buy, and as many rows and views as there are, by weight.
  assert set(np.flatnonzero(labels[:, 2])) <= set(sample.rows)
  assert (sample.weights[labels[sample.rows, 2]] == 1).all()
  assert sample.weights.sum() == pytest.approx(len(labels), rel=0.01)
  assert sample.weights @ labels[sample.rows, 0] == pytest.approx(
      labels[:, 0].sum(), rel=0.01)
  few = tradeoff_page.draw(terms[:500].sum(axis=1), labels[:500] | (
      np.arange(500)[:, None] == 0))
  np.testing.assert_array_equal(few.rows, np.arange(500))
  np.testing.assert_allclose(few.weights, 1)


# What is refused, before anything is trained.


@pytest.fixture
def log(tmp_path):
  """A good log of two objectives, and one that nobody did."""
  rng = np.random.default_rng(0)
  count = 80
  columns = {"user_id": rng.integers(0, 20, count), "time_ms": np.arange(count)}
  for name in ("click", "like", "never"):
    columns[name] = (rng.random(count) < 0.4).astype(np.int8)
    columns[f"score_{name}"] = rng.random(count)
  columns["never"][:] = 0
  return columns


def refusal(tmp_path, log, **config):
  pq.write_table(pa.table(log), tmp_path / "log.parquet")
  with pytest.raises(errors.UserError) as caught:
    sweep_tradeoff.sweep(sweep_tradeoff.Config(
        data=str(tmp_path / "log.parquet"), batch_size=4, **config),
        tmp_path / "run")
  assert not list((tmp_path / "run").iterdir())
  return str(caught.value)


def test_too_few_weights_or_objectives(tmp_path, log, capsys):
  assert "--num_weights=2: 2 objectives need at least 3" in refusal(
      tmp_path, log, num_weights=2)
  assert "the sweep leaves out never" in capsys.readouterr().err
  assert "there is click" in refusal(
      tmp_path, log, objectives=("click", "never"))


# A stack that is there is not trained again; here nothing is trained at all.


@pytest.mark.slow
def test_stacks_are_kept(tmp_path, log, monkeypatch):
  pq.write_table(pa.table(log), tmp_path / "log.parquet")
  config = train_auc.Config(data=str(tmp_path / "log.parquet"), batch_size=4,
                            objectives=("click", "like"))
  inputs = inputs_lib.read_inputs(config, tmp_path)
  test = inputs_lib.read_test(config, inputs).batch
  trained = []

  def fit(ranker, training, members, rows, validation, platt):
    trained.append(members)
    count = len(members.seeds)
    few = jax.tree.map(lambda x: x[:2], ranker_lib.rows_of(rows))
    rng = np.random.default_rng(count)
    params = jax.tree.map(
        lambda x: rng.normal(size=(count, *x.shape)).astype(np.float32),
        jax.eval_shape(lambda: ranker.init(jax.random.key(0), few, platt)))
    steps = np.arange(count)
    return stacks.Stack(params, steps, steps, 1.5)

  def score(ranker, params, weights, batch):
    mixed = sum(np.asarray(leaf).sum(axis=tuple(range(1, leaf.ndim)))
                for leaf in jax.tree.leaves(params))
    return mixed[:, None] * (weights @ batch.scores.T)

  def families():
    return tradeoff_lib.Trainer(
        tmp_path, inputs, test, learning_rate=0.1, seed=0).families(
            weights, None)

  monkeypatch.setattr(stacks, "fit", fit)
  monkeypatch.setattr(stacks, "score", score)
  monkeypatch.setattr(
      baselines, "formula_scores", lambda platt, row, *_, seed: dict.fromkeys(
          ("tuned_sum", "tuned_product"), test.scores @ row))
  weights = tradeoff_lib.simplex_weights(2, 3, seed=0)
  once = families()
  np.testing.assert_allclose(trained[0].objective_weights, [[1, 1]])
  np.testing.assert_allclose(
      trained[1].objective_weights, [[1, 1], [2, 0], [0, 2]])
  again = families()
  assert len(trained) == 2
  for name, family in once.items():
    np.testing.assert_array_equal(family.scores, again[name].scores)
    assert family.seconds == again[name].seconds
  assert once[tradeoff_lib.SEPARATE].seconds == 1.5
  # Linear in the weights: at equal ones the sum of the others, by halves.
  ours = once[tradeoff_lib.ONE].scores
  np.testing.assert_allclose(ours[0], (ours[1] + ours[2]) / 2, rtol=1e-4)
  kept = (tmp_path / "tuned.npz").read_bytes()
  (tmp_path / "tuned.npz").write_bytes(kept[:len(kept) // 2])
  with pytest.raises(errors.UserError, match=r"tuned.npz is broken"):
    families()


# Slow: real training, other processes, a browser.


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
  config = train_auc.Config(**content)
  inputs = inputs_lib.read_inputs(config, workdir)
  test = inputs_lib.read_test(config, inputs).batch
  trainer = tradeoff_lib.Trainer(
      workdir, inputs, test, learning_rate=config.learning_rate, seed=0)
  weights = tradeoff_lib.simplex_weights(3, 5, seed=0)
  family = trainer.families(weights, None)[tradeoff_lib.ONE]
  ranker = inputs.model.ranker
  file = np.load(workdir / "one_network.npz")
  few = jax.tree.map(lambda x: x[:2], ranker_lib.rows_of(inputs.sample))
  platt = train_auc.make_task(config, inputs).platt
  like = ranker.init(jax.random.key(0), few, platt)
  params = jax.tree.map_with_path(
      lambda path, _: file[jax.tree_util.keystr(path)][0], like)
  for row, scores in zip(weights, family.scores, strict=True):
    expected = ranker.score(params, ranker_lib.rows_of(test), 3 * row)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.slow
def test_another_configuration_and_wrong_flags_are_one_line(finished, tmp_path):
  _, arguments, _ = finished
  for given, said in (
      ([*arguments, "--num_weights=6"], "--num_weights was 5, now 6"),
      (["--num_weights=0", f"--workdir={tmp_path}"], "num_weights"),
      (["--learning_rate=nan", f"--workdir={tmp_path}"], "learning_rate"),
      (["--data=/nowhere", f"--workdir={tmp_path}"], "no such file")):
    ended = run(*given)
    assert ended.returncode == 2
    assert said in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_page_moves_in_a_browser(finished):
  workdir, _, _ = finished
  data = page_data(workdir / "tradeoff.html")

  def shown():
    return [float(page.text_content(f"#auc-{m}")) for m in range(3)]

  with browser.opened(workdir / "tradeoff.html") as page:
    expected = estimates(data, 0, [1 / 3] * 3)
    np.testing.assert_allclose(shown(), expected, atol=6e-4)
    ours = next(p for p in data["points"] if p["name"] == "one network")
    np.testing.assert_allclose(shown(), ours["auc"][0], atol=0.01)
    # By the keyboard, as by the mouse.
    page.focus("#worth-2")
    page.keyboard.press("Home")
    np.testing.assert_allclose(
        shown(), estimates(data, 0, [0.5, 0.5, 0]), atol=6e-4)
    # A click on a point takes its weights.
    page.evaluate("[...document.querySelectorAll('.point')].at(-3)"
                  ".dispatchEvent(new Event('click'))")
    np.testing.assert_allclose(
        shown(), estimates(data, 0, data["weights"][2]), atol=6e-4)
    page.click("#equal")
    np.testing.assert_allclose(shown(), expected, atol=6e-4)
    moved = ("(() => {const knob = document.getElementById('worth-0');"
             "const began = performance.now(); for (let k = 0; k < 10; k++) {"
             "knob.value = 100 * k; knob.dispatchEvent(new Event('input'));}"
             "return (performance.now() - began) / 10})()")
    assert page.evaluate(moved) < 100
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
