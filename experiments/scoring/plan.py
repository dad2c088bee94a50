"""What a run of scoring has to do, and whether it may."""

import hashlib
import json
import os
import pathlib
import re
from typing import NamedTuple

import pyarrow as pa

from experiments.runs import errors
from experiments.runs import workdir as workdir_lib
from experiments.scoring import config as config_lib
from experiments.scoring import files
from harmonrank_jax.data import files as data_files
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import batches

# In the folder of the output: what it is of. Readers skip the name.
RECORD = "_score.json"


class Shard(NamedTuple):
  """One of several parts of the spans."""

  number: int  # From 0.
  of: int


class Plan(NamedTuple):
  """What is to be done."""

  scorer: batches.BatchScorer
  tasks: list[files.Task]  # Of this shard, without those that are done.
  num_done: int  # Spans of this shard whose files are there.
  notes: list[str]  # What was found odd in the data, a line each.


def parse_shard(text: str) -> Shard:
  """Of a text as in "2/4"; `UserError` for any other."""
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if match and int(match[1]) < int(match[2]):
    return Shard(int(match[1]), int(match[2]))
  raise errors.UserError(
      f"--shard={text}: expected a number from 0 and how many there are, as in "
      "0/4 to 3/4.")


def make(config: config_lib.Config, out: pathlib.Path) -> Plan:
  """Opens artefact, data and output, and checks that they fit each other.

  Raises:
    DataError: if there is no such artefact or data, or a file lacks a column.
    UserError: if the output is of something else.
  """
  assert config.artefact and config.data
  scorer = batches.BatchScorer(
      config.artefact, suffix=config.suffix,
      objective_weights=config.objective_weights)
  _check_apart(pathlib.Path(config.data), out)
  log = parquet.ParquetLog(config.data)
  _check_columns(log, scorer)
  shard = parse_shard(config.shard)
  tasks = files.tasks_of(log)[shard.number::shard.of]
  _claim(out, shard, {
      "artefact": scorer.version, "data": _fingerprint(log),
      "suffix": config.suffix, "objective_weights": config.objective_weights})
  left = [task for task in tasks if not (out / task.file).exists()]
  if config.strict:
    _check_none_rejected(tasks, out)
  return Plan(scorer, left, len(tasks) - len(left), log.notes)


def _check_apart(data: pathlib.Path, out: pathlib.Path) -> None:
  """Raises if the output would become data."""
  if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
    raise errors.UserError(
        f"--out={out} is within --data={data}: its files would be data next "
        "time; name a folder outside.")


def _check_columns(
    log: parquet.ParquetLog, scorer: batches.BatchScorer
) -> None:
  """Raises if a file with rows cannot be scored."""
  seen = []
  for number, file in enumerate(log.files):
    if number not in log.partitions:
      continue  # It has no rows.
    schema = log.metadata[number].schema.to_arrow_schema().remove_metadata()
    for name, value in log.partitions[number].items():
      schema = schema.append(pa.field(name, value.type))
    if schema not in seen:
      try:
        scorer.check(schema)
      except schema_lib.DataError as error:
        raise schema_lib.DataError(f"{file}: {error}") from None
      seen.append(schema)


def _claim(out: pathlib.Path, shard: Shard, content: dict) -> None:
  """Says what the output is of; `UserError` if it is of something else."""
  content = json.loads(json.dumps(content))
  path = out / RECORD
  if path.exists():
    known = workdir_lib.read_json(path)
    for name, value in content.items():
      if known.get(name) != value:
        raise errors.UserError(
            f"{out} holds scores of another run: {name} was "
            f"{json.dumps(known.get(name))}, now {json.dumps(value)}. Name "
            "another --out.")
    return
  if any(not entry.name.startswith((".", "_")) for entry in out.iterdir()):
    raise errors.UserError(
        f"{out} is not empty and has no {RECORD}; name an empty or new folder "
        "with --out.")
  # Shards of several hosts may begin at once, each with a name of its own.
  with data_files.atomic(
      path, temporary_name=f"{RECORD}.{shard.number}-of-{shard.of}"
  ) as temporary:
    temporary.write_text(json.dumps(content, indent=2) + "\n")


def _check_none_rejected(tasks: list[files.Task], out: pathlib.Path) -> None:
  """Raises if an earlier run that was not strict has put rows aside."""
  for task in tasks:
    rejected = out / files.REJECTED / task.file
    if rejected.exists():
      raise errors.UserError(
          f"{rejected} has rows that cannot be scored, with their reasons; "
          "--strict allows none.")


def _fingerprint(log: parquet.ParquetLog) -> str:
  """Names, sizes and footers of all files, as a hash.

  A footer holds the sizes of all columns of all row groups, with the least and
  the largest value of most. Rows are not read.
  """
  digest = hashlib.sha256()
  for file, metadata in zip(log.files, log.metadata, strict=True):
    name = (file.name if file == log.path
            else file.relative_to(log.path).as_posix())
    digest.update(f"{name}\n{file.stat().st_size}\n".encode())
    with open(file, "rb") as content:
      content.seek(-8 - metadata.serialized_size, os.SEEK_END)
      digest.update(content.read())
  return digest.hexdigest()
