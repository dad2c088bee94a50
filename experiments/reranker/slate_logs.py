"""Logs of slates: who was shown what, when and where on the page.

A row is an exposure. What it lacks of the item's category and features a table
of items has. The log is held in memory, some 200 bytes a row.
"""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import special

from experiments.runs import errors
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import items as item_columns
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib
from harmonrank_jax.reranker import response as response_lib
from harmonrank_jax.reranker import simulator

DAY_MS = 24 * 3600 * 1000
NUM_WINDOWS = response_lib.NUM_WINDOWS
# Beyond it a page is no page.
_MOST_POSITIONS = 200
# Requests whose similarities are computed at a time.
_CHUNK = 1024
# Of the days, the last ones, to judge by what the first ones were fitted to.
_HELD_OUT_SHARE = 0.25
# What a pool holds: the memory of a simulated world grows with both.
_MOST_USERS, _MOST_PLACES = 1024, 512
_LEAST_PROBABILITY = 1e-4
# Requests of a day, of who never came twice on one.
_LEAST_ACTIVITY = 0.05


class Columns(NamedTuple):
  """Names of columns; None is what the log does not have."""

  user: str = "user_id"
  request: str = "request_id"
  item: str = "item_id"
  time: str = "time_ms"
  position: str = "position"
  click: str = "click"
  score: str = "score_click"
  category: str = "category"
  features: str | None = None
  dismissed: str | None = None
  value_score: str | None = None
  random: str | None = None


class HomeLog(NamedTuple):
  """R slates of up to K positions, sorted by user, day and time.

  Attributes:
    exposures: arrays of NumPy.
    user: `[R]` int, from 0.
    day: `[R]` int, days since the first.
    items: `[R, K]` int, rows of the table of items; 0 where nothing is.
    log_value: `[R, K]` float32, log of the predicted conversions of a click.
    is_random: `[R, K]` bool, exposures by chance instead of by a policy.
    item_categories: `[I]` int32, places in `categories`.
    item_features: `[I, D]` float32.
    categories: names, the most shown first.
  """

  exposures: response_lib.Exposures
  user: np.ndarray
  day: np.ndarray
  items: np.ndarray
  log_value: np.ndarray
  is_random: np.ndarray
  item_categories: np.ndarray
  item_features: np.ndarray
  categories: list[str]

  def of_days(self, chosen: np.ndarray) -> "HomeLog":
    """The slates of some days.

    Args:
      chosen: `[days]` bool.
    """
    rows = chosen[self.day]
    take = lambda values: values[rows]
    return self._replace(
        exposures=response_lib.Exposures(*map(take, self.exposures)),
        user=take(self.user), day=take(self.day), items=take(self.items),
        log_value=take(self.log_value), is_random=take(self.is_random))


def read_log(
    data: str | pathlib.Path, items: str | pathlib.Path | None,
    columns: Columns, *, utc_offset_hours: float = 0.0,
) -> HomeLog:
  """Reads and checks a log of slates.

  Args:
    data: Parquet, a file or a folder.
    items: likewise, a table of items for category and features; None if they
      are columns of the log.
    columns: their names.
    utc_offset_hours: what to add to the times, for the hour of the day.

  Raises:
    DataError: if a column or value is not what it should be.
  """
  log = parquet.ParquetLog(data)
  schema = _schema(log, columns, in_log=items is None)
  parquet.check_log(log, schema)
  if items is None:
    names = item_columns.feature_columns(log, columns.features)
    if not names:
      raise item_columns.missing(
          log, "features", columns.features or item_columns.FEATURES,
          or_items=True)
    table, catalogue = _with_own_items(log, schema, columns, names)
  else:
    table = pa.concat_tables(log.tables(schema.columns))
    catalogue = item_columns.read_items(
        items, item_columns.Columns(
            item=columns.item, category=columns.category,
            features=columns.features),
        item_columns.plain_type(log.arrow_schema.field(columns.item).type),
        has_category=True, has_features=True)
  return _arranged(table, catalogue, columns, str(data), utc_offset_hours)


def held_out_days(log: HomeLog) -> np.ndarray:
  """`[days]` bool, True = the last days, of a log of two or more.

  Raises:
    UserError: if there is one day only.
  """
  num_days = int(log.day.max()) + 1
  if num_days < 2:
    raise errors.UserError(
        "the log is of one day; a response is fitted to the first days of a "
        "log and judged by the last: give two days or more.")
  count = max(1, round(_HELD_OUT_SHARE * num_days))
  return np.arange(num_days) >= num_days - count


