"""The page on which theta is dragged."""

import importlib.resources
import json
import re

import numpy as np
import pytest

from experiments.slates import comparison as comparison_lib
from experiments.slates import report
from harmonrank_jax.serving import selector
from tests.data import candidate_files


@pytest.fixture(scope="module")
def content(comparison):
  shown = report.shown_requests(comparison)
  ids = report.shown_items(comparison, shown).to_pylist()
  return report.make_content(
      comparison, shown, candidate_files.CATEGORIES, method="dpp",
      limits="none", titles={key: f"title of {key}" for key in ids[::2]})


def data_of(path):
  text = path.read_text()
  data, = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
  return json.loads(data)


def test_the_page_is_one_file_with_all_data(content, tmp_path):
  report.write_slates_page(tmp_path / "slates.html", content)
  # http://www.w3.org names the elements drawn; nothing is fetched.
  text = (tmp_path / "slates.html").read_text()
  assert "src=" not in text and text.count("http") == 1
  assert data_of(tmp_path / "slates.html") == json.loads(json.dumps(content))


def test_no_text_ends_the_script(content, tmp_path):
  limits = "</script><script>alert(1)</script>"
  report.write_slates_page(
      tmp_path / "slates.html", {**content, "limits": limits})
  assert data_of(tmp_path / "slates.html")["limits"] == limits


def test_requests_with_a_choice_are_shown(content, comparison):
  sizes = np.diff(comparison.chunk.starts)
  assert [request["num_candidates"] for request in content["requests"]] == [
      size for size in sizes if size >= 10][:4]
  assert content["num_requests"] == 10 and content["num_slots"] == 5


def test_items_without_features_are_far_from_all(comparison):
  chunk = comparison.chunk
  content = report.make_content(
      comparison._replace(
          chunk=chunk._replace(features=np.zeros_like(chunk.features))),
      np.arange(3), candidate_files.CATEGORIES, method="dpp", limits="",
      titles={})
  for request in content["requests"]:
    for slate in request["slates"]["dpp"]:
      assert slate["distance"] == 1
      assert slate["nearest"][1:] == [0] * (len(slate["nearest"]) - 1)


def test_slates_are_those_of_the_comparison(content, comparison):
  chunk, ids = comparison.chunk, comparison.chunk.request_ids.to_pylist()
  for request in content["requests"]:
    place = ids.index(request["id"])
    for method in selector.METHODS:
      slates = request["slates"][method]
      assert len(slates) == len(comparison_lib.THETAS)
      for slate, rows in zip(
          slates, comparison.rows[method][:, place], strict=True):
        items = [request["items"][k] for k in slate["items"]]
        assert [item["id"] for item in items] == [
            str(chunk.item_ids[int(row)]) for row in rows]
        assert [item["category"] for item in items] == [
            candidate_files.CATEGORIES[chunk.categories[row]] for row in rows]


def test_figures_are_those_of_the_items(content, comparison):
  chunk, ids = comparison.chunk, comparison.chunk.request_ids.to_pylist()
  for request in content["requests"]:
    rows = comparison.rows["dpp"][12, ids.index(request["id"])]
    slate = request["slates"]["dpp"][12]
    unit = chunk.features[rows].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert slate["distance"] == pytest.approx(
        1 - (unit @ unit.T)[np.triu_indices(5, 1)].mean(), abs=1e-4)
    assert slate["nearest"][0] is None
    for k in range(1, 5):
      assert slate["nearest"][k] == pytest.approx(
          max(unit[k] @ unit[j] for j in range(k)), abs=1e-3)


def test_figures_are_those_of_the_report(content, comparison):
  assert content["num_requests"] == len(comparison.chunk.request_ids)
  for method in content["methods"]:
    curves = comparison.curves[method["id"]]
    for name in ("score", "distance", "num_categories"):
      assert method["means"][name] == [value.mean for value in curves[name]]


def test_items_have_their_titles(content):
  items = [item for request in content["requests"]
           for item in request["items"]]
  assert {item["title"] for item in items} > {None}
  for item in items:
    assert item["title"] in (None, f"title of {item['id']}")


def test_words_are_right_where_nothing_hovers():
  for package in ("slates", "tradeoff"):
    page = (importlib.resources.files(f"experiments.{package}")
            / "page.html").read_text()
    words = re.sub(r"<style>.*?</style>|addEventListener\([^)]*", "", page,
                   flags=re.DOTALL).lower()
    for word in ("hover", "click", "mouse", "on the left", "on the right"):
      assert word not in words, (package, word)
