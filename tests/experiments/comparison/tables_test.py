"""Sums, errors and leads against loops, resampled rows and drawn labels."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from experiments.comparison import cells as cells_lib
from experiments.comparison import text
from experiments.runs import claims
from tests.experiments import rows as rows_lib
from tests.experiments.comparison import made_up


def auc_of_all(rows, labels, scores):
  del rows
  return rows_lib.auc(labels, scores)


def auc_within_users(rows, labels, scores):
  return rows_lib.auc_within(rows.user, labels, scores)


def seeds_of(blocks, name, auc_fn=auc_of_all):
  """`[S, M]` by seed and objective, mean over the blocks that have one."""
  per_block = [
      [[auc_fn(rows, rows.labels[:, m], scores) for m in range(3)]
       for scores in cells[name].scores] for cells, rows in zip(
           *blocks, strict=True)]
  return np.nanmean(per_block, axis=0)


def test_aucs_are_means_over_seeds_and_blocks(blocks, table):
  assert table.names == tuple(made_up.SEEDS) and table.clusters == "users"
  for k, name in enumerate(made_up.SEEDS):
    expected = seeds_of(blocks, name)
    np.testing.assert_allclose(table.auc[k], expected.mean(axis=0), atol=1e-5)
    sums = expected.sum(axis=1)
    assert table.overall.total[k] == pytest.approx(sums.mean(), abs=1e-5)
    assert table.without_one.total[k] == pytest.approx(
        expected[:, [0, 2]].sum(axis=1).mean(), abs=1e-5)
    if made_up.SEEDS[name] == 1:
      assert np.isnan(table.overall.error[k])
      assert np.isnan(table.auc_error[k]).all()
    else:
      assert table.overall.error[k] == pytest.approx(stats.sem(sums), abs=1e-5)
      np.testing.assert_allclose(
          table.auc_error[k], stats.sem(expected, axis=0), atol=1e-5)


def test_sums_within_users(blocks, table):
  for k, name in enumerate(made_up.SEEDS):
    sums = seeds_of(blocks, name, auc_within_users).sum(axis=1)
    assert table.within_users.total[k] == pytest.approx(sums.mean(), abs=1e-5)
    if len(sums) > 1:
      assert table.within_users.error[k] == pytest.approx(
          stats.sem(sums), abs=1e-5)


def test_leads_are_over_the_strongest_baseline(table):
  names, sums = table.names, table.overall
  ours = names.index("aligned_soft_auc_average")
  strongest = names.index("score_bce")
  # The ceiling and methods of this project are no baselines, however good.
  assert sums.strongest == strongest
  assert sums.total[strongest] < sums.total[ours] < sums.total[-1]
  for k, lead in enumerate(sums.leads):
    assert lead.mean == pytest.approx(
        sums.total[k] - sums.total[strongest], abs=1e-9)
    assert (lead.low + lead.high) / 2 == pytest.approx(lead.mean, abs=1e-9)
  assert sums.leads[strongest] == claims.Interval(0, 0, 0)
  assert sums.leads[ours].mean > 0 > sums.leads[0].mean
  baselines = {"equal_sum", "score_bce", "closed_form"}
  kinds = (table.overall, table.within_users, table.without_one)
  for name in baselines:
    k = names.index(name)
    for sums in kinds:
      lead = sums.rivals[name]
      assert lead.mean == pytest.approx(
          sums.total[ours] - sums.total[k], abs=1e-9)
      assert lead.low < lead.mean < lead.high
  assert all(set(sums.rivals) == baselines for sums in kinds)


def test_the_error_of_an_average_is_that_of_its_seeds(blocks):
  (cells, _), (rows, _) = blocks
  # Noise of members that is independent: the mean of 9 has a ninth of its
  # variance.
  rng = np.random.default_rng(3)
  members = [cells_lib.Cell(np.float32(
      rows.scores.sum(axis=1) + 0.4 * rng.normal(size=(9, len(rows.labels)))))
             for _ in range(40)]
  sums_of_four = [made_up.evaluate([{"closed_form": cells["closed_form"],
                      "aligned_soft_auc_average": cells_lib.average(cell)}],
                    [rows], without=None).overall for cell in members[:4]]
  totals = [sum(rows_lib.auc(column, cells_lib.average(cell).scores[0])
              for column in rows.labels.T) for cell in members]
  errors = [sums.error[1] for sums in sums_of_four]
  assert np.mean(errors) == pytest.approx(np.std(totals, ddof=1), rel=0.5)
  # Chance of the seeds is in the interval of a lead.
  lead = sums_of_four[0].leads[1]
  assert lead.high - lead.low > 2 * 1.96 * errors[0]


def test_sums_by_truth_are_those_of_many_drawn_labels(blocks):
  cells, tests = blocks
  rng = np.random.default_rng(1)
  truths = [rng.uniform(0.1, 0.9, rows.labels.shape) * rows.scores
            for rows in tests]
  table = made_up.evaluate(cells, tests, truths=truths)
  assert table.overall.total.tolist() == made_up.evaluate(
      cells, tests).overall.total.tolist()
  sums = table.by_truth
  drawn = []
  for _ in range(100):
    labels = [rng.random(truth.shape) < truth for truth in truths]
    drawn.append([
        np.mean([rows_lib.auc(of[:, m], scores) for of, cell in zip(
            labels, cells, strict=True) for scores in cell[name].scores[:1]
                 for m in range(3)]) * 3
        for name in ("closed_form", "ceiling")])
  for k, values in zip((2, 4), np.transpose(drawn), strict=True):
    assert sums.total[k] == pytest.approx(
        values.mean(), abs=4 * values.std() / 10)
  # Within users, the mean of so many draws: an approximation where a user has
  # few positives.
  within = [np.mean([
      rows_lib.auc_within(rows.user, rng.random(len(truth)) < truth[:, 0],
                 cell["closed_form"].scores[0])
      for rows, truth, cell in zip(tests, truths, cells, strict=True)])
            for _ in range(100)]
  alone = made_up.evaluate(cells, tests, truths=[
      truth * [True, False, False] for truth in truths])
  assert alone.within_by_truth.total[2] == pytest.approx(
      np.mean(within), abs=4 * np.std(within) / 10 + 0.002)
  ours = sums.rivals["closed_form"]
  assert ours.mean == pytest.approx(sums.total[3] - sums.total[2], abs=1e-9)
  # Narrower than what the labels that there are can tell.
  by_labels = table.overall.rivals["closed_form"]
  assert ours.high - ours.low < by_labels.high - by_labels.low
  assert text.columns(table)[-3:] == [
      "sum by truth", "lead by truth", "within users by truth"]
  assert all(len(row) == len(text.columns(table))
             for row in text.table_rows(table))


def replicated_lead(ours, other, draws, total):
  """Width of the interval of a lead over draws of users."""
  leads = [np.mean([total(scores, drawn) for scores in ours])
           - np.mean([total(scores, drawn) for scores in other])
           for drawn in draws]
  return 2 * 1.96 * np.std(leads, ddof=1)


@pytest.mark.slow
def test_intervals_are_those_of_resampled_users(blocks):
  rows = blocks[1][0]
  # One seed of each: no chance of seeds.
  cells = {name: cells_lib.Cell(cell.scores[:1])
           for name, cell in blocks[0][0].items()}
  # The same as ours within users, of whom some are above all others.
  cells["equal_sum"] = cells_lib.Cell(
      cells["aligned_soft_auc_average"].scores
      + 8 * (rows.user % 3).astype(np.float32))
  table = made_up.evaluate([cells], [rows])
  same = table.within_users.rivals["equal_sum"]
  np.testing.assert_allclose(same, 0, atol=1e-12)
  assert same.standing == claims.LEVEL
  assert table.overall.rivals["equal_sum"].low > 0
  pair = [cells[name].scores
          for name in ("aligned_soft_auc_average", "closed_form")]
  draws = np.random.default_rng(7).integers(12, size=(300, 12))
  per_user = {
      scores.tobytes(): [rows_lib.within_users(rows.user, column, scores)
                         for column in rows.labels.T]
      for scores in np.concatenate(pair)}

  def total(scores, drawn):
    chosen = np.concatenate([np.flatnonzero(rows.user == u) for u in drawn])
    return sum(rows_lib.auc(column[chosen], scores[chosen])
               for column in rows.labels.T)

  def total_within(scores, drawn):
    return sum(np.average(values[drawn], weights=counts[drawn])
               for values, counts in per_user[scores.tobytes()])

  for lead, expected in (
      (table.overall.rivals["closed_form"],
       replicated_lead(*pair, draws[:120], total)),
      (table.within_users.rivals["closed_form"],
       replicated_lead(*pair, draws, total_within))):
    assert lead.high - lead.low == pytest.approx(expected, rel=0.25)


def test_what_only_some_methods_have(table):
  k, trained = (table.names.index(name)
                for name in ("closed_form", "score_bce"))
  assert table.calibration_error[k] == pytest.approx(0.3)
  assert table.learning_rate[trained] == pytest.approx(0.02)
  assert table.seconds[trained] == 40 and table.validation[trained] == 4
  for values, number in ((table.calibration_error, k),
                         (table.learning_rate, trained),
                         (table.validation, trained),
                         (table.seconds, trained)):
    assert np.isnan(np.delete(values, number)).all()


def test_without_users_default_or_a_class(blocks):
  cells, tests = blocks
  # The second block alone: no buy at all.
  some = {name: cells[1][name] for name in ("closed_form", "score_bce")}
  table = made_up.evaluate(
      [some], tests[1:], dataclasses.replace(rows_lib.SCHEMA, user=None),
      without=None)
  total = table.overall.total
  assert np.isnan(table.auc[:, 2]).all() and np.isfinite(total).all()
  np.testing.assert_allclose(total, table.auc[:, :2].sum(axis=1))
  assert all(np.isfinite(lead).all() for lead in table.overall.leads)
  assert table.clusters == "rows"
  assert table.within_users is table.without_one is table.by_truth is None
  assert table.overall.rivals == {}
  assert "not among the methods" in text.verdict(table)
