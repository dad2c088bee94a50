"""Tables of methods x seeds: AUC, group AUC, calibration, leads."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.comparison import studies as contenders
from experiments.comparison.cells import Cell
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.evaluation import bootstrap as evaluation

_REPLICATES = 200


class Lead(NamedTuple):
  """A difference of sums of AUCs with its 95 % interval.

  Two kinds of chance are in it: which users there are (or rows), by resamples
  that both methods share; and the seeds of either.
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
    by_truth: sums of AUCs by the probabilities that labels are drawn with,
      where these are known (see `evaluation.bootstrap_auc`); else None. The
      labels that happened to be drawn are no part of it.
    within_by_truth: the same within users.
    calibration_error: `[K]` mean over objectives; NaN without probabilities.
    validation: `[K]` sum of AUCs of validation rows; NaN for formulas.
    learning_rate: `[K]` mean over blocks; NaN for formulas.
    seconds: `[K]` of training, all blocks; NaN for formulas.
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
  within_by_truth: Sums | None
  calibration_error: np.ndarray
  validation: np.ndarray
  learning_rate: np.ndarray
  seconds: np.ndarray
  clusters: str

  def kind(self, k: int) -> str:
    """Of a method, by its number."""
    return contenders.kind_of(self.names[k])


def evaluate(
    condition: contenders.Condition,
    schema: schema_lib.Schema,
    cells: Sequence[dict[str, Cell]],
    tests: Sequence[features_lib.Batch],
    truths: Sequence[np.ndarray],
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
    truths: per block, the probabilities `[N, M]` that labels are drawn with;
      empty if they are not known.
    without: objective to leave out of a second sum, or None.
    seed: of the resamples.
  """
  names = tuple(cells[0])
  scores = [[of[name].scores for name in names] for of in cells]
  averages = [k for k, name in enumerate(names)
              if cells[0][name].left_out is not None]
  left_out = [[found for name in names
               if (found := of[name].left_out) is not None] for of in cells]
  owner = np.repeat(np.arange(len(names)), list(map(len, scores[0])))
  left_owner = np.repeat(
      np.asarray(averages, int), list(map(len, left_out[0])))
  users = [test.user if schema.user else None for test in tests]

  def measured(
      bootstrap: Callable[..., tuple[np.ndarray, np.ndarray]],
      labels: Sequence[np.ndarray], **kwargs,
  ) -> _Measured:
    def of(scores, num_replicates):
      parts = [evaluation.Part(np.concatenate(each), column, user)
               for each, column, user in zip(
                   scores, labels, users, strict=True)]
      return bootstrap(
          parts, seed=seed, num_replicates=num_replicates, **kwargs)

    each, replicates = of(scores, _REPLICATES)
    less = of(left_out, 0)[0] if averages else np.empty((0, each.shape[1]))
    return _Measured(names, owner, each, replicates, left_owner, less)

  labels = [test.labels for test in tests]
  overall = measured(evaluation.bootstrap_auc, labels)
  kept = np.asarray([name != without for name in schema.names])
  within_users = by_truth = within_by_truth = None
  if schema.user:
    within_users = measured(evaluation.bootstrap_group_auc, labels).sums()
  if truths:
    # Sums have the same terms: an objective of one class is in none of them.
    chances = [truth * (column.any(axis=0) & ~column.all(axis=0))
               for truth, column in zip(truths, labels, strict=True)]
    by_truth = measured(
        evaluation.bootstrap_auc, chances, are_probabilities=True).sums()
    if schema.user:
      within_by_truth = measured(
          evaluation.bootstrap_group_auc, chances,
          are_probabilities=True).sums()
  of_cells = lambda function: np.asarray([
      np.mean([function(of[name]) for of in cells]) for name in names])
  number = lambda value: np.nan if value is None else float(np.mean(value))
  return Found(
      condition, schema.names, without, names,
      auc=_mean_of_seeds(overall.each, owner),
      auc_error=_seed_error(overall.each, owner),
      overall=overall.sums(), without_one=(
          overall.of_objectives(kept).sums() if without else None),
      within_users=within_users, by_truth=by_truth,
      within_by_truth=within_by_truth,
      calibration_error=of_cells(lambda cell: number(cell.calibration_error)),
      validation=of_cells(lambda cell: number(cell.validation)),
      learning_rate=of_cells(lambda cell: number(cell.learning_rate)),
      seconds=len(cells) * of_cells(lambda cell: number(cell.seconds)),
      clusters="users" if schema.user else "rows")


class _Measured(NamedTuple):
  """AUCs of one kind.

  Attributes:
    names: of K methods.
    owner: `[S]` number of the method of each seed.
    each: `[S, M]` AUCs.
    replicates: `[R, S, M]` the same on resamples.
    left_owner: `[T]` number of the average of what leaves out a seed of it.
    left_out: `[T, M]` AUCs of these.
  """

  names: tuple[str, ...]
  owner: np.ndarray
  each: np.ndarray
  replicates: np.ndarray
  left_owner: np.ndarray
  left_out: np.ndarray

  def of_objectives(self, kept: np.ndarray) -> "_Measured":
    """The same of some objectives."""
    return self._replace(
        each=self.each[:, kept], replicates=self.replicates[..., kept],
        left_out=self.left_out[:, kept])

  def sums(self) -> Sums:
    """Sums over objectives, and who is ahead."""
    names = self.names
    seeds = np.nansum(self.each, axis=1, keepdims=True)
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
                 if contenders.kind_of(name) == "baseline"]
    strongest = max(baselines, key=lambda k: total[k])
    rivals = {}
    if contenders.DEFAULT in names:
      ours = names.index(contenders.DEFAULT)
      rivals = {names[k]: lead(ours, k) for k in baselines}
    return Sums(total, error, strongest,
                [lead(k, strongest) for k in range(len(names))], rivals)


def _jackknife_error(values: np.ndarray) -> float:
  """Standard error of what these, each without one of all, are of."""
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
