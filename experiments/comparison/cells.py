"""What a method makes of one block: trained once, kept in a file."""

import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.comparison import inputs as inputs_lib
from experiments.comparison import studies as contenders
from experiments.comparison.config import Config
from experiments.ranker import stacks
from experiments.runs import errors
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import files
from harmonrank_jax.ensemble import baselines
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.evaluation import calibration_error

# Seeds that choose the learning rate; they are among those that are shown.
_NUM_SEARCHED = 2
# So many at least, however large the batch.
_MIN_STEPS = 50


class Cell(NamedTuple):
  """What a method makes of one block.

  Attributes:
    scores: `[S, N]` float32 of test rows; formulas have one seed.
    validation: `[S]` what the networks were chosen by: the sum of AUCs of
      validation rows, within lists where a network trains on them.
    calibration_error: `[S, M]`, of methods that give probabilities.
    learning_rate: chosen.
    seconds: of training, the search for the learning rate with it.
    left_out: `[S, N]`, of an average: the same without one of the seeds.
  """

  scores: np.ndarray
  validation: np.ndarray | None = None
  calibration_error: np.ndarray | None = None
  learning_rate: float | None = None
  seconds: float | None = None
  left_out: np.ndarray | None = None


def write_cell(path: pathlib.Path, cell: Cell) -> None:
  """Writes a cell; half of one is never seen under its name."""
  with files.atomic(path) as temporary, open(temporary, "wb") as file:
    np.savez(file, **{name: value for name, value in cell._asdict().items()
                      if value is not None})


def read_cell(path: pathlib.Path) -> Cell:
  """Reads a cell."""
  with np.load(path) as content:
    values: dict[str, Any] = {
        name: value if value.ndim else float(value)
        for name, value in content.items()}
  return Cell(**values)


def average(cell: Cell) -> Cell:
  """The mean score of the seeds, each in units of its spread, as a method."""
  scores = cell.scores.astype(np.float64)
  unit = np.maximum(scores.std(axis=1, keepdims=True), 1e-12)
  scores /= unit
  total = scores.sum(axis=0, keepdims=True)
  count = len(scores)
  return Cell((total / count).astype(np.float32),
              left_out=((total - scores) / (count - 1)).astype(np.float32))


def run_block(
    config: Config, workdir: pathlib.Path, condition: contenders.Condition,
    study: contenders.Study, number: int, block: inputs_lib.Block,
    rates: np.ndarray, capacity: int,
) -> dict[str, Cell]:
  """What every method makes of one block, in the order of the tables."""
  train = block.train._replace(labels=thinned(
      block.train.labels, condition.thinning, config.seed, number))
  platt = jax.jit(calibration.fit_platt)(
      train.scores, train.labels, where=train.has_score)
  worth = np.ones(train.labels.shape[1], np.float32)
  cells = _formulas(config, block, train, platt, worth)
  batch_size = min(
      condition.batch_size or config.batch_size or stacks.Training.batch_size,
      len(train.labels))
  num_steps = max(
      _MIN_STEPS, round(config.passes * len(train.labels) / batch_size))
  for name in study.trained(batch_size):
    home = study.home(condition, name)
    path = workdir / "cells" / home.name / f"block_{number}" / f"{name}.npz"
    if not path.exists():
      method = contenders.METHODS[name]
      training = stacks.Training(
          method.loss, home.lists, config.relative_strength, batch_size,
          num_steps)
      cell = _train(config, method, training, block, train, platt, rates,
                    capacity)
      if not np.isfinite(np.asarray(cell.validation)).all():
        raise errors.UserError(
            f"{name} diverges at --learning_rates={cell.learning_rate:g}; name "
            "smaller ones.")
      write_cell(path, cell)
      print(f"{condition.name}, block {number + 1} of {config.blocks}, {name}: "
            f"learning rate {cell.learning_rate:g}, {cell.seconds:.0f} s",
            flush=True)
    cells[name] = read_cell(path)
    if contenders.averaged(name) and config.num_seeds > 1:
      cells[name + contenders.AVERAGE] = average(cells[name])
  return cells


def thinned(
    labels: np.ndarray, thinning: int, seed: int, number: int = 0
) -> np.ndarray:
  """Labels of which one positive of so many is left, the others made 0.

  Which ones is a draw for each block: few positives are left of a rare
  objective, and which decides more than the method.
  """
  if thinning == 1:
    return labels
  kept = np.random.default_rng([seed, thinning, number]).random(labels.shape)
  return np.where(kept < 1 / thinning, labels, 0).astype(labels.dtype)


def _formulas(
    config: Config, block: inputs_lib.Block, train: features_lib.Batch,
    platt: calibration.Platt, worth: np.ndarray,
) -> dict[str, Cell]:
  """What needs no network."""
  scores = baselines.formula_scores(
      platt, worth, train, block.validation, block.test, seed=config.seed)
  cells = {name: Cell(row[None].astype(np.float32))
           for name, row in scores.items()}
  calibrated = np.asarray(calibration.calibrate(
      platt, jnp.asarray(block.test.scores)))
  cells["closed_form"] = cells["closed_form"]._replace(
      calibration_error=calibration_error.expected_calibration_error(
          calibrated[None], block.test.labels / np.asarray(platt.unit)))
  if block.truth is not None:
    cells[contenders.CEILING] = Cell(np.asarray(
        calibration.closed_form_score(
            jnp.asarray(block.truth), platt.base_rate,
            jnp.asarray(worth)))[None])
  return cells


def _train(
    config: Config, method: contenders.Method, training: stacks.Training,
    block: inputs_lib.Block, train: features_lib.Batch,
    platt: calibration.Platt, rates: np.ndarray, capacity: int,
) -> Cell:
  """Chooses the learning rate with some of the seeds; trains the rest."""
  num_objectives = train.labels.shape[1]
  ranker = ranker_lib.Ranker(
      method.network(num_objectives), block.vocabulary_sizes)

  def fit(seeds: np.ndarray, rates: np.ndarray) -> stacks.Stack:
    return stacks.fit(
        ranker, training,
        stacks.Members(
            seeds, rates, np.ones((len(seeds), num_objectives), np.float32)),
        train, block.validation, platt, capacity=capacity)

  # All stacks have one size: they are compiled once.
  seeds = config.seed + np.arange(config.num_seeds)
  searches = [fit(np.full(len(rates), seed), rates)
              for seed in seeds[:_NUM_SEARCHED]]
  best = int(np.mean([stack.value for stack in searches], axis=0).argmax())
  chosen = [(stack, slice(best, best + 1)) for stack in searches]
  for first in range(_NUM_SEARCHED, len(seeds), len(rates)):
    rest = seeds[first:first + len(rates)]
    stack = fit(np.resize(rest, len(rates)),
                np.full(len(rates), rates[best]))
    chosen.append((stack, slice(0, len(rest))))
  validation = np.concatenate([stack.value[of] for stack, of in chosen])

  def gather(function) -> np.ndarray:
    return np.concatenate([
        function(stacks.take(stack.params, of)) for stack, of in chosen])

  scores = gather(lambda params: stacks.score(
      ranker, params, np.ones(num_objectives, np.float32), block.test))
  cell = Cell(
      scores, validation, learning_rate=float(rates[best]),
      seconds=sum(stack.seconds for stack, _ in chosen))
  if method.head == "aligned":
    return cell._replace(calibration_error=gather(
        lambda params: calibration_error.expected_calibration_error(
            stacks.probabilities(ranker, params, block.test),
            block.test.labels / np.asarray(platt.unit))))
  return cell
