"""Checkpoints: the only file that imports orbax.

With several processes every method is called by all of them; files that are no arrays
are written, renamed and deleted by the first, and what one finds damaged all leave.
"""

import contextlib
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from miras_jax import logs
from miras_jax.checkpoint import disk_full, fingerprint, leaf_table, workdir
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.models import trees
from miras_jax.parallel import distributed

# Beyond the arrays' bytes: metadata, the JSON beside them, the file system's own.
OVERHEAD_BYTES = 1 << 20


class Damaged(Exception):
  """A checkpoint whose content is not what was saved; names the first leaf."""


class Checkpoints:
  """Saves in the background, keeps the newest `keep` steps, restores the last good one.

  Used as a context manager: leaving it waits for the save under way.
  """

  def __init__(self, folder, *, keep):
    self.dir = workdir.Workdir(folder)
    if distributed.is_first():
      self.dir.checkpoints.mkdir(parents=True, exist_ok=True)
      workdir.remove_temporary(self.dir.checkpoints)
    distributed.barrier("checkpoints")
    self.manager = _manager(self.dir.checkpoints, keep)
    self.last_step = None

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    if kind is None:
      self.wait()
    self.manager.close()

  def prepare(self, state):
    """Compiles what `save` runs, so that the first blocks no longer than others."""
    fingerprint.table(_saved_part(state))

  def save(self, step, state, *, data_state, metrics):
    """Starts writing `state` as `step`; returns once its arrays are copied.

    data_state: JSON-ready state of the batch iterator; metrics: {name: float}.
    The log names an earlier save that failed in the background for lack of space.
    Raises DiskFull when this one does not fit; nothing half-written is left.
    """
    try:
      with self._full_disk_is_one_line(self.last_step):
        self.manager.check_for_errors()
    except disk_full.DiskFull as error:
      self.last_step = None
      log.error("%s", error)
    if step == self.last_step:
      return
    saved = _saved_part(state)
    self._check_space(step, trees.num_bytes(saved))
    with self._full_disk_is_one_line(step):
      body = {
        "step": step,
        "leaves": fingerprint.table(saved),
        "data": data_state,
        "metrics": metrics,
      }
      done = self.manager.save(step, args=_save_args(saved, workdir.seal(body)))
    if not done:
      raise RuntimeError(f"orbax refused to save step {step} in {self.dir.checkpoints}")
    self.last_step = step

  def save_frozen(self, frozen):
    """Writes the parameters that never change, unless the same ones are there."""
    leaves = fingerprint.table({"params": frozen})
    if distributed.of_first(self._has_frozen(leaves)):
      return
    if distributed.is_first() and self.dir.frozen.is_dir():
      shutil.rmtree(self.dir.frozen)
    distributed.barrier("frozen")
    self._check_space("frozen", trees.num_bytes(frozen))
    with self._full_disk_is_one_line("frozen"), _checkpointer() as checkpointer:
      args = _save_args({"params": frozen}, workdir.seal({"leaves": leaves}))
      checkpointer.save(self.dir.frozen.absolute(), args=args)

  def _has_frozen(self, leaves):
    if self.dir.frozen.is_dir():
      with contextlib.suppress(Damaged):
        return _read_meta(self.dir.frozen)["leaves"] == leaves
    return False

  def wait(self):
    """Returns when the save under way is complete; DiskFull when it did not fit."""
    with self._full_disk_is_one_line(self.last_step):
      self.manager.wait_until_finished()
      self.manager.check_for_errors()

  def restore(self, shapes):
    """(TrainState, step, data_state) of the last good step, or None without any.

    shapes: TrainState of ShapeDtypeStruct with shardings: any mesh will do. A damaged
    step is named in the log, renamed to `<step>.damaged` and the one before it is used.
    Raises UserError for a checkpoint of another architecture, or when all are damaged.
    """
    steps = self.dir.steps()
    for step in self.dir.incomplete_steps():
      # An old one was being deleted when the run was killed: nothing is lost with it.
      self._set_aside(step, "it is incomplete", quiet=bool(steps) and step < steps[-1])
    if not steps:
      return None
    for step in reversed(steps):
      try:
        found = self._restore_step(step, shapes)
      except Damaged as damage:
        self._set_aside(step, damage)
        continue
      self.last_step = step
      return found
    raise UserError(
      f"{self.dir.checkpoints}: every checkpoint ({steps}) is damaged; take another"
      " --workdir or put a good copy back"
    )

  def _set_aside(self, step, why, *, quiet=False):
    """Renames a step that is of no use, so that it can be saved again."""
    if not quiet:
      log.error("checkpoint step %d is damaged: %s", step, why)
    if distributed.is_first():
      path = self.dir.step(step)
      aside = path.with_name(path.name + workdir.DAMAGED)
      shutil.rmtree(aside, ignore_errors=True)
      path.rename(aside)
    distributed.barrier("set aside")
    self.manager.reload()

  def _restore_step(self, step, shapes):
    folder = self.dir.step(step)
    with _together(folder):
      meta = _read_meta(folder)
    wanted = _saved_part(shapes)
    leaf_table.check_architecture(folder, meta["leaves"], wanted)
    saved = _read_arrays(folder, wanted, meta["leaves"])
    frozen = read_frozen(self.dir, shapes.frozen)
    return shapes.replace(frozen=frozen, **saved), step, meta["data"]

  def _check_space(self, step, num_bytes):
    free = shutil.disk_usage(self.dir.checkpoints).free
    if distributed.of_first(free < num_bytes + OVERHEAD_BYTES):
      self._drain()
      text = disk_full.message(self.dir.checkpoints, step, num_bytes, free)
      raise disk_full.DiskFull(text)

  def _drain(self):
    """Lets a save that is under way finish, whatever becomes of it."""
    with contextlib.suppress(Exception):
      self.manager.wait_until_finished()
    if distributed.is_first():
      workdir.remove_temporary(self.dir.checkpoints)
    self.manager.reload()  # or it counts the failed step among those to keep

  @contextlib.contextmanager
  def _full_disk_is_one_line(self, step):
    try:
      yield
    except Exception as error:
      if not disk_full.is_full(error):
        raise
      self._drain()
      free = shutil.disk_usage(self.dir.checkpoints).free
      text = disk_full.message(self.dir.checkpoints, step, None, free)
      raise disk_full.DiskFull(text) from error


