"""The exposures of a log of slates: rows of Parquet, read and checked."""

import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import checks
from harmonrank_jax.data import encoding
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import items as items_lib
from harmonrank_jax.data import kinds
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

# A longer slate points to a column that is no position.
_MAX_POSITIONS = 200


class SlateColumns(NamedTuple):
  """Names of the columns; None if the log has no such column."""

  user: str = "user_id"
  request: str = "request_id"
  item: str = "item_id"
  time: str = "time_ms"  # Integers since 1970, dates or timestamps.
  position: str = "position"  # Ascends down the slate, from 0, 1 or later.
  click: str = "click"  # 0 or 1.
  score: str = "score_click"  # Predicted probability of a click.
  category: str = "category"  # Text or integers.
  # Lists of numbers; if None, `features`, or else all `embedding_*`.
  features: str | None = None
  dismissed: str | None = None  # 0 or 1.
  value_score: str | None = None  # Predicted, a click with a conversion.
  random: str | None = None  # 1 if drawn at random instead of by a policy.


class Rows(NamedTuple):
  """N checked exposures, in the order of the files."""

  item: np.ndarray  # [N] int, rows of the table of items.
  request: np.ndarray  # [N] int, from 0.
  slot: np.ndarray  # [N] int, positions from 0.
  user: np.ndarray  # [N] int64, equal where the ids are.
  time: np.ndarray  # [N] int64 milliseconds.
  score: np.ndarray  # [N] predicted probability of a click.
  value_score: np.ndarray | None  # [N], of a click with a conversion.
  click: np.ndarray  # [N] bool.
  dismissed: np.ndarray  # [N] bool.
  is_random: np.ndarray  # [N] bool.


def read_rows(
    data: str | pathlib.Path, items: str | pathlib.Path | None,
    columns: SlateColumns,
) -> tuple[Rows, items_lib.Items, list[str]]:
  """Reads and checks all exposures, and what is known of their items.

  What was found odd comes with them, a line each.
  """
  log = parquet.ParquetLog(data)
  schema = _schema(log, columns, in_log=items is None)
  log = parquet.check_log(log, schema)
  if items is None:
    table, catalogue = _with_own_items(log, schema, columns)
  else:
    table = pa.concat_tables(log.tables(schema.columns))
    catalogue = items_lib.read_items(
        items, items_lib.CandidateColumns(
            item=columns.item, category=columns.category,
            features=columns.features),
        log.kind(columns.item), has_category=True, has_features=True,
        may_lack=False)
  return (_checked(table, catalogue.ids, columns, checks.Place(data)),
          catalogue, [*log.notes, *catalogue.notes])


def first_of(request: np.ndarray, values: np.ndarray) -> np.ndarray:
  """`[N]` to `[R]`, the first row's of every request."""
  result = np.zeros(int(request.max()) + 1, values.dtype)
  # Later assignments win: backwards, they are those of the first rows.
  result[request[::-1]] = values[::-1]
  return result


def _schema(
    log: parquet.ParquetLog, columns: SlateColumns, *, in_log: bool
) -> schema_lib.Schema:
  """Roles of the columns of a log that has its own categories, or has not."""
  objectives = [schema_lib.Objective("click", columns.click)]
  for role in ("dismissed", "random"):
    name = getattr(columns, role)
    if name:
      objectives.append(schema_lib.Objective(role, name))
  if in_log and columns.category not in log.arrow_schema.names:
    raise items_lib.missing(
        log, "category", columns.category, or_items=True)
  return schema_lib.Schema(
      tuple(objectives), user=columns.user, item=columns.item,
      time=columns.time, request=columns.request,
      categorical=(columns.category,) if in_log else (),
      numeric=tuple(filter(None, (
          columns.position, columns.score, columns.value_score))))


def _with_own_items(
    log: parquet.ParquetLog, schema: schema_lib.Schema, columns: SlateColumns
) -> tuple[pa.Table, items_lib.Items]:
  """The log, and each item as its first exposure describes it."""
  names = items_lib.feature_columns(log, columns.features)
  if not names:
    raise items_lib.missing(log, "features", columns.features, or_items=True)
  tables, categories, features = [], [], []
  ids: pa.Array | None = None
  num_features = None
  for place, table in log.placed((*schema.columns, *names)):
    own = items_lib.one_array(table[columns.item])
    rows = _first_rows(own, ids)
    vectors = items_lib.read_features(
        table, names, place, num_features, may_lack=False)
    num_features = vectors.shape[1]
    features.append(vectors[rows])
    categories.append(items_lib.read_categories(
        table, columns.category, place).take(pa.array(rows)))
    new = own.take(pa.array(rows))
    ids = new if ids is None else pa.concat_arrays([ids, new])
    tables.append(table.select(list(schema.columns)))
  assert ids is not None
  return pa.concat_tables(tables), items_lib.Items(
      ids, pa.concat_arrays(categories), np.concatenate(features))


