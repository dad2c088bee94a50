"""Cells, tables and a record of made-up methods."""

import numpy as np

from experiments.comparison import cells as cells_lib
from experiments.comparison import studies
from experiments.comparison import tables
from tests.experiments import rows as rows_lib

SEEDS = {"equal_sum": 1, "score_bce": 3, "closed_form": 1,
         "aligned_soft_auc_average": 3, "ceiling": 1}


def cell(rng, rows, noise, num_seeds):
  """Scores that follow the rows' own ones; rounded, so that some are equal."""
  truth = rows.scores.sum(axis=1)
  scores = truth + noise * rng.normal(size=(num_seeds, len(truth)))
  return cells_lib.Cell(np.round(scores, 1).astype(np.float32))


def blocks():
  """Rows and cells of two blocks; the second one has no buy."""
  rng = np.random.default_rng(0)
  tests = [rows_lib.made_up_rows(rng, 240), rows_lib.made_up_rows(rng, 200)]
  tests[1].labels[:, 2] = False
  noises = dict(zip(SEEDS, (2, 0.6, 1.2, 0.3, 0.0), strict=True))
  cells = [{name: cell(rng, rows, noises[name], count)
            for name, count in SEEDS.items()} for rows in tests]
  for of_block in cells:
    of_block["closed_form"] = of_block["closed_form"]._replace(
        calibration_error=np.array([[0.1, 0.2, 0.6]]))
    of_block["score_bce"] = of_block["score_bce"]._replace(
        learning_rate=0.03 if of_block is cells[0] else 0.01, seconds=20.0,
        validation=np.array([2, 3, 7]))
  return cells, tests


def evaluate(cells, tests, schema=rows_lib.SCHEMA, without="like", truths=()):
  """The table of one condition."""
  return tables.evaluate(
      studies.Condition("all"), schema, cells, tests,
      truths, without=without)


def record(*measured, num_seeds=3, left_out=()):
  """What is shown of tables: two blocks, and a name that HTML must escape."""
  return tables.Record(
      {"num_seeds": num_seeds, "data": "<a&b>.parquet"},
      rows_lib.SCHEMA.names, [(10, 4, 3), (14, 3, 3)], measured, left_out)
