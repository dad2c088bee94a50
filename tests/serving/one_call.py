"""Slates of a whole file by one call of the library, to compare with."""

import jax
import jax.numpy as jnp
import numpy as np


def slates(frame, select):
  """Slates of all requests of a frame, padded to the largest.

  Args:
    frame: columns, as in `candidate_files`.
    select: a function from features, relevance, mask and categories to a
      `Slate`.

  Returns:
    Rows of request, slot, item and gain.
  """
  names = list(dict.fromkeys(frame["request_id"]))
  rows = [np.flatnonzero(np.asarray(frame["request_id"]) == name)
          for name in names]
  most = max(map(len, rows))
  place = np.stack([np.pad(r, (0, most - len(r))) for r in rows])
  where = np.arange(most) < np.asarray([[len(r)] for r in rows])
  vocabulary = sorted(
      set(frame["category"]),
      key=lambda name: (-frame["category"].count(name), name))
  categories = np.asarray([vocabulary.index(c) for c in frame["category"]])
  slate = jax.device_get(jax.jit(select)(
      jnp.asarray(np.asarray(frame["features"], np.float32)[place]),
      jnp.asarray(np.log(frame["score"])[place], jnp.float32),
      jnp.asarray(where), jnp.asarray(categories[place])))
  return [
      (name, slot, frame["item_id"][row[index]], float(gain))
      for name, row, indices, gains in zip(
          names, rows, slate.indices, slate.gains, strict=True)
      for slot, (index, gain) in enumerate(zip(indices, gains, strict=True))
      if index >= 0]


def rows_of(chunk, picks):
  """Picks in a chunk as rows of request, slot, item and gain."""
  return [
      (chunk.request_ids[int(request)].as_py(), int(slot),
       chunk.item_ids[int(picks.rows[request, slot])].as_py(),
       float(picks.gains[request, slot]))
      for request, slot in zip(*np.nonzero(picks.rows >= 0), strict=True)]


def assert_same(rows, expected):
  """The same items in the same slots; gains but for rounding."""
  assert [row[:3] for row in rows] == [row[:3] for row in expected]
  np.testing.assert_allclose(
      [row[3] for row in rows], [row[3] for row in expected], atol=1e-4)
