"""The example server answers as the bundle does, through a reload as well."""

import asyncio
import datetime
import importlib.util
import pathlib
import shutil
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

  turns, answers, seconds = asyncio.Semaphore(AT_ONCE), {}, {}
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
      seconds[number] = time.perf_counter() - start
      await asyncio.sleep(0.02)  # So that many come while it loads.
      assert response.status_code == 200, response.text
      answers[number] = response.json()

  moving = []
  async with httpx.AsyncClient(base_url=url, timeout=60) as client:
    await asyncio.gather(*map(ask, range(NUM_REQUESTS)))
  return answers, seconds


def until(holds):
  """Waits, half a minute at most."""
  for _ in range(300):
    if holds():
      return
    time.sleep(0.1)
  raise TimeoutError


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  """A folder of versions and the address at which the current one answers."""
  httpx = pytest.importorskip("httpx")
  pytest.importorskip("starlette")
  pytest.importorskip("uvicorn")
  folder = tmp_path_factory.mktemp("served")
  publish(folder, datetime.datetime.now(datetime.UTC).date())
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  server = subprocess.Popen(
      [sys.executable, ROOT / "examples/serve_http.py", folder, str(port)],
      cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
  url = f"http://127.0.0.1:{port}"
  try:
    for _ in range(600):
      assert server.poll() is None
      try:
        httpx.get(f"{url}/health")
        break
      except httpx.ConnectError:
        time.sleep(0.1)
    yield folder, url
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
  for part, numbers in [
      ("before and after the reload", [
          *range(NUM_REQUESTS // 4), *range(NUM_REQUESTS * 3 // 4,
                                            NUM_REQUESTS)]),
      ("in between", range(NUM_REQUESTS // 4, NUM_REQUESTS * 3 // 4))]:
    p50, p99 = np.percentile([seconds[n] for n in numbers], [50, 99]) * 1000
    print(f"{AT_ONCE} at once, {part}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


@pytest.mark.slow
@pytest.mark.parametrize("path, body, said", [
    ("score", b"{", "expected JSON"),
    ("score", b'{"columns": {"age": [1], "tab": ["a", "b"]}}', "of candidates"),
    ("score", b'{"columns": {"age": [1]}}', "no column"),
    ("score", b'{"columns": {"age": 1}}', "must be a list"),
    ("select", b'{"columns": {}, "thetas": 1}', "takes no thetas"),
    ("select", b'{"columns": {"score": [1, 2]}, "theta": 2}', "column"),
])
def test_what_cannot_be_answered_is_said(served, path, body, said):
  import httpx

  response = httpx.post(f"{served[1]}/{path}", content=body)
  assert response.status_code == 422
  assert said in response.json()["error"]


@pytest.mark.slow
def test_a_version_that_cannot_be_loaded_leaves_the_old_one(served, tmp_path):
  import httpx

  folder, url = served
  old = serving.current_version(folder)
  name, body = request_of(0)
  body["columns"] = to_json(body["columns"])

  def health():
    return httpx.get(f"{url}/health").json()

  def move(version):
    (folder / "current.next").write_text(f"{version}\n")
    (folder / "current.next").replace(folder / "current")

  bad = publish(tmp_path, (datetime.datetime.now(datetime.UTC)
                           - datetime.timedelta(days=2)).date())
  shutil.copytree(tmp_path / bad, folder / bad)
  (folder / bad / "parameters.npz").write_bytes(b"")
  move(bad)
  until(lambda: health()["trouble"])
  assert f"{bad}/parameters.npz" in health()["trouble"]
  answer = httpx.post(f"{url}/{name}", json=body)
  assert (answer.status_code, answer.json()["version"]) == (200, old)
  move(old)
  until(lambda: not health()["trouble"])
  assert health()["version"] == old


@pytest.mark.slow
def test_more_requests_than_may_wait_are_sent_away(tmp_path, monkeypatch):
  httpx = pytest.importorskip("httpx")
  pytest.importorskip("starlette")
  pytest.importorskip("uvicorn")
  publish(tmp_path, datetime.datetime.now(datetime.UTC).date())
  spec = importlib.util.spec_from_file_location(
      "serve_http", ROOT / "examples/serve_http.py")
  example = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(example)
  monkeypatch.setattr(example, "WAITING", 3)
  server = example.Server(tmp_path)
  name, body = request_of(0)
  body["columns"] = to_json(body["columns"])

  async def ask():
    transport = httpx.ASGITransport(app=server.app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test") as client:
      async with server.turn:  # As if another batch were being answered.
        first = [asyncio.create_task(client.post(f"/{name}", json=body))
                 for _ in range(3)]
        while server.waiting < 3:
          await asyncio.sleep(0)
        more = await client.post(f"/{name}", json=body)
      return more, await asyncio.gather(*first), await client.post(
          f"/{name}", json=body)

  more, first, after = asyncio.run(ask())
  assert (more.status_code, more.json()) == (
      503, {"error": "too many requests wait."})
  assert [each.json() for each in first] == [after.json()] * 3
