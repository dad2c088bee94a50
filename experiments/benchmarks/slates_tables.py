"""The tables and the verdict of the suite `slates`."""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

from experiments.benchmarks import slates_methods as methods_lib
from experiments.benchmarks import timing as timing_lib

# Measurements by method and task.
ByCell = dict[tuple[str, str], dict[str, Any]]


def tables(content: dict[str, Any]) -> list[timing_lib.Table]:
  """What was measured as tables; the first is the summary."""
  measured = content["measurements"]
  tasks = list(dict.fromkeys(m["task"] for m in measured))
  header = ["", *tasks]
  floors = {m["method"] for m in measured if "same_slots" not in m}
  ordered = sorted(measured, key=lambda m: (
      m["method"] in floors, not m["method"].startswith("harmonrank")))
  rows = lambda cell, key="median_seconds": timing_lib.rows(
      ordered, tasks, lambda m: m["task"], cell, key)
  note = ("Requests x candidates of each x picks of each (flow pool: "
          "categories x candidates x picks of all), in milliseconds, median of "
          "the samples; in brackets the share of slots with the item that "
          f"float64 selects. {verdict(content)}")
  return [
      timing_lib.Table(
          f"Slates, on {_processors(content)}", header, rows(_time), note),
      *_latency_tables(content["latencies"]),
      timing_lib.Table(
          "Slates, milliseconds with quartiles", header,
          rows(lambda m: f"{_time(m)} {timing_lib.quartiles(m)}")),
      timing_lib.Table(
          "How many times as fast; how many times as long as reading",
          header, _ratios(measured, tasks)),
      timing_lib.Table(
          "Slates that are wholly those of float64", header,
          rows(lambda m: _share(m["same_slates"]), "same_slates")),
      timing_lib.Table(
          "Seconds to compile", header,
          rows(lambda m: timing_lib.number(m["compile_seconds"]),
               "compile_seconds"))]


def named(size: Sequence[int]) -> str:
  """A size as text."""
  return " x ".join(f"{count:,}" for count in size)


def _processors(content: dict[str, Any]) -> str:
  cores = "one core" if content["cores"] == 1 else f"{content['cores']} cores"
  if content["machine"]["backend"] == "cpu":
    return f"{cores} of the CPU"
  return f"{content['machine']['device']} and {cores} of the CPU"


def _latency_tables(
    latencies: Sequence[dict[str, Any]]
) -> list[timing_lib.Table]:
  """A table of the calls of one request; none if there were no calls."""
  if not latencies:
    return []
  return [timing_lib.Table(
      f"One request after the other, {named(latencies[0]['size'])}, "
      "milliseconds of a call",
      ["", "p50", "p99", "longest", "calls"],
      [[m["method"], *(timing_lib.number(1e3 * m[f"{key}_seconds"])
                       for key in ("p50", "p99", "longest")),
        f"{m['calls']:,}"] for m in latencies])]


def _by_cell(measured: Sequence[dict[str, Any]]) -> ByCell:
  return {(m["method"], m["task"]): m for m in measured}


def _time(m: Mapping[str, Any]) -> str:
  """Milliseconds, and the share of right picks where there are picks."""
  text = timing_lib.milliseconds(m)
  return f"{text} ({_share(m['same_slots'])})" if "same_slots" in m else text


def _share(value: float) -> str:
  """A share in percent, rounded down: only all is 100 %."""
  return f"{math.floor(1e4 * value) / 100:g} %"


def _ratios(
    measured: Sequence[dict[str, Any]], tasks: Sequence[str]
) -> list[list[str]]:
  """Times of others as shares of ours, and ours as a share of reading."""
  by_cell = _by_cell(measured)
  result = []
  for form in timing_lib.forms_among(measured):
    for rival in (*methods_lib.PEERS, methods_lib.padded_name(form)):
      ratios = [_ratio(by_cell, rival, form, task) for task in tasks]
      if any(ratios):
        result.append([f"{form}: {rival}", *map(_times, ratios)])
    result.append([f"{form}: reading", *(
        _times(_of_reading(by_cell, form, task)) for task in tasks)])
  return result


def _ratio(
    by_cell: ByCell, slow: str, fast: str, task: str
) -> float | None:
  if (slow, task) not in by_cell or (fast, task) not in by_cell:
    return None
  return (by_cell[slow, task]["median_seconds"]
          / by_cell[fast, task]["median_seconds"])


def _of_reading(by_cell: ByCell, method: str, task: str) -> float | None:
  """The time of a method as a share of the faster way to read."""
  shares = [_ratio(by_cell, method, name, task) for name, at in by_cell
            if at == task and "same_slots" not in by_cell[name, at]]
  return max((share for share in shares if share), default=None)


def _times(ratio: float | None) -> str:
  return "-" if ratio is None else f"{timing_lib.number(ratio)}x"


def verdict(content: dict[str, Any]) -> str:
  """This library's speed beside its peers and mere reading, in words."""
  measured = content["measurements"]
  by_cell = _by_cell(measured)
  slates = dict.fromkeys(m["task"] for m in measured if m["pool"] != "flow")
  flows = dict.fromkeys(m["task"] for m in measured if m["pool"] == "flow")
  forms = timing_lib.forms_among(measured)
  lines = []
  for form in forms:
    for rivals, tasks, what in (
        (methods_lib.PEERS, slates, "slates"),
        ((methods_lib.padded_name(form), methods_lib.PYVERSITY), flows,
         "the flow pool")):
      said = [_range([_ratio(by_cell, rival, form, task) for task in tasks],
                     f"times as fast as {rival}") for rival in rivals]
      said.append(_range([_of_reading(by_cell, form, task) for task in tasks],
                         "times as long as reading all for each pick"))
      if any(said):
        lines.append(f"{form}, {what}: {', '.join(filter(None, said))}.")
  lines += [f"{m['method']}, one request of {named(m['size'])}: p99 "
            f"{timing_lib.number(1e3 * m['p99_seconds'])} ms."
            for m in content["latencies"] if m["method"] in forms]
  wrong = sorted({m["method"] for m in measured if m.get("same_slots", 1) < 1
                  and m["method"].startswith("harmonrank")})
  if wrong:
    lines.append(
        f"Not all picks of {', '.join(wrong)} are those of float64: a defect, "
        "or a tie.")
  return " ".join(lines)


def _range(ratios: Sequence[float | None], text: str) -> str:
  """The least and the largest ratio, in words; empty if none is known."""
  known = [ratio for ratio in ratios if ratio is not None]
  if not known:
    return ""
  low, high = timing_lib.number(min(known)), timing_lib.number(max(known))
  return f"{low} {text}" if low == high else f"{low} to {high} {text}"
