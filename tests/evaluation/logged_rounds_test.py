"""What the off-policy estimates refuse."""

import jax
import numpy as np
import pytest

from harmonrank_jax.evaluation import logged_rounds

ZEROS = np.zeros((4, 3))


@pytest.mark.parametrize("change, message", [
    ({"weights": ZEROS[0, 0]}, r"weights has shape \(\)"),
    ({"rewards": ZEROS[0], "weights": ZEROS[0], "slates": True},
     r"weights .*\[..., N, K\]"),
    ({"rewards": ZEROS[:3]}, r"rewards has shape \(3, 3\)"),
    ({"predicted_rewards": ZEROS}, "predicted_values is missing"),
    ({"predicted_values": ZEROS}, "predicted_rewards is missing"),
    ({"predicted_rewards": ZEROS[:3], "predicted_values": ZEROS},
     "predicted_rewards has shape"),
    ({"where": np.ones(2, bool)}, r"where has shape \(2,\)"),
    ({"segment_ids": ZEROS}, "segment_ids must be integers"),
    ({"segment_ids": np.zeros(3, int), "slates": True},
     r"segment_ids has shape \(3,\)")],
    ids=["weights", "slates", "rewards", "values_missing", "rewards_missing",
         "predicted", "where", "float_segments", "segments"])
def test_errors_name_the_argument(change, message):
  arguments = {"rewards": ZEROS, "weights": ZEROS, "slates": False, **change}
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: logged_rounds.check_rounds(
        arguments.pop("rewards"), arguments.pop("weights"), **arguments)[:2])
