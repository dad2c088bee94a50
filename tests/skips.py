"""Under CI a run names its skips, and one that is not listed here fails it.

What a package index or Debian has, `.ci/run` installs; what is left is too
large, or is not ours to publish.
"""

from collections.abc import Iterator
import fnmatch
import os
from typing import NamedTuple

import pytest


class Allowed(NamedTuple):
  """A skip that may be: patterns of the test and of its reason, and why."""

  test: str
  reason: str
  why: str


ALLOWED = (
    Allowed("tests/*", "could not import 'torch*",
            "PyTorch and torchsort are a download of gigabytes, and peers of "
            "the benchmark alone"),
    Allowed("tests/*", "could not import 'stable_baselines3'*",
            "stable-baselines3 needs PyTorch"),
    Allowed("tests/*", "the data are not here",
            "the Open Bandit log is not part of the repository"),
)


def why_allowed(test: str, reason: str) -> str | None:
  """Why a skip may be; None if it is not listed."""
  return next((allowed.why for allowed in ALLOWED
               if fnmatch.fnmatchcase(test, allowed.test)
               and fnmatch.fnmatchcase(reason, allowed.reason)), None)


def _is_judged(config: pytest.Config) -> bool:
  # The processes of a distributed run report to the one that judges.
  return os.environ.get("CI") == "true" and not hasattr(config, "workerinput")


def _skips(config: pytest.Config) -> Iterator[tuple[str, str]]:
  reporter = config.pluginmanager.get_plugin("terminalreporter")
  for report in reporter.stats.get("skipped", []):
    _, _, reason = report.longrepr
    yield report.nodeid, reason.removeprefix("Skipped: ")


def pytest_sessionfinish(session: pytest.Session) -> None:
  """Fails a run that would have passed."""
  if (_is_judged(session.config) and session.exitstatus == pytest.ExitCode.OK
      and any(why_allowed(*skip) is None for skip in _skips(session.config))):
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
  """Lists the skips with their reasons."""
  if not _is_judged(config):
    return
  terminalreporter.section("skips")
  for test, reason in sorted(_skips(config)):
    why = why_allowed(test, reason)
    terminalreporter.line(
        f"{test}: {reason} ({why or 'NOT LISTED in tests/skips.py'})",
        red=why is None)
