"""The binary: input that is refused, and runs from the log to the report."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import compare
from experiments.comparison import studies
from experiments.runs import errors
from harmonrank_jax.data import schema as schema_lib
from tests.experiments import rows as rows_lib

SMALL = {"num_exposures": 4000, "num_seeds": 3, "passes": 0.1,
         "learning_rates": (0.003, 0.03), "batch_size": 512}


@pytest.mark.parametrize("config, said", [
    ({"blocks": 2, "eval_data": "/nowhere.parquet"}, "takes no --eval_data"),
    ({"schema": "x.json"}, "--schema needs --data"),
    ({"methods": ("score_bc",)}, "did you mean 'score_bce'"),
    ({"without": "clik"}, "did you mean 'click'")],
    ids=["blocks", "schema", "methods", "without"])
def test_flags_that_do_not_fit(tmp_path, config, said):
  with pytest.raises(errors.UserError) as caught:
    compare.compare(compare.Config(num_exposures=1000, **config),
                    tmp_path / "run")
  assert said in str(caught.value) and "\n" not in str(caught.value)
  # Left as it was: with the flag mended, the same workdir will do.
  assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("drop, config, error, said", [
    (("user_id", "request_id"), {"study": "lists"}, errors.UserError,
     "of users or of requests"),
    (("score_like",), {"objectives": ("like",)}, errors.UserError,
     "'like' has no score column"),
    (("time_ms",), {"blocks": 2}, schema_lib.DataError,
     "blocks are cut by time")], ids=["lists", "score", "time"])
def test_columns_that_are_not_there(tmp_path, drop, config, error, said):
  table = pa.table({
      "user_id": np.zeros(60, int), "time_ms": np.arange(60),
      "request_id": np.arange(60),
      **{name: np.arange(60) % 2 == 0 for name in rows_lib.SCHEMA.names},
      **{f"score_{name}": np.full(60, 0.5) for name in rows_lib.SCHEMA.names}})
  pq.write_table(table.drop_columns(drop), tmp_path / "less.parquet")
  roles = json.dumps(rows_lib.SCHEMA.to_json())
  for name in drop:
    roles = roles.replace(f'"{name}"', "null")
  (tmp_path / "roles.json").write_text(roles)
  with pytest.raises(error, match=said):
    compare.compare(compare.Config(
        data=str(tmp_path / "less.parquet"),
        schema=str(tmp_path / "roles.json"), **config), tmp_path / "run")


def without_seconds(summary):
  summary = json.loads(json.dumps(summary))
  for condition in summary["conditions"].values():
    for method in condition["methods"].values():
      del method["seconds"]
  return summary


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_was(tmp_path, capsys):
  config = compare.Config(
      **SMALL, blocks=2, methods=("score_soft_auc", "aligned_bce"),
      without="buy")
  workdir = tmp_path / "run"
  summary = compare.compare(config, workdir)
  names = ("summary.json", "table.md", "report.html")
  written = [(workdir / name).read_bytes() for name in names]
  assert json.loads(written[0]) == summary
  methods = summary["conditions"]["all"]["methods"]
  assert set(methods) == {
      *studies.FORMULAS, "score_soft_auc", "score_soft_auc_average",
      "aligned_bce", "ceiling"}
  for name in ("score_soft_auc", "aligned_bce"):
    assert methods[name]["seconds"] > 0
    assert 0.003 <= methods[name]["learning_rate"] <= 0.0301
  assert methods["ceiling"]["auc_sum"] > methods["aligned_bce"]["auc_sum"]
  # Nothing is trained again, and nothing changes.
  capsys.readouterr()
  compare.compare(config, workdir)
  assert "learning rate" not in capsys.readouterr().out
  assert [(workdir / name).read_bytes() for name in names] == written
  # One method of one block is.
  cell = workdir / "cells" / "all" / "block_1" / "score_soft_auc.npz"
  cell.unlink()
  again = compare.compare(config, workdir)
  said = capsys.readouterr().out
  assert said.count("learning rate") == 1 and "block 2 of 2" in said
  assert without_seconds(again) == without_seconds(summary)
  with pytest.raises(errors.UserError, match="--num_seeds was 3, now 2"):
    compare.compare(dataclasses.replace(config, num_seeds=2), workdir)
  log = workdir / "embedded_log.parquet"
  table = pq.read_table(log)
  pq.write_table(table.set_column(
      table.column_names.index("like"), "like", table["click"]), log)
  with pytest.raises(errors.UserError, match="the data has changed"):
    compare.compare(config, workdir)


@pytest.mark.slow
def test_a_study_of_lists(tmp_path):
  summary = compare.compare(compare.Config(
      **SMALL, study="lists",
      methods=("score_bce", "score_soft_auc", "aligned_soft_auc")),
      tmp_path / "run")
  conditions = summary["conditions"]
  assert list(conditions) == ["lists_batch", "lists_user", "lists_request"]
  assert "score_bce" in conditions["lists_batch"]["methods"]
  # Trained once, and a baseline of all.
  alike, ranked = (
      [condition["methods"][method]["auc"] for condition in conditions.values()]
      for method in ("score_bce", "aligned_soft_auc"))
  assert alike[0] == alike[1] == alike[2]
  assert ranked[0] != ranked[1] != ranked[2] != ranked[0]
  for condition in conditions.values():
    assert condition["group_auc_leads"]["closed_form"]
    assert condition["expected_group_auc_leads"]["score_bce"]
  # Formulas do not care for lists.
  assert conditions["lists_batch"]["methods"]["closed_form"] == (
      conditions["lists_user"]["methods"]["closed_form"])
  page = (tmp_path / "run" / "report.html").read_text()
  assert page.count("<svg") >= 4 and page.count("<table") == 3
  for title in ("How far ahead", "From condition to condition",
                "within users", "Calibration", "Numbers, lists request",
                "Configuration"):
    assert title in page
