"""Saves and restores the state of a run. Imports orbax, as reading.py does.

With several processes every method is called by all of them; files that are no arrays
are written, renamed and deleted by the first, and what one finds damaged all leave.
"""

import contextlib
import shutil

import orbax.checkpoint as ocp

from miras_jax.checkpoint import (
  bucket,
  disk_full,
  fingerprint,
  leaf_table,
  reading,
  workdir,
)
from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.models import trees
from miras_jax.parallel import distributed
from miras_jax.storage import reach

# Beyond the arrays' bytes: metadata, the JSON beside them, the file system's own.
OVERHEAD_BYTES = 1 << 20


class Checkpoints:
  """Saves in the background, keeps the newest `keep` steps, restores the last good one.

  tokenizer: fingerprint of the run's tokenizer, which every step keeps; a step that was
  made with another one is refused. Used as a context manager: leaving it waits for the
  save under way.
  """

  def __init__(self, folder, *, keep, tokenizer=""):
    self.tokenizer = tokenizer
    self.dir = workdir.Workdir(folder)
    if distributed.is_first():
      _clear(self.dir)
    distributed.barrier("checkpoints")
    make = bucket.Manager if self.dir.is_remote else _manager
    self.manager = make(self.dir.checkpoints, keep)
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
        "tokenizer": self.tokenizer,
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
    self._check_space("frozen", trees.num_bytes(frozen))
    args = _save_args({"params": frozen}, workdir.seal({"leaves": leaves}))
    with self._full_disk_is_one_line("frozen"):
      reach.write(
        self.dir.frozen,
        "was not saved",
        lambda: self._write_frozen(args),
        num_bytes=trees.num_bytes(frozen),
      )

  def _write_frozen(self, args):
    if distributed.is_first() and self.dir.frozen.is_dir():
      workdir.remove(self.dir.frozen)
    distributed.barrier("frozen")
    with _checkpointer() as checkpointer:
      checkpointer.save(reach.full(self.dir.frozen), args=args)

  def _has_frozen(self, leaves):
    if workdir.is_there(self.dir.frozen):
      with contextlib.suppress(reading.Damaged):
        return reading.read_meta(self.dir.frozen)["leaves"] == leaves
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
    # One process looks, all follow: an old step may be half deleted meanwhile.
    steps = distributed.list_of_first(self.dir.steps())
    for step in distributed.list_of_first(self.dir.incomplete_steps()):
      # An old one was being deleted when the run was killed: nothing is lost with it.
      self._set_aside(step, "it is incomplete", quiet=bool(steps) and step < steps[-1])
    if not steps:
      return None
    for step in reversed(steps):
      try:
        found = self._restore_step(step, shapes)
      except reading.Damaged as damage:
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
      if aside.is_dir():
        workdir.remove(aside)
      path.rename(aside)
    distributed.barrier("set aside")
    self.manager.reload()

  def _restore_step(self, step, shapes):
    folder = self.dir.step(step)
    with reading.together(folder):
      meta = reading.read_meta(folder)
    reading.check_tokenizer(self.dir, meta, self.tokenizer)
    wanted = _saved_part(shapes)
    leaf_table.check_architecture(folder, meta["leaves"], wanted)
    saved = reading.read_arrays(folder, wanted, meta["leaves"])
    frozen = reading.read_frozen(self.dir, shapes.frozen)
    return shapes.replace(frozen=frozen, **saved), step, meta["data"]

  def _check_space(self, step, num_bytes):
    if self.dir.is_remote:
      return
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


def _clear(folder):
  """Removes what saves that were killed have left."""
  if not folder.is_remote:
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    workdir.remove_temporary(folder.checkpoints)
    return
  for step in folder.incomplete_steps():  # no rename made them: they are just that
    workdir.remove(folder.step(step))


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
