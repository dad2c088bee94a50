"""Processes that score spans, one thread each.

They are spawned: JAX and fork do not go together. Each takes a span at a time,
so that a slow one does not hold up the others.
"""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Sequence
import contextlib
import itertools
import multiprocessing
from multiprocessing import connection as connections
from multiprocessing import resource_tracker
import os
import pathlib
import signal
import threading
from typing import Any
from typing import NamedTuple

import pyarrow as pa

from experiments.runs import errors
from experiments.scoring import files
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import batches

# Seconds between two looks at whether the run was asked to stop.
_PATIENCE = 0.5


class Job(NamedTuple):
  """What is the same for all spans."""

  out: pathlib.Path
  scorer: batches.BatchScorer
  strict: bool


class _Worker:
  """A process that scores, and the span that it is at."""

  def __init__(self, job: Job, task: files.Task):
    context = multiprocessing.get_context("spawn")
    self.connection, there = context.Pipe()
    self.process = context.Process(
        target=_work, args=(there, job), daemon=True)
    # Ctrl-C does not reach the process, which inherits this: we end it. The
    # tracker comes first, since its start ends what is blocked.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
      self.process.start()
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    there.close()
    self.give(task)

  def give(self, task: files.Task) -> None:
    """Sends the next span."""
    self.task = task
    try:
      self.connection.send(task)
    except OSError:
      raise self._died() from None

  def hear(self) -> files.Done | None:
    """What became of some rows, or None at the end of the span."""
    try:
      message = self.connection.recv()
    except (EOFError, OSError):
      raise self._died() from None
    if isinstance(message, str):
      raise errors.UserError(message)
    return message

  def _died(self) -> errors.UserError:
    self.process.join()
    code = self.process.exitcode or 0
    why = (f"was killed by {signal.Signals(-code).name}" if code < 0
           else f"ended with exit code {code}")
    hint = ("; if the machine was out of memory, use fewer --processes"
            if code == -signal.SIGKILL else "")
    return errors.UserError(
        f"a process {why} while it scored {self.task.span.file}{hint}. The "
        "same command goes on with the files that are missing.")


def run(
    job: Job, tasks: Sequence[files.Task], num_processes: int,
) -> Generator[files.Done | None, None, None]:
  """Scores spans; yields what became of rows, batch by batch.

  None is yielded now and then while there is nothing to say. Closing the
  generator ends the processes, and leaves no part of a file.

  Raises:
    UserError: if a span cannot be read, scored or written, or a process dies.
  """
  waiting = iter(tasks)
  workers: list[_Worker] = []
  try:
    workers.extend(_Worker(job, task)
                   for task in itertools.islice(waiting, num_processes))
    working = {worker.connection: worker for worker in workers}
    while working:
      ready = connections.wait(list(working), timeout=_PATIENCE)
      if not ready:
        yield None
      for connection in working.keys() & set(ready):
        done = working[connection].hear()
        if done is not None:
          yield done
        elif task := next(waiting, None):
          working[connection].give(task)
        else:
          del working[connection]
  finally:
    for worker in workers:
      worker.connection.close()
      worker.process.terminate()  # If it has not begun to listen.
    for worker in workers:
      worker.process.join()


def _work(connection: connections.Connection, job: Job) -> None:
  """Scores the spans that come, until there is nobody to send them.

  A span is given up after a batch. A signal would end it in the midst of one,
  where an exception may be lost in what others have to close.
  """
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  prepare()
  threading.Thread(target=_follow_parent, daemon=True).start()
  with contextlib.suppress(EOFError, ConnectionError):
    while True:
      task = connection.recv()
      try:
        score(job, task, connection.send)
        connection.send(None)
      except errors.UserError as error:
        connection.send(str(error))


def score(
    job: Job, task: files.Task,
    say: Callable[[files.Done], Any] = lambda done: None,
) -> files.Done:
  """Scores a span in this process, as `files.score_span`.

  Raises:
    UserError: if it cannot be read, scored or written.
  """
  try:
    return files.score_span(
        task, job.out, job.scorer, strict=job.strict, say=say)
  except schema_lib.DataError as error:
    raise errors.UserError(str(error)) from None
  except OSError as error:
    # What Arrow says around it is about its own layers.
    why = os.strerror(error.errno) if error.errno else error
    raise errors.UserError(f"{job.out / task.file}: {why}.") from None


def prepare(num_threads: int = 1) -> None:
  """Says how many threads compute in this process, before JAX has begun."""
  # XLA takes one for each core of the machine without.
  os.environ.update({"PJRT_NPROC": str(num_threads),
                     "NPROC": str(num_threads)})
  pa.set_cpu_count(num_threads)
  pa.set_io_thread_count(num_threads)


def _follow_parent() -> None:
  """Ends this process as soon as the one that began it has ended.

  A rerun after a kill must find nobody who still writes.
  """
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)
