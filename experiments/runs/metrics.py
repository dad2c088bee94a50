"""Metrics of a run: `metrics.jsonl` for programs, tensorboard for people."""

import json
import pathlib
from typing import Any

from experiments.runs import workdir as workdir_lib

METRICS = "metrics.jsonl"


class MetricWriter:
  """Appends metrics by step; resuming takes back those after a checkpoint."""

  def __init__(self, workdir: pathlib.Path, step: int):
    """Opens the files; the run goes on from the checkpoint of `step`, or -1."""
    import tensorboardX  # Slow to import, and of no use to --help.

    self._path = workdir / METRICS
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    workdir_lib.write_text(self._path, "".join(map(_line, kept)))
    self._board = tensorboardX.SummaryWriter(
        str(workdir / "tensorboard"), purge_step=step + 1)

  def write(self, step: int, metrics: dict[str, Any]) -> None:
    """Appends a line, and the scalars to tensorboard."""
    content = workdir_lib.finite({"step": step, **metrics})
    with open(self._path, "a") as file:
      file.write(_line(content))
    for name, value in content.items():
      if isinstance(value, dict):
        for part, number in value.items():
          self._scalar(f"{name}/{part}", number, step)
      else:
        self._scalar(name, value, step)

  def _scalar(self, name: str, value: Any, step: int) -> None:
    if isinstance(value, (int, float)) and name != "step":
      self._board.add_scalar(name, value, step)

  def close(self) -> None:
    self._board.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """All lines; a last line cut off by a kill is left out."""
  path = workdir / METRICS
  lines = []
  if path.exists():
    for text in path.read_text().splitlines():
      try:
        lines.append(json.loads(text))
      except ValueError:
        break
  return lines


def _line(content: dict[str, Any]) -> str:
  return json.dumps(content) + "\n"
