"""What an artefact is made of: the models of runs, with their results."""

from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import pathlib
from typing import Any
from typing import NamedTuple

from experiments.runs import errors
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import files
from harmonrank_jax.serving import models

# What of a summary goes along with the model.
_RESULTS: dict[str, tuple[str, ...]] = {
    "predictor": ("positives", "auc", "auc_error", "log_loss",
                  "log_loss_error", "base_log_loss", "test_rows"),
    "ensemble": ("positives", "auc", "auc_error", "auc_sum", "auc_sum_error",
                 "group_auc", "group_by", "baselines", "ceiling", "test_rows"),
    "slates": ("num_requests", "num_compared", "methods"),
    "policy": ("policies", "paired", "threshold", "is_feasible", "delivered"),
}


class Stage(NamedTuple):
  """One run, as a stage of the artefact."""

  trained: models.Trained
  # For the manifest: what was trained, with which settings, and its results.
  facts: dict[str, Any]

  @property
  def kind(self) -> str:
    """One of `models.KINDS`."""
    return self.trained.model.KIND


def read_stages(runs: Sequence[str]) -> list[Stage]:
  """Reads the workdirs of runs; the stages are in the order of a request.

  Raises:
    UserError: if two runs are of one kind, or a summary cannot be read.
    DataError: if a run has left no model.
  """
  stages: dict[str, Stage] = {}
  folders: dict[str, str] = {}
  for run in dict.fromkeys(runs):
    stage = _read_stage(pathlib.Path(run))
    if stage.kind in stages:
      raise errors.UserError(
          f"--run={run}: it is of the same kind as {folders[stage.kind]} "
          f"({stage.kind}); an artefact has one of each.")
    stages[stage.kind], folders[stage.kind] = stage, run
  return [stages[kind] for kind in models.KINDS if kind in stages]


def _read_stage(folder: pathlib.Path) -> Stage:
  trained = models.read_model(folder)
  summary = workdir_lib.read_json(folder / "summary.json")
  stage = stage_of(trained, summary)
  if (folder / "data.json").exists():
    stage.facts["data"] = workdir_lib.read_json(folder / "data.json")
  return stage


def stage_of(
    trained: models.Trained, summary: Mapping[str, Any] | None = None
) -> Stage:
  """A stage of what was trained, with the summary of its run if it has one."""
  kind, summary = trained.model.KIND, summary or {}
  digest = hashlib.sha256(files.arrays_to_bytes(trained.parameters))
  return Stage(trained, {
      "name": kind, **_named(trained.model),
      "parameters_sha256": digest.hexdigest(),
      **{key: summary[key] for key in ("num_steps", "best_step", "config")
         if key in summary},
      "results": {key: summary[key] for key in _RESULTS[kind]
                  if key in summary}})


def _named(model: Any) -> dict[str, Any]:
  """Names and roles of what the model reads and makes."""
  if isinstance(model, (models.Predictor, models.Ensemble)):
    return {"objectives": list(model.schema.names),
            "schema": model.schema.to_json()}
  categories = {"categories": list(model.categories)}
  if isinstance(model, models.Slates):
    return categories
  # The window of a request is one of the hours that it was trained in.
  return categories | {"utc_offset_hours": model.utc_offset_hours}
