"""What the suites `scoring` and `serving` measure: untrained default models.

What they take for a row does not depend on what they have learned.
"""

from collections.abc import Sequence
import dataclasses
import pathlib

from experiments.artefacts import config as artefact_config
from experiments.artefacts import making
from experiments.artefacts import stages as stages_lib
from experiments.benchmarks import train_auc
from experiments.predictor import config as predictor_config
from experiments.predictor import inputs as predictor_inputs
from experiments.predictor import task as predictor_task
from experiments.ranker import inputs as ranker_inputs
from harmonrank_jax.data import generator
from harmonrank_jax.data import items as items_lib
from harmonrank_jax.serving import models
from harmonrank_jax.serving import publishing
from harmonrank_jax.serving import selector

# The embedded log that all is fitted on and measured with.
LOG = train_auc.TRAINED.embedded
# Columns of it that a request gives once.
REQUEST_COLUMNS = ("user_id", *generator.SCHEMA.categorical,
                   *generator.SCHEMA.numeric)
# Slots of a page.
NUM_SELECTED = 10


def predictor(workdir: pathlib.Path, *, seed: int) -> stages_lib.Stage:
  """The default predictor of the embedded log."""
  config = predictor_config.Config(
      num_exposures=LOG.num_exposures, seed=seed)
  inputs = predictor_inputs.read_inputs(config, workdir)
  task = predictor_task.make_task(config, inputs)
  return _stage(
      models.Predictor(task.recipe.network, inputs.source.schema,
                       inputs.features),
      predictor_task.take(task.init().best_params, predictor_task.FULL))


def ensemble(workdir: pathlib.Path, *, seed: int) -> stages_lib.Stage:
  """The default ensemble of the embedded log, of all its members."""
  config = dataclasses.replace(train_auc.TRAINED, seed=seed)
  inputs = ranker_inputs.read_inputs(config, workdir)
  return _stage(inputs.model,
                train_auc.make_task(config, inputs).init().best_params)


def slates() -> stages_lib.Stage:
  """The default selection of slates among items of the embedded log."""
  return _stage(models.Slates(
      "dpp", selector.Rules(num_selected=NUM_SELECTED), theta=0.7,
      relevance="log", categories=generator.CATEGORIES,
      num_features=generator.NUM_FEATURES,
      columns=items_lib.CandidateColumns(score="score_click")), {})


def publish(
    folder: pathlib.Path, stages: Sequence[stages_lib.Stage],
    request_columns: Sequence[str] = (),
) -> pathlib.Path:
  """Exports an artefact of stages; returns its folder."""
  artefact = making.make(stages, artefact_config.Options(
      request_columns=tuple(request_columns)))
  publishing.publish(folder, artefact.files, artefact.manifest)
  return folder


def _stage(model: models.Model, parameters: dict) -> stages_lib.Stage:
  return stages_lib.stage_of(models.Trained(model, models.flat(parameters)))
