"""Exports finished runs as one folder that scores and selects elsewhere.

    python -m experiments.train_auc
    python -m experiments.export --run=runs/train_auc_embedded --out=exported
    python -m experiments.export --run=runs/train_predictor --run=runs/ranker \\
        --run=runs/train_reranker --out=exported

A run is the workdir of train_predictor, train_auc, select_slates or
train_reranker. Of several, in any order, the stages are joined: the
probabilities of the predictor are the scores of the ensemble, and its score is
what slates are selected by, or what the policy corrects.

The folder of --out gets a version, named by its day and its content: functions
in StableHLO for CPU, CUDA and TPU, parameters, vocabularies, a manifest with
checksums and the last day of use, and golden rows, which are drawn and not
taken from the data. The file `current` then names it. What was there before
stays; an export that fails moves nothing. `harmonrank_jax.serving.load` loads
the folder, `python -m experiments.score` scores files with it. Neither the data
nor a checkpoint is read.
"""

import pathlib

from experiments.artefacts import config as config_lib
from experiments.artefacts import making
from experiments.artefacts import stages as stages_lib
from experiments.artefacts.config import Config
from experiments.runs import flags


def export(config: Config) -> pathlib.Path:
  """Publishes a version; its folder.

  Raises `UserError` or `DataError`; nothing is then published.
  """
  config_lib.check(config)
  assert config.run and config.out
  return making.publish(
      stages_lib.read_stages(config.run), config.out, config)


def main(config: Config) -> None:
  """Runs what the flags say."""
  export(config)


if __name__ == "__main__":
  flags.run(main, Config, has_workdir=False,
            after_interrupt="nothing is exported.")
