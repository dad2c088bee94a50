"""The training loop: whatever stops it, the end is the same."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runs import checkpoints as checkpointing
from experiments.runs import errors
from experiments.runs import loop

STEPS = 40


class Killed(BaseException):
  """What a SIGKILL would do to the process, as far as a test can."""


class Places:
  """Counts from 1 on."""

  def __init__(self, place):
    self._place = place

  def __next__(self):
    self._place += 1
    return self._place

  @property
  def cursor(self):
    return [self._place]


class Walk:
  """A state that depends on every step, every batch and every evaluation."""

  def __init__(self, *, kill_at=None, signal_at=None, bad_at=None):
    self.kill_at, self.signal_at, self.bad_at = kill_at, signal_at, bad_at
    self._place = 0

  def init(self):
    return {"x": jnp.zeros(3), "key": jax.random.key(7),
            "best": np.float32(-1), "seen": np.int32(0)}

  def batches(self, cursor):
    return Places(*(cursor or [0]))

  def update(self, state, batch):
    self._place = batch
    if self.kill_at == self._place:
      raise Killed
    self._signal()
    draw = jax.random.normal(
        jax.random.fold_in(state["key"], self._place), (3,))
    x = 0.9 * state["x"] + draw
    loss = jnp.nan if self._place == self.bad_at else x.sum()
    return {**state, "x": x}, {"loss": loss, "part": {"first": x[0]}}

  def _signal(self):
    if self.signal_at == self._place:
      self.signal_at = None  # A second one is not caught.
      os.kill(os.getpid(), signal.SIGTERM)

  def evaluate(self, state, step):
    self._signal()
    best = np.float32(max(state["best"], state["x"].max()))
    state = {**state, "best": best, "seen": np.int32(state["seen"] + 1)}
    return state, {"validation": {"best": best}}


def test_the_first_remark_on_a_step_is_a_warning(tmp_path, capsys):
  seen = []

  def remark(measured):
    seen.append(float(measured["loss"]))
    return "the third" if len(seen) >= 3 else None

  loop.fit(Walk(), tmp_path, num_steps=STEPS, examples_per_step=2,
           remark=remark)
  assert len(seen) == 3
  assert capsys.readouterr().err == "warning: step 3: the third.\n"


def fit(task, workdir):
  return loop.fit(task, workdir, num_steps=STEPS, examples_per_step=2)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  return fit(Walk(), workdir).state, (workdir / "metrics.jsonl").read_bytes()


def assert_same_end(state, workdir, uninterrupted):
  expected, metrics = uninterrupted
  for name in ("x", "best", "seen"):
    np.testing.assert_array_equal(state[name], expected[name])
  assert (workdir / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize("place", [1, 5, 22])
def test_a_killed_run_ends_like_one_that_was_not(
    tmp_path, uninterrupted, place):
  with pytest.raises(Killed):
    fit(Walk(kill_at=place), tmp_path)
  assert_same_end(fit(Walk(), tmp_path).state, tmp_path, uninterrupted)


def test_it_may_be_killed_again_and_again(tmp_path, uninterrupted):
  for place in (3, 8):
    with pytest.raises(Killed):
      fit(Walk(kill_at=place), tmp_path)
  assert_same_end(fit(Walk(), tmp_path).state, tmp_path, uninterrupted)


@pytest.mark.parametrize("place", [0, 6, STEPS])
def test_a_signal_saves_first_and_at_once(tmp_path, uninterrupted, place):
  with pytest.raises(errors.StoppedError) as caught:
    fit(Walk(signal_at=place), tmp_path)
  assert caught.value.step == place
  assert caught.value.signal == signal.SIGTERM
  assert (tmp_path / "checkpoints" / str(place)).is_dir()
  assert_same_end(fit(Walk(), tmp_path).state, tmp_path, uninterrupted)


def test_a_finished_run_does_nothing_more(tmp_path, uninterrupted):
  fit(Walk(), tmp_path)
  assert_same_end(
      fit(Walk(kill_at=1), tmp_path).state, tmp_path, uninterrupted)


def test_a_broken_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path, uninterrupted, capsys):
  with pytest.raises(Killed):
    fit(Walk(kill_at=30), tmp_path)
  steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  assert len(steps) == 2
  damage(tmp_path / "checkpoints" / str(steps[-1]))
  state = fit(Walk(), tmp_path).state
  out, err = capsys.readouterr()
  assert f"checkpoint of step {steps[-1]}" in err
  assert f"resuming from step {steps[0]}" in out
  assert_same_end(state, tmp_path, uninterrupted)


def test_a_whole_checkpoint_of_something_else_is_no_broken_one(tmp_path):
  checkpoints = checkpointing.Checkpoints(tmp_path / "checkpoints")
  checkpoints.save(1, {"x": np.zeros(3), "none": np.zeros((0, 2))}, {})
  with pytest.raises(errors.UserError, match="step 1 is one of another"):
    checkpoints.restore({"x": np.zeros(4), "none": np.zeros((0, 2))})
  checkpoints.close()
  reader = checkpointing.Checkpoints(tmp_path / "checkpoints", read_only=True)
  _, tree, _ = reader.restore({"x": np.ones(3), "none": np.ones((0, 2))})
  assert tree["none"].shape == (0, 2) and (tree["x"] == 0).all()
  damage(tmp_path / "checkpoints" / "1")
  assert reader.restore(tree) is None
  reader.close()
  assert (tmp_path / "checkpoints" / "1").is_dir()


def damage(folder):
  """Flips the bytes in the middle of every file that holds arrays."""
  files = [f for f in folder.rglob("*") if f.is_file() and "/d/" in str(f)]
  assert files
  for file in files:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle - 8:middle + 8] = bytes(
        255 - byte for byte in content[middle - 8:middle + 8])
    file.write_bytes(content)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
  with pytest.raises(errors.UserError, match="loss is nan at step 9"):
    fit(Walk(bad_at=9), tmp_path)


def test_metrics_hold_no_timing(uninterrupted):
  lines = [json.loads(line) for line in uninterrupted[1].splitlines()]
  assert {key for line in lines for key in line} == {
      "step", "train", "validation"}
  assert [line["step"] for line in lines if "validation" in line] == list(
      range(0, STEPS + 1, STEPS // 10))


def test_a_full_disk_is_said_and_harms_no_checkpoint(tmp_path, monkeypatch):
  checkpoints = checkpointing.Checkpoints(tmp_path / "checkpoints")
  tree = {"x": np.arange(4.0)}
  checkpoints.save(1, tree, {"cursor": [1]})

  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(checkpoints._manager, "save", full)
  with pytest.raises(errors.UserError, match="step 2 could not be saved"):
    checkpoints.save(2, tree, {"cursor": [2]})
  step, restored, notes = checkpoints.restore(tree)
  assert (step, notes) == (1, {"cursor": [1]})
  np.testing.assert_array_equal(restored["x"], tree["x"])
  checkpoints.close()
