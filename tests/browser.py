"""A headless Chromium, spoken to through a pipe: no driver, no port."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess

_PATIENCE_SECONDS = 30
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find():
  """Path of a Chromium: that of CHROME_BIN, or one on the PATH, or None."""
  named = os.environ.get("CHROME_BIN")
  return named or next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
  """One page, by the Chrome DevTools protocol; a context.

  Attributes:
    complaints: what the page said on the console, and its exceptions.
  """

  def __init__(self, path):
    requests, self._write = os.pipe()
    self._read, replies = os.pipe()
    # The browser reads from 3 and writes to 4; neither may be in the way.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (requests, replies)]
    self._process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", path,
         "--headless", "--no-sandbox", "--disable-gpu",
         "--remote-debugging-pipe", "about:blank"],
        pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for end in (requests, replies, *ends):
      os.close(end)
    self._buffer, self._count, self._session = b"", 0, None
    self.complaints = []
    page = next(target for target in self.call("Target.getTargets")[
        "targetInfos"] if target["type"] == "page")
    self._session = self.call(
        "Target.attachToTarget", targetId=page["targetId"],
        flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log"):
      self.call(f"{domain}.enable")

  def __enter__(self):
    return self

  def __exit__(self, *_):
    # Whom it has started ends with it, seeing the pipe closed.
    os.close(self._write)
    os.close(self._read)
    self._process.kill()
    self._process.wait()

  def call(self, method, **params):
    """Calls a method of the protocol; notes complaints that come meanwhile."""
    self._count += 1
    message = {"id": self._count, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._write, json.dumps(message).encode() + b"\0")
    while True:
      reply = self._next()
      if reply.get("id") == self._count:
        assert "error" not in reply, reply
        return reply["result"]
      if reply.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded",
                                 "Runtime.consoleAPICalled"):
        self.complaints.append(reply["params"])

  def open(self, url):
    """Opens a page and waits until it is loaded."""
    self.call("Page.navigate", url=url)
    self.value("new Promise(done => document.readyState == 'complete' "
               "? done() : addEventListener('load', done))")

  def value(self, expression):
    """The value of a JavaScript expression, JSON-able or a promise of it."""
    found = self.call("Runtime.evaluate", expression=expression,
                      returnByValue=True, awaitPromise=True)
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")

  def press(self, key):
    """Presses a key, as a person does."""
    for kind in ("keyDown", "keyUp"):
      self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=_KEYS[key])

  def screenshot(self):
    """The page as a PNG."""
    return base64.b64decode(
        self.call("Page.captureScreenshot", format="png")["data"])

  def _next(self):
    while b"\0" not in self._buffer:
      assert select.select([self._read], [], [], _PATIENCE_SECONDS)[0], (
          "the browser does not answer.")
      part = os.read(self._read, 1 << 16)
      if not part:
        raise EOFError("the browser has ended.")
      self._buffer += part
    message, _, self._buffer = self._buffer.partition(b"\0")
    return json.loads(message)


_KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Tab": 9}
