"""An artefact that answers: verified, on the device, compiled."""

from collections.abc import Callable
from collections.abc import Mapping
import datetime
import functools
import json
import pathlib
import time
from typing import Any
from typing import NamedTuple
from typing import TypeVar

import jax
from jax import export
import numpy as np

from harmonrank_jax.data import files as files_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import buckets as buckets_lib
from harmonrank_jax.serving import golden as golden_lib
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import requests as requests_lib

ResultT = TypeVar("ResultT")


class Page(NamedTuple):
  """Pages of B requests of N candidates; of one request without the B."""

  indices: np.ndarray  # [B, K] int32, candidates; -1 in empty slots.
  gains: np.ndarray  # [B, K] float32, what they were selected by; 0 if empty.
  # [B, N] float32, by which candidates were compared: the `ranking_score`, or
  # what was given. NaN of those that are never shown.
  scores: np.ndarray
  # [B, N, M] float32, probabilities of the predictor, of which M = 0 if there
  # is none; NaN likewise.
  objective_scores: np.ndarray


def load(
    folder: str | pathlib.Path, *, warm: bool = True,
    today: datetime.date | None = None,
) -> "Bundle":
  """Loads an artefact, and answers its golden rows as it was made to.

  Args:
    folder: of one version, or of versions with one that is `current`.
    warm: whether every bucket is compiled now, or when it is first needed.
    today: the day that must not be after the artefact's last one; by default
      this one (UTC).

  Raises:
    ArtefactError: if the folder is no artefact, was changed, has expired, or
      answers otherwise here than where it was made.
  """
  bundle = Bundle(folder, manifest_lib.read(folder, today=today))
  bundle.replay()
  if warm:
    bundle.warm_up()
  return bundle


