"""An artefact behind HTTP, to copy: `pip install 'harmonrank_jax[serve]'`.

  python examples/serve_http.py served --port=8000
  curl localhost:8000/score -d '{"columns": {"city": ["a"], "age": [31]}}'

`POST /score` and `POST /select` take the arguments of `Bundle.score` and
`Bundle.select` as JSON and answer with the version and the outputs; null is
NaN. `GET /health` says what is loaded. Requests that wait are answered
together, by one thread; when too many wait, more get a 503. When `current`
moves, the new version is loaded and warmed beside the old one, then swapped.
"""

import argparse
import asyncio
import collections
from concurrent import futures
import contextlib
import json
import pathlib
import sys
from typing import Any
from typing import NamedTuple

import numpy as np
from starlette import applications
from starlette import requests
from starlette import responses
from starlette import routing
import uvicorn

from harmonrank_jax import serving

WAITING = 1024  # Requests at most.
OPTIONS = {"score": {"objective_weights"},
           "select": {"objective_weights", "theta", "quotas", "shown", "day"}}


class Waiting(NamedTuple):
  """A request that waits; those of one kind may be answered together."""

  kind: tuple[Any, ...]  # Function, options, and what its columns hold.
  columns: dict[str, np.ndarray]
  num_rows: int
  options: dict[str, Any]
  answer: asyncio.Future


class Server:
  """The loaded version, and the requests that wait for it."""

  def __init__(self, folder: pathlib.Path, load: Any = serving.load):
    """Loads and warms the current version."""
    self._folder, self._load = folder, load
    self._current = self._pointer()
    self._bundle = load(folder)
    self._waiting: collections.deque[Waiting] = collections.deque()
    self._arrived = asyncio.Event()
    self._thread = futures.ThreadPoolExecutor(1)
    self._counts = collections.Counter()
    self._trouble = ""
    self.app = applications.Starlette(lifespan=self._running, routes=[
        routing.Route("/score", self.ask, methods=["POST"]),
        routing.Route("/select", self.ask, methods=["POST"]),
        routing.Route("/health", self.health)])

  async def ask(self, request: requests.Request) -> responses.Response:
    """Answers a request when its turn has come."""
    if len(self._waiting) >= WAITING:
      self._counts["too_busy"] += 1
      return _error(503, "too many requests wait; try again.")
    try:
      waiting = _read(request.url.path[1:], await request.body())
      self._waiting.append(waiting)
      self._arrived.set()
      answer = await waiting.answer
    except serving.RequestError as error:
      self._counts["refused"] += 1
      return _error(422, str(error))
    self._counts["answered"] += 1
    return responses.JSONResponse(answer)

  async def health(self, request: requests.Request) -> responses.Response:
    """Version, seconds of its warm-up, counts, and why a reload failed."""
    del request
    return responses.JSONResponse({
        "version": self._bundle.version, "waiting": len(self._waiting),
        "warm_seconds": self._bundle.warm_seconds, "counts": self._counts,
        "trouble": self._trouble})

  @contextlib.asynccontextmanager
  async def _running(self, _):
    tasks = [asyncio.create_task(self._answer()),
             asyncio.create_task(self._follow())]
    yield
    for task in tasks:
      task.cancel()

  async def _answer(self) -> None:
    """Takes what waits, up to the largest bucket, as long as there is any."""
    while True:
      await self._arrived.wait()
      bundle, batch = self._bundle, [self._waiting.popleft()]
      function = bundle.manifest["functions"].get(batch[0].kind[0])
      room = max(function["buckets"]["b"]) if function else 1
      room -= batch[0].num_rows
      while (self._waiting and self._waiting[0].kind == batch[0].kind
             and self._waiting[0].num_rows <= room):
        batch.append(self._waiting.popleft())
        room -= batch[-1].num_rows
      if not self._waiting:
        self._arrived.clear()
      answers = await asyncio.get_running_loop().run_in_executor(
          self._thread, _answers, bundle, batch)
      for waiting, answer in zip(batch, answers, strict=True):
        if waiting.answer.done():  # The client has gone.
          continue
        if isinstance(answer, Exception):
          waiting.answer.set_exception(answer)
        else:
          waiting.answer.set_result({"version": bundle.version, **answer})

  async def _follow(self) -> None:
    """Swaps the bundle when `current` moves."""
    while True:
      await asyncio.sleep(1)
      try:
        current = self._pointer()
        if current != self._current:
          self._current = current
          self._bundle = await asyncio.to_thread(self._load, self._folder)
          self._trouble = ""
      except (OSError, serving.ArtefactError) as error:
        self._trouble = str(error)  # The old version serves on.

  def _pointer(self) -> str:
    return (self._folder / "current").read_text()


