"""The study that the columns of a log allow."""

import dataclasses

from experiments.comparison import inputs as inputs_lib
from experiments.comparison import studies
from tests.experiments import rows as rows_lib


def test_conditions_that_the_columns_do_not_allow_are_left_out():
  config = studies.Config(study="lists", methods=("score_soft_auc",))
  schema = dataclasses.replace(rows_lib.SCHEMA, request=None)
  study, left_out = inputs_lib.fitting_study(config, schema)
  assert [condition.name for condition in study.conditions] == [
      "lists_batch", "lists_user"]
  assert [condition.name for condition in left_out] == ["lists_request"]
  assert study.methods == ("score_soft_auc",)
  study, left_out = inputs_lib.fitting_study(config, rows_lib.SCHEMA)
  assert len(study.conditions) == 3 and left_out == ()
