"""Progress of a loop, and signals that ask it to stop."""

from collections.abc import Iterator
import contextlib
import signal
import sys
import time
from typing import Any

from rich import progress as rich_progress

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
  """A bar on a terminal, a plain line now and then elsewhere."""

  def __init__(
      self, total: int, start: int, *, examples_per_step: int,
      unit: str = "step", examples: str = "examples",
  ):
    self._total, self._start = total, start
    self._examples_per_step = examples_per_step
    self._unit, self._examples = unit, examples
    self._began: float | None = None  # The first step compiles.
    self._last_line = time.perf_counter()
    self._bar = None
    if sys.stdout.isatty():
      self._bar = rich_progress.Progress(
          rich_progress.TextColumn(unit),
          rich_progress.MofNCompleteColumn(), rich_progress.BarColumn(),
          rich_progress.TimeRemainingColumn(), transient=True)
      self._task = self._bar.add_task("", total=total, completed=start)
      self._bar.start()

  def update(self, step: int) -> None:
    """Says that `step` steps are done."""
    now = time.perf_counter()
    if self._began is None:
      self._began, self._start, self._last_line = now, step, now
    if self._bar is not None:
      self._bar.update(self._task, completed=step)
      return
    if step > self._start and now - self._last_line >= _SECONDS_BETWEEN_LINES:
      self._last_line = now
      rate = (step - self._start) * self._examples_per_step / max(
          now - self._began, 1e-9)
      left = (self._total - step) * self._examples_per_step / max(rate, 1e-9)
      print(f"{self._unit} {step}/{self._total}, {rate:,.0f} "
            f"{self._examples}/s, {left:.0f} s left", flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[list[int]]:
  """Notes Ctrl-C and SIGTERM in a list; a second signal is not caught."""
  received: list[int] = []
  previous: dict[int, Any] = {}

  def note(number, _):
    received.append(number)
    signal.signal(number, previous[number])

  for number in (int(signal.SIGINT), int(signal.SIGTERM)):
    previous[number] = signal.signal(number, note)
  try:
    yield received
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
