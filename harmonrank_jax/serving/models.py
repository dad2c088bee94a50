"""What a run leaves of what it trained: `model.json` and `parameters.npz`.

A model is what scoring needs beside its parameters; the kinds are those of the
funnel. Parameters have flat names, as `encoder/params/embedding_0/embedding`.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any
from typing import ClassVar
from typing import NamedTuple
from typing import Protocol
from typing import Self

import flax.traverse_util
import numpy as np

from harmonrank_jax.data import encoding
from harmonrank_jax.data import files
from harmonrank_jax.data import items as items_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.predictor import pepnet
from harmonrank_jax.serving import policy as policy_lib
from harmonrank_jax.serving import selector

MODEL, PARAMETERS = "model.json", "parameters.npz"
_AGAIN = ("run its command again, which goes on from where it stopped and "
          "leaves a model")


class Model(Protocol):
  """Static facts of something trained; JSON holds all of them."""

  KIND: ClassVar[str]

  def to_json(self) -> dict[str, Any]:
    """As `from_json` reads it."""

  @classmethod
  def from_json(cls, content: dict[str, Any]) -> Self:
    """The inverse of `to_json`."""


@dataclasses.dataclass(frozen=True)
class Predictor:
  """From the features of a row to a log-odds of each objective."""

  KIND: ClassVar[str] = "predictor"
  config: pepnet.PepNetConfig
  schema: schema_lib.Schema  # Roles of the columns of a log.
  features: encoding.Features  # Of all columns the network reads.

  def to_json(self) -> dict[str, Any]:
    """As `from_json` reads it."""
    return {"network": dataclasses.asdict(self.config),
            "schema": self.schema.to_json(),
            "features": self.features.to_json()}

  @classmethod
  def from_json(cls, content: dict[str, Any]) -> Self:
    """The inverse of `to_json`."""
    config: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content["network"].items()}
    return cls(pepnet.PepNetConfig(**config), *_read_as(content))


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """From M predicted scores and the profile of a row to one score.

  Parameters are those of all members, with a leading axis of them.
  """

  KIND: ClassVar[str] = "ensemble"
  config: network.HarmonRankConfig
  schema: schema_lib.Schema  # Roles of the columns of a log.
  features: encoding.Features  # Of the profile columns.
  objective_weights: tuple[float, ...]  # [M], what each AUC is worth.

  @property
  def ranker(self) -> ranker_lib.Ranker:
    """Encoder and network of these shapes."""
    return ranker_lib.Ranker(self.config, self.features.vocabulary_sizes)

  def to_json(self) -> dict[str, Any]:
    """As `from_json` reads it."""
    return {"network": dataclasses.asdict(self.config),
            "schema": self.schema.to_json(),
            "features": self.features.to_json(),
            "objective_weights": list(self.objective_weights)}

  @classmethod
  def from_json(cls, content: dict[str, Any]) -> Self:
    """The inverse of `to_json`."""
    return cls(network.HarmonRankConfig(**content["network"]),
               *_read_as(content), tuple(content["objective_weights"]))


@dataclasses.dataclass(frozen=True)
class Slates:
  """From scored candidates to a slate; there are no parameters."""

  KIND: ClassVar[str] = "slates"
  method: str  # One of `selector.METHODS`.
  rules: selector.Rules  # Quotas are in the order of the categories.
  theta: float
  relevance: str  # What of a score is the relevance: "log" or "raw".
  categories: tuple[str, ...]  # Names of C categories.
  num_features: int  # D
  columns: items_lib.CandidateColumns

  def to_json(self) -> dict[str, Any]:
    """As `from_json` reads it."""
    rules = {name: value.tolist() if isinstance(value, np.ndarray) else value
             for name, value in vars(self.rules).items()}
    return {"method": self.method, "rules": rules, "theta": self.theta,
            "relevance": self.relevance, "categories": list(self.categories),
            "num_features": self.num_features,
            "columns": self.columns._asdict()}

  @classmethod
  def from_json(cls, content: dict[str, Any]) -> Self:
    """The inverse of `to_json`."""
    rules: dict[str, Any] = {
        name: np.asarray(value, np.int32) if isinstance(value, list) else value
        for name, value in content["rules"].items()}
    return cls(content["method"], selector.Rules(**rules), content["theta"],
               content["relevance"], tuple(content["categories"]),
               content["num_features"],
               items_lib.CandidateColumns(**content["columns"]))


KINDS: dict[str, type[Model]] = {
    kind.KIND: kind for kind in (
        Predictor, Ensemble, Slates, policy_lib.Policy)}


class Trained(NamedTuple):
  """A model and its parameters by their flat names."""

  model: Any  # One of the values of `KINDS`.
  parameters: dict[str, np.ndarray]


def write_model(
    folder: str | pathlib.Path, model: Model, parameters: Any
) -> None:
  """Writes a model and its parameters, a tree of arrays, into a folder.

  The same ones are the same bytes. A folder with one of the files from another
  model is refused by `read_model`, so that both are there or none.
  """
  folder = pathlib.Path(folder)
  arrays = files.arrays_to_bytes(flat(parameters))
  content = {"kind": model.KIND,
             "parameters_sha256": hashlib.sha256(arrays).hexdigest(),
             "model": model.to_json()}
  with files.atomic(folder / PARAMETERS) as temporary:
    temporary.write_bytes(arrays)
  with files.atomic(folder / MODEL) as temporary:
    temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_model(folder: str | pathlib.Path) -> Trained:
  """Reads what `write_model` has written.

  Raises:
    DataError: if there is no model, or none that can be read.
  """
  folder = pathlib.Path(folder)
  path = folder / MODEL
  if not folder.is_dir():
    raise schema_lib.DataError(f"{folder}: no such folder.")
  try:
    content = json.loads(path.read_text())
    if "network" in content:
      raise schema_lib.DataError(
          f"{path} was written by an earlier version of this program; "
          f"{_AGAIN}.")
    if content["kind"] not in KINDS:
      raise ValueError(f"unknown kind {content['kind']!r}")
    model = KINDS[content["kind"]].from_json(content["model"])
    arrays = (folder / PARAMETERS).read_bytes()
    if hashlib.sha256(arrays).hexdigest() != content["parameters_sha256"]:
      raise schema_lib.DataError(
          f"{folder / PARAMETERS} is not that of {MODEL} beside it; {_AGAIN}.")
    return Trained(model, files.arrays_from_bytes(arrays))
  except FileNotFoundError as error:
    raise schema_lib.DataError(
        f"{folder}: no {pathlib.Path(error.filename).name}; expected the "
        f"workdir of a finished run; if it is one of a run, {_AGAIN}."
    ) from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    if isinstance(error, schema_lib.DataError):
      raise
    raise schema_lib.DataError(f"{path}: not a model ({error}).") from None


def joined(stages: Sequence[Trained]) -> list[Trained]:
  """Stages that read the columns of one log, in the order that they are in.

  The ensemble was trained on the log that the predictor had scored, in which
  categories are text; what is served comes from the log before.
  """
  features = [trained.model.features for trained in stages
              if isinstance(trained.model, Predictor)]
  return [
      trained._replace(model=dataclasses.replace(
          trained.model, features=encoding.with_kinds_of(
              trained.model.features, features[0])))
      if features and isinstance(trained.model, Ensemble) else trained
      for trained in stages]


def flat(parameters: Any, prefix: str = "") -> dict[str, np.ndarray]:
  """Arrays by names such as `network/params/scale`, of a tree of dicts."""
  return {prefix + name: np.asarray(array) for name, array in sorted(
      flax.traverse_util.flatten_dict(parameters, sep="/").items())}


def nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flat` without a prefix."""
  return flax.traverse_util.unflatten_dict(dict(parameters), sep="/")


def _read_as(
    content: dict[str, Any]
) -> tuple[schema_lib.Schema, encoding.Features]:
  """Schema and features of a model in its JSON form."""
  return (schema_lib.schema_from_json(content["schema"]),
          encoding.features_from_json(content["features"]))
