"""A page of ours in the Chromium of this machine, without a window."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil

from playwright import sync_api
import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# A page is one file: the browser has nothing to look for elsewhere.
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
          "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync")
SKIPPED = "no Chromium on the PATH, and CHROME_BIN names none"


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[sync_api.Page]:
  """An HTML file, loaded; its errors and console messages fail the test.

  The Chromium is that of CHROME_BIN, or one on the PATH; without one the test
  is skipped.
  """
  chromium = os.environ.get("CHROME_BIN") or next(
      filter(None, map(shutil.which, _NAMES)), None)
  if chromium is None:
    pytest.skip(SKIPPED)
  messages: list[str] = []
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=chromium, args=list(_FLAGS))
    page = browser.new_page()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(path.as_uri())
    yield page
    browser.close()
  assert messages == [], messages
