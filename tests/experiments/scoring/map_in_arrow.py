"""Scores a folder by `mapInArrow` of a session of Spark, as its users do.

Run as a program, since Spark leaves a Java and open sockets to the process.
"""

import sys

from harmonrank_jax.serving import batches


def main(artefact: str, data: str, out: str) -> None:
  """Writes the scored rows of a folder to another one."""
  from pyspark import sql
  from pyspark.sql import types
  from pyspark.sql.pandas.types import from_arrow_schema

  scorer = batches.BatchScorer(artefact)
  session = (sql.SparkSession.builder.master("local[2]")
             .config("spark.ui.enabled", "false").getOrCreate())
  table = session.read.parquet(data)
  schema = types.StructType([*table.schema, *from_arrow_schema(scorer.added)])
  table.mapInArrow(scorer, schema).write.parquet(out)
  session.stop()


if __name__ == "__main__":
  main(*sys.argv[1:])
