"""Compares methods of ranking by several objectives, with error bars.

    python -m experiments.compare                     # all methods, one split
    python -m experiments.compare --blocks=5          # five temporal blocks
    python -m experiments.compare --study=skew        # thinned positives
    python -m experiments.compare --study=batch_size
    python -m experiments.compare --study=lists       # lists of users, requests
    python -m experiments.compare --data=scored.parquet

Every network has as many steps, and its learning rate is chosen on validation
rows by the same search; weights of formulas are tuned there as well. The step
is the best on these rows, but the last where lists are ranked. Test rows are
read once, at the end. `report.html`, `table.md` and `summary.json` go to
--workdir; the same command again goes on after the last method that was done.
"""

import dataclasses
import pathlib
import sys
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.comparison import studies as contenders
from experiments.comparison import tables as comparison
from experiments.comparison import text as tables
from experiments.ranker import stacks
from experiments.runs import configs
from experiments.runs import errors
from experiments.runs import flags
from experiments.runs import logs
from experiments.runs import workdir as workdir_lib
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import splits
from harmonrank_jax.ensemble import baselines
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import ranker as ranker_lib

# Seeds that choose the learning rate; they are among those that are shown.
_NUM_SEARCHED = 2
# So many at least, however large the batch.
_MIN_STEPS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(configs.LogConfig):
  """What a comparison depends on: the flags of these names."""

  study: str = flags.field(
      "methods", "What is compared: all methods; some with thinned positives, "
      "by batch size, or by what is ranked against what.",
      choices=tuple(contenders.STUDIES))
  methods: tuple[str, ...] | None = flags.field(
      None, "Networks to train, beside the formulas; all of the study if not "
      "given.")
  num_seeds: int = flags.field(
      5, "Seeds of each network, from --seed on.", low=1, high=100)
  blocks: int = flags.field(
      1, "Parts of the later half of the rows, each tested on what came "
      "before; 1 is the split of train_auc.", low=1, high=100)
  passes: float = flags.field(
      6.0, "Over the training rows, for every network.", low=0.0, high=1e4)
  learning_rates: tuple[float, ...] = flags.field(
      (0.003, 0.01), "Of Adam, to choose from on validation rows.",
      low=sys.float_info.min, high=1.0)
  relative_strength: float = flags.field(
      2.0, "Of the soft rank, in mean gaps of scores.", low=0.0, high=1e6)
  without: str | None = flags.field(
      None, "Objective without which the sum is shown as well.")


class Block(NamedTuple):
  """Rows of one split.

  Attributes:
    vocabulary_sizes: of the categorical profile columns.
    train: rows.
    validation: rows.
    test: rows.
    truth: `[N, M]` true probabilities of the test rows, or None.
  """

  vocabulary_sizes: tuple[int, ...]
  train: features_lib.Batch
  validation: features_lib.Batch
  test: features_lib.Batch
  truth: np.ndarray | None


class Inputs(NamedTuple):
  """What is compared, on what.

  Attributes:
    schema: roles of the columns.
    study: with the methods that were asked for and the lists there are.
    blocks: rows, at least one.
  """

  schema: schema_lib.Schema
  study: contenders.Study
  blocks: list[Block]


