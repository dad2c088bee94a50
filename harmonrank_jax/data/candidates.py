"""Scored candidates, request by request, from Parquet files of any length.

A row is a candidate of a request, whose rows stand together. One pass checks
every row; further passes yield chunks of whole requests. Memory holds the table
of items, a chunk and a part of a row group: it grows with the largest request,
not with the number of requests.
"""

import collections
from collections.abc import Iterator
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harmonrank_jax.data import checks
from harmonrank_jax.data import chunks as chunks_lib
from harmonrank_jax.data import features as features_lib
from harmonrank_jax.data import items as items_lib
from harmonrank_jax.data import kinds
from harmonrank_jax.data import parquet
from harmonrank_jax.data import schema as schema_lib

# Rows that are read at a time, and rows of a chunk.
READ_ROWS = 65_536
CHUNK_ROWS = 131_072
# Request ids that are searched for duplicates at a time; files of more of them
# are read again for each part.
COMPARED_IDS = 4_000_000


class Facts(NamedTuple):
  """Counts over all files."""

  num_requests: int
  num_rows: int
  largest: int  # Rows of the largest request.
  categories: dict[str, int]  # Rows by name, the largest category first.


class _Rows(NamedTuple):
  """N checked rows."""

  is_first: np.ndarray  # True where a request begins.
  request_ids: pa.Array
  item_ids: pa.Array
  scores: np.ndarray
  categories: pa.Array
  features: np.ndarray


