"""What comes of a ranker: AUCs beside baselines, summary, table, report."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs import claims
from experiments.runs import console
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.ensemble import baselines
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import metrics
from harmonrank_jax.ensemble import ranker
from harmonrank_jax.evaluation import aucs

ENSEMBLE, CEILING = "harmonrank", "ceiling"


class Curves(NamedTuple):
  """What the report shows of the scores."""

  place: np.ndarray  # [N] percent from the bottom of the ranking
  # By objective, [N] percent of its positives up to there; objectives without
  # a positive are left out.
  positives: dict[str, np.ndarray]
  # By objective, those of the scores that went in.
  log_odds: dict[str, np.ndarray]


class Run(NamedTuple):
  """A trained ranker and the rows to show it on."""

  config: dict[str, Any]  # JSON-able, by flag
  schema: schema_lib.Schema  # roles of the columns
  # From rows to [N] scores of the trained ensemble.
  score: Callable[[features_lib.Batch], np.ndarray]
  platt: calibration.Calibration  # fitted on training rows
  objective_weights: np.ndarray  # [M]
  num_steps: int  # of training
  best_step: int  # whose parameters are used
  sample: features_lib.Batch  # training rows
  validation: features_lib.Batch  # rows that weights of baselines are tuned on
  test: features_lib.Batch  # held-out rows
  # [N, M] true probabilities of these, where they are known.
  truth: np.ndarray | None
  slices: tuple[str, np.ndarray] | None  # [N] text, and what it is; or None
  examples_per_second: float  # of training


class Results(NamedTuple):
  """Everything measured on the held-out rows."""

  # Name to [N] scores: the ensemble, baselines, perhaps a ceiling.
  methods: dict[str, np.ndarray]
  comparison: aucs.Comparison  # of the methods
  group_by: str | None  # "user" or "request", or None
  # [M] of the ensemble within groups, or None.
  group_auc: metrics.GroupAuc | None
  slice_by: str | None  # the column whose values cut the rows, or None
  # Value to (rows, [K] AUC sums of the methods).
  slices: dict[str, tuple[int, np.ndarray]]
  curves: Curves  # of the ensemble's ranking and the scores that went in


def evaluate(run: Run) -> Results:
  """Scores the held-out rows by all methods and measures them."""
  schema = run.schema
  methods = {
      ENSEMBLE: run.score(run.test),
      **own_scores(schema.names, run.sample, run.test),
      **baselines.formula_scores(
          run.platt, run.objective_weights, run.sample, run.validation,
          run.test, seed=run.config["seed"])}
  if run.truth is not None:
    methods[CEILING] = np.asarray(calibration.closed_form_score(
        jnp.asarray(run.truth), run.platt.base_rate,
        jnp.asarray(run.objective_weights)))
  comparison = aucs.compare(
      methods, run.test.labels, run.test.user if schema.user else None,
      objective_weights=run.objective_weights)
  group_by = "request" if run.config["lists"] == "request" else next(
      (role for role in ("user", "request") if getattr(schema, role)), None)
  group_auc = None
  if group_by:
    group_auc = jax.jit(metrics.group_auc)(
        methods[ENSEMBLE], run.test.labels,
        ranker.list_numbers(getattr(run.test, group_by)))
  return Results(methods, comparison, group_by, group_auc,
                 run.slices[0] if run.slices else None,
                 _slice_sums(run, methods),
                 _curves(run, methods[ENSEMBLE]))


def own_scores(
    names: Sequence[str], sample: features_lib.Batch, test: features_lib.Batch
) -> dict[str, np.ndarray]:
  """Name to `[N]` scores of the held-out rows: each objective's own score."""
  tested = baselines.fill_scores(test, baselines.mean_scores(sample))
  return {f"own_{name}": tested[:, m] for m, name in enumerate(names)}


def _curves(run: Run, scores: np.ndarray) -> Curves:
  order = np.argsort(scores, kind="stable")
  place = 100 * (np.arange(len(scores)) + 0.5) / len(scores)
  positives, log_odds = {}, {}
  for m, name in enumerate(run.schema.names):
    count = np.cumsum(run.test.labels[order, m], dtype=np.float64)
    if count[-1]:
      positives[name] = 100 * count / count[-1]
    present = run.test.has_score[:, m]
    given = run.test.scores[present, m].astype(np.float64)
    if len(given):
      log_odds[name] = np.log(given) - np.log1p(-given)
  return Curves(place, positives, log_odds)


