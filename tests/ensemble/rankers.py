"""A tiny ranker and rows made up for it, for tests of its training."""

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import network
from harmonrank_jax.ensemble import ranker as ranker_lib

WEIGHTS = jnp.array([1.0, 2.0])


def make_ranker(head="aligned"):
  """Two objectives and one categorical column; quick to compile."""
  config = network.HarmonRankConfig(
      2, head=head, token_size=2, relation_aware=False, self_attention=False)
  return ranker_lib.Ranker(config, (3,))


def make_rows(*, seed=0, lists=False):
  """40 rows whose labels follow their scores, some scores missing."""
  rng = np.random.default_rng(seed)
  scores = rng.uniform(0.05, 0.95, (40, 2)).astype(np.float32)
  return ranker_lib.Rows(
      labels=jnp.asarray(rng.random((40, 2)) < scores),
      scores=jnp.asarray(scores),
      has_score=jnp.asarray(rng.random((40, 2)) < 0.9),
      categorical=jnp.asarray(rng.integers(0, 3, (40, 1)), jnp.int32),
      numeric=jnp.asarray(rng.normal(size=(40, 1)), jnp.float32),
      lists=jnp.asarray(np.arange(40) // 10, jnp.int32) if lists else None)


def fit_platt(rows):
  """Calibration of the rows themselves."""
  return jax.jit(calibration.fit_platt)(
      rows.scores, rows.labels, where=rows.has_score)


def make_params(ranker, rows, *, seed=0):
  """Parameters away from where training starts, none of them 0."""
  params = jax.jit(ranker.init)(jax.random.key(seed), rows, fit_platt(rows))
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
