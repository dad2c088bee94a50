"""Record batches of other engines are scored as those of files are."""

import hashlib
import importlib.util
import json
import pathlib
import pickle
import sys
import types

import numpy as np
import pyarrow as pa
import pytest

from harmonrank_jax.serving import batches
from harmonrank_jax.serving import manifest as manifest_lib
from tests.experiments.scoring import toy

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples/score_ray.py"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
  folder = tmp_path_factory.mktemp("artefact")
  toy.publish(folder)
  # As an engine sends it to its processes.
  return pickle.loads(pickle.dumps(batches.BatchScorer(folder)))


@pytest.fixture
def example(monkeypatch):
  """The example for Ray, which is not installed."""
  monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
  spec = importlib.util.spec_from_file_location("score_ray", EXAMPLE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_tables_of_ray_are_scored_whatever_their_chunks(example, scorer):
  parts = [toy.rows(70, 1), toy.rows(5, 2, odd=(3,))]
  table = pa.concat_tables(parts).append_column("day", pa.array([2] * 75))
  assert table["age"].num_chunks == 2
  scored = example.score(table, scorer)
  assert isinstance(scored, pa.Table)
  assert scored.drop_columns(["ranking_score", "rejection"]).equals(table)
  is_scored = np.arange(75) != 73
  np.testing.assert_array_equal(scored["rejection"].is_null(), is_scored)
  np.testing.assert_allclose(
      scored["ranking_score"].to_numpy()[is_scored],
      toy.expected(table, 2)[is_scored], atol=1e-6)


def test_a_table_without_rows_has_the_columns(example, scorer):
  table = toy.rows(4).append_column("day", pa.array([2] * 4))
  scored = example.score(table.slice(4), scorer)
  assert scored.schema == example.score(table, scorer).schema
  assert not scored.num_rows


def test_two_scorers_in_turn_are_loaded_once_each(tmp_path):
  table = toy.rows(4).append_column("day", pa.array([2] * 4))
  scorers = []
  for number in range(2):
    toy.publish(tmp_path / str(number), table=toy.TABLE * number)
    scorers.append(batches.BatchScorer(tmp_path / str(number)))
  batches._loaded.cache_clear()
  for batch in table.to_batches() * 3:
    for scorer in scorers:
      scorer.score(batch)
  assert batches._loaded.cache_info().misses == 2


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"[" * 10**5])
def test_vocabularies_of_no_use_are_refused(tmp_path, content):
  folder = tmp_path / toy.publish(tmp_path)
  manifest = json.loads((folder / manifest_lib.MANIFEST).read_bytes())
  manifest["files"][manifest_lib.VOCABULARIES] = {
      "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
  manifest["version"] = manifest_lib.version_of(manifest)
  (folder / manifest_lib.VOCABULARIES).write_bytes(content)
  encoded = manifest_lib.to_bytes(manifest)
  (folder / manifest_lib.MANIFEST).write_bytes(encoded)
  (folder / manifest_lib.CHECKSUM).write_bytes(
      manifest_lib.checksum_line(encoded))
  with pytest.raises(manifest_lib.ArtefactError, match="do not fit each other"):
    batches.BatchScorer(folder.rename(tmp_path / "served"))


@pytest.mark.parametrize("artefact", [
    "artefact", "artefact/20250101-000000000000"])
def test_a_version_under_the_name_of_another_is_refused(tmp_path, artefact):
  out = tmp_path / "artefact"
  (out / toy.publish(out)).rename(out / "20250101-000000000000")
  (out / "current").write_text("20250101-000000000000\n")
  with pytest.raises(manifest_lib.ArtefactError, match="is of version"):
    batches.BatchScorer(tmp_path / artefact)
