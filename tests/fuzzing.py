"""Runs random cases for native forms that may be built with sanitisers."""

import sys

import numpy as np

from harmonrank_jax import native


def main(fuzz, num_cases, library=None):
  """Calls `fuzz` for each case; an error says which seed made it.

  Args:
    fuzz: takes a generator of random numbers.
    num_cases: seeds, from 0.
    library: path of the library, if not the one that is built.
  """
  if library is not None:
    native.library_path = lambda: library
  assert native.available(), "the native forms cannot be loaded"
  for seed in range(num_cases):
    try:
      fuzz(np.random.default_rng(seed))
    except AssertionError:
      print(f"seed {seed}", file=sys.stderr)
      raise
  print(f"{num_cases} cases agree")
