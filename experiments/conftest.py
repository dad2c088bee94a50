"""What pytest looks for doctests in: not what needs a peer that is not here."""

import importlib.util

collect_ignore = []
if not all(map(importlib.util.find_spec, ("torch", "torchsort"))):
  collect_ignore.append("benchmarks/torch_twin.py")
