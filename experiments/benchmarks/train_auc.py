"""The optimiser step of `train_auc`, beside the same step in PyTorch."""

from collections.abc import Callable
from collections.abc import Sequence
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing as benchmarking
from experiments.ranker import inputs as inputs_lib
from experiments.ranker import objectives
from experiments.ranker import task as auc_task
from experiments.runs import errors
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.ensemble import training

SIZES: tuple[int, ...] = (4096, 16_384, 65_536, 262_144)
# Until the learning rate is 0: not while it is measured.
NUM_STEPS = 100_000
EAGER, COMPILED = PEERS = ("torch, eager", "torch.compile")
# What rounding may make of the same work; of gradients, a share of the norm.
_TOLERANCE = 1e-4
_TOLERANCES = {"logits": _TOLERANCE, "log_score": _TOLERANCE,
               "loss": _TOLERANCE, "gradient": 1e-3}


def run(
    sizes: Sequence[int], repeats: int, seed: int,
    inputs: inputs_lib.Inputs, recipe: auc_task.Recipe,
) -> dict[str, Any]:
  """Times a step of every method at every batch size.

  Returns:
    What goes into `benchmark.json`: `measurements`, `left_out` in words, and
    `agreement`, how far apart the twins are, or None.

  Raises:
    UserError: if the twins do not compute the same.
  """
  task = auc_task.AucTask(recipe, inputs)
  state = task.begin(jax.random.key(seed))
  clock = benchmarking.Clock(repeats, seed)
  left_out: list[str] = []
  twins = agreement = None
  try:
    twins = Twins(task, inputs, recipe)
  except ImportError as error:
    left_out.append(f"PyTorch is left out: {error}. Installed by "
                    "requirements-bench.txt, as it says there.")
  if twins:
    agreement = twins.compare(
        state.params, make_rows(inputs, min(sizes), seed), seed)
  measurements = []
  for size in sorted(sizes):
    began = time.perf_counter()
    rows = make_rows(inputs, size, seed)
    steps = {name: _step(task, state, rows, trace)
             for name, trace in benchmarking.forms().items()}
    if twins:
      steps |= twins.steps(state.params, rows)
    steps = {name: step for name, step in steps.items()
             if clock.is_worth_it(name, size)}
    _check_losses(steps, left_out)
    for name, timing in clock.interleaved(steps, size).items():
      low, high = timing.quartiles
      measurements.append({
          "batch_size": size, "method": name,
          "examples_per_second": size / timing.median,
          "quartiles_examples_per_second": [size / high, size / low],
          **timing.to_json()})
    print(f"batch {size:,}: {len(steps)} methods, "
          f"{time.perf_counter() - began:.1f} s", flush=True)
  return {"measurements": measurements, "left_out": left_out,
          "agreement": agreement}


def make_rows(
    inputs: inputs_lib.Inputs, size: int, seed: int
) -> ranker_lib.Rows:
  """Training rows drawn again and again, no two with the same scores."""
  rng = np.random.default_rng(seed)
  chosen = rng.integers(0, len(inputs.sample.labels), size)
  batch = type(inputs.sample)(*(x[chosen] for x in inputs.sample))
  odds = np.log(batch.scores) - np.log1p(-batch.scores)
  odds += 0.1 * rng.standard_normal(odds.shape, np.float32)
  return ranker_lib.rows_of(batch._replace(scores=1 / (1 + np.exp(-odds))))


def _step(
    task: auc_task.AucTask, state: training.TrainState,
    rows: ranker_lib.Rows, trace: Callable[[], Any],
) -> Callable[[], Any]:
  """The step that `train_auc` takes, on the same rows again and again."""
  with trace():
    executable = task.update_one.lower(state, rows).compile()

  def step():
    nonlocal state
    state, measured = executable(state, rows)
    jax.block_until_ready(state)
    return measured["loss"]

  return step


def _check_losses(
    steps: dict[str, Callable[[], Any]], left_out: list[str]
) -> None:
  """Takes the first step of each, from the same parameters on the same rows.

  Who cannot take it leaves the steps.
  """
  ours: float | None = None
  for name, step in list(steps.items()):
    try:
      loss = float(step())
    except RuntimeError as error:
      if name != COMPILED:
        raise
      # There is no compiler, or it does not compile that.
      line = f"{name} is left out: {str(error).splitlines()[0]}"
      if line not in left_out:
        left_out.append(line)
      del steps[name]
      continue
    ours = loss if ours is None else ours
    if not abs(loss - ours) <= _TOLERANCE:
      raise errors.UserError(
          f"the loss of {name} is {loss}, that of harmonrank {ours}: not the "
          "same work, and so not compared.")


