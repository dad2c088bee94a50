"""What is said of a rank loss that teaches nothing."""

import re

import numpy as np
import pytest

from experiments.ranker import objectives


@pytest.mark.parametrize("measured, said", [
    ({"live_objectives": {"click": 0.0, "buy": 0.0}}, "--lists"),
    ({"live_objectives": np.zeros(2)}, "--lists"),
    ({"live_objectives": np.array([0.0, 0.25]),
      "dead_gradient_fraction": 0.95, "soft_auc": np.array([np.nan, 0.6])},
     "95% of the items have no gradient.*--relative_strength"),
    ({"live_objectives": {"click": 1.0}, "dead_gradient_fraction": 1.0,
      "soft_auc": {"click": 0.5}}, "--relative_strength"),
    # Nothing is left to order; a usual step; losses of single items.
    ({"live_objectives": {"click": 1.0}, "dead_gradient_fraction": 1.0,
      "soft_auc": {"click": 1.0}}, None),
    ({"live_objectives": {"click": 1.0}, "dead_gradient_fraction": 0.5,
      "soft_auc": {"click": 0.7}}, None),
    ({"cross_entropy": {"click": 1.0}}, None)])
def test_a_rank_loss_without_gradient_is_remarked_on(measured, said):
  line = objectives.remark(measured)
  if said is None:
    assert line is None
  else:
    assert line is not None
    assert re.search(said, line)