def make_pool(
    log: HomeLog, *, num_candidates: int, seed: int
) -> tuple[simulator.Pool, np.ndarray]:
  """What each user can be shown: all that the log has shown them, shuffled.

  Args:
    log: of which users with too few items for half a request are left out.
    num_candidates: of a request; a pool has a multiple of it of places.
    seed: of the draws, among users and items if there are many.

  Returns:
    The pool, and `[U]`, the log's numbers of its users.

  Raises:
    UserError: if no user is left.
  """
  rng = np.random.default_rng(seed)
  exposures = log.exposures
  rows, slots = np.nonzero(exposures.where)
  user, item = log.user[rows], log.items[rows, slots]
  # One place for each of a user's items, with the newest scores.
  newest = np.lexsort((exposures.time[rows], log.day[rows], item, user))
  user, item = user[newest], item[newest]
  is_last = np.append((np.diff(user) != 0) | (np.diff(item) != 0), True)
  user, item, source = user[is_last], item[is_last], newest[is_last]
  counts = np.bincount(user)
  users = np.flatnonzero(counts >= max(1, num_candidates // 2))
  if not len(users):
    raise errors.UserError(
        f"no user has been shown {max(1, num_candidates // 2)} different "
        "items, of which to draw the candidates of a request; lower "
        "--num_candidates.")
  if len(users) > _MOST_USERS:
    users = np.sort(rng.choice(users, _MOST_USERS, replace=False))
  most = min(int(counts[users].max()), _MOST_PLACES)
  num_places = num_candidates * max(most // num_candidates, 1)
  starts = np.cumsum(counts) - counts
  places = np.zeros((len(users), num_places), np.int64)
  where = np.zeros(places.shape, bool)
  for row, number in enumerate(users):
    own = starts[number] + rng.permutation(counts[number])
    # The same order again and again, a run of candidates or longer, so that
    # no run has an item twice, around the end neither.
    times = -(-num_places // max(len(own), num_candidates))
    for block in np.array_split(np.arange(num_places), times):
      used = block[:len(own)]
      places[row, used] = own[:len(used)]
      where[row, used] = True
  rows, slots = rows[source][places], slots[source][places]
  return simulator.Pool(*map(jnp.asarray, (
      log.item_features, log.item_categories, item[places].astype(np.int32),
      exposures.log_odds[rows, slots], log.log_value[rows, slots],
      where))), users


def activity(log: HomeLog, users: np.ndarray) -> np.ndarray:
  """`[U]` expected requests of a day, given that a user comes on it.

  A day without a request is not in the log: the rate is that of a Poisson
  number that is known not to be 0.
  """
  of_user = np.bincount(log.user, minlength=users.max() + 1)[users]
  days = np.unique(log.user * (log.day.max() + 1) + log.day)
  num_days = np.bincount(
      days // (log.day.max() + 1), minlength=users.max() + 1)[users]
  mean = np.maximum(of_user / np.maximum(num_days, 1),
                    _LEAST_ACTIVITY / -np.expm1(-_LEAST_ACTIVITY))
  # Of rate / (1 - exp(-rate)) = mean.
  rate = mean + special.lambertw(-mean * np.exp(-mean)).real
  return rate.astype(np.float32)


def arrivals(log: HomeLog) -> np.ndarray:
  """`[W]` shares of a day's requests by window, smoothed over an hour."""
  windows = np.clip(log.exposures.time.astype(int), 0, NUM_WINDOWS - 1)
  counts = np.bincount(windows, minlength=NUM_WINDOWS) + 0.5
  smooth = np.sum([np.roll(counts, shift) for shift in (-1, 0, 1, 2)], axis=0)
  return (smooth / smooth.sum()).astype(np.float32)


def _schema(
    log: parquet.ParquetLog, columns: Columns, *, in_log: bool
) -> schema_lib.Schema:
  objectives = [schema_lib.Objective("click", columns.click, columns.score)]
  for role in ("dismissed", "random"):
    name = getattr(columns, role)
    if name:
      objectives.append(schema_lib.Objective(role, name))
  numeric = [columns.position]
  if columns.value_score:
    numeric.append(columns.value_score)
  if in_log and columns.category not in log.arrow_schema.names:
    raise item_columns.missing(
        log, "category", columns.category, or_items=True)
  return schema_lib.Schema(
      tuple(objectives), user=columns.user, item=columns.item,
      time=columns.time, request=columns.request, numeric=tuple(numeric),
      categorical=(columns.category,) if in_log else ())


def _with_own_items(
    log: parquet.ParquetLog, schema: schema_lib.Schema, columns: Columns,
    names: tuple[str, ...],
) -> tuple[pa.Table, item_columns.Items]:
  """The log, and items as their first exposures describe them."""
  tables, ids, categories, features = [], None, [], []
  num_features = None
  for group in log.row_groups:
    table = log.read(group, (*schema.columns, *names))
    place = item_columns.Place(log.place(group), group.first_row)
    own = item_columns.one_array(table[columns.item])
    first = pc.index_in(own, value_set=own).to_numpy()
    is_new = first == np.arange(len(first))
    if ids is not None:
      is_new &= pc.is_null(pc.index_in(own, value_set=ids)).to_numpy(
          zero_copy_only=False)
    chosen = pa.array(np.flatnonzero(is_new))
    found = item_columns.read_features(table, names, place, num_features)
    num_features = found.shape[1]
    features.append(found[is_new])
    categories.append(item_columns.read_categories(
        table, columns.category, place).take(chosen))
    ids = own.take(chosen) if ids is None else pa.concat_arrays(
        [ids, own.take(chosen)])
    tables.append(table.select(list(schema.columns)))
  assert ids is not None
  return pa.concat_tables(tables), item_columns.Items(
      ids, pa.concat_arrays(categories), np.concatenate(features))


def _arranged(
    table: pa.Table, catalogue: item_columns.Items, columns: Columns,
    name: str, utc_offset_hours: float,
) -> HomeLog:
  """Rows to slates."""
  assert catalogue.categories is not None and catalogue.features is not None
  found = pc.index_in(item_columns.one_array(table[columns.item]),
                      value_set=catalogue.ids)
  place = item_columns.Place(name, 0)
  item_columns.fail_at(
      pc.is_null(found), table, columns.item, place,
      "the table of items does not have it")
  item = found.to_numpy().astype(np.int64)
  request, slot = _slots(table, columns, place)
  num_slates, num_positions = int(request.max()) + 1, int(slot.max()) + 1
  shape = (num_slates, num_positions)

  def matrix(values, dtype):
    result = np.zeros(shape, dtype)
    result[request, slot] = values
    return result

  def one_of(values):  # The first row's, of every request.
    result = np.zeros(num_slates, values.dtype)
    result[request[::-1]] = values[::-1]
    return result

  numbers = lambda column: schema_lib.numbers_of(table[column])
  times = features_lib.times(table, columns.time) + int(
      utc_offset_hours * 3_600_000)
  time = one_of(times)
  of_row = features_lib.id_numbers(table, columns.user)
  item_columns.fail_at(
      of_row != one_of(of_row)[request], table, columns.user, place,
      "its request has another user in an earlier row")
  user = np.unique(one_of(of_row), return_inverse=True)[1]
  day = time // DAY_MS
  day -= day.min()
  score = numbers(columns.score)
  item_columns.fail_at(
      ~((score >= 0) & (score <= 1)), table, columns.score, place,
      "the predicted click must be a probability")
  none = np.zeros(len(item))
  value = none
  if columns.value_score:
    joint = numbers(columns.value_score)
    item_columns.fail_at(
        ~((joint >= 0) & (joint <= 1)), table, columns.value_score, place,
        "the predicted click with conversion must be a probability")
    value = np.log(np.clip(joint, 1e-7, 1)) - np.log(
        np.clip(score, _LEAST_PROBABILITY, 1))
  categories, kinds = _categories(catalogue.categories, item)
  items = matrix(item, np.int64)
  where = matrix(True, bool)
  order = np.lexsort((time, day, user))
  take = lambda values: values[order]
  given = lambda column: numbers(column) if column else none
  clipped = np.clip(score, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
  exposures = response_lib.Exposures(
      log_odds=take(matrix(special.logit(clipped), np.float32)),
      categories=take(np.where(where, kinds[items], 0).astype(np.int32)),
      similarity=take(_similarities(items, where, catalogue.features)),
      clicks=take(matrix(numbers(columns.click), bool)),
      dismissed=take(matrix(given(columns.dismissed), bool)),
      where=take(where),
      time=take((time % DAY_MS / (DAY_MS / NUM_WINDOWS)).astype(np.float32)),
      day_ids=take(np.unique(
          user * (day.max() + 1) + day, return_inverse=True)[1]
          .astype(np.int32)))
  return HomeLog(
      exposures, take(user), take(day), take(items),
      take(matrix(value, np.float32)),
      take(matrix(given(columns.random), bool)), kinds.astype(np.int32),
      catalogue.features, categories)


def _slots(
    table: pa.Table, columns: Columns, place: item_columns.Place
) -> tuple[np.ndarray, np.ndarray]:
  """Request and position of every row, both from 0."""
  request = np.unique(features_lib.id_numbers(table, columns.request),
                      return_inverse=True)[1]
  position = schema_lib.numbers_of(table[columns.position])
  position = position - np.fmin.reduce(position)  # A missing one is NaN.
  item_columns.fail_at(
      ~((position % 1 == 0) & (position < _MOST_POSITIONS)), table,
      columns.position, place,
      f"positions must be whole numbers, {_MOST_POSITIONS} at most")
  slot = position.astype(np.int64)
  order = np.lexsort((slot, request))
  twice = np.zeros(len(order), bool)
  twice[order[1:]] = (np.diff(request[order]) == 0) & (
      np.diff(slot[order]) == 0)
  item_columns.fail_at(twice, table, columns.position, place,
                       "its request has another item there")
  return request, slot


def _categories(
    texts: pa.Array, shown: np.ndarray
) -> tuple[list[str], np.ndarray]:
  """Names, the most shown first, and the places of items among them."""
  encoded = texts.dictionary_encode()
  kinds = encoded.indices.to_numpy().astype(np.int64)
  order = np.argsort(
      -np.bincount(kinds[shown], minlength=len(encoded.dictionary)),
      kind="stable")
  rank = np.argsort(order)
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
