"""Scores Parquet files of any size by Ray Data: `pip install 'ray[data]'`.

  python examples/score_ray.py exported tomorrow scored
"""

import sys

import pyarrow as pa
import ray

from harmonrank_jax.serving import batches


def score(table: pa.Table, scorer: batches.BatchScorer) -> pa.Table:
  """A batch with its scores, which are null where `rejection` says why."""
  return pa.Table.from_batches(
      scorer(iter(table.to_batches())), scorer.schema(table.schema))


def main(artefact: str, data: str, out: str) -> None:
  """Writes the rows of files with their scores."""
  # Each process loads the artefact once and computes with one thread.
  ray.init(runtime_env={"env_vars": {"PJRT_NPROC": "1", "NPROC": "1"}})
  ray.data.read_parquet(data).map_batches(
      score, fn_args=(batches.BatchScorer(artefact),), batch_format="pyarrow",
      batch_size=131_072).write_parquet(out)


if __name__ == "__main__":
  main(*sys.argv[1:])
