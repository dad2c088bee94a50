"""Cells: averages, files, thinned labels."""

import numpy as np

from experiments.comparison import cells as cells_lib


def test_the_average_is_of_scores_in_units_of_their_spread():
  scores = np.array([[1, 2, 3, 6], [400, 300, 200, 0]], np.float32)
  averaged = cells_lib.average(cells_lib.Cell(scores, seconds=3.0))
  spread = np.sqrt([14 / 4, 87500 / 4])
  np.testing.assert_allclose(
      averaged.scores[0], (scores / spread[:, None]).sum(axis=0) / 2,
      rtol=1e-6)
  assert averaged.scores.shape == (1, 4) and averaged.seconds is None
  # Of two, one is left without the other.
  np.testing.assert_allclose(
      averaged.left_out, (scores / spread[:, None])[::-1], rtol=1e-6)
  constant = cells_lib.average(cells_lib.Cell(np.ones((2, 4), np.float32)))
  assert np.isfinite(constant.scores).all()


def test_a_cell_is_read_as_it_was_written(tmp_path):
  cell = cells_lib.Cell(
      np.arange(6, dtype=np.float32).reshape(2, 3), np.array([4.5, 4.25]),
      np.full((2, 1), 0.1), 0.03, 1.5)
  for written in (cell, cells_lib.Cell(cell.scores)):
    cells_lib.write_cell(tmp_path / "one.npz", written)
    for value, known in zip(
        cells_lib.read_cell(tmp_path / "one.npz"), written, strict=True):
      assert type(value) is type(known)
      np.testing.assert_array_equal(value, known)
  # Nothing else stays.
  assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]


def test_thinning_leaves_one_positive_of_so_many():
  labels = np.random.default_rng(0).random((40_000, 2)) < [0.5, 0.1]
  for share in (10, 100):
    thin = cells_lib.thinned(labels, share, seed=0)
    assert thin.dtype == labels.dtype and not (thin & ~labels).any()
    kept = thin.sum(axis=0) / labels.sum(axis=0)
    error = np.sqrt(1 / share / labels.sum(axis=0))
    assert (np.abs(kept - 1 / share) < 4 * error).all()
  again = cells_lib.thinned(labels, 10, seed=0)
  np.testing.assert_array_equal(again, cells_lib.thinned(labels, 10, seed=0))
  assert (again != cells_lib.thinned(labels, 10, seed=1)).any()
  assert (again != cells_lib.thinned(labels, 10, seed=0, number=1)).any()
  np.testing.assert_array_equal(cells_lib.thinned(labels, 1, seed=0), labels)
  # Values that are left stay what they were.
  values = labels * np.float32(2.5)
  thin = cells_lib.thinned(values, 10, seed=0)
  assert thin.dtype == np.float32 and set(np.unique(thin)) == {0, 2.5}