def _first_rows(ids: pa.Array, known: pa.Array | None) -> np.ndarray:
  """Rows with ids that are neither known nor in a row before."""
  first = pc.index_in(ids, value_set=ids).to_numpy()
  is_new = first == np.arange(len(first))
  if known is not None:
    is_new &= pc.is_null(pc.index_in(ids, value_set=known)).to_numpy(
        zero_copy_only=False)
  return np.flatnonzero(is_new)


def _checked(
    table: pa.Table, item_ids: pa.Array, columns: SlateColumns,
    place: checks.Place,
) -> Rows:
  """The columns as arrays; fails at the first bad value."""
  item = pc.index_in(
      items_lib.one_array(table[columns.item]), value_set=item_ids)
  checks.fail_at(pc.is_null(item), table, columns.item, place,
                 "the table of items does not have it")
  request = np.unique(features_lib.id_numbers(table, columns.request),
                      return_inverse=True)[1]
  user = features_lib.id_numbers(table, columns.user)
  # Before positions, which clash if requests of two users are taken for one.
  checks.fail_at(
      user != first_of(request, user)[request], table, columns.user, place,
      "its request has another user in an earlier row (ids of requests must "
      "not start again for each user)")
  time = features_lib.times(table, columns.time)
  slot = _slots(table, request, time, columns, place)
  score = _probabilities(
      table, columns.score, place, "the predicted click")
  value_score = None
  if columns.value_score:
    value_score = _probabilities(
        table, columns.value_score, place,
        "the predicted click with conversion")
  click = _flags(table, columns.click)
  if click.all() or not click.any():
    raise schema_lib.DataError(
        f"{place.file}: column {columns.click!r} is {int(click[0])} in all "
        f"{len(click):,} rows; how users respond is seen where some rows are "
        "clicked and others are not.")
  return Rows(
      item=item.to_numpy().astype(np.int64), request=request, slot=slot,
      user=user, time=time, score=score, value_score=value_score, click=click,
      dismissed=_flags(table, columns.dismissed),
      is_random=_flags(table, columns.random))


def _slots(
    table: pa.Table, request: np.ndarray, time: np.ndarray,
    columns: SlateColumns, place: checks.Place,
) -> np.ndarray:
  """Position of every row `[N]`, from 0."""
  position = kinds.numbers_of(table[columns.position])
  first = np.fmin.reduce(position)  # A missing one is NaN.
  checks.fail_at(
      ~((position % 1 == 0) & (position >= 0)
        & (position < max(first, 0) + _MAX_POSITIONS)), table,
      columns.position, place,
      "positions must be whole numbers of at least 0 (leave out what was not "
      f"shown), {_MAX_POSITIONS} of them at most")
  slot = (position - first).astype(np.int64)
  order = np.lexsort((slot, request))
  is_same = lambda values: np.append(False, np.diff(values[order]) == 0)
  is_taken = is_same(request) & is_same(slot)
  item = features_lib.id_numbers(table, columns.item)
  for clash, what in (
      (is_taken & ~is_same(time), "its request has another row there, at "
       "another time (ids of requests must not start again)"),
      (is_taken & is_same(item), "the same row stands there twice: item and "
       "position of its request are in another row"),
      (is_taken, "its request has another item there")):
    bad = np.zeros(len(order), bool)
    bad[order] = clash
    checks.fail_at(bad, table, columns.position, place, what)
  return slot


def _probabilities(
    table: pa.Table, column: str, place: checks.Place, what: str
) -> np.ndarray:
  values = kinds.numbers_of(table[column])
  checks.fail_at(np.isnan(values) | encoding.are_odd(values), table,
                 column, place, f"{what} must be a probability")
  return np.clip(values, 0, 1)


def _flags(table: pa.Table, column: str | None) -> np.ndarray:
  """`[N]` bool of a checked column of 0 and 1; False if there is none."""
  if column is None:
    return np.zeros(table.num_rows, bool)
  return kinds.numbers_of(table[column]).astype(bool)