def load_run(checkpoint, *, sharding=None) -> tuple[RunConfig, dict, pathlib.Path, int]:
  """(RunConfig, params, tokenizer folder, step) of a workdir or a step folder.

  params: the whole nested dict, trained ones from their moving average if there is one.
  Optimizer slots are not read. `sharding` defaults to the first device.
  """
  folder, step = workdir.locate(checkpoint)
  config = read_config(folder)
  sharding = sharding or _first_device()
  try:
    part, picked = _trained(_read_meta(folder.step(step))["leaves"])
    shapes = leaf_table.shapes_of(picked, sharding)
    trainable = _read_arrays(folder.step(step), shapes, picked)[part]
    frozen = read_frozen(folder, None, sharding=sharding)
  except Damaged as damage:
    raise UserError(
      f"checkpoint step {step} is damaged: {damage}; take another step of"
      f" {folder.steps()}"
    ) from damage
  return config, trees.merge(trainable, frozen), folder.tokenizer, step


def read_config(folder) -> RunConfig:
  """RunConfig of a Workdir."""
  try:
    return RunConfig.from_json(folder.config.read_text())
  except FileNotFoundError:
    raise UserError(
      f"{folder.config}: missing; is this the --workdir of a `miras train`?"
    ) from None
  except (ValueError, TypeError, KeyError) as error:
    raise UserError(f"{folder.config}: cannot be read: {error}") from error


def read_frozen(folder, shapes, *, sharding=None) -> dict:
  """Frozen parameters; `shapes` checks architecture and gives shardings."""
  if not folder.frozen.is_dir():
    raise UserError(f"{folder.frozen}: missing; put a copy of that folder back")
  try:
    with _together(folder.frozen):
      leaves = _read_meta(folder.frozen)["leaves"]
    if shapes is None:
      wanted = leaf_table.shapes_of(leaves, sharding)
    else:
      wanted = {"params": shapes}
      leaf_table.check_architecture(folder.frozen, leaves, wanted)
    return _read_arrays(folder.frozen, wanted, leaves)["params"]
  except Damaged as damage:
    raise UserError(
      f"{folder.frozen} is damaged: {damage}; put a copy back"
    ) from damage


def read_table(folder) -> dict[str, list]:
  """{leaf: (shape, dtype, fingerprint)} of a step folder or `frozen/`.

  Raises Damaged when what describes them is not what was saved.
  """
  return _read_meta(folder)["leaves"]


def read_leaf(folder, name) -> np.ndarray:
  """One leaf of a step folder or `frozen/` as a numpy array; Damaged if it changed."""
  leaves = {name: read_table(folder)[name]}
  found = _read_arrays(folder, leaf_table.shapes_of(leaves, _first_device()), leaves)
  return np.asarray(jax.tree.leaves(found)[0])


