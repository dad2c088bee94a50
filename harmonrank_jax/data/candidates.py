"""Scored candidates, request by request, from Parquet of any length.

A row is a candidate of a request: who asks, what item, its predicted score,
its category and features. Category and features may instead stand in a table
of items, which is held in memory. The rows of a request stand together. Every
row is checked in one pass before requests are taken from another. In memory
are a chunk of whole requests and what is read of a row group: that grows with
the largest request, not with their number.
"""

import collections
from collections.abc import Iterator
import contextlib
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import items as item_columns
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

DataError = schema_lib.DataError

# Rows that are read at a time, and rows that are selected from at a time.
READ_ROWS = 65_536
CHUNK_ROWS = 131_072
# Ids that are compared at a time, when it is checked that none comes again.
_COMPARED_IDS = 4_000_000


class Facts(NamedTuple):
  """What a pass over all rows tells.

  Attributes:
    num_requests: of all files.
    num_rows: of all files.
    largest: rows of the largest request.
    categories: to the number of candidates of each, the largest first.
  """

  num_requests: int
  num_rows: int
  largest: int
  categories: dict[str, int]


class Chunk(NamedTuple):
  """R whole requests of N candidates together, no item twice in a request.

  Attributes:
    request_ids: `[R]`.
    starts: `[R + 1]`, where the candidates of each request begin and end.
    item_ids: `[N]`.
    scores: `[N]` float64.
    categories: `[N]` int32, places in `Facts.categories`.
    features: `[N, D]` float32, of any length but 0.
    num_repeated: rows left out, whose item their request has with a score
      that is better, or as good and earlier.
  """

  request_ids: pa.Array
  starts: np.ndarray
  item_ids: pa.Array
  scores: np.ndarray
  categories: np.ndarray
  features: np.ndarray
  num_repeated: int


class _Rows(NamedTuple):
  """Checked rows; `is_first` is True where a request begins."""

  is_first: np.ndarray
  request_ids: pa.Array
  item_ids: pa.Array
  scores: np.ndarray
  categories: pa.Array
  features: np.ndarray


class _Beginnings(NamedTuple):
  """Rows with which requests begin, of a part of a file.

  Attributes:
    place: of the part.
    rows: `[B]`, counted in the part.
    ids: `[B]`, of the requests.
    numbers: `[B]` int64, the same for the same id.
  """

  place: item_columns.Place
  rows: np.ndarray
  ids: pa.Array
  numbers: np.ndarray


