"""Imports point one way: the arrows between the rooms, read from the source."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = "harmonrank_jax"
# What the modules of a room may import of the other rooms.
ARROWS = {
    "arrays": set(),
    "lazy": set(),
    "native": set(),
    "logistic": set(),
    "sharding": set(),
    "version": set(),
    "ordering": {"arrays", "native"},
    "data": {"lazy"},
    "predictor": set(),
    "ensemble": {"arrays", "logistic", "ordering", "sharding"},
    "diversity": {"arrays", "native", "ordering", "sharding"},
    "evaluation": {"arrays", "ordering"},
    "reranker": {"arrays", "diversity", "logistic", "ordering", "sharding"},
    "serving": {
        "arrays", "data", "diversity", "ensemble", "lazy", "native",
        "predictor", "reranker", "version"},
}
# What the binaries may import of the packages of experiments beside `runs`.
BINARIES = {
    "train_predictor": {"predictor"},
    "train_auc": {"artefacts", "ranker"},
    "select_slates": {"slates"},
    "train_reranker": {"reranker"},
    "export": {"artefacts"},
    "score": {"scoring"},
    "compare": {"comparison", "ranker"},
    "sweep_tradeoff": {"ranker", "tradeoff"},
    "benchmark": {"benchmarks", "ranker"},
}
# What the packages may import beside `runs`: what they measure or time.
PACKAGES = {
    "runs": set(),
    "predictor": set(),
    "ranker": set(),
    "slates": set(),
    "reranker": set(),
    "artefacts": set(),
    "scoring": set(),
    "comparison": {"ranker"},
    "tradeoff": {"ranker"},
    "benchmarks": {
        "artefacts", "predictor", "ranker", "reranker", "scoring"},
}


def module_name(path):
  """`harmonrank_jax/ordering/__init__.py` is `harmonrank_jax.ordering`."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_in(name, package):
  return name == package or name.startswith(package + ".")


def is_lazy(node):
  """Whether it is `if TYPE_CHECKING:`, what `lazy.attach` imports later."""
  return isinstance(node, ast.If) and (
      isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")


def statements(tree, *, on_import):
  """Nodes of a module; those in functions do not run on import, nor lazy."""
  later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
  nodes = ast.iter_child_nodes(tree)
  if on_import and is_lazy(tree):
    nodes = tree.orelse
  for node in nodes:
    yield node
    if not on_import or not isinstance(node, later):
      yield from statements(node, on_import=on_import)


def imports_of(tree, *, on_import=False):
  """Every dotted name a module imports, with the names taken from it."""
  result = set()
  for node in statements(tree, on_import=on_import):
    if isinstance(node, ast.Import):
      result |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "imports are absolute"
      result |= {node.module} | {
          f"{node.module}.{alias.name}" for alias in node.names}
  return result


def room_of(name):
  """The room of a module of the library; None for the package itself."""
  parts = name.split(".")
  return parts[1] if parts[0] == LIBRARY and len(parts) > 1 else None


TREES = {
    module_name(path): ast.parse(path.read_text(), str(path))
    for folder in (LIBRARY, "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))}
LIBRARY_TREES = {
    name: tree for name, tree in TREES.items() if is_in(name, LIBRARY)}


def importers(package):
  """Modules that import a package at any level, inside functions too."""
  return {name for name, tree in TREES.items()
          if any(is_in(other, package) for other in imports_of(tree))}


def test_the_reader_sees_every_form_of_import():
  tree = ast.parse(
      "import a.b as c, d\n"
      "if c:\n  from e import f, g\n"
      "class H:\n  def i(self):\n    import j\n"
      "if TYPE_CHECKING:\n  import k\nelse:\n  import l\n")
  assert imports_of(tree) == {"a.b", "d", "e", "e.f", "e.g", "j", "k", "l"}
  assert imports_of(tree, on_import=True) == {
      "a.b", "d", "e", "e.f", "e.g", "l"}
  assert {"harmonrank_jax", "harmonrank_jax.ordering",
          "harmonrank_jax.ensemble.losses",
          "experiments.runs.html"} <= set(TREES)
  assert is_in("a.b", "a") and not is_in("ab", "a")


@pytest.mark.parametrize("name", [
    name for name in LIBRARY_TREES if room_of(name)])
def test_rooms_import_only_along_the_arrows(name):
  room = room_of(name)
  others = {room_of(other) for other in imports_of(TREES[name])
            if is_in(other, LIBRARY)}
  # None: the package itself, whose names are for those outside.
  assert others <= ARROWS[room] | {room}


@pytest.mark.parametrize("name", [
    name for name in TREES if is_in(name, "experiments") and "." in name])
def test_experiments_import_only_along_the_arrows(name):
  room = name.split(".")[1]
  if room == "conftest":
    return
  allowed = {**BINARIES, **PACKAGES}[room] | {room, "runs"}
  others = {other.split(".")[1] for other in imports_of(TREES[name])
            if other.startswith("experiments.")}
  assert others <= allowed


def test_what_serves_is_no_part_of_the_first_hour():
  assert "harmonrank_jax.serving" not in reached_by_import(
      LIBRARY, with_names=True)


def test_files_are_written_in_few_rooms():
  for package in ("pyarrow", "absl", "orbax", "rich"):
    rooms = {room_of(name) for name in importers(package)
             if name in LIBRARY_TREES}
    assert rooms <= ({"data", "serving"} if package == "pyarrow" else set())
  # One request is served without what reads files.
  assert {name for name in importers("pyarrow") if is_in(
      name, f"{LIBRARY}.serving")} == {f"{LIBRARY}.serving.batches"}


def test_the_library_imports_no_experiment_and_no_test():
  assert not importers("experiments") & set(LIBRARY_TREES)
  assert not importers("tests")


@pytest.mark.parametrize("package", ["flax", "optax"])
def test_orders_and_slates_need_no_network(package):
  for name in importers(package):
    assert room_of(name) not in ("ordering", "diversity")


def test_one_module_imports_orbax_and_what_draws_matplotlib():
  assert importers("orbax") == {"experiments.runs.checkpoints"}
  drawing = importers("matplotlib")
  assert drawing and all(
      name == "experiments.runs.html"
      or name.split(".")[-1] in ("report", "figures") for name in drawing)


@pytest.mark.parametrize("package", ["pickle", "cloudpickle", "dill"])
def test_nothing_pickles(package):
  assert not importers(package)


@pytest.mark.parametrize("name", list(LIBRARY_TREES))
def test_the_library_does_not_print(name):
  for node in ast.walk(TREES[name]):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      assert node.func.id != "print", f"line {node.lineno}"


def reached_by_import(package, *, with_names=False):
  """Modules that run when a package is imported, and packages outside.

  With names: when all of its own names have been asked for too.
  """
  reached = set()
  waiting = [package, *(imports_of(TREES[package]) if with_names else ())]
  while waiting:
    name = waiting.pop()
    # A module runs after the packages that it is in.
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
      module = ".".join(parts[:depth])
      if module in TREES and module not in reached:
        reached.add(module)
        waiting += imports_of(TREES[module], on_import=True)
    reached.add(parts[0])
  return reached


def test_importing_the_package_is_light():
  assert not reached_by_import(LIBRARY) & {"jax", "numpy"}
  reached = reached_by_import(LIBRARY, with_names=True)
  assert {"jax", "harmonrank_jax.ordering.isotonic",
          "harmonrank_jax.ensemble.losses"} <= reached
  assert not reached & {
      "matplotlib", "orbax", "pyarrow", "rich", "sklearn", "tensorboardX"}
