"""Tables of methods x seeds: AUC, group AUC, calibration, leads."""

from collections.abc import Sequence
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
from rich import console as rich_console
from rich import table as rich_table
from scipy import stats

from experiments.common import contenders
from experiments.common import evaluation
from experiments.common import results
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib

_REPLICATES = 200
_BINS = 15
# Users' gains are shown in so many groups of as many users.
_GROUPS = 10


class Cell(NamedTuple):
  """What a method makes of one block.

  Attributes:
    scores: `[S, N]` float32 of test rows; formulas have one seed.
    validation: `[S]` what the networks were chosen by: the sum of AUCs of
      validation rows, within lists where a network trains on them.
    calibration_error: `[S, M]`, of methods that give probabilities.
    log_gain: `[N, M]`, of the aligned head, mean of the seeds.
    learning_rate: chosen.
    seconds: of training, the search for the learning rate with it.
  """

  scores: np.ndarray
  validation: np.ndarray | None = None
  calibration_error: np.ndarray | None = None
  log_gain: np.ndarray | None = None
  learning_rate: float | None = None
  seconds: float | None = None


def write_cell(path: pathlib.Path, cell: Cell) -> None:
  """Writes a cell; half of one is never seen under its name."""
  temporary = path.with_suffix(".writing")
  with open(temporary, "wb") as file:
    np.savez(file, **{name: value for name, value in cell._asdict().items()
                      if value is not None})
  temporary.replace(path)


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
  return Cell(np.mean(scores / unit, axis=0, keepdims=True).astype(np.float32))