def _read(function: str, body: bytes) -> Waiting:
  """A request from JSON; RequestError if it is none."""
  try:
    options = json.loads(body)
    columns = {name: _array(values)
               for name, values in options.pop("columns").items()}
  except (ValueError, KeyError, AttributeError, TypeError):
    raise serving.RequestError(
        'the body must be JSON like {"columns": {"age": [31, null]}}.'
    ) from None
  unknown = options.keys() - OPTIONS[function]
  if unknown:
    raise serving.RequestError(
        f"/{function} knows no {', '.join(sorted(unknown))}.")
  num_rows = 1
  if function == "score":
    sizes = {len(values) if values.ndim else 0 for values in columns.values()}
    if len(sizes) != 1 or 0 in sizes:
      raise serving.RequestError(
          "columns of /score must be lists of one length, not empty.")
    num_rows = sizes.pop()
  kind = (function, json.dumps(options, sort_keys=True), *(
      (name, values.dtype.kind, values.shape[1:])
      for name, values in sorted(columns.items())))
  return Waiting(kind, columns, num_rows, options,
                 asyncio.get_running_loop().create_future())


def _array(values: Any) -> np.ndarray:
  """A column of JSON; null is missing."""
  array = np.asarray(values)
  if array.dtype != object:
    return array
  try:
    return array.astype(np.float64)
  except (TypeError, ValueError):  # Texts.
    return array


def _answers(bundle: Any, batch: list[Waiting]) -> list[Any]:
  """Outputs, or an error, of every request of one kind."""
  try:
    if batch[0].kind[0] == "score":
      outputs = bundle.score(
          {name: np.concatenate([waiting.columns[name] for waiting in batch])
           for name in batch[0].columns}, **batch[0].options)
      ends = np.cumsum([waiting.num_rows for waiting in batch])[:-1]
      parts = {name: np.split(array, ends) for name, array in outputs.items()}
    else:
      columns, where = serving.stack([waiting.columns for waiting in batch])
      parts = bundle.select(
          columns, where=where, **batch[0].options)._asdict()
      sizes = where.sum(axis=1)
      for name in ("scores", "objective_scores"):  # Without the padding.
        parts[name] = [array[:size] for array, size in zip(
            parts[name], sizes, strict=True)]
    return [{name: _json(arrays[place]) for name, arrays in parts.items()}
            for place in range(len(batch))]
  except Exception as error:
    if len(batch) > 1:  # One of them is wrong; the others are not.
      return [_answers(bundle, [waiting])[0] for waiting in batch]
    return [error]


def _json(array: np.ndarray) -> Any:
  return np.where(np.isnan(array), None, array.astype(object)).tolist()


def _error(status: int, line: str) -> responses.Response:
  return responses.JSONResponse({"error": line}, status)


def main() -> None:
  """Serves until it is told to stop."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("artefact", type=pathlib.Path)
  parser.add_argument("--port", type=int, default=8000)
  arguments = parser.parse_args()
  try:
    server = Server(arguments.artefact)
  except (OSError, serving.ArtefactError) as error:
    sys.exit(str(error))
  uvicorn.run(server.app, port=arguments.port, log_level="warning")


if __name__ == "__main__":
  main()
