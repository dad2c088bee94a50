"""Tables of methods by seeds: AUC, AUC within users, calibration, leads."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from experiments.comparison import studies
from experiments.comparison.cells import Cell
from experiments.runs import claims
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.evaluation import aucs


class Sums(NamedTuple):
  """Sums over objectives of one kind of AUC, of K methods."""

  total: np.ndarray  # [K]
  error: np.ndarray  # [K] standard errors over seeds
  strongest: int  # number of the baseline with the largest sum
  # Differences of sums, with 95 % intervals over users and seeds: K over the
  # strongest baseline, and of the default over each baseline, if it is there.
  leads: list[claims.Interval]
  rivals: dict[str, claims.Interval]


class Table(NamedTuple):
  """Measurements under one condition: K methods, M objectives.

  Means over seeds and blocks, errors over seeds; NaN where undefined.
  """

  condition: studies.Condition  # under which methods were trained
  objectives: tuple[str, ...]
  without: str | None  # the objective that `without_one` leaves out
  names: tuple[str, ...]  # of the methods
  auc: np.ndarray  # [K, M]
  auc_error: np.ndarray  # [K, M]
  overall: Sums
  without_one: Sums | None
  within_users: Sums | None
  # By the probabilities that labels are drawn with, where these are known:
  # they do not depend on which labels happened to be drawn.
  by_truth: Sums | None
  within_by_truth: Sums | None
  calibration_error: np.ndarray  # [K]; NaN without probabilities
  validation: np.ndarray  # [K] sum of AUCs; NaN for formulas, as below
  learning_rate: np.ndarray  # [K] mean over blocks
  seconds: np.ndarray  # [K] of training, all blocks
  positives: np.ndarray  # [M] rows with the event, all blocks
  is_known: np.ndarray  # [M], whether these are enough for an interval
  clusters: str  # "users" or "rows", what varies as a whole

  def of(self, names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """`[K]` values of the methods named; NaN for those that are not here."""
    known = dict(zip(self.names, values, strict=True))
    return np.asarray([known.get(name, np.nan) for name in names])

  def kind(self, k: int) -> str:
    """The kind of a method, by its number."""
    return studies.kind_of(self.names[k])


class Record(NamedTuple):
  """All that is shown of a comparison."""

  config: dict[str, Any]  # JSON-able, by flag
  objectives: tuple[str, ...]
  rows: Sequence[tuple[int, int, int]]  # per block: train, validation, test
  tables: Sequence[Table]  # per condition, at least one
  left_out: tuple[str, ...] = ()  # conditions that the data has no column for

  def label(self, table: Table) -> str:
    """The condition of a table in words; empty if there is only one."""
    if len(self.tables) == 1:
      return ""
    return table.condition.name.replace("_", " ")


def evaluate(
    condition: studies.Condition, schema: schema_lib.Schema,
    cells: Sequence[dict[str, Cell]], tests: Sequence[features_lib.Batch],
    truths: Sequence[np.ndarray],  # [N, M] chances of labels; empty if unknown
    *,
    without: str | None,
) -> Table:
  """Compares the methods of one condition; sequences are of blocks."""
  scores = _Scores(
      cells, [test.user if schema.user else None for test in tests])
  labels = [test.labels for test in tests]
  overall = scores.measure(aucs.auc_estimates, labels)
  kept = np.asarray([name != without for name in schema.names])
  within_users = by_truth = within_by_truth = None
  if schema.user:
    within_users = scores.sums(scores.measure(
        aucs.group_auc_estimates, labels))
  if truths:
    # Sums have the same terms: an objective of one class is in none of them.
    chances = [truth * (column.any(axis=0) & ~column.all(axis=0))
               for truth, column in zip(truths, labels, strict=True)]
    by_truth = scores.sums(scores.measure(
        aucs.auc_estimates, chances, are_probabilities=True))
    if schema.user:
      within_by_truth = scores.sums(scores.measure(
          aucs.group_auc_estimates, chances, are_probabilities=True))
  return Table(
      condition, schema.names, without, scores.names,
      auc=_mean_of_seeds(overall.seeds.auc, scores.owner),
      auc_error=_seed_error(overall.seeds.auc, scores.owner),
      overall=scores.sums(overall), without_one=(
          scores.sums(overall.of_objectives(kept)) if without else None),
      within_users=within_users, by_truth=by_truth,
      within_by_truth=within_by_truth,
      calibration_error=_mean_of_blocks(cells, "calibration_error"),
      validation=_mean_of_blocks(cells, "validation"),
      learning_rate=_mean_of_blocks(cells, "learning_rate"),
      seconds=len(cells) * _mean_of_blocks(cells, "seconds"),
      positives=overall.seeds.positives, is_known=overall.seeds.is_known,
      clusters="users" if schema.user else "rows")


def _mean_of_blocks(cells: Sequence[dict[str, Cell]], field: str) -> np.ndarray:
  """`[K]` means of a field of the cells; NaN for methods without it."""
  def mean(value) -> float:
    return np.nan if value is None else float(np.mean(value))

  return np.asarray([
      np.mean([mean(getattr(block[name], field)) for block in cells])
      for name in cells[0]])


class _Aucs(NamedTuple):
  """AUCs of one kind of S seeds of methods."""

  seeds: aucs.AucEstimates  # of S seeds
  left_out: np.ndarray  # [T, M] of the averages without one seed

  def of_objectives(self, kept: np.ndarray) -> "_Aucs":
    """Some of the objectives, `[M]` bool."""
    return _Aucs(self.seeds.of_objectives(kept), self.left_out[:, kept])


class _Scores:
  """Scores of the test rows by the seeds of K methods, block by block."""

  def __init__(
      self, cells: Sequence[dict[str, Cell]],
      users: Sequence[np.ndarray | None],
  ):
    self.names, self._users = tuple(cells[0]), users
    first = cells[0].values()
    # Numbers of the methods: [S] of each seed, [T] of each average without one.
    self.owner, self._left_owner = (
        np.repeat(np.arange(len(first)), [len(x) for x in scores])
        for scores in ([cell.scores for cell in first],
                       [_without_seeds(cell) for cell in first]))
    self._scores = [np.concatenate([block[name].scores for name in self.names])
                    for block in cells]
    self._left_out = [np.concatenate(
        [_without_seeds(block[name]) for name in self.names])
                      for block in cells if len(self._left_owner)]

  def measure(
      self, estimate_fn: Callable[..., aucs.AucEstimates],
      labels: Sequence[np.ndarray], **kwargs: Any,
  ) -> _Aucs:
    """AUCs of one kind, by labels `[N, M]` of each block."""
    def measured(scores: list[np.ndarray]) -> aucs.AucEstimates:
      return estimate_fn([aucs.Part(*part) for part in zip(
          scores, labels, self._users, strict=True)], **kwargs)

    seeds = measured(self._scores)
    left_out = (measured(self._left_out).auc if self._left_out else
                np.empty((0, seeds.auc.shape[1])))
    return _Aucs(seeds, left_out)

  def sums(self, found: _Aucs) -> Sums:
    """Sums over objectives, with leads over baselines."""
    names = self.names
    seeds = np.nansum(found.seeds.auc, axis=1, keepdims=True)
    total = _mean_of_seeds(seeds, self.owner)[:, 0]
    error = _seed_error(seeds, self.owner)[:, 0]
    left_out = np.nansum(found.left_out, axis=1)
    count = np.bincount(self.owner)
    for k in np.unique(self._left_owner):
      error[k] = _jackknife_error(left_out[self._left_owner == k])
      count[k] = np.sum(self._left_owner == k)
    of_methods = np.eye(len(names))
    mean = found.seeds.of_methods(of_methods[:, self.owner] / np.bincount(
        self.owner)[:, None])
    # By chance of the seeds; none where a method has one.
    of_seeds = list(zip(np.nan_to_num(error), np.maximum(count - 1, 1),
                        strict=True))

    def lead(one: int, other: int) -> claims.Interval:
      if one == other:
        return claims.Interval.around(0.0, 0.0)
      difference = mean.contrast(np.broadcast_to(
          (of_methods[one] - of_methods[other])[:, None], mean.auc.shape))
      return claims.Interval.around(
          difference.value,
          difference.with_errors(of_seeds[one], of_seeds[other]).margin)

    baselines = [k for k, name in enumerate(names)
                 if studies.kind_of(name) == "baseline"]
    strongest = max(baselines, key=lambda k: total[k])
    rivals = {}
    if studies.DEFAULT in names:
      ours = names.index(studies.DEFAULT)
      rivals = {names[k]: lead(ours, k) for k in baselines}
    return Sums(total, error, strongest,
                [lead(k, strongest) for k in range(len(names))], rivals)


def _without_seeds(cell: Cell) -> np.ndarray:
  """`[S, N]` of an average, `[0, N]` of other methods."""
  return cell.scores[:0] if cell.left_out is None else cell.left_out


def _jackknife_error(values: np.ndarray) -> float:
  """Standard error of a statistic from its values without each one seed."""
  count = len(values)
  return float(np.sqrt((count - 1) / count * np.sum(
      np.square(values - values.mean()))))


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
