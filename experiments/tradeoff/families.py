"""The families of rankers that are compared: networks, formulas, tuned sums.

At every vector of weights a family does its best for `sum_m w_m AUC_m`.
"""

from collections.abc import Callable
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
from experiments.runs import errors
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import files
from harmonrank_jax.ensemble import baselines
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import ranker as ranker_lib

ONE, SEPARATE = "one network", "separate networks"
CLOSED_FORM, CEILING = "closed form", "ceiling"
# The name of a family, and its key in `baselines.formula_scores`.
_TUNED = {"tuned sum": "tuned_sum", "tuned product": "tuned_product"}
# Separate networks trained side by side: memory grows with this number.
_STACK_SIZE = 8


class Family(NamedTuple):
  """A way to rank for any weights."""

  scores: np.ndarray  # [K, N] of the test rows at each vector of weights
  terms: np.ndarray | None  # [N, M], if the score is `terms @ weights`
  seconds: float | None  # of training, where something is trained


class Trainer:
  """Trains the families; what the workdir holds already is read from there."""

  def __init__(
      self, workdir: pathlib.Path, inputs: inputs_lib.Inputs,
      test: features_lib.Batch, *, learning_rate: float, seed: int,
      fit: Callable[..., stacks.Stack] = stacks.fit,
      score: Callable[..., np.ndarray] = stacks.score,
      tune: Callable[..., dict[str, np.ndarray]] = baselines.formula_scores,
  ):
    self._workdir, self._inputs, self._test = workdir, inputs, test
    self._learning_rate, self._seed = learning_rate, seed
    self._fit, self._score, self._tune = fit, score, tune
    self._platt = jax.jit(calibration.fit_platt)(
        inputs.sample.scores, inputs.sample.labels,
        where=inputs.sample.has_score)
    self._training = stacks.Training(
        "soft_auc", batch_size=inputs.batch_size, num_steps=inputs.num_steps)

  def families(
      self, weights: np.ndarray, truth: np.ndarray | None
  ) -> dict[str, Family]:
    """Every family by its name; nonzero weights of the first row are equal."""
    # Equal weights are 1 each, as in a training by train_auc.
    weights = weights * np.count_nonzero(weights[0])
    result = {
        ONE: self._one_network(weights),
        SEPARATE: self._separate_networks(weights),
        CLOSED_FORM: _formula(weights, lambda each: calibration.platt_score(
            self._platt, jnp.asarray(self._test.scores), each,
            where=jnp.asarray(self._test.has_score))),
        **self._tuned(weights)}
    if truth is not None:
      result[CEILING] = _formula(
          weights, lambda each: calibration.closed_form_score(
              jnp.asarray(truth), self._platt.base_rate, each))
    return result

  def _one_network(self, weights: np.ndarray) -> Family:
    """One network, trained at equal weights of the swept objectives."""
    ranker = self._inputs.model.ranker
    size = weights.shape[1]
    stack = self._stack("one_network", ranker, weights[:1])
    copies = jax.tree.map(
        lambda x: jnp.repeat(jnp.asarray(x), size, axis=0), stack.params)
    # The score is linear in the weights: each objective alone is one term.
    terms = self._score(
        ranker, copies, np.eye(size, dtype=np.float32), self._test)
    return _linear(weights, terms, stack.seconds)

  def _separate_networks(self, weights: np.ndarray) -> Family:
    """A network for each row of weights."""
    model = self._inputs.model
    ranker = dataclasses.replace(model, config=dataclasses.replace(
        model.config, head="score")).ranker
    scores, seconds = [], 0.0
    # Parts of few different sizes: each size is compiled.
    parts = np.array_split(weights, -(-len(weights) // _STACK_SIZE))
    for number, part in enumerate(parts):
      stack = self._stack(f"separate_networks_{number}", ranker, part)
      scores.append(self._score(ranker, stack.params, part, self._test))
      seconds += stack.seconds
    return Family(np.concatenate(scores), None, seconds)

  def _tuned(self, weights: np.ndarray) -> dict[str, Family]:
    """Weighted sums and products, tuned for each row of weights."""
    inputs = self._inputs

    def tune():
      print(f"tuned: tuning at {len(weights)} weights", flush=True)
      each = [self._tune(
          self._platt, row, inputs.sample, inputs.validation, self._test,
          seed=self._seed) for row in weights]
      return {key: np.stack([scores[key] for scores in each])
              for key in _TUNED.values()}

    content = _saved(self._workdir / "tuned.npz", tune)
    return {name: Family(content[key], None, None)
            for name, key in _TUNED.items()}

  def _stack(
      self, name: str, ranker: ranker_lib.Ranker, weights: np.ndarray
  ) -> stacks.Stack:
    """A stack with a member for each row of weights, trained or read."""
    few = jax.tree.map(lambda x: x[:2], ranker_lib.rows_of(self._inputs.sample))
    like = jax.eval_shape(
        lambda: ranker.init(jax.random.key(0), few, self._platt))
    content = _saved(self._workdir / f"{name}.npz",
                     lambda: self._trained(name, ranker, weights))
    params = jax.tree.map_with_path(
        lambda path, _: content[jax.tree_util.keystr(path)], like)
    return stacks.Stack(params, content["value"], content["step"],
                        float(content["seconds"]))

  def _trained(
      self, name: str, ranker: ranker_lib.Ranker, weights: np.ndarray
  ) -> dict[str, Any]:
    """The arrays of a stack by name."""
    inputs, count = self._inputs, len(weights)
    print(f"{name}: training {count} for {inputs.num_steps:,} steps",
          flush=True)
    members = stacks.Members(
        np.full(count, self._seed),
        np.full(count, self._learning_rate, np.float32), weights)
    stack = self._fit(
        ranker, self._training, members, inputs.sample, inputs.validation,
        self._platt)
    if stack.remark:
      errors.warn(f"{name}: {stack.remark}.")
    if not np.isfinite(stack.value).all():
      raise errors.UserError(
          f"{name} diverges at --learning_rate={self._learning_rate:g}; "
          "name a smaller one.")
    params = jax.tree.leaves_with_path(stack.params)
    return {**{jax.tree_util.keystr(path): np.asarray(x) for path, x in params},
            "value": stack.value, "step": stack.step,
            "seconds": np.float64(stack.seconds)}


def _formula(
    weights: np.ndarray, score_fn: Callable[[jax.Array], jax.Array]
) -> Family:
  """A formula that is linear in the weights."""
  return _linear(weights, jax.vmap(score_fn)(jnp.eye(weights.shape[1])))


def _linear(
    weights: np.ndarray, terms: Any, seconds: float | None = None
) -> Family:
  """The family whose scores are sums of terms `[M, N]` by the weights."""
  terms = np.asarray(terms, np.float32)
  return Family(weights @ terms, terms.T, seconds)


def _saved(
    path: pathlib.Path, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
  """The arrays of a file; where there is none, they are made and saved."""
  if path.exists():
    try:
      with open(path, "rb") as file, np.load(file) as arrays:
        content = dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
      raise errors.UserError(
          f"{path} is broken; without it, it is made again.") from None
    print(f"{path.stem}: there already", flush=True)
    return content
  content = make()
  with files.atomic(path) as temporary, open(temporary, "wb") as written:
    np.savez(written, **content)
  return content
