"""An artefact of stages: its functions, golden rows, manifest and files."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import json
import pathlib
import tempfile
import time
from typing import Any
from typing import NamedTuple

import jax
from jax import export as export_lib
import jax.numpy as jnp
import numpy as np

from experiments.artefacts import config as config_lib
from experiments.artefacts import rows as rows_lib
from experiments.artefacts import stages as stages_lib
from experiments.runs import errors
from harmonrank_jax.data import files as files_lib
from harmonrank_jax.data import schema as schema_lib
import harmonrank_jax.native as native
from harmonrank_jax.serving import functions
from harmonrank_jax.serving import golden as golden_lib
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import models
from harmonrank_jax.serving import onnx
from harmonrank_jax.serving import policy
from harmonrank_jax.serving import publishing
from harmonrank_jax.serving import requests

_DEFAULTS = config_lib.Options()
PLATFORMS = ("cpu", "cuda", "tpu")
# Golden rows, or golden candidates of each of a few golden requests, at most.
_NUM_ROWS, _NUM_REQUESTS, _NUM_CANDIDATES = 64, 4, 48
# How near a function comes to them on a machine of another kind.
_TOLERANCE = {"relative": 1e-4, "absolute": 1e-5}


class Artefact(NamedTuple):
  """What `serving.publish` takes."""

  files: dict[str, bytes]
  manifest: dict[str, Any]


def publish(
    stages: Sequence[stages_lib.Stage], out: str | pathlib.Path,
    options: config_lib.Options = _DEFAULTS,
) -> pathlib.Path:
  """Publishes a version of an artefact and says what is in it; its folder.

  Raises `DataError`, or `UserError` for a folder that cannot be written to;
  nothing is then published.
  """
  began = time.perf_counter()
  artefact = make(stages, options)
  try:
    version = publishing.publish(
        out, artefact.files, artefact.manifest, days=options.expires_days)
  except OSError as error:
    raise _not_written(out, error) from None
  folder = pathlib.Path(out) / version
  _say(folder, artefact, time.perf_counter() - began)
  return folder


def rehearse(stages: Sequence[stages_lib.Stage], out: str) -> None:
  """Makes what `publish` would, and sees whether it could be written.

  Raises `DataError`, or `UserError` for a folder that cannot be written to.
  """
  make(stages)
  try:
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
      pass
  except OSError as error:
    raise _not_written(out, error) from None


def _not_written(
    out: str | pathlib.Path, error: OSError
) -> errors.UserError:
  return errors.UserError(
      f"{out} cannot be written to ({error.strerror or error}).")


def make(
    stages: Sequence[stages_lib.Stage],
    options: config_lib.Options = _DEFAULTS,
) -> Artefact:
  """Exports the functions of stages and writes down what they are.

  Args:
    stages: what is inside, in the order of a request.
    options: sizes, columns of a request, formats.

  Raises:
    DataError: if stages do not join, a column is unknown, or something cannot
      be exported.
  """
  trained = models.joined([stage.trained for stage in stages])
  made = [function for function in (
      functions.score_function(trained),
      functions.select_function(
          trained, request_columns=options.request_columns or (),
          max_shown=options.max_shown)) if function is not None]
  if options.to == "onnx" and made[0].name != "score":
    raise schema_lib.DataError(
        "ONNX is for the scores of a predictor or an ensemble; there is "
        "neither.")
  if options.request_columns and made[-1].name != "select":
    raise schema_lib.DataError(
        "--request_columns are those of a request for a slate; without the run "
        "of slates or a policy there is none.")
  buckets = {
      "score": {functions.ROWS: sorted(set(options.batch_sizes))},
      "select": {functions.ROWS: sorted(set(options.request_sizes)),
                 functions.CANDIDATES: sorted(set(options.candidate_sizes))}}
  manifest = {
      "platforms": list(PLATFORMS),
      "stages": [stage.facts for stage in stages],
      "functions": {function.name: {
          "file": f"{function.name}.stablehlo",
          "inputs": [field.to_json() for field in function.inputs],
          "outputs": [field.to_json() for field in function.outputs],
          "buckets": buckets[function.name]} for function in made},
      "request": _request(trained, options.request_columns or ()),
      "golden": _TOLERANCE}
  vocabularies = {
      each.model.KIND: each.model.features.to_json() for each in trained
      if isinstance(each.model, (models.Predictor, models.Ensemble))}
  golden = {function.name: _golden(function, trained, manifest, vocabularies)
            for function in made}
  parameters = {name: array for function in made
                for name, array in function.parameters.items()}
  files = {
      **{f"{function.name}.stablehlo": exported(function)
         for function in made},
      manifest_lib.PARAMETERS: files_lib.arrays_to_bytes(parameters),
      manifest_lib.VOCABULARIES: manifest_lib.to_bytes(vocabularies),
      manifest_lib.GOLDEN: files_lib.arrays_to_bytes(
          golden_lib.to_arrays(golden))}
  if options.to == "onnx":
    files["score.onnx"] = onnx.convert(
        made[0].call, made[0].parameters, made[0].inputs)
  # As it will be read: tuples are lists, whole numbers of NumPy are numbers.
  return Artefact(files, json.loads(manifest_lib.to_bytes(manifest)))


def exported(function: functions.Function) -> bytes:
  """A function in StableHLO, for any number of rows and of candidates.

  Products are those of float32 on every platform, so that scores are, too.
  """
  rows, candidates = export_lib.symbolic_shape(
      f"{functions.ROWS}, {functions.CANDIDATES}")
  axes = {functions.ROWS: rows, functions.CANDIDATES: candidates}
  inputs = {field.name: jax.ShapeDtypeStruct(
      tuple(axes[size] if isinstance(size, str) else size
            for size in field.shape), jnp.dtype(field.dtype))
            for field in function.inputs}
  parameters = {name: jax.ShapeDtypeStruct(array.shape, array.dtype)
                for name, array in function.parameters.items()}
  with jax.default_matmul_precision("highest"), _without_places():
    return bytes(export_lib.export(jax.jit(function.call), platforms=PLATFORMS)(
        parameters, inputs).serialize())


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
  """Leaves out which lines of which files on this machine compute what.

  The same stages would not be the same bytes with them.
  """
  name = "jax_traceback_in_locations_limit"
  limit = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, limit)


def _say(folder: pathlib.Path, artefact: Artefact, seconds: float) -> None:
  """Prints what a version holds."""
  manifest = artefact.manifest
  print(f"stages: {', '.join(stage['name'] for stage in manifest['stages'])}")
  for name, entry in manifest["functions"].items():
    outputs = ", ".join(field["name"] for field in entry["outputs"])
    sizes = {axis: ", ".join(map(str, each))
             for axis, each in entry["buckets"].items()}
    one = (f"{sizes[functions.ROWS]} rows" if name == "score" else
           f"{sizes[functions.ROWS]} requests of "
           f"{sizes[functions.CANDIDATES]} candidates")
    print(f"{name}: {outputs}; compiled when loaded for {one}")
  size = sum(map(len, artefact.files.values()))
  expires = json.loads(
      (folder / manifest_lib.MANIFEST).read_bytes())["expires"]
  print(f"{size / 2**20:.1f} MiB in {seconds:.1f} s, to be used until "
        f"{expires}\n{folder}", flush=True)


def _request(
    trained: Sequence[models.Trained], request_columns: Sequence[str]
) -> dict[str, Any]:
  """What a request brings, and what it need not bring."""
  result: dict[str, Any] = {
      "columns": list(request_columns), **functions.defaults(trained)}
  for each in trained:
    if isinstance(each.model, (models.Slates, policy.Policy)):
      columns = each.model.columns
      result |= {"categories": list(each.model.categories),
                 "category_column": columns.category,
                 "score_column": columns.score,
                 "features_column": columns.features or "features"}
  return result


def _golden(
    function: functions.Function, trained: Sequence[models.Trained],
    manifest: dict[str, Any], vocabularies: dict[str, Any],
) -> golden_lib.Golden:
  """Rows or requests, drawn, and what the trained models make of them."""
  rng = np.random.default_rng(0)
  signature = manifest_lib.signature(
      function.name, manifest["functions"][function.name])
  encoder = requests.Encoder(signature, manifest, vocabularies)
  if function.name == "score":
    columns = rows_lib.draw_rows(rng, trained, (_NUM_ROWS,))
    arguments: dict[str, np.ndarray] = {}
    inputs = encoder.rows(columns, arguments)
  else:
    most = signature.buckets[functions.CANDIDATES][-1]
    columns, arguments = rows_lib.draw_requests(
        rng, trained, manifest["request"], signature,
        (_NUM_REQUESTS, min(_NUM_CANDIDATES, most)))
    inputs = encoder.candidates(columns, arguments)
  with native.disabled():
    outputs = jax.jit(function.call)(function.parameters, inputs.arrays)
  return golden_lib.Golden(
      columns, arguments, jax.tree.map(np.asarray, outputs))
