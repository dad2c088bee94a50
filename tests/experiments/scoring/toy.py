"""A small artefact that scores rows, and files of rows for it."""

import json

import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from harmonrank_jax.data import encoding
from harmonrank_jax.data import files
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import golden as golden_lib
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import publishing

SCHEMA = schema_lib.Schema(
    (schema_lib.Objective("click", "click", "p_click"),
     schema_lib.Objective("watch", "watch", "s_watch")),
    categorical=("country", "day"), numeric=("age",))
FEATURES = encoding.Features(
    {"country": ["de", "fr"], "day": [1, 2, 3]}, {"age": [0.0, 50.0, 100.0]},
    {"click": None, "watch": (10.0, 5.0)})
BUCKETS = (1, 64)
TABLE = np.array([0.0, 1.0, -1.0], np.float32)
INPUTS = (("ensemble.categorical", "int32", ("b", 2)),
          ("ensemble.numeric", "float32", ("b", 1)),
          ("ensemble.scores", "float32", ("b", 2)),
          ("ensemble.has_score", "bool", ("b", 2)),
          ("objective_weights", "float32", (2,)))


def formula(parameters, inputs):
  """What the toy computes of a row."""
  scores = jnp.where(
      inputs["ensemble.has_score"], inputs["ensemble.scores"], 0)
  return {"ranking_score": (
      scores @ inputs["objective_weights"]
      + parameters["table"][inputs["ensemble.categorical"][:, 0]]
      + 0.1 * inputs["ensemble.categorical"][:, 1]
      + inputs["ensemble.numeric"][:, 0])}


def publish(out, *, table=TABLE):
  """Writes the artefact into a folder of versions; returns its version."""
  (size,) = export.symbolic_shape("b")
  shapes = {name: jax.ShapeDtypeStruct(
      tuple(size if axis == "b" else axis for axis in shape), dtype)
            for name, dtype, shape in INPUTS}
  exported = export.export(jax.jit(formula), platforms=("cpu",))(
      {"table": jax.ShapeDtypeStruct(table.shape, table.dtype)}, shapes)
  columns = {"country": np.array(["de", None, "xx"]),
             "day": np.array([1, 2, 9]), "age": np.array([30.0, np.nan, 80.0]),
             "p_click": np.array([0.1, 0.5, np.nan]),
             "s_watch": np.array([3.0, np.nan, 20.0])}
  encoded = encoding.encode_columns(FEATURES, SCHEMA, columns)
  inputs = {
      "ensemble.categorical": encoded.categorical,
      "ensemble.numeric": encoded.numeric, "ensemble.scores": encoded.scores,
      "ensemble.has_score": encoded.has_score,
      "objective_weights": np.ones(2, np.float32)}
  golden = golden_lib.Golden(
      columns, {"objective_weights": inputs["objective_weights"]},
      {name: np.asarray(array)
       for name, array in formula({"table": table}, inputs).items()})
  fields = [manifest_lib.Field(*each, "of a row").to_json() for each in INPUTS]
  return publishing.publish(out, {
      "score.stablehlo": bytes(exported.serialize()),
      "parameters.npz": files.arrays_to_bytes({"table": table}),
      "vocabularies.json": json.dumps(
          {"ensemble": FEATURES.to_json()}).encode(),
      "golden.npz": files.arrays_to_bytes(
          golden_lib.to_arrays({"score": golden}))}, {
              "platforms": ["cpu"],
              "stages": [{"name": "ensemble", "schema": SCHEMA.to_json(),
                          "objectives": ["click", "watch"]}],
              "functions": {"score": {
                  "file": "score.stablehlo", "inputs": fields,
                  "outputs": [manifest_lib.Field(
                      "ranking_score", "float32", ("b",), "a score").to_json()],
                  "buckets": {"b": list(BUCKETS)}}},
              "request": {"objective_weights": [1.0, 1.0]},
              "golden": {"relative": 1e-6, "absolute": 1e-6}})


def rows(num_rows, seed=0, *, odd=()):
  """Rows without `day`; those at `odd` have a click that is no probability."""
  rng = np.random.default_rng(seed)
  click = rng.random(num_rows)
  click[rng.random(num_rows) < 0.1] = np.nan
  click[list(odd)] = 1.5
  return pa.table({
      "id": pa.array(np.arange(num_rows), pa.uint32()),
      "country": pa.array(rng.choice(["de", "fr", "xx"], num_rows)
                          ).dictionary_encode(),
      "age": pa.array(rng.uniform(-10, 110, num_rows), pa.float32()),
      "p_click": pa.array(click, from_pandas=True),
      "s_watch": rng.normal(10, 5, num_rows),
      "when": pa.array(rng.integers(0, 10**18, num_rows), pa.timestamp("ns"))})


def expected(table, day, weights=(1, 1)):
  """The scores of rows by a loop over them."""
  result = []
  for row in table.drop_columns("when").to_pylist():
    click, watch = row["p_click"], (row["s_watch"] - 10) / 5
    total = 0.0 if click is None else weights[0] * click
    total += weights[1] / (1 + np.exp(-watch))
    total += {"de": 1, "fr": -1}.get(row["country"], 0)
    total += 0.1 * (day if day in (1, 2, 3) else 0)
    result.append(total + np.clip((row["age"] - 50) / 50, -1, 1))
  return np.array(result)
