"""Small runs of the suites of the benchmark."""

import functools
import itertools
import types

from experiments import benchmark
from experiments.benchmarks import timing as timing_lib

# The default form of the library alone: the other one takes long to compile.
FORMS = dict(itertools.islice(timing_lib.forms().items(), 1))
OURS, = FORMS


def measure(workdir, suite, sizes, *, run=None, **given):
  """The binary on a suite; `run`, that of the suite, gets more arguments."""
  module = benchmark.SUITES[suite]
  changed = types.SimpleNamespace(
      SIZES=module.SIZES, parse_size=module.parse_size, tables=module.tables,
      run=functools.partial(run or module.run, **given))
  config = benchmark.Config(suite=suite, sizes=sizes, repeats=2)
  return benchmark.measure(config, workdir, suites={suite: changed})
