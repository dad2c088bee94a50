"""A bundle is the trained model, at any number of rows and objectives."""

import jax
import numpy as np
import pytest

from experiments.artefacts import making
from experiments.artefacts import stages as stages_lib
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.ensemble import network
from harmonrank_jax.serving import buckets as buckets_lib
from harmonrank_jax.serving import bundle as bundle_lib
from harmonrank_jax.serving import models
from harmonrank_jax.serving import scorer
from tests.serving import drawn
from tests.serving import functions_test as stages

# The last bucket is 4096.
SIZES = (1, 7, 64, 500, 4096, 4097)


@pytest.mark.slow
@pytest.mark.parametrize("head", network.HEADS)
@pytest.mark.parametrize("num_objectives", [1, 6, 16])
def test_a_bundle_is_the_model_at_any_size(
    tmp_path, monkeypatch, num_objectives, head):
  # All buckets are used, as where there is no CPU.
  monkeypatch.setattr(buckets_lib, "_CPU_ROWS", max(SIZES))
  model = models.Ensemble(
      network.HarmonRankConfig(num_objectives, head=head),
      stages.schema_of(num_objectives), stages.features_of(num_objectives),
      tuple(1.0 + m for m in range(num_objectives)))
  params = drawn.members(model, 4)
  trained = models.Trained(model, models.flat(params))
  bundle = bundle_lib.load(making.publish(
      [stages_lib.stage_of(trained)], tmp_path))
  rows = stages.draw(max(SIZES), num_objectives)
  assert not rows.has_score.all() and rows.has_score.any()
  expect = scorer.Scorer(
      model.ranker, np.asarray(model.objective_weights, np.float32))
  count = len(rows.scores)
  expected = expect(params, features_lib.Batch(
      np.zeros((count, num_objectives), bool), *rows[1:5],
      *np.zeros((3, count), np.int64)))
  assert expected.std() > 0.01 * np.abs(expected).max()
  weights = model.objective_weights if head == "aligned" else None
  for size in SIZES:
    for start in {0, count - size}:
      part = jax.tree.map(lambda x, a=start, z=start + size: x[a:z], rows)
      found = bundle.run("score", stages.score_inputs(part, weights))
      np.testing.assert_allclose(
          found["ranking_score"], expected[start:start + size], rtol=0,
          atol=1e-6 * np.abs(expected).max())
  assert len(bundle.compiled["score"]) == 5
