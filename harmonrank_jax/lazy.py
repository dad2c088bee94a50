"""Names of a package that are imported when they are asked for.

What serves a trained model must start without what trains it. The packages
whose names come from both tell type checkers by ordinary imports, and Python
by `attach`.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import importlib
import sys
from typing import Any


def attach(
    package: str, homes: Mapping[str, Sequence[str]],
    modules: Sequence[str] = (),
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
  """`__getattr__` and `__dir__` of a package.

  Args:
    package: its name.
    homes: from modules in the package to the names taken from each.
    modules: of the package, which are names of it too.
  """
  home_of = {name: f"{package}.{home}" for home, names in homes.items()
             for name in names}

  def get(name: str) -> Any:
    if name in home_of:
      value = getattr(importlib.import_module(home_of[name]), name)
    elif name in modules:
      value = importlib.import_module(f"{package}.{name}")
    else:
      raise AttributeError(f"module {package!r} has no attribute {name!r}")
    setattr(sys.modules[package], name, value)  # Found without us from now on.
    return value

  def names() -> list[str]:
    return sorted({*vars(sys.modules[package]), *home_of, *modules})

  return get, names
