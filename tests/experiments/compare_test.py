"""Methods beside methods: tables by other means, stacks, what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn import metrics as sk_metrics

from experiments import compare
from experiments.comparison import cells as cells_lib
from experiments.comparison import inputs as inputs_lib
from experiments.comparison import report as report
from experiments.comparison import studies as contenders
from experiments.comparison import tables as comparison
from experiments.comparison import text as tables
from experiments.ranker import objectives
from experiments.ranker import stacks
from experiments.runs import errors
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.evaluation import calibration_error

SCHEMA = schema_lib.Schema(
    tuple(schema_lib.Objective(name, name, f"score_{name}")
          for name in ("click", "like", "buy")),
    user="user_id", request="request_id", time="time_ms")
SEEDS = {"equal_sum": 1, "score_bce": 3, "closed_form": 1,
         "aligned_soft_auc_average": 3, "ceiling": 1}


def made_up_rows(rng, num_rows, num_users=12):
  """Rows of three objectives; the last one is rare."""
  chance = rng.random((num_rows, 1))**2 * rng.uniform(
      0.5, 1, (num_rows, 3)) * [1, 0.8, 0.5]
  user = rng.integers(0, num_users, num_rows)
  return features_lib.Batch(
      labels=rng.random((num_rows, 3)) < chance,
      scores=chance.clip(0.01, 0.99).astype(np.float32),
      has_score=np.ones((num_rows, 3), bool),
      categorical=rng.integers(0, 3, (num_rows, 1)).astype(np.int32),
      numeric=rng.uniform(-1, 1, (num_rows, 1)).astype(np.float32),
      user=user, request=user * 2 + rng.integers(0, 2, num_rows),
      time=np.arange(num_rows))


def made_up_cell(rng, rows, noise, num_seeds):
  # Rounded: some scores are equal.
  truth = rows.scores.sum(axis=1)
  scores = truth + noise * rng.normal(size=(num_seeds, len(truth)))
  return cells_lib.Cell(np.round(scores, 1).astype(np.float32))


@pytest.fixture(scope="module")
def blocks():
  """Rows and cells of two blocks; the second one has no buy."""
  rng = np.random.default_rng(0)
  tests = [made_up_rows(rng, 240), made_up_rows(rng, 200)]
  tests[1].labels[:, 2] = False
  noises = dict(zip(SEEDS, (2, 0.6, 1.2, 0.3, 0.0), strict=True))
  cells = [{name: made_up_cell(rng, rows, noises[name], count)
            for name, count in SEEDS.items()} for rows in tests]
  for cell in cells:
    cell["closed_form"] = cell["closed_form"]._replace(
        calibration_error=np.array([[0.1, 0.2, 0.6]]))
    cell["score_bce"] = cell["score_bce"]._replace(
        learning_rate=0.03 if cell is cells[0] else 0.01, seconds=20.0,
        validation=np.array([2, 3, 7]))
  return cells, tests


def evaluate(cells, tests, schema=SCHEMA, without="like", truths=()):
  return comparison.evaluate(
      contenders.Condition("all"), schema, cells, tests,
      truths, without=without, seed=0)


@pytest.fixture(scope="module")
def table(blocks):
  return evaluate(*blocks)


def auc(labels, scores):
  """By scikit-learn; NaN where it has none."""
  if labels.all() or not labels.any():
    return np.nan
  return sk_metrics.roc_auc_score(labels, scores)


def within_users(users, labels, scores):
  """AUC of each user by a loop, and the rows it stands for; 0 without one."""
  known = np.unique(users)
  values = np.array([auc(labels[users == u], scores[users == u])
                     for u in known])
  counts = np.array([(users == u).sum() for u in known])
  return np.nan_to_num(values), np.where(np.isnan(values), 0, counts)


def auc_within(users, labels, scores):
  values, counts = within_users(users, labels, scores)
  return np.average(values, weights=counts) if counts.any() else np.nan


def seeds_of(blocks, name, of=lambda rows, labels, scores: auc(labels, scores)):
  """`[S, M]` by seed and objective, mean over the blocks that have one."""
  per_block = [
      [[of(rows, rows.labels[:, m], scores) for m in range(3)]
       for scores in cells[name].scores] for cells, rows in zip(
           *blocks, strict=True)]
  return np.nanmean(per_block, axis=0)


def test_aucs_are_means_over_seeds_and_blocks(blocks, table):
  assert table.names == tuple(SEEDS) and table.clusters == "users"
  for k, name in enumerate(SEEDS):
    expected = seeds_of(blocks, name)
    np.testing.assert_allclose(table.auc[k], expected.mean(axis=0), atol=1e-5)
    sums = expected.sum(axis=1)
    assert table.overall.total[k] == pytest.approx(sums.mean(), abs=1e-5)
    assert table.without_one.total[k] == pytest.approx(
        expected[:, [0, 2]].sum(axis=1).mean(), abs=1e-5)
    if SEEDS[name] == 1:
      assert np.isnan(table.overall.error[k])
      assert np.isnan(table.auc_error[k]).all()
    else:
      assert table.overall.error[k] == pytest.approx(stats.sem(sums), abs=1e-5)
      np.testing.assert_allclose(
          table.auc_error[k], stats.sem(expected, axis=0), atol=1e-5)


def test_sums_within_users(blocks, table):
  within = lambda rows, labels, scores: auc_within(rows.user, labels, scores)
  for k, name in enumerate(SEEDS):
    sums = seeds_of(blocks, name, within).sum(axis=1)
    assert table.within_users.total[k] == pytest.approx(sums.mean(), abs=1e-5)
    if len(sums) > 1:
      assert table.within_users.error[k] == pytest.approx(
          stats.sem(sums), abs=1e-5)


def test_leads_are_over_the_strongest_baseline(table):
  names, sums = table.names, table.overall
  ours = names.index("aligned_soft_auc_average")
  strongest = names.index("score_bce")
  # The ceiling and what is ours are no baselines, however good.
  assert sums.strongest == strongest
  assert sums.total[strongest] < sums.total[ours] < sums.total[-1]
  for k, lead in enumerate(sums.leads):
    assert lead.mean == pytest.approx(
        sums.total[k] - sums.total[strongest], abs=1e-9)
    assert (lead.low + lead.high) / 2 == pytest.approx(lead.mean, abs=1e-9)
  assert sums.leads[strongest] == comparison.Lead(0, 0, 0)
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
  # Members whose chance adds up: so does that of their mean, by its 9 parts.
  rng = np.random.default_rng(3)
  members = [cells_lib.Cell(np.float32(
      rows.scores.sum(axis=1) + 0.4 * rng.normal(size=(9, len(rows.labels)))))
             for _ in range(40)]
  found = [evaluate([{"closed_form": cells["closed_form"],
                      "aligned_soft_auc_average": cells_lib.average(cell)}],
                    [rows], without=None).overall for cell in members[:4]]
  sums = [sum(auc(column, cells_lib.average(cell).scores[0])
              for column in rows.labels.T) for cell in members]
  errors = [sums.error[1] for sums in found]
  assert np.mean(errors) == pytest.approx(np.std(sums, ddof=1), rel=0.5)
  # Chance of the seeds is in the interval of a lead.
  lead = found[0].leads[1]
  assert lead.high - lead.low > 2 * 1.96 * errors[0]


def test_sums_by_truth_are_those_of_many_drawn_labels(blocks):
  cells, tests = blocks
  rng = np.random.default_rng(1)
  truths = [rng.uniform(0.1, 0.9, rows.labels.shape) * rows.scores
            for rows in tests]
  found = evaluate(cells, tests, truths=truths)
  assert found.overall.total.tolist() == evaluate(
      cells, tests).overall.total.tolist()
  sums = found.by_truth
  drawn = []
  for _ in range(100):
    labels = [rng.random(truth.shape) < truth for truth in truths]
    drawn.append([
        np.mean([auc(of[:, m], scores) for of, cell in zip(
            labels, cells, strict=True) for scores in cell[name].scores[:1]
                 for m in range(3)]) * 3
        for name in ("closed_form", "ceiling")])
  for k, values in zip((2, 4), np.transpose(drawn), strict=True):
    assert sums.total[k] == pytest.approx(
        values.mean(), abs=4 * values.std() / 10)
  # Within users, the mean of so many draws: an approximation where a user has
  # few positives.
  within = [np.mean([
      auc_within(rows.user, rng.random(len(truth)) < truth[:, 0],
                 cell["closed_form"].scores[0])
      for rows, truth, cell in zip(tests, truths, cells, strict=True)])
            for _ in range(100)]
  alone = evaluate(cells, tests, truths=[
      truth * [True, False, False] for truth in truths])
  assert alone.within_by_truth.total[2] == pytest.approx(
      np.mean(within), abs=4 * np.std(within) / 10 + 0.002)
  ours = sums.rivals["closed_form"]
  assert ours.mean == pytest.approx(sums.total[3] - sums.total[2], abs=1e-9)
  # Narrower than what the labels that there are can tell.
  by_labels = found.overall.rivals["closed_form"]
  assert ours.high - ours.low < by_labels.high - by_labels.low
  assert tables.columns(found)[-3:] == [
      "sum by truth", "lead by truth", "within users by truth"]
  assert all(len(row) == len(tables.columns(found))
             for row in tables.table_rows(found))


def replicated_lead(ours, other, draws, total):
  """Width of the interval of a lead over draws of users."""
  found = [np.mean([total(scores, drawn) for scores in ours])
           - np.mean([total(scores, drawn) for scores in other])
           for drawn in draws]
  return 2 * 1.96 * np.std(found, ddof=1)


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
  table = evaluate([cells], [rows])
  assert table.within_users.rivals["equal_sum"] == comparison.Lead(0, 0, 0)
  assert table.overall.rivals["equal_sum"].low > 0
  pair = [cells[name].scores
          for name in ("aligned_soft_auc_average", "closed_form")]
  draws = np.random.default_rng(7).integers(12, size=(300, 12))
  per_user = {
      scores.tobytes(): [within_users(rows.user, column, scores)
                         for column in rows.labels.T]
      for scores in np.concatenate(pair)}

  def total(scores, drawn):
    chosen = np.concatenate([np.flatnonzero(rows.user == u) for u in drawn])
    return sum(auc(column[chosen], scores[chosen]) for column in rows.labels.T)

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
  table = evaluate([some], tests[1:], dataclasses.replace(SCHEMA, user=None),
                   without=None)
  total = table.overall.total
  assert np.isnan(table.auc[:, 2]).all() and np.isfinite(total).all()
  np.testing.assert_allclose(total, table.auc[:, :2].sum(axis=1))
  assert all(np.isfinite(lead).all() for lead in table.overall.leads)
  assert table.clusters == "rows"
  assert table.within_users is table.without_one is table.by_truth is None
  assert table.overall.rivals == {}
  assert "not among the methods" in tables.verdict(table)


# Parts of a table.


def test_calibration_errors_by_a_loop():
  rng = np.random.default_rng(0)
  found, labels = rng.random((2, 157, 3)), rng.random((157, 3))
  errors = calibration_error.expected_calibration_error(
      found.astype(np.float32), labels)
  for s, m in np.ndindex(2, 3):
    rows = sorted(zip(found[s, :, m].astype(np.float32), labels[:, m],
                      strict=True))
    total = 0.0
    for b in range(15):
      part = rows[int(b * 157 / 15):int((b + 1) * 157 / 15)]
      total += abs(sum(p for p, _ in part) - sum(y for _, y in part))
    assert errors[s, m] == pytest.approx(total / 157, abs=1e-6)
  # Close on average only: 7 bins 0.5 too low, 8 too high.
  is_low = np.arange(3000) < 1400
  wrong = np.where(is_low, 0.25, 0.75)[None, :, None]
  rates = np.where(is_low, 0.75, 0.25)[:, None]
  assert calibration_error.expected_calibration_error(
      wrong, rates) == pytest.approx(0.5)


def test_the_average_is_of_scores_in_units_of_their_spread():
  scores = np.array([[1, 2, 3, 6], [400, 300, 200, 0]], np.float32)
  averaged = cells_lib.average(cells_lib.Cell(scores, seconds=3.0))
  spread = np.sqrt([14 / 4, 87500 / 4])
  np.testing.assert_allclose(
      averaged.scores[0], (scores / spread[:, None]).sum(axis=0) / 2,
      rtol=1e-6)
  assert averaged.scores.shape == (1, 4) and averaged.seconds is None
  # Of two, one is left without the other.
  np.testing.assert_allclose(
      averaged.left_out, (scores / spread[:, None])[::-1], rtol=1e-6)
  constant = cells_lib.average(cells_lib.Cell(np.ones((2, 4), np.float32)))
  assert np.isfinite(constant.scores).all()


def test_a_cell_is_read_as_it_was_written(tmp_path):
  cell = cells_lib.Cell(
      np.arange(6, dtype=np.float32).reshape(2, 3), np.array([4.5, 4.25]),
      np.full((2, 1), 0.1), 0.03, 1.5)
  for written in (cell, cells_lib.Cell(cell.scores)):
    cells_lib.write_cell(tmp_path / "one.npz", written)
    for value, known in zip(
        cells_lib.read_cell(tmp_path / "one.npz"), written, strict=True):
      assert type(value) is type(known)
      np.testing.assert_array_equal(value, known)
  # Nothing else stays.
  assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]


def test_thinning_leaves_one_positive_of_so_many():
  labels = np.random.default_rng(0).random((40_000, 2)) < [0.5, 0.1]
  for share in (10, 100):
    thin = cells_lib.thinned(labels, share, seed=0)
    assert thin.dtype == labels.dtype and not (thin & ~labels).any()
    kept = thin.sum(axis=0) / labels.sum(axis=0)
    error = np.sqrt(1 / share / labels.sum(axis=0))
    assert (np.abs(kept - 1 / share) < 4 * error).all()
  again = cells_lib.thinned(labels, 10, seed=0)
  np.testing.assert_array_equal(again, cells_lib.thinned(labels, 10, seed=0))
  assert (again != cells_lib.thinned(labels, 10, seed=1)).any()
  assert (again != cells_lib.thinned(labels, 10, seed=0, number=1)).any()
  np.testing.assert_array_equal(cells_lib.thinned(labels, 1, seed=0), labels)
  # Values that are left stay what they were.
  values = labels * np.float32(2.5)
  thin = cells_lib.thinned(values, 10, seed=0)
  assert thin.dtype == np.float32 and set(np.unique(thin)) == {0, 2.5}


def test_the_table_is_markdown(table):
  two = [table, table._replace(condition=contenders.Condition("other"))]
  text = tables.markdown(two)
  assert "### all" in text and "### other" in text
  assert "###" not in tables.markdown([table])
  lines = [line for line in text.splitlines() if line.startswith("|")]
  heads = ["", *SCHEMA.names, "sum", "without like", "within users", "ECE",
           "lead over the strongest baseline"]
  assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == heads
  assert lines[1] == "|" + "---|" * len(heads)
  assert len(lines) == 2 * (2 + len(SEEDS))
  assert {line.count("|") for line in lines} == {len(heads) + 1}
  names = [line.split("|")[1].strip() for line in lines[2:len(SEEDS) + 2]]
  # By their sums; the ceiling at the end, though it is the best.
  assert names == ["aligned_soft_auc_average", "score_bce", "closed_form",
                   "equal_sum", "ceiling"]
  row = lines[2 + names.index("score_bce")]
  assert "strongest baseline" in row and "±" in row
  assert "strongest" not in lines[2]
  assert "aligned_soft_auc_average is ahead of every baseline" in text


def test_the_verdict_names_who_is_not_surely_behind(table):
  rivals = {"equal_sum": comparison.Lead(0.3, 0.2, 0.4),
            "score_bce": comparison.Lead(0.05, -0.01, 0.11)}
  with_rivals = lambda sums: table._replace(
      overall=table.overall._replace(rivals=rivals), by_truth=sums)
  said = tables.verdict(with_rivals(None))
  assert "ahead of score_bce; the best baseline is score_bce: +0.05" in said
  assert "not surely" in said and "equal_sum" not in said
  rivals["score_bce"] = comparison.Lead(0.05, 0.01, 0.09)
  said = tables.verdict(with_rivals(table.overall._replace(
      rivals={"equal_sum": comparison.Lead(-0.2, -0.3, -0.1)})))
  first, second = said.split(" By the true probabilities ")
  assert "ahead of every baseline; the best baseline is score_bce" in first
  assert "equal_sum is ahead of aligned" in second
  assert "users resampled, and seeds" in second


def test_the_summary_is_json(blocks, table):
  content = json.loads(json.dumps(compare.workdir_lib.finite(
      tables.summary({"seed": 0}, SCHEMA, [table], [(5, 4, 3)]))))
  assert content["rows"] == [{"train": 5, "validation": 4, "test": 3}]
  found = content["conditions"]["all"]
  assert found["auc_strongest_baseline"] == "score_bce"
  ours = found["methods"]["aligned_soft_auc_average"]
  k = table.names.index("aligned_soft_auc_average")
  assert ours["auc"]["like"] == table.auc[k, 1]
  assert ours["auc_without_sum"] == table.without_one.total[k]
  assert found["methods"]["closed_form"]["auc_sum_error"] is None
  assert found["auc_leads"]["closed_form"]["low"] == (
      table.overall.rivals["closed_form"].low)


def test_the_verdict_counts_many_and_says_who_is_ahead_within_users(table):
  unsure = {f"baseline_{k}": comparison.Lead(0.1 * k, -1, 1) for k in range(4)}
  of = lambda rivals: table.overall._replace(rivals=rivals)
  sure = {"score_bce": comparison.Lead(0.2, 0.1, 0.3)}
  lists = table._replace(
      condition=contenders.Condition("lists_user", lists="user"),
      overall=of({**unsure, **sure}), within_users=of(sure),
      within_by_truth=of(unsure))
  said = tables.verdict(lists)
  assert "not surely ahead of 4 of 5 baselines; the best baseline is" in said
  assert "Within users aligned_soft_auc_average is ahead of every" in said
  assert "The same by truth: aligned_soft_auc_average is not surely" in said
  assert "Within" not in tables.verdict(table)
  assert "within" not in tables.verdict(lists._replace(
      within_users=None, within_by_truth=None)).lower()


# What is compared.


def test_studies_name_what_there_is():
  assert contenders.DEFAULT_NETWORK in contenders.METHODS
  for study in contenders.STUDIES.values():
    assert set(study.methods) <= set(contenders.METHODS)
    assert contenders.DEFAULT_NETWORK in study.methods
    names = [condition.name for condition in study.conditions]
    assert len(set(names)) == len(names)
  for name, method in contenders.METHODS.items():
    assert method.loss in objectives.LOSSES
    assert method.network(3).num_objectives == 3
    assert contenders.kind_of(name) in ("ours", "baseline", "ablation")
  # Each ablation lacks one part of the default, and nothing else.
  default = contenders.METHODS[contenders.DEFAULT_NETWORK]
  for part in ("relation_aware", "relation_agnostic", "self_attention"):
    method = contenders.METHODS[f"without_{part}"]
    assert method.loss == default.loss
    assert method.network(2) == dataclasses.replace(
        default.network(2), **{part: False})


@pytest.mark.parametrize("name, kind", [
    ("closed_form", "baseline"), ("ceiling", "ceiling"),
    ("score_pairwise", "baseline"), ("mixture_of_experts", "baseline"),
    ("score_soft_auc", "ours"), ("aligned_soft_auc", "ours"),
    ("aligned_bce", "ablation"), ("without_self_attention", "ablation"),
    ("score_balanced_bce_average", "baseline"),
    ("aligned_soft_auc_average", "ours")])
def test_kinds(name, kind):
  assert contenders.kind_of(name) == kind


def test_methods_that_make_no_sense_are_left_out():
  study = contenders.STUDIES["batch_size"]
  assert study.trained(4096) == study.methods
  assert set(study.methods) - set(study.trained(4097)) == {"score_pairwise"}


def test_lists_change_no_loss_that_ranks_nothing():
  study = contenders.STUDIES["lists"]
  batch, user, _ = study.conditions
  elsewhere = {name for name in study.methods
               if study.home(user, name) != user}
  assert elsewhere == {"score_bce", "score_balanced_bce",
                       "mixture_of_experts", "aligned_bce"}
  assert {study.home(user, name) for name in elsewhere} == {batch}
  thinned = contenders.STUDIES["skew"]
  assert all(thinned.home(condition, name) == condition
             for condition in thinned.conditions for name in thinned.methods)


# Stacks.


@pytest.mark.parametrize("lists", ["batch", "user", "request"])
def test_every_pass_deals_every_row_once(lists):
  rows = made_up_rows(np.random.default_rng(0), 50)
  order = stacks._order(rows, lists, 3)
  whole = order(0, 200)
  passes = whole.reshape(4, 50)
  for dealt in passes:
    np.testing.assert_array_equal(np.sort(dealt), np.arange(50))
    if lists != "batch":
      ids = getattr(rows, lists)[dealt]
      assert 1 + (ids[1:] != ids[:-1]).sum() == len(np.unique(ids))
  # Anew every time, and for every seed.
  assert (passes[0] != passes[1]).any()
  assert (stacks._order(rows, lists, 4)(0, 50) != passes[0]).any()
  # The same stream, whatever it is cut into.
  pieces = [order(first, first + 7) for first in range(0, 196, 7)]
  np.testing.assert_array_equal(np.concatenate(pieces), whole[:196])


# Two steps between looks at the validation rows.
TRAINING = stacks.Training(
    "soft_auc", batch_size=32, num_steps=2 * stacks._NUM_LOOKS)
TINY = ranker_lib.Ranker(
    network.HarmonRankConfig(3, token_size=2, relation_aware=False,
                             self_attention=False), (3,))


@pytest.fixture(scope="module")
def problem():
  """Rows to train on and to validate, and their calibration."""
  rng = np.random.default_rng(0)
  rows, validation = made_up_rows(rng, 120), made_up_rows(rng, 90)
  return rows, validation, calibration.fit_platt(rows.scores, rows.labels)


def fit(problem, seeds, rates, worth=1.0, training=TRAINING):
  return stacks.fit(TINY, training, stacks.Members(
      np.array(seeds), np.array(rates, np.float32),
      np.full((3, 3), worth, np.float32)), *problem)


def plain_fit(problem, seeds, rates, lists):
  """Rankers one by one, a loop over their steps: parameters, value, step."""
  rows, validation, platt = problem
  held, checked = (
      ranker_lib.rows_of(part, part.user if lists == "user" else None)
      for part in (rows, validation))
  objective = objectives.objective_of(
      "aligned", TRAINING.loss, TRAINING.relative_strength)
  gradient = jax.jit(jax.grad(lambda params, rows: objective(
      TINY, params, rows, objective_weights=jnp.ones(3), platt=platt)[0]))
  score = jax.jit(lambda params: TINY.score(params, checked, jnp.ones(3)))

  def value(params):
    scores = np.asarray(score(params))
    return np.nansum([
        auc_within(validation.user, column, scores) if lists == "user" else
        auc(column, scores) for column in validation.labels.T])

  for seed, rate in zip(seeds, rates, strict=True):
    params = TINY.init(
        jax.random.key(seed), jax.tree.map(lambda x: x[:2], held), platt)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(rate, TRAINING.num_steps)))
    state, best = optimizer.init(params), (params, value(params), 0)
    order = stacks._order(rows, lists, seed)
    for step in range(TRAINING.num_steps):
      index = order(step * 32, step * 32 + 32)
      chosen = ranker_lib.Rows(*(
          None if part is None else part[index] for part in held))
      updates, state = optimizer.update(gradient(params, chosen), state)
      params = optax.apply_updates(params, updates)
      # Within lists the last one, whatever the validation rows say.
      if step % 2 and (lists == "user" or value(params) > best[1] + 1e-6):
        best = params, value(params), step + 1
    yield best


@pytest.mark.slow
@pytest.mark.parametrize("lists", ["batch", "user"])
def test_a_stack_is_rankers_trained_one_by_one(problem, lists):
  seeds, rates = (5, 6, 5), (0.05, 0.1, 0.2)
  stack = fit(problem, seeds, rates,
              training=dataclasses.replace(TRAINING, lists=lists))
  assert stack.value.shape == stack.step.shape == (3,) and stack.seconds > 0
  # Of batches, not all stand where they began, nor do all stand at the end.
  assert (len(set(stack.step.tolist())) > 1) == (lists == "batch")
  for k, (params, value, step) in enumerate(
      plain_fit(problem, seeds, rates, lists)):
    assert stack.value[k] == pytest.approx(value, abs=1e-5)
    assert stack.step[k] == step
    one = stacks.take(stack.params, k)
    for leaf, known in zip(*map(jax.tree.leaves, (one, params)), strict=True):
      np.testing.assert_allclose(leaf, known, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_what_a_stack_gives(problem):
  _, validation, _ = problem
  stack = fit(problem, (1, 2, 1), (0.05, 0.05, 0.05))
  weights = np.array([1, 2, 0.5], np.float32)
  scores = stacks.score(TINY, stack.params, weights, validation)
  probabilities = stacks.probabilities(TINY, stack.params, validation)
  assert scores.shape == (3, 90)
  assert probabilities.shape == (3, 90, 3)
  given = ranker_lib.rows_of(validation)
  one = stacks.take(stack.params, 1)
  for found, expected in (
      (scores, TINY.score(one, given, weights)),
      (probabilities, jax.nn.sigmoid(TINY.objective_logits(one, given)))):
    np.testing.assert_allclose(found[1], expected, rtol=1e-4)
    # The same seed and rate: the same ranker. Another seed: another one.
    np.testing.assert_allclose(found[0], found[2], rtol=1e-5)
  assert (scores[0] != scores[1]).any()


@pytest.mark.slow
def test_who_diverges_does_not_harm_the_others(problem):
  stack = fit(problem, (5, 6, 5), (0.05, np.inf, 0.2))
  alone = fit(problem, (5, 6, 5), (0.05, 0.1, 0.2))
  assert stack.value[1] == -np.inf and np.isfinite(alone.value).all()
  np.testing.assert_array_equal(stack.value[[0, 2]], alone.value[[0, 2]])
  for leaf in jax.tree.leaves(stack.params):
    assert np.isfinite(leaf).all()


# The report.


def page_of(tmp_path, found, num_seeds=3, left_out=()):
  config = {"num_seeds": num_seeds, "data": "<a&b>.parquet"}
  report.write_report(tmp_path, tables.summary(
      config, SCHEMA, found, [(10, 4, 3), (14, 3, 3)], left_out), found)
  return (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_report_of_one_condition(tmp_path, table):
  page = page_of(tmp_path, [table])
  assert "Left out" not in page
  assert "20 rows, 6 of them to test on in 2 blocks, 3 objectives" in page
  assert "aligned_soft_auc_average is ahead of every baseline" in page
  assert "The strongest baseline: score_bce" in page
  ceiling = table.overall.leads[-1].mean
  assert f"true probabilities ({ceiling:+.4f})" in page
  # Leads; all rows and users; calibration.
  assert page.count("<svg") == 3 and page.count("<table") == 1
  assert "src=" not in page and "From condition" not in page
  assert "&lt;a&amp;b&gt;.parquet" in page and "<a&b>" not in page
  assert "learning rate" in page and "<td>40.0</td>" in page
  assert "by the true probabilities" not in page
  # In the figures a text is a comment beside its outlines.
  assert "<!-- equal_sum -->" in page and "<!-- ceiling -->" not in page


@pytest.mark.slow
def test_what_is_far_behind_is_at_the_edge(tmp_path, table):
  far = comparison.Lead(-2, -2.1, -1.9)
  assert "<!-- ←" not in page_of(tmp_path, [table])
  page = page_of(tmp_path, [table._replace(overall=table.overall._replace(
      leads=[far, *table.overall.leads[1:]]))])
  assert "<!-- ← -2.000 -->" in page
  page = page_of(tmp_path, [table._replace(by_truth=table.overall._replace(
      leads=[far, *table.overall.leads[1:]]))])
  assert page.count("<svg") == 3 and "<!-- ← -2.000 -->" in page
  assert "<!-- by the true probabilities -->" in page
  assert "true probabilities are known" in page


@pytest.mark.slow
def test_a_report_of_several_conditions(tmp_path, table):
  conditions = contenders.STUDIES["lists"].conditions
  # Without lists: one trained method less.
  less = [k for k, name in enumerate(table.names) if name != "score_bce"]
  of_few = lambda sums: comparison.Sums(
      sums.total[less], sums.error[less], strongest=1,
      leads=[sums.leads[k] for k in less], rivals=sums.rivals)
  few = table._replace(
      names=tuple(table.names[k] for k in less),
      **{field: getattr(table, field)[less] for field in (
          "auc", "auc_error", "calibration_error", "learning_rate", "seconds",
          "validation")},
      **{field: of_few(getattr(table, field)) for field in (
          "overall", "without_one", "within_users")})
  found = [part._replace(condition=condition) for part, condition in zip(
      (table, few, few), conditions, strict=True)]
  page = page_of(tmp_path, found)
  assert page.count("<svg") == 4 and page.count("<table") == 3
  assert "From condition to condition" in page
  for condition in conditions:
    assert f"Numbers, {condition.name.replace('_', ' ')}" in page


@pytest.mark.slow
def test_a_report_without_users_seeds_or_default(tmp_path, blocks):
  cells, tests = blocks
  some = {name: cells_lib.Cell(cells[0][name].scores[:1])
          for name in ("closed_form", "score_bce")}
  found = evaluate([some], tests[:1], dataclasses.replace(SCHEMA, user=None),
                   without=None)
  page = page_of(
      tmp_path, [found], num_seeds=1, left_out=["lists_user", "lists_request"])
  assert "no column for it: lists user, lists request." in page
  assert "1 seed of each network" in page and "within users" not in page
  assert "aligned_soft_auc_average is not among the methods" in page
  assert page.count("<svg") == 1 and "Calibration" not in page


# Bad input. Everything is checked before anything is trained.


@pytest.mark.parametrize("config, said", [
    ({"blocks": 2, "eval_data": "/nowhere.parquet"}, "takes no --eval_data"),
    ({"schema": "x.json"}, "--schema needs --data"),
    ({"methods": ("score_bc",)}, "did you mean 'score_bce'"),
    ({"without": "clik"}, "did you mean 'click'")])
def test_flags_that_do_not_fit(tmp_path, config, said):
  with pytest.raises(errors.UserError) as caught:
    compare.compare(compare.Config(num_exposures=1000, **config),
                    tmp_path / "run")
  assert said in str(caught.value) and "\n" not in str(caught.value)
  # Left as it was: with the flag mended, the same workdir will do.
  assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("drop, config, said", [
    (("user_id", "request_id"), {"study": "lists"}, "of users or of requests"),
    (("score_like",), {"objectives": ("like",)}, "'like' has no score column"),
    (("time_ms",), {"blocks": 2}, "blocks are cut by time")])
def test_columns_that_are_not_there(tmp_path, drop, config, said):
  table = pa.table({
      "user_id": np.zeros(60, int), "time_ms": np.arange(60),
      "request_id": np.arange(60),
      **{name: np.arange(60) % 2 == 0 for name in SCHEMA.names},
      **{f"score_{name}": np.full(60, 0.5) for name in SCHEMA.names}})
  pq.write_table(table.drop_columns(drop), tmp_path / "less.parquet")
  roles = json.dumps(SCHEMA.to_json())
  for name in drop:
    roles = roles.replace(f'"{name}"', "null")
  (tmp_path / "roles.json").write_text(roles)
  with pytest.raises(errors.UserError, match=said):
    compare.compare(compare.Config(
        data=str(tmp_path / "less.parquet"),
        schema=str(tmp_path / "roles.json"), **config), tmp_path / "run")


def test_lists_that_the_data_has_not_are_left_out():
  config = compare.Config(study="lists", methods=("score_soft_auc",))
  names = lambda schema: [
      condition.name
      for condition in inputs_lib._study(config, schema).conditions]
  assert names(dataclasses.replace(SCHEMA, request=None)) == [
      "lists_batch", "lists_user"]
  assert names(SCHEMA)[2:] == ["lists_request"]


# Slow: from the log to the report.

SMALL = {"num_exposures": 4000, "num_seeds": 3, "passes": 0.1,
         "learning_rates": ("0.003", "0.03"), "batch_size": 512}


def without_seconds(summary):
  summary = json.loads(json.dumps(summary))
  for condition in summary["conditions"].values():
    for method in condition["methods"].values():
      del method["seconds"]
  return summary


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_was(tmp_path, capsys):
  config = compare.Config(
      **SMALL, blocks=2, methods=("score_soft_auc", "aligned_bce"),
      without="buy")
  workdir = tmp_path / "run"
  summary = compare.compare(config, workdir)
  names = ("summary.json", "table.md", "report.html")
  written = [(workdir / name).read_bytes() for name in names]
  assert json.loads(written[0]) == summary
  methods = summary["conditions"]["all"]["methods"]
  assert set(methods) == {
      *contenders.FORMULAS, "score_soft_auc", "score_soft_auc_average",
      "aligned_bce", "ceiling"}
  for name in ("score_soft_auc", "aligned_bce"):
    assert methods[name]["seconds"] > 0
    assert 0.003 <= methods[name]["learning_rate"] <= 0.0301
  assert methods["ceiling"]["auc_sum"] > methods["aligned_bce"]["auc_sum"]
  # Nothing is trained again, and nothing changes.
  capsys.readouterr()
  compare.compare(config, workdir)
  assert "learning rate" not in capsys.readouterr().out
  assert [(workdir / name).read_bytes() for name in names] == written
  # One method of one block is.
  cell = workdir / "cells" / "all" / "block_1" / "score_soft_auc.npz"
  cell.unlink()
  again = compare.compare(config, workdir)
  said = capsys.readouterr().out
  assert said.count("learning rate") == 1 and "block 2 of 2" in said
  assert without_seconds(again) == without_seconds(summary)
  with pytest.raises(errors.UserError, match="--num_seeds was 3, now 2"):
    compare.compare(dataclasses.replace(config, num_seeds=2), workdir)
  log = workdir / "embedded_log.parquet"
  table = pq.read_table(log)
  pq.write_table(table.set_column(
      table.column_names.index("like"), "like", table["click"]), log)
  with pytest.raises(errors.UserError, match="the data has changed"):
    compare.compare(config, workdir)


@pytest.mark.slow
def test_a_study_of_lists(tmp_path):
  summary = compare.compare(compare.Config(
      **SMALL, study="lists",
      methods=("score_bce", "score_soft_auc", "aligned_soft_auc")),
      tmp_path / "run")
  conditions = summary["conditions"]
  assert list(conditions) == ["lists_batch", "lists_user", "lists_request"]
  assert "score_bce" in conditions["lists_batch"]["methods"]
  # Trained once, and a baseline of all.
  alike, ranked = (
      [found["methods"][method]["auc"] for found in conditions.values()]
      for method in ("score_bce", "aligned_soft_auc"))
  assert alike[0] == alike[1] == alike[2]
  assert ranked[0] != ranked[1] != ranked[2] != ranked[0]
  for condition in conditions.values():
    assert condition["group_auc_leads"]["closed_form"]
    assert condition["expected_group_auc_leads"]["score_bce"]
  # Formulas do not care for lists.
  assert conditions["lists_batch"]["methods"]["closed_form"] == (
      conditions["lists_user"]["methods"]["closed_form"])
  page = (tmp_path / "run" / "report.html").read_text()
  assert page.count("<svg") >= 4 and page.count("<table") == 3
  for title in ("How far ahead", "From condition to condition",
                "within users", "Calibration", "Numbers, lists request",
                "Configuration"):
    assert title in page