def calibration_errors(
    probabilities: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Expected calibration error `[S, M]`, in bins of as many rows.

  The mean distance, over bins of rows of similar probability, between the
  mean probability and the rate.

  Args:
    probabilities: `[S, N, M]`.
    labels: `[N, M]`, fractions of the largest for values.

  References:
    Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using
    Bayesian binning", AAAI 2015, with bins of equal mass.
  """
  edges = np.linspace(0, len(labels), _BINS + 1).astype(int)[:-1]
  result = np.empty((len(probabilities), labels.shape[1]))
  for s, m in np.ndindex(*result.shape):
    column = probabilities[s, :, m].astype(np.float64)
    gap = column - labels[:, m]
    order = np.argsort(column, kind="stable")
    result[s, m] = np.abs(np.add.reduceat(gap[order], edges)).sum() / len(gap)
  return result


class Lead(NamedTuple):
  """A difference of sums of AUCs with its 95 % interval."""

  mean: float
  low: float
  high: float


class Sums(NamedTuple):
  """Sums over objectives of one kind of AUC, of K methods.

  Attributes:
    total: `[K]`.
    error: `[K]` standard errors over seeds.
    strongest: number of the baseline with the largest sum.
    leads: `[K]` of leads over the strongest baseline.
    rivals: for each baseline, what the default is ahead of it; empty where
      the default is not among the methods.
  """

  total: np.ndarray
  error: np.ndarray
  strongest: int
  leads: list[Lead]
  rivals: dict[str, Lead]


class Found(NamedTuple):
  """The table of one condition: K methods, M objectives.

  AUCs are means over seeds and blocks; `_error` is the standard error over
  seeds (NaN for one seed). NaN stands for what is undefined.

  Attributes:
    condition: which.
    objectives: names.
    without: the objective that `without_one` leaves out, or None.
    names: of the methods.
    auc: `[K, M]`.
    auc_error: `[K, M]`.
    overall: sums of these.
    without_one: the same without one objective, or None.
    within_users: sums of the AUCs within users, or None without users.
    by_truth: sums of the AUCs of labels drawn anew, where the probabilities
      that labels are drawn with are known; else None. The intervals of its
      leads know no chance of labels: for rare objectives, most of the chance.
    calibration_error: `[K]` mean over objectives; NaN without probabilities.
    validation: `[K]` sum of AUCs of validation rows; NaN for formulas.
    learning_rate: `[K]` mean over blocks; NaN for formulas.
    seconds: `[K]` of training, all blocks; NaN for formulas.
    gains: what users' gains say, or None.
    clusters: "users" or "rows", what was resampled.
  """

  condition: contenders.Condition
  objectives: tuple[str, ...]
  without: str | None
  names: tuple[str, ...]
  auc: np.ndarray
  auc_error: np.ndarray
  overall: Sums
  without_one: Sums | None
  within_users: Sums | None
  by_truth: Sums | None
  calibration_error: np.ndarray
  validation: np.ndarray
  learning_rate: np.ndarray
  seconds: np.ndarray
  gains: "Gains | None"
  clusters: str

  def kind(self, k: int) -> str:
    """Of a method, by its number."""
    return contenders.kind_of(self.names[k])


class Gains(NamedTuple):
  """Learnt gains of users beside their own base rates.

  Both are logarithms, less their mean over objectives: what scales all
  objectives of a user alike ranks nothing.

  Attributes:
    correlation: `[M]` Spearman's, over users.
    low: `[M]` end of its 95 % interval.
    high: `[M]`.
    learnt: `[G, M]` mean learnt gain of groups of users.
    ideal: `[G, M]` `-log(rate (1 - rate))` of the pooled rows of the group.
  """

  correlation: np.ndarray
  low: np.ndarray
  high: np.ndarray
  learnt: np.ndarray
  ideal: np.ndarray


def evaluate(
    condition: contenders.Condition,
    schema: schema_lib.Schema,
    cells: Sequence[dict[str, Cell]],
    tests: Sequence[features_lib.Batch],
    truths: Sequence[np.ndarray | None],
    *,
    without: str | None,
    seed: int,
) -> Found:
  """Compares the methods of one condition.

  Args:
    condition: which.
    schema: roles of the columns.
    cells: per block, name to what a method made of it.
    tests: per block, the rows.
    truths: per block, the probabilities `[N, M]` that labels are drawn with,
      or None if they are not known.
    without: objective to leave out of a second sum, or None.
    seed: of the resamples.
  """
  names = tuple(cells[0])
  counts = [len(cells[0][name].scores) for name in names]
  owner = np.repeat(np.arange(len(names)), counts)
  parts = [
      evaluation.Part(
          np.concatenate([of[name].scores for name in names]),
          test.labels, test.user if schema.user else None)
      for of, test in zip(cells, tests, strict=True)]
  draws = {"seed": seed, "num_replicates": _REPLICATES}
  each, replicates = evaluation.bootstrap_auc(parts, **draws)
  sums_of = lambda each, replicates: _sums(names, owner, each, replicates)
  kept = np.asarray([name != without for name in schema.names])
  within_users, by_truth = None, None
  if schema.user:
    within_users = sums_of(*evaluation.bootstrap_group_auc(parts, **draws))
  known = [truth for truth in truths if truth is not None]
  if known:
    by_truth = sums_of(*evaluation.bootstrap_auc([
        part._replace(labels=truth, are_probabilities=True)
        for part, truth in zip(parts, known, strict=True)], **draws))
  of_cells = lambda function: np.asarray([
      np.mean([function(of[name]) for of in cells]) for name in names])
  number = lambda value: np.nan if value is None else float(np.mean(value))
  return Found(
      condition, schema.names, without, names,
      auc=_mean_of_seeds(each, owner), auc_error=_seed_error(each, owner),
      overall=sums_of(each, replicates),
      without_one=(sums_of(each[:, kept], replicates[..., kept])
                   if without else None),
      within_users=within_users, by_truth=by_truth,
      calibration_error=of_cells(lambda cell: number(cell.calibration_error)),
      validation=of_cells(lambda cell: number(cell.validation)),
      learning_rate=of_cells(lambda cell: number(cell.learning_rate)),
      seconds=len(cells) * of_cells(lambda cell: number(cell.seconds)),
      gains=_gains(schema, cells, tests, seed),
      clusters="users" if schema.user else "rows")


def _sums(
    names: tuple[str, ...], owner: np.ndarray, each: np.ndarray,
    replicates: np.ndarray,
) -> Sums:
  """Sums of AUCs, and who is ahead.

  Args:
    names: of K methods.
    owner: `[S]` number of the method of each seed.
    each: `[S, M]` AUCs.
    replicates: `[R, S, M]` the same on resamples.
  """
  seeds = np.nansum(each, axis=1, keepdims=True)
  total = _mean_of_seeds(seeds, owner)[:, 0]
  drawn = _mean_of_seeds(np.nansum(replicates, axis=2).T, owner)  # [K, R]

  def lead(one: int, other: int) -> Lead:
    """With its normal interval."""
    mean = float(total[one] - total[other])
    half = 1.96 * float(np.std(drawn[one] - drawn[other], ddof=1))
    return Lead(mean, mean - half, mean + half)

  baselines = [k for k, name in enumerate(names)
               if contenders.kind_of(name) == "baseline"]
  strongest = max(baselines, key=lambda k: total[k])
  rivals = {}
  if contenders.DEFAULT in names:
    ours = names.index(contenders.DEFAULT)
    rivals = {names[k]: lead(ours, k) for k in baselines}
  return Sums(total, _seed_error(seeds, owner)[:, 0], strongest,
              [lead(k, strongest) for k in range(len(names))], rivals)


def _mean_of_seeds(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
  """`[S, ...]` of seeds to `[K, ...]` means of methods."""
  return np.stack([
      values[owner == k].mean(axis=0) for k in range(owner.max() + 1)])


def _seed_error(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
  """`[S, M]` of seeds to `[K, M]` standard errors of the means."""
  result = np.full((owner.max() + 1, values.shape[1]), np.nan)
  for k in range(len(result)):
    rows = values[owner == k]
    if len(rows) > 1:
      result[k] = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
  return result


def _gains(
    schema: schema_lib.Schema, cells: Sequence[dict[str, Cell]],
    tests: Sequence[features_lib.Batch], seed: int,
) -> Gains | None:
  """Gains of the default beside the users' rates in the test rows."""
  cell = cells[-1].get(contenders.DEFAULT_NETWORK)
  if schema.user is None or cell is None or cell.log_gain is None:
    return None
  test = tests[-1]
  _, users, counts = np.unique(
      test.user, return_inverse=True, return_counts=True)
  per_user = lambda array: np.stack([
      np.bincount(users, weights=column) for column in array.T], axis=1)
  learnt = _centred(per_user(cell.log_gain) / counts[:, None])
  positives = per_user(test.labels > 0)
  rate = (test.labels > 0).mean(axis=0)
  # As many rows of the average user as make rates of single users finite.
  own = (positives + 2 * rate) / (counts[:, None] + 2)
  ideal = _centred(-np.log(own * (1 - own)))
  rng = np.random.default_rng(seed)
  drawn = rng.integers(len(counts), size=(_REPLICATES, len(counts)))
  correlation, low, high = (np.empty(len(rate)) for _ in range(3))
  for m in range(len(rate)):
    # Gains that are the same for all users say nothing.
    if np.ptp(learnt[:, m]) < 1e-6:
      correlation[m] = low[m] = high[m] = 0
      continue
    pair = stats.rankdata(learnt[:, m]), stats.rankdata(ideal[:, m])
    correlation[m] = np.corrcoef(*pair)[0, 1]
    found = [np.corrcoef(pair[0][rows], pair[1][rows])[0, 1] for rows in drawn]
    low[m], high[m] = np.quantile(found, [0.025, 0.975])
  groups = [np.array_split(np.argsort(column, kind="stable"), _GROUPS)
            for column in learnt.T]
  pooled = np.stack([
      [(positives[rows].sum(axis=0) + 2 * rate) / (counts[rows].sum() + 2)
       for rows in of] for of in groups])  # [M, G, M]
  pooled = _centred(-np.log(pooled * (1 - pooled)))
  return Gains(
      correlation, low, high,
      np.stack([[learnt[rows, m].mean() for rows in of]
                for m, of in enumerate(groups)], axis=1),
      np.stack([pooled[m, :, m] for m in range(len(rate))], axis=1))


def _centred(array: np.ndarray) -> np.ndarray:
  return array - array.mean(axis=-1, keepdims=True)


def summary(
    config: dict[str, Any], schema: schema_lib.Schema,
    found: Sequence[Found], rows: Sequence[tuple[int, ...]],
) -> dict[str, Any]:
  """The content of `summary.json`.

  Args:
    config: JSON-able, by flag.
    schema: roles of the columns.
    found: per condition.
    rows: per block, rows to train, validate and test.
  """
  def method(table: Found, k: int) -> dict[str, Any]:
    by_objective = lambda values: dict(
        zip(schema.names, values.tolist(), strict=True))
    content = {
        "kind": table.kind(k), "auc": by_objective(table.auc[k]),
        "auc_error": by_objective(table.auc_error[k]),
        "calibration_error": table.calibration_error[k],
        "validation": table.validation[k],
        "learning_rate": table.learning_rate[k], "seconds": table.seconds[k]}
    for kind, sums in _kinds(table).items():
      content[f"{kind}_sum"] = sums.total[k]
      content[f"{kind}_sum_error"] = sums.error[k]
      content[f"{kind}_lead_over_strongest"] = sums.leads[k]._asdict()
    return content

  def condition(table: Found) -> dict[str, Any]:
    content: dict[str, Any] = {
        "methods": {name: method(table, k)
                    for k, name in enumerate(table.names)},
        "resampled": table.clusters,
        "gains": table.gains._asdict() if table.gains else None}
    for kind, sums in _kinds(table).items():
      content[f"{kind}_strongest_baseline"] = table.names[sums.strongest]
      content[f"{kind}_leads"] = {
          name: lead._asdict() for name, lead in sums.rivals.items()}
    return content

  return {
      "objectives": schema.names, "default": contenders.DEFAULT,
      "rows": [dict(zip(("train", "validation", "test"), counts, strict=True))
               for counts in rows],
      "conditions": {
          table.condition.name: condition(table) for table in found},
      "config": config}


def _kinds(table: Found) -> dict[str, Sums]:
  """What there are sums of, by the name in `summary.json`."""
  kinds = {"auc": table.overall, "auc_without": table.without_one,
           "group_auc": table.within_users, "expected_auc": table.by_truth}
  return {name: sums for name, sums in kinds.items() if sums is not None}


def columns(table: Found) -> list[str]:
  """Heads of the columns of a table."""
  return ["", *table.objectives, "sum",
          *([f"without {table.without}"] if table.without_one else []),
          *(["within users"] if table.within_users else []),
          "ECE", "lead over the strongest baseline",
          *(["sum by truth", "lead by truth"] if table.by_truth else [])]


def table_rows(table: Found) -> list[list[str]]:
  """Cells of a table, the strongest method first, the ceiling last."""
  digits = results.number
  overall = table.overall
  sum_of = lambda sums, k: with_error(sums.total[k], sums.error[k])
  order = sorted(range(len(table.names)), key=lambda k: (
      table.kind(k) == "ceiling", -overall.total[k]))
  rows = []
  for k in order:
    row = [table.names[k], *(digits(value) for value in table.auc[k]),
           sum_of(overall, k)]
    if table.without_one:
      row.append(digits(table.without_one.total[k]))
    if table.within_users:
      row.append(sum_of(table.within_users, k))
    row += [digits(table.calibration_error[k]), _lead_text(overall, k)]
    if table.by_truth:
      row += [sum_of(table.by_truth, k), _lead_text(table.by_truth, k)]
    rows.append(row)
  return rows


def _lead_text(sums: Sums, k: int) -> str:
  if k == sums.strongest:
    return "strongest baseline"
  lead = sums.leads[k]
  return f"{lead.mean:+.4f} [{lead.low:+.4f}, {lead.high:+.4f}]"


def with_error(value: float, error: float) -> str:
  """`value ± error`, or the value alone."""
  if np.isfinite(error):
    return results.with_error(value, error)
  return results.number(value)


def verdict(table: Found) -> str:
  """Whether the default is ahead of every baseline."""
  if not table.overall.rivals:
    return f"{contenders.DEFAULT} is not among the methods."
  text = _verdict(table.overall.rivals, f"{table.clusters} resampled")
  if table.by_truth:
    text += " By the true probabilities " + _verdict(
        table.by_truth.rivals, "no chance of labels")
  return text


def _verdict(rivals: dict[str, Lead], how: str) -> str:
  unsure = {name: lead for name, lead in rivals.items() if lead.low <= 0}
  name, worst = min(rivals.items(), key=lambda item: item[1].mean)
  if not unsure:
    what = f"{contenders.DEFAULT} is ahead of every baseline"
  elif worst.high < 0:
    what = f"{name} is ahead of {contenders.DEFAULT}"
  else:
    what = f"{contenders.DEFAULT} is not surely ahead of {', '.join(unsure)}"
  return (f"{what}; the best baseline is {name}: {worst.mean:+.4f}, 95 % "
          f"interval {worst.low:+.4f} to {worst.high:+.4f} ({how}).")


def markdown(found: Sequence[Found]) -> str:
  """The tables of all conditions."""
  parts = []
  for table in found:
    if len(found) > 1:
      parts += [f"### {table.condition.name}", ""]
    heads = columns(table)
    parts += ["| " + " | ".join(heads) + " |",
              "|" + "---|" * len(heads)]
    for row in table_rows(table):
      parts.append("| " + " | ".join(row) + " |")
    parts += ["", verdict(table), ""]
  return "\n".join(parts)


def print_tables(found: Sequence[Found]) -> None:
  """The last thing on the terminal."""
  console = rich_console.Console()
  if not console.is_terminal:
    # Not cut to 80 columns where nobody looks.
    console = rich_console.Console(width=220)
  for table in found:
    shown = rich_table.Table(
        title=table.condition.name, box=None, padding=(0, 1, 0, 0),
        pad_edge=False)
    for k, head in enumerate(columns(table)):
      shown.add_column(head, justify="right" if k else "left",
                       no_wrap=k == 0, overflow="fold")
    for row in table_rows(table):
      shown.add_row(*row, style=(
          "bold" if row[0] == contenders.DEFAULT else None))
    console.print(shown)
    print(verdict(table))
