"""The page: its sample, ranked as its script does it, and its script."""

import numpy as np
import pytest
from sklearn import metrics as sk_metrics

from experiments.tradeoff import front as front_lib
from experiments.tradeoff import page as page_lib
from experiments.tradeoff import report
from experiments.tradeoff import weights as weights_lib
from tests import browser
from tests.experiments.tradeoff import cases


def test_the_sample_tells_the_aucs_of_all_rows(tmp_path):
  terms, labels, *_ = cases.rows(40_000)
  weights = weights_lib.simplex_weights(3, 8, seed=0)
  families = cases.families_of(terms, weights)
  auc = np.stack([[[sk_metrics.roc_auc_score(y, scores) for y in labels.T]
                   for scores in family.scores]
                  for family in families.values()])
  nothing = np.full((3, 3), np.nan)
  tradeoff = front_lib.Tradeoff(
      cases.NAMES, weights, tuple(families), auc, 0 * auc, nothing, nothing, 80,
      nothing[0], nothing[0], nothing[0], nothing, {}, len(labels),
      labels.sum(axis=0), np.ones(3, bool), "users")
  path = tmp_path / "tradeoff.html"
  page_lib.write(
      path, tradeoff, cases.page_terms(families), labels)
  data = cases.page_data(path)
  for family, f in ((0, 0), (1, 2)):
    for k, row in enumerate(weights):
      np.testing.assert_allclose(
          cases.estimates(data, family, row), auc[f, k],
          atol=0.02 if k else 0.003)


def test_a_sample_has_all_that_is_rare_and_stands_for_all():
  terms, labels, *_ = cases.rows(40_000)
  sample = page_lib.draw(terms.sum(axis=1), labels)
  assert 5990 <= len(sample.rows) <= 6000
  assert len(np.unique(sample.rows)) == len(sample.rows)
  # Every buy, and as many rows and views as there are, by weight.
  assert set(np.flatnonzero(labels[:, 2])) <= set(sample.rows)
  assert (sample.weights[labels[sample.rows, 2]] == 1).all()
  assert sample.weights.sum() == pytest.approx(len(labels), rel=0.01)
  assert sample.weights @ labels[sample.rows, 0] == pytest.approx(
      labels[:, 0].sum(), rel=0.01)
  few = page_lib.draw(terms[:500].sum(axis=1), labels[:500] | (
      np.arange(500)[:, None] == 0))
  np.testing.assert_array_equal(few.rows, np.arange(500))
  np.testing.assert_allclose(few.weights, 1)


@pytest.mark.slow
def test_a_report_and_a_page_are_one_file_each(measured, tmp_path):
  families, labels, tradeoff = measured
  report.write_report(
      tmp_path, tradeoff, {"left_out": ["share"], "config": {}})
  page_lib.write(tmp_path / "tradeoff.html", tradeoff,
                 cases.page_terms(families), labels)
  for name in ("report", "tradeoff"):
    page = (tmp_path / f"{name}.html").read_text()
    assert "src=" not in page and "href=\"http" not in page
  assert "Without an AUC there, and left out: share" in (
      tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_the_page_moves_in_a_browser(measured, tmp_path):
  families, labels, tradeoff = measured
  file = tmp_path / "tradeoff.html"
  page_lib.write(file, tradeoff, cases.page_terms(families), labels)
  data = cases.page_data(file)

  def shown():
    return [float(page.text_content(f"#auc-{m}")) for m in range(3)]

  with browser.opened(file) as page:
    expected = cases.estimates(data, 0, [1 / 3] * 3)
    np.testing.assert_allclose(shown(), expected, atol=6e-4)
    ours = next(p for p in data["points"] if p["name"] == "one network")
    np.testing.assert_allclose(shown(), ours["auc"][0], atol=0.01)
    # By the keyboard, as by the mouse.
    page.focus("#worth-2")
    page.keyboard.press("Home")
    np.testing.assert_allclose(
        shown(), cases.estimates(data, 0, [0.5, 0.5, 0]), atol=6e-4)
    # A click on a point takes its weights.
    page.evaluate("[...document.querySelectorAll('.point')].at(-3)"
                  ".dispatchEvent(new Event('click'))")
    np.testing.assert_allclose(
        shown(), cases.estimates(data, 0, data["weights"][-3]), atol=6e-4)
    page.click("#equal")
    np.testing.assert_allclose(shown(), expected, atol=6e-4)
    moved = ("(() => {const knob = document.getElementById('worth-0');"
             "const began = performance.now(); for (let k = 0; k < 10; k++) {"
             "knob.value = 100 * k; knob.dispatchEvent(new Event('input'));}"
             "return (performance.now() - began) / 10})()")
    assert page.evaluate(moved) < 100
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
