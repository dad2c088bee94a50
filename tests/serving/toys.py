"""Small artefacts of functions that are easy to follow."""

import datetime

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.data import files as files_lib
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


def contents():
  """Files and manifest of the toy, for `publish`."""
  golden = {}
  for name in FIELDS:
    inputs = drawn(name, {"b": 3, "n": 6})
    golden[name] = golden_lib.Golden(inputs, called(name, inputs))
  files = {f"{name}.stablehlo": exported(name) for name in FIELDS}
  files |= {
      "parameters.npz": files_lib.arrays_to_bytes(PARAMETERS),
      "golden.npz": files_lib.arrays_to_bytes(golden_lib.to_arrays(golden)),
      "vocabularies.json": b"{}"}
  manifest = {
      "platforms": list(PLATFORMS),
      "stages": [{"name": "ensemble", "objectives": ["click", "like"],
                  "schema": {}}, {"name": "slates"}],
      "functions": {
          name: {"file": f"{name}.stablehlo",
                 "inputs": [f.to_json() for f in fields(name)[0]],
                 "outputs": [f.to_json() for f in fields(name)[1]],
                 "buckets": {axis: list(sizes) for axis, sizes
                             in BUCKETS[name].items()}}
          for name in FIELDS},
      "request": {}, "golden": {"relative": 1e-5, "absolute": 1e-6}}
  return files, manifest


def publish(out, **changes):
  files, manifest = contents()
  return publishing.publish(out, files, manifest | changes, today=TODAY)