class Candidates:
  """Scored candidates in a Parquet file, or in the files of a folder.

  `check` comes first: it yields the facts that `chunks` needs, and sets
  `num_features`, D, which is None before. `columns` are those that are read;
  `notes` has what was found odd in the files, a line each.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder) / "candidates.parquet"
  ...   parquet.write_parquet(pa.table({
  ...       "request_id": ["a", "a", "b"], "item_id": [7, 8, 7],
  ...       "score": [0.3, 0.2, 0.9], "category": ["books", "toys", "books"],
  ...       "features": [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]}), path)
  ...   candidates = Candidates(
  ...       path, None, items_lib.CandidateColumns(), positive_scores=True)
  ...   facts = candidates.check()
  ...   chunk, = candidates.chunks(facts)
  >>> facts.num_requests, facts.categories
  (2, {'books': 2, 'toys': 1})
  >>> chunk.starts, chunk.categories, chunk.features.shape
  (array([0, 2, 3]), array([0, 1, 0], dtype=int32), (3, 2))
  """

  def __init__(
      self,
      data: str | pathlib.Path,
      # A table with the columns that `data` lacks of category and features.
      items: str | pathlib.Path | None,
      columns: items_lib.CandidateColumns,  # Names of the columns of both.
      *,
      positive_scores: bool,  # Whether scores must be above 0.
      read_rows: int = READ_ROWS,
      compared_ids: int = COMPARED_IDS,
  ):
    """Opens the files, checks their columns and reads the table of items.

    Raises:
      DataError: if a file or column is missing or of a wrong type, or the
        table of items has an invalid row.
    """
    log = self._log = parquet.ParquetLog(data)
    self.columns, self._positive_scores = columns, positive_scores
    self._read_rows, self._compared_ids = read_rows, compared_ids
    names = log.arrow_schema.names
    has_category = columns.category in names
    self._features = items_lib.feature_columns(log, columns.features)
    self._schema = schema_lib.Schema(
        (), request=columns.request, item=columns.item,
        categorical=(columns.category,) if has_category else (),
        numeric=(columns.score,))
    checks.check_types(self._schema, log.arrow_schema, log.files[0])
    self._items: items_lib.Items | None = None
    if items is not None:
      self._items = items_lib.read_items(
          items, columns, log.kind(columns.item),
          has_category=not has_category, has_features=not self._features)
    elif not has_category:
      raise items_lib.missing(
          log, "category", columns.category, or_items=True)
    elif not self._features:
      raise items_lib.missing(
          log, "features", columns.features, or_items=True)
    self.num_features: int | None = None
    self.notes = [*log.notes, *(self._items.notes if self._items else ())]

  def check(self) -> Facts:
    """Checks every row and counts requests, rows and categories.

    Raises:
      DataError: at the first missing or invalid value, at the first item that
        the table of items lacks, or if the rows of a request do not stand
        together.
    """
    counts: collections.Counter = collections.Counter()
    num_requests = largest = size = 0
    for rows in self._rows():
      for entry in pc.value_counts(rows.categories).to_pylist():
        counts[entry["values"]] += entry["counts"]
      begins = np.flatnonzero(rows.is_first)
      num_requests += len(begins)
      # The rows before the first beginning belong to the open request.
      sizes = np.diff(np.concatenate([[0], begins, [len(rows.is_first)]]))
      sizes[0] += size
      largest, size = max(largest, int(sizes.max())), int(sizes[-1])
    # No candidate may have features.
    self.num_features = self.num_features or 1
    self._check_together(num_requests)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return Facts(num_requests, self._log.num_rows, largest,
                 {name: counts[name] for name in names})

  def chunks(
      self, facts: Facts, *, chunk_rows: int = CHUNK_ROWS
  ) -> Iterator[chunks_lib.Chunk]:
    """Yields all requests in the order of the files.

    Args:
      facts: the result of `check`.
      chunk_rows: rows that a chunk has at least, except the last one.
    """
    vocabulary = pa.array(list(facts.categories), pa.string())
    waiting: list[_Rows] = []
    num_waiting = complete = 0
    for rows in self._rows():
      begins = np.flatnonzero(rows.is_first)
      if len(begins):
        # All requests before the last beginning are complete.
        complete = num_waiting + int(begins[-1])
      waiting.append(rows)
      num_waiting += len(rows.is_first)
      if complete >= chunk_rows:
        whole = parquet.joined(waiting)
        yield _chunk(_cut(whole, 0, complete), vocabulary)
        waiting = [_cut(whole, complete, num_waiting)]
        num_waiting, complete = num_waiting - complete, 0
    yield _chunk(parquet.joined(waiting), vocabulary)

  def _rows(self) -> Iterator[_Rows]:
    """Yields all rows, checked."""
    names, last = (*self._schema.columns, *self._features), None
    for place, table in self._log.parts(names, self._read_rows):
      checks.check_rows(self._schema, table, place)
      requests = items_lib.one_array(table[self.columns.request])
      items = items_lib.one_array(table[self.columns.item])
      scores = self._scores(table, place)
      categories, features = self._described(table, items, place)
      self.num_features = features.shape[1] or None
      yield _Rows(_is_first(requests, last), requests, items, scores,
                  categories, features)
      last = requests[-1]

  def _scores(self, table: pa.Table, place: checks.Place) -> np.ndarray:
    """Scores `[N]` of the rows of a table."""
    name = self.columns.score
    scores = kinds.numbers_of(table[name])
    checks.fail_at(~np.isfinite(scores), table, name, place,
                   "scores must be finite")
    if self._positive_scores:
      checks.fail_at(
          scores <= 0, table, name, place,
          "the relevance log(score) needs scores above 0 (raw relevance takes "
          "any)")
    return scores

  def _described(
      self, table: pa.Table, items: pa.Array, place: checks.Place
  ) -> tuple[pa.Array, np.ndarray]:
    """Categories `[N]` and features `[N, D]` of the rows or of their items."""
    categories = features = None
    known = self._items
    if known is not None:
      rows = pc.index_in(items, value_set=known.ids)
      checks.fail_at(pc.is_null(rows), table, self.columns.item, place,
                     "the table of items does not have the item")
      if known.categories is not None:
        categories = known.categories.take(rows)
      if known.features is not None:
        features = known.features[rows.to_numpy()]
    if categories is None:
      categories = items_lib.read_categories(
          table, self.columns.category, place)
    if features is None:
      features = items_lib.read_features(
          table, self._features, place, self.num_features, may_lack=True)
    return categories, features

  def _check_together(self, num_requests: int) -> None:
    """Raises if a request comes again; compares part by part, for memory."""
    num_parts = -(-num_requests // self._compared_ids)
    for part in range(num_parts):
      parts = [numbers[numbers % num_parts == part]
               for *_, numbers in self._beginnings()]
      numbers, counts = np.unique(np.concatenate(parts), return_counts=True)
      if (counts > 1).any():
        self._fail_apart(numbers[counts > 1])

  def _fail_apart(self, suspects: np.ndarray) -> None:
    """Raises if a request of these numbers comes again.

    Numbers of texts are hashes, which different ids may share: ids decide.
    """
    began: dict = {}
    for place, rows, ids, numbers in self._beginnings():
      for k in np.flatnonzero(np.isin(numbers, suspects)):
        value, row = ids[k].as_py(), place.row + rows[k]
        where = place.where(rows[k])
        if value in began:
          raise schema_lib.DataError(
              f"{where}: column {self.columns.request!r}, row {row}: the rows "
              f"of a request must stand together (sort by it), got {value!r} "
              f"again, which began in {began[value]}.")
        began[value] = f"{where}, row {row}"

  def _beginnings(self) -> Iterator[
      tuple[checks.Place, np.ndarray, pa.Array, np.ndarray]]:
    """Yields the requests that begin in a part of a file: rows, ids, numbers.

    Rows count from the place of the part; numbers are equal for equal ids.
    """
    name, last = self.columns.request, None
    for place, table in self._log.parts((name,), self._read_rows):
      ids = items_lib.one_array(table[name])
      rows = np.flatnonzero(_is_first(ids, last))
      last, ids = ids[-1], ids.take(pa.array(rows))
      numbers = features_lib.id_numbers(pa.table({name: ids}), name)
      yield place, rows, ids, numbers


def _chunk(rows: _Rows, vocabulary: pa.Array) -> chunks_lib.Chunk:
  """Whole requests; of rows with the same item only the best-scored one."""
  request = np.cumsum(rows.is_first) - 1
  item = rows.item_ids.dictionary_encode().indices.to_numpy()
  order = np.lexsort((-rows.scores, item, request))
  again = ((np.diff(request[order]) == 0) & (np.diff(item[order]) == 0))
  keep = np.ones(len(order), bool)
  keep[order[1:]] = ~again
  sizes = np.bincount(request[keep])
  places = pc.index_in(rows.categories, value_set=vocabulary)
  return chunks_lib.Chunk(
      rows.request_ids.filter(pa.array(rows.is_first)),
      chunks_lib.starts_of(sizes),
      rows.item_ids.filter(pa.array(keep)), rows.scores[keep],
      places.to_numpy()[keep], rows.features[keep], int(np.sum(~keep)))


def _cut(rows: _Rows, begin: int, end: int) -> _Rows:
  """The rows from `begin` to before `end`."""
  return _Rows(*(column[begin:end] for column in rows))


def _is_first(ids: pa.Array, last: pa.Scalar | None) -> np.ndarray:
  """`[N]` bool, True where an id differs from the one before (`last`)."""
  differs = np.asarray(pc.not_equal(ids[1:], ids[:-1]), bool)
  return np.append(last is None or not ids[0].equals(last), differs)