def load_part(checkpoint, patterns, *, sharding=None) -> tuple[dict, int]:
  """(params, step): only the trained parameters whose path has one of `patterns`.

  Reads nothing else, so that adapters (`r"/lora_[ab]$"`) of a large run load at once.
  Of the moving average if there is one. Raises UserError when nothing matches.
  """
  folder, step = workdir.locate(checkpoint)
  part, picked = _trained(_read_meta(folder.step(step))["leaves"])
  picked = {p: e for p, e in picked.items() if any(re.search(x, p) for x in patterns)}
  if not picked:
    raise UserError(f"{folder.step(step)}: no trained parameter has {list(patterns)}")
  shapes = leaf_table.shapes_of(picked, sharding or _first_device())
  try:
    return _read_arrays(folder.step(step), shapes, picked)[part], step
  except Damaged as damage:
    raise UserError(f"checkpoint step {step} is damaged: {damage}") from damage


def _trained(leaves):
  """("ema" or "trainable", its entries of a table of leaves)."""
  part = "ema" if any(p.startswith("ema/") for p in leaves) else "trainable"
  return part, {p: e for p, e in leaves.items() if p.split("/")[0] == part}


def verify(folder) -> None:
  """Reads a step (or frozen/) on the host, compares fingerprints; raises Damaged."""
  leaves = _read_meta(folder)["leaves"]
  try:
    handler = ocp.PyTreeCheckpointHandler()
    saved = handler.metadata(epath.Path((folder / "state").absolute())).tree
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
    found = _restore(folder, ocp.args.PyTreeRestore(restore_args=args))
  except Exception as error:  # whatever tensorstore makes of damaged bytes
    raise Damaged(f"{folder}/state: {_first_line(error)}") from error
  _compare(folder, leaves, found)


def read_leaves(folder) -> dict[str, list]:
  """{path: [shape, dtype, fingerprint]} of a step; raises Damaged."""
  return _read_meta(folder)["leaves"]


def read_metrics(folder) -> dict[str, float]:
  """{name: number} saved with a step; raises Damaged."""
  return _read_meta(folder)["metrics"]


def _first_device():
  return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _saved_part(state):
  names = ("step", "trainable", "opt_state", "rng", "ema")
  parts = {name: getattr(state, name) for name in names}
  return {name: part for name, part in parts.items() if part is not None}


def _manager(folder, keep):
  # Not `cleanup_tmp_directories`: it runs in the background and would delete frozen/
  # while that is being written.
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep, enable_async_checkpointing=True
  )
  return ocp.CheckpointManager(folder.absolute(), options=options)


def _checkpointer():
  handler = ocp.CompositeCheckpointHandler(
    state=ocp.PyTreeCheckpointHandler(), meta=ocp.JsonCheckpointHandler()
  )
  return ocp.Checkpointer(handler)


def _save_args(tree, meta):
  return ocp.args.Composite(
    state=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta)
  )


def _read_meta(folder):
  try:
    return workdir.unseal(json.loads((folder / "meta" / "metadata").read_text()))
  except (OSError, ValueError, AttributeError) as error:
    raise Damaged(f"{folder}/meta: {error}") from error


def _restore(folder, args):
  # Not through a Checkpointer: it waits for all processes, and one that met damage
  # would leave the others waiting. Once one read has failed, tensorstore prints a
  # traceback for each of the others.
  logs.hush("Event loop is closed")
  return ocp.PyTreeCheckpointHandler().restore(
    epath.Path((folder / "state").absolute()), args=args
  )


def _read_arrays(folder, shapes, leaves):
  """The part of a step's arrays that `shapes` describes, fingerprints compared."""
  restore = ocp.args.PyTreeRestore(
    item=shapes,
    restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
    partial_restore=True,
  )
  with _together(folder):
    found = _restore(folder, restore)
  _compare(folder, leaves, found)
  return found


@contextlib.contextmanager
def _together(folder):
  """What one process cannot read is Damaged for all: none goes on alone."""
  damage = None
  try:
    yield
  except Damaged as error:
    damage = error
  except Exception as error:  # whatever tensorstore makes of damaged bytes
    damage = Damaged(f"{folder}/state: {_first_line(error)}")
    damage.__cause__ = error
  if distributed.any_of(damage is not None):
    raise damage or Damaged(f"{folder}: another process cannot read its part")


def _compare(folder, leaves, found):
  try:
    table = fingerprint.table(found)
  except (TypeError, ValueError, AttributeError) as error:  # a leaf that is no array
    raise Damaged(f"{folder}/state: {_first_line(error)}") from error
  if wrong := fingerprint.first_mismatch(leaves, table):
    raise Damaged(f"{folder}: the values of {wrong[0]!r} are not those that were saved")


def _first_line(error):
  text = str(error).partition("See full TensorStore details")[0]
  return f"{type(error).__name__}: {' '.join(text.split())[:200]}"
