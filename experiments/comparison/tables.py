"""Tables of methods by seeds: AUC, AUC within users, calibration, leads."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from experiments.comparison import studies
from experiments.comparison.cells import Cell
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.evaluation import bootstrap

_REPLICATES = 200


class Lead(NamedTuple):
  """A difference of sums of AUCs with its 95 % interval.

  The interval covers two sources of chance: the users (or rows), by resamples
  that both methods share; and the seeds of either method.
  """

  mean: float
  low: float
  high: float


class Sums(NamedTuple):
  """Sums over objectives of one kind of AUC, of K methods.

  Attributes:
    total: `[K]`.
    error: `[K]` standard errors over seeds; of averages by the jackknife.
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


class Table(NamedTuple):
  """Measurements under one condition: K methods, M objectives.

  AUCs are means over seeds and blocks; `_error` is the standard error over
  seeds (NaN for one seed). NaN stands for what is undefined.

  Attributes:
    condition: under which methods were trained.
    objectives: names.
    without: the objective that `without_one` leaves out, or None.
    names: of the methods.
    auc: `[K, M]`.
    auc_error: `[K, M]`.
    overall: sums of these.
    without_one: the same without one objective, or None.
    within_users: sums of the AUCs within users, or None without users.
    by_truth: sums of AUCs by the probabilities that labels are drawn with,
      where these are known (see `bootstrap.bootstrap_auc`); else None. They do
      not depend on which labels happened to be drawn.
    within_by_truth: the same within users.
    calibration_error: `[K]` mean over objectives; NaN without probabilities.
    validation: `[K]` sum of AUCs of validation rows; NaN for formulas.
    learning_rate: `[K]` mean over blocks; NaN for formulas.
    seconds: `[K]` of training, all blocks; NaN for formulas.
    clusters: "users" or "rows", what was resampled.
  """

  condition: studies.Condition
  objectives: tuple[str, ...]
  without: str | None
  names: tuple[str, ...]
  auc: np.ndarray
  auc_error: np.ndarray
  overall: Sums
  without_one: Sums | None
  within_users: Sums | None
  by_truth: Sums | None
  within_by_truth: Sums | None
  calibration_error: np.ndarray
  validation: np.ndarray
  learning_rate: np.ndarray
  seconds: np.ndarray
  clusters: str

  def kind(self, k: int) -> str:
    """Of a method, by its number."""
    return studies.kind_of(self.names[k])


class Record(NamedTuple):
  """All that is shown of a comparison.

  Attributes:
    config: JSON-able, by flag.
    objectives: names.
    rows: per block, rows to train, validate and test.
    tables: per condition, at least one.
    left_out: names of conditions that the data has no column for.
  """

  config: dict[str, Any]
  objectives: tuple[str, ...]
  rows: Sequence[tuple[int, int, int]]
  tables: Sequence[Table]
  left_out: tuple[str, ...] = ()

  def label(self, table: Table) -> str:
    """The condition of a table in words; empty if there is only one."""
    if len(self.tables) == 1:
      return ""
    return table.condition.name.replace("_", " ")


def evaluate(
    condition: studies.Condition,
    schema: schema_lib.Schema,
    cells: Sequence[dict[str, Cell]],
    tests: Sequence[features_lib.Batch],
    truths: Sequence[np.ndarray],
    *,
    without: str | None,
    seed: int,
) -> Table:
  """Compares the methods of one condition.

  Args:
    condition: under which methods were trained.
    schema: roles of the columns.
    cells: per block, name to what a method made of it.
    tests: per block, the rows.
    truths: per block, the probabilities `[N, M]` that labels are drawn with;
      empty if they are not known.
    without: objective to leave out of a second sum, or None.
    seed: of the resamples.
  """
  scores = _scores_of(
      cells, [test.user if schema.user else None for test in tests], seed)
  labels = [test.labels for test in tests]
  overall = scores.measure(bootstrap.bootstrap_auc, labels)
  kept = np.asarray([name != without for name in schema.names])
  within_users = by_truth = within_by_truth = None
  if schema.user:
    within_users = scores.measure(bootstrap.bootstrap_group_auc, labels).sums()
  if truths:
    # Sums have the same terms: an objective of one class is in none of them.
    chances = [truth * (column.any(axis=0) & ~column.all(axis=0))
               for truth, column in zip(truths, labels, strict=True)]
    by_truth = scores.measure(
        bootstrap.bootstrap_auc, chances, are_probabilities=True).sums()
    if schema.user:
      within_by_truth = scores.measure(
          bootstrap.bootstrap_group_auc, chances,
          are_probabilities=True).sums()
  return Table(
      condition, schema.names, without, scores.names,
      auc=_mean_of_seeds(overall.auc, scores.owner),
      auc_error=_seed_error(overall.auc, scores.owner),
      overall=overall.sums(), without_one=(
          overall.of_objectives(kept).sums() if without else None),
      within_users=within_users, by_truth=by_truth,
      within_by_truth=within_by_truth,
      calibration_error=_mean_of_blocks(cells, "calibration_error"),
      validation=_mean_of_blocks(cells, "validation"),
      learning_rate=_mean_of_blocks(cells, "learning_rate"),
      seconds=len(cells) * _mean_of_blocks(cells, "seconds"),
      clusters="users" if schema.user else "rows")


