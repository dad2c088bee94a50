"""The example server answers as the bundle does, through a reload as well."""

import asyncio
import datetime
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from harmonrank_jax import serving
from tests.serving import toys

ROOT = pathlib.Path(__file__).parents[2]
NUM_REQUESTS, AT_ONCE = 400, 16


def publish(out, day):
  """Versions of another day have another name and answer the same."""
  files, manifest = toys.contents()
  return serving.publish(out, files, manifest, today=day)


def to_json(columns):
  """NaN is null."""
  return {name: np.where(array == array, array, None).tolist()
          for name, array in columns.items()}


def request_of(number):
  """The path and the arguments of a request; sizes differ."""
  size = number % 7 + 1
  name = "select" if number % 2 else "score"
  body = {"columns": toys.raw(name, (size,), seed=number)}
  if number % 3 == 0:
    body |= {"theta": 0.25} if name == "select" else {
        "objective_weights": [2, 1]}
  return name, body


async def ask_all(url, midway):
  """Answers, and seconds of each; `midway` moves the version in between."""
  import httpx

  turns, answers, seconds = asyncio.Semaphore(AT_ONCE), {}, []
  moved = asyncio.Event()

  async def version():
    return (await client.get("/health")).json()["version"]

  async def move():
    first = await version()
    await asyncio.to_thread(midway)
    while await version() == first:
      await asyncio.sleep(0.1)
    moved.set()

  async def ask(number):
    name, body = request_of(number)
    if number >= NUM_REQUESTS * 3 // 4:
      await moved.wait()
    async with turns:
      if number == NUM_REQUESTS // 4:
        moving.append(asyncio.create_task(move()))
      start = time.perf_counter()
      response = await client.post(
          f"/{name}", json={**body, "columns": to_json(body["columns"])})
      seconds.append(time.perf_counter() - start)
      await asyncio.sleep(0.02)  # So that many come while it loads.
      assert response.status_code == 200, response.text
      answers[number] = response.json()

  moving = []
  async with httpx.AsyncClient(base_url=url, timeout=60) as client:
    await asyncio.gather(*map(ask, range(NUM_REQUESTS)))
  return answers, seconds


@pytest.fixture
def served(tmp_path):
  """A folder of versions and the address at which the current one answers."""
  httpx = pytest.importorskip("httpx")
  pytest.importorskip("starlette")
  pytest.importorskip("uvicorn")
  publish(tmp_path, datetime.datetime.now(datetime.UTC).date())
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  server = subprocess.Popen(
      [sys.executable, ROOT / "examples/serve_http.py", tmp_path,
       f"--port={port}"], cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
  url = f"http://127.0.0.1:{port}"
  try:
    for _ in range(600):
      assert server.poll() is None
      try:
        httpx.get(f"{url}/health")
        break
      except httpx.ConnectError:
        time.sleep(0.1)
    yield tmp_path, url
  finally:
    server.terminate()
    server.wait()


@pytest.mark.slow
def test_every_request_is_answered_through_a_reload(served):
  folder, url = served
  bundle = serving.load(folder)
  yesterday = (datetime.datetime.now(datetime.UTC)
               - datetime.timedelta(days=1)).date()
  answers, seconds = asyncio.run(
      ask_all(url, lambda: publish(folder, yesterday)))
  assert len(answers) == NUM_REQUESTS
  versions = {answer.pop("version") for answer in answers.values()}
  assert versions == {bundle.version, serving.load(folder).version}
  for number, answer in answers.items():
    name, body = request_of(number)
    wanted = getattr(bundle, name)(**body)
    for key, array in (wanted if name == "score" else
                       wanted._asdict()).items():
      np.testing.assert_allclose(
          np.array(answer.pop(key), float), array, rtol=1e-6, atol=1e-6)
    assert not answer
  p50, p99 = np.percentile(seconds, [50, 99]) * 1000
  print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {AT_ONCE} at once")


@pytest.mark.slow
@pytest.mark.parametrize("path, body, said", [
    ("score", b"{", "must be JSON"),
    ("score", b'{"columns": {"age": [1], "tab": ["a", "b"]}}', "one length"),
    ("score", b'{"columns": {"age": [1]}}', "no column"),
    ("select", b'{"columns": {}, "thetas": 1}', "knows no thetas"),
    ("select", b'{"columns": {"score": [1, 2]}, "theta": 2}', "column"),
])
def test_what_cannot_be_answered_is_said(served, path, body, said):
  import httpx

  response = httpx.post(f"{served[1]}/{path}", content=body)
  assert response.status_code == 422
  assert said in response.json()["error"]