class Twins:
  """The same training on both sides."""

  def __init__(
      self, task: auc_task.AucTask, inputs: inputs_lib.Inputs,
      recipe: auc_task.Recipe,
  ):
    """Makes PyTorch ready.

    Raises:
      ImportError: if it or torchsort is not there, or JAX uses other cores.
    """
    if jax.default_backend() != "cpu":
      raise ImportError("the comparison is made on CPU cores only")
    import torch

    from experiments.benchmarks import torch_twin

    torch.set_num_threads(benchmarking.num_cores())
    self._torch_twin = torch_twin
    self._ranker = inputs.model.ranker
    self._weights = inputs.objective_weights
    objective = objectives.objective_of(
        inputs.model.config.head, recipe.loss, recipe.relative_strength)
    self._loss_and_gradient = jax.jit(jax.value_and_grad(
        lambda params, rows: objective(
            self._ranker, params, rows, platt=task.platt,
            objective_weights=jnp.asarray(self._weights)), has_aux=True))
    self._recipe = torch_twin.Recipe(
        torch.from_numpy(np.array(self._weights)),
        torch.from_numpy(np.array(task.platt.unit)),
        recipe.relative_strength, recipe.learning_rate, inputs.num_steps)

  def steps(
      self, params: dict[str, Any], rows: ranker_lib.Rows
  ) -> dict[str, Callable[[], Any]]:
    """Steps of PyTorch from these parameters on."""
    return {name: self._torch_twin.make_step(
        self._twin(params), self._torch_twin.rows_of(rows), self._recipe,
        compile_network=name == COMPILED) for name in PEERS}

  def compare(
      self, params: dict[str, Any], rows: ranker_lib.Rows, seed: int
  ) -> dict[str, float]:
    """How far apart the two are near parameters, where none is 0.

    Returns:
      The largest differences of `logits`, `log_score` and `loss`, and that of
      the `gradient`, of its norm.

    Raises:
      UserError: if one is larger than rounding makes it.
    """
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: x + 0.1 * np.abs(rng.standard_normal(x.shape, np.float32)),
        params)
    twin, there = self._twin(params), self._torch_twin.rows_of(rows)
    outputs = twin(there, self._recipe.objective_weights)
    their_loss = self._torch_twin.loss_of(outputs, there.labels, self._recipe)
    their_loss.backward()
    (loss, _), gradients = self._loss_and_gradient(params, rows)
    score = self._ranker.score(params, rows, jnp.asarray(self._weights))
    theirs = {name: 0 if x.grad is None else x.grad.numpy()
              for name, x in twin.named_parameters()}
    # What is data and not trained is no parameter over there.
    ours = {name: x.numpy() for name, x in
            self._torch_twin.state_of(gradients).items() if name in theirs}
    norm = lambda arrays: np.sqrt(sum(np.sum(x**2) for x in arrays))
    largest = lambda x, y: float(np.max(np.abs(x - y.detach().numpy())))
    found = {
        "logits": largest(
            self._ranker.objective_logits(params, rows), outputs.logits),
        "log_score": largest(jnp.log(score), outputs.log_score),
        "loss": largest(loss, their_loss),
        "gradient": float(norm(ours[name] - theirs[name] for name in ours)
                          / norm(ours.values()))}
    for name, difference in found.items():
      if not difference <= _TOLERANCES[name]:
        raise errors.UserError(
            f"the {name} of the network in PyTorch is off by {difference}: "
            "not the same work, and so not compared.")
    return found

  def _twin(self, params: dict[str, Any]) -> Any:
    return self._torch_twin.Twin(
        self._ranker.config, self._ranker.vocabulary_sizes, params)


def tables(content: dict[str, Any]) -> list[benchmarking.Table]:
  """What was measured as tables, the one to look at first."""
  found = {(m["method"], m["batch_size"]): m for m in content["measurements"]}
  methods = list(dict.fromkeys(method for method, _ in found))
  sizes = sorted({size for _, size in found})
  header = ["", *(f"batch {size:,}" for size in sizes)]

  def rows(cell):
    return [[method, *(cell(found[method, size])
                       if (method, size) in found else "-" for size in sizes)]
            for method in methods]

  def milliseconds(m):
    low, high = (benchmarking.number(1e3 * x) for x in m["quartiles_seconds"])
    return (f"{benchmarking.number(1e3 * m['median_seconds'])} "
            f"[{low}, {high}]")

  note = ("Medians of the samples. A step: forward, backward and optimiser, "
          "rows at hand.")
  if content["agreement"]:
    note += (" The networks agree: logits to "
             f"{benchmarking.number(content['agreement']['logits'])}, the loss "
             f"to {benchmarking.number(content['agreement']['loss'])}.")
  return [
      benchmarking.Table(
          "Training, examples per second", header,
          rows(lambda m: f"{m['examples_per_second']:,.0f}"), note),
      benchmarking.Table(
          "Milliseconds of a step, with quartiles", header,
          rows(milliseconds))]
