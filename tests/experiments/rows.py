"""Rows of a log that is made up, and AUCs of them by scikit-learn."""

import numpy as np
from sklearn import metrics as sk_metrics

from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import schema as schema_lib

SCHEMA = schema_lib.Schema(
    tuple(schema_lib.Objective(name, name, f"score_{name}")
          for name in ("click", "like", "buy")),
    user="user_id", request="request_id", time="time_ms")


def made_up_rows(rng, num_rows, num_users=12):
  """Rows of three objectives; the last one is rare."""
  chance = rng.random((num_rows, 1))**2 * rng.uniform(
      0.5, 1, (num_rows, 3)) * [1, 0.8, 0.5]
  user = rng.integers(0, num_users, num_rows)
  return features_lib.Batch(
      labels=rng.random((num_rows, 3)) < chance,
      scores=chance.clip(0.01, 0.99).astype(np.float32),
      has_score=np.ones((num_rows, 3), bool),
      categorical=rng.integers(0, 3, (num_rows, 1)).astype(np.int32),
      numeric=rng.uniform(-1, 1, (num_rows, 1)).astype(np.float32),
      user=user, request=user * 2 + rng.integers(0, 2, num_rows),
      time=np.arange(num_rows))


def auc(labels, scores):
  """By scikit-learn; NaN where it has none."""
  if labels.all() or not labels.any():
    return np.nan
  return sk_metrics.roc_auc_score(labels, scores)


def within_users(users, labels, scores):
  """AUC of each user by a loop, and its weight in rows; 0 without an AUC."""
  known = np.unique(users)
  values = np.array([auc(labels[users == u], scores[users == u])
                     for u in known])
  counts = np.array([(users == u).sum() for u in known])
  return np.nan_to_num(values), np.where(np.isnan(values), 0, counts)


def auc_within(users, labels, scores):
  """Mean AUC of the users that have one, weighted by their rows."""
  values, counts = within_users(users, labels, scores)
  return np.average(values, weights=counts) if counts.any() else np.nan
