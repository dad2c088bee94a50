"""An artefact behind HTTP, to copy: `pip install 'harmonrank_jax[serve]'`.

  python examples/serve_http.py served 8000

`POST /score` and `POST /select` take the arguments of `Bundle.score` and
`Bundle.select` as JSON, where null is missing or NaN. 422 says what is wrong
with a request, 503 that too many wait. `GET /health` says which version
answers: when `current` names another one, it is loaded and warmed beside the
old one, which serves on if that fails.
"""

import asyncio
import contextlib
import json
import sys
from typing import NamedTuple

import numpy as np
from starlette import applications
from starlette import responses
from starlette import routing
import uvicorn

from harmonrank_jax import serving

WAITING = 1024  # Requests at most.
OPTIONS = {"score": {"objective_weights"},
           "select": {"objective_weights", "theta", "quotas", "shown", "day"}}


class Batch(NamedTuple):
  """Requests that wait and can be answered together."""

  columns: list  # Of each request, by name.
  answers: list  # Empty until they are there.


class Server:
  """The version in use, and the requests that wait for it."""

  def __init__(self, folder):
    self.folder, self.trouble = folder, ""
    self.bundle = serving.load(folder)
    self.batches, self.turn, self.waiting = {}, asyncio.Lock(), 0
    self.app = applications.Starlette(lifespan=self.following, routes=[
        routing.Route("/score", self.ask, methods=["POST"]),
        routing.Route("/select", self.ask, methods=["POST"]),
        routing.Route("/health", self.health)])

  async def ask(self, request):
    if self.waiting >= WAITING:
      return responses.JSONResponse({"error": "too many requests wait."}, 503)
    self.waiting += 1
    try:
      function = request.url.path[1:]
      columns, options = read(function, await request.body())
      answer = await self.answer(function, columns, options)
      return responses.JSONResponse(answer)
    except serving.RequestError as error:
      return responses.JSONResponse({"error": str(error)}, 422)
    finally:
      self.waiting -= 1

  async def answer(self, function, columns, options):
    # Sizes within a factor of two, so that little is padded.
    kind = function, json.dumps(options, sort_keys=True), *sorted(
        (name, array.dtype.kind, array.ndim, array.size.bit_length())
        for name, array in columns.items())
    batch = self.batches.setdefault(kind, Batch([], []))
    batch.columns.append(columns)
    place = len(batch.columns) - 1
    async with self.turn:
      if not batch.answers:  # The first whose turn it is answers all of them.
        self.batches.pop(kind, None)
        batch.answers.extend(await asyncio.to_thread(
            answers, self.bundle, function, batch.columns, options))
    if isinstance(batch.answers[place], Exception):
      raise batch.answers[place]
    return batch.answers[place]

  async def health(self, _):
    return responses.JSONResponse({
        "version": self.bundle.version, "waiting": self.waiting,
        "warm_seconds": self.bundle.warm_seconds, "trouble": self.trouble})

  @contextlib.asynccontextmanager
  async def following(self, _):
    task = asyncio.create_task(self.follow())
    yield
    task.cancel()

  async def follow(self):
    while True:
      await asyncio.sleep(1)
      try:
        if serving.current_version(self.folder) != self.bundle.version:
          self.bundle = await asyncio.to_thread(serving.load, self.folder)
        self.trouble = ""
      except Exception as error:  # Whatever it is, the old version serves on.
        self.trouble = str(error)


def read(function, body):
  try:
    options = json.loads(body)
    columns = {name: np.asarray(values)
               for name, values in options.pop("columns").items()}
  except (ValueError, KeyError, AttributeError, TypeError):
    raise serving.RequestError(
        'expected JSON like {"columns": {"age": [31, null]}}.') from None
  if unknown := options.keys() - OPTIONS[function]:
    raise serving.RequestError(f"/{function} takes no {min(unknown)}.")
  return columns, options


def answers(bundle, function, requests, options):
  try:
    once = bundle.manifest["request"].get("columns") or ()
    columns, where = serving.stack(
        requests, once=once if function == "select" else ())
    if function == "score":
      outputs = bundle.score(columns, **options)
    else:
      outputs = bundle.select(columns, where=where, **options)._asdict()
    result = [{"version": bundle.version} for _ in requests]
    for name, arrays in outputs.items():
      for each, array, is_there in zip(result, arrays, where, strict=True):
        if "score" in name:  # Of each candidate; others are of the page.
          array = array[is_there]
        each[name] = np.where(np.isnan(array), None, array).tolist()
    return result
  except Exception as error:
    if len(requests) == 1:
      return [error]
    # One of them is wrong; the others are not.
    return [answers(bundle, function, [each], options)[0] for each in requests]


if __name__ == "__main__":
  uvicorn.run(
      Server(sys.argv[1]).app, port=int(sys.argv[2]), log_level="warning")
