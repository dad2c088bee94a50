"""The optimiser step of `train_auc`, beside the same step in PyTorch."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
import time
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing as timing_lib
from experiments.ranker import config as config_lib
from experiments.ranker import inputs as inputs_lib
from experiments.ranker import objectives
from experiments.ranker import task as auc_task
from experiments.runs import errors
from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import ranker as ranker_lib

SIZES: tuple[int, ...] = (4096, 16_384, 65_536, 262_144)
# The default training, with enough rows to draw larger batches from, and with
# so many steps that the learning rate does not reach 0 while it is timed.
TRAINED = config_lib.Config(num_exposures=50_000, num_steps=100_000)
EAGER, COMPILED = PEERS = ("torch, eager", "torch.compile")
# Differences by rounding; that of the gradient is a share of its norm.
_TOLERANCE = 1e-4
_TOLERANCES = {"logits": _TOLERANCE, "log_score": _TOLERANCE,
               "loss": _TOLERANCE, "gradient": 1e-3}

parse_size = timing_lib.parse_batch_size


def run(
    sizes: Sequence[int] | None = None, *, repeats: int, seed: int,
    workdir: pathlib.Path, config: config_lib.Config = TRAINED,
    forms: timing_lib.Forms | None = None,
) -> dict[str, Any]:
  """Times a step of every method at every batch size."""
  sizes = sorted(sizes or SIZES)
  config = dataclasses.replace(config, seed=seed)
  inputs = inputs_lib.read_inputs(config, workdir)
  training = begin(config, inputs)
  clock = timing_lib.Clock(repeats, seed)
  left_out: list[str] = []
  twins = agreement = None
  try:
    twins = Twins(config, inputs, training.platt)
  except ImportError as error:
    left_out.append(f"PyTorch is left out: {error}. Installed by "
                    "requirements-bench.txt, as it says there.")
  if twins:
    agreement = twins.differences(
        training.state.params, make_rows(inputs, sizes[0], seed), seed)
    check_agreement(agreement)
  measurements = []
  for size in sizes:
    began = time.perf_counter()
    rows = make_rows(inputs, size, seed)
    steps = {name: _step(training, rows, trace)
             for name, trace in (forms or timing_lib.forms()).items()}
    if twins:
      steps |= twins.steps(training.state.params, rows)
    steps = {name: step for name, step in steps.items()
             if clock.is_worth_it(name, size)}
    left_out += take_first_steps(steps)
    measurements += [
        {"batch_size": size, "method": name,
         **timing.rates(size, "examples"), **timing.to_json()}
        for name, timing in clock.interleaved(steps, size).items()]
    print(f"batch {size:,}: {len(steps)} methods, "
          f"{time.perf_counter() - began:.1f} s", flush=True)
  return {"measurements": measurements,
          "left_out": list(dict.fromkeys(left_out)), "agreement": agreement}


class Training(NamedTuple):
  """A training at its first step."""

  state: Any  # has the parameters
  update: Any  # jitted: (state, rows) to the next state and its measures
  platt: calibration.Calibration


def begin(config: config_lib.Config, inputs: inputs_lib.Inputs) -> Training:
  """The training of one network by `train_auc`, at its first step."""
  task = make_task(config, inputs)
  return Training(task.begin(jax.random.key(config.seed)), task.update_one,
                  task.platt)


def make_task(
    config: config_lib.Config, inputs: inputs_lib.Inputs
) -> auc_task.AucTask:
  """The training of all members by `train_auc`."""
  return auc_task.AucTask(auc_task.Recipe(**{
      field.name: getattr(config, field.name)
      for field in dataclasses.fields(auc_task.Recipe)}), inputs)


def make_rows(
    inputs: inputs_lib.Inputs, size: int, seed: int
) -> ranker_lib.Rows:
  """Draws training rows with replacement; noise makes all scores differ."""
  rng = np.random.default_rng(seed)
  chosen = rng.integers(0, len(inputs.sample.labels), size)
  batch = type(inputs.sample)(*(x[chosen] for x in inputs.sample))
  odds = np.log(batch.scores) - np.log1p(-batch.scores)
  odds += 0.1 * rng.standard_normal(odds.shape, np.float32)
  return ranker_lib.rows_of(batch._replace(scores=1 / (1 + np.exp(-odds))))


def _step(
    training: Training, rows: ranker_lib.Rows, trace: Callable[[], Any]
) -> Callable[[], Any]:
  """The step that `train_auc` takes, on the same rows again and again."""
  state = training.state
  with trace():
    executable = training.update.lower(state, rows).compile()

  def step():
    nonlocal state
    state, measured = executable(state, rows)
    jax.block_until_ready(state)
    return measured["loss"]

  return step


def take_first_steps(steps: dict[str, Callable[[], Any]]) -> list[str]:
  """Takes the first, same step of each; removes those that do not compile."""
  left_out = []
  ours: float | None = None
  for name, step in list(steps.items()):
    try:
      loss = float(step())
    except RuntimeError as error:
      if name != COMPILED:
        raise
      # There is no C++ compiler, or the compiler rejects the network.
      left_out.append(f"{name} is left out: {str(error).splitlines()[0]}")
      del steps[name]
      continue
    ours = loss if ours is None else ours
    if not abs(loss - ours) <= _TOLERANCE:
      raise errors.UserError(
          f"the loss of {name} is {loss}, that of harmonrank {ours}: not the "
          "same work, and so not compared.")
  return left_out


def check_agreement(differences: Mapping[str, float]) -> None:
  """Raises UserError if the twins differ by more than rounding does."""
  for name, difference in differences.items():
    if not difference <= _TOLERANCES[name]:
      raise errors.UserError(
          f"the {name} of the network in PyTorch is off by {difference}: "
          "not the same work, and so not compared.")


class Twins:
  """The same training here and in PyTorch; ImportError where it cannot be."""

  def __init__(
      self, config: config_lib.Config, inputs: inputs_lib.Inputs,
      platt: calibration.Calibration,
  ):
    if jax.default_backend() != "cpu":
      raise ImportError("the comparison is made on CPU cores only")
    import torch

    from experiments.benchmarks import torch_twin

    torch.set_num_threads(timing_lib.num_cores())
    self._torch_twin = torch_twin
    self._ranker = inputs.model.ranker
    self._weights = inputs.objective_weights
    objective = objectives.objective_of(
        inputs.model.config.head, config.loss, config.relative_strength)
    self._loss_and_gradient = jax.jit(jax.value_and_grad(
        lambda params, rows: objective(
            self._ranker, params, rows, platt=platt,
            objective_weights=jnp.asarray(self._weights)), has_aux=True))
    self._training = torch_twin.TwinTraining(
        torch.from_numpy(np.array(self._weights)),
        torch.from_numpy(np.array(platt.unit)),
        config.relative_strength, config.learning_rate, inputs.num_steps)

  def steps(
      self, params: dict[str, Any], rows: ranker_lib.Rows
  ) -> dict[str, Callable[[], Any]]:
    """Steps of PyTorch that begin at these parameters."""
    return {name: self._torch_twin.make_step(
        self._twin(params), self._torch_twin.rows_of(rows), self._training,
        compile_network=name == COMPILED) for name in PEERS}

  def differences(
      self, params: dict[str, Any], rows: ranker_lib.Rows, seed: int
  ) -> dict[str, float]:
    """Differences of both networks near parameters that are nowhere 0."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: x + 0.1 * np.abs(rng.standard_normal(x.shape, np.float32)),
        params)
    twin, twin_rows = self._twin(params), self._torch_twin.rows_of(rows)
    outputs = twin(twin_rows, self._training.objective_weights)
    twin_loss = self._torch_twin.loss_of(
        outputs, twin_rows.labels, self._training)
    twin_loss.backward()
    (loss, _), gradients = self._loss_and_gradient(params, rows)
    score = self._ranker.score(params, rows, jnp.asarray(self._weights))
    largest = lambda x, y: float(np.max(np.abs(x - y.detach().numpy())))
    return {
        "logits": largest(
            self._ranker.objective_logits(params, rows), outputs.logits),
        "log_score": largest(jnp.log(score), outputs.log_score),
        "loss": largest(loss, twin_loss),
        "gradient": self._gradient_difference(gradients, twin)}

  def _gradient_difference(self, gradients: dict[str, Any], twin: Any) -> float:
    theirs = {name: 0 if x.grad is None else x.grad.numpy()
              for name, x in twin.named_parameters()}
    # Constants of the network are no parameters in PyTorch.
    ours = {name: x.numpy() for name, x in
            self._torch_twin.state_of(gradients).items() if name in theirs}
    norm = lambda arrays: np.sqrt(sum(np.sum(x**2) for x in arrays))
    return float(norm(ours[name] - theirs[name] for name in ours)
                 / norm(ours.values()))

  def _twin(self, params: dict[str, Any]) -> Any:
    return self._torch_twin.Twin(
        self._ranker.config, self._ranker.vocabulary_sizes, params)


def tables(content: dict[str, Any]) -> list[timing_lib.Table]:
  """What was measured as tables; the first is the summary."""
  measured = content["measurements"]
  sizes = sorted({m["batch_size"] for m in measured})
  header = ["", *(f"batch {size:,}" for size in sizes)]
  rows = lambda cell: timing_lib.rows(
      measured, sizes, lambda m: m["batch_size"], cell)
  note = ("Medians of the samples. A step: forward, backward and optimiser, "
          "rows at hand.")
  if content["agreement"]:
    note += (" The networks agree: logits to "
             f"{timing_lib.number(content['agreement']['logits'])}, the loss "
             f"to {timing_lib.number(content['agreement']['loss'])}.")
  return [
      timing_lib.Table(
          "Training, examples per second", header,
          rows(lambda m: f"{m['examples_per_second']:,.0f}"), note),
      timing_lib.Table(
          "Milliseconds of a step, with quartiles", header, rows(
              lambda m: f"{timing_lib.milliseconds(m)} "
                        f"{timing_lib.quartiles(m)}"))]
