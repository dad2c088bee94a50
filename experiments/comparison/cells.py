"""What each method makes of one block: trained once, then read from a file."""

from collections.abc import Callable
import pathlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.comparison import inputs as inputs_lib
from experiments.comparison import studies
from experiments.ranker import stacks
from experiments.runs import errors
from harmonrank_jax.data import files
from harmonrank_jax.ensemble import baselines
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.evaluation import calibration_error

# Seeds that choose the learning rate; they are among those that are shown.
_NUM_SEARCHED = 2
# Fewer steps would not train a network, however large its batch.
_MIN_STEPS = 50


class Cell(NamedTuple):
  """What a method makes of one block: S seeds, N test rows, M objectives."""

  scores: np.ndarray  # [S, N] float32 of test rows; formulas have one seed
  # [S] sums of AUCs of validation rows (within lists where a network trains
  # on them), by which the networks were chosen.
  validation: np.ndarray | None = None
  calibration_error: np.ndarray | None = None  # [S, M], of probabilities
  learning_rate: float | None = None
  seconds: float | None = None  # of training, the search for the rate included
  left_out: np.ndarray | None = None  # [S, N], an average without each seed


def write_cell(path: pathlib.Path, cell: Cell) -> None:
  """Writes a cell; half of one is never seen under its name."""
  with files.atomic(path) as temporary, open(temporary, "wb") as file:
    np.savez(file, **{name: value for name, value in cell._asdict().items()
                      if value is not None})


def read_cell(path: pathlib.Path) -> Cell:
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
    config: studies.Config, workdir: pathlib.Path, inputs: inputs_lib.Inputs,
    condition: studies.Condition, number: int,
) -> dict[str, Cell]:
  """The cell of every method on one block, in the order of the tables."""
  block = inputs.blocks[number]
  train = block.train._replace(labels=thinned(
      block.train.labels, condition.thinning, config.seed, number))
  block = block._replace(train=train)
  platt = jax.jit(calibration.fit_platt)(
      train.scores, train.labels, where=train.has_score)
  cells = _formulas(block, platt, config.seed)
  batch_size = min(
      condition.batch_size or config.batch_size or stacks.Training.batch_size,
      len(train.labels))
  # All blocks are padded to the largest: networks are compiled once.
  capacity = max(len(each.train.labels) for each in inputs.blocks)
  for name in inputs.study.trained(batch_size):
    home = inputs.study.home(condition, name)
    path = workdir / "cells" / home.name / f"block_{number}" / f"{name}.npz"
    if not path.exists():
      cell = _train(config, name, home.lists, batch_size, block, platt,
                    capacity)
      write_cell(path, cell)
      print(f"{condition.name}, block {number + 1} of {config.blocks}, {name}: "
            f"learning rate {cell.learning_rate:g}, {cell.seconds:.0f} s",
            flush=True)
    cells[name] = read_cell(path)
    if studies.averaged(name) and config.num_seeds > 1:
      cells[name + studies.AVERAGE] = average(cells[name])
  return cells


def thinned(
    labels: np.ndarray, thinning: int, seed: int, number: int = 0
) -> np.ndarray:
  """Labels `[N, M]` with one positive of `thinning` left, the others made 0.

  Drawn anew for each block: which few are left decides more than the method.
  """
  if thinning == 1:
    return labels
  draws = np.random.default_rng([seed, thinning, number]).random(labels.shape)
  return np.where(draws < 1 / thinning, labels, 0).astype(labels.dtype)


