"""Parameters that no training made: all of them count, none is 0."""

import jax
import numpy as np

from harmonrank_jax.ensemble import calibration
from harmonrank_jax.ensemble import ranker as ranker_lib
from harmonrank_jax.predictor import pepnet

# Of what has a meaning; the rest is drawn around 0.
_RANGES = {"base_rate": (0.05, 0.5), "pair_share": (0.3, 1.0),
           "scale": (0.5, 1.5), "shift": (-1.0, 1.0)}


def members(model, num_members, seed=0):
  """Parameters of the members of an ensemble, with nothing compiled."""
  num_objectives = model.config.num_objectives
  row = lambda size, dtype=np.float32: np.zeros((1, size), dtype)
  rows = ranker_lib.Rows(
      None, row(num_objectives), row(num_objectives, bool),
      row(len(model.schema.categorical), np.int32),
      row(len(model.schema.numeric)))
  platt = calibration.Calibration(
      *[np.ones(num_objectives, np.float32)] * len(
          calibration.Calibration._fields))
  shapes = jax.eval_shape(
      lambda: model.ranker.init(jax.random.key(0), rows, platt))
  rng = np.random.default_rng(seed)

  def draw(path, shape):
    size = num_members, *shape.shape
    low_high = _RANGES.get(path[-1].key)
    values = rng.uniform(*low_high, size) if low_high else (
        rng.normal(0, 0.4, size))
    return values.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def predictor(model, seed=0):
  """Parameters of a predictor, likewise."""
  row = lambda size, dtype: np.zeros((1, size), dtype)
  shapes = jax.eval_shape(lambda: pepnet.PepNet(model.config).init(
      jax.random.key(0), row(len(model.schema.categorical), np.int32),
      row(len(model.schema.numeric), np.float32)))
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes)
