"""Rows and families that several tests of trade-offs share."""

import base64
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn import metrics as sk_metrics

from experiments.tradeoff import families as families_lib

NAMES = ("view", "like", "buy")
RATES = (0.4, 0.05, 0.004)


def rows(num_rows=9000, seed=0):
  """Terms that know something, labels, users, and the truth."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(num_rows, 3)) + np.log(RATES)
  truth = 1 / (1 + np.exp(-logits))
  labels = rng.random(truth.shape) < truth
  terms = np.float32(truth / RATES)
  return terms, labels, rng.integers(0, 900, num_rows), truth


def families_of(terms, weights):
  """Families of which the first is ahead of the second."""
  rng = np.random.default_rng(1)
  noisy = terms * np.float32(np.exp(0.5 * rng.normal(size=terms.shape)))
  family = lambda terms, seconds: families_lib.Family(
      weights @ terms.T, terms, seconds)
  return {families_lib.ONE: family(terms, 2.0),
          families_lib.SEPARATE: family(noisy, 40.0),
          families_lib.CLOSED_FORM: family(terms ** np.float32(0.8), None)}


def write_log(path):
  """A good log of two objectives, and one without a positive."""
  rng = np.random.default_rng(0)
  count = 80
  columns = {"user_id": rng.integers(0, 20, count), "time_ms": np.arange(count)}
  for name in ("click", "like", "never"):
    columns[name] = (rng.random(count) < 0.4).astype(np.int8)
    columns[f"score_{name}"] = rng.random(count)
  columns["never"][:] = 0
  pq.write_table(pa.table(columns), path)


def page_terms(families):
  """What the page is given of families."""
  return {name: family.terms for name, family in families.items()}


def page_data(path):
  page = path.read_text()
  return json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))


def estimates(data, family, weights):
  """AUC of each objective from what stands in the page, in NumPy."""
  array = lambda text, kind: np.frombuffer(base64.b64decode(text), kind)
  sample, size = data["sample"], len(data["names"])
  mass = array(sample["weights"], "<f4").astype(np.float64)
  labels = array(sample["labels"], "<u2").reshape(-1, size) > 0
  terms = sample["terms"][family]
  terms = np.exp(terms["low"] + terms["step"] * array(
      terms["levels"], "<u2").reshape(-1, size).astype(np.float64))
  scores = terms @ np.asarray(weights)
  return [sk_metrics.roc_auc_score(column, scores, sample_weight=mass)
          for column in labels.T]
