"""Small artefacts of functions that are easy to follow."""

import datetime
import json

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.data import encoding
from harmonrank_jax.data import files as files_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import golden as golden_lib
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import publishing

TODAY = datetime.date(2026, 11, 29)
PLATFORMS = ("cpu", "cuda", "tpu")
M, C, Q, D, K = 2, 1, 1, 3, 4
FIELDS = {
    "score": (
        [("ensemble.categorical", "int32", ("b", C)),
         ("ensemble.numeric", "float32", ("b", Q)),
         ("ensemble.scores", "float32", ("b", M)),
         ("ensemble.has_score", "bool", ("b", M)),
         ("objective_weights", "float32", (M,))],
        [("ranking_score", "float32", ("b",))]),
    "select": (
        [("where", "bool", ("b", "n")),
         ("category_ids", "int32", ("b", "n")),
         ("features", "float32", ("b", "n", D)),
         ("theta", "float32", ("b",)),
         ("scores", "float32", ("b", "n"))],
        [("indices", "int32", ("b", K)), ("gains", "float32", ("b", K))])}
BUCKETS = {"score": {"b": (1, 4, 16)}, "select": {"b": (1, 4), "n": (8, 32)}}


def score(parameters, inputs):
  table = parameters["ensemble/table"]
  profile = table[inputs["ensemble.categorical"][:, 0]]
  weighted = jnp.where(inputs["ensemble.has_score"], inputs["ensemble.scores"],
                       0.5) * inputs["objective_weights"][None]
  return {"ranking_score": profile * inputs["ensemble.numeric"][:, 0]
          + weighted.sum(1)}


def select(parameters, inputs):
  """The best scores by theta, with less for known categories."""
  key = (inputs["theta"][:, None] * inputs["scores"]
         + inputs["features"].sum(-1) * 1e-3
         - (inputs["category_ids"] >= 0) * parameters["penalty"])
  key = jnp.where(inputs["where"], key, -jnp.inf)
  key = jnp.pad(key, ((0, 0), (0, K)), constant_values=-jnp.inf)
  gains, indices = jax.lax.top_k(key, K)
  found = gains > -jnp.inf
  return {"indices": jnp.where(found, indices, -1).astype(jnp.int32),
          "gains": jnp.where(found, gains, 0)}


PARAMETERS = {"ensemble/table": np.array([0.5, 1, 2], np.float32),
              "penalty": np.float32(0.25)}


def fields(name):
  return tuple(
      tuple(manifest_lib.Field(*field, meaning="of a toy") for field in part)
      for part in FIELDS[name])


def drawn(name, sizes, seed=0):
  """Random inputs of a function, for sizes by axis."""
  rng = np.random.default_rng(seed)
  arrays = {}
  for field in fields(name)[0]:
    shape = [sizes.get(size, size) for size in field.shape]
    if field.dtype == "bool":
      arrays[field.name] = rng.random(shape) < 0.7
    elif field.dtype == "int32":
      arrays[field.name] = rng.integers(0, 3, shape, np.int32)
    else:
      arrays[field.name] = rng.random(shape, np.float32)
  return arrays


def exported(name):
  """The bytes of a function for all platforms and sizes."""
  b, n = export.symbolic_shape("b, n")
  sizes = {"b": b, "n": n}
  inputs = {
      field.name: jax.ShapeDtypeStruct(
          [sizes.get(size, size) for size in field.shape], field.dtype)
      for field in fields(name)[0]}
  parameters = {key: jax.ShapeDtypeStruct(x.shape, x.dtype)
                for key, x in PARAMETERS.items()}
  return bytes(export.export(
      jax.jit({"score": score, "select": select}[name]),
      platforms=PLATFORMS)(parameters, inputs).serialize())


def called(name, inputs):
  """What a function answers where it was made."""
  return jax.device_get({"score": score, "select": select}[name](
      jax.tree.map(jnp.asarray, PARAMETERS), jax.tree.map(
          jnp.asarray, inputs)))


def raw(name, shape, seed=0):
  """Random raw columns of rows `[...]` or candidates `[..., N]`."""
  rng = np.random.default_rng(seed)
  if name == "score":
    tabs = np.array(["a", "b", "new", None], object)
    columns = {
        "tab": tabs[rng.integers(0, 4, shape)],
        "age": rng.normal(size=shape),
        **{f"score_{o}": rng.random(shape) for o in ("click", "like")}}
    for column in ("age", "score_like"):
      columns[column] = np.where(
          rng.random(shape) < 0.2, np.nan, columns[column])
    return columns
  return {"score": rng.random(shape), "features": rng.random((*shape, D)),
          "category": np.array(["x", "y"], object)[rng.integers(0, 2, shape)]}


def encoded(name, columns):
  """What the toys see of raw columns, by hand."""
  shape = columns["score" if name == "select" else "age"].shape
  if name == "select":
    return {"where": np.ones(shape, bool),
            "category_ids": np.where(columns["category"] == "x", 0, -1).astype(
                np.int32),
            "features": columns["features"].astype(np.float32),
            "theta": np.full(shape[:1], 0.5, np.float32),
            "scores": columns["score"].astype(np.float32)}
  scores = np.stack([columns["score_click"], columns["score_like"]], -1)
  places = {"a": 1, "b": 2}
  age = np.clip(np.nan_to_num(columns["age"]), -1, 1)
  return {
      "ensemble.categorical": np.array(
          [places.get(tab, 0) for tab in columns["tab"]], np.int32)[:, None],
      "ensemble.numeric": age.astype(np.float32)[:, None],
      "ensemble.scores": np.nan_to_num(scores, nan=0.5).astype(np.float32),
      "ensemble.has_score": ~np.isnan(scores),
      "objective_weights": np.array([1, 2], np.float32)}


def contents():
  """Files and manifest of the toy, for `publish`."""
  golden = {}
  for name, shape in {"score": (5,), "select": (3, 6)}.items():
    columns = raw(name, shape)
    golden[name] = golden_lib.Golden(
        columns, {}, called(name, encoded(name, columns)))
  files = {f"{name}.stablehlo": exported(name) for name in FIELDS}
  features = encoding.Features(
      {"tab": ["a", "b"]}, {"age": [-1.0, 0.0, 1.0]},
      {"click": None, "like": None})
  schema = schema_lib.Schema(
      (schema_lib.Objective("click", "click", "score_click"),
       schema_lib.Objective("like", "like", "score_like")),
      categorical=("tab",), numeric=("age",))
  files |= {
      "parameters.npz": files_lib.arrays_to_bytes(PARAMETERS),
      "golden.npz": files_lib.arrays_to_bytes(golden_lib.to_arrays(golden)),
      "vocabularies.json": json.dumps(
          {"ensemble": features.to_json()}).encode()}
  manifest = {
      "platforms": list(PLATFORMS),
      "stages": [{"name": "ensemble", "objectives": ["click", "like"],
                  "schema": schema.to_json()}, {"name": "slates"}],
      "functions": {
          name: {"file": f"{name}.stablehlo",
                 "inputs": [f.to_json() for f in fields(name)[0]],
                 "outputs": [f.to_json() for f in fields(name)[1]],
                 "buckets": {axis: list(sizes) for axis, sizes
                             in BUCKETS[name].items()}}
          for name in FIELDS},
      "request": {"categories": ["x"], "theta": 0.5,
                  "objective_weights": [1, 2]},
      "golden": {"relative": 1e-5, "absolute": 1e-6}}
  return files, manifest


def publish(out, **changes):
  files, manifest = contents()
  return publishing.publish(out, files, manifest | changes, today=TODAY)
