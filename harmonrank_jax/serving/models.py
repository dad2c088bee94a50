"""What a trained ranker needs beside its parameters, as one JSON file."""

import dataclasses
import json
import pathlib
from typing import NamedTuple

from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import files
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib

MODEL = "model.json"


class Model(NamedTuple):
  """What a trained ranker needs beside its parameters."""

  config: network.HarmonRankConfig
  schema: schema_lib.Schema  # Roles of the columns of a log.
  features: features_lib.Features  # Of the profile columns.

  @property
  def ranker(self) -> ranker_lib.Ranker:
    """Encoder and network of these shapes."""
    return ranker_lib.Ranker(self.config, self.features.vocabulary_sizes)


def write_model(folder: str | pathlib.Path, model: Model) -> None:
  """Writes `model.json` into a folder, whole or not at all."""
  content = {"network": dataclasses.asdict(model.config),
             "schema": model.schema.to_json(),
             "features": model.features.to_json()}
  with files.atomic(pathlib.Path(folder) / MODEL) as temporary:
    temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_model(folder: str | pathlib.Path) -> Model:
  """Reads `model.json` of a folder.

  Raises:
    DataError: if there is none that can be read.
  """
  path = pathlib.Path(folder) / MODEL
  try:
    content = json.loads(path.read_text())
    return Model(network.HarmonRankConfig(**content["network"]),
                 schema_lib.schema_from_json(content["schema"]),
                 features_lib.features_from_json(content["features"]))
  except FileNotFoundError:
    raise schema_lib.DataError(
        f"{folder}: no {MODEL}; expected the workdir of a training "
        "run.") from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise schema_lib.DataError(f"{path}: not a model ({error}).") from None
