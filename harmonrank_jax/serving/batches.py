"""Scores of record batches, as engines of any size want them.

`BatchScorer` is a function from an iterator of record batches to another one:
what `mapInArrow` of Spark takes, `map_batches` of Ray, or a plain loop over a
file. It is sent to other processes as the name of a folder; each loads the
artefact once.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import functools
import json
import math
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harmonrank_jax.data import encoding
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import bundle as bundle_lib
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import requests as requests_lib

_FUNCTION = "score"
# Why a row has no score, or null where it has.
REJECTION = "rejection"
# Artefacts that a process keeps, compiled, of those that it scores with.
_MOST_LOADED = 4


class _Stage(NamedTuple):
  """What a stage reads of a row."""

  name: str
  schema: schema_lib.Schema
  features: encoding.Features


class BatchScorer:
  """Appends scores to record batches.

  All columns stay as they are, and so does the order of the rows. Appended are
  `ranking_score` of an ensemble, a `score_<objective>` of each objective of a
  predictor, both float32, and `rejection`: of a row that has a score that no
  probability can be made of, the reason, in which case its scores are null.
  A row has the same scores in whatever batches it comes.

  Attributes:
    version: of the artefact.
    added: the fields that are appended.
  """

  def __init__(
      self, artefact: str | pathlib.Path, *, suffix: str = "",
      objective_weights: Sequence[float] | None = None,
  ):
    """Reads what the artefact says of itself; it is loaded when it scores.

    Args:
      artefact: folder of one version, or of versions with one that is
        `current`: that one is used to the end.
      suffix: of the names of the columns that are appended.
      objective_weights: `[M]`, instead of those of the artefact.

    Raises:
      DataError: if the folder is no artefact, scores no rows, or does not take
        these weights.
    """
    folder = manifest_lib.version_folder(artefact)
    manifest, _, outputs = _described(str(folder))
    if _FUNCTION not in manifest["functions"]:
      raise schema_lib.DataError(
          f"{artefact}: the artefact has neither a predictor nor an ensemble, "
          "so that it has no score for a row.")
    self.version: str = manifest["version"]
    self.added = pa.schema([
        *(pa.field(f"{name}{suffix}", pa.float32())
          for names in outputs.values() for name in names),
        pa.field(f"{REJECTION}{suffix}", pa.string())])
    self._folder = str(folder)
    self._weights = _weights(manifest, objective_weights)

  def __call__(
      self, batches: Iterator[pa.RecordBatch]
  ) -> Iterator[pa.RecordBatch]:
    """Yields each batch with its scores.

    Raises:
      DataError: if a column is missing, does not hold what the model was
        trained on, or is named as one that is appended.
    """
    for batch in batches:
      yield self.score(batch)

  def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with its scores."""
    self._check_names(batch.schema)
    inputs, refused = self._encoded(batch)
    if self._weights is not None:
      inputs["objective_weights"] = np.asarray(self._weights, np.float32)
    outputs = _loaded(self._folder).run(_FUNCTION, inputs)
    columns: list[pa.Array] = []
    for output, names in _described(self._folder).outputs.items():
      values = outputs[output][:batch.num_rows].reshape(batch.num_rows, -1)
      columns += [pa.array(values[:, m], mask=refused)
                  for m in range(len(names))]
    columns.append(self._reasons(batch, refused))
    return pa.RecordBatch.from_arrays(
        [*batch.columns, *columns], schema=self.schema(batch.schema))

  def schema(self, schema: pa.Schema) -> pa.Schema:
    """Of scored batches, by that of the batches."""
    return pa.schema([*schema, *self.added], metadata=schema.metadata)

  def check(self, schema: pa.Schema) -> None:
    """Raises the DataError of batches of a schema without scoring any."""
    self._check_names(schema)
    table = schema.empty_table()
    for stage in _described(self._folder).stages:
      features_lib.encode_inputs(stage.features, stage.schema, table)

  def _check_names(self, schema: pa.Schema) -> None:
    for name in self.added.names:
      if name in schema.names:
        raise schema_lib.DataError(
            f"column {name!r} is there already; a suffix, as in --suffix=_new, "
            "gives the columns that are added other names.")

  def _encoded(
      self, batch: pa.RecordBatch
  ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs of the function, and `[N]` bool of rows that are refused."""
    manifest, stages, _ = _described(self._folder)
    # Of one size, so that a row's score does not depend on how many others are
    # in its batch.
    missing = -batch.num_rows % _loaded(self._folder).rows_at_once(_FUNCTION)
    wanted = {each["name"]
              for each in manifest["functions"][_FUNCTION]["inputs"]}
    table = pa.Table.from_batches([batch])
    inputs, refused = {}, np.zeros(batch.num_rows, bool)
    for stage in stages:
      encoded = features_lib.encode_inputs(
          stage.features, stage.schema, table)
      refused |= encoded.is_refused
      for name, array in encoded._asdict().items():
        if f"{stage.name}.{name}" in wanted:
          inputs[f"{stage.name}.{name}"] = np.pad(
              array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
    return inputs, refused

  def _reasons(
      self, batch: pa.RecordBatch, refused: np.ndarray
  ) -> pa.Array:
    """`[N]` texts, null where the row is not refused."""
    reasons = np.full(batch.num_rows, None, object)
    for stage in _described(self._folder).stages:
      columns = [o.score for o in stage.schema.objectives if o.score]
      rows = batch.select(columns).filter(pa.array(refused)).to_pylist()
      for place, row in zip(np.flatnonzero(refused), rows, strict=True):
        reasons[place] = reasons[place] or encoding.why_refused(
            stage.features, stage.schema, row)
    return pa.array(reasons, pa.string())


class _Described(NamedTuple):
  """What an artefact says of itself."""

  manifest: dict[str, Any]
  stages: list[_Stage]
  outputs: dict[str, list[str]]  # Columns that each output becomes.


@functools.lru_cache(maxsize=_MOST_LOADED)
def _described(folder: str) -> _Described:
  """Reads what is needed to know which columns go in and come out."""
  contents = manifest_lib.read(folder)
  try:
    return _Described(contents.manifest, _stages(contents),
                      _names_of_outputs(contents.manifest))
  # A file that is verified may still hold anything.
  except Exception as error:
    raise manifest_lib.ArtefactError(
        f"{folder}: manifest and vocabularies do not fit each other "
        f"({manifest_lib.first_line(error)}).") from None


def _stages(contents: manifest_lib.Contents) -> list[_Stage]:
  """What the stages read of a row that it must bring."""
  manifest = contents.manifest
  features = json.loads(contents.files[manifest_lib.VOCABULARIES])
  wanted = {each["name"] for each in manifest["functions"].get(
      _FUNCTION, {"inputs": []})["inputs"]}
  return [
      _Stage(name, schema, encoding.features_from_json(features[name]))
      for name, schema in requests_lib.schemas_of(manifest, wanted).items()]


@functools.lru_cache(maxsize=_MOST_LOADED)
def _loaded(folder: str) -> bundle_lib.Bundle:
  """The artefact of a folder, once in a process."""
  return bundle_lib.load(folder, warm=False)


def _names_of_outputs(manifest: dict[str, Any]) -> dict[str, list[str]]:
  """Columns that each output of the function becomes."""
  objectives = {stage["name"]: stage.get("objectives")
                for stage in manifest["stages"]}
  names = {"ranking_score": ["ranking_score"], "objective_scores": [
      f"{schema_lib.SCORE_PREFIX}{name}"
      for name in objectives.get("predictor") or ()]}
  return {each["name"]: names[each["name"]]
          for each in manifest["functions"].get(
              _FUNCTION, {"outputs": []})["outputs"]}


def _weights(
    manifest: dict[str, Any], given: Sequence[float] | None
) -> tuple[float, ...] | None:
  """What each objective is worth; None where the function does not ask."""
  field = next((each for each in manifest["functions"][_FUNCTION]["inputs"]
                if each["name"] == "objective_weights"), None)
  if field is None:
    if given is not None:
      raise schema_lib.DataError(
          "this artefact takes no objective weights: its ensemble was not "
          "trained to follow them.")
    return None
  if given is None:
    given = manifest["request"].get("objective_weights") or ()
  (number,) = field["shape"]
  if len(given) != number or not 0 < sum(given) < math.inf or min(given) < 0:
    raise schema_lib.DataError(
        f"objective weights must be {number} finite numbers of at least 0, not "
        f"all 0, got {','.join(f'{weight:g}' for weight in given) or 'none'}.")
  return tuple(given)
