"""Names that are imported when asked for are those that type checkers see."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

import harmonrank_jax
from harmonrank_jax import lazy

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("harmonrank_jax", "harmonrank_jax.data", "harmonrank_jax.serving")
# What trains, reads files, draws and parses flags.
HEAVY = ("absl", "flax", "matplotlib", "optax", "orbax", "pyarrow", "scipy")


@pytest.mark.parametrize("name", PACKAGES)
def test_names_come_from_where_type_checkers_look(name):
  package = importlib.import_module(name)
  tree = ast.parse(pathlib.Path(package.__file__).read_text())
  branch, = (node for node in tree.body if isinstance(node, ast.If))
  seen = {alias.name: node.module
          for node in branch.body for alias in node.names}
  assert sorted(seen) == sorted(package.__all__)
  for each, home in seen.items():
    assert getattr(package, each) is getattr(
        importlib.import_module(home), each)
  assert {*seen, "__name__"} <= set(dir(package))
  table = ast.literal_eval(branch.orelse[0].value.args[1])
  assert sorted(each for names in table.values() for each in names) == (
      sorted(seen))


def test_a_name_that_is_not_there_is_said():
  with pytest.raises(AttributeError,
                     match="module 'harmonrank_jax' has no attribute 'sort'"):
    _ = harmonrank_jax.sort
  with pytest.raises(ImportError, match="cannot import name 'sort'"):
    from harmonrank_jax import sort  # noqa: F401


def test_a_name_is_looked_up_once(monkeypatch):
  get, names = lazy.attach("tests", {"skips": ("NAMES",)}, ("oracles",))
  assert {"NAMES", "oracles"} <= set(names())
  module = importlib.import_module("tests")
  monkeypatch.setattr(module, "oracles", None, raising=False)
  assert get("oracles") is importlib.import_module("tests.oracles")
  assert module.oracles is get("oracles")


def test_rooms_are_there_by_their_names():
  script = ("import sys\nimport harmonrank_jax as hr\n"
            "assert 'jax' not in sys.modules\n"
            "hr.ordering.soft_rank, hr.evaluation.auc_estimates\n"
            "hr.arrays, hr.sharding, hr.logistic, hr.native\n"
            "assert 'flax' not in sys.modules\n")
  subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_a_room_that_is_imported_late_has_its_native_forms():
  script = ("import jax.numpy as jnp\nimport harmonrank_jax as hr\n"
            "hr.hard_rank(jnp.arange(3.0)).block_until_ready()\n"
            "assert len(hr.backends()) == 5\n"
            "hr.greedy_dpp(jnp.eye(3), jnp.ones(3), num_selected=2, "
            "theta=0.5).indices.block_until_ready()\n")
  subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_what_serves_imports_nothing_that_trains():
  script = ("import sys\nimport harmonrank_jax.serving\n"
            "import harmonrank_jax.data.encoding\n"
            "import harmonrank_jax.data.schema\n"
            f"print(*(name for name in {HEAVY} if name in sys.modules))\n")
  run = subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT,
                       capture_output=True, text=True)
  assert not run.stdout.split()
