"""The front between objectives: what each way of ranking reaches on it.

At every vector of weights from the simplex a family of rankers does its best
for `sum_m w_m AUC_m`; its AUCs at all of them are its front.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any
from typing import NamedTuple
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ranker import inputs as inputs_lib
from experiments.ranker import stacks
from experiments.runs import console
from experiments.runs import errors
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import files
from harmonrank_jax.ensemble import baselines
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.evaluation import bootstrap as evaluation
from harmonrank_jax.evaluation import front

ONE, SEPARATE = "one network", "separate networks"
CLOSED_FORM, CEILING = "closed form", "ceiling"
# Name, and what `baselines.formula_scores` calls it.
_TUNED = {"tuned sum": "tuned_sum", "tuned product": "tuned_product"}
# Weights that the one network is asked for, for each network of the separate
# ones: asking costs nothing, where each of these costs a training.
_ASKED = 10
# The AUC of no information, where the dominated volume begins.
REFERENCE = 0.5
# Separate networks trained side by side: memory is that of so many.
_STACK_SIZE = 8


def simplex_weights(
    num_objectives: int, num_weights: int, *, seed: int
) -> np.ndarray:
  """`[K, M]` weights that sum to 1, all over the simplex.

  First the middle, then every objective alone, halves of two objectives in a
  random order, and uniform draws for the rest.

  Args:
    num_objectives: M, at least 2.
    num_weights: K, more than M.
    seed: of order and draws.
  """
  rng = np.random.default_rng(seed)
  alone = np.eye(num_objectives)
  # Halves of two objectives are the middle if there are no others.
  pairs = np.triu_indices(num_objectives, 1 if num_objectives > 2 else 2)
  halves = rng.permutation(0.5 * (alone[pairs[0]] + alone[pairs[1]]))
  draws = rng.dirichlet(np.ones(num_objectives), num_weights)
  weights = np.concatenate(
      [alone.mean(axis=0, keepdims=True), alone, halves, draws])
  return weights[:num_weights].astype(np.float32)


class Family(NamedTuple):
  """A way to rank for any weights.

  Attributes:
    scores: `[K, N]` of the test rows at each vector of weights.
    terms: `[N, M]`, of which the score is the sum by the weights; None where
      it is none.
    seconds: that training took; None where there is none.
  """

  scores: np.ndarray
  terms: np.ndarray | None
  seconds: float | None


class Tradeoff(NamedTuple):
  """F families at K vectors of weights for M objectives; errors by bootstrap.

  Attributes:
    names: of the objectives.
    weights: `[K, M]`; the first are equal.
    families: names.
    auc: `[F, K, M]` on test rows.
    auc_error: `[F, K, M]` standard error.
    volume: `[F, 3]` dominated share of the cube from `REFERENCE` to 1, and
      the ends of its 95 % interval.
    ratio: `[F, 3]` of the volume to that of separate networks, paired.
    num_asked: at how many vectors of weights the one network is asked, too.
    asked_volume: `[3]` of its front there.
    asked_ratio: `[3]`.
    value: `[F]` mean of `sum_m w_m AUC_m` over the weights.
    lead: `[F, 3]` what the value is ahead of that of separate networks, paired.
    seconds: by family, where it is trained.
    num_rows: of the test.
    clusters: "users" or "rows", what was resampled.
    by_truth: the same by the probabilities that labels are drawn with, where
      they are known: without the chance of few positives.
  """

  names: tuple[str, ...]
  weights: np.ndarray
  families: tuple[str, ...]
  auc: np.ndarray
  auc_error: np.ndarray
  volume: np.ndarray
  ratio: np.ndarray
  num_asked: int
  asked_volume: np.ndarray
  asked_ratio: np.ndarray
  value: np.ndarray
  lead: np.ndarray
  seconds: dict[str, float]
  num_rows: int
  clusters: str
  by_truth: "Tradeoff | None" = None


class Trainer:
  """Trains the families; a stack that is in the workdir is taken from there."""

  def __init__(
      self, workdir: pathlib.Path, inputs: inputs_lib.Inputs,
      test: features_lib.Batch, *, learning_rate: float, seed: int,
  ):
    """Prepares.

    Args:
      workdir: where stacks are saved.
      inputs: rows and model, of the aligned head.
      test: held-out rows.
      learning_rate: of all networks.
      seed: of all networks, and of what is tuned.
    """
    self._workdir, self._inputs, self._test = workdir, inputs, test
    self._learning_rate, self._seed = learning_rate, seed
    self._platt = jax.jit(calibration.fit_platt)(
        inputs.sample.scores, inputs.sample.labels,
        where=inputs.sample.has_score)
    self._training = stacks.Training(
        "soft_auc", batch_size=inputs.batch_size, num_steps=inputs.num_steps)

  def families(
      self, weights: np.ndarray, truth: np.ndarray | None
  ) -> dict[str, Family]:
    """Every family.

    Args:
      weights: `[K, M]`, the first equal where they are not 0.
      truth: `[N, M]` true probabilities of the test rows, if they are known.

    Raises:
      UserError: if a training diverges, or what is in the workdir is broken.
    """
    # As in other trainings, weights are 1 if they are equal.
    weights = weights * np.count_nonzero(weights[0])
    result = {ONE: self._one_network(weights),
              SEPARATE: self._separate_networks(weights)}
    alone = jnp.eye(weights.shape[1])
    # The formulas are linear in the weights.
    result[CLOSED_FORM] = _linear(weights, jax.vmap(
        lambda each: calibration.platt_score(
            self._platt, jnp.asarray(self._test.scores), each,
            where=jnp.asarray(self._test.has_score)))(alone), None)
    result |= self._tuned(weights)
    if truth is not None:
      result[CEILING] = _linear(weights, jax.vmap(
          lambda each: calibration.closed_form_score(
              jnp.asarray(truth), self._platt.base_rate, each))(alone), None)
    return result

  def _one_network(self, weights: np.ndarray) -> Family:
    """Trained at equal weights, those of objectives that are swept."""
    ranker = self._inputs.model.ranker
    size = weights.shape[1]
    stack = self._fit("one_network", ranker, weights[:1])
    copies = jax.tree.map(
        lambda x: jnp.repeat(jnp.asarray(x), size, axis=0), stack.params)
    # The score is linear in the weights: asked for each objective alone.
    terms = stacks.score(
        ranker, copies, np.eye(size, dtype=np.float32), self._test)
    return _linear(weights, terms, stack.seconds)

  def _separate_networks(self, weights: np.ndarray) -> Family:
    model = self._inputs.model
    ranker = model._replace(config=dataclasses.replace(
        model.config, head="score")).ranker
    scores, seconds = [], 0.0
    # Of like sizes: each is a compile.
    parts = np.array_split(weights, -(-len(weights) // _STACK_SIZE))
    for number, part in enumerate(parts):
      stack = self._fit(f"separate_networks_{number}", ranker, part)
      scores.append(stacks.score(ranker, stack.params, part, self._test))
      seconds += stack.seconds
    return Family(np.concatenate(scores), None, seconds)

  def _fit(
      self, name: str, ranker: ranker_lib.Ranker, weights: np.ndarray
  ) -> stacks.Stack:
    """A stack with a member for each row of weights."""
    inputs = self._inputs
    count = len(weights)
    members = stacks.Members(
        np.full(count, self._seed),
        np.full(count, self._learning_rate, np.float32), weights)
    few = jax.tree.map(lambda x: x[:2], ranker_lib.rows_of(inputs.sample))
    like = jax.eval_shape(
        lambda: ranker.init(jax.random.key(0), few, self._platt))
    paths, structure = jax.tree.flatten_with_path(like)
    keys = [jax.tree_util.keystr(path) for path, _ in paths]

    def train():
      print(f"{name}: training {count} for {inputs.num_steps:,} steps",
            flush=True)
      stack = stacks.fit(
          ranker, self._training, members, inputs.sample, inputs.validation,
          self._platt)
      if not np.isfinite(stack.value).all():
        raise errors.UserError(
            f"{name} diverges at --learning_rate={self._learning_rate:g}; "
            "name a smaller one.")
      leaves = map(np.asarray, jax.tree.leaves(stack.params))
      return {**dict(zip(keys, leaves, strict=True)), "value": stack.value,
              "step": stack.step, "seconds": np.float64(stack.seconds)}

    content = self._kept(name, train)
    return stacks.Stack(
        jax.tree.unflatten(structure, [content[key] for key in keys]),
        content["value"], content["step"], float(content["seconds"]))

  def _tuned(self, weights: np.ndarray) -> dict[str, Family]:
    """Weighted sums and products, tuned for each row of weights."""
    inputs = self._inputs

    def tune():
      print(f"tuned: tuning at {len(weights)} weights", flush=True)
      each = [baselines.formula_scores(
          self._platt, row, inputs.sample, inputs.validation, self._test,
          seed=self._seed) for row in weights]
      return {name: np.stack([scores[name] for scores in each])
              for name in _TUNED.values()}

    content = self._kept("tuned", tune)
    return {name: Family(content[key], None, None)
            for name, key in _TUNED.items()}

  def _kept(
      self, name: str, make: Callable[[], dict[str, Any]]
  ) -> dict[str, Any]:
    """Arrays that were made before, or are made now and saved."""
    path = self._workdir / f"{name}.npz"
    if path.exists():
      try:
        with open(path, "rb") as file, np.load(file) as arrays:
          content = dict(arrays)
      except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise errors.UserError(
            f"{path} is broken; without it, it is made again.") from None
      print(f"{name}: there already", flush=True)
      return content
    content = make()
    with files.atomic(path) as temporary, open(temporary, "wb") as written:
      np.savez(written, **content)
    return content


def measure(
    families: dict[str, Family],
    names: tuple[str, ...],
    weights: np.ndarray,
    labels: np.ndarray,
    users: np.ndarray | None,
    *,
    truth: np.ndarray | None = None,
    seed: int,
) -> Tradeoff:
  """AUCs and volumes, bootstrapped over users.

  Args:
    families: by name, those of separate networks among them.
    names: of the M objectives.
    weights: `[K, M]`.
    labels: `[N, M]`, each objective of more than one class.
    users: `[N]` integers, or None to resample rows.
    truth: `[N, M]` probabilities that labels are drawn with, if known.
    seed: of the resamples.
  """
  found = _measure(families, names, weights, labels, users, seed)
  if truth is None:
    return found
  return found._replace(by_truth=_measure(
      families, names, weights, truth, users, seed, are_probabilities=True))


def _measure(
    families: dict[str, Family], names: tuple[str, ...], weights: np.ndarray,
    labels: np.ndarray, users: np.ndarray | None, seed: int, *,
    are_probabilities: bool = False,
) -> Tradeoff:
  terms = families[ONE].terms
  assert terms is not None  # Its score is linear in the weights.
  size = weights.shape[1]
  asked = simplex_weights(size, _ASKED * len(weights), seed=seed) @ terms.T
  scores = np.concatenate([
      *(np.asarray(family.scores, np.float32) for family in families.values()),
      asked])
  shape = (len(families), *weights.shape)
  auc, replicates = evaluation.bootstrap_auc(
      [evaluation.Part(scores, labels, users)], seed=seed,
      are_probabilities=are_probabilities)
  # A resample may lack the few positives of an objective.
  replicates = replicates[~np.isnan(replicates).any(axis=(1, 2))]
  points = np.concatenate([auc[None], replicates])
  every = points[:, :-len(asked)].reshape(-1, *shape)
  auc = every[0]
  # One box for all fronts.
  upper = jnp.asarray(points.max(axis=(0, 1)), jnp.float32)
  share = lambda points: np.asarray(jax.jit(front.hypervolume)(
      points.astype(np.float32), jnp.full(size, REFERENCE),
      upper=upper), np.float64) / (1 - REFERENCE) ** size
  volume = share(every)
  asked_volume = share(points[:, None, -len(asked):])
  value = (every * weights).sum(axis=-1).mean(axis=-1)
  rival = list(families).index(SEPARATE)
  lead = value - value[:, rival:rival + 1]
  # A product of sides varies by factors.
  with np.errstate(divide="ignore", invalid="ignore"):
    logs = np.log(volume)
    ratios = logs - logs[:, rival:rival + 1]
    asked_logs = np.log(asked_volume)
    asked_ratios = asked_logs - logs[:, rival:rival + 1]
  return Tradeoff(
      names, weights, tuple(families), auc, _spread(every),
      np.exp(_with_interval(logs)), np.exp(_with_interval(ratios)),
      len(asked), np.exp(_with_interval(asked_logs))[0],
      np.exp(_with_interval(asked_ratios))[0], value[0],
      _with_interval(lead),
      {name: family.seconds for name, family in families.items()
       if family.seconds is not None},
      len(labels), "rows" if users is None else "users")


def _spread(every: np.ndarray) -> np.ndarray:
  """Standard deviation over all but the first; NaN where one is undefined."""
  if len(every) < 3:
    return np.full(every.shape[1:], np.nan)
  known = np.isfinite(every).all(axis=0)
  return np.where(
      known, np.std(np.where(known, every, 0)[1:], axis=0, ddof=1), np.nan)


def _with_interval(every: np.ndarray) -> np.ndarray:
  """`[F, 3]`: the first of `[1 + R, F]`, with the ends of its interval."""
  margin = 1.96 * _spread(every)
  return np.stack([every[0], every[0] - margin, every[0] + margin], axis=1)


def summary(tradeoff: Tradeoff) -> dict[str, Any]:
  """JSON-able, NaN where undefined; intervals are of 95 %."""
  names = tradeoff.names
  by_objective = lambda values: dict(zip(names, values.tolist(), strict=True))

  with_interval = lambda row: dict(
      zip(("value", "low", "high"), row.tolist(), strict=True))
  by_truth = None
  if tradeoff.by_truth is not None:
    of_truth = summary(tradeoff.by_truth)
    by_truth = {name: of_truth[name] for name in ("families", "asked")}
    for family in by_truth["families"].values():
      del family["training_seconds"]  # Stands above.
  return {
      "objectives": list(names),
      "weights": [by_objective(row) for row in tradeoff.weights],
      "families": {name: {
          "hypervolume": with_interval(tradeoff.volume[f]),
          "ratio_to_separate": with_interval(tradeoff.ratio[f]),
          "weighted_auc": float(tradeoff.value[f]),
          "ahead_of_separate": with_interval(tradeoff.lead[f]),
          "training_seconds": tradeoff.seconds.get(name),
          "auc": [by_objective(row) for row in tradeoff.auc[f]]}
          for f, name in enumerate(tradeoff.families)},
      "asked": {"weights": tradeoff.num_asked,
                "hypervolume": with_interval(tradeoff.asked_volume),
                "ratio_to_separate": with_interval(tradeoff.asked_ratio)},
      "by_truth": by_truth, "reference": REFERENCE,
      "test_rows": tradeoff.num_rows, "resampled": tradeoff.clusters}


def verdict(tradeoff: Tradeoff) -> str:
  """What one network costs against separate ones, in a sentence or two."""
  one = tradeoff.families.index(ONE)
  seconds = tradeoff.seconds
  within = lambda low, high: f" (95 % interval {low} to {high})"

  def share(ratio: np.ndarray) -> str:
    if not np.isfinite(ratio[0]):
      return "an undefined part"
    bounds = within(*(f"{x:.1%}" for x in ratio[1:])) if np.isfinite(
        ratio[1]) else ""
    return f"{ratio[0]:.1%}{bounds}"

  def distance(lead: np.ndarray) -> str:
    if not np.isfinite(lead).all():
      return "what is undefined"
    return f"{lead[0]:+.4f}{within(*(f'{x:+.4f}' for x in lead[1:]))}"

  text = (f"The front of one network has {share(tradeoff.ratio[one])} of the "
          f"hypervolume of {len(tradeoff.weights)} separate networks; asked "
          f"for {tradeoff.num_asked} weights, which takes no training, "
          f"{share(tradeoff.asked_ratio)}. Its weighted AUC, the mean over "
          "all weights, differs from theirs by "
          f"{distance(tradeoff.lead[one])}. ")
  if truth := tradeoff.by_truth:
    text += (f"By the true probabilities its front has "
             f"{share(truth.ratio[one])}, asked for more weights "
             f"{share(truth.asked_ratio)}, and its weighted AUC differs by "
             f"{distance(truth.lead[one])}. ")
  return (f"{text}It trained {seconds[ONE]:.1f} s, they "
          f"{seconds[SEPARATE]:.1f} s.")


HEADER = ("hypervolume", "95 %", "ratio to separate", "95 %", "weighted AUC",
          "ahead of separate", "95 %", "training")


def figures(tradeoff: Tradeoff, f: int) -> list[str]:
  """The cells of a family below `HEADER`."""
  def cells(row: np.ndarray, signed: bool = False) -> list[str]:
    value, low, high = (console.number(x, signed=signed) for x in row)
    return [value, "-" if low == "-" else f"{low} to {high}"]

  seconds = tradeoff.seconds.get(tradeoff.families[f])
  is_rival = tradeoff.families[f] == SEPARATE
  compared = lambda *args: [""] * 2 if is_rival else cells(*args)
  return [*cells(tradeoff.volume[f]), *compared(tradeoff.ratio[f]),
          console.number(tradeoff.value[f]), *compared(tradeoff.lead[f], True),
          "-" if seconds is None else f"{seconds:.1f} s"]


def print_table(tradeoff: Tradeoff) -> None:
  """The last thing on the terminal: two tables that fit into 80 columns."""
  def show(title: str, header: Sequence[str], cells: list[list[str]]) -> None:
    console.show(title, ("", *header), (
        (family, *cells[f]) for f, family in enumerate(tradeoff.families)),
                 bold={0})

  each = [figures(tradeoff, f) for f in range(len(tradeoff.families))]
  # The lead stands in the verdict.
  show(f"{len(tradeoff.weights)} weights of {len(tradeoff.names)} objectives, "
       f"{tradeoff.num_rows:,} held-out rows", (*HEADER[:4], HEADER[-1]),
       [[*row[:4], row[-1]] for row in each])
  show("AUC at equal weights", tradeoff.names, [
      [console.number(value, 3) for value in auc[0]] for auc in tradeoff.auc])
  print("hypervolume: dominated share of the cube of AUCs from "
        f"{REFERENCE} to 1, by resampling {tradeoff.clusters}.\n"
        f"{verdict(tradeoff)}")


def _linear(
    weights: np.ndarray, terms: Any, seconds: float | None
) -> Family:
  """The family whose scores are sums of terms `[M, N]` by the weights."""
  terms = np.asarray(terms, np.float32)
  return Family(weights @ terms, terms.T, seconds)
