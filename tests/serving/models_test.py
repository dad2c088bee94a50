"""What a run leaves: every kind comes back as it was, or is refused by name."""

import json

import numpy as np
import pytest

from harmonrank_jax.data import encoding
from harmonrank_jax.data import items
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import network
from harmonrank_jax.predictor import pepnet
from harmonrank_jax.serving import models
from harmonrank_jax.serving import selector

SCHEMA = schema_lib.Schema(
    (schema_lib.Objective("click", "click", "score_click"),
     schema_lib.Objective("watch", "seconds", None, True)),
    user="user_id", categorical=("age", "page"), numeric=("dwell",))
FEATURES = encoding.Features(
    {"age": ["18-24", "25+"], "page": [3, 7, 2**40]},
    {"dwell": [0.0, 0.5, 1e9]}, {"click": None})
ENSEMBLE = models.Ensemble(
    network.HarmonRankConfig(2, token_size=4), SCHEMA, FEATURES, (1.0, 0.5))
KINDS = {
    "predictor": models.Predictor(
        pepnet.PepNetConfig(2, (3, 4), domain=(1,), tower_sizes=(5, 6)),
        SCHEMA, FEATURES),
    "ensemble": ENSEMBLE,
    "slates": models.Slates(
        "dpp", selector.Rules(num_selected=5, window=3, ridge=0.9), 0.7, "log",
        ("toys", "books"), 8, items.CandidateColumns(score="p"))}
PARAMETERS = {"network": {"params": {"scale": np.ones((2, 3), np.float32)}},
              "encoder": {"params": {"a": np.zeros(0, np.float32)}}}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_model_comes_back_as_it_was(tmp_path, kind):
  models.write_model(tmp_path, KINDS[kind], PARAMETERS)
  model, parameters = models.read_model(tmp_path)
  assert model == KINDS[kind] or kind == "slates"
  assert model.to_json() == KINDS[kind].to_json()
  assert list(parameters) == ["encoder/params/a", "network/params/scale"]
  assert parameters["network/params/scale"].dtype == np.float32
  again = models.nested(parameters)
  np.testing.assert_array_equal(
      again["network"]["params"]["scale"], np.ones((2, 3)))
  if kind == "predictor":
    # Static arguments of compiled functions.
    assert hash(model.config) == hash(KINDS[kind].config)


def test_quotas_come_back_as_arrays(tmp_path):
  rules = selector.Rules(
      num_selected=5, quotas=np.array([2, 1], np.int32),
      pool_quotas=np.array([9, 0], np.int32))
  models.write_model(tmp_path, models.Slates(
      "mmr", rules, 0.7, "raw", ("a", "b"), 8, items.CandidateColumns()), {})
  read = models.read_model(tmp_path)
  assert not read.parameters
  np.testing.assert_array_equal(read.model.rules.quotas, [2, 1])
  np.testing.assert_array_equal(read.model.rules.pool_quotas, [9, 0])
  assert read.model.rules.quotas.dtype == np.int32
  assert read.model.columns == items.CandidateColumns()


def test_the_same_model_is_the_same_bytes(tmp_path):
  contents = []
  for parameters in (PARAMETERS, dict(reversed(PARAMETERS.items()))):
    models.write_model(tmp_path, ENSEMBLE, parameters)
    contents.append([(tmp_path / name).read_bytes()
                     for name in (models.MODEL, models.PARAMETERS)])
  assert contents[0] == contents[1]


def _spoil(folder, case):
  """Makes the folder of a model one that cannot be read."""
  path, arrays = folder / models.MODEL, folder / models.PARAMETERS
  content = json.loads(path.read_text())
  if case == "other parameters":
    arrays.write_bytes(arrays.read_bytes() + b"\0")
  elif case == "no parameters":
    arrays.unlink()
  elif case == "no model":
    path.unlink()
  elif case == "half a model":
    path.write_text(path.read_text()[:99])
  elif case == "earlier":
    path.write_text(json.dumps(content["model"]))
  elif case == "no object":
    path.write_text("[]")
  elif case == "unknown kind":
    path.write_text(json.dumps({**content, "kind": "sort"}))
  else:
    content["model"]["network"]["head"] = "tail"
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("case, said", [
    ("other parameters", "parameters.npz is not that of model.json"),
    ("no parameters", "no parameters.npz; expected the workdir"),
    ("no model", "no model.json; expected the workdir"),
    ("half a model", "not a model"),
    ("earlier", "earlier version of this program; run its command again"),
    ("no object", "not a model"),
    ("unknown kind", "unknown kind 'sort'"),
    ("bad value", "head must be one of")])
def test_what_cannot_be_read_is_refused(tmp_path, case, said):
  models.write_model(tmp_path, ENSEMBLE, PARAMETERS)
  _spoil(tmp_path, case)
  with pytest.raises(schema_lib.DataError) as caught:
    models.read_model(tmp_path)
  message = str(caught.value)
  assert said in message and str(tmp_path) in message
  assert "\n" not in message