def compare(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains, evaluates and writes everything there is to see.

  Args:
    config: what the comparison depends on.
    workdir: where it goes; what is done there is not done again.

  Returns:
    The content of `summary.json`.

  Raises:
    UserError: if the configuration does not fit the data or the workdir.
    DataError: if the data is not what it should be.
  """
  from experiments.comparison import report as report  # Slow to import.

  workdir = pathlib.Path(workdir)
  with workdir_lib.claimed(workdir, dataclasses.asdict(config)):
    schema, study, blocks = read_inputs(config, workdir)
  left_out = [
      condition for condition in contenders.STUDIES[config.study].conditions
      if condition not in study.conditions]
  for condition in left_out:
    errors.warn(f"{condition.name} is left out: the data has no column of "
               f"{condition.lists}s.")
  workdir_lib.check_same_data(workdir, [
      array for block in blocks
      for batch in (block.train, block.validation, block.test)
      for array in batch])
  truths = [block.truth for block in blocks if block.truth is not None]
  found = []
  for condition in study.conditions:
    cells = [
        run_block(config, workdir, condition, study, number, block,
                  np.asarray(config.learning_rates, np.float32),
                  capacity=max(len(block.train.labels) for block in blocks))
        for number, block in enumerate(blocks)]
    found.append(comparison.evaluate(
        condition, schema, cells, [block.test for block in blocks],
        truths, without=config.without, seed=config.seed))
  content = workdir_lib.finite(tables.summary(
      dataclasses.asdict(config), schema, found,
      [tuple(len(part.labels) for part in block[1:4]) for block in blocks],
      [condition.name for condition in left_out]))
  workdir_lib.write_json(workdir / "summary.json", content)
  workdir_lib.write_text(workdir / "table.md", tables.markdown(found))
  report.write_report(workdir, content, found)
  tables.print_tables(found)
  print(*(workdir / name for name in (
      "report.html", "table.md", "summary.json")), sep="  ")
  return content


def read_inputs(config: Config, workdir: pathlib.Path) -> Inputs:
  """Opens, checks, splits and reads the data."""
  if config.blocks > 1 and config.eval_data:
    raise errors.UserError(
        "--blocks cuts --data by time and takes no --eval_data; name a folder "
        "that holds both files with --data.")
  log, schema = logs.open_scored_log(
      workdir, config.data, config.schema, config.objectives,
      config.embedded)
  study = _study(config, schema)
  parquet.check_log(log, schema)
  test_log = logs.open_eval_log(config.eval_data, log, schema)
  cuts = (splits.temporal_blocks(log, schema, config.blocks)
          if config.blocks > 1 else
            [splits.split_log(log, schema, hold_out=config.eval_data is None)])
  logs.announce(schema, cuts[-1])
  is_embedded = config.data is None and config.eval_data is None
  true = tuple(f"true_{name}" for name in schema.names if is_embedded)
  fitted = [features_lib.fit_features(log, schema, split.rows(splits.TRAIN))
            for split in cuts]
  # Entries that are in no row of a block stay as they began: networks of all
  # blocks have one shape, and are compiled once.
  sizes = tuple(max(column) for column in zip(*(
      features.vocabulary_sizes for features in fitted), strict=True))
  blocks = []
  for split, features in zip(cuts, fitted, strict=True):
    read = lambda source, keep, columns=schema.columns: splits.read_rows(
        source, columns, keep)
    train, validation = (
        features_lib.encode(features, schema, read(log, split.rows(part)))
        for part in (splits.TRAIN, splits.VALIDATION))
    keep = None if config.eval_data else split.rows(splits.TEST)
    table = read(test_log, keep, (*schema.columns, *true))
    test = features_lib.encode(features, schema, table)
    truth = None
    if is_embedded:
      truth = np.stack([table[name].to_numpy() for name in true], axis=1)
    logs.warn_of_one_class(schema, test.labels, "test")
    blocks.append(Block(sizes, train, validation, test, truth))
  return Inputs(schema, study, blocks)


def _study(
    config: Config, schema: schema_lib.Schema
) -> contenders.Study:
  """The study that fits the columns there are."""
  if config.without is not None and config.without not in schema.names:
    raise errors.UserError(
        f"--without={config.without} is no objective"
        f"{schema_lib.nearest(config.without, schema.names)}; there are "
        f"{', '.join(schema.names)}.")
  study = contenders.STUDIES[config.study]
  listed = tuple(
      condition for condition in study.conditions
      if condition.lists == "batch"
      or getattr(schema, condition.lists) is not None)
  if study.conditions[1:] and not listed[1:]:
    raise errors.UserError(
        f"--study={config.study} needs a column of users or of requests; the "
        "data has neither.")
  study = dataclasses.replace(study, conditions=listed)
  if config.methods is None:
    return study
  for name in config.methods:
    if name not in contenders.METHODS:
      raise errors.UserError(
          f"--methods: {name} is none"
          f"{schema_lib.nearest(name, contenders.METHODS)}; there are "
          f"{', '.join(contenders.METHODS)}.")
  return dataclasses.replace(study, methods=config.methods)


def run_block(
    config: Config, workdir: pathlib.Path, condition: contenders.Condition,
    study: contenders.Study, number: int, block: Block, rates: np.ndarray,
    capacity: int,
) -> dict[str, comparison.Cell]:
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
      comparison.write_cell(path, cell)
      print(f"{condition.name}, block {number + 1} of {config.blocks}, {name}: "
            f"learning rate {cell.learning_rate:g}, {cell.seconds:.0f} s",
            flush=True)
    cells[name] = comparison.read_cell(path)
    if contenders.averaged(name) and config.num_seeds > 1:
      cells[name + contenders.AVERAGE] = comparison.average(cells[name])
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
    config: Config, block: Block, train: features_lib.Batch,
    platt: calibration.Platt, worth: np.ndarray,
) -> dict[str, comparison.Cell]:
  """What needs no network."""
  scores = baselines.formula_scores(
      platt, worth, train, block.validation, block.test, seed=config.seed)
  cells = {name: comparison.Cell(row[None].astype(np.float32))
           for name, row in scores.items()}
  calibrated = np.asarray(calibration.calibrate(
      platt, jnp.asarray(block.test.scores)))
  cells["closed_form"] = cells["closed_form"]._replace(
      calibration_error=comparison.calibration_errors(
          calibrated[None], block.test.labels / np.asarray(platt.unit)))
  if block.truth is not None:
    cells[contenders.CEILING] = comparison.Cell(np.asarray(
        calibration.closed_form_score(
            jnp.asarray(block.truth), platt.base_rate,
            jnp.asarray(worth)))[None])
  return cells


def _train(
    config: Config, method: contenders.Method, training: stacks.Training,
    block: Block, train: features_lib.Batch, platt: calibration.Platt,
    rates: np.ndarray, capacity: int,
) -> comparison.Cell:
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
  cell = comparison.Cell(
      scores, validation, learning_rate=float(rates[best]),
      seconds=sum(stack.seconds for stack, _ in chosen))
  if method.head == "aligned":
    return cell._replace(calibration_error=gather(
        lambda params: comparison.calibration_errors(
            stacks.probabilities(ranker, params, block.test),
            block.test.labels / np.asarray(platt.unit))))
  return cell


def main(config: Config) -> None:
  """Runs what the flags say."""
  name = "compare" if config.study == "methods" else f"compare_{config.study}"
  compare(config, flags.workdir(config, name))


if __name__ == "__main__":
  flags.run(main, Config, after_interrupt="the same command goes on after the "
            "last method that was done.")