def _slice_sums(
    run: Run, methods: dict[str, np.ndarray]
) -> dict[str, tuple[int, np.ndarray]]:
  if run.slices is None:
    return {}
  scores = np.stack(list(methods.values()))
  sum_of = jax.jit(lambda where: jax.lax.map(
      lambda row: jnp.nansum(metrics.auc(
          row, jnp.asarray(run.test.labels), where=where)), scores))
  values = run.slices[1]
  return {str(value): (int((values == value).sum()),
                       np.asarray(sum_of(values == value)))
          for value in np.unique(values)}


def summary(run: Run, results: Results) -> dict[str, Any]:
  """The content of `summary.json`; NaN stands for what is undefined."""
  comparison, names = results.comparison, run.schema.names
  by_objective = lambda values: dict(
      zip(names, np.asarray(values).tolist(), strict=True))

  def method(k: int) -> dict[str, Any]:
    content = {"auc": by_objective(comparison.auc[k]),
               "auc_sum": comparison.auc_sum[k],
               "auc_error": by_objective(comparison.auc_error[k]),
               "auc_low": by_objective(comparison.auc_low[k]),
               "auc_high": by_objective(comparison.auc_high[k]),
               "auc_sum_error": comparison.sum_error[k]}
    if k:
      content["lead"] = comparison.lead[k]
      content["lead_error"] = comparison.lead_error[k]
      content["lead_margin"] = comparison.lead_margin[k]
    return content

  methods = {name: method(k) for k, name in enumerate(comparison.names)}
  ours = methods.pop(ENSEMBLE)
  ceiling = methods.pop(CEILING, None)
  return {
      "objectives": list(names),
      "positives": by_objective(comparison.positives),
      "enough_positives": by_objective(comparison.is_known), **ours,
      "group_auc": by_objective(results.group_auc.value)
                   if results.group_auc else None,
      "group_by": results.group_by,
      "baselines": methods, "ceiling": ceiling,
      "clusters": comparison.clusters,
      "slices": {
          value: {"rows": rows, "auc_sum": dict(
              zip(comparison.names, sums.tolist(), strict=True))}
          for value, (rows, sums) in results.slices.items()} or None,
      "test_rows": len(run.test.labels), "best_step": run.best_step,
      "num_steps": run.num_steps,
      "examples_per_second": run.examples_per_second, "config": run.config}


def print_table(run: Run, results: Results) -> None:
  """The last thing on the terminal."""
  comparison, names = results.comparison, run.schema.names
  digits = 4 if console.width() >= 36 + 7 * len(names) else 3
  rows = []
  for k, name in enumerate(comparison.names):
    lead = ("", "") if not k else (
        console.number(comparison.lead[k], digits, signed=True),
        console.number(comparison.lead_error[k], digits))
    rows.append((
        name, *(console.number(value, digits) for value in comparison.auc[k]),
        console.number(comparison.auc_sum[k], digits), *lead))
  console.show(f"AUC on {len(run.test.labels):,} held-out rows",
               ("", *claims.marked(names, comparison.is_known), "sum", "lead",
                "s.e."), rows, bold={0})
  print("lead: of harmonrank, with its standard error "
        f"(over {comparison.clusters}).", verdict(comparison),
        *claims.positives(names, comparison.positives, comparison.is_known),
        sep="\n")
  for value, (count, sums) in results.slices.items():
    best = ", ".join(f"{name} {console.number(s)}" for name, s in zip(
        comparison.names, sums, strict=True) if not name.startswith("own_"))
    print(f"{results.slice_by} = {value} ({count:,} rows): {best}")


def verdict(comparison: aucs.Comparison) -> str:
  """Which baseline is the best, and whether the ensemble is ahead of all."""
  leads = {
      name: claims.Interval.around(lead, margin)
      for name, lead, margin in zip(
          comparison.names, comparison.lead, comparison.lead_margin,
          strict=True) if name not in (ENSEMBLE, CEILING)}
  return f"{claims.verdict(ENSEMBLE, leads)}."