class Bundle:
  """The functions of an artefact for arrays of any size.

  May be called from several threads.
  """

  def __init__(
      self, folder: str | pathlib.Path, contents: manifest_lib.Contents
  ):
    """Puts the parameters of verified contents on the device.

    Raises:
      ArtefactError: if a file cannot be used, or is not what the manifest
        says.
    """
    self.manifest = contents.manifest
    self.warm_seconds = 0.0
    self._folder = pathlib.Path(folder)
    self._golden = self._use(
        manifest_lib.GOLDEN, lambda content: golden_lib.from_arrays(
            files_lib.arrays_from_bytes(content)), contents)
    parameters = jax.device_put(self._use(
        manifest_lib.PARAMETERS, files_lib.arrays_from_bytes, contents))
    self._functions: dict[str, buckets_lib.Buckets] = {}
    self._encoders: dict[str, requests_lib.Encoder] = {}
    for name, signature in contents.functions.items():
      exported = self._use(
          signature.file, lambda content: export.deserialize(
              bytearray(content)), contents)
      names = self._check_function(signature, exported, parameters)
      self._functions[name] = buckets_lib.Buckets(
          signature, exported, {key: parameters[key] for key in names})
      self._encoders[name] = self._use(
          manifest_lib.VOCABULARIES, functools.partial(
              _encoder, signature, self.manifest), contents)
    if self._golden.keys() != self._functions.keys():
      raise self._error(
          manifest_lib.GOLDEN, f"has rows of {sorted(self._golden)}, and the "
          f"functions are {sorted(self._functions)}")

  @property
  def version(self) -> str:
    """The name of the version."""
    return self.manifest["version"]

  @property
  def stages(self) -> tuple[str, ...]:
    """Names of the stages that are inside, in the order of the funnel."""
    return tuple(stage["name"] for stage in self.manifest["stages"])

  @property
  def compiled(self) -> dict[str, list[tuple[int, ...]]]:
    """Sizes that each function was compiled for, in this order."""
    return {name: list(function.compiled)
            for name, function in self._functions.items()}

  def rows_at_once(self, name: str) -> int:
    """The most rows that a function computes at once here."""
    self._check_has(name)
    return self._functions[name].batch_sizes()[-1]

  def warm_up(self) -> None:
    """Compiles every bucket that is not; `warm_seconds` says how long."""
    start = time.perf_counter()
    for function in self._functions.values():
      function.warm_up()
    self.warm_seconds += time.perf_counter() - start

  def run(
      self, name: str, inputs: Mapping[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Calls a function on encoded arrays of any size.

    Args:
      name: of the function, "score" or "select".
      inputs: one array of every input, as the manifest describes it.

    Returns:
      One array of every output, of the same numbers of rows and candidates.

    Raises:
      RequestError: if the artefact has no such function, or an array does not
        fit it.
    """
    self._check_has(name)
    return self._functions[name](inputs)

  def score(
      self, columns: Mapping[str, Any], *,
      objective_weights: Any | None = None,
  ) -> dict[str, np.ndarray]:
    """Scores rows of raw columns.

    Args:
      columns: arrays by the names of the log, of any shape `[...]`: numbers,
        booleans, texts or dates. None and NaN are missing; what the models do
        not read is ignored.
      objective_weights: `[M]`, what each AUC is worth, of an aligned ensemble;
        by default those of its run.

    Returns:
      `ranking_score` of an ensemble and `score_<objective>` of a predictor,
      `[...]` float32; NaN where the row has a score that is no probability and
      should be one.

    Raises:
      RequestError: if a column is missing or of another kind, or shapes do not
        fit.
    """
    inputs = self._inputs(
        "score", columns, {"objective_weights": objective_weights})
    outputs = self.run("score", inputs.arrays)
    result = {}
    if "ranking_score" in outputs:
      result["ranking_score"] = outputs["ranking_score"]
    if "objective_scores" in outputs:
      names = next(stage["objectives"] for stage in self.manifest["stages"]
                   if stage["name"] == "predictor")
      result |= {f"{schema_lib.SCORE_PREFIX}{name}":
                     outputs["objective_scores"][:, m]
                 for m, name in enumerate(names)}
    return {name: np.where(inputs.is_served, array.reshape(inputs.shape),
                           np.float32(np.nan))
            for name, array in result.items()}

  def select(
      self, columns: Mapping[str, Any], *, where: Any | None = None,
      objective_weights: Any | None = None, theta: Any | None = None,
      quotas: Any | None = None, shown: Any | None = None,
      day: Mapping[str, Any] | None = None,
  ) -> Page:
    """Selects the pages of requests.

    Arguments but `columns` and `where` are one value, or one per request; by
    default they are those of the run.

    Args:
      columns: raw arrays by name, `[B, N, ...]` of candidates and `[B]` of what
        the manifest says a request has once; or without the B, of one request.
      where: `[B, N]` bool, True = may be shown; by default all.
      objective_weights: `[M]`, what each AUC is worth, of an aligned ensemble.
      theta: in [0, 1), weight of relevance against diversity.
      quotas: `[C]` at most so many items of each category, or a dict by name.
      shown: `[S, D]` features of items that were shown before, newest last.
      day: what else a policy is told of the user's day, by name of the input.

    Returns:
      The `Page`. Candidates whose scores cannot be used are never shown.

    Raises:
      RequestError: if a column or argument is missing or does not fit, or there
        are more candidates than the artefact takes.
    """
    arguments: dict[str, Any] = {
        "where": where, "objective_weights": objective_weights,
        "theta": theta, "quotas": quotas, "shown": shown}
    if not isinstance(day, Mapping | None):
      raise buckets_lib.RequestError(
          f"day must be values by name, got {type(day).__name__}.")
    for name, value in (day or {}).items():
      if name in {*arguments, "shown_features"}:
        raise buckets_lib.RequestError(f"{name} is no part of a day.")
      arguments[name] = value
    inputs = self._inputs("select", columns, arguments)
    outputs = self.run("select", inputs.arrays)
    lead = inputs.shape[:-1]
    scores = outputs.get("ranking_score", inputs.arrays.get("scores"))
    if scores is None:
      scores = np.full(inputs.shape, np.nan, np.float32)
    if "score_top" in inputs.arrays:
      scores = scores + inputs.arrays["score_top"][:, None]
    objectives = outputs.get(
        "objective_scores", np.zeros((*inputs.shape, 0), np.float32))
    objectives = objectives.reshape(*inputs.shape, objectives.shape[-1])
    nan = np.float32(np.nan)
    return Page(
        outputs["indices"].reshape(*lead, outputs["indices"].shape[-1]),
        outputs["gains"].reshape(*lead, outputs["gains"].shape[-1]),
        np.where(inputs.is_served, scores.reshape(inputs.shape), nan),
        np.where(inputs.is_served[..., None], objectives, nan))

  def replay(self) -> None:
    """Raises an ArtefactError if golden rows have other outputs here."""
    for name, rows in self._golden.items():
      try:
        inputs = self._inputs(name, rows.columns, rows.arguments)
        found = self.run(name, inputs.arrays)
      except Exception as error:
        raise self._error(
            manifest_lib.GOLDEN, f"rows of {name} cannot be answered "
            f"({manifest_lib.first_line(error)})") from None
      tolerance = self.manifest["golden"]
      differs = golden_lib.difference(
          rows.outputs, found, relative=tolerance["relative"],
          absolute=tolerance["absolute"])
      if differs:
        raise self._error(
            manifest_lib.GOLDEN, f"{name} answers otherwise than where it was "
            f"made: {differs}")

  def _check_has(self, name: str) -> None:
    if name not in self._functions:
      raise buckets_lib.RequestError(
          f"this artefact has no function {name}; it holds "
          f"{', '.join(self.stages)}, with {', '.join(self._functions)}.")

  def _inputs(
      self, name: str, columns: Mapping[str, Any],
      arguments: Mapping[str, Any],
  ) -> requests_lib.Inputs:
    self._check_has(name)
    encoder = self._encoders[name]
    encode = encoder.rows if name == "score" else encoder.candidates
    try:
      return encode(columns, arguments)
    except buckets_lib.RequestError:
      raise
    except schema_lib.DataError as error:
      raise buckets_lib.RequestError(str(error)) from None

  def _use(
      self, name: str, read: Callable[[bytes], ResultT],
      contents: manifest_lib.Contents,
  ) -> ResultT:
    """What a reader makes of a verified file."""
    try:
      return read(contents.files[name])
    # Readers of foreign formats raise whatever they like.
    except Exception as error:
      raise self._error(
          name, f"cannot be used ({manifest_lib.first_line(error)})") from None

  def _check_function(
      self, signature: manifest_lib.Signature, exported: export.Exported,
      parameters: Mapping[str, jax.Array],
  ) -> list[str]:
    """Names of the parameters of a function.

    Raises if it is not the one of the manifest.
    """
    platform = export.default_export_platform()
    if platform not in exported.platforms:
      raise self._error(
          signature.file, f"runs on {', '.join(exported.platforms)}, and this "
          f"is {platform}")
    try:
      (wanted_parameters, inputs), _ = jax.tree.unflatten(
          exported.in_tree, exported.in_avals)
      outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
      found = [_described(arrays)
               for arrays in (inputs, outputs, wanted_parameters)]
    except (AttributeError, TypeError, ValueError):
      raise self._error(
          signature.file, "does not take parameters and inputs by name"
      ) from None
    for what, wanted, got in zip(
        ("inputs", "outputs"), (signature.inputs, signature.outputs), found,
        strict=False):
      if {f.name: (f.dtype, f.shape) for f in wanted} != got:
        raise self._error(
            signature.file, f"has other {what} than the manifest: "
            f"{_listed(got)}")
    needed = found[2]
    for name, shape in needed.items():
      if name not in parameters or shape != _described(
          {name: parameters[name]})[name]:
        raise self._error(
            manifest_lib.PARAMETERS, f"has no array {name} as "
            f"{signature.file} takes it, {_listed({name: shape})}")
    return list(needed)

  def _error(self, name: str, what: str) -> manifest_lib.ArtefactError:
    return manifest_lib.ArtefactError(f"{self._folder}, {name}: {what}.")


def _encoder(
    signature: manifest_lib.Signature, manifest: Mapping[str, Any],
    vocabularies: bytes,
) -> requests_lib.Encoder:
  return requests_lib.Encoder(signature, manifest, json.loads(vocabularies))


def _described(arrays: Mapping[str, Any]) -> dict[str, tuple[str, tuple]]:
  """Dtype and shape of arrays by name; sizes that are open as their names."""
  return {name: (str(array.dtype), tuple(
      size if isinstance(size, int) else str(size) for size in array.shape))
          for name, array in arrays.items()}


def _listed(described: Mapping[str, tuple[str, tuple]]) -> str:
  return ", ".join(
      f"{name} {dtype}[{', '.join(map(str, shape))}]"
      for name, (dtype, shape) in sorted(described.items()))