def _formulas(
    block: inputs_lib.Block, platt: calibration.Calibration, seed: int
) -> dict[str, Cell]:
  """Cells of the methods without a network, and of the ceiling if known."""
  worth = np.ones(block.train.labels.shape[1], np.float32)
  scores = baselines.formula_scores(
      platt, worth, block.train, block.validation, block.test, seed=seed)
  cells = {name: Cell(row[None].astype(np.float32))
           for name, row in scores.items()}
  calibrated = np.asarray(calibration.calibrate(
      platt, jnp.asarray(block.test.scores)))
  cells["closed_form"] = cells["closed_form"]._replace(
      calibration_error=_calibration_error(calibrated[None], block, platt))
  if block.truth is not None:
    cells[studies.CEILING] = Cell(np.asarray(calibration.closed_form_score(
        jnp.asarray(block.truth), platt.base_rate, jnp.asarray(worth)))[None])
  return cells


def _train(
    config: studies.Config, name: str, lists: str, batch_size: int,
    block: inputs_lib.Block, platt: calibration.Calibration, capacity: int,
) -> Cell:
  """Trains all seeds of a network and scores the test rows."""
  method, num_rows = studies.METHODS[name], len(block.train.labels)
  worth = np.ones(block.train.labels.shape[1], np.float32)
  ranker = ranker_lib.Ranker(method.network(len(worth)), block.vocabulary_sizes)
  training = stacks.Training(
      method.loss, lists, config.relative_strength, batch_size,
      max(_MIN_STEPS, round(config.passes * num_rows / batch_size)))

  def fit(seeds: np.ndarray, rates: np.ndarray) -> stacks.Stack:
    return stacks.fit(
        ranker, training,
        stacks.Members(seeds, rates, np.tile(worth, (len(seeds), 1))),
        block.train, block.validation, platt, capacity=capacity)

  rate, parts = _fit_seeds(config, fit)
  for remark in dict.fromkeys(part.remark for part in parts if part.remark):
    errors.warn(f"{name}: {remark}.")
  validation = np.concatenate([part.value for part in parts])
  if not np.isfinite(validation).all():
    raise errors.UserError(
        f"{name} diverges at --learning_rates={rate:g}; name smaller ones.")
  cell = Cell(
      np.concatenate([stacks.score(ranker, part.params, worth, block.test)
                      for part in parts]),
      validation, learning_rate=rate,
      seconds=sum(part.seconds for part in parts))
  if method.head != "aligned":
    return cell
  return cell._replace(calibration_error=np.concatenate([
      _calibration_error(stacks.probabilities(
          ranker, part.params, block.test), block, platt) for part in parts]))


def _fit_seeds(
    config: studies.Config,
    fit: Callable[[np.ndarray, np.ndarray], stacks.Stack],
) -> tuple[float, list[stacks.Stack]]:
  """Chooses the learning rate with the first seeds, then trains the others.

  The last stack repeats seeds, so that all share one compilation.
  """
  rates = np.asarray(config.learning_rates, np.float32)
  seeds = config.seed + np.arange(config.num_seeds)
  searches = [fit(np.full(len(rates), seed), rates)
              for seed in seeds[:_NUM_SEARCHED]]
  best = int(np.mean([stack.value for stack in searches], axis=0).argmax())
  parts = [_members(stack, slice(best, best + 1)) for stack in searches]
  for first in range(_NUM_SEARCHED, len(seeds), len(rates)):
    rest = seeds[first:first + len(rates)]
    stack = fit(np.resize(rest, len(rates)), np.full(len(rates), rates[best]))
    parts.append(_members(stack, slice(0, len(rest))))
  return float(rates[best]), parts


def _members(stack: stacks.Stack, members: slice) -> stacks.Stack:
  """Some members of a stack; the seconds are those of the whole."""
  return stacks.Stack(
      stacks.take(stack.params, members), stack.value[members],
      stack.step[members], stack.seconds)


def _calibration_error(
    probabilities: np.ndarray, block: inputs_lib.Block,
    platt: calibration.Calibration,
) -> np.ndarray:
  """`[S, M]` of `[S, N, M]`; values count as fractions of the largest."""
  return calibration_error.expected_calibration_error(
      probabilities, block.test.labels / np.asarray(platt.unit))
