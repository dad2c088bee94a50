"""One request after the other, answered by an artefact on one core."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.benchmarks import served
from experiments.benchmarks import timing as timing_lib
from harmonrank_jax.data import generator
from harmonrank_jax.serving import bundle as bundle_lib
from harmonrank_jax.serving import manifest as manifest_lib
from harmonrank_jax.serving import requests as requests_lib

SIZES: tuple[int, ...] = (50, 500)
# Stages of the artefacts; those that select nothing score the candidates.
FUNNELS = (("predictor",), ("ensemble",), ("slates",), ("ensemble", "slates"),
           ("predictor", "ensemble", "slates"))
# Encode raw columns; pad, call and cut; both, and what is left to do.
PARTS = ("encode", "call", "whole")
# Requests that take turns, and calls of an artefact in a row.
_NUM_REQUESTS, _CALLS = 16, 100


def parse_size(text: str) -> int:
  """Reads the candidates of a request."""
  return timing_lib.parse_counts(
      text, 1, "candidates of a request, as in 500")[0]


def run(
    sizes: Sequence[int] | None = None, *, repeats: int, seed: int,
    workdir: pathlib.Path,
) -> dict[str, Any]:
  """Times the requests of every size, on one core where that can be had."""
  stages = {stage.kind: stage for stage in (
      served.predictor(workdir, seed=seed), served.ensemble(workdir, seed=seed),
      served.slates())}
  folders = []
  for funnel in FUNNELS:
    chosen = [stages[kind] for kind in funnel]
    columns = served.REQUEST_COLUMNS if "predictor" in funnel else (
        served.REQUEST_COLUMNS[1:] if "ensemble" in funnel else ())
    folders.append(str(served.publish(
        workdir / "_".join(funnel), chosen,
        columns if "slates" in funnel else ())))
    print(f"{' + '.join(funnel)}: exported", flush=True)
  return timing_lib.on_one_core(
      "experiments.benchmarks.serving", "run_here", folders,
      sorted(sizes or SIZES), repeats=repeats, seed=seed)


def run_here(
    folders: Sequence[str], sizes: Sequence[int], *, repeats: int, seed: int,
    calls: int = _CALLS,
) -> dict[str, Any]:
  """Times the requests in this process."""
  week = generator.generate_log(served.LOG)
  rng = np.random.default_rng(seed)
  servers = [_Server(folder) for folder in folders]
  measurements = []
  for size in sizes:
    requests = [
        [request_of(week, size, server.request_columns, rng)
         for _ in range(_NUM_REQUESTS)] for server in servers]
    seconds: dict[str, dict[str, list[float]]] = {
        server.name: {part: [] for part in PARTS} for server in servers}
    for turn in range(-1, repeats):
      for k in rng.permutation(len(servers)):
        for number in range(calls):
          taken = servers[k].answer(requests[k][number % _NUM_REQUESTS])
          if turn >= 0:  # The first turn compiles and warms up.
            for part, value in taken.items():
              seconds[servers[k].name][part].append(value)
    measurements += [
        {"task": f"{size:,} candidates", "candidates": size, "method": name,
         "part": part, **_quantiles(taken)}
        for name, parts in seconds.items() for part, taken in parts.items()]
    print(f"{size:,} candidates: {len(servers)} artefacts", flush=True)
  return {"measurements": measurements, "left_out": [],
          "picks": served.NUM_SELECTED, "cores": timing_lib.num_cores()}


def request_of(
    week: generator.EmbeddedLog, num_candidates: int, columns: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Any]:
  """Raw columns of a request: rows of the log, these columns of one of them."""
  table = week.log.take(pa.array(
      rng.integers(0, len(week.log), num_candidates)))
  places = pc.index_in(
      table["item_id"], week.items["item_id"].combine_chunks())
  request = {name: table[name].to_numpy() for name in table.column_names}
  request |= {name: request[name][0] for name in columns}
  features = np.stack(week.items["features"].to_numpy())
  return request | {"features": features[places.to_numpy()]}


class _Server:
  """An artefact, and how its requests are answered."""

  def __init__(self, folder: str):
    contents = manifest_lib.read(folder)
    self._bundle = bundle_lib.load(folder, warm=False)
    self.name = " + ".join(self._bundle.stages)
    self.request_columns = contents.manifest["request"]["columns"]
    self._function = "select" if "select" in contents.functions else "score"
    encoder = requests_lib.Encoder(
        contents.functions[self._function], contents.manifest,
        json.loads(contents.files[manifest_lib.VOCABULARIES]))
    self._encode: Callable[..., requests_lib.Inputs] = encoder.rows
    self._whole: Callable[..., Any] = self._bundle.score
    if self._function == "select":
      self._encode, self._whole = encoder.candidates, self._bundle.select

  def answer(self, columns: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of the parts of an answer."""
    times = [time.perf_counter()]
    inputs = self._encode(columns, {})
    times.append(time.perf_counter())
    self._bundle.run(self._function, inputs.arrays)
    times.append(time.perf_counter())
    self._whole(columns)
    times.append(time.perf_counter())
    return dict(zip(PARTS, np.diff(times).tolist(), strict=True))


def _quantiles(seconds: Sequence[float]) -> dict[str, Any]:
  low, median, high, p99 = np.quantile(seconds, (0.25, 0.5, 0.75, 0.99))
  return {"median_seconds": median, "quartiles_seconds": [low, high],
          "p99_seconds": p99, "longest_seconds": max(seconds),
          "calls": len(seconds)}


def tables(content: dict[str, Any]) -> list[timing_lib.Table]:
  """What was measured as tables; the first is the summary."""
  measured = content["measurements"]
  sizes = list(dict.fromkeys(m["candidates"] for m in measured))
  cores = "one core" if content["cores"] == 1 else f"{content['cores']} cores"
  note = ("Milliseconds of one request after the other, raw columns in and "
          f"{content['picks']} slots out (scores of all candidates, without "
          "slates), after warm-up: the median and the 99th percentile.")

  def table(title: str, chosen: Sequence[dict[str, Any]], row: str):
    return timing_lib.Table(
        title, ["", *(f"{size:,} candidates" for size in sizes)],
        timing_lib.rows(
            [m | {"method": m[row]} for m in chosen], sizes,
            lambda m: m["candidates"],
            lambda m: f"{timing_lib.milliseconds(m)}, "
                      f"{timing_lib.number(1e3 * m['p99_seconds'])}"), note)

  names = list(dict.fromkeys(m["method"] for m in measured))
  return [
      table(f"A request, p50 and p99 in ms, on {cores}",
            [m for m in measured if m["part"] == "whole"], "method"),
      *(table(f"{name}, by part", [m for m in measured if m["method"] == name],
              "part") for name in names)]
