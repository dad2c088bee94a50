"""From files to arrays."""

from typing import TYPE_CHECKING

import harmonrank_jax.lazy as lazy

if TYPE_CHECKING:
  from harmonrank_jax.data.candidates import Candidates
  from harmonrank_jax.data.candidates import Facts
  from harmonrank_jax.data.chunks import Chunk
  from harmonrank_jax.data.encoding import Encoded
  from harmonrank_jax.data.encoding import Features
  from harmonrank_jax.data.encoding import encode_columns
  from harmonrank_jax.data.features import Batch
  from harmonrank_jax.data.features import encode
  from harmonrank_jax.data.features import encode_inputs
  from harmonrank_jax.data.features import fit_features
  from harmonrank_jax.data.generator import EmbeddedLog
  from harmonrank_jax.data.generator import LogConfig
  from harmonrank_jax.data.generator import generate_log
  from harmonrank_jax.data.items import CandidateColumns
  from harmonrank_jax.data.items import Items
  from harmonrank_jax.data.items import read_items
  from harmonrank_jax.data.naming import schema_from_names
  from harmonrank_jax.data.parquet import BatchReader
  from harmonrank_jax.data.parquet import ParquetLog
  from harmonrank_jax.data.parquet import check_log
  from harmonrank_jax.data.parquet import write_parquet
  from harmonrank_jax.data.schema import DataError
  from harmonrank_jax.data.schema import Objective
  from harmonrank_jax.data.schema import Schema
  from harmonrank_jax.data.schema import read_schema
  from harmonrank_jax.data.slate_logs import SlateLog
  from harmonrank_jax.data.slate_logs import read_slate_log
  from harmonrank_jax.data.slate_rows import SlateColumns
  from harmonrank_jax.data.splits import Split
  from harmonrank_jax.data.splits import read_parts
  from harmonrank_jax.data.splits import read_rows
  from harmonrank_jax.data.splits import split_log
  from harmonrank_jax.data.splits import temporal_blocks
else:
  __getattr__, __dir__ = lazy.attach(__name__, {
      "candidates": ("Candidates", "Facts"),
      "chunks": ("Chunk",),
      "encoding": ("Encoded", "Features", "encode_columns"),
      "features": ("Batch", "encode", "encode_inputs", "fit_features"),
      "generator": ("EmbeddedLog", "LogConfig", "generate_log"),
      "items": ("CandidateColumns", "Items", "read_items"),
      "naming": ("schema_from_names",),
      "parquet": ("BatchReader", "ParquetLog", "check_log", "write_parquet"),
      "schema": ("DataError", "Objective", "Schema", "read_schema"),
      "slate_logs": ("SlateLog", "read_slate_log"),
      "slate_rows": ("SlateColumns",),
      "splits": (
          "Split", "read_parts", "read_rows", "split_log", "temporal_blocks"),
  })

__all__ = [
    "Batch",
    "BatchReader",
    "CandidateColumns",
    "Candidates",
    "Chunk",
    "DataError",
    "EmbeddedLog",
    "Encoded",
    "Facts",
    "Features",
    "Items",
    "LogConfig",
    "Objective",
    "ParquetLog",
    "Schema",
    "SlateColumns",
    "SlateLog",
    "Split",
    "check_log",
    "encode",
    "encode_columns",
    "encode_inputs",
    "fit_features",
    "generate_log",
    "read_items",
    "read_parts",
    "read_rows",
    "read_schema",
    "read_slate_log",
    "schema_from_names",
    "split_log",
    "temporal_blocks",
    "write_parquet",
]
