"""Logs that worlds cannot be made of, or hardly."""

import pytest

from experiments.reranker import config as config_lib
from experiments.reranker import world as world_lib
from experiments.runs import errors
from harmonrank_jax.data import slate_logs

CONFIG = config_lib.Config(num_exposures=4000)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
  return world_lib.read_log(CONFIG, tmp_path_factory.mktemp("log"))


@pytest.mark.parametrize("is_clicked", [False, True])
@pytest.mark.parametrize("part", ["first", "last"])
def test_a_part_of_one_class_is_refused_before_the_fit(
    tmp_path, log, part, is_clicked):
  days = slate_logs.held_out_days(log) == (part == "last")
  clicks = log.clicks.copy()
  clicks[days[log.day]] = is_clicked & log.where[days[log.day]]
  with pytest.raises(errors.UserError, match=(
      f"exposures of the {part} days are " + (
          "clicked" if is_clicked else "without a click"))):
    world_lib.fit_log(CONFIG, log._replace(clicks=clicks), tmp_path)


@pytest.mark.parametrize("field, said", [
    ("log_odds", "the predicted click is the same in all"),
    ("categories", "the category is the same in all")])
def test_what_nothing_is_learnt_from_is_said(log, field, said):
  assert not world_lib._check_clicks(log, "first")
  line, = world_lib._check_clicks(
      log._replace(**{field: 0 * getattr(log, field)}), "first")
  assert said in line and "of the first days" in line