def _mean_of_blocks(
    cells: Sequence[dict[str, Cell]], field: str
) -> np.ndarray:
  """`[K]` means of a field of the cells; NaN for methods without it."""
  def mean(value) -> float:
    return np.nan if value is None else float(np.mean(value))

  return np.asarray([
      np.mean([mean(getattr(block[name], field)) for block in cells])
      for name in cells[0]])


class _Scores(NamedTuple):
  """Scores of the test rows by S seeds of K methods.

  Attributes:
    names: of the methods.
    owner: `[S]` number of the method of each seed.
    scores: per block, `[S, N]`.
    left_owner: `[T]` number of the average of each that leaves out a seed.
    left_out: per block, `[T, N]` scores of these; empty if T is 0.
    users: per block, `[N]`, or None to resample rows.
    seed: of the resamples.
  """

  names: tuple[str, ...]
  owner: np.ndarray
  scores: list[np.ndarray]
  left_owner: np.ndarray
  left_out: list[np.ndarray]
  users: Sequence[np.ndarray | None]
  seed: int

  def measure(
      self, bootstrap_fn: Callable[..., tuple[np.ndarray, np.ndarray]],
      labels: Sequence[np.ndarray], **kwargs: Any,
  ) -> "_Measured":
    """AUCs of one kind, by labels `[N, M]` of each block."""
    def aucs(scores: list[np.ndarray], num_replicates: int):
      parts = [bootstrap.Part(*part) for part in zip(
          scores, labels, self.users, strict=True)]
      return bootstrap_fn(
          parts, seed=self.seed, num_replicates=num_replicates, **kwargs)

    auc, replicates = aucs(self.scores, _REPLICATES)
    left_out = (aucs(self.left_out, 0)[0] if self.left_out else
                np.empty((0, auc.shape[1])))
    return _Measured(self.names, self.owner, auc, replicates,
                     self.left_owner, left_out)


def _scores_of(
    cells: Sequence[dict[str, Cell]],
    users: Sequence[np.ndarray | None], seed: int,
) -> _Scores:
  """Joins the scores of the cells of each block."""
  names = tuple(cells[0])
  owner = np.repeat(
      np.arange(len(names)), [len(cell.scores) for cell in cells[0].values()])
  averages = {k: len(cell.left_out)
              for k, cell in enumerate(cells[0].values())
              if cell.left_out is not None}
  left_owner = np.repeat(
      np.asarray(list(averages), int), list(averages.values()))
  left_out = [
      np.concatenate([block[names[k]].left_out for k in averages])
      for block in cells if averages]
  return _Scores(
      names, owner,
      [np.concatenate([block[name].scores for name in names])
       for block in cells],
      left_owner, left_out, users, seed)


class _Measured(NamedTuple):
  """AUCs of one kind.

  Attributes:
    names: of K methods.
    owner: `[S]` number of the method of each seed.
    auc: `[S, M]`.
    replicates: `[R, S, M]` the same on resamples.
    left_owner: `[T]` number of the average of each that leaves out a seed.
    left_out: `[T, M]` AUCs of these.
  """

  names: tuple[str, ...]
  owner: np.ndarray
  auc: np.ndarray
  replicates: np.ndarray
  left_owner: np.ndarray
  left_out: np.ndarray

  def of_objectives(self, kept: np.ndarray) -> "_Measured":
    """The same of some objectives."""
    return self._replace(
        auc=self.auc[:, kept], replicates=self.replicates[..., kept],
        left_out=self.left_out[:, kept])

  def sums(self) -> Sums:
    """Sums over objectives, with leads over baselines."""
    names = self.names
    seeds = np.nansum(self.auc, axis=1, keepdims=True)
    total = _mean_of_seeds(seeds, self.owner)[:, 0]
    error = _seed_error(seeds, self.owner)[:, 0]
    left_out = np.nansum(self.left_out, axis=1)
    for k in np.unique(self.left_owner):
      error[k] = _jackknife_error(left_out[self.left_owner == k])
    drawn = _mean_of_seeds(  # [K, R]
        np.nansum(self.replicates, axis=2).T, self.owner)
    of_seeds = np.nan_to_num(error)

    def lead(one: int, other: int) -> Lead:
      if one == other:
        return Lead(0.0, 0.0, 0.0)
      mean = float(total[one] - total[other])
      half = 1.96 * float(np.linalg.norm([
          np.std(drawn[one] - drawn[other], ddof=1), of_seeds[one],
          of_seeds[other]]))
      return Lead(mean, mean - half, mean + half)

    baselines = [k for k, name in enumerate(names)
                 if studies.kind_of(name) == "baseline"]
    strongest = max(baselines, key=lambda k: total[k])
    rivals = {}
    if studies.DEFAULT in names:
      ours = names.index(studies.DEFAULT)
      rivals = {names[k]: lead(ours, k) for k in baselines}
    return Sums(total, error, strongest,
                [lead(k, strongest) for k in range(len(names))], rivals)


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
