"""A log with all that an encoder meets, and its rows as a request has them."""

import numpy as np
import pyarrow as pa

from harmonrank_jax.data import kinds

# Rows from here on are the last ones, with values that nobody was trained on.
LATE = 0.7


def make_log(num_rows, seed=0):
  """Rows with ids that are new later on, and all kinds of missing values.

  `score_click` is a probability and `score_watch` any real number; `country`
  is a dictionary, `page` whole numbers, `premium` booleans; some of `tenure`
  are NaN or infinite.
  """
  rng = np.random.default_rng(seed)
  is_late = np.arange(num_rows) > LATE * num_rows
  chance = rng.random(num_rows)
  country = rng.choice(["de", "fr", "it"], num_rows).astype(object)
  country[is_late & (rng.random(num_rows) < 0.2)] = "xx"
  page = rng.integers(1, 6, num_rows)
  page[is_late & (rng.random(num_rows) < 0.2)] = 99
  tenure = rng.lognormal(3, 1, num_rows)
  tenure[rng.random(num_rows) < 0.05] = np.nan
  tenure[rng.random(num_rows) < 0.02] = np.inf
  watch = 4 * (chance - 0.5) + rng.normal(size=num_rows) + 50
  click = np.clip(chance + rng.normal(0, 0.1, num_rows), 0, 1)

  def some(values, kind=None):
    """The values, of which some are null."""
    return pa.array(values, kind, mask=rng.random(num_rows) < 0.1)

  return pa.table({
      "user_id": rng.integers(0, 50, num_rows),
      "time_ms": 1_700_000_000_000 + np.arange(num_rows) * 1000,
      "click": (rng.random(num_rows) < chance).astype(np.int8),
      "score_click": some(click, pa.float32()),
      "watch": (rng.random(num_rows) < chance**2).astype(np.int8),
      "score_watch": some(watch),
      "country": some(country, pa.string()).dictionary_encode(),
      "page": some(page, pa.int32()),
      "premium": some(rng.random(num_rows) < 0.3),
      "tenure": pa.array(tenure, pa.float32()),
      "visits": some(rng.integers(0, 20_000, num_rows), pa.int16())})


def raw_columns(table):
  """The columns of a table as NumPy has them, missing as None or NaN."""
  columns = {}
  for name in table.column_names:
    column = table[name].combine_chunks()
    if kinds.is_text(column.type):
      column = column.cast(pa.string())
    columns[name] = column.to_numpy(zero_copy_only=False)
  return columns