class Candidates:
  """Scored candidates of a Parquet file, or of the files of a folder.

  Attributes:
    num_features: D, known once a row has been read.
  """

  def __init__(
      self,
      data: str | pathlib.Path,
      items: str | pathlib.Path | None,
      columns: item_columns.Columns,
      *,
      positive_scores: bool,
  ):
    """Opens the files and reads the table of items.

    Args:
      data: candidates.
      items: table with an item a row, which has what `data` lacks of category
        and features; or None.
      columns: how columns are called, in both.
      positive_scores: whether scores must be above 0.

    Raises:
      DataError: if a file or column is not what it should be, or an item of
        the table is not.
    """
    log = self._log = parquet.ParquetLog(data)
    self._columns, self._positive_scores = columns, positive_scores
    names = log.arrow_schema.names
    has_category = columns.category in names
    self._features = item_columns.feature_columns(log, columns.features)
    self._schema = schema_lib.Schema(
        (), request=columns.request, item=columns.item,
        categorical=(columns.category,) if has_category else (),
        numeric=(columns.score,))
    schema_lib.check_types(self._schema, log.arrow_schema, str(log.files[0]))
    self._items: item_columns.Items | None = None
    if items is not None:
      self._items = item_columns.read_items(
          items, columns,
          item_columns.plain_type(log.arrow_schema.field(columns.item).type),
          has_category=not has_category, has_features=not self._features)
    elif not has_category:
      raise item_columns.missing(
          log, "category", columns.category, or_items=True)
    elif not self._features:
      raise item_columns.missing(
          log, "features", columns.features or item_columns.FEATURES,
          or_items=True)
    self.num_features: int | None = None

  def check(self) -> Facts:
    """Checks every row.

    Raises:
      DataError: at the first bad value, or if the rows of a request do not
        stand together.
    """
    counts: collections.Counter = collections.Counter()
    num_requests = largest = size = 0
    for rows in self._rows():
      for entry in pc.value_counts(rows.categories).to_pylist():
        counts[entry["values"]] += entry["counts"]
      begins = np.flatnonzero(rows.is_first)
      num_requests += len(begins)
      # The first piece goes on with the request that was open.
      sizes = np.diff(np.concatenate([[0], begins, [len(rows.is_first)]]))
      sizes[0] += size
      largest, size = max(largest, int(sizes.max())), int(sizes[-1])
    self._check_together(num_requests)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return Facts(num_requests, self._log.num_rows, largest,
                 {name: counts[name] for name in names})

  def chunks(self, facts: Facts) -> Iterator[Chunk]:
    """All requests in order, at least `CHUNK_ROWS` rows at a time.

    Args:
      facts: as `check` found them.
    """
    vocabulary = pa.array(list(facts.categories), pa.string())
    waiting: list[_Rows] = []
    num_waiting = complete = 0
    for rows in self._rows():
      begins = np.flatnonzero(rows.is_first)
      if len(begins):
        # All that is before the last beginning is complete.
        complete = num_waiting + int(begins[-1])
      waiting.append(rows)
      num_waiting += len(rows.is_first)
      if complete >= CHUNK_ROWS:
        whole = _joined(waiting)
        yield _chunk(_cut(whole, 0, complete), vocabulary)
        waiting = [_cut(whole, complete, num_waiting)]
        num_waiting, complete = num_waiting - complete, 0
    yield _chunk(_joined(waiting), vocabulary)

  def _rows(self) -> Iterator[_Rows]:
    """All rows, checked."""
    names, last = (*self._schema.columns, *self._features), None
    for place, table in self._tables(names):
      schema_lib.check_rows(self._schema, table, *place)
      requests = item_columns.one_array(table[self._columns.request])
      items = item_columns.one_array(table[self._columns.item])
      scores = self._scores(table, place)
      categories, features = self._described(table, items, place)
      self.num_features = features.shape[1]
      yield _Rows(_is_first(requests, last), requests, items, scores,
                  categories, features)
      last = requests[-1]

  def _scores(
      self, table: pa.Table, place: item_columns.Place
  ) -> np.ndarray:
    name = self._columns.score
    scores = schema_lib.numbers_of(table[name])
    item_columns.fail_at(~np.isfinite(scores), table, name, place,
                         "scores must be finite")
    if self._positive_scores:
      item_columns.fail_at(
          scores <= 0, table, name, place,
          "the relevance log(score) needs scores above 0 (--relevance=raw "
          "takes any)")
    return scores

  def _described(
      self, table: pa.Table, items: pa.Array, place: item_columns.Place
  ) -> tuple[pa.Array, np.ndarray]:
    """Categories and features, from the rows or from the table of items."""
    categories = features = None
    known = self._items
    if known is not None:
      rows = pc.index_in(items, value_set=known.ids)
      item_columns.fail_at(
          pc.is_null(rows), table, self._columns.item, place,
          "the table of --items does not have the item")
      if known.categories is not None:
        categories = known.categories.take(rows)
      if known.features is not None:
        features = known.features[rows.to_numpy()]
    if categories is None:
      categories = item_columns.read_categories(
          table, self._columns.category, place)
    if features is None:
      features = item_columns.read_features(
          table, self._features, place, self.num_features)
    return categories, features

  def _tables(
      self, columns: tuple[str, ...]
  ) -> Iterator[tuple[item_columns.Place, pa.Table]]:
    """All rows, in parts of row groups."""
    for group in self._log.row_groups:
      where, row = self._log.place(group), group.first_row
      with _reading(where), pq.ParquetFile(
          self._log.files[group.file], page_checksum_verification=True,
          buffer_size=1 << 20) as file:
        for batch in file.iter_batches(
            READ_ROWS, row_groups=[group.number], columns=list(columns)):
          yield (item_columns.Place(where, row),
                 pa.Table.from_batches([batch]))
          row += batch.num_rows

  def _check_together(self, num_requests: int) -> None:
    """Checks that no request comes again after it has ended.

    Ids are read again for every few millions of them, which are compared.
    """
    num_parts = -(-num_requests // _COMPARED_IDS)
    for part in range(num_parts):
      found = [begin.numbers[begin.numbers % num_parts == part]
               for begin in self._beginnings()]
      numbers, counts = np.unique(np.concatenate(found), return_counts=True)
      if (counts > 1).any():
        self._fail_apart(numbers[counts > 1])

  def _fail_apart(self, numbers: np.ndarray) -> None:
    """Raises if a request comes again; two texts may share a number."""
    began: dict = {}
    for begin in self._beginnings():
      for k in np.flatnonzero(np.isin(begin.numbers, numbers)):
        value, row = begin.ids[k].as_py(), begin.place.row + begin.rows[k]
        if value in began:
          raise DataError(
              f"{begin.place.where}: column {self._columns.request!r}, row "
              f"{row}: the rows of a request must stand together (sort by it), "
              f"got {value!r} again, which began in {began[value]}.")
        began[value] = f"{begin.place.where}, row {row}"

  def _beginnings(self) -> Iterator[_Beginnings]:
    name, last = self._columns.request, None
    for place, table in self._tables((name,)):
      ids = item_columns.one_array(table[name])
      rows = np.flatnonzero(_is_first(ids, last))
      last, ids = ids[-1], ids.take(pa.array(rows))
      yield _Beginnings(place, rows, ids, features_lib.id_numbers(
          pa.table({name: ids}), name))


def requests_of(chunk: Chunk, places: np.ndarray) -> Chunk:
  """Some of the requests of a chunk.

  Args:
    chunk: R requests.
    places: which of them, ascending in [0, R).
  """
  sizes = np.diff(chunk.starts)
  rows = np.flatnonzero(
      np.repeat(np.isin(np.arange(len(sizes)), places), sizes))
  return Chunk(
      chunk.request_ids.take(pa.array(places)), _starts(sizes[places]),
      chunk.item_ids.take(pa.array(rows)), chunk.scores[rows],
      chunk.categories[rows], chunk.features[rows], 0)


def joined_chunks(chunks: list[Chunk]) -> Chunk:
  """The requests of some chunks as one."""
  return Chunk(
      pa.concat_arrays([chunk.request_ids for chunk in chunks]),
      _starts(np.concatenate([np.diff(chunk.starts) for chunk in chunks])),
      pa.concat_arrays([chunk.item_ids for chunk in chunks]),
      np.concatenate([chunk.scores for chunk in chunks]),
      np.concatenate([chunk.categories for chunk in chunks]),
      np.concatenate([chunk.features for chunk in chunks]),
      sum(chunk.num_repeated for chunk in chunks))


def _chunk(rows: _Rows, vocabulary: pa.Array) -> Chunk:
  """Whole requests, of each item only the row with the best score."""
  request = np.cumsum(rows.is_first) - 1
  item = rows.item_ids.dictionary_encode().indices.to_numpy()
  order = np.lexsort((-rows.scores, item, request))
  again = ((np.diff(request[order]) == 0) & (np.diff(item[order]) == 0))
  keep = np.ones(len(order), bool)
  keep[order[1:]] = ~again
  sizes = np.bincount(request[keep])
  places = pc.index_in(rows.categories, value_set=vocabulary)
  return Chunk(
      rows.request_ids.filter(pa.array(rows.is_first)), _starts(sizes),
      rows.item_ids.filter(pa.array(keep)), rows.scores[keep],
      places.to_numpy()[keep], rows.features[keep], int(np.sum(~keep)))


def _starts(sizes: np.ndarray) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _joined(parts: list[_Rows]) -> _Rows:
  if len(parts) == 1:
    return parts[0]
  return _Rows(*(
      np.concatenate(column) if isinstance(column[0], np.ndarray)
      else pa.concat_arrays(column) for column in zip(*parts, strict=True)))


def _cut(rows: _Rows, begin: int, end: int) -> _Rows:
  return _Rows(*(column[begin:end] for column in rows))


def _is_first(ids: pa.Array, last: pa.Scalar | None) -> np.ndarray:
  """True where an id differs from the one before; `last` is before all."""
  differs = np.asarray(pc.not_equal(ids[1:], ids[:-1]), bool)
  return np.append(last is None or not ids[0].equals(last), differs)


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
  try:
    yield
  except (OSError, pa.ArrowException) as error:
    raise DataError(f"{where}: not readable "
                    f"({' '.join(str(error).split())[:200]}).") from None
