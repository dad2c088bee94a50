"""Checkpoints: whole, checked, and the one before if the newest is broken.

The only module that imports orbax.
"""

import json
import pathlib
import shutil
from typing import Any
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.runs import errors
from experiments.runs import workdir

_KEEP = 2


class Checkpoints:
  """Checkpoints by step: trees of arrays with JSON notes and checksums."""

  def __init__(self, directory: pathlib.Path, *, read_only: bool = False):
    """Opens the folder; it is made unless it is only to be read."""
    self._directory, self._read_only = directory.absolute(), read_only
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=_KEEP, create=not self._read_only,
            enable_async_checkpointing=False, read_only=self._read_only,
            cleanup_tmp_directories=not self._read_only))

  def save(self, step: int, tree: Any, notes: dict[str, Any]) -> None:
    """Saves a checkpoint, keeps the newest two; `UserError` if it cannot."""
    try:
      self._manager.save(step, args=ocp.args.Composite(
          tree=ocp.args.StandardSave(_raw_keys(tree)),
          notes=ocp.args.JsonSave(notes)))
      self._manager.wait_until_finished()
      workdir.write_json(self._checksum_file, {
          kept: _checksums(self._directory / str(kept))
          for kept in self._manager.all_steps()})
    except Exception as error:
      if not _is_full(error):
        raise
      raise errors.UserError(
          f"{self._directory}: the checkpoint of step {step} could not be "
          "saved, the disk is full or refuses to be written.") from None

  def restore(self, target: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest checkpoint that is whole, as step, tree and notes, or None.

    Broken ones are set aside; another structure than `target` is an error.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      is_whole = False
      try:
        is_whole = self._check_files(step)
        restored = self._manager.restore(step, args=ocp.args.Composite(
            tree=ocp.args.StandardRestore(_raw_keys(target)),
            notes=ocp.args.JsonRestore()))
        tree = _typed_keys(restored["tree"], target)
        for leaf, like in zip(
            jax.tree.leaves(tree), jax.tree.leaves(target), strict=True):
          if leaf.shape != like.shape or leaf.dtype != like.dtype:
            raise ValueError(f"{leaf.dtype}{leaf.shape} stands where "
                             f"{like.dtype}{like.shape} is expected")
        return step, tree, dict(restored["notes"])
      except Exception as error:  # Whatever a broken file makes orbax raise.
        reason = " ".join(str(error).split())[:120]
        if is_whole:
          raise errors.UserError(
              f"{self._directory}: the checkpoint of step {step} is one of "
              f"another program or other data ({reason}).") from None
        errors.warn(
            f"checkpoint of step {step} in {self._directory} is broken "
            f"({reason}); taking the one before.")
        if not self._read_only:
          self._set_aside(step)
    return None

  def close(self) -> None:
    self._manager.close()

  @property
  def _checksum_file(self) -> pathlib.Path:
    return self._directory.parent / "checkpoint_checksums.json"

  def _check_files(self, step: int) -> bool:
    """Whether files are known to be whole; raises before Orbax makes noise."""
    known = None
    if self._checksum_file.exists():
      known = json.loads(self._checksum_file.read_text()).get(str(step))
    # A run that was killed just after saving had no time to write them.
    if known is None:
      return False
    if known != _checksums(self._directory / str(step)):
      raise ValueError("a file differs from what was saved")
    return True

  def _set_aside(self, step: int) -> None:
    self._manager.close()
    folder = self._directory / str(step)
    aside = self._directory.parent / "broken_checkpoints" / str(step)
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    self._manager = self._open()


def _is_key(leaf: Any) -> bool:
  return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
      leaf.dtype, jax.dtypes.prng_key)


def _raw_keys(tree: Any) -> Any:
  """Arrays that orbax takes: no typed keys, NumPy scalars or empty arrays."""

  def raw(leaf: Any) -> Any:
    if _is_key(leaf):
      return jax.random.key_data(leaf)
    if isinstance(leaf, np.generic):
      return np.asarray(leaf)
    return leaf if leaf.size else np.zeros(1, leaf.dtype)

  return jax.tree.map(raw, tree)


def _typed_keys(tree: Any, target: Any) -> Any:

  def typed(leaf: Any, like: Any) -> Any:
    if _is_key(like):
      return jax.random.wrap_key_data(leaf)
    return leaf if like.size else like

  return jax.tree.map(typed, tree, target)


def _checksums(folder: pathlib.Path) -> dict[str, int]:
  return {str(file.relative_to(folder)): zlib.crc32(file.read_bytes())
          for file in sorted(folder.rglob("*")) if file.is_file()}


def _is_full(error: BaseException) -> bool:
  text = str(error).lower()
  return any(sign in text for sign in (
      "no space left", "disk quota", "file too large", "permission denied",
      "read-only file system"))
