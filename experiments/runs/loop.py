"""The loop of every training: steps, evaluations, checkpoints, exact resume."""

from collections.abc import Callable
import pathlib
import time
from typing import Any
from typing import NamedTuple
from typing import Protocol

import jax
import numpy as np

from experiments.runs import checkpoints as checkpointing
from experiments.runs import errors
from experiments.runs import metrics as metric_writer
from experiments.runs import progress
from experiments.runs import workdir as workdir_lib

# Evaluations and logged steps of a run, not counting step 0.
_NUM_EVALUATIONS = 10
_NUM_LOGGED_STEPS = 100


class Batches(Protocol):
  """An iterator without end that can go on from where it stood."""

  def __next__(self) -> Any:
    """The batch of the next step."""

  @property
  def cursor(self) -> list[int]:
    """Where it stands, for the checkpoint."""


class NoBatches:
  """For a task that makes its own data."""

  cursor: list[int] = []  # noqa: RUF012, there is nowhere else to stand.

  def __next__(self) -> None:
    return None


class Task(Protocol):
  """What is trained: functions of a state, which is any tree of arrays."""

  def init(self) -> Any:
    """The state before the first step."""

  def batches(self, cursor: list[int] | None) -> Batches:
    """What is trained on, from a cursor on; from the beginning if None."""

  def update(self, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """The state after a step, and what was measured; both may be computing."""

  def evaluate(self, state: Any, step: int) -> tuple[Any, dict[str, Any]]:
    """The state (which may remember the best so far), and the measurements."""


# What to say of what was measured at a step, if anything.
Remark = Callable[[dict[str, Any]], str | None]


class State(NamedTuple):
  """What most tasks train, with the best on validation rows so far."""

  train: Any  # state of the training, with params
  best_params: Any
  best_value: np.float32
  best_step: np.int32


class Fitted(NamedTuple):
  """The end of a training."""

  state: Any
  # Rate of the steps that were timed, without evaluations and compilation.
  steps_per_second: float


def fit(
    task: Task, workdir: pathlib.Path, *, num_steps: int,
    examples_per_step: int, remark: Remark = lambda _: None,
) -> Fitted:
  """Trains to the end, from the newest whole checkpoint if there is one.

  A run that was killed and started again ends bit-identical to one that was
  not. On Ctrl-C or SIGTERM it saves and raises `StoppedError`. The first remark
  on what was measured at a step is a warning.
  """
  with progress.stop_on_signal() as signals:
    return _fit(
        task, workdir, signals, num_steps, examples_per_step, remark)


def _fit(
    task: Task, workdir: pathlib.Path, signals: list[int], num_steps: int,
    examples_per_step: int, remark: Remark,
) -> Fitted:
  """`fit`, with the signals that have come so far."""
  checkpoints = checkpointing.Checkpoints(workdir / "checkpoints")
  state = task.init()
  restored = checkpoints.restore(state)
  clock = _Clock()
  if restored is None:
    step = 0
    writer = metric_writer.MetricWriter(workdir, -1)
    batches = task.batches(None)
    state, measured = task.evaluate(state, 0)
    writer.write(0, measured)
    checkpoints.save(0, state, {"cursor": batches.cursor, **clock.notes})
  else:
    step, state, notes = restored
    batches = task.batches(notes["cursor"])
    clock = _Clock(notes["timed_steps"], notes["seconds"])
    writer = metric_writer.MetricWriter(workdir, step)
    print(f"resuming from step {step}", flush=True)
  bar = progress.Progress(num_steps, step, examples_per_step=examples_per_step)
  is_due = lambda count: (
      step % max(1, num_steps // count) == 0 or step == num_steps)
  line = None
  while step < num_steps and not signals:
    state, measured = task.update(state, next(batches))
    step += 1
    clock.tick(state)
    bar.update(step)
    if is_due(_NUM_LOGGED_STEPS):
      measured = _checked(measured, step)
      writer.write(step, {"train": measured})
      if line is None:
        line = remark(measured)
        if line:
          workdir_lib.say(workdir, [f"step {step}: {line}."])
    if is_due(_NUM_EVALUATIONS) or signals:
      clock.stop(state)
      if is_due(_NUM_EVALUATIONS):
        state, measured = task.evaluate(state, step)
        writer.write(step, measured)
      checkpoints.save(step, state, {"cursor": batches.cursor, **clock.notes})
  bar.close()
  writer.close()
  checkpoints.close()
  # One that came during the last save stops as well: all is saved.
  if signals:
    raise errors.StoppedError(signals[0], step)
  return Fitted(state, clock.rate)


class _Clock:
  """Times steps, but the first after a pause: it may compile."""

  def __init__(self, timed_steps: int = 0, seconds: float = 0.0):
    self._timed_steps, self._seconds = timed_steps, seconds
    self._began: float | None = None
    self._steps = 0

  def tick(self, state: Any) -> None:
    """A step was dispatched."""
    if self._began is None:
      jax.block_until_ready(state)
      self._began = time.perf_counter()
    else:
      self._steps += 1

  def stop(self, state: Any) -> None:
    """What follows is no training."""
    jax.block_until_ready(state)
    if self._began is not None:
      self._seconds += time.perf_counter() - self._began
    self._timed_steps += self._steps
    self._began, self._steps = None, 0

  @property
  def notes(self) -> dict[str, Any]:
    return {"timed_steps": self._timed_steps, "seconds": self._seconds}

  @property
  def rate(self) -> float:
    return self._timed_steps / max(self._seconds, 1e-9)


def _checked(measured: dict[str, Any], step: int) -> dict[str, Any]:
  measured = jax.device_get(measured)
  loss = float(measured["loss"])
  if not abs(loss) < float("inf"):
    raise errors.UserError(
        f"the loss is {loss} at step {step}; lower --learning_rate.")
  return measured
