"""Logs of slates: which items users were shown, when and in which positions.

A row of the files is an exposure: an item in one position of the slate of one
request. All rows are checked and arranged as arrays `[R, K]`, a slate a row.
The log is held in memory, about 200 bytes an exposure.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import special

from harmonrank_jax.data import items as items_lib
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.data import slate_rows

DAY_MS = 24 * 3600 * 1000
_HOUR_MS = 3600 * 1000
# Share of the days that are held out, and the share of the slates that each
# part has at least.
_HELD_OUT, _LEAST_SHARE = 0.25, 0.05
# The similarities of so many slates are computed at a time.
_CHUNK = 1024
# Predicted clicks are clipped to this distance from 0 and 1.
MIN_PROBABILITY = 1e-4
_MIN_JOINT_PROBABILITY = 1e-7


class SlateLog(NamedTuple):
  """R slates of up to K positions, sorted by user, day and time.

  Arrays of NumPy; where no item was shown, entries are 0 or False.
  """

  user: np.ndarray  # [R] int, from 0.
  day: np.ndarray  # [R] int, days since the first.
  day_ids: np.ndarray  # [R] int32, a number for each day of a user.
  time_ms: np.ndarray  # [R] int, milliseconds since midnight.
  where: np.ndarray  # [R, K] bool, True = an item was shown.
  items: np.ndarray  # [R, K] int, rows of the table of items.
  categories: np.ndarray  # [R, K] int32, places in `category_names`.
  # [R, K] float32, cosine to the most similar item above, at least 0.
  similarity: np.ndarray
  log_odds: np.ndarray  # [R, K] float32, predicted log-odds of a click.
  # [R, K] float32, log of the predicted conversions of a click; 0 if the log
  # has no `value_score`.
  log_value: np.ndarray
  clicks: np.ndarray  # [R, K] bool.
  dismissed: np.ndarray  # [R, K] bool.
  is_random: np.ndarray  # [R, K] bool, drawn at random, not by a policy.
  item_categories: np.ndarray  # [I] int32, places in `category_names`.
  item_features: np.ndarray  # [I, D] float32.
  category_names: list[str]  # C texts, the most shown first.
  notes: tuple[str, ...] = ()  # What was found odd in the files, a line each.

  def of_days(self, chosen: np.ndarray) -> "SlateLog":
    """The slates of the days chosen, `[days]` bool; numbers stay the same."""
    return self._of_slates(chosen[self.day])

  def _of_slates(self, chosen: np.ndarray) -> "SlateLog":
    """Some slates, by their places or by a mask."""
    return self._replace(**{
        name: getattr(self, name)[chosen] for name in _BY_SLATE})


_BY_SLATE = SlateLog._fields[:SlateLog._fields.index("item_categories")]


def read_slate_log(
    data: str | pathlib.Path, items: str | pathlib.Path | None,
    columns: slate_rows.SlateColumns, *, utc_offset_hours: float = 0.0,
) -> SlateLog:
  """Reads and checks a log of slates.

  A request is one slate: its time and user are those of its first row.
  Positions of a request may have gaps, and rows stand in any order.

  Args:
    data: Parquet, a file or a folder.
    items: likewise, a table of items with category and features; None if they
      are columns of the log.
    columns: their names.
    utc_offset_hours: added to the times, for day and hour.

  Raises:
    DataError: if a column is missing or has a bad value; the message names
      file, column and row.
  """
  rows, catalogue, notes = slate_rows.read_rows(data, items, columns)
  offset = int(utc_offset_hours * _HOUR_MS)
  log = _arranged(rows._replace(time=rows.time + offset), catalogue)
  return log._replace(notes=tuple(notes))


def held_out_days(log: SlateLog) -> np.ndarray:
  """`[days]` bool, the last quarter, to judge what was fitted to the first.

  Where one of the parts would have less than half or more than twice its share
  of the slates, as after one wrong time, the days of the last quarter of the
  slates are instead, as nearly as days allow.
  """
  num_days = int(log.day.max()) + 1
  if num_days < 2:
    raise schema_lib.DataError(
        "the log is of one day; a response is fitted to the first days of a "
        "log and judged by the last: give two days or more.")
  count = max(1, round(_HELD_OUT * num_days))
  sizes = np.bincount(log.day, minlength=num_days) / len(log.day)
  later = np.cumsum(sizes[::-1])[::-1]  # [days], slates from each day on.
  begin = num_days - count
  got = np.array([1 - later[begin], later[begin]])
  wanted = np.array([begin, count]) / num_days
  if not ((wanted / 2 <= got) & (got <= 2 * wanted)).all():
    begin = 1 + int(np.argmin(np.abs(later[1:] - _HELD_OUT)))
  if not _LEAST_SHARE <= later[begin] <= 1 - _LEAST_SHARE:
    raise schema_lib.DataError(
        f"{sizes.max():.1%} of the slates are of one day; a response is fitted "
        "to the first days of a log and judged by the last: give two days or "
        "more.")
  return np.arange(num_days) >= begin


def _arranged(rows: slate_rows.Rows, catalogue: items_lib.Items) -> SlateLog:
  """Exposures to slates, sorted by user, day and time."""
  assert catalogue.categories is not None and catalogue.features is not None
  time = slate_rows.first_of(rows.request, rows.time)
  user = np.unique(
      slate_rows.first_of(rows.request, rows.user), return_inverse=True)[1]
  day = time // DAY_MS
  day -= day.min()
  day_ids = np.unique(user * (day.max() + 1) + day, return_inverse=True)[1]
  names, kinds = _categories(catalogue.categories, rows.item)
  where = _by_slot(rows, np.ones(len(rows.item), bool))
  items = _by_slot(rows, rows.item)
  log = SlateLog(
      user=user, day=day, day_ids=day_ids.astype(np.int32),
      time_ms=time % DAY_MS, where=where, items=items,
      categories=np.where(where, kinds[items], 0),
      similarity=_similarities(items, where, catalogue.features),
      log_odds=_by_slot(rows, _log_odds(rows)),
      log_value=_by_slot(rows, _log_value(rows)),
      clicks=_by_slot(rows, rows.click),
      dismissed=_by_slot(rows, rows.dismissed),
      is_random=_by_slot(rows, rows.is_random),
      item_categories=kinds, item_features=catalogue.features,
      category_names=names)
  return log._of_slates(np.lexsort((time, day, user)))


def _by_slot(rows: slate_rows.Rows, values: np.ndarray) -> np.ndarray:
  """`[N]` to `[R, K]`, 0 where there is no row."""
  result = np.zeros(
      (int(rows.request.max()) + 1, int(rows.slot.max()) + 1), values.dtype)
  result[rows.request, rows.slot] = values
  return result


def _log_odds(rows: slate_rows.Rows) -> np.ndarray:
  """`[N]` float32, of the predicted click."""
  probability = np.clip(rows.score, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
  return special.logit(probability).astype(np.float32)


def _log_value(rows: slate_rows.Rows) -> np.ndarray:
  """`[N]` float32, log of the predicted conversions of a click."""
  if rows.value_score is None:
    return np.zeros(len(rows.item), np.float32)
  joint = np.log(np.clip(rows.value_score, _MIN_JOINT_PROBABILITY, 1))
  click = np.log(np.clip(rows.score, MIN_PROBABILITY, 1))
  return (joint - click).astype(np.float32)


def _categories(
    texts: pa.Array, shown: np.ndarray
) -> tuple[list[str], np.ndarray]:
  """Names, the most shown first, and `[I]` int32 places of the items'."""
  encoded = texts.dictionary_encode()
  kinds = encoded.indices.to_numpy().astype(np.int64)
  order = np.argsort(
      -np.bincount(kinds[shown], minlength=len(encoded.dictionary)),
      kind="stable")
  rank = np.argsort(order).astype(np.int32)
  return [encoded.dictionary[int(k)].as_py() for k in order], rank[kinds]


def _similarities(
    items: np.ndarray, where: np.ndarray, features: np.ndarray
) -> np.ndarray:
  """`[R, K]` cosine to the most similar item above, at least 0."""
  unit = features / np.linalg.norm(features, axis=1, keepdims=True)
  result = np.zeros(items.shape, np.float32)
  above = np.tri(items.shape[1], k=-1, dtype=bool)
  for begin in range(0, len(items), _CHUNK):
    part = slice(begin, begin + _CHUNK)
    shown = unit[items[part]] * where[part, :, None]
    cosine = shown @ shown.swapaxes(1, 2)
    result[part] = np.max(np.where(above, cosine, 0), axis=2)
  return result
