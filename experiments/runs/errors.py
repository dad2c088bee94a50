"""What ends a run early, or is worth a line."""

import sys


class UserError(Exception):
  """Something the user can mend, said in one line."""


class StoppedError(Exception):
  """A signal of this number stopped the loop, after a checkpoint."""

  def __init__(self, signal: int, step: int, *, unit: str = "step"):
    super().__init__(f"stopped at {unit} {step}")
    self.signal, self.step = signal, step


def warn(line: str) -> None:
  """Prints a one-line warning."""
  print(f"warning: {line}", file=sys.stderr, flush=True)
